/* A merged network as files: Hugging Face's layout, in f16. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "data/safetensors.h"
#include "experiments/adapter/merge.h"
#include "experiments/report/text.h"

/* ---- Weights ---- */

static const MergeLayer *layer_of(const Adapter *a, const Merge *m, const Param *p) {
    for (int i = 0; i < a->site_count; i++)
        if (a->sites[i].weight == p) return &m->layers[i];
    return NULL;
}

/* What no adapter stands on: as it is, or for route f16 as it was before it was stored. */
static bool base_values(const Experiment *e, const Merge *m, const Param *p, float *values,
                        Error *err) {
    const AdapterSource *source = &e->base_source;
    bool is_stored = dtype_codec(p->value.dtype)->stores != CODE_NUMBER;
    if (m->route == MERGE_F16 && is_stored && source->read)
        return source->read(source->context, p, values, err);
    tensor_decode(&p->value, values);
    return true;
}

static bool base_tensor(const Experiment *e, const Merge *m, const Param *p, Arena *arena,
                        Tensor *out, Error *err) {
    int64_t count = tensor_count(&p->value);
    *out = tensor_new(arena, DTYPE_F16, p->value.shape);
    Arena *scratch = arena_new("weight");
    float *values = arena_new_array(scratch, float, count);
    bool ok = base_values(e, m, p, values, err);
    for (int64_t i = 0; ok && i < count; i++)
        if (!isfinite(dtype_round(DTYPE_F16, values[i])))
            ok = FAIL(err, ERROR_NUMERIC, "%s: element %ld is beyond f16's 65,504", p->name,
                      (long)i);
    if (ok) dtype_encode(DTYPE_F16, values, count, NULL, out->data);
    arena_free(scratch);
    return ok;
}

static bool write_weights(const Experiment *e, const Merge *m, const char *directory, Arena *arena,
                          Error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    const Model *model = e->model;
    SafeTensorData *tensors = arena_new_array(arena, SafeTensorData, model->param_count);
    int count = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (!p->is_base) continue;
        const MergeLayer *layer = layer_of(e->adapter, m, p);
        SafeTensorData *to = &tensors[count++];
        to->name = p->name;
        if (layer)
            to->tensor = layer->weight;
        else
            TRY(base_tensor(e, m, p, arena, &to->tensor, err));
    }
    const char *path = arena_format(arena, "%s/model.safetensors", directory);
    return safetensors_write(path, tensors, count, metadata, err);
}

/* ---- What lies beside them ---- */

static const char *const copied[] = {"tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "tokenizer.model",
                                     "chat_template.jinja",
                                     "vocab.json",
                                     "merges.txt",
                                     "generation_config.json"};

static bool copy(const char *from, const char *directory, const char *name, Arena *arena,
                 Error *err) {
    enum { BYTES_MAX = 256 << 20 };
    size_t bytes;
    const char *path = arena_format(arena, "%s/%s", from, name);
    if (access(path, F_OK)) return true;
    const char *text = file_read(file_resolve(path, arena), BYTES_MAX, arena, &bytes, err);
    return text && text_write(arena_format(arena, "%s/%s", directory, name), text, err);
}

/* Weights are f16 and not stored otherwise, whatever they were. */
static bool write_config(const char *from, const char *directory, Arena *arena, Error *err) {
    static const char name[] = "config.json";
    const char *path = file_resolve(arena_format(arena, "%s/%s", from, name), arena);
    Json *json = json_read_file(path, err);
    if (!json) return false;
    bool is_old = json_type_at(json, "torch_dtype") != JSON_ABSENT;
    json_set_text(json, is_old ? "torch_dtype" : "dtype", "float16");
    if (json_type_at(json, "quantization_config") != JSON_ABSENT)
        json_set_text(json, "quantization_config", NULL);
    bool ok = text_write_json(json, arena_format(arena, "%s/%s", directory, name), err);
    json_free(json);
    return ok;
}

static bool write_beside(const char *from, const char *directory, Arena *arena, Error *err) {
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        TRY(copy(from, directory, copied[i], arena, err));
    return write_config(from, directory, arena, err);
}

bool merge_write(const Experiment *e, const Merge *m, const char *directory, Error *err) {
    Arena *arena = arena_new("merged network");
    bool ok = write_weights(e, m, directory, arena, err) &&
              (!e->base_directory || write_beside(e->base_directory, directory, arena, err));
    arena_free(arena);
    return ok;
}
