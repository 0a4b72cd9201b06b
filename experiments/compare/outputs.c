#include "experiments/compare/outputs.h"

#include <string.h>

#include "core/file.h"
#include "data/h5.h"

bool outputs_write(const char *path, const char checkpoint[ENVELOPE_DIGEST_TEXT],
                   const float *outputs, Shape shape, Error *err) {
    Arena *arena = arena_new("outputs");
    uint64_t bytes = sizeof *outputs * (uint64_t)shape_count(shape);
    H5Writer *w = h5_write_begin(path, bytes, arena, err);
    if (w) {
        h5_write_tensor(w, "outputs", H5_F32, shape, outputs);
        h5_write_text(w, "checkpoint_digest", checkpoint);
    }
    bool ok = w && h5_write_commit(w, NULL, err);
    arena_free(arena);
    return ok;
}

static float *read(const H5Reader *r, const char *checkpoint, Arena *arena, Shape *shape) {
    Error ignored = {0};
    H5Info info;
    const char *digest = h5_read_text(r, "checkpoint_digest", arena, &ignored);
    if (!digest || strcmp(digest, checkpoint) != 0) return NULL;
    if (!h5_read_info(r, "outputs", &info, &ignored) || info.shape.rank != 2) return NULL;
    float *outputs = arena_new_array(arena, float, shape_count(info.shape));
    *shape = info.shape;
    return h5_read_tensor(r, "outputs", H5_F32, info.shape, outputs, &ignored) ? outputs : NULL;
}

float *outputs_read(const char *path, const char checkpoint[ENVELOPE_DIGEST_TEXT], Arena *arena,
                    Shape *shape) {
    Error ignored = {0};
    if (file_find(path, &ignored) != FILE_REGULAR) return NULL;
    Arena *scratch = arena_new("outputs");
    H5Reader *r = h5_read_open(path, scratch, &ignored);
    float *outputs = r ? read(r, checkpoint, arena, shape) : NULL;
    arena_free(scratch);
    return outputs;
}
