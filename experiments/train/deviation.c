#include "experiments/train/deviation.h"

#include <math.h>

enum { CHUNK = 4096 };

static DeviationSums chunk_sums(const float *exact, const float *given, int64_t count) {
    DeviationSums s = {.count = count};
    for (int64_t i = 0; i < count; i++) {
        double a = (double)exact[i], b = (double)given[i], error = fabs(a - b);
        s.exact += a * a;
        s.given += b * b;
        s.product += a * b;
        s.noise += error * error;
        s.error += error;
        s.error_max = error > s.error_max ? error : s.error_max;
    }
    return s;
}

static void join(DeviationSums *to, const DeviationSums *part) {
    to->count += part->count;
    to->exact += part->exact;
    to->given += part->given;
    to->product += part->product;
    to->noise += part->noise;
    to->error += part->error;
    if (part->error_max > to->error_max) to->error_max = part->error_max;
}

void deviation_add(DeviationSums *sums, const float *exact, const float *given, int64_t count,
                   Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    int64_t chunks = (count + CHUNK - 1) / CHUNK;
    DeviationSums *parts = arena_new_array(scratch, DeviationSums, chunks);
#pragma omp parallel for
    for (int64_t i = 0; i < chunks; i++) {
        int64_t first = i * CHUNK, left = count - first;
        parts[i] = chunk_sums(exact + first, given + first, left < CHUNK ? left : CHUNK);
    }
    for (int64_t i = 0; i < chunks; i++) join(sums, &parts[i]);
    arena_rewind(scratch, mark);
}

Deviation deviation_of(const DeviationSums *s) {
    double lengths = sqrt(s->exact) * sqrt(s->given);
    bool are_zeros = s->exact == 0 && s->given == 0;
    return (Deviation){
        .sqnr_db = s->noise > 0 ? 10 * log10(s->exact / s->noise) : INFINITY,
        .cosine = are_zeros     ? 1
                  : lengths > 0 ? s->product / lengths
                                : 0,
        .error_max = s->error_max,
        .error_mean = s->count ? s->error / (double)s->count : 0,
    };
}
