/* The only door to BLAS. Training does not pass through it: core/gemm.h is faster on its shapes. It
 * is the mark that `nibble bench` measures beside them. */
#ifndef NIBBLE_CORE_BLAS_H
#define NIBBLE_CORE_BLAS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether several threads may call the OpenBLAS that was loaded: its serial build may not be. Puts
 * the others on one thread of their own each. Call it before blas_sgemm. */
bool blas_may_be_shared(void);

/* "OpenBLAS 0.3.21 Zen openmp": for env.json. */
const char *blas_description(void);

/* c = alpha op(a) op(b) + beta c, row-major, on the calling thread alone, inside an active parallel
 * region: elsewhere OpenBLAS's OpenMP build starts threads of its own. */
void blas_sgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                int64_t ldc);

#endif
