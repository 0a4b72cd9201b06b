#include "experiments/bench/bench_samples.h"

#include <stdlib.h>
#include <string.h>

void bench_samples_add(BenchSamples *samples, double value) {
    if (!bench_samples_is_full(samples)) samples->value[samples->count++] = value;
}

bool bench_samples_is_full(const BenchSamples *samples) {
    return samples->count == BENCH_SAMPLES_MAX;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the two neighbours of a place, in proportion. */
static double quantile(const double *sorted, int count, double share) {
    double place = share * (count - 1);
    int low = (int)place, high = low + 1 < count ? low + 1 : low;
    return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}

BenchFigure bench_samples_figure(const BenchSamples *samples) {
    double sorted[BENCH_SAMPLES_MAX];
    if (!samples->count) return (BenchFigure){0};
    memcpy(sorted, samples->value, sizeof *sorted * (size_t)samples->count);
    qsort(sorted, (size_t)samples->count, sizeof *sorted, compare);
    double median = quantile(sorted, samples->count, 0.5);
    double width = quantile(sorted, samples->count, 0.75) - quantile(sorted, samples->count, 0.25);
    return (BenchFigure){median, median > 0 ? width / median : 0};
}
