#include "core/blas.h"

#include <cblas.h>
#include <f77blas.h> /* OpenBLAS's own prototypes of LAPACK */
#include <math.h>
#include <stdio.h>

/* What openblas_get_parallel() answers. */
enum { BUILD_SERIAL = 0, BUILD_PTHREAD = 1, BUILD_OPENMP = 2 };

bool blas_may_be_shared(void) {
    int build = openblas_get_parallel();
    /* The OpenMP build is on one thread inside our regions; the call would shrink them too. */
    if (build == BUILD_PTHREAD) openblas_set_num_threads(1);
    return build != BUILD_SERIAL;
}

const char *blas_description(void) {
    static char text[96];
    static const char *const builds[] = {
        [BUILD_SERIAL] = "serial", [BUILD_PTHREAD] = "pthread", [BUILD_OPENMP] = "openmp"};
    int build = openblas_get_parallel();
    char version[32] = "?";
    sscanf(openblas_get_config(), "OpenBLAS %31s", version);
    snprintf(text, sizeof text, "OpenBLAS %s %s %s", version, openblas_get_corename(),
             build >= BUILD_SERIAL && build <= BUILD_OPENMP ? builds[build] : "unknown");
    return text;
}

void blas_sgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                int64_t ldc) {
    cblas_sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
                b_transposed ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha,
                a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

static void dgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k,
                  double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                  double beta, double *c, int64_t ldc) {
    cblas_dgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
                b_transposed ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha,
                a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

void blas_dgemm(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double alpha,
                const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                int64_t ldc) {
    if (openblas_get_parallel() != BUILD_SERIAL) {
        dgemm(a_transposed, b_transposed, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
#pragma omp critical(serial_blas)
    dgemm(a_transposed, b_transposed, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* LAPACK's matrices are column-major: its upper triangle is our lower one, transposed. */
static char upper[] = "U", not_unit[] = "N";

bool blas_cholesky(double *a, int64_t n) {
    blasint size = (blasint)n, info = 0;
    BLASFUNC(dpotrf)(upper, &size, a, &size, &info);
    for (int64_t i = 0; i < n && info == 0; i++)
        if (!isfinite(a[i * n + i])) return false; /* a NaN is not below 0 */
    return info == 0;
}

bool blas_invert_triangle(double *a, int64_t n) {
    blasint size = (blasint)n, info = 0;
    BLASFUNC(dtrtri)(upper, not_unit, &size, a, &size, &info);
    return info == 0;
}

/* Not among them. The lengths of its three texts come last, as Fortran passes them. */
void BLASFUNC(dsyevr)(const char *job, const char *range, const char *triangle, const blasint *n,
                      double *a, const blasint *lda, const double *low, const double *high,
                      const blasint *first, const blasint *last, const double *tolerance,
                      blasint *found, double *values, double *vectors, const blasint *ldv,
                      blasint *support, double *work, const blasint *work_count, blasint *whole,
                      const blasint *whole_count, blasint *info, size_t, size_t, size_t);

/* Eigenvalues come in ascending order. */
static void turn_around(double *values, double *vectors, int64_t count, int64_t n) {
    for (int64_t i = 0, j = count - 1; i < j; i++, j--) {
        double value = values[i];
        values[i] = values[j];
        values[j] = value;
        for (int64_t k = 0; k < n; k++) {
            double kept = vectors[i * n + k];
            vectors[i * n + k] = vectors[j * n + k];
            vectors[j * n + k] = kept;
        }
    }
}

bool blas_eigen(double *a, int64_t n, int64_t count, double *values, double *vectors,
                Arena *arena) {
    enum { WORK = 64 /* per row: what LAPACK likes at its block size */ };
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            if (!isfinite(a[i * n + j])) return false;
    blasint size = (blasint)n, first = (blasint)(n - count + 1), found = 0, info = 0;
    blasint work_count = WORK * size, whole_count = 10 * size;
    double *all = arena_new_array(arena, double, n), no_limit = 0, tolerance = 0;
    double *work = arena_new_array(arena, double, work_count);
    blasint *whole = arena_new_array(arena, blasint, whole_count);
    blasint *support = arena_new_array(arena, blasint, 2 * n);
    BLASFUNC(dsyevr)
    ("V", "I", upper, &size, a, &size, &no_limit, &no_limit, &first, &size, &tolerance, &found, all,
     vectors, &size, support, work, &work_count, whole, &whole_count, &info, 1, 1, 1);
    for (int64_t i = 0; i < count; i++) values[i] = all[i];
    turn_around(values, vectors, count, n);
    return info == 0 && found == count;
}
