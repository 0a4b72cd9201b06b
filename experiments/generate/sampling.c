#include "experiments/generate/sampling.h"

#include <math.h>
#include <stdlib.h>

#include "core/random.h"

typedef struct Candidate {
    int64_t token;
    double weight; /* probability times what all of them have together */
} Candidate;

static int64_t largest(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static int by_weight(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* The first whose weights reach `share`, with those before it. */
static int64_t reach(const Candidate *candidates, int64_t count, double share) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += candidates[i].weight;
        if (sum >= share) return i;
    }
    return count - 1;
}

static double weigh(const Sampling *s, const float *logits, int64_t count, Candidate *candidates) {
    double most = (double)logits[largest(logits, count)], sum = 0;
    for (int64_t i = 0; i < count; i++) {
        double weight = exp(((double)logits[i] - most) / s->temperature);
        candidates[i] = (Candidate){i, weight};
        sum += weight;
    }
    return sum;
}

/* Tokens that are less likely than what lies outside of top_p, evenly spread over all, are outside:
 * so that few need to be sorted. */
static int64_t drop_unlikely(const Sampling *s, Candidate *candidates, int64_t count, double sum) {
    double least = (1 - s->top_p) * sum / (double)count;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
        if (candidates[i].weight >= least) candidates[kept++] = candidates[i];
    return kept;
}

int64_t sampling_choose(const Sampling *s, const float *logits, int64_t count, uint64_t number) {
    if (s->temperature <= 0) return largest(logits, count);
    Arena *arena = arena_new("sampling");
    Candidate *candidates = arena_new_array(arena, Candidate, count);
    double sum = weigh(s, logits, count, candidates);
    int64_t kept = count;
    if (s->top_p < 1) {
        kept = drop_unlikely(s, candidates, count, sum);
        qsort(candidates, (size_t)kept, sizeof *candidates, by_weight);
        kept = reach(candidates, kept, s->top_p * sum) + 1;
        sum = 0;
        for (int64_t i = 0; i < kept; i++) sum += candidates[i].weight;
    }
    RandomKey key = {.seed = s->seed, .stream = RANDOM_GENERATE};
    double drawn = (double)random_uniform(key, number) * sum;
    int64_t token = candidates[reach(candidates, kept, drawn)].token;
    arena_free(arena);
    return token;
}
