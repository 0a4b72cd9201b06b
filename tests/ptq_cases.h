/* For tests of post-training quantization: a prepared network with calibration data, and pipelines
 * as a user writes them. */
#ifndef NIBBLE_TESTS_PTQ_CASES_H
#define NIBBLE_TESTS_PTQ_CASES_H

#include "tests/ptq_source.h"

/* A convolution with a batch norm behind it, one without a bias, and a linear layer. */
#define PTQ_NETWORK                                                                                \
    "{kind: sequential, layers: [conv: {name: a, filters: 6}, batch_norm, relu, "                  \
    "conv: {name: b, filters: 4, bias: false}, relu, flatten, linear: {name: c, units: 3}]}"

enum { BATCHES = 3, BATCH_ROWS = 4 };

typedef struct Source {
    Model *model;
    Tensor batches[BATCHES];
    int calls;
} Source;

static Source source;

static inline Var *record(void *context, int64_t index, Tape *t, int64_t *rows) {
    Source *s = context;
    s->calls++;
    *rows = BATCH_ROWS;
    Var *x = tape_constant(t, s->batches[index]);
    return model_forward(s->model, t, x);
}

/* Every norm has statistics and parameters of its own; one gamma is negative. */
static inline void stir_norms(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        bool is_norm = p->owner && p->owner->layer->flags & LAYER_FOLDS;
        if (!is_norm && p->role != PARAM_BIAS) continue;
        RandomKey key = {.seed = 3, .stream = RANDOM_TEST, .step = (uint64_t)i};
        random_fill_uniform(key, -0.5f, 0.5f, tensor_count(&p->value), p->value.data);
        for (int64_t j = 0; is_norm && j < tensor_count(&p->value); j++)
            tensor_f32(&p->value)[j] += p->is_positive || p->role == PARAM_NORM ? 1 : 0;
        if (p->role == PARAM_NORM) tensor_f32(&p->value)[1] *= -1;
    }
}

static inline Ptq *ptq_of_model(const char *network, const char *quant) {
    Qat *qat = prepare(arena_format(arena, "model: %s\nquant: %s\n", network, quant));
    source = (Source){.model = qat->model};
    stir_norms(qat->model);
    for (int i = 0; i < BATCHES; i++)
        source.batches[i] = batch_of(qat->model, BATCH_ROWS, (uint64_t)i + 1);
    PtqData data = {BATCHES, BATCHES * BATCH_ROWS, record, &source};
    return ptq_new(qat, data, arena);
}

static inline Ptq *ptq_of(const char *quant) {
    return ptq_of_model(PTQ_NETWORK, quant);
}

static inline void apply(Ptq *p, const char *text) {
    Error err = {0};
    List methods = ptq_source_methods(text);
    if (!ptq_check(&methods, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < methods.count; i++)
        if (!ptq_apply(p, &methods, i, &err)) fail_msg("%s", err.message);
    if (!ptq_finish(p, &err)) fail_msg("%s", err.message);
}

#endif
