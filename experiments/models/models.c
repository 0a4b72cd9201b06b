#include "experiments/models/models.h"

#include <string.h>

static const Kind *const kinds[] = {
#define MODEL(name) &model_##name.kind,
#include "experiments/models/models.def"
#undef MODEL
};
const KindTable model_kinds = {"model", kinds, sizeof kinds / sizeof *kinds};

bool models_check(const Variant *choice, Arena *arena, Error *err) {
    enum { ANY_CLASSES = 10 }; /* no model's settings depend on their number */
    List layers;
    return ((const ModelKind *)choice->kind)
        ->layers(choice->config, ANY_CLASSES, arena, &layers, err);
}

/* Of a network of tokens: it may know tokens that the data's tokenizer does not give. */
static bool check_vocabulary(int64_t vocabulary, int64_t classes, Error *err) {
    if (vocabulary >= classes) return true;
    return FAIL(err, ERROR_INPUT,
                "model: the network has %ld tokens, but the data's tokenizer %ld; take the "
                "tokenizer that belongs to it",
                (long)vocabulary, (long)classes) ||
           error_blame(err, "model");
}

static bool check_output(const Model *model, int64_t classes, Error *err) {
    Shape logits = model->output;
    char text[SHAPE_TEXT_BYTES];
    if (logits.rank == model->input.rank + 2)
        return check_vocabulary(shape_last(logits), classes, err);
    if (logits.rank == 2 && logits.dim[1] == classes) return true;
    return FAIL(err, ERROR_INPUT,
                "model: the last layer gives %s for one sample, but the data have %ld classes; "
                "end with a linear layer of %ld units",
                shape_text(logits, text), (long)classes, (long)classes) ||
           error_blame(err, "model");
}

static bool blame_model(const Variant *choice, Error *err) {
    error_prefix(err, "model '%s'", choice->kind->name);
    return error_blame(err, "model");
}

typedef bool MakeModel(const List *layers, Shape input, uint64_t seed, Arena *arena, Model **out,
                       Error *err);

static bool check_weights(const ModelKind *row, const void *config, const List *layers, Shape input,
                          Error *err) {
    bool is_stored = row->is_stored && row->is_stored(config);
    if (!row->check || is_stored) return true;
    Arena *arena = arena_new("sketch");
    Model *sketch;
    bool fits = model_sketch(layers, input, arena, &sketch, err) && row->check(config, sketch, err);
    arena_free(arena);
    return fits;
}

static bool build(const ModelKind *row, const void *config, const List *layers, Shape input,
                  uint64_t seed, MakeModel *make, Arena *arena, Model **out, Error *err) {
    if (!row->is_stored || !row->is_stored(config))
        return make(layers, input, seed, arena, out, err);
    TRY(model_sketch(layers, input, arena, out, err));
    (*out)->seed = seed; /* of what is added to it */
    return true;
}

static bool build_and_load(const Variant *choice, Shape input, int64_t classes, uint64_t seed,
                           MakeModel *make, Arena *arena, Model **out, Error *err) {
    const ModelKind *row = (const ModelKind *)choice->kind;
    List layers;
    TRY(row->layers(choice->config, classes, arena, &layers, err));
    TRY(check_weights(row, choice->config, &layers, input, err));
    if (!build(row, choice->config, &layers, input, seed, make, arena, out, err))
        return blame_model(choice, err);
    TRY(check_output(*out, classes, err));
    return !row->load || row->load(choice->config, *out, err);
}

bool models_build(const Variant *choice, Shape input, int64_t classes, uint64_t seed, Arena *arena,
                  Model **out, Error *err) {
    return build_and_load(choice, input, classes, seed, model_new, arena, out, err);
}

bool models_build_frozen(const Variant *choice, Shape input, int64_t classes, uint64_t seed,
                         Arena *arena, Model **out, Error *err) {
    return build_and_load(choice, input, classes, seed, model_new_frozen, arena, out, err);
}

bool models_count(const Variant *choice, Shape input, int64_t classes, Arena *arena,
                  int64_t *parameters, Error *err) {
    const ModelKind *row = (const ModelKind *)choice->kind;
    List layers;
    Model *sketch;
    TRY(row->layers(choice->config, classes, arena, &layers, err));
    if (!model_sketch(&layers, input, arena, &sketch, err)) return blame_model(choice, err);
    *parameters = 0;
    for (int i = 0; i < sketch->param_count; i++)
        *parameters += tensor_count(&sketch->params[i]->value);
    return true;
}

void layer_list_add(LayerList *l, const Layer *layer, void *config) {
    if (l->list.count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 16;
        Variant *wider = arena_new_array(l->arena, Variant, l->capacity);
        if (l->list.count) memcpy(wider, l->list.items, sizeof *wider * (size_t)l->list.count);
        l->list.items = wider;
    }
    ((Variant *)l->list.items)[l->list.count++] = (Variant){&layer->kind, config};
}

void layer_list_plain(LayerList *l, const Layer *layer, const char *name) {
    PlainConfig *config = kind_defaults(&layer->kind, l->arena);
    config->layer.name = name;
    layer_list_add(l, layer, config);
}

void layer_list_conv(LayerList *l, const char *name, int64_t filters, int64_t kernel,
                     int64_t stride) {
    ConvConfig *config = kind_defaults(&layer_conv.kind, l->arena);
    config->layer.name = name;
    config->filters = filters;
    config->kernel = kernel;
    config->stride = stride;
    config->bias = false; /* a batch norm follows */
    layer_list_add(l, &layer_conv, config);
}

void layer_list_depthwise(LayerList *l, const char *name, int64_t stride) {
    layer_list_conv(l, name, 0, 3, stride);
    ((ConvConfig *)((Variant *)l->list.items)[l->list.count - 1].config)->depthwise = true;
}

void layer_list_norm(LayerList *l, const char *name) {
    NormConfig *config = kind_defaults(&layer_batch_norm.kind, l->arena);
    config->layer.name = name;
    layer_list_add(l, &layer_batch_norm, config);
}

void layer_list_pool(LayerList *l, const char *name, int64_t kernel) {
    PoolConfig *config = kind_defaults(&layer_max_pool.kind, l->arena);
    config->layer.name = name;
    config->kernel = kernel;
    layer_list_add(l, &layer_max_pool, config);
}

void layer_list_linear(LayerList *l, const char *name, int64_t units) {
    LinearConfig *config = kind_defaults(&layer_linear.kind, l->arena);
    config->layer.name = name;
    config->units = units;
    layer_list_add(l, &layer_linear, config);
}

void layer_list_dropout(LayerList *l, const char *name, double probability) {
    if (probability <= 0) return;
    DropoutConfig *config = kind_defaults(&layer_dropout.kind, l->arena);
    config->layer.name = name;
    config->probability = probability;
    layer_list_add(l, &layer_dropout, config);
}
