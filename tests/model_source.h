/* For tests of models: a network and its quantization as a user writes them, inputs, and steps of
 * training. */
#ifndef NIBBLE_TESTS_MODEL_SOURCE_H
#define NIBBLE_TESTS_MODEL_SOURCE_H

#include <string.h>

#include "autograd/ops.h"
#include "core/settings/yaml.h"
#include "experiments/models/models.h"
#include "qat/prepare.h"

static Arena *arena; /* of the test program */

typedef struct ModelSource {
    Variant model;
    QatConfig quant;
} ModelSource;

static const Field model_source_fields[] = {
    FIELD_VARIANT(ModelSource, model, REQUIRED, &model_kinds, "the network"),
    FIELD_STRUCT(ModelSource, quant, qat_fields, "quantization"),
    FIELD_END,
};

/* YAML text with `model:` and perhaps `quant:`. */
static inline ModelSource model_source(const char *text) {
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ModelSource source = {0};
    if (!yaml_read_text(text, strlen(text), "test", arena, &root, &faults, &err))
        fail_msg("%s", err.message);
    fields_read(model_source_fields, root, root->mark, &source, arena, &faults);
    if (faults.count) fail_msg("%d: %s", faults.first->mark.line, faults.first->message);
    return source;
}

static inline Model *model_of(const ModelSource *source, Shape input, int64_t classes,
                              uint64_t seed) {
    Model *model = NULL;
    Error err = {0};
    if (!models_build(&source->model, input, classes, seed, arena, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static inline Qat *qat_of(const ModelSource *source, Model *model) {
    Qat *qat = NULL;
    Error err = {0};
    if (!qat_prepare(model, &source->quant, arena, &qat, &err)) fail_msg("%s", err.message);
    return qat;
}

/* The message of a model that is refused. */
static inline const char *model_error(const char *text, Shape input, int64_t classes) {
    ModelSource source = model_source(text);
    Model *model = NULL;
    Error *err = arena_new_array(arena, Error, 1);
    if (models_build(&source.model, input, classes, 1, arena, &model, err))
        fail_msg("was accepted: %s", text);
    return err->message;
}

/* A batch of `count` inputs, normally distributed. */
static inline Tensor batch_of(const Model *model, int64_t count, uint64_t seed) {
    Shape shape = {.rank = model->input.rank + 1, .dim = {count}};
    memcpy(shape.dim + 1, model->input.dim, sizeof(int64_t) * (size_t)model->input.rank);
    Tensor x = tensor_new(arena, DTYPE_F32, shape);
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, 1, shape_count(shape),
                       x.data);
    return x;
}

/* The logits of a batch; the arena's. */
static inline Tensor logits_in(TapeMode way, Model *model, Tape *t, Tensor x) {
    tape_begin(t, way);
    Var *leaf = tape_constant(t, x);
    Var *logits = model_forward(model, t, leaf);
    if (t->error.code != ERROR_NONE) fail_msg("%s", t->error.message);
    Tensor copy = tensor_new(arena, DTYPE_F32, logits->value.shape);
    memcpy(copy.data, var_f32(logits), sizeof(float) * (size_t)var_count(logits));
    return copy;
}

/* Those of an evaluation. */
static inline Tensor logits_of(Model *model, Tape *t, Tensor x) {
    return logits_in(TAPE_EVALUATION, model, t, x);
}

static inline void assert_same_bits(Tensor a, Tensor b) {
    assert_true(shape_equal(a.shape, b.shape));
    assert_memory_equal(a.data, b.data, sizeof(float) * (size_t)tensor_count(&a));
}

/* One step of plain gradient descent on labels 0, 1, 2, ... */
static inline void train_step(Model *model, Tape *t, Tensor x, float lr) {
    int64_t count = x.shape.dim[0];
    int32_t *labels = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++) labels[i] = (int32_t)(i % model->output.dim[1]);
    model_clear_grads(model);
    t->step++;
    tape_begin(t, TAPE_TRAINING);
    Var *leaf = tape_constant(t, x);
    Var *logits = model_forward(model, t, leaf);
    Var *loss = op_cross_entropy(t, logits, labels, 0);
    tape_backward(t, loss, 1);
    if (t->error.code != ERROR_NONE) fail_msg("%s", t->error.message);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (!p->has_grad) continue;
        float *value = tensor_f32(&p->value);
        for (int64_t j = 0; j < tensor_count(&p->value); j++) value[j] -= lr * p->grad[j];
    }
}

#endif
