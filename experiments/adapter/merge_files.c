/* A merged network as files: Hugging Face's layout, in f16. */
#include <math.h>
#include <string.h>

#include "data/safetensors.h"
#include "experiments/adapter/merge.h"
#include "experiments/export/model_files.h"

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

bool merge_write(const Experiment *e, const Merge *m, const char *directory, Error *err) {
    Arena *arena = arena_new("merged network");
    bool ok =
        write_weights(e, m, directory, arena, err) &&
        (!e->base_directory || (model_files_copy(e->base_directory, directory, err) &&
                                model_files_config(e->base_directory, directory, "float16", err)));
    arena_free(arena);
    return ok;
}
