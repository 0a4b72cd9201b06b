/* A merged network as files: Hugging Face's layout, in f16. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "data/safetensors.h"
#include "experiments/adapter/merge.h"
#include "experiments/report/text.h"

/* ---- Weights ---- */

enum { PART = 1 << 16 }; /* numbers that are written at a time */

/* Whole where more than rounding is to be done, else part by part. */
static bool write_values(SafeTensorsWriter *w, const Param *p, const float *values, Error *err) {
    int64_t count = tensor_count(&p->value);
    Arena *arena = arena_new("part");
    float *part = arena_new_array(arena, float, PART);
    uint16_t *halves = arena_new_array(arena, uint16_t, PART);
    bool ok = true;
    for (int64_t first = 0; ok && first < count; first += PART) {
        int64_t some = count - first < PART ? count - first : PART;
        if (values)
            memcpy(part, values + first, sizeof *part * (size_t)some);
        else
            tensor_decode_part(&p->value, first, some, part);
        for (int64_t i = 0; ok && i < some; i++)
            if (!isfinite(dtype_round(DTYPE_F16, part[i])))
                ok = FAIL(err, ERROR_NUMERIC, "%s: element %ld is beyond f16's 65,504", p->name,
                          (long)(first + i));
        dtype_encode(DTYPE_F16, part, some, NULL, halves);
        ok = ok && safetensors_write_part(w, halves, sizeof *halves * (size_t)some, err);
    }
    arena_free(arena);
    return ok;
}

static bool write_param(SafeTensorsWriter *w, const Experiment *e, MergeRoute route, const Param *p,
                        Error *err) {
    if (!merge_changes(e, route, p)) return write_values(w, p, NULL, err);
    Arena *scratch = arena_new("weight");
    float *values = arena_new_array(scratch, float, tensor_count(&p->value));
    bool ok = merge_values(e, route, p, values, err) && write_values(w, p, values, err);
    arena_free(scratch);
    return ok;
}

static bool write_weights(const Experiment *e, const Merge *m, const char *directory, Arena *arena,
                          Error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    const Model *model = e->model;
    SafeTensorData *tensors = arena_new_array(arena, SafeTensorData, model->param_count);
    const Param **params = arena_new_array(arena, const Param *, model->param_count);
    SafeTensorsWriter w;
    int count = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (!p->is_base) continue;
        tensors[count] = (SafeTensorData){p->name, {.dtype = DTYPE_F16, .shape = p->value.shape}};
        params[count++] = p;
    }
    const char *path = arena_format(arena, "%s/model.safetensors", directory);
    bool ok = safetensors_write_begin(path, tensors, count, metadata, &w, err);
    for (int i = 0; ok && i < count; i++) ok = write_param(&w, e, m->route, params[i], err);
    return safetensors_write_end(&w, ok, err);
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
