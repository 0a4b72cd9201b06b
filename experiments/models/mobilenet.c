/* Depthwise separable network (Howard et al. 2017) for small images: a 3x3 stem, then blocks of
 * depthwise 3x3, batch norm, ReLU, pointwise 1x1, batch norm, ReLU. */
#include "experiments/models/models.h"

typedef struct MobilenetConfig {
    int64_t stem;
    List widths, strides; /* of int64_t */
} MobilenetConfig;

static const Field fields[] = {
    FIELD_INT(MobilenetConfig, stem, "32", 1, 4096, "filters of the stem"),
    FIELD_NUMBERS(MobilenetConfig, widths, "[64, 128, 128, 256, 256]", FIELD_TYPE_INT, 1, 4096,
                  "filters of each block"),
    FIELD_NUMBERS(MobilenetConfig, strides, "[1, 2, 1, 2, 1]", FIELD_TYPE_INT, 1, 2,
                  "stride of each block"),
    FIELD_END,
};

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    const MobilenetConfig *c = config;
    if (c->widths.count != c->strides.count)
        return FAIL(err, ERROR_INPUT,
                    "model.widths has %d numbers and model.strides %d; "
                    "they need one per block",
                    c->widths.count, c->strides.count) ||
               error_blame(err, "model.strides");
    LayerList l = {.arena = arena};
    layer_list_conv(&l, "stem", c->stem, 3, 1);
    layer_list_norm(&l, "stem_norm");
    layer_list_plain(&l, &layer_relu, "stem_relu");
    for (int i = 0; i < c->widths.count; i++) {
        const char *block = arena_format(arena, "block%d", i + 1);
        layer_list_depthwise(&l, arena_format(arena, "%s_depthwise", block),
                             ((const int64_t *)c->strides.items)[i]);
        layer_list_norm(&l, arena_format(arena, "%s_norm1", block));
        layer_list_plain(&l, &layer_relu, arena_format(arena, "%s_relu1", block));
        layer_list_conv(&l, arena_format(arena, "%s_pointwise", block),
                        ((const int64_t *)c->widths.items)[i], 1, 1);
        layer_list_norm(&l, arena_format(arena, "%s_norm2", block));
        layer_list_plain(&l, &layer_relu, arena_format(arena, "%s_relu2", block));
    }
    layer_list_plain(&l, &layer_global_pool, "pool");
    layer_list_linear(&l, "classes", classes);
    *out = l.list;
    return true;
}

const ModelKind model_mobilenet = {
    .kind = {"mobilenet", "depthwise separable network", sizeof(MobilenetConfig), fields},
    .layers = layers,
};
