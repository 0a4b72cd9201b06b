/* down(silu(gate(x)) up(x)): SwiGLU (Shazeer 2020). */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(GatedMlpConfig),
    FIELD_INT(GatedMlpConfig, units, REQUIRED, 1, 1 << 24, "hidden units"),
    FIELD_BOOL(GatedMlpConfig, bias, "false", "biases in the three products"),
    FIELD_END,
};

enum { GATE, UP, DOWN };

static bool build(Module *self, Var *const *in, Error *err) {
    static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};
    const GatedMlpConfig *c = self->config;
    (void)err;
    for (int i = GATE; i <= DOWN; i++) {
        LinearConfig *linear = arena_new_array(self->model->arena, LinearConfig, 1);
        linear->units = i == DOWN ? shape_last(in[0]->value.shape) : c->units;
        linear->bias = c->bias;
        module_child(self, &layer_linear, linear, names[i]);
    }
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    Var *gate = module_apply_one(self->children[GATE], t, in[0]);
    Var *up = module_apply_one(self->children[UP], t, in[0]);
    Var *open = op_silu(t, gate);
    Var *hidden = op_mul(t, open, up);
    return module_apply_one(self->children[DOWN], t, hidden);
}

const Layer layer_gated_mlp = {
    .kind = {"gated_mlp", "SwiGLU: down(silu(gate(x)) up(x))", sizeof(GatedMlpConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
