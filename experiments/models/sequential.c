/* A network written out layer by layer. */
#include "experiments/models/models.h"

typedef struct Config {
    List layers; /* of Variant */
} Config;

static const Field fields[] = {
    FIELD_VARIANTS(Config, layers, REQUIRED, &layer_kinds, "the layers, first to last"),
    FIELD_END,
};

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    (void)classes;
    (void)arena;
    const Config *c = config;
    if (!c->layers.count)
        return FAIL(err, ERROR_INPUT, "model.layers is empty") || error_blame(err, "model.layers");
    *out = c->layers;
    return true;
}

const ModelKind model_sequential = {
    .kind = {"sequential", "layers written out one by one", sizeof(Config), fields},
    .layers = layers,
};
