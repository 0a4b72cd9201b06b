/* A histogram of values whose range grows by doubling, so that it never needs values seen before
 * and does not depend on the order in which they came within a batch. A few values far outside do
 * not make it coarse: they are counted in the outer bins, and where they came first, counting
 * begins anew with finer ones.
 *
 * Bins are equal, half on either side of 0, and cover [-limit, limit] with limit a power of two:
 *
 *     -limit                 0                  limit
 *        | 0 | 1 | 2 |  ...  | 2048 | ... | 4095 |
 *
 * When more values lie beyond than may, limit doubles and pairs of bins, counted outwards from 0,
 * become one.
 */
#ifndef NIBBLE_QAT_HISTOGRAM_H
#define NIBBLE_QAT_HISTOGRAM_H

#include "qat/quantizer.h"

enum { HISTOGRAM_BINS = PROBE_BINS };

typedef struct Histogram {
    float *counts; /* [HISTOGRAM_BINS]; not whole numbers once counts decay */
    float *limit;  /* [1]; 0: nothing seen yet */
    Probe *probe;  /* with counts of its own: how a batch is counted. It asks for `limit` as it was
                    after the batch before, so that who writes the next one can answer */
} Histogram;

/* Multiplies what was counted by `decay` (1: keeps all) and counts the values, which are read where
 * h.probe is not answered (seen.is_seen), or the limit changes. At most a share `beyond` of the
 * values lies in or beyond the outer bins, where that needs finer ones (0: none does). False, and
 * no change, when all are 0 or one is not finite (or beyond 2^125). */
bool histogram_add(Histogram h, Observed seen, float decay, double beyond);

/* Where a fraction `at` of the values lies below, linear within a bin; or of their magnitudes. */
float histogram_quantile(Histogram h, double at);
float histogram_magnitude_quantile(Histogram h, double at);

/* The middle of each bin. */
void histogram_centres(Histogram h, float centres[HISTOGRAM_BINS]);

extern const double histogram_tail; /* a millionth */

/* Of the counted values, what is between all but a millionth on either side: where a search for a
 * range begins, however far one value lay. */
Range histogram_range(Histogram h);

/* The range with the least squared error over the counted values (qat/range.h). */
Range histogram_search(Histogram h, Grid grid, bool is_affine, Dtype scale_dtype, int candidates);

/* The buffers "<name>.histogram" [HISTOGRAM_BINS] and "<name>.limit" [1] become q->state, and
 * q->probe counts. */
void histogram_new(Quant *q);
Histogram histogram_of(Quant *q);

#endif
