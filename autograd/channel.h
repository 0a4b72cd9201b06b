/* Passes over a [rows, channels] matrix, channels last: what biases and norms share.
 *
 * Sums take rows in chunks that depend on the shape only: floats within CHANNEL_ROWS rows, doubles
 * beyond, chunks added in order. So the bits are the same for any number of threads. */
#ifndef NIBBLE_AUTOGRAD_CHANNEL_H
#define NIBBLE_AUTOGRAD_CHANNEL_H

#include <stdint.h>

#include "autograd/tape.h"

enum {
    CHANNEL_ROWS = 64,  /* rows summed in float before a double takes over */
    CHANNEL_PANEL = 256 /* channels that a block sums at a time */
};

/* Adds to sums[width] what rows first .. first + count - 1 (at most CHANNEL_ROWS) contribute. */
typedef void ChannelBlock(const void *self, int64_t first, int64_t count, double *sums);

/* sums[width] over all rows, block by block. `scratch` is left as it was found. */
void channel_reduce(int64_t rows, int64_t width, ChannelBlock *block, const void *self,
                    double *sums, Arena *scratch);

int64_t channel_reduce_scratch(int64_t rows, int64_t width); /* bytes */

/* out[c] = beta out[c] + sum over rows of x: the gradient of a bias. beta 0 overwrites. */
void channel_sum(const float *x, int64_t rows, int64_t channels, float beta, float *out,
                 Arena *scratch);
int64_t channel_sum_scratch(int64_t rows, int64_t channels); /* bytes */

/* mean[c] and variance[c] (divided by rows) of x [..., channels], each block in two passes, blocks
 * merged pairwise (Chan, Golub, LeVeque 1979), so that a large mean costs no precision. */
void channel_moments(const Tensor *x, float *mean, float *variance, Arena *scratch);

/* The same of x's values: those that its writer left (Var.moments), or found now. */
void channel_moments_of(Tape *t, const Var *x, float *mean, float *variance);
int64_t channel_moments_scratch(const Var *x); /* bytes of the tape's arena; before x is written */

/* The same in parts: of images (of which there must be enough), one each, so that their writer adds
 * them while they are in cache. `new`, `add` for every part once, by any threads, and `finish` give
 * the same bits. */
typedef struct MomentParts {
    const Tensor *x;
    double *mean, *squares; /* [parts][channels] */
    float *decoded;         /* per thread */
} MomentParts;

bool channel_has_images(Shape shape); /* whether parts are images */
MomentParts moment_parts_new(const Tensor *x, Arena *scratch);
void moment_parts_add(const MomentParts *parts, int64_t part);
void moment_parts_finish(const MomentParts *parts, float *mean, float *variance);
int64_t moment_parts_scratch(const Tensor *x); /* bytes */

/* ---- Of a block of rows, on one thread: what maps are made of (autograd/map.h). ---- */

/* sums[c] += sum of x; at most CHANNEL_ROWS rows in float before a double takes over. */
void channel_sums(const float *x, int64_t rows, int64_t channels, double *sums);

/* sums[c] += sum of dy, products[c] += sum of dy (x - mean[c]); at most CHANNEL_ROWS rows in float
 * before a double takes over. */
void channel_products(const float *dy, const float *x, const float *mean, int64_t rows,
                      int64_t channels, double *sums, double *products);

/* y = (x - mean[c]) scale[c] + shift[c]. */
void channel_affine(const float *x, const float *mean, const float *scale, const float *shift,
                    int64_t rows, int64_t channels, float *y);

/* dx = a[c] dy + b[c] (x - mean[c]) + k[c]. */
void channel_affine_backward(const float *dy, const float *x, const float *mean, const float *a,
                             const float *b, const float *k, int64_t rows, int64_t channels,
                             float *dx);

/* ---- */

/* grad[c] = beta grad[c] + factor[c] sums[c]; factor NULL: 1; grad NULL: nothing. */
void channel_add(float *grad, float beta, const float *factor, const double *sums,
                 int64_t channels);

#endif
