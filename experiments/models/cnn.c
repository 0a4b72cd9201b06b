/* A small convolutional network: blocks of conv 3x3, batch norm, ReLU, max pool 2; then a hidden
 * linear layer and the classes. */
#include "experiments/models/models.h"

typedef struct CnnConfig {
    List widths; /* of int64_t */
    int64_t hidden;
    double dropout;
} CnnConfig;

static const Field fields[] = {
    FIELD_NUMBERS(CnnConfig, widths, "[32, 64]", FIELD_TYPE_INT, 1, 4096, "filters of each block"),
    FIELD_INT(CnnConfig, hidden, "128", 0, 65536, "units of the hidden linear layer; 0: none"),
    FIELD_FLOAT(CnnConfig, dropout, "0", 0, 0.95, "share of features dropped before linear layers"),
    FIELD_END,
};

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    (void)err;
    const CnnConfig *c = config;
    LayerList l = {.arena = arena};
    for (int i = 0; i < c->widths.count; i++) {
        layer_list_conv(&l, arena_format(arena, "conv%d", i + 1),
                        ((const int64_t *)c->widths.items)[i], 3, 1);
        layer_list_norm(&l, arena_format(arena, "norm%d", i + 1));
        layer_list_plain(&l, &layer_relu, arena_format(arena, "relu%d", i + 1));
        layer_list_pool(&l, arena_format(arena, "pool%d", i + 1), 2);
    }
    layer_list_plain(&l, &layer_flatten, "flatten");
    layer_list_dropout(&l, "dropout1", c->dropout);
    if (c->hidden) {
        layer_list_linear(&l, "hidden", c->hidden);
        layer_list_plain(&l, &layer_relu, "relu_hidden");
        layer_list_dropout(&l, "dropout2", c->dropout);
    }
    layer_list_linear(&l, "classes", classes);
    *out = l.list;
    return true;
}

const ModelKind model_cnn = {
    .kind = {"cnn", "small convolutional network", sizeof(CnnConfig), fields},
    .layers = layers,
};
