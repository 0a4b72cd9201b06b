/* Logits of the tokens, x W^T without a bias; or, where the record is scored, the mean loss of its
 * labels, which never has all logits at once. Weight [units, features], deviation 0.02 (GPT-2), or
 * the table of the network's embedding. */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(HeadConfig),
    FIELD_INT(HeadConfig, units, "0", 0, 1 << 24, "logits; 0: one for each row of the embedding"),
    FIELD_BOOL(HeadConfig, tied, "false", "multiply with the embedding's table"),
    FIELD_END,
};

static bool find_embedding(void *context, Module *module) {
    Param **table = context;
    if (module->layer == &layer_embedding && module->param_count) *table = module->params[0];
    return !*table;
}

static bool build(Module *self, Var *const *in, Error *err) {
    const HeadConfig *c = self->config;
    Param **weight = self->state = arena_new_array(self->model->arena, Param *, 1), *table = NULL;
    int64_t features = shape_last(in[0]->value.shape), units = c->units;
    model_visit(self->model, find_embedding, &table);
    if (!table && (c->tied || !units))
        return FAIL(err, ERROR_INPUT, "no embedding stands before this head; give units, untied");
    if (!units) units = table->value.shape.dim[0];
    Shape shape = SHAPE(units, features);
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (c->tied && !shape_equal(table->value.shape, shape))
        return FAIL(err, ERROR_INPUT, "a tied head needs a table %s, but the embedding's is %s",
                    shape_text(shape, a), shape_text(table->value.shape, b));
    Init init = {INIT_NORMAL, 0.02f};
    *weight = c->tied ? table : module_param(self, "weight", shape, PARAM_WEIGHT, init);
    return true;
}

Param *head_weight(const Module *head) {
    Param *const *weight = head->state;
    return *weight;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const TokenContext *tokens = model_tokens(self->model, t);
    Var *w = param_read(head_weight(self), t);
    if (tokens->is_scored) return op_linear_cross_entropy(t, in[0], w, tokens->labels);
    Var *x = in[0];
    if (tokens->only_last) x = op_slice(t, x, 1, x->value.shape.dim[1] - 1, 1);
    return op_linear(t, x, w, NULL);
}

const Layer layer_head = {
    .kind = {"head", "logits of the tokens", sizeof(HeadConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
