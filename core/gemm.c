#include "core/gemm.h"

#include <assert.h>
#include <string.h>

#include "core/blas.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum {
    TILE_M_MAX = 128,
    TILE_N_MAX = 256,
    TILE_MIN = 32,
    TILES_WANTED = 4, /* so that several threads share a small product */
};

/* op(matrix) as BLAS reads it, in f32. */
typedef struct Side {
    const float *data;
    int64_t row_stride;
    bool is_transposed;
} Side;

/* One product after its operands are plain. */
typedef struct Product {
    Side a, b;
    int64_t m, n, k;
    int64_t exact_k;                    /* levels: products that one f32 sum may hold; 0: values */
    const float *a_scale, *b_scale;     /* levels: per row of op(a), per column of op(b) */
    int64_t a_scale_step, b_scale_step; /* 0: one scale for all, 1: one each */
    const float *bias;
    float beta;
    float *c;
    int64_t c_row_stride;
} Product;

typedef struct Tile {
    int64_t i, j, m, n;
} Tile;

Matrix matrix_of(Tensor tensor) {
    int64_t cols = shape_last(tensor.shape);
    return (Matrix){tensor, shape_rows(tensor.shape), cols, cols, false};
}

Matrix matrix_transposed(Matrix matrix) {
    matrix.is_transposed = !matrix.is_transposed;
    return matrix;
}

static int64_t op_rows(const Matrix *matrix) {
    return matrix->is_transposed ? matrix->cols : matrix->rows;
}

static int64_t op_cols(const Matrix *matrix) {
    return matrix->is_transposed ? matrix->rows : matrix->cols;
}

/* Levels under one scale, or (`is_stored_along`: the outer dimension of op() is the stored rows)
 * under one scale per stored row. */
static bool scales_fit(const Matrix *matrix, bool is_stored_along) {
    const Scales *scales = matrix->tensor.scales;
    if (!scales) return false;
    if (scales->count == 1) return true;
    return is_stored_along && scales->row_length == matrix->cols &&
           scales->run_length == matrix->cols;
}

static Side side_of(const Matrix *matrix, const float *data) {
    return (Side){data, matrix->row_stride, matrix->is_transposed};
}

static void blas_tile(const Product *p, Tile t, int64_t k_first, int64_t k, float beta, float *c,
                      int64_t c_row_stride) {
    Side a = p->a, b = p->b;
    int64_t a_offset =
        a.is_transposed ? k_first * a.row_stride + t.i : t.i * a.row_stride + k_first;
    int64_t b_offset =
        b.is_transposed ? t.j * b.row_stride + k_first : k_first * b.row_stride + t.j;
    blas_sgemm(a.is_transposed, b.is_transposed, t.m, t.n, k, 1.0f, a.data + a_offset, a.row_stride,
               b.data + b_offset, b.row_stride, beta, c, c_row_stride);
}

static void epilogue_apply(const Product *p, Tile t) {
    for (int64_t i = 0; i < t.m; i++) {
        float *c = p->c + (t.i + i) * p->c_row_stride + t.j;
        if (p->exact_k) {
            float a_scale = p->a_scale[(t.i + i) * p->a_scale_step];
            for (int64_t j = 0; j < t.n; j++)
                c[j] *= a_scale * p->b_scale[(t.j + j) * p->b_scale_step];
        }
        if (p->bias)
            for (int64_t j = 0; j < t.n; j++) c[j] += p->bias[t.j + j];
    }
}

/* Sums of levels that f32 cannot hold: exact f32 partial sums, added exactly in double (integers up
 * to 2^53), rounded to f32 once. `part` and `sum` hold a tile each. */
