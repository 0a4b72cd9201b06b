/* For tests of PTQ methods: networks written in YAML, calibration batches, pipelines, and what
 * methods said. */
#ifndef NIBBLE_TESTS_PTQ_SOURCE_H
#define NIBBLE_TESTS_PTQ_SOURCE_H

#include <math.h>
#include <stdio.h>

#include "autograd/layers.h"
#include "core/log.h"
#include "qat/ptq.h"
#include "tests/prepare_cases.h"

enum { PTQ_BATCHES = 3, PTQ_BATCH_ROWS = 8 };

typedef struct PtqSource {
    Model *model;
    Tensor batches[PTQ_BATCHES];
} PtqSource;

static inline Var *ptq_source_record(void *context, int64_t index, Tape *t, int64_t *rows) {
    PtqSource *s = context;
    *rows = PTQ_BATCH_ROWS;
    Var *x = tape_constant(t, s->batches[index]);
    return model_forward(s->model, t, x);
}

static inline Ptq *ptq_source_of(Qat *qat) {
    PtqSource *source = arena_new_array(arena, PtqSource, 1);
    source->model = qat->model;
    for (int i = 0; i < PTQ_BATCHES; i++)
        source->batches[i] = batch_of(qat->model, PTQ_BATCH_ROWS, (uint64_t)i + 1);
    PtqData data = {PTQ_BATCHES, PTQ_BATCHES * PTQ_BATCH_ROWS, ptq_source_record, source};
    return ptq_new(qat, data, arena);
}

/* A sequence of layers of images [8, 8, 2], its parameters as `stir` leaves them. */
static inline Ptq *ptq_source(const char *layers, const char *quant, void (*stir)(Model *)) {
    Qat *qat = prepare(
        arena_format(arena, "model: {kind: sequential, layers: [%s]}\nquant: %s\n", layers, quant));
    stir(qat->model);
    return ptq_source_of(qat);
}

static inline List ptq_source_methods(const char *text) {
    typedef struct Methods {
        List list;
    } Methods;
    static const Field fields[] = {FIELD_VARIANTS(Methods, list, "[]", &ptq_kinds, "methods"),
                                   FIELD_END};
    Faults faults = {.arena = arena};
    Node *root = NULL;
    Error err = {0};
    Methods methods = {0};
    text = arena_format(arena, "list: %s\n", text);
    if (!yaml_read_text(text, strlen(text), "test", arena, &root, &faults, &err))
        fail_msg("%s", err.message);
    fields_read(fields, root, root->mark, &methods, arena, &faults);
    if (faults.count) fail_msg("%s", faults.first->message);
    return methods.list;
}

/* What was logged meanwhile, a line each. */
static char ptq_said[4096];

static inline void ptq_keep_message(void *context, LogLevel level, const char *message) {
    (void)context;
    size_t used = strlen(ptq_said);
    if (level == LOG_WARNING) snprintf(ptq_said + used, sizeof ptq_said - used, "%s\n", message);
}

static inline void ptq_source_apply(Ptq *p, const char *text) {
    Error err = {0};
    List methods = ptq_source_methods(text);
    ptq_said[0] = 0;
    LogTarget outer = log_set_sink(ptq_keep_message, NULL);
    bool ok = ptq_check(&methods, &err);
    for (int i = 0; ok && i < methods.count; i++) ok = ptq_apply(p, &methods, i, &err);
    ok = ok && ptq_finish(p, &err);
    log_set_sink(outer.sink, outer.context);
    if (!ok) fail_msg("%s", err.message);
}

/* The last note of this name about the layer (NULL: the whole). */
static inline const PtqNote *ptq_source_note(const Ptq *p, const char *layer, const char *name) {
    for (int i = p->note_count - 1; i >= 0; i--) {
        const PtqNote *note = &p->notes[i];
        bool is_layer = layer ? note->layer && !strcmp(note->layer, layer) : !note->layer;
        if (is_layer && !strcmp(note->name, name)) return note;
    }
    return NULL;
}

/* ---- A layer whose weight is no product's ---- */

static inline bool gain_build(Module *self, Var *const *in, Error *err) {
    (void)err;
    Shape shape = SHAPE(shape_last(in[0]->value.shape));
    return module_param(self, "weight", shape, PARAM_WEIGHT, (Init){INIT_ONE, 0});
}

static inline Var *gain_forward(Module *self, Tape *t, Var *const *in) {
    Var *weight = param_read(module_find_param(self, "weight"), t);
    return op_mul(t, in[0], weight);
}

__attribute__((unused)) static const Layer layer_gain = {
    .kind = {"gain", "x w", sizeof(PlainConfig), NULL},
    .input_count = 1,
    .build = gain_build,
    .forward = gain_forward};

#endif
