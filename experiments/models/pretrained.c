/* The network of a model's directory: its layers out of config.json, its weights out of
 * safetensors, by the names that both have. */
#include "experiments/models/pretrained.h"

#include <string.h>

#include "data/safetensors.h"

typedef struct PretrainedConfig {
    const char *path;
} PretrainedConfig;

static const Field fields[] = {
    FIELD_STRING(PretrainedConfig, path, REQUIRED,
                 "directory with config.json and safetensors, as Hugging Face lays it out",
                 .is_path = true),
    FIELD_END,
};

/* ---- Weights ---- */

/* Known to be there in some files, and of no use. */
static bool is_spare(const Model *model, const char *name) {
    size_t length = strlen(name);
    static const char buffer[] = ".rotary_emb.inv_freq";
    if (length > strlen(buffer) && !strcmp(name + length - strlen(buffer), buffer)) return true;
    return !strcmp(name, "lm_head.weight") && model_find_module(model, "lm_head");
}

static bool check_spare(const Model *model, const SafeTensors *st, const char *path, Error *err) {
    for (int i = 0; i < st->count; i++) {
        const char *name = st->items[i].name;
        if (!model_find_param(model, name) && !is_spare(model, name))
            return FAIL(err, ERROR_INPUT,
                        "%s: there is a tensor %s, and in the network of config.json none", path,
                        name);
    }
    return true;
}

static bool find_tensor(const SafeTensors *st, const Param *p, const char *path,
                        const SafeTensor **out, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    const SafeTensor *tensor = *out = safetensors_find(st, p->name);
    if (!tensor)
        return FAIL(err, ERROR_INPUT, "%s: no file has %s, which the network of config.json needs",
                    path, p->name);
    const char *file = st->files[tensor->file];
    if (!shape_equal(tensor->shape, p->value.shape))
        return FAIL(err, ERROR_INPUT, "%s: %s is %s, and in the network of config.json %s", file,
                    p->name, shape_text(tensor->shape, a), shape_text(p->value.shape, b));
    if (tensor->dtype == DTYPE_COUNT)
        return FAIL(err, ERROR_INPUT, "%s: %s holds %s; F32, F16 and BF16 are read", file, p->name,
                    tensor->type);
    return true;
}

/* To the master that a training updates. */
static bool fill(const SafeTensors *st, const SafeTensor *tensor, Param *p, Error *err) {
    return safetensors_read(st, tensor, 0, shape_count(tensor->shape), tensor_f32(&p->value), err);
}

/* As it is; norms and biases, which are small, in f32. */
static bool keep(const SafeTensors *st, const SafeTensor *tensor, Param *p, Arena *arena,
                 Error *err) {
    bool is_large = p->role == PARAM_WEIGHT || p->role == PARAM_TABLE;
    Tensor value = tensor_new(arena, is_large ? tensor->dtype : DTYPE_F32, tensor->shape);
    param_store(p, value);
    if (value.dtype == DTYPE_F32) return fill(st, tensor, p, err);
    return safetensors_read_bytes(st, tensor, value.data, err);
}

/* `is_trained`: into the memory that the model has; else it is a sketch. */
static bool load_open(const SafeTensors *st, const char *path, Model *model, bool is_trained,
                      Error *err) {
    TRY(check_spare(model, st, path, err));
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        const SafeTensor *tensor;
        TRY(find_tensor(st, p, path, &tensor, err));
        TRY(is_trained ? fill(st, tensor, p, err) : keep(st, tensor, p, model->arena, err));
    }
    return true;
}

static bool load_weights(const ModelDirectory *d, Model *model, bool is_trained, Error *err) {
    if (d->stored)
        return FAIL(err, ERROR_INPUT,
                    "%s/config.json: the weights are quantized (quantization_config.quant_method "
                    "'%s'), which is not read; take the model that they were made from",
                    d->path, d->stored);
    Arena *arena = arena_new("safetensors");
    SafeTensors st;
    bool ok = safetensors_open(d->path, arena, &st, err) &&
              load_open(&st, d->path, model, is_trained, err);
    safetensors_close(&st);
    arena_free(arena);
    return ok;
}

/* ---- The row ---- */

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    const PretrainedConfig *c = config;
    ModelDirectory d;
    (void)classes; /* a vocabulary may have tokens that no text gives */
    if (!model_directory_read(c->path, arena, &d, err)) return error_blame(err, "model.path");
    *out = transformer_layers(&d.network, arena);
    return true;
}

static bool load(const void *config, Model *model, Error *err) {
    const PretrainedConfig *c = config;
    ModelDirectory d;
    if (model_directory_read(c->path, model->arena, &d, err) && load_weights(&d, model, true, err))
        return true;
    return error_blame(err, "model.path");
}

bool pretrained_open(const char *path, Arena *arena, Pretrained *out, Error *err) {
    *out = (Pretrained){0};
    TRY(model_directory_read(path, arena, &out->directory, err));
    List list = transformer_layers(&out->directory.network, arena);
    if (!model_sketch(&list, SHAPE(1), arena, &out->model, err)) {
        error_prefix(err, "%s/config.json", path);
        return false;
    }
    TRY(load_weights(&out->directory, out->model, false, err));
    out->model->is_sketch = false;
    return true;
}

const ModelKind model_pretrained = {
    .kind = {"pretrained", "language model out of a directory of Hugging Face",
             sizeof(PretrainedConfig), fields},
    .layers = layers,
    .load = load,
};
