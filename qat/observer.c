#include "qat/observer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernels/isa.h"

enum {
    STEP = 16,            /* chunks begin at multiples */
    CHUNKS = 64,          /* of a sum, whatever the count */
    PARALLEL_MIN = 65536, /* elements that are worth waking the threads for */
    RADIX_BITS = 8,
    RADIX = 1 << RADIX_BITS,
};

/* ---- Extremes. ---- */

static Range range_of_span(const float *x, int64_t count) {
    Range range;
    isa_active()->extremes(x, count, &range.low, &range.high);
    return range;
}

/* The part of `count` elements that is chunk number `chunk`. */
static int64_t chunk_span(int64_t count, int chunk, int64_t *first) {
    int64_t length = (count + CHUNKS - 1) / CHUNKS;
    length = (length + STEP - 1) / STEP * STEP;
    *first = chunk * length < count ? chunk * length : count;
    return count - *first < length ? count - *first : length;
}

Range observer_range(const float *x, int64_t count) {
    if (count < PARALLEL_MIN) return range_of_span(x, count);
    float low = 0, high = 0;
#pragma omp parallel for reduction(min : low) reduction(max : high)
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        int64_t first, length = chunk_span(count, chunk, &first);
        Range range = range_of_span(x + first, length);
        low = range.low < low ? range.low : low;
        high = range.high > high ? range.high : high;
    }
    return (Range){low, high};
}

bool observer_range_is_usable(Range range) {
    return (range.low < 0 || range.high > 0) && isfinite(range.low) && isfinite(range.high);
}

/* ---- Sums. ---- */

typedef struct Sums {
    double value, magnitude, square;
} Sums;

/* Lanes in double: a chunk may be long. */
static Sums sums_of_span(const float *x, int64_t count) {
    enum { WIDE = 4 };
    double value[WIDE] = {0}, magnitude[WIDE] = {0}, square[WIDE] = {0};
    int64_t whole = count - count % WIDE;
    for (int64_t i = 0; i < whole; i += WIDE)
        for (int j = 0; j < WIDE; j++) {
            double v = x[i + j];
            value[j] += v;
            magnitude[j] += fabs(v);
            square[j] += v * v;
        }
    for (int64_t i = whole; i < count; i++) {
        double v = x[i];
        value[i - whole] += v;
        magnitude[i - whole] += fabs(v);
        square[i - whole] += v * v;
    }
    return (Sums){value[0] + value[1] + (value[2] + value[3]),
                  magnitude[0] + magnitude[1] + (magnitude[2] + magnitude[3]),
                  square[0] + square[1] + (square[2] + square[3])};
}

Moments observer_moments(const float *x, int64_t count) {
    Sums chunks[CHUNKS], all = {0};
#pragma omp parallel for
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        int64_t first, length = chunk_span(count, chunk, &first);
        chunks[chunk] = sums_of_span(x + first, length);
    }
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        all.value += chunks[chunk].value;
        all.magnitude += chunks[chunk].magnitude;
        all.square += chunks[chunk].square;
    }
    double n = (double)count, mean = all.value / n;
    double variance = all.square / n - mean * mean;
    return (Moments){mean, all.magnitude / n, variance > 0 ? sqrt(variance) : 0};
}

/* ---- Quantiles, by radix selection: exact, and linear whatever the values. ---- */

/* Bits of x (or |x|) as an unsigned number in the order of the values. */
static uint32_t key_of(float x, bool of_magnitudes) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (of_magnitudes) return bits & 0x7fffffffu;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float key_value(uint32_t key, bool of_magnitudes) {
    if (!of_magnitudes) key = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &key, sizeof x);
    return x;
}

/* The key of order statistic `rank`; `rank` becomes its rank among those of equal key, and `equal`
 * how many these are. One digit a pass, the highest first. */
static uint32_t select_key(const float *x, int64_t count, bool of_magnitudes, int64_t *rank,
                           int64_t *equal) {
    uint32_t prefix = 0, mask = 0;
    for (int shift = 32 - RADIX_BITS; shift >= 0; shift -= RADIX_BITS) {
        uint32_t found[RADIX] = {0};
        for (int64_t i = 0; i < count; i++) {
            uint32_t key = key_of(x[i], of_magnitudes);
            if ((key & mask) == prefix) found[key >> shift & (RADIX - 1)]++;
        }
        uint32_t digit = 0;
        while (*rank >= found[digit]) *rank -= found[digit++];
        prefix |= digit << shift;
        mask |= (uint32_t)(RADIX - 1) << shift;
        *equal = found[digit];
    }
    return prefix;
}

static uint32_t next_key(const float *x, int64_t count, bool of_magnitudes, uint32_t above) {
    uint32_t next = UINT32_MAX;
    for (int64_t i = 0; i < count; i++) {
        uint32_t key = key_of(x[i], of_magnitudes);
        if (key > above && key < next) next = key;
    }
    return next;
}

float observer_quantile(const float *x, int64_t count, double at, bool of_magnitudes) {
    assert(count > 0 && count <= UINT32_MAX && at >= 0 && at <= 1);
    double place = at * (double)(count - 1);
    int64_t rank = (int64_t)place, equal;
    double fraction = place - (double)rank;
    uint32_t key = select_key(x, count, of_magnitudes, &rank, &equal);
    float value = key_value(key, of_magnitudes);
    if (fraction == 0 || rank + 1 < equal) return value;
    float next = key_value(next_key(x, count, of_magnitudes, key), of_magnitudes);
    return (float)((double)value + fraction * ((double)next - (double)value));
}

/* ---- Running ranges. ---- */

void running_range_new(Quant *q) {
    RunningRange *running = arena_new_array(q->model->arena, RunningRange, 1);
    running->low = quant_buffer(q, "low", SHAPE(1));
    running->high = quant_buffer(q, "high", SHAPE(1));
    q->state = running;
}

bool running_range_observe(Quant *q, Observed observed, float weight) {
    RunningRange *running = q->state;
    float *low = tensor_f32(&running->low->value), *high = tensor_f32(&running->high->value);
    Range seen = observed.is_seen ? (Range){q->probe.low, q->probe.high}
                                  : observer_range(observed.x, observed.count);
    if (!observer_range_is_usable(seen)) return false;
    if (*tensor_f32(&q->count->value) == 0) {
        *low = seen.low;
        *high = seen.high;
    } else if (weight > 0) {
        *low += weight * (seen.low - *low);
        *high += weight * (seen.high - *high);
    } else {
        *low = seen.low < *low ? seen.low : *low;
        *high = seen.high > *high ? seen.high : *high;
    }
    quant_set_range(q, 0, (Range){*low, *high});
    return true;
}
