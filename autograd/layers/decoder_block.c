/* A block of a decoder as in Llama (Touvron et al. 2023): x + attention(norm(x)), then y +
 * mlp(norm(y)). */
#include "autograd/layers.h"

static const Field fields[] = {
    LAYER_FIELDS(AttentionConfig),
    DECODER_FIELDS,
    FIELD_END,
};

enum { NORM, ATTENTION, ADD, MLP_NORM, MLP, MLP_ADD };

static bool build(Module *self, Var *const *in, Error *err) {
    const DecoderConfig *c = self->config;
    Arena *arena = self->model->arena;
    (void)in;
    (void)err;
    NormConfig *norm = arena_new_array(arena, NormConfig, 1);
    norm->epsilon = c->attention.epsilon;
    GatedMlpConfig *mlp = arena_new_array(arena, GatedMlpConfig, 1);
    *mlp = (GatedMlpConfig){.units = c->ff, .bias = c->mlp_bias};
    PlainConfig *plain = arena_new_array(arena, PlainConfig, 1);
    module_child(self, &layer_rms_norm, norm, "input_layernorm");
    module_child(self, &layer_self_attention, &c->attention, "self_attn");
    module_child(self, &layer_add, plain, "add");
    module_child(self, &layer_rms_norm, norm, "post_attention_layernorm");
    module_child(self, &layer_gated_mlp, mlp, "mlp");
    module_child(self, &layer_add, plain, "mlp_add");
    return true;
}

/* x plus the layer `what` of the normalised x. */
static Var *half(Module *self, Tape *t, Var *x, int norm, int what, int add) {
    Var *y = module_apply_one(self->children[norm], t, x);
    y = module_apply_one(self->children[what], t, y);
    return module_apply(self->children[add], t, (Var *[]){y, x});
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    Var *x = half(self, t, in[0], NORM, ATTENTION, ADD);
    return half(self, t, x, MLP_NORM, MLP, MLP_ADD);
}

const Layer layer_decoder_block = {
    .kind = {"decoder_block", "attention and a gated MLP on a residual stream",
             sizeof(DecoderConfig), fields},
    .flags = LAYER_IS_BLOCK,
    .input_count = 1,
    .build = build,
    .forward = forward,
};
