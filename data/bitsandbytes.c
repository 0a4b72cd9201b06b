#include "data/bitsandbytes.h"

#include <math.h>
#include <string.h>

#include "core/floats.h"
#include "core/json.h"

static const Dtype kinds[] = {DTYPE_NF4, DTYPE_FP4};
enum { KINDS = sizeof kinds / sizeof *kinds, BLOCK_MAX = 1 << 16 };

typedef struct Reading {
    const SafeTensors *files;
    const char *name; /* of the weight */
    Arena *arena;
    Dtype dtype;
    Shape shape;
    int64_t block, scale_block; /* scale_block 0: scales are numbers */
    float offset;
    Error *err;
} Reading;

static const char *state_name(const char *name, Dtype dtype, Arena *arena) {
    return arena_format(arena, "%s.quant_state.bitsandbytes__%s", name, dtype_name(dtype));
}

static const SafeTensor *find_state(const SafeTensors *files, const char *name, Dtype *dtype) {
    const SafeTensor *found = NULL;
    Arena *scratch = arena_new("names");
    for (int i = 0; i < KINDS && !found; i++) {
        found = safetensors_find(files, state_name(name, kinds[i], scratch));
        if (dtype) *dtype = kinds[i];
    }
    arena_free(scratch);
    return found;
}

bool bitsandbytes_has(const SafeTensors *files, const char *name) {
    return find_state(files, name, NULL) != NULL;
}

/* The tensor NAME.PART, of this type and so many bytes. */
static bool find(const Reading *r, const char *part, const char *type, int64_t bytes,
                 const SafeTensor **out) {
    const char *name = *part ? arena_format(r->arena, "%s.%s", r->name, part) : r->name;
    *out = safetensors_find(r->files, name);
    if (!*out)
        return FAIL(r->err, ERROR_INPUT, "%s: tensor '%s' is missing, with which '%s' is stored",
                    r->files->files[0], name, r->name);
    if (!strcmp((*out)->type, type) && (*out)->bytes == bytes) return true;
    return FAIL(r->err, ERROR_INPUT,
                "%s: tensor '%s' has %ld bytes of %s, not the %ld of %s that '%s' needs",
                r->files->files[(*out)->file], name, (long)(*out)->bytes, (*out)->type, (long)bytes,
                type, r->name);
}

static bool read_bytes(const Reading *r, const char *part, int64_t bytes, void *out) {
    const SafeTensor *t;
    return find(r, part, "U8", bytes, &t) && safetensors_read_bytes(r->files, t, out, r->err);
}

static bool read_floats(const Reading *r, const char *part, int64_t count, float *out) {
    const SafeTensor *t;
    TRY(find(r, part, "F32", 4 * count, &t));
    TRY(safetensors_read(r->files, t, 0, count, out, r->err));
    int64_t unfit = floats_find_unfit(out, count, -FLT_MAX);
    if (unfit < 0) return true;
    return FAIL(r->err, ERROR_INPUT, "%s: tensor '%s': number %ld is not finite",
                r->files->files[t->file], t->name, (long)unfit);
}

/* ---- quant_state ---- */

static bool refuse_state(const Reading *r, const SafeTensor *state, const char *what) {
    return FAIL(r->err, ERROR_INPUT, "%s: tensor '%s': %s", r->files->files[state->file],
                state->name, what);
}

static bool read_shape(const Json *json, Shape *shape, Error *err) {
    int64_t count;
    shape->rank = json_count(json, "shape");
    if (shape->rank < 1 || shape->rank > SHAPE_RANK_MAX ||
        !json_get_ints(json, "shape", shape->dim, shape->rank))
        return FAIL(err, ERROR_INPUT, "no shape of 1 to %d dimensions", SHAPE_RANK_MAX);
    return shape_check(*shape, &count, err);
}

static bool is_block(int64_t block) {
    return block >= 2 && block <= BLOCK_MAX && block % 2 == 0;
}

static bool take_state(Reading *r, const SafeTensor *state, const Json *json) {
    const char *kind = json_get_text(json, "quant_type");
    if (!kind || strcmp(kind, dtype_name(r->dtype)) != 0)
        return refuse_state(r, state, "its quant_type is not the one in its name");
    Error why = {0};
    if (!read_shape(json, &r->shape, &why)) return refuse_state(r, state, why.message);
    if (!json_get_int(json, "blocksize", &r->block) || !is_block(r->block))
        return refuse_state(r, state, "no blocksize, an even number from 2 to 65536");
    if (json_type_at(json, "nested_blocksize") == JSON_ABSENT) return true;
    double offset;
    if (!json_get_int(json, "nested_blocksize", &r->scale_block) || !is_block(r->scale_block))
        return refuse_state(r, state, "no nested_blocksize, an even number from 2 to 65536");
    if (!json_get_number(json, "nested_offset", &offset) || !(fabs(offset) <= FLT_MAX))
        return refuse_state(r, state, "no nested_offset, a finite number");
    r->offset = (float)offset;
    return true;
}

