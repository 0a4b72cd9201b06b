#include "experiments/commands/eval_perplexity.h"

#include <stdio.h>

#include "core/file.h"
#include "data/text/tokenizer.h"
#include "experiments/language/perplexity.h"
#include "experiments/models/pretrained.h"

static bool tokenize_file(Tokenizer *tokenizer, const char *path, TokenIds *out, Error *err) {
    size_t bytes;
    const char *file = file_resolve(path, out->arena);
    const char *text = file_read(file, TOKENIZER_TEXT_MAX, out->arena, &bytes, err);
    if (!text) return false;
    if (tokenizer_encode(tokenizer, (Span){text, (int64_t)bytes}, true, out, err)) return true;
    error_prefix(err, "%s", path);
    return false;
}

static bool tokenizer_check(const Tokenizer *tokenizer, const ModelDirectory *d, Error *err) {
    int64_t size = tokenizer_size(tokenizer), known = d->network.vocabulary;
    return size <= known || FAIL(err, ERROR_INPUT,
                                 "%s/tokenizer.json has ids up to %ld, but the network of "
                                 "config.json knows %ld tokens: it is another model's",
                                 d->path, (long)size - 1, (long)known);
}

static bool read_ids(const ModelDirectory *d, const char *text, TokenIds *out, Error *err) {
    Tokenizer *tokenizer = NULL;
    const char *path = arena_format(out->arena, "%s/tokenizer.json", d->path);
    bool ok = tokenizer_open(file_resolve(path, out->arena), out->arena, &tokenizer, err) &&
              tokenizer_check(tokenizer, d, err) && tokenize_file(tokenizer, text, out, err);
    tokenizer_close(tokenizer);
    return ok;
}

static Json *json_of(const Perplexity *p, const PerplexityOptions *o, int64_t tokens) {
    Json *json = json_new();
    json_set_number(json, "perplexity", p->perplexity);
    json_set_number(json, "loss", p->loss);
    json_set_int(json, "tokens", tokens);
    json_set_int(json, "scored", p->scored);
    json_set_int(json, "window", o->window);
    json_set_int(json, "stride", o->stride ? o->stride : o->window);
    json_set_number(json, "seconds", p->seconds);
    json_set_number(json, "tokens_per_second", (double)p->seen / p->seconds);
    return json;
}

static bool measure(const EvalPerplexityOptions *options, Arena *arena, Json **out, Error *err) {
    TokenIds ids = {.arena = arena};
    Pretrained network;
    Perplexity result;
    ModelDirectory directory;
    TRY(model_directory_read(options->directory, arena, &directory, err));
    PerplexityOptions o = {
        .window = directory.context, .stride = options->stride, .mode = TAPE_EVALUATION};
    TRY(perplexity_check(&o, err) && read_ids(&directory, options->text, &ids, err));
    TRY(pretrained_open(options->directory, arena, &network, err));
    Tape *t = tape_new(arena);
    bool ok = perplexity_measure(network.model, t, &o, ids.items, ids.count, &result, err);
    tape_free(t);
    if (ok) *out = json_of(&result, &o, ids.count);
    if (!ok) error_prefix(err, "%s", options->text);
    return ok;
}

bool eval_perplexity(const EvalPerplexityOptions *options, Json **out, Error *err) {
    Arena *arena = arena_new("model and text");
    *out = NULL;
    bool ok = measure(options, arena, out, err);
    arena_free(arena);
    return ok;
}

void eval_perplexity_print(const Json *json) {
    printf("perplexity %.4f, loss %.4f nats, of %.0f of %.0f tokens\n",
           json_number(json, "perplexity"), json_number(json, "loss"), json_number(json, "scored"),
           json_number(json, "tokens"));
    printf("windows of %.0f tokens, one every %.0f; %.0f tokens/s\n", json_number(json, "window"),
           json_number(json, "stride"), json_number(json, "tokens_per_second"));
}
