#include "experiments/compare/statistics.h"

#include <math.h>

static const double NORMAL_CRITICAL = 1.959963984540054; /* 0.975 quantile */

/* The continued fraction of the incomplete beta function (Lentz), which converges fast for
 * x < (a + 1) / (a + b + 2). */
static double beta_fraction(double a, double b, double x) {
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double h = d;
    for (int m = 1; m <= 500; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        double last = h;
        for (int i = 0; i < 2; i++) {
            double step = i ? odd : even;
            d = 1 + step * d;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = 1 + step / c;
            c = fabs(c) < tiny ? tiny : c;
            h *= c * d;
        }
        if (fabs(h - last) <= 1e-16 * fabs(h)) break;
    }
    return h;
}

/* I_x(a, b), regularized. */
static double beta_incomplete(double a, double b, double x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    double scale = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2)) return scale * beta_fraction(a, b, x) / a;
    return 1 - scale * beta_fraction(b, a, 1 - x) / b;
}

/* P(|T| > t) */
static double student_tails(double t, int degrees) {
    return beta_incomplete(degrees / 2.0, 0.5, degrees / (degrees + t * t));
}

double student_critical(int degrees) {
    double low = 0, high = 16; /* of one degree it is 12.7 */
    for (int i = 0; i < 80; i++) {
        double middle = (low + high) / 2;
        if (student_tails(middle, degrees) > 0.05)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

/* The variance of a ratio of sums, linearized (Cochran, Sampling Techniques, 6.4). */
Interval weighted_interval(const double *values, const double *weights, int count) {
    double sum = 0, all = 0, squares = 0;
    for (int i = 0; i < count; i++) {
        sum += weights[i] * values[i];
        all += weights[i];
    }
    double mean = all > 0 ? sum / all : NAN;
    if (count < 2 || isnan(mean)) return (Interval){mean, NAN, NAN};
    for (int i = 0; i < count; i++) {
        double part = weights[i] * (values[i] - mean) / all;
        squares += part * part;
    }
    double half = student_critical(count - 1) * sqrt(squares * count / (count - 1));
    return (Interval){mean, mean - half, mean + half};
}

Interval interval_of(const double *values, int count) {
    double sum = 0, squares = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    double mean = count ? sum / count : NAN;
    for (int i = 0; i < count; i++) squares += (values[i] - mean) * (values[i] - mean);
    if (count < 2) return (Interval){mean, NAN, NAN};
    double half = student_critical(count - 1) * sqrt(squares / (count - 1) / count);
    return (Interval){mean, mean - half, mean + half};
}

Interval disagreement_difference(Disagreement d) {
    double n = (double)d.rows;
    if (d.rows < 2) return (Interval){NAN, NAN, NAN};
    double mean = (double)(d.better - d.worse) / n;
    double variance = ((double)(d.better + d.worse) - n * mean * mean) / (n - 1);
    double half = NORMAL_CRITICAL * sqrt(fmax(variance, 0) / n);
    return (Interval){mean, mean - half, mean + half};
}

/* Twice P(X <= fewer) of `all` throws of a coin. */
static double binomial_tails(int64_t fewer, int64_t all) {
    double sum = 0, n = (double)all;
    for (int64_t i = 0; i <= fewer; i++) {
        double k = (double)i;
        sum += exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * M_LN2);
    }
    return fmin(1, 2 * sum);
}

double mcnemar(int64_t better, int64_t worse) {
    int64_t all = better + worse, fewer = better < worse ? better : worse;
    if (better == worse) return 1;
    if (all < MCNEMAR_EXACT) return binomial_tails(fewer, all);
    double excess = (double)(all - 2 * fewer) - 1; /* continuity */
    return erfc(sqrt(excess * excess / (double)all / 2));
}
