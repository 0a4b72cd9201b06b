#include "core/storage.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>

#include "core/floats.h"
#include "core/parallel.h"

enum { PART_ELEMENTS = 1 << 16 };

/* What one tensor is made of; parts of it are encoded by different threads. */
typedef struct Encoding {
    const ValueSource *source;
    const Codec *codec;
    const Storage *storage;
    Tensor *out;
    int64_t count, part; /* elements; of a part, whose codes share no byte with another's */
    Scales fitted;       /* of the whole: [count] scales; row_length and run_length */
    float *scale, *zero;
    atomic_llong failed; /* the first part that failed, or the number of parts */
} Encoding;

/* ---- Geometry ---- */

static bool is_levels(const Encoding *e) {
    return e->codec->stores == CODE_LEVEL;
}

static Scales scales_geometry(const Storage *storage, Shape shape) {
    const Codec *codec = dtype_codec(storage->dtype);
    if (codec->stores == CODE_NUMBER) return (Scales){0};
    int64_t count = shape_count(shape);
    Scales s = {.row_length = count, .run_length = storage->block ? storage->block : codec->block};
    if (codec->stores == CODE_LEVEL) {
        s.row_length = shape_last(shape);
        s.run_length = storage->block ? storage->block : s.row_length;
        s.grid =
            storage->is_affine ? grid_unsigned(codec->code_bits) : grid_signed(codec->code_bits);
        s.dtype = storage->scale_dtype;
    }
    s.count = scales_count(count, s.row_length, s.run_length);
    return s;
}

/* The fewest elements whose codes fill whole bytes and whose scales are their own. */
static int64_t unit_of(const Encoding *e) {
    if (e->codec->stores == CODE_NUMBER) return 1;
    if (!is_levels(e)) return 2 * e->fitted.run_length;
    int64_t rows = 1;
    while (rows * e->fitted.row_length % e->codec->write_step) rows++;
    return rows * e->fitted.row_length;
}

/* ---- A part ---- */

static Scales part_scales(const Encoding *e, int64_t first, int64_t count) {
    Scales s = e->fitted;
    int64_t number;
    scales_run(&e->fitted, first, &number);
    s.scale = e->scale + number;
    s.zero = e->zero ? e->zero + number : NULL;
    if (!is_levels(e)) s.row_length = count;
    s.count = scales_count(count, s.row_length, s.run_length);
    return s;
}

static void fit_entries(const Encoding *e, const float *x, int64_t count, const Scales *s) {
    for (int64_t i = 0; i < s->count; i++) {
        int64_t at = i * s->run_length;
        int64_t some = count - at < s->run_length ? count - at : s->run_length;
        ((float *)(uintptr_t)s->scale)[i] = e->codec->fit(x + at, some, s->run_length);
    }
}

/* A group of zeros has scale 1, and level 0 throughout. */
static void fit_group(const Storage *storage, Grid grid, const float *x, int64_t count,
                      float *scale, float *zero) {
    float low = 0, high = 0;
    for (int64_t i = 0; i < count; i++) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    float span = storage->is_affine ? high - low : fmaxf(high, -low);
    int levels = storage->is_affine ? grid_high(grid) - grid_low(grid) : grid_high(grid);
    *scale = dtype_round(storage->scale_dtype, span / (float)levels);
    if (!(*scale > 0)) *scale = 1;
    if (zero) *zero = fminf(rintf(-low / *scale), (float)grid_high(grid));
}

static void fit_levels(const Encoding *e, const float *x, int64_t count, const Scales *s) {
    for (int64_t done = 0; done < count;) {
        int64_t number, run = scales_run(s, done, &number);
        if (run > count - done) run = count - done;
        fit_group(e->storage, s->grid, x + done, run, (float *)(uintptr_t)s->scale + number,
                  s->zero ? (float *)(uintptr_t)s->zero + number : NULL);
        done += run;
    }
}

/* What rounding to the dtype makes infinite. */
static bool check_numbers(const Encoding *e, const void *codes, int64_t first, int64_t count,
                          float *values, Error *err) {
    dtype_decode(e->storage->dtype, codes, NULL, 0, count, values);
    int64_t unfit = floats_find_unfit(values, count, -FLT_MAX);
    if (unfit < 0) return true;
    float x;
    TRY(e->source->read(e->source->context, first + unfit, 1, &x, err));
    return FAIL(err, ERROR_NUMERIC, "element %lld is %g, which %s cannot hold",
                (long long)(first + unfit), (double)x, e->codec->name);
}

/* `values` is overwritten. */
static bool encode_part(const Encoding *e, int64_t first, int64_t count, float *values,
                        Error *err) {
    TRY(e->source->read(e->source->context, first, count, values, err));
    int64_t unfit = floats_find_unfit(values, count, -FLT_MAX);
    if (unfit >= 0)
        return FAIL(err, ERROR_NUMERIC, "element %lld is %g: only finite values can be stored",
                    (long long)(first + unfit), (double)values[unfit]);
    uint8_t *codes = (uint8_t *)e->out->data + dtype_bytes(e->storage->dtype, first);
    if (e->codec->stores == CODE_NUMBER) {
        e->codec->encode(values, count, NULL, codes);
        return check_numbers(e, codes, first, count, values, err);
    }
    Scales s = part_scales(e, first, count);
    if (!is_levels(e)) {
        fit_entries(e, values, count, &s);
        e->codec->encode(values, count, &s, codes);
        return true;
    }
    fit_levels(e, values, count, &s);
    quantize_levels(values, &s, 0, count, values);
    e->codec->write_levels(values, &s, 0, count, codes);
    return true;
}

/* ---- The whole ---- */

