#include "qat/loftq.h"

#include <math.h>
#include <string.h>

#include "core/blas.h"

enum { BAND = 64 /* rows of the Gram matrix that one thread makes at a time */ };

/* The shorter side of the matrix in rows: E itself, or its transpose. [rows, columns] in double. */
typedef struct Side {
    double *values;
    int64_t rows, columns;
    bool is_transposed;
} Side;

static Side side_of(const float *residual, int64_t out, int64_t in, Arena *scratch) {
    Side e = {.rows = out, .columns = in, .is_transposed = out > in};
    if (e.is_transposed) e.rows = in, e.columns = out;
    e.values = arena_new_array(scratch, double, out *in);
    for (int64_t i = 0; i < out; i++)
        for (int64_t j = 0; j < in; j++)
            e.values[e.is_transposed ? j * out + i : i * in + j] = (double)residual[i * in + j];
    return e;
}

/* The lower triangle of E E^T, in bands of rows. */
static double *gram_of(const Side *e, Arena *scratch) {
    int64_t n = e->rows, bands = (n + BAND - 1) / BAND;
    double *gram = arena_new_array(scratch, double, n *n);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < bands; i++) {
        int64_t first = i * BAND, end = first + BAND < n ? first + BAND : n;
        blas_dgemm(false, true, end - first, end, e->columns, 1, e->values + first * e->columns,
                   e->columns, e->values, e->columns, 0, gram + first * n, n);
    }
    return gram;
}

/* The left vectors u of E, [count, rows], and the squares of the singular values. */
static bool find_vectors(const Side *e, int64_t count, double *squares, double *u, Arena *scratch) {
    double *gram = gram_of(e, scratch);
    bool ok = false;
#pragma omp parallel
#pragma omp single /* the door's rule: within a region */
    ok = blas_eigen(gram, e->rows, count, squares, u, scratch);
    return ok;
}

/* u^T E / s, [columns]: the right vector. */
static void right_vector(const Side *e, const double *u, double singular, double *v) {
    memset(v, 0, sizeof *v * (size_t)e->columns);
    for (int64_t i = 0; i < e->rows; i++)
        for (int64_t j = 0; j < e->columns; j++)
            v[j] += u[i] / singular * e->values[i * e->columns + j];
}

bool loftq_factor(const float *residual, int64_t out, int64_t in, int64_t rank, float factor,
                  float *a, float *b, Arena *scratch, Error *err) {
    ArenaMark mark = arena_mark(scratch);
    blas_may_be_shared();
    Side e = side_of(residual, out, in, scratch);
    int64_t count = rank < e.rows ? rank : e.rows;
    double *squares = arena_new_array(scratch, double, count);
    double *u = arena_new_array(scratch, double, count *e.rows);
    double *v = arena_new_array(scratch, double, e.columns);
    bool ok = find_vectors(&e, count, squares, u, scratch);
    memset(b, 0, sizeof *b * (size_t)(out * rank));
    for (int64_t k = 0; ok && k < count; k++) {
        /* The Gram matrix holds squares: below this they are rounding. */
        if (squares[k] <= 1e-14 * squares[0]) break;
        double singular = sqrt(squares[k]), share = sqrt(singular / (double)factor);
        right_vector(&e, u + k * e.rows, singular, v);
        const double *left = e.is_transposed ? v : u + k * e.rows;
        const double *right = e.is_transposed ? u + k * e.rows : v;
        for (int64_t i = 0; i < out; i++) b[i * rank + k] = (float)(share * left[i]);
        for (int64_t j = 0; j < in; j++) a[k * in + j] = (float)(share * right[j]);
    }
    arena_rewind(scratch, mark);
    return ok || FAIL(err, ERROR_NUMERIC, "loftq: the weight holds numbers that are not finite");
}
