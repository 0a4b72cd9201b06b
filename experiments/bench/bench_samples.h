/* Measurements of one thing: their median, and how far they lie apart. */
#ifndef NIBBLE_EXPERIMENTS_BENCH_BENCH_SAMPLES_H
#define NIBBLE_EXPERIMENTS_BENCH_BENCH_SAMPLES_H

#include <stdbool.h>

enum { BENCH_SAMPLES_MAX = 1024 };

typedef struct BenchSamples {
    int count;
    double value[BENCH_SAMPLES_MAX];
} BenchSamples;

typedef struct BenchFigure {
    double median;
    double spread; /* upper less lower quartile, as a share of the median */
} BenchFigure;

void bench_samples_add(BenchSamples *samples, double value); /* nothing once it is full */
bool bench_samples_is_full(const BenchSamples *samples);
BenchFigure bench_samples_figure(const BenchSamples *samples); /* zeros when there are none */

#endif
