/* Layers one after the other. */
#include "autograd/layers.h"

static const Field fields[] = {
    LAYER_FIELDS(SequentialConfig),
    FIELD_VARIANTS(SequentialConfig, layers, REQUIRED, &layer_kinds, "the layers, first to last"),
    FIELD_END,
};

static bool build(Module *self, Var *const *in, Error *err) {
    (void)in;
    const List *layers = &((const SequentialConfig *)self->config)->layers;
    for (int i = 0; i < layers->count; i++) {
        const Layer *layer = (const Layer *)((const Variant *)layers->items)[i].kind;
        if (layer->input_count != 1)
            return FAIL(err, ERROR_INPUT, "'%s' takes %d inputs; write a residual or branches",
                        layer->kind.name, layer->input_count);
    }
    module_children(self, layers);
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    Var *x = in[0];
    for (int i = 0; i < self->child_count; i++) x = module_apply_one(self->children[i], t, x);
    return x;
}

const Layer layer_sequential = {
    .kind = {"sequential", "layers one after the other", sizeof(SequentialConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
