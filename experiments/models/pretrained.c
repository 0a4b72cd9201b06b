/* The network of a model's directory: its layers out of config.json, its weights out of
 * safetensors, by the names that both have. */
#include "experiments/models/pretrained.h"

#include <string.h>

#include "core/floats.h"
#include "data/bitsandbytes.h"
#include "experiments/models/base.h"

typedef struct PretrainedConfig {
    const char *path;
    Variant base;      /* kind NULL: f32 masters, which learn */
    const char *cache; /* NULL: none */
} PretrainedConfig;

static const Field fields[] = {
    FIELD_STRING(PretrainedConfig, path, REQUIRED,
                 "directory with config.json and safetensors, as Hugging Face lays it out",
                 .may_change = true, .is_path = true),
    FIELD_VARIANT(PretrainedConfig, base, "null", &base_kinds,
                  "how weights are kept that stay as they are, under an adapter; null: in f32, and "
                  "all learn"),
    FIELD_STRING(PretrainedConfig, cache, "", "file in which a base that was quantized is kept",
                 .is_path = true, .may_change = true),
    FIELD_END,
};

/* ---- Weights ---- */

typedef struct Files {
    const ModelDirectory *directory;
    SafeTensors st;
    Base *base; /* NULL: into the masters that the model has */
} Files;

/* Of weights in 4 bits: what stands beside the codes of a weight. */
static bool is_beside(const Model *model, const SafeTensors *st, const char *name) {
    for (int i = 0; i < model->param_count; i++) {
        const char *weight = model->params[i]->name;
        size_t length = strlen(weight);
        if (!strncmp(name, weight, length) && name[length] == '.')
            return bitsandbytes_has(st, weight);
    }
    return false;
}

/* Known to be there in some files, and of no use. */
static bool is_spare(const Model *model, const char *name) {
    static const char buffer[] = ".rotary_emb.inv_freq";
    size_t length = strlen(name), end = strlen(buffer);
    if (length > end && !strcmp(name + length - end, buffer)) return true;
    return !strcmp(name, "lm_head.weight") && model_find_module(model, "lm_head");
}

static bool check_spare(const Files *f, const Model *model, Error *err) {
    for (int i = 0; i < f->st.count; i++) {
        const char *name = f->st.items[i].name;
        if (model_find_param(model, name) || is_spare(model, name)) continue;
        if (is_beside(model, &f->st, name)) continue;
        return FAIL(err, ERROR_INPUT,
                    "%s: there is a tensor %s, and in the network of config.json none",
                    f->directory->path, name);
    }
    return true;
}

static bool find_tensor(const Files *f, const Param *p, const SafeTensor **out, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    const SafeTensor *tensor = *out = safetensors_find(&f->st, p->name);
    if (!tensor)
        return FAIL(err, ERROR_INPUT, "%s: no file has %s, which the network of config.json needs",
                    f->directory->path, p->name);
    if (bitsandbytes_has(&f->st, p->name)) return true; /* it is looked at with what is beside it */
    const char *file = f->st.files[tensor->file];
    if (!shape_equal(tensor->shape, p->value.shape))
        return FAIL(err, ERROR_INPUT, "%s: %s is %s, and in the network of config.json %s", file,
                    p->name, shape_text(tensor->shape, a), shape_text(p->value.shape, b));
    if (tensor->dtype == DTYPE_COUNT)
        return FAIL(err, ERROR_INPUT, "%s: %s holds %s; F32, F16 and BF16 are read", file, p->name,
                    tensor->type);
    return true;
}

static bool check_finite(const Files *f, const SafeTensor *tensor, const Tensor *value,
                         Error *err) {
    enum { SOME = 4096 };
    float x[SOME];
    int64_t count = shape_count(tensor->shape);
    for (int64_t first = 0; first < count; first += SOME) {
        int64_t some = count - first < SOME ? count - first : SOME;
        tensor_decode_part(value, first, some, x);
        int64_t unfit = floats_find_unfit(x, some, -FLT_MAX);
        if (unfit >= 0)
            return FAIL(err, ERROR_INPUT, "%s: %s: number %ld is %g", f->st.files[tensor->file],
                        tensor->name, (long)(first + unfit), (double)x[unfit]);
    }
    return true;
}

static bool fill(const Files *f, const SafeTensor *tensor, const Tensor *value, Error *err) {
    int64_t count = shape_count(tensor->shape);
    if (value->dtype != DTYPE_F32)
        TRY(safetensors_read_bytes(&f->st, tensor, value->data, err));
    else
        TRY(safetensors_read(&f->st, tensor, 0, count, tensor_f32(value), err));
    return check_finite(f, tensor, value, err);
}

/* What no linear layer multiplies with stays numbers: tables and the head as the file has them,
 * norms and biases, which are small, in f32. */
static bool keep(const Files *f, const SafeTensor *tensor, Param *p, Arena *arena, Error *err) {
    bool is_large = p->role == PARAM_WEIGHT || p->role == PARAM_TABLE;
    Tensor value;
    if (p->role == PARAM_WEIGHT && p->owner->layer == &layer_linear) {
        TRY(base_weight(f->base, p->name, p->value.shape, arena, &value, err));
    } else {
        value = tensor_new(arena, is_large ? tensor->dtype : DTYPE_F32, tensor->shape);
        TRY(fill(f, tensor, &value, err));
    }
    param_store(p, value);
    return true;
}

