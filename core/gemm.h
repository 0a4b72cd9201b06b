/* Matrix products over any dtype.
 *
 * Same bits for any number of threads, and for any other rows or columns in the same product: each
 * result is one chain of multiply-adds in order of k (with and without fused multiply-add they
 * differ). */
#ifndef NIBBLE_CORE_GEMM_H
#define NIBBLE_CORE_GEMM_H

#include "core/tensor.h"

/* A matrix as stored, `rows` by `cols`, consecutive rows `row_stride` elements apart, and whether
 * the product reads it transposed. Matrices that are not plain f32 values have row_stride == cols.
 */
typedef struct Matrix {
    Tensor tensor;
    int64_t rows, cols, row_stride;
    bool is_transposed;
} Matrix;

Matrix matrix_of(Tensor tensor); /* rows: all dimensions but the last */
Matrix matrix_transposed(Matrix matrix);

enum { GEMM_BLOCK = 32 /* results are made in blocks of so many rows and columns, or fewer */ };

/* A finished block of c, rows `row` .. row + rows - 1, still in the cache of the thread that made
 * it. */
typedef struct GemmBlock {
    int64_t row, column, rows, columns;
    float *values; /* [rows][GEMM_BLOCK], the taker's to change */
} GemmBlock;

typedef void GemmTake(void *context, const GemmBlock *block);

/* What happens to a block of the product while it is in cache. */
typedef struct Epilogue {
    const float *bias; /* [n] or NULL, added after scaling */
    GemmTake *take; /* gets every block, once, in any order and on any thread, instead of c, which
                       is then not touched; or NULL */
    void *context;  /* its first argument */
} Epilogue;

/* c [m, n] = op(a) [m, k] op(b) [k, n] + beta c, then the epilogue (NULL: none; needs beta 0).
 * Blocks begin at multiples of GEMM_BLOCK.
 *
 * When `a` holds levels under one scale per tensor or per row of op(a) and `b` holds levels under
 * one scale per tensor or per column of op(b), the product runs on the levels: an exact integer sum
 * (in f32 while no sum can reach 2^24; beyond, such sums over stretches of k are added in wider
 * integers held in double), converted to f32 once, then
 *     c = float(sum) * (scale_a * scale_b) + bias
 * in just this order. Of any other kind, values are multiplied, and the chain begins with beta c.
 * `a` is made ready whole where it cannot be used as it lies; of
 * `b`, the weights, a thread decodes at most 128 columns of op(b) at a time. A product without rows
 * or columns is nothing. `scratch` is left as it was found. */
void gemm(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride, const Epilogue *epilogue,
          Arena *scratch);

/* The same with c a dense f32 or half-precision tensor, to which a product is rounded once (only
 * f32 under kernels_use_reference); NULL where the epilogue takes the blocks. */
void gemm_tensor(Matrix a, Matrix b, float beta, const Tensor *c, const Epilogue *epilogue,
                 Arena *scratch);

/* Bytes that such a product takes from its scratch, with the present number of threads; of tensors
 * without data. */
int64_t gemm_scratch(Matrix a, Matrix b, float beta);

/* The plain references that tests compare with. gemm_reference sums in double;
 * gemm_integer_reference needs levels on both sides and sums in int32_t (asserted to be in range:
 * at 8 bits affine, k below 33,026), with the epilogue above. */
void gemm_reference(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride,
                    const Epilogue *epilogue);
void gemm_integer_reference(Matrix a, Matrix b, float *c, int64_t c_row_stride,
                            const Epilogue *epilogue);

#endif
