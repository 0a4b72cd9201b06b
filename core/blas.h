/* The only door to BLAS: single-thread f32 products, called inside active parallel regions. */
#ifndef NIBBLE_CORE_BLAS_H
#define NIBBLE_CORE_BLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

/* Checks that the loaded OpenBLAS is a variant that may be called from several threads, and puts it
 * on one thread where that is needed. Called by parallel_init. */
bool blas_init(Error *err);

/* "OpenBLAS 0.3.21 Zen openmp": for env.json. */
const char *blas_description(void);

/* c = alpha op(a) op(b) + beta c, row-major, on the calling thread alone. Must be called inside an
 * active parallel region (one with at least two threads, or with omp_set_num_threads(1) in force):
 * elsewhere OpenBLAS's OpenMP build starts threads of its own, and the bits change. */
void blas_sgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                int64_t ldc);

#endif
