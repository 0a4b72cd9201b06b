/* What GPTQ knows of a layer's inputs: H = 2 / n sum x x^T over the columns x that the layer's rows
 * are multiplied with, n samples in all (Frantar et al. 2022, "GPTQ"), in double.
 *
 * A convolution has a column for each output pixel, in the order of its weight's elements: tap by
 * tap, channel by channel. Each of its groups has a matrix of its own. Sums run over blocks of rows
 * and over tiles that shapes alone decide, so threads change no bit. */
#ifndef NIBBLE_QAT_PTQ_HESSIAN_H
#define NIBBLE_QAT_PTQ_HESSIAN_H

#include "core/conv.h"
#include "core/error.h"

typedef struct Hessian {
    int64_t groups, size; /* matrices, and their edge */
    int64_t samples;      /* seen */
    double *sum;          /* [groups, size, size]; symmetric once finished */
    double *panel;        /* columns of a block */
} Hessian;

/* The bytes that hessian_new takes for a layer of this geometry. */
int64_t hessian_bytes(const ConvGeometry *geometry);

/* Of zeros, in memory of `arena`. */
Hessian hessian_new(const ConvGeometry *geometry, Arena *arena);

/* Adds a batch: values x [batch, in_h, in_w, in_c], of which `samples` are counted. Not within a
 * parallel region. */
void hessian_add(Hessian *h, const ConvGeometry *geometry, const float *x, int64_t samples);

/* From sums of products to H. */
void hessian_finish(Hessian *h);

/* The upper triangle U, row-major [size, size], of (H + damping mean(diag H) I)^-1 = U^T U, H's
 * rows and columns taken in `order` (NULL: as they are). False where that is not positive definite.
 * Not within a parallel region. */
bool hessian_factor(const double *h, int64_t size, const int64_t *order, double damping,
                    double *factor);

#endif