static bool read_state(Reading *r, const SafeTensor *state) {
    enum { STATE_BYTES_MAX = 1 << 16 };
    if (strcmp(state->type, "U8") != 0 || state->bytes > STATE_BYTES_MAX)
        return refuse_state(r, state, "it is no text of at most 64 KiB");
    char *text = arena_alloc(r->arena, (size_t)state->bytes + 1);
    TRY(safetensors_read_bytes(r->files, state, text, r->err));
    text[state->bytes] = 0;
    Json *json = json_read_text(text, (size_t)state->bytes, state->name, r->err);
    if (!json) return false;
    bool ok = take_state(r, state, json);
    json_free(json);
    return ok;
}

/* ---- Planes ---- */

/* That their codebook is ours. */
static bool check_map(const Reading *r, const char *part, Dtype dtype) {
    const float one = 1;
    int count = 1 << dtype_codec(dtype)->code_bits;
    const Scales scales = {.row_length = 256, .run_length = 256, .count = 1, .scale = &one};
    uint8_t codes[256];
    float ours[256], theirs[256];
    for (int i = 0; i < count; i++)
        codes[count == 16 ? i / 2 : i] =
            (uint8_t)(count == 16 ? (i & ~1) | (i | 1) << 4 : i); /* pairs: i, i + 1 */
    dtype_decode(dtype, codes, &scales, 0, count, ours);
    TRY(read_floats(r, part, count, theirs));
    for (int i = 0; i < count; i++)
        if (ours[i] != theirs[i])
            return FAIL(r->err, ERROR_INPUT, "%s: tensor '%s.%s' is another codebook than %s",
                        r->files->files[0], r->name, part, dtype_name(dtype));
    return true;
}

static bool read_scales(const Reading *r, Scales *s) {
    Tensor *stored = arena_new_array(r->arena, Tensor, 1);
    *stored = tensor_new(r->arena, r->scale_block ? DTYPE_DYNAMIC8 : DTYPE_F32, SHAPE(s->count));
    s->stored = stored;
    s->dtype = stored->dtype;
    if (!r->scale_block) {
        s->scale = stored->data;
        return read_floats(r, "absmax", s->count, stored->data);
    }
    Scales *outer = arena_new_array(r->arena, Scales, 1);
    int64_t count = scales_count(s->count, s->count, r->scale_block);
    float *scale = arena_new_array(r->arena, float, count);
    *outer = (Scales){.row_length = s->count,
                      .run_length = r->scale_block,
                      .count = count,
                      .dtype = DTYPE_F32,
                      .scale = scale};
    Tensor *plain = arena_new_array(r->arena, Tensor, 1);
    *plain = (Tensor){.dtype = DTYPE_F32, .shape = SHAPE(count), .data = scale};
    outer->stored = plain;
    stored->scales = outer;
    s->offset = r->offset;
    TRY(check_map(r, "nested_quant_map", DTYPE_DYNAMIC8));
    TRY(read_floats(r, "nested_absmax", count, scale));
    return read_bytes(r, "absmax", s->count, stored->data);
}

static void swap_halves(uint8_t *codes, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++) codes[i] = (uint8_t)(codes[i] << 4 | codes[i] >> 4);
}

bool bitsandbytes_read(const SafeTensors *files, const char *name, Arena *arena, Tensor *out,
                       Error *err) {
    Reading r = {.files = files, .name = name, .arena = arena, .err = err};
    const SafeTensor *state = find_state(files, name, &r.dtype);
    TRY(read_state(&r, state));
    int64_t count = shape_count(r.shape), bytes = (count + 1) / 2;
    const SafeTensor *codes;
    TRY(find(&r, "", "U8", bytes, &codes)); /* before memory of that size is asked for */
    TRY(check_map(&r, "quant_map", r.dtype));
    *out = tensor_new(arena, r.dtype, r.shape);
    TRY(safetensors_read_bytes(files, codes, out->data, err));
    swap_halves(out->data, bytes);
    if (count % 2) ((uint8_t *)out->data)[bytes - 1] &= 15;
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = (Scales){.row_length = count, .run_length = r.block};
    s->count = scales_count(count, count, r.block);
    out->scales = s;
    return read_scales(&r, s);
}
