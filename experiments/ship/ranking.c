#include "experiments/ship/ranking.h"

#include <math.h>

void ranking_probabilities(const float *logits, int64_t count, double *out) {
    double largest = (double)logits[0], sum = 0;
    for (int64_t i = 1; i < count; i++) largest = fmax(largest, (double)logits[i]);
    for (int64_t i = 0; i < count; i++) sum += out[i] = exp((double)logits[i] - largest);
    for (int64_t i = 0; i < count; i++) out[i] /= sum;
}

int64_t ranking_next(const float *logits, int64_t count, int64_t before) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; i++) {
        if (before >= 0 &&
            (logits[i] > logits[before] || (logits[i] == logits[before] && i <= before)))
            continue;
        if (best < 0 || logits[i] > logits[best]) best = i;
    }
    return best;
}
