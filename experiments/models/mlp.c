/* Multi-layer perceptron: flatten, then hidden layers with ReLU, then the classes. */
#include "experiments/models/models.h"

typedef struct MlpConfig {
    List widths; /* of int64_t */
    double dropout;
} MlpConfig;

static const Field fields[] = {
    FIELD_NUMBERS(MlpConfig, widths, "[512, 512]", FIELD_TYPE_INT, 1, 65536,
                  "hidden units by layer"),
    FIELD_FLOAT(MlpConfig, dropout, "0", 0, 0.95, "share of hidden units dropped in training"),
    FIELD_END,
};

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    (void)err;
    const MlpConfig *c = config;
    LayerList l = {.arena = arena};
    layer_list_plain(&l, &layer_flatten, "flatten");
    for (int i = 0; i < c->widths.count; i++) {
        layer_list_linear(&l, arena_format(arena, "hidden%d", i + 1),
                          ((const int64_t *)c->widths.items)[i]);
        layer_list_plain(&l, &layer_relu, arena_format(arena, "relu%d", i + 1));
        layer_list_dropout(&l, arena_format(arena, "dropout%d", i + 1), c->dropout);
    }
    layer_list_linear(&l, "classes", classes);
    *out = l.list;
    return true;
}

const ModelKind model_mlp = {
    .kind = {"mlp", "multi-layer perceptron", sizeof(MlpConfig), fields},
    .layers = layers,
};
