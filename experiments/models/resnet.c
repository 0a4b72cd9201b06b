/* Residual network for small images (He et al. 2016, section 4.2): depth 6 n + 2, three stages of n
 * basic blocks; shortcuts that change shape are 1x1 convolutions. */
#include "experiments/models/models.h"

typedef struct ResnetConfig {
    int64_t depth;
    List widths; /* of int64_t: filters of the three stages */
} ResnetConfig;

static const Field fields[] = {
    FIELD_INT(ResnetConfig, depth, "20", 8, 1202, "layers with weights: 8, 20, 32, ... (6 n + 2)"),
    FIELD_NUMBERS(ResnetConfig, widths, "[16, 32, 64]", FIELD_TYPE_INT, 1, 4096,
                  "filters of the three stages"),
    FIELD_END,
};

static List main_path(Arena *arena, int64_t width, int64_t stride) {
    LayerList l = {.arena = arena};
    layer_list_conv(&l, "conv1", width, 3, stride);
    layer_list_norm(&l, "norm1");
    layer_list_plain(&l, &layer_relu, "relu1");
    layer_list_conv(&l, "conv2", width, 3, 1);
    layer_list_norm(&l, "norm2");
    return l.list;
}

static List projection(Arena *arena, int64_t width, int64_t stride) {
    LayerList l = {.arena = arena};
    layer_list_conv(&l, "conv", width, 1, stride);
    layer_list_norm(&l, "norm");
    return l.list;
}

static void add_block(LayerList *l, const char *name, int64_t width, int64_t stride,
                      bool projects) {
    ResidualConfig *block = kind_defaults(&layer_residual.kind, l->arena);
    block->layer.name = name;
    block->main = main_path(l->arena, width, stride);
    if (projects) block->shortcut = projection(l->arena, width, stride);
    layer_list_add(l, &layer_residual, block);
    layer_list_plain(l, &layer_relu, arena_format(l->arena, "%s_relu", name));
}

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    const ResnetConfig *c = config;
    if ((c->depth - 2) % 6)
        return FAIL(err, ERROR_INPUT,
                    "model.depth must be 6 n + 2 (8, 14, 20, 26, 32, ...), not %ld",
                    (long)c->depth) ||
               error_blame(err, "model.depth");
    if (c->widths.count != 3)
        return FAIL(err, ERROR_INPUT, "model.widths needs three numbers, one per stage, not %d",
                    c->widths.count) ||
               error_blame(err, "model.widths");
    const int64_t *widths = c->widths.items;
    LayerList l = {.arena = arena};
    layer_list_conv(&l, "stem", widths[0], 3, 1);
    layer_list_norm(&l, "stem_norm");
    layer_list_plain(&l, &layer_relu, "stem_relu");
    for (int stage = 0; stage < 3; stage++) {
        for (int block = 0; block < (c->depth - 2) / 6; block++) {
            bool is_down = stage > 0 && block == 0;
            add_block(&l, arena_format(arena, "stage%d_block%d", stage + 1, block + 1),
                      widths[stage], is_down ? 2 : 1, is_down);
        }
    }
    layer_list_plain(&l, &layer_global_pool, "pool");
    layer_list_linear(&l, "classes", classes);
    *out = l.list;
    return true;
}

const ModelKind model_resnet = {
    .kind = {"resnet", "residual network for small images", sizeof(ResnetConfig), fields},
    .layers = layers,
};
