/* The only door to OpenBLAS: BLAS, and the LAPACK that Debian builds into it. Training does not
 * pass through it: core/gemm.h is faster on its shapes. It is the mark that `nibble bench` measures
 * beside them, and it factors GPTQ's Hessians (qat/ptq/hessian.h), and
 * finds the largest parts of what quantization lost (qat/loftq.h).
 *
 * Matrices are row-major. All but the first two calls work on the calling thread alone, inside an
 * active parallel region or where a region has one thread: elsewhere OpenBLAS's OpenMP build starts
 * threads of its own, and the bits change. So results depend on shapes and OpenBLAS's kernels
 * (blas_description), never on the number of threads. */
#ifndef NIBBLE_CORE_BLAS_H
#define NIBBLE_CORE_BLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"

/* Whether several threads may call the OpenBLAS that was loaded: its serial build may not be. Puts
 * the others on one thread of their own each. Call it before any of the following. */
bool blas_may_be_shared(void);

/* "OpenBLAS 0.3.21 Zen openmp": for env.json. */
const char *blas_description(void);

/* c = alpha op(a) op(b) + beta c */
void blas_sgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                int64_t ldc);
/* The same in double; of a build that may not be shared, one call waits for the other. */
void blas_dgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double alpha,
                const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                int64_t ldc);

/* a [n, n], symmetric, of which the lower triangle is read, becomes the lower triangle L of
 * a = L L^T (the strict upper triangle stays). False where a is not positive definite, or holds
 * what is not finite: a's lower triangle means nothing then. */
bool blas_cholesky(double *a, int64_t n);

/* The lower triangle of a [n, n] becomes its inverse (the strict upper triangle stays). False where
 * a diagonal element is 0. */
bool blas_invert_triangle(double *a, int64_t n);

/* The `count` largest eigenvalues of a [n, n], symmetric, of which the lower triangle is read, in
 * descending order, and an eigenvector of each, a row of vectors [count, n]. `a` is overwritten.
 * False where it holds what is not finite. `arena`: for the work. */
bool blas_eigen(double *a, int64_t n, int64_t count, double *values, double *vectors, Arena *arena);

#endif
