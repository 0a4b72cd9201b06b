/* What can be said of figures that differ by chance: intervals over seeds and over test rows, and
 * whether two networks differ in which rows they get right. Textbook formulas; tests compare them
 * with scipy's values. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_STATISTICS_H
#define NIBBLE_EXPERIMENTS_COMPARE_STATISTICS_H

#include <stdint.h>

/* A mean and its 95 % confidence interval; NAN where nothing is known. */
typedef struct Interval {
    double mean, low, high;
} Interval;

/* Over `count` independent values, by Student's t. Of one value there is no interval. */
Interval interval_of(const double *values, int count);

/* The same of a mean in which each value has a weight: the difference of two losses, of batches
 * that have some samples each. */
Interval weighted_interval(const double *values, const double *weights, int count);

/* The two-sided critical value: of `degrees` of freedom, t is beyond it with probability 0.05. */
double student_critical(int degrees);

/* Of two networks on the same rows, those that one of them alone got right. */
typedef struct Disagreement {
    int64_t rows;          /* all rows */
    int64_t better, worse; /* rows right in the second network alone, in the first alone */
} Disagreement;

/* The difference in accuracy, second less first, with the interval that pairing by row gives: the
 * normal approximation to the mean of one 1, 0 or -1 a row. */
Interval disagreement_difference(Disagreement d);

/* McNemar's test: how probable so uneven a disagreement is if both networks are as good. Exact
 * (binomial, two-sided) below MCNEMAR_EXACT rows of disagreement, chi-square with continuity
 * correction from there on. 1 where they do not disagree. */
enum { MCNEMAR_EXACT = 100 };
double mcnemar(int64_t better, int64_t worse);

#endif