static void part_fails(Encoding *e, int64_t part) {
    long long first = atomic_load(&e->failed);
    while (part < first && !atomic_compare_exchange_weak(&e->failed, &first, part)) {
    }
}

/* Of several parts that fail, the first one is told, whichever thread met it. */
static bool encode_parts(Encoding *e, Error *err) {
    int64_t parts = (e->count + e->part - 1) / e->part;
    Arena *scratch = arena_new("values to be stored");
    int64_t room = e->part < e->count ? e->part : e->count;
    float *values = arena_alloc(scratch, sizeof *values * (size_t)(room * parallel_threads()));
    atomic_init(&e->failed, parts);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < parts; i++) {
        int64_t first = i * e->part;
        int64_t some = e->count - first < e->part ? e->count - first : e->part;
        Error own = {0};
        if (i < atomic_load(&e->failed) &&
            !encode_part(e, first, some, values + parallel_self() * room, &own))
            part_fails(e, i);
    }
    int64_t failed = atomic_load(&e->failed), first = failed * e->part;
    bool ok =
        failed == parts ||
        encode_part(e, first, e->count - first < e->part ? e->count - first : e->part, values, err);
    arena_free(scratch);
    return ok;
}

static float mean_of(const float *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i];
    return (float)(sum / (double)count);
}

/* The scales as fitted, from now on in the form that is stored. `scale` is overwritten. */
static bool store_scales(Arena *arena, const Encoding *e, Error *err) {
    Storage form = {.dtype = e->storage->scale_dtype, .block = e->storage->scale_block};
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = e->fitted;
    s->dtype = form.dtype;
    s->zero = e->zero;
    if (dtype_codec(form.dtype)->stores == CODE_ENTRY) {
        s->offset = mean_of(e->scale, s->count);
        for (int64_t i = 0; i < s->count; i++) e->scale[i] -= s->offset;
    }
    Tensor *stored = arena_new_array(arena, Tensor, 1);
    if (!tensor_encode(arena, e->scale, SHAPE(s->count), &form, stored, err)) {
        error_prefix(err, "scales of blocks of %lld", (long long)s->run_length);
        return false;
    }
    s->stored = stored;
    s->scale = form.dtype == DTYPE_F32 ? stored->data : NULL;
    e->out->scales = s;
    return true;
}

static void begin(Encoding *e, Arena *arena, Arena *scratch) {
    e->fitted = scales_geometry(e->storage, e->out->shape);
    int64_t unit = unit_of(e);
    e->part = unit * (PART_ELEMENTS > unit ? PART_ELEMENTS / unit : 1);
    if (e->codec->stores == CODE_NUMBER) return;
    e->scale = arena_new_array(scratch, float, e->fitted.count);
    if (e->storage->is_affine) e->zero = arena_new_array(arena, float, e->fitted.count);
}

bool tensor_encode_from(Arena *arena, const ValueSource *source, Shape shape,
                        const Storage *storage, Tensor *out, Error *err) {
    const Codec *codec = dtype_codec(storage->dtype);
    assert((codec->stores != CODE_LEVEL ||
            (codec->code_bits > 0 && dtype_codec(storage->scale_dtype)->stores == CODE_NUMBER)) &&
           "levels are of integers, under scales that are numbers");
    *out = tensor_new(arena, storage->dtype, shape);
    Encoding e = {.source = source,
                  .codec = codec,
                  .storage = storage,
                  .out = out,
                  .count = tensor_count(out)};
    Arena *scratch = arena_new("scales");
    begin(&e, arena, scratch);
    bool ok =
        encode_parts(&e, err) && (codec->stores == CODE_NUMBER || store_scales(arena, &e, err));
    arena_free(scratch);
    return ok;
}

static bool copy_values(void *context, int64_t first, int64_t count, float *values, Error *err) {
    (void)err;
    const float *all = context;
    for (int64_t i = 0; i < count; i++) values[i] = all[first + i];
    return true;
}

bool tensor_encode(Arena *arena, const float *values, Shape shape, const Storage *storage,
                   Tensor *out, Error *err) {
    ValueSource source = {copy_values, (void *)(uintptr_t)values};
    return tensor_encode_from(arena, &source, shape, storage, out, err);
}

Tensor storage_new(Arena *arena, Shape shape, const Storage *storage) {
    Tensor t = tensor_new(arena, storage->dtype, shape);
    if (dtype_codec(storage->dtype)->stores == CODE_NUMBER) return t;
    Storage form = {.dtype = storage->scale_dtype, .block = storage->scale_block};
    Scales *s = arena_new_array(arena, Scales, 1);
    Tensor *stored = arena_new_array(arena, Tensor, 1);
    *s = scales_geometry(storage, shape);
    *stored = storage_new(arena, SHAPE(s->count), &form);
    s->dtype = form.dtype;
    s->stored = stored;
    s->scale = form.dtype == DTYPE_F32 ? stored->data : NULL;
    if (storage->is_affine) s->zero = arena_new_array(arena, float, s->count);
    t.scales = s;
    return t;
}

size_t storage_bytes(const Storage *storage, Shape shape) {
    size_t bytes = dtype_bytes(storage->dtype, shape_count(shape));
    if (dtype_codec(storage->dtype)->stores == CODE_NUMBER) return bytes;
    Scales s = scales_geometry(storage, shape);
    Storage form = {.dtype = storage->scale_dtype, .block = storage->scale_block};
    bytes += storage_bytes(&form, SHAPE(s.count));
    if (dtype_codec(form.dtype)->stores == CODE_ENTRY) bytes += sizeof(float); /* the offset */
    return bytes + (storage->is_affine ? (size_t)s.count : 0);
}
