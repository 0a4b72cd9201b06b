/* A row of numbers for each token. Weight [rows, units], deviation 0.02 (GPT-2). */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(EmbeddingConfig),
    FIELD_INT(EmbeddingConfig, rows, REQUIRED, 1, 1 << 24, "tokens that there are"),
    FIELD_INT(EmbeddingConfig, units, REQUIRED, 1, 1 << 24, "numbers for each"),
    FIELD_END,
};

static bool build(Module *self, Var *const *in, Error *err) {
    const EmbeddingConfig *c = self->config;
    char text[SHAPE_TEXT_BYTES];
    if (in[0]->value.shape.rank != 2)
        return FAIL(err, ERROR_INPUT, "embedding needs tokens [n, length], not %s",
                    shape_text(in[0]->value.shape, text));
    module_param(self, "weight", SHAPE(c->rows, c->units), PARAM_TABLE, (Init){INIT_NORMAL, 0.02f});
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    Var *table = param_read(self->params[0], t);
    return op_embedding(t, table, in[0]);
}

const Layer layer_embedding = {
    .kind = {"embedding", "a row of numbers for each token", sizeof(EmbeddingConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
