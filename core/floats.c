#include "core/floats.h"

#include <stdbool.h>

enum { PIECE = 1 << 16 };

/* Both comparisons are false for NaN; without a branch, so that the loop vectorises. */
static bool are_fit(const float *x, int64_t count, float least) {
    int bad = 0;
    for (int64_t i = 0; i < count; i++) bad |= !((x[i] >= least) & (x[i] <= FLT_MAX));
    return !bad;
}

static int64_t piece_at(int64_t first, int64_t count) {
    return count - first < PIECE ? count - first : PIECE;
}

int64_t floats_find_unfit(const float *x, int64_t count, float least) {
    int bad = 0;
#pragma omp parallel for reduction(| : bad) if (count > PIECE)
    for (int64_t first = 0; first < count; first += PIECE)
        bad |= !are_fit(x + first, piece_at(first, count), least);
    if (!bad) return -1;
    int64_t i = 0;
    while (are_fit(x + i, 1, least)) i++;
    return i;
}
