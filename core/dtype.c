#include "core/dtype.h"

#include "core/kernels/isa.h"
#include "core/tensor.h"

#include <assert.h>
#include <string.h>

#define DTYPE(NAME, codec) extern const Codec codec_##codec;
#include "core/dtype.def"
#undef DTYPE

static const Codec *const codecs[] = {
#define DTYPE(NAME, codec) &codec_##codec,
#include "core/dtype.def"
#undef DTYPE
};

enum {
    CODE_BITS_MIN = 2,
    CODE_BITS_MAX = 8,
    BLOCK = 520 /* elements staged on the stack; a multiple of any write_step */
};

Grid grid_signed(int bits) {
    return (Grid){bits, -(1 << (bits - 1)), 1};
}

Grid grid_unsigned(int bits) {
    return (Grid){bits, 0, 1};
}

Grid grid_odd(int bits) {
    return (Grid){bits, -((1 << bits) - 1), 2};
}

Grid grid_ternary(void) {
    return (Grid){.bits = 2, .base = -1, .step = 1, .unused = 1};
}

int grid_low(Grid grid) {
    return grid.base;
}

int grid_high(Grid grid) {
    return grid.base + grid.step * grid_last_code(grid);
}

int grid_last_code(Grid grid) {
    return (1 << grid.bits) - 1 - grid.unused;
}

Grid grid_of(int bits, int base, int step) {
    const Grid ternary = grid_ternary();
    bool is_ternary = bits == ternary.bits && base == ternary.base && step == ternary.step;
    return is_ternary ? ternary : (Grid){.bits = bits, .base = base, .step = step};
}

int64_t scales_count(int64_t element_count, int64_t row_length, int64_t run_length) {
    assert(row_length > 0 && run_length > 0);
    int64_t rows = (element_count + row_length - 1) / row_length;
    return rows * ((row_length + run_length - 1) / run_length);
}

int64_t scales_run(const Scales *scales, int64_t element, int64_t *scale) {
    int64_t row = element / scales->row_length, column = element % scales->row_length;
    int64_t per_row = (scales->row_length + scales->run_length - 1) / scales->run_length;
    int64_t run = column / scales->run_length;
    *scale = row * per_row + run;
    assert(*scale < scales->count);
    int64_t end = (run + 1) * scales->run_length;
    return (end < scales->row_length ? end : scales->row_length) - column;
}

float scales_read(const Scales *scales, int64_t number) {
    float scale;
    if (scales->scale) return scales->scale[number];
    const Tensor *stored = scales->stored;
    dtype_decode(stored->dtype, stored->data, stored->scales, number, 1, &scale);
    return scale + scales->offset;
}

const Codec *dtype_codec(Dtype dtype) {
    assert((unsigned)dtype < DTYPE_COUNT);
    return codecs[dtype];
}

const char *dtype_name(Dtype dtype) {
    return dtype_codec(dtype)->name;
}

int dtype_find(const char *name) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(codecs[i]->name, name) == 0) return i;
    return -1;
}

Dtype dtype_integer(int bits) {
    assert(bits >= CODE_BITS_MIN && bits <= CODE_BITS_MAX);
    return (Dtype)((int)DTYPE_INT2 + bits - CODE_BITS_MIN);
}

Dtype dtype_packed(Grid grid) {
    if (grid.unused) return DTYPE_TERNARY;
    return grid.bits == 1 ? DTYPE_BINARY : dtype_integer(grid.bits);
}

size_t dtype_bytes(Dtype dtype, int64_t count) {
    assert(count >= 0);
    size_t per_byte = (size_t)dtype_codec(dtype)->codes_per_byte;
    if (per_byte) return ((size_t)count + per_byte - 1) / per_byte;
    return ((size_t)count * (size_t)dtype_codec(dtype)->code_bits + 7) / 8;
}