/* A head in the files beside a tied table: transformers ties only what is equal. */
static bool check_tied(const Files *f, const Model *model, Error *err) {
    enum { SOME = 4096 };
    const SafeTensor *head = safetensors_find(&f->st, "lm_head.weight");
    const SafeTensor *table = safetensors_find(&f->st, "model.embed_tokens.weight");
    if (!head || !table || model_find_param(model, head->name)) return true;
    bool is_same = head->dtype != DTYPE_COUNT && table->dtype != DTYPE_COUNT &&
                   shape_equal(head->shape, table->shape);
    int64_t count = is_same ? shape_count(head->shape) : 0;
    for (int64_t first = 0; is_same && first < count; first += SOME) {
        float a[SOME], b[SOME];
        int64_t some = count - first < SOME ? count - first : SOME;
        TRY(safetensors_read(&f->st, head, first, some, a, err) &&
            safetensors_read(&f->st, table, first, some, b, err));
        is_same = !memcmp(a, b, sizeof *a * (size_t)some);
    }
    return is_same || FAIL(err, ERROR_INPUT,
                           "%s: lm_head.weight is not the table model.embed_tokens.weight, and "
                           "tie_word_embeddings of config.json says that it is",
                           f->st.files[head->file]);
}

static bool load_open(const Files *f, Model *model, Error *err) {
    TRY(check_spare(f, model, err) && check_tied(f, model, err));
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        const SafeTensor *tensor;
        TRY(find_tensor(f, p, &tensor, err));
        TRY(f->base ? keep(f, tensor, p, model->arena, err) : fill(f, tensor, &p->value, err));
    }
    return true;
}

static bool load_base(Files *f, const Variant *base, const char *cache, Model *model, Arena *arena,
                      Error *err) {
    TRY(base_open(base, cache, &f->st, arena, &f->base, err));
    bool ok = load_open(f, model, err);
    ok = base_close(f->base, ok, err) && ok;
    model->is_sketch = false;
    return ok;
}

/* What is stored in few bits by others: bitsandbytes' is read, and does not learn. */
static bool check_stored(const ModelDirectory *d, bool learns, Error *err) {
    if (!d->stored || (!learns && !strcmp(d->stored, "bitsandbytes"))) return true;
    return FAIL(err, ERROR_INPUT,
                "%s/config.json: the weights are quantized (quantization_config.quant_method "
                "'%s'), %s",
                d->path, d->stored,
                learns ? "and would have to learn; give model.base and an adapter, or take the "
                         "model that they were made from"
                       : "which is not read; take the model that they were made from");
}

/* `base` NULL: into the masters of the model; else it is a sketch. */
static bool load_weights(const ModelDirectory *d, const Variant *base, const char *cache,
                         Model *model, Error *err) {
    TRY(check_stored(d, !base, err));
    Arena *arena = arena_new("safetensors");
    Files f = {.directory = d};
    bool ok = safetensors_open(d->path, arena, &f.st, err) &&
              (base ? load_base(&f, base, cache, model, arena, err) : load_open(&f, model, err));
    safetensors_close(&f.st);
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

static bool is_stored(const void *config) {
    return ((const PretrainedConfig *)config)->base.kind;
}

static bool check(const void *config, const Model *sketch, Error *err) {
    ModelDirectory d;
    Arena *arena = arena_new("safetensors");
    Files f = {.directory = &d};
    bool ok = model_directory_read(((const PretrainedConfig *)config)->path, arena, &d, err) &&
              check_stored(&d, true, err) && safetensors_open(d.path, arena, &f.st, err);
    for (int i = 0; ok && i < sketch->param_count; i++) {
        const SafeTensor *tensor;
        ok = find_tensor(&f, sketch->params[i], &tensor, err);
    }
    safetensors_close(&f.st);
    arena_free(arena);
    return ok || error_blame(err, "model.path");
}

static bool load(const void *config, Model *model, Error *err) {
    const PretrainedConfig *c = config;
    const Variant *base = is_stored(config) ? &c->base : NULL;
    ModelDirectory d;
    if (model_directory_read(c->path, model->arena, &d, err) &&
        load_weights(&d, base, c->cache, model, err))
        return true;
    return error_blame(err, "model.path");
}

static const char *directory(const void *config) {
    return ((const PretrainedConfig *)config)->path;
}

bool pretrained_open(const char *path, Arena *arena, Pretrained *out, Error *err) {
    const Variant as_it_is = {0};
    *out = (Pretrained){0};
    TRY(model_directory_read(path, arena, &out->directory, err));
    List list = transformer_layers(&out->directory.network, arena);
    if (!model_sketch(&list, SHAPE(1), arena, &out->model, err)) {
        error_prefix(err, "%s/config.json", path);
        return false;
    }
    return load_weights(&out->directory, &as_it_is, NULL, out->model, err);
}

const ModelKind model_pretrained = {
    .kind = {"pretrained", "language model out of a directory of Hugging Face",
             sizeof(PretrainedConfig), fields},
    .layers = layers,
    .is_stored = is_stored,
    .check = check,
    .load = load,
    .directory = directory,
};