static void tile_in_chunks(const Product *p, Tile t, float *part, double *sum) {
    memset(sum, 0, (size_t)(t.m * t.n) * sizeof *sum);
    for (int64_t first = 0; first < p->k; first += p->exact_k) {
        int64_t k = p->k - first < p->exact_k ? p->k - first : p->exact_k;
        blas_tile(p, t, first, k, 0.0f, part, t.n);
        for (int64_t i = 0; i < t.m * t.n; i++) sum[i] += (double)part[i];
    }
    for (int64_t i = 0; i < t.m; i++)
        for (int64_t j = 0; j < t.n; j++)
            p->c[(t.i + i) * p->c_row_stride + t.j + j] = (float)sum[i * t.n + j];
}

static int64_t pieces(int64_t size, int64_t piece) {
    return (size + piece - 1) / piece;
}

/* From the shape alone, never from the number of threads. */
static Tile tile_choose(int64_t m, int64_t n) {
    Tile t = {.m = TILE_M_MAX, .n = TILE_N_MAX};
    while (pieces(m, t.m) * pieces(n, t.n) < TILES_WANTED && t.n > TILE_MIN) {
        if (t.n >= t.m)
            t.n /= 2;
        else
            t.m /= 2;
    }
    return t;
}

static void product_run(const Product *p, Arena *scratch) {
    bool in_chunks = p->exact_k && p->exact_k < p->k;
    Tile size = tile_choose(p->m, p->n);
    int64_t tile_size = size.m * size.n, threads = parallel_threads();
    float *parts = NULL;
    double *sums = NULL;
    if (in_chunks) {
        parts = arena_alloc(scratch, (size_t)(threads * tile_size) * sizeof *parts);
        sums = arena_alloc(scratch, (size_t)(threads * tile_size) * sizeof *sums);
    }
    int64_t columns = pieces(p->n, size.n), tiles = pieces(p->m, size.m) * columns;
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < tiles; index++) {
        Tile t = {index / columns * size.m, index % columns * size.n, size.m, size.n};
        if (t.m > p->m - t.i) t.m = p->m - t.i;
        if (t.n > p->n - t.j) t.n = p->n - t.j;
        int64_t self = parallel_self();
        if (in_chunks)
            tile_in_chunks(p, t, parts + self * tile_size, sums + self * tile_size);
        else
            blas_tile(p, t, 0, p->k, p->beta, p->c + t.i * p->c_row_stride + t.j, p->c_row_stride);
        epilogue_apply(p, t);
    }
}

void gemm(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride, const Epilogue *epilogue,
          Arena *scratch) {
    assert(op_cols(&a) == op_rows(&b));
    assert(operand_is_plain(&a.tensor) || a.row_stride == a.cols);
    assert(operand_is_plain(&b.tensor) || b.row_stride == b.cols);
    assert(beta == 0.0f || !epilogue);
    bool on_levels =
        beta == 0.0f && scales_fit(&a, !a.is_transposed) && scales_fit(&b, b.is_transposed);
    if (on_levels && kernels_reference()) {
        gemm_integer_reference(a, b, c, c_row_stride, epilogue);
        return;
    }
    ArenaMark mark = arena_mark(scratch);
    Product p = {.m = op_rows(&a),
                 .n = op_cols(&b),
                 .k = op_cols(&a),
                 .bias = epilogue ? epilogue->bias : NULL,
                 .beta = beta,
                 .c = c,
                 .c_row_stride = c_row_stride};
    if (on_levels) {
        const Scales *as = a.tensor.scales, *bs = b.tensor.scales;
        p.exact_k = exact_products(as, bs);
        p.a_scale = as->scale, p.a_scale_step = as->count > 1;
        p.b_scale = bs->scale, p.b_scale_step = bs->count > 1;
        p.a = side_of(&a, operand_levels(&a.tensor, scratch));
        p.b = side_of(&b, operand_levels(&b.tensor, scratch));
    } else {
        p.a = side_of(&a, operand_values(&a.tensor, scratch));
        p.b = side_of(&b, operand_values(&b.tensor, scratch));
    }
    product_run(&p, scratch);
    arena_rewind(scratch, mark);
}
