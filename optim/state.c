#include "optim/state.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernels/isa.h"

enum { BLOCK = 256, ENTRIES = 256 };

/* Numbers whose upper 16 bits agree lie between so close ends that at most one middle of two
 * entries is among them: the code of the lowest of them is known, and the middle decides whether it
 * is that or the next. */
enum { PREFIXES = 1 << 16, PREFIX_SHIFT = 16 };

struct StateMap {
    Dtype dtype;
    uint8_t lowest[PREFIXES]; /* code of the lowest number with a prefix */
    float middles[ENTRIES];   /* of an entry and the next; infinity behind the last */
    int zero;                 /* the code of 0 */
};

/* How many middles lie below. */
static int nearest(const StateMap *map, float x) {
    int low = 0, high = ENTRIES - 1;
    while (low < high) {
        int half = (low + high) / 2;
        if (x > map->middles[half])
            low = half + 1;
        else
            high = half;
    }
    return low;
}

static float number_of(uint32_t prefix, uint32_t rest) {
    uint32_t bits = prefix << PREFIX_SHIFT | rest;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Those of a negative number are the lower, the larger the rest is. */
static void prefixes_fill(StateMap *map) {
    for (uint32_t p = 0; p < PREFIXES; p++) {
        bool is_negative = p >> 15;
        uint32_t most = (1u << PREFIX_SHIFT) - 1;
        float lowest = number_of(p, is_negative ? most : 0);
        map->lowest[p] = (uint8_t)nearest(map, lowest);
        assert(!isfinite(number_of(p, is_negative ? 0 : most)) ||
               nearest(map, number_of(p, is_negative ? 0 : most)) <= map->lowest[p] + 1);
    }
}

const StateMap *state_map_new(Arena *arena, bool is_unsigned) {
    StateMap *map = arena_new_array(arena, StateMap, 1);
    uint8_t codes[ENTRIES];
    float entries[ENTRIES];
    const float one = 1;
    const Scales scales = {.row_length = ENTRIES, .run_length = ENTRIES, .count = 1, .scale = &one};
    for (int i = 0; i < ENTRIES; i++) codes[i] = (uint8_t)i;
    map->dtype = is_unsigned ? DTYPE_UDYNAMIC8 : DTYPE_DYNAMIC8;
    dtype_decode(map->dtype, codes, &scales, 0, ENTRIES, entries);
    while (entries[map->zero] < 0) map->zero++;
    for (int i = 0; i < ENTRIES - 1; i++) map->middles[i] = (entries[i] + entries[i + 1]) / 2;
    map->middles[ENTRIES - 1] = INFINITY;
    if (is_unsigned) map->middles[0] = 0; /* what is above 0 stays so */
    prefixes_fill(map);
    return map;
}

Tensor state_new(Arena *arena, Shape shape, const StateMap *map) {
    if (!map) return tensor_zeros(arena, DTYPE_F32, shape);
    Tensor state = tensor_new(arena, map->dtype, shape);
    Scales *scales = arena_new_array(arena, Scales, 1);
    Tensor *stored = arena_new_array(arena, Tensor, 1);
    int64_t count = tensor_count(&state);
    memset(state.data, map->zero, tensor_bytes(&state));
    scales->row_length = count;
    scales->run_length = BLOCK;
    scales->count = scales_count(count, count, BLOCK);
    scales->dtype = DTYPE_F32;
    *stored = tensor_zeros(arena, DTYPE_F32, SHAPE(scales->count));
    scales->stored = stored;
    scales->scale = stored->data;
    state.scales = scales;
    return state;
}

double state_coded_bytes_each(void) {
    return 1 + (double)sizeof(float) / BLOCK;
}

float *state_read(const Tensor *state, int64_t first, int64_t count, float *buffer) {
    if (!state->scales) return tensor_f32(state) + first;
    tensor_decode_part(state, first, count, buffer);
    return buffer;
}

static void find_nearest(const StateMap *map, const float *unit, int64_t count, uint8_t *codes) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, unit + i, sizeof bits);
        int code = map->lowest[bits >> PREFIX_SHIFT];
        codes[i] = (uint8_t)(code + (unit[i] > map->middles[code]));
    }
}

static void write_block(const StateMap *map, int64_t count, const float *values, uint8_t *codes,
                        float *scale) {
    float unit[BLOCK], low = 0, high = 0;
    isa_active()->extremes(values, count, &low, &high);
    *scale = fmaxf(-low, high);
    float divisor = *scale > 0 ? *scale : 1;
    for (int64_t i = 0; i < count; i++) unit[i] = values[i] / divisor;
    find_nearest(map, unit, count, codes);
}

void state_write(const Tensor *state, const StateMap *map, int64_t first, int64_t count,
                 const float *values) {
    if (!state->scales) return;
    assert(first % BLOCK == 0 && state->dtype == map->dtype);
    uint8_t *codes = state->data;
    float *scale = state->scales->stored->data;
    for (int64_t at = first; at < first + count; at += BLOCK) {
        int64_t left = first + count - at, some = left < BLOCK ? left : BLOCK;
        write_block(map, some, values + (at - first), codes + at, scale + at / BLOCK);
    }
}
