/* nibble data show CONFIG N: what a network will see of a row of text, before anything is trained.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/print.h"
#include "data/datasets/text.h"
#include "experiments/commands/commands.h"
#include "experiments/settings/config.h"

typedef struct Shown {
    const Vocabulary *vocabulary;
    Arena *arena;
    const float *tokens, *starts;
    const int32_t *labels;
    int64_t length;
} Shown;

/* Position i is read, and was to be foretold if the one before says so. */
static bool is_learned(const Shown *s, int64_t i, int64_t start) {
    return i > start && s->labels[i - 1] >= 0;
}

/* Lines of a text behind what they are; control characters as C writes them. */
static void print_part(const char *what, Span text, Arena *arena) {
    for (int64_t at = 0, bytes; at < text.bytes || at == 0; at += bytes) {
        const char *line = text.text + at;
        const char *end = text.bytes ? memchr(line, '\n', (size_t)(text.bytes - at)) : NULL;
        bytes = end ? end - line + 1 : text.bytes - at;
        print_out("%-8s| %s\n", at ? "" : what, print_line(line, (size_t)bytes, arena));
        if (!bytes) break;
    }
}

static bool print_run(const Shown *s, bool learned, const int32_t *ids, int64_t count, Error *err) {
    Span text;
    TRY(vocabulary_decode(s->vocabulary, ids, count, s->arena, &text, err));
    bool has_end = !s->vocabulary->tokenizer && ids[count - 1] == VOCABULARY_BYTES_END;
    if (has_end) text.text = arena_format(s->arena, "%.*s<end>", (int)text.bytes, text.text);
    if (has_end) text.bytes += 5;
    print_part(learned ? "learned" : "masked", text, s->arena);
    return true;
}

/* The document at [start, end); its last token is a label alone. */
static bool print_document(const Shown *s, int64_t start, int64_t end, Error *err) {
    int32_t *ids = arena_new_array(s->arena, int32_t, end - start + 1);
    int64_t count = end - start, first = 0;
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)s->tokens[start + i];
    if (s->labels[end - 1] >= 0) ids[count++] = s->labels[end - 1];
    for (int64_t i = 1; i <= count; i++) {
        bool learned = is_learned(s, start + first, start);
        if (i < count && is_learned(s, start + i, start) == learned) continue;
        TRY(print_run(s, learned, ids + first, i - first, err));
        first = i;
    }
    return true;
}

/* Where a position sees but itself and nothing is learned, there is no document. */
static bool is_empty(const Shown *s, int64_t i) {
    bool is_alone = (int64_t)s->starts[i] == i;
    return is_alone && s->labels[i] < 0 && (i + 1 == s->length || (int64_t)s->starts[i + 1] != i);
}

static bool print_row(const Shown *s, Error *err) {
    for (int64_t start = 0, number = 1; start < s->length; number++) {
        int64_t end = start + 1, learned = s->labels[start] >= 0;
        if (is_empty(s, start)) {
            print_out("-- positions %ld to %ld are empty\n", (long)start, (long)s->length - 1);
            return true;
        }
        for (; end < s->length && (int64_t)s->starts[end] == start; end++)
            learned += s->labels[end] >= 0;
        print_out("-- document %ld: positions %ld to %ld, %ld tokens learned\n", (long)number,
                  (long)start, (long)end - 1, (long)learned);
        TRY(print_document(s, start, end, err));
        start = end;
    }
    return true;
}

static bool show(const ExperimentConfig *config, int64_t row, Arena *arena, Loader **loader,
                 Error *err) {
    if (config->data.kind != &dataset_text.kind)
        return FAIL(err, ERROR_INPUT, "data show: the data are of kind '%s', and no text",
                    config->data.kind->name);
    Vocabulary vocabulary = {0};
    TRY(loader_open(config->data, (uint64_t)config->seed, arena, loader, err));
    int64_t rows = loader_rows(*loader, LOADER_CALIBRATION), batch = loader_config(*loader)->batch;
    if (row >= rows)
        return FAIL(err, ERROR_INPUT, "data show: there is no training row %ld: they are 0 to %ld",
                    (long)row, (long)rows - 1);
    Batch all = loader_batch(*loader, LOADER_CALIBRATION, 0, row / batch);
    Batch one = batch_part(&all, row % batch, 1);
    Tensor tokens = batch_f32(&one, "tokens"), starts = batch_f32(&one, "starts");
    Shown shown = {.vocabulary = &vocabulary,
                   .arena = arena,
                   .tokens = tensor_f32(&tokens),
                   .starts = tensor_f32(&starts),
                   .labels = batch_i32(&one, "labels"),
                   .length = tokens.shape.dim[1]};
    print_out("training row %ld of %ld, %ld tokens\n", (long)row, (long)rows, (long)shown.length);
    bool ok = text_vocabulary_open(config->data.config, arena, &vocabulary, err) &&
              print_row(&shown, err);
    vocabulary_close(&vocabulary);
    return ok;
}

static bool read_row(const char *text, int64_t *row, Error *err) {
    char *end;
    *row = strtoll(text, &end, 10);
    return (end != text && !*end && *row >= 0) ||
           FAIL(err, ERROR_INPUT, "data show: '%s' is no number of a row (they count from 0)",
                text);
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("data");
    ExperimentConfig config;
    Loader *loader = NULL;
    int64_t row = 0;
    bool ok = !strcmp(a->items[0], "show") ||
              FAIL(err, ERROR_INPUT, "data: '%s' is none of: show", a->items[0]);
    ok = ok && read_row(a->items[2], &row, err) &&
         config_read(a->items[1], a->count - 3, a->items + 3, arena, &config, err);
    if (ok && !show(&config, row, arena, &loader, err)) {
        config_place(&config, err);
        ok = false;
    }
    loader_close(loader);
    arena_free(arena);
    return ok;
}

const Command command_data = {
    .name = "data",
    .synopsis = "data show CONFIG N [key=value ...]",
    .help =
        "what is seen of training row N (from 0) of text: documents, and what is learned of them",
    .min_items = 3,
    .max_items = -1,
    .run = run,
};
