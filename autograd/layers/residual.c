/* add(main(x), shortcut(x)) (He et al. 2016); an empty shortcut is x itself. */
#include "autograd/layers.h"

static const Field fields[] = {
    LAYER_FIELDS(ResidualConfig),
    FIELD_VARIANTS(ResidualConfig, main, REQUIRED, &layer_kinds, "layers of the main path"),
    FIELD_VARIANTS(ResidualConfig, shortcut, "[]", &layer_kinds,
                   "layers of the shortcut; []: none"),
    FIELD_END,
};

static Module *path(Module *self, const char *name, const List *layers) {
    SequentialConfig *config = arena_new_array(self->model->arena, SequentialConfig, 1);
    config->layers = *layers;
    return module_child(self, &layer_sequential, config, name);
}

static bool build(Module *self, Var *const *in, Error *err) {
    (void)in;
    (void)err;
    const ResidualConfig *c = self->config;
    path(self, "main", &c->main);
    path(self, "shortcut", &c->shortcut);
    module_child(self, &layer_add, arena_new_array(self->model->arena, PlainConfig, 1), "add");
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    Var *main = module_apply_one(self->children[0], t, in[0]);
    Var *shortcut = module_apply_one(self->children[1], t, in[0]);
    return module_apply(self->children[2], t, (Var *[]){main, shortcut});
}

const Layer layer_residual = {
    .kind = {"residual", "main path plus shortcut", sizeof(ResidualConfig), fields},
    .flags = LAYER_IS_BLOCK,
    .input_count = 1,
    .build = build,
    .forward = forward,
};
