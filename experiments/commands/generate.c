/* nibble generate RUN|MODEL_DIR --prompt TEXT: what a language model writes behind it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "data/datasets/text.h"
#include "data/text/unicode.h"
#include "experiments/commands/commands.h"
#include "experiments/generate/generator.h"
#include "experiments/models/pretrained.h"
#include "experiments/train/experiment.h"
#include "experiments/train/run.h"

enum { PROMPT, TOKENS, GREEDY, TEMPERATURE, TOP_P, SEED, AS_JSON };

/* What a prompt and its continuation need. */
typedef struct Writer {
    Arena *arena;
    Experiment experiment; /* of a run; or empty */
    Model *model;
    Vocabulary vocabulary;
    ModelDirectory directory; /* of the run's pretrained model too; without a path: none */
    int64_t context;          /* positions */
    Generator generator;
    Sampling sampling;
    int64_t tokens; /* at most so many new ones */
    bool as_json;
    TokenIds prompt, fresh;
    int64_t shown; /* bytes of the new text that are on the terminal */
} Writer;

/* ---- Options ---- */

static bool parse_number(const char *option, const char *text, double fallback, double least,
                         double most, double *out, Error *err) {
    char *end;
    *out = fallback;
    if (!text) return true;
    *out = strtod(text, &end);
    if (*text && !*end && *out >= least && *out <= most) return true;
    return FAIL(err, ERROR_INPUT, "%s must be a number from %g to %g, not '%s'", option, least,
                most, text);
}

static bool parse_count(const char *option, const char *text, int64_t fallback, int64_t least,
                        int64_t *out, Error *err) {
    const int64_t most = (int64_t)1 << 53;
    char *end;
    *out = fallback;
    if (!text) return true;
    *out = strtoll(text, &end, 10);
    if (*text && !*end && *out >= least && *out <= most) return true;
    return FAIL(err, ERROR_INPUT, "%s must be a whole number from %ld on, not '%s'", option,
                (long)least, text);
}

static bool parse_options(Writer *w, const Arguments *a, Error *err) {
    int64_t seed;
    if (!a->values[PROMPT])
        return FAIL(err, ERROR_INPUT, "say what to begin with: --prompt \"...\"");
    TRY(parse_count("--tokens", a->values[TOKENS], 128, 1, &w->tokens, err));
    TRY(parse_count("--seed", a->values[SEED], 1, 0, &seed, err));
    TRY(parse_number("--temperature", a->values[TEMPERATURE], 0.8, 0, 100, &w->sampling.temperature,
                     err));
    TRY(parse_number("--top-p", a->values[TOP_P], 0.95, 0, 1, &w->sampling.top_p, err));
    w->sampling.seed = (uint64_t)seed;
    if (a->values[GREEDY]) w->sampling.temperature = 0;
    w->as_json = a->values[AS_JSON] != NULL;
    return true;
}

/* ---- The model and the prompt ---- */

static bool open_directory(Writer *w, const char *path, Error *err) {
    Pretrained pretrained;
    TRY(vocabulary_open(path, NULL, w->arena, &w->vocabulary, err));
    TRY(pretrained_open(path, w->arena, &pretrained, err));
    w->model = pretrained.model;
    w->directory = pretrained.directory;
    w->context = w->directory.context;
    return true;
}

/* The context is the one that it was made for, or that it was trained with. */
static bool open_run(Writer *w, const char *path, Error *err) {
    Experiment *e = &w->experiment;
    TRY(experiment_open_run(path, &(RunOptions){0}, w->arena, e, err));
    if (e->config.data.kind != &dataset_text.kind)
        return FAIL(err, ERROR_INPUT, "%s: this network reads no text", path);
    const TextConfig *text = e->config.data.config;
    const char *directory = pretrained_path(&e->config.model);
    TRY(text_vocabulary_open(text, w->arena, &w->vocabulary, err));
    if (directory) TRY(model_directory_read(directory, w->arena, &w->directory, err));
    w->model = e->model;
    w->context = directory ? w->directory.context : text->length;
    return true;
}

static bool open_model(Writer *w, const char *path, Error *err) {
    FileState run = file_find(run_path(w->arena, path, RUN_CONFIG), err);
    if (model_directory_is_one(path)) return open_directory(w, path, err);
    if (run == FILE_REGULAR) return open_run(w, path, err);
    return run == FILE_ABSENT && FAIL(err, ERROR_INPUT,
                                      "%s: there is neither a run's config.yaml nor a model's "
                                      "config.json",
                                      path);
}

static bool read_prompt(Writer *w, const char *text, Error *err) {
    Span span = {text, (int64_t)strlen(text)};
    int64_t fault = unicode_find_fault(span);
    if (fault >= 0)
        return FAIL(err, ERROR_INPUT,
                    "--prompt: byte %ld (0x%02x) is not UTF-8; convert the text first", (long)fault,
                    (unsigned)(unsigned char)text[fault]);
    if (!vocabulary_encode(&w->vocabulary, span, true, &w->prompt, err)) {
        error_prefix(err, "--prompt");
        return false;
    }
    if (!w->prompt.count)
        return FAIL(err, ERROR_INPUT, "--prompt: the text has no tokens; write at least a word");
    if (w->prompt.count < w->context) return true;
    return FAIL(err, ERROR_INPUT,
                "--prompt: the text has %ld tokens, and the model's context is %ld; shorten it",
                (long)w->prompt.count, (long)w->context);
}

