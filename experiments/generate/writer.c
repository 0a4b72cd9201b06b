#include "experiments/generate/writer.h"

#include <stdio.h>
#include <string.h>

#include "core/counts.h"
#include "core/file.h"
#include "core/log.h"
#include "core/print.h"
#include "data/datasets/text.h"
#include "data/text/unicode.h"
#include "experiments/models/pretrained.h"
#include "experiments/train/run.h"

/* ---- Opening ---- */

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
    const char *directory = e->base_directory;
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

bool writer_open(const char *path, Arena *arena, Writer *out, Error *err) {
    *out = (Writer){.arena = arena, .read = {.arena = arena}, .fresh = {.arena = arena}};
    TRY(open_model(out, path, err));
    out->generator = generator_open(out->model, out->context, arena);
    return true;
}

void writer_close(Writer *w) {
    generator_close(&w->generator);
    vocabulary_close(&w->vocabulary);
    experiment_close(&w->experiment);
}

/* ---- Reading ---- */

bool writer_encode(const Writer *w, Span text, bool is_framed, TokenIds *out, Error *err) {
    int64_t fault = unicode_find_fault(text);
    if (fault >= 0)
        return FAIL(err, ERROR_INPUT, "byte %ld (0x%02x) is not UTF-8; convert the text first",
                    (long)fault, (unsigned)(unsigned char)text.text[fault]);
    TRY(vocabulary_encode(&w->vocabulary, text, is_framed, out, err));
    if (!out->count) return FAIL(err, ERROR_INPUT, "the text has no tokens; write at least a word");
    if (out->count < w->context) return true;
    return FAIL(err, ERROR_INPUT,
                "the text has %ld tokens, and the model's context is %ld; shorten it",
                (long)out->count, (long)w->context);
}

static bool feed(Writer *w, const int32_t *ids, int64_t count, Error *err) {
    TRY(generator_feed(&w->generator, ids, count, err));
    for (int64_t i = 0; i < count; i++) token_ids_add(&w->read, ids[i]);
    return true;
}

/* The last token is read always: its logits are wanted. */
bool writer_read(Writer *w, const TokenIds *ids, Error *err) {
    int64_t same = 0, most = count_least(ids->count - 1, w->read.count);
    while (same < most && w->read.items[same] == ids->items[same]) same++;
    generator_rewind(&w->generator, same);
    w->read.count = same;
    w->fresh.count = 0;
    w->shown = 0;
    return feed(w, ids->items + same, ids->count - same, err);
}

/* ---- Writing ---- */

bool writer_text(const Writer *w, bool with_special, Arena *arena, Span *out, Error *err) {
    const Vocabulary *v = &w->vocabulary;
    int32_t *ids = arena_new_array(arena, int32_t, w->fresh.count);
    int64_t count = 0;
    for (int64_t i = 0; i < w->fresh.count; i++)
        if (vocabulary_has(v, w->fresh.items[i])) ids[count++] = w->fresh.items[i];
    if (!v->tokenizer) return vocabulary_decode(v, ids, count, arena, out, err);
    return tokenizer_decode(v->tokenizer, ids, count, with_special, arena, out, err);
}

/* Rows of the table that only fill it up are never learned, and seldom drawn. */
static void warn_unknown(Writer *w, int32_t id) {
    if (w->has_warned || vocabulary_has(&w->vocabulary, id)) return;
    w->has_warned = true;
    log_warning("the model wrote token %ld, and %s has none with that id; such tokens have no text",
                (long)id, w->vocabulary.name);
}

static bool is_end(const Writer *w, int32_t id) {
    const ModelDirectory *d = &w->directory;
    for (int i = 0; i < d->end_count; i++)
        if (d->ends[i] == id) return true;
    for (int i = 0; i < w->end_count; i++)
        if (w->ends[i] == id) return true;
    return !d->path && w->vocabulary.end == id;
}

/* Bytes that later tokens may still change: a letter of which not all bytes are there is shown as
 * U+FFFD. */
static int64_t settled_bytes(Span text) {
    static const char unknown[] = "\xef\xbf\xbd";
    while (text.bytes >= 3 && !memcmp(text.text + text.bytes - 3, unknown, 3)) text.bytes -= 3;
    return text.bytes;
}

/* What is new of the text. */
static bool show(Writer *w, bool is_last, Error *err) {
    Arena *arena = arena_new("text");
    Span text;
    bool ok = writer_text(w, false, arena, &text, err);
    int64_t bytes = !ok ? 0 : is_last ? text.bytes : settled_bytes(text);
    if (bytes > w->shown) {
        print_text(stdout, text.text + w->shown, (size_t)(bytes - w->shown));
        fflush(stdout);
        w->shown = bytes;
    }
    arena_free(arena);
    return ok;
}

bool writer_write(Writer *w, int64_t tokens, const Sampling *sampling, Error *err) {
    while (w->fresh.count < tokens) {
        int32_t id;
        TRY(generator_choose(&w->generator, sampling, &id, err));
        token_ids_add(&w->fresh, id);
        warn_unknown(w, id);
        if (!w->is_silent) TRY(show(w, false, err));
        if (is_end(w, id) || w->fresh.count == tokens) break;
        if (!generator_room(&w->generator)) {
            log_warning("the model's context of %ld tokens is full", (long)w->context);
            break;
        }
        TRY(feed(w, &id, 1, err));
    }
    return w->is_silent || show(w, true, err);
}
