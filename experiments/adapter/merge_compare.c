/* Outputs of a merged network beside those of the run that it was merged from. */
#include <stdlib.h>
#include <string.h>

#include "autograd/layers.h"
#include "core/counts.h"
#include "data/datasets/text.h"
#include "experiments/adapter/merge.h"
#include "experiments/language/run_text.h"
#include "experiments/train/evaluate.h"

/* ---- Merged weights in the place of the run's ---- */

/* One that a linear layer reads instead, and what stood there before. */
typedef struct StandIn {
    struct Compare *c;
    Param *weight;
    View read, output;
} StandIn;

typedef struct Compare {
    Experiment *e;
    Merge *m;
    StandIn *items;
    int count;
    float *values; /* of the weight that is read: the largest fits */
    Arena *arena;
    int64_t most; /* outputs at a time */
    int64_t due;  /* outputs that are still wanted */
} Compare;

/* A quantizer, where the weight has one, gets the merged weight. */
static Var *read_merged(void *self, Tape *t, Var *x) {
    const StandIn *s = self;
    const Compare *c = s->c;
    Tensor value = {.dtype = DTYPE_F32, .shape = x->value.shape};
    Error err = {0};
    if (!t->mode.is_dry) {
        value.data = c->values;
        bool ok = merge_values(c->e, c->m->route, s->weight, c->values, &err);
        if (!ok && t->error.code == ERROR_NONE) t->error = err;
    }
    Var *w = tape_constant(t, value);
    w->is_parameter = true;
    return s->read.apply ? s->read.apply(s->read.self, t, w) : w;
}

/* What the layer gives is there before the next layer's weight takes the place of its own. */
static Var *finish(void *self, Tape *t, Var *y) {
    (void)self;
    tape_probe(t, y, NULL);
    return y;
}

static void exchange(const Compare *c, bool is_merged) {
    for (int i = 0; i < c->count; i++) {
        StandIn *s = &c->items[i];
        s->weight->view = is_merged ? (View){read_merged, s} : s->read;
        s->weight->owner->output = is_merged ? (View){finish, s} : s->output;
    }
}

/* All but what rounding alone changes. */
static void find_weights(Compare *c) {
    const Model *model = c->e->model;
    int64_t most = 0;
    c->items = arena_new_array(c->arena, StandIn, model->param_count);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        bool is_weight = p->is_base && p->owner && p->owner->layer == &layer_linear;
        if (!is_weight || !merge_changes(c->e, c->m->route, p)) continue;
        c->items[c->count++] = (StandIn){c, p, p->view, p->owner->output};
        most = count_most(most, tensor_count(&p->value));
    }
    c->values = arena_new_array(c->arena, float, most);
}

/* ---- Both networks ---- */

static bool compare_batch(Compare *c, const Batch *batch, Error *err) {
    TaskStep step = {.e = c->e, .batch = *batch, .wants_outputs = true};
    ArenaMark mark = arena_mark(c->arena);
    TRY(evaluate_batch(&step, evaluate_mode(NETWORK_TRAINED), err));
    int64_t count = var_count(step.output), classes = shape_last(step.output->value.shape);
    float *exact = arena_new_array(c->arena, float, count);
    memcpy(exact, var_f32(step.output), sizeof *exact * (size_t)count);
    exchange(c, true);
    bool ok = evaluate_batch(&step, evaluate_mode(NETWORK_TRAINED), err);
    exchange(c, false);
    int64_t rows = count / classes;
    if (ok) output_change_add(&c->m->change, exact, var_f32(step.output), rows, classes);
    c->due -= rows;
    c->m->rows += batch->count;
    arena_rewind(c->arena, mark);
    return ok;
}

/* Of tokens, the first of a row: a network of them takes rows of any length. */
static Batch first_positions(const Batch *batch, int64_t positions) {
    Batch part = *batch;
    part.count = 1;
    for (int i = 0; i < part.column_count; i++) part.columns[i].shape = SHAPE(positions);
    return part;
}

static bool compare_rows(Compare *c, Error *err) {
    int64_t each = shape_rows(c->e->model->output); /* outputs of a row */
    int64_t rows = count_most(c->most / each, 1);
    for (int64_t i = 0; c->due > 0; i++) {
        Batch batch = evaluate_rows(c->e, LOADER_TEST, i, 0, 0);
        if (!batch.count) break;
        for (int64_t first = 0; first < batch.count && c->due > 0; first += rows) {
            int64_t wanted = count_most(c->due / each, 1);
            int64_t count = count_least(count_least(rows, wanted), batch.count - first);
            Batch part = batch_part(&batch, first, count);
            int64_t positions = count_least(c->most, count_most(c->due, 2));
            if (each > positions) part = first_positions(&part, positions);
            TRY(compare_batch(c, &part, err));
        }
    }
    return c->m->change.outputs > 0 ||
           FAIL(err, ERROR_INPUT, "the test set is empty; give a text to compare with (--text)");
}

/* ---- A text of the user's ---- */

static Batch batch_of(const int32_t *ids, int64_t count, Arena *arena) {
    float *tokens = arena_new_array(arena, float, count);
    float *starts = arena_new_array(arena, float, count);
    int32_t *labels = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++) {
        tokens[i] = (float)ids[i];
        starts[i] = 0;
        labels[i] = i + 1 < count ? ids[i + 1] : -1;
    }
    Shape row = SHAPE(count);
    return (Batch){
        .count = 1,
        .column_count = TEXT_COLUMNS,
        .columns = {[TEXT_TOKENS] = {"tokens", ELEMENT_F32, row},
                    [TEXT_LABELS] = {"labels", ELEMENT_I32, row},
                    [TEXT_STARTS] = {"starts", ELEMENT_F32, row}},
        .data = {[TEXT_TOKENS] = tokens, [TEXT_LABELS] = labels, [TEXT_STARTS] = starts}};
}

static bool compare_windows(Compare *c, const TokenIds *ids, int64_t window, Error *err) {
    for (int64_t first = 0; ids->count - first >= 2 && c->due > 0; first += window) {
        int64_t count = count_least(count_least(window, ids->count - first), count_most(c->due, 2));
        Batch batch = batch_of(ids->items + first, count, c->arena);
        TRY(compare_batch(c, &batch, err));
    }
    return true;
}

static bool compare_text(Compare *c, const char *path, Error *err) {
    enum { WINDOW = 128 };
    TokenIds ids = {.arena = c->arena};
    Span text;
    int64_t context;
    TRY(run_text_check(c->e, "--text", err));
    TRY(run_text_read(path, c->arena, &text, err));
    TRY(run_text_context(c->e, c->arena, &context, err));
    TRY(run_text_encode(c->e, text, &ids, err));
    if (ids.count < 2)
        return FAIL(err, ERROR_INPUT, "%s: the text has %ld tokens; it takes at least 2", path,
                    (long)ids.count);
    return compare_windows(c, &ids, count_least(count_least(context, c->most), WINDOW), err);
}

bool merge_compare(Experiment *e, Merge *m, const char *text, int64_t outputs, Error *err) {
    enum { BYTES = 32 << 20 }; /* of the outputs of one network */
    int64_t classes = shape_last(e->model->output);
    Compare c = {.e = e, .m = m, .arena = arena_new("outputs"), .due = outputs};
    c.most = count_most(BYTES / (classes * (int64_t)sizeof(float)), 2);
    find_weights(&c);
    bool ok = text ? compare_text(&c, text, err) : compare_rows(&c, err);
    output_change_end(&m->change);
    arena_free(c.arena);
    return ok;
}