void dtype_encode(Dtype dtype, const float *x, int64_t count, const Scales *scales, void *codes) {
    const Codec *codec = dtype_codec(dtype);
    if (codec->encode) {
        codec->encode(x, count, scales, codes);
        return;
    }
    for (int64_t done = 0; done < count; done += BLOCK) {
        float levels[BLOCK];
        int64_t block = count - done < BLOCK ? count - done : BLOCK;
        quantize_levels(x + done, scales, done, block, levels);
        codec->write_levels(levels, scales, done, block, codes);
    }
}

void dtype_decode(Dtype dtype, const void *codes, const Scales *scales, int64_t first,
                  int64_t count, float *x) {
    const Codec *codec = dtype_codec(dtype);
    if (codec->decode) {
        codec->decode(codes, scales, first, count, x);
        return;
    }
    codec->read_levels(codes, scales, first, count, x);
    levels_decode(x, scales, first, count, x);
}

int64_t dtype_find_unfit(Dtype dtype, const void *codes, int64_t count) {
    const uint8_t *bytes = codes;
    int limit = dtype_codec(dtype)->byte_count;
    int64_t byte_count = limit ? (int64_t)dtype_bytes(dtype, count) : 0;
    for (int64_t i = 0; i < byte_count; i++)
        if (bytes[i] >= limit) return i;
    return -1;
}

float dtype_round(Dtype dtype, float x) {
    const Codec *codec = dtype_codec(dtype);
    assert(codec->stores == CODE_NUMBER);
    float rounded;
    uint32_t code; /* of up to so many bits */
    codec->encode(&x, 1, NULL, &code);
    codec->decode(&code, NULL, 0, 1, &rounded);
    return rounded;
}

/* Adding 1.5 x 2^23 leaves no fraction bits, so the hardware's round-half-even makes the integer;
 * right for |x| <= 2^22, and never -0. Clamping to integers first changes nothing and keeps us in
 * that range; a NaN stays one. */
