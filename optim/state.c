#include "optim/state.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 256, ENTRIES = 256 };

struct StateMap {
    Dtype dtype;
    float middles[ENTRIES - 1]; /* of neighbouring entries */
    int zero;                   /* the code of 0 */
    bool is_unsigned;
};

const StateMap *state_map_new(Arena *arena, bool is_unsigned) {
    StateMap *map = arena_new_array(arena, StateMap, 1);
    uint8_t codes[ENTRIES];
    float entries[ENTRIES];
    const float one = 1;
    const Scales scales = {.row_length = ENTRIES, .run_length = ENTRIES, .count = 1, .scale = &one};
    for (int i = 0; i < ENTRIES; i++) codes[i] = (uint8_t)i;
    map->dtype = is_unsigned ? DTYPE_UDYNAMIC8 : DTYPE_DYNAMIC8;
    map->is_unsigned = is_unsigned;
    dtype_decode(map->dtype, codes, &scales, 0, ENTRIES, entries);
    while (entries[map->zero] < 0) map->zero++;
    for (int i = 0; i < ENTRIES - 1; i++) map->middles[i] = (entries[i] + entries[i + 1]) / 2;
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

/* How many middles lie below each, by halving: without branches, which nothing could predict. */
static void find_nearest(const StateMap *map, const float *unit, int64_t count, uint8_t *codes) {
    for (int64_t i = 0; i < count; i++) {
        int code = 0;
        for (int half = ENTRIES / 2; half > 0; half /= 2)
            code += unit[i] > map->middles[code + half - 1] ? half : 0;
        codes[i] = (uint8_t)(code + (map->is_unsigned && code == 0 && unit[i] > 0));
    }
}

static void write_block(const StateMap *map, int64_t count, const float *values, uint8_t *codes,
                        float *scale) {
    float unit[BLOCK], largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(values[i]));
    *scale = largest;
    float divisor = largest > 0 ? largest : 1;
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