/* ---- Writing ---- */

static bool is_end(const Writer *w, int32_t id) {
    const ModelDirectory *d = &w->directory;
    for (int i = 0; i < d->end_count; i++)
        if (d->ends[i] == id) return true;
    return !d->path && w->vocabulary.end == id;
}

/* Bytes that later tokens may still change: a letter of which not all bytes are there is shown as
 * U+FFFD. */
static int64_t settled_bytes(Span text) {
    static const char unknown[] = "\xef\xbf\xbd";
    while (text.bytes >= 3 && !memcmp(text.text + text.bytes - 3, unknown, 3)) text.bytes -= 3;
    return text.bytes;
}

/* At a terminal without special tokens. */
static bool decode(Writer *w, Arena *arena, Span *out, Error *err) {
    const Vocabulary *v = &w->vocabulary;
    if (!v->tokenizer || w->as_json)
        return vocabulary_decode(v, w->fresh.items, w->fresh.count, arena, out, err);
    return tokenizer_decode(v->tokenizer, w->fresh.items, w->fresh.count, false, arena, out, err);
}

/* What is new of the text, to the terminal. */
static bool show(Writer *w, bool is_last, Error *err) {
    Arena *arena = arena_new("text");
    Span text;
    bool ok = decode(w, arena, &text, err);
    int64_t bytes = !ok ? 0 : is_last ? text.bytes : settled_bytes(text);
    if (bytes > w->shown) {
        fwrite(text.text + w->shown, 1, (size_t)(bytes - w->shown), stdout);
        fflush(stdout);
        w->shown = bytes;
    }
    arena_free(arena);
    return ok;
}

static bool write_text(Writer *w, Error *err) {
    Generator *g = &w->generator;
    TRY(generator_feed(g, w->prompt.items, w->prompt.count, err));
    while (w->fresh.count < w->tokens) {
        int32_t id;
        TRY(generator_choose(g, &w->sampling, &id, err));
        token_ids_add(&w->fresh, id);
        if (!w->as_json) TRY(show(w, false, err));
        if (is_end(w, id) || w->fresh.count == w->tokens) break;
        if (!generator_room(g)) {
            log_warning("the model's context of %ld tokens is full", (long)w->context);
            break;
        }
        TRY(generator_feed(g, &id, 1, err));
    }
    return w->as_json || show(w, true, err);
}

static void set_ids(Json *json, const char *name, const TokenIds *ids, Arena *arena) {
    int64_t *wide = arena_new_array(arena, int64_t, ids->count);
    for (int64_t i = 0; i < ids->count; i++) wide[i] = ids->items[i];
    json_set_ints(json, name, wide, (int)ids->count);
}

static bool print_json(Writer *w, Error *err) {
    Span text;
    TRY(decode(w, w->arena, &text, err));
    Json *json = json_new();
    set_ids(json, "prompt_ids", &w->prompt, w->arena);
    set_ids(json, "new_ids", &w->fresh, w->arena);
    json_set_text(json, "text", arena_format(w->arena, "%.*s", (int)text.bytes, text.text));
    printf("%s\n", json_line(json, w->arena));
    json_free(json);
    return true;
}

static bool run_open(Writer *w, const Arguments *a, Error *err) {
    TRY(parse_options(w, a, err));
    TRY(open_model(w, a->items[0], err));
    TRY(read_prompt(w, a->values[PROMPT], err));
    int64_t context = w->context;
    if (w->tokens < context - w->prompt.count) context = w->prompt.count + w->tokens;
    w->generator = generator_open(w->model, context, w->arena);
    bool ok = write_text(w, err);
    if (!w->as_json && w->fresh.count) putchar('\n');
    return ok && (!w->as_json || print_json(w, err));
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("model");
    Writer w = {.arena = arena, .prompt = {.arena = arena}, .fresh = {.arena = arena}};
    bool ok = run_open(&w, a, err);
    generator_close(&w.generator);
    vocabulary_close(&w.vocabulary);
    experiment_close(&w.experiment);
    arena_free(arena);
    return ok;
}

const Command command_generate = {
    .name = "generate",
    .synopsis = "generate RUN|MODEL_DIR --prompt TEXT [--tokens N] [--greedy] [--json]",
    .help = "what a language model writes behind a text",
    .min_items = 1,
    .max_items = 1,
    .options = {[PROMPT] = {"--prompt", "TEXT", "what it begins with"},
                [TOKENS] = {"--tokens", "N",
                            "at most so many new tokens (default: 128); fewer where one ends the "
                            "text"},
                [GREEDY] = {"--greedy", NULL, "always the likeliest token"},
                [TEMPERATURE] = {"--temperature", "T",
                                 "logits are divided by it (default: 0.8); 0: greedy"},
                [TOP_P] = {"--top-p", "P",
                           "only the likeliest tokens, which have this probability together "
                           "(default: 0.95)"},
                [SEED] = {"--seed", "N", "what is drawn depends on it alone (default: 1)"},
                [AS_JSON] = {"--json", NULL, "one object: prompt_ids, new_ids, text"}},
    .is_parallel = true,
    .run = run,
};
