#include "core/random.h"

#include <math.h>

#include <Random123/philox.h>

Random4 random_words(RandomKey key, uint64_t element) {
    /* 128 bits of counter: element and step; 64 bits of key: seed, with the stream in its own word
     * of the counter's upper half. Steps stay below 2^32 in the counter word that they own; their
     * upper half is mixed into the key. */
    philox4x32_ctr_t counter = {
        {(uint32_t)element, (uint32_t)(element >> 32), (uint32_t)key.step, key.stream}};
    philox4x32_key_t secret = {
        {(uint32_t)key.seed ^ (uint32_t)(key.step >> 32), (uint32_t)(key.seed >> 32)}};
    philox4x32_ctr_t word = philox4x32(counter, secret);
    return (Random4){{word.v[0], word.v[1], word.v[2], word.v[3]}};
}

/* 24 bits, so that the float is exact and below 1. */
static float unit(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

float random_uniform(RandomKey key, uint64_t element) {
    return unit(random_words(key, element).word[0]);
}

float random_normal(RandomKey key, uint64_t element) {
    Random4 r = random_words(key, element);
    double radius = sqrt(-2.0 * log(1.0 - (double)unit(r.word[0])));
    return (float)(radius * cos(2.0 * M_PI * (double)unit(r.word[1])));
}

uint64_t random_below(RandomKey key, uint64_t element, uint64_t bound) {
    Random4 r = random_words(key, element);
    uint64_t wide = (uint64_t)r.word[0] << 32 | r.word[1];
    return (uint64_t)(((unsigned __int128)wide * bound) >> 64);
}

void random_fill_uniform(RandomKey key, float low, float high, int64_t count, float *values) {
    for (int64_t i = 0; i < count; i++)
        values[i] = low + (high - low) * random_uniform(key, (uint64_t)i);
}

void random_fill_normal(RandomKey key, float deviation, int64_t count, float *values) {
    for (int64_t i = 0; i < count; i++) values[i] = deviation * random_normal(key, (uint64_t)i);
}

void random_permutation(RandomKey key, int64_t count, uint32_t *order) {
    for (int64_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)random_below(key, (uint64_t)i, (uint64_t)i + 1);
        uint32_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}