static float round_even(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

static float clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* Other steps: the code is what gets rounded. */
static void quantize_run_stepped(const float *x, int64_t count, float inverse, float low,
                                 float step, float last_code, float *levels, bool *has_nan) {
    for (int64_t i = 0; i < count; i++) {
        if (x[i] != x[i]) *has_nan = true;
        float code = round_even(clamp((x[i] * inverse - low) / step, 0.0f, last_code));
        levels[i] = code * step + low;
    }
}

/* Elements under one scale, and the integers that their levels may be. */
typedef struct LevelRun {
    int64_t count;
    float inverse, low, high;
} LevelRun;

/* From `element` on, at most `most`. */
static LevelRun level_run(const Scales *scales, int64_t element, int64_t most) {
    int64_t scale, count = scales_run(scales, element, &scale);
    float zero = scales->zero ? scales->zero[scale] : 0.0f;
    return (LevelRun){.count = count < most ? count : most,
                      .inverse = 1.0f / scales_read(scales, scale),
                      .low = (float)grid_low(scales->grid) - zero,
                      .high = (float)grid_high(scales->grid) - zero};
}

bool quantize_levels(const float *x, const Scales *scales, int64_t first, int64_t count,
                     float *levels) {
    Grid grid = scales->grid;
    bool has_nan = false;
    for (int64_t done = 0; done < count;) {
        LevelRun run = level_run(scales, first + done, count - done);
        if (grid.step == 1)
            isa_active()->quantize(x + done, run.count, run.inverse, run.low, run.high,
                                   levels + done, &has_nan);
        else
            quantize_run_stepped(x + done, run.count, run.inverse, run.low, (float)grid.step,
                                 (float)grid_last_code(grid), levels + done, &has_nan);
        done += run.count;
    }
    return !has_nan;
}

bool quantize_bytes(const float *x, const Scales *scales, int64_t first, int64_t count,
                    uint8_t *codes) {
    enum { SOME = 512 };
    float levels[SOME];
    bool has_nan = false;
    for (int64_t done = 0, some; done < count; done += some) {
        if (scales->grid.step == 1) {
            LevelRun run = level_run(scales, first + done, count - done);
            some = run.count;
            isa_active()->quantize_to_bytes(x + done, some, run.inverse, run.low, run.high,
                                            codes + done, &has_nan);
        } else {
            some = count - done < SOME ? count - done : SOME;
            has_nan |= !quantize_levels(x + done, scales, first + done, some, levels);
            levels_to_bytes(levels, scales, first + done, some, codes + done);
        }
    }
    return !has_nan;
}

void levels_decode(const float *levels, const Scales *scales, int64_t first, int64_t count,
                   float *values) {
    for (int64_t done = 0; done < count;) {
        int64_t scale, run = scales_run(scales, first + done, &scale);
        if (run > count - done) run = count - done;
        float s = scales_read(scales, scale);
        isa_active()->multiply(levels + done, s, run, values + done);
        done += run;
    }
}

/* Levels to codes, a byte each. A NaN becomes code 0: who makes levels of values has said so. */
void levels_to_bytes(const float *levels, const Scales *scales, int64_t first, int64_t count,
                     uint8_t *codes) {
    float last_code = (float)grid_last_code(scales->grid), step = (float)scales->grid.step;
    for (int64_t done = 0; done < count;) {
        int64_t scale, run = scales_run(scales, first + done, &scale);
        if (run > count - done) run = count - done;
        float zero = scales->zero ? scales->zero[scale] : 0.0f;
        float low = (float)scales->grid.base - zero;
        isa_active()->levels_to_bytes(levels + done, run, 1 / step, low, last_code, codes + done);
        done += run;
    }
}

void levels_from_bytes(const uint8_t *codes, const Scales *scales, int64_t first, int64_t count,
                       float *levels) {
    float step = (float)scales->grid.step, base = (float)scales->grid.base;
    if (!scales->zero) { /* all runs alike */
        isa_active()->levels_from_bytes(codes, count, step, base, levels);
        return;
    }
    for (int64_t done = 0; done < count;) {
        int64_t scale, run = scales_run(scales, first + done, &scale);
        if (run > count - done) run = count - done;
        float low = base - scales->zero[scale];
        isa_active()->levels_from_bytes(codes + done, run, step, low, levels + done);
        done += run;
    }
}

/* A run that begins in the high half of a byte has one code there, and goes on with whole bytes. */
void levels_to_nibbles(const float *levels, const Scales *scales, int64_t first, int64_t count,
                       uint8_t *codes) {
    assert(scales->grid.bits <= 4);
    float last_code = (float)grid_last_code(scales->grid), step = (float)scales->grid.step;
    for (int64_t done = 0; done < count;) {
        int64_t scale, run = scales_run(scales, first + done, &scale);
        if (run > count - done) run = count - done;
        float zero = scales->zero ? scales->zero[scale] : 0.0f;
        float low = (float)scales->grid.base - zero;
        uint8_t *to = codes + (first + done) / 2, high;
        int64_t is_high = (first + done) % 2;
        if (is_high) {
            isa_active()->levels_to_bytes(levels + done, 1, 1 / step, low, last_code, &high);
            *to = (uint8_t)((*to & 15) | high << 4);
        }
        isa_active()->levels_to_nibbles(levels + done + is_high, run - is_high, 1 / step, low,
                                        last_code, to + is_high);
        done += run;
    }
}

void levels_from_nibbles(const uint8_t *codes, const Scales *scales, int64_t first, int64_t count,
                         float *levels) {
    float step = (float)scales->grid.step;
    for (int64_t done = 0; done < count;) {
        int64_t scale, run = scales_run(scales, first + done, &scale);
        if (run > count - done) run = count - done;
        float zero = scales->zero ? scales->zero[scale] : 0.0f;
        float low = (float)scales->grid.base - zero;
        const uint8_t *from = codes + (first + done) / 2;
        int64_t is_high = (first + done) % 2;
        if (is_high) levels[done] = step * (float)(*from >> 4) + low;
        isa_active()->levels_from_nibbles(from + is_high, run - is_high, step, low,
                                          levels + done + is_high);
        done += run;
    }
}
