#include "core/gemm.h"

#include <assert.h>
#include <string.h>

#include "core/blas.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum {
    TILE_M_MAX = 128,
    TILE_N_MAX = 256,
    TILE_MIN = 32,
    TILES_WANTED = 4,          /* so that several threads share a small product */
    SLAB_FLOATS_MAX = 1 << 16, /* decoded columns that stay in the second cache */
};

/* op(matrix) as BLAS reads it, in f32. */
typedef struct Side {
    const float *data;
    int64_t row_stride;
    bool is_transposed;
} Side;

/* One product. `a` is plain; `b` is too, or is decoded a slab of columns at a time. */
typedef struct Product {
    Side a, b;
    const Tensor *b_tensor; /* to be decoded; NULL: b is plain */
    bool has_slabs;         /* tiles are as wide as slabs of b are */
    bool b_as_levels;
    int64_t b_first; /* b.data begins at this column of op(b) */
    int64_t m, n, k;
    int64_t exact_k;                    /* levels: products that one f32 sum may hold; 0: values */
    const float *a_scale, *b_scale;     /* levels: per row of op(a), per column of op(b) */
    int64_t a_scale_step, b_scale_step; /* 0: one scale for all, 1: one each */
    const float *bias;
    float beta;
    float *c; /* NULL: into c_half */
    int64_t c_row_stride;
    const Tensor *c_half;
} Product;

typedef struct Tile {
    int64_t i, j, m, n;
    float *c; /* its part of the product, in f32 */
    int64_t c_row_stride;
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
    int64_t j = t.j - p->b_first;
    int64_t b_offset = b.is_transposed ? j * b.row_stride + k_first : k_first * b.row_stride + j;
    blas_sgemm(a.is_transposed, b.is_transposed, t.m, t.n, k, 1.0f, a.data + a_offset, a.row_stride,
               b.data + b_offset, b.row_stride, beta, c, c_row_stride);
}

static void epilogue_apply(const Product *p, Tile t) {
    for (int64_t i = 0; i < t.m; i++) {
        float *c = t.c + i * t.c_row_stride;
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
        for (int64_t j = 0; j < t.n; j++) t.c[i * t.c_row_stride + j] = (float)sum[i * t.n + j];
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

/* What a thread needs beside the operands. */
typedef struct Workspace {
    float *slab, *part; /* decoded columns of op(b); an f32 partial sum of a tile */
    double *sum;
    float *tile; /* in f32, where c is not */
} Workspace;

static void half_read(const Product *p, Tile t) {
    for (int64_t i = 0; i < t.m; i++)
        operand_read(p->c_half, (t.i + i) * p->c_row_stride + t.j, t.n, t.c + i * t.c_row_stride);
}

static void half_write(const Product *p, Tile t) {
    for (int64_t i = 0; i < t.m; i++)
        operand_write(t.c + i * t.c_row_stride, (t.i + i) * p->c_row_stride + t.j, t.n, p->c_half);
}

static void tile_run(const Product *p, Tile t, const Workspace *w) {
    if (t.m > p->m - t.i) t.m = p->m - t.i;
    if (t.n > p->n - t.j) t.n = p->n - t.j;
    t.c = p->c ? p->c + t.i * p->c_row_stride + t.j : w->tile;
    t.c_row_stride = p->c ? p->c_row_stride : t.n;
    if (!p->c && p->beta != 0.0f) half_read(p, t);
    if (p->exact_k && p->exact_k < p->k)
        tile_in_chunks(p, t, w->part, w->sum);
    else
        blas_tile(p, t, 0, p->k, p->beta, t.c, t.c_row_stride);
    epilogue_apply(p, t);
    if (!p->c) half_write(p, t);
}

static void b_read(const Product *p, int64_t first, int64_t count, float *to) {
    if (p->b_as_levels)
        operand_read(p->b_tensor, first, count, to);
    else
        operand_read_values(p->b_tensor, first, count, to);
}

/* Columns first .. first + count - 1 of op(b), as they are stored but side by side. */
static Product with_slab(const Product *p, int64_t first, int64_t count, float *slab) {
    Product q = *p;
    q.b.data = slab;
    q.b_first = first;
    if (p->b.is_transposed) {
        b_read(p, first * p->k, count * p->k, slab);
        return q;
    }
    for (int64_t row = 0; row < p->k; row++)
        b_read(p, row * p->b.row_stride + first, count, slab + row * count);
    q.b.row_stride = count;
    return q;
}

/* The tiles of one column of tiles, so that a slab is decoded once. */
static void column_run(const Product *p, Tile t, const Workspace *w) {
    int64_t count = p->n - t.j < t.n ? p->n - t.j : t.n;
    Product q = p->b_tensor ? with_slab(p, t.j, count, w->slab) : *p;
    for (t.i = 0; t.i < p->m; t.i += t.m) tile_run(&q, t, w);
}

static Workspace workspace_new(const Product *p, Tile size, Arena *scratch, int64_t threads) {
    bool in_chunks = p->exact_k && p->exact_k < p->k;
    size_t tiles = (size_t)(threads * size.m * size.n), chunked = in_chunks ? tiles : 0;
    size_t slabs = p->b_tensor ? checked_mul((size_t)(threads * size.n), (size_t)p->k) : 0;
    return (Workspace){.slab = arena_alloc(scratch, checked_mul(sizeof(float), slabs)),
                       .part = arena_alloc(scratch, sizeof(float) * chunked),
                       .sum = arena_alloc(scratch, sizeof(double) * chunked),
                       .tile = arena_alloc(scratch, sizeof(float) * (p->c ? 0 : tiles))};
}

static Workspace workspace_of(const Workspace *all, const Product *p, Tile size) {
    int64_t self = parallel_self(), tile = self * size.m * size.n;
    return (Workspace){all->slab + self * size.n * p->k, all->part + tile, all->sum + tile,
                       all->tile + tile};
}

/* Columns of a slab: what fits the cache, in a number of nearly equal slabs that threads share
 * evenly. From the shape alone. */
static int64_t slab_columns(const Product *p, int64_t columns) {
    enum { EVEN = 4, STEP = 8 };
    while (columns > TILE_MIN && columns * p->k > SLAB_FLOATS_MAX) columns /= 2;
    int64_t slabs = (pieces(p->n, columns) + EVEN - 1) / EVEN * EVEN;
    int64_t even = pieces(pieces(p->n, slabs), STEP) * STEP;
    return even < TILE_MIN ? TILE_MIN : even;
}

static void product_run(const Product *p, Arena *scratch) {
    Tile size = tile_choose(p->m, p->n);
    if (p->has_slabs) size.n = slab_columns(p, size.n);
    int64_t columns = pieces(p->n, size.n), tiles = pieces(p->m, size.m) * columns;
    Workspace all = workspace_new(p, size, scratch, parallel_threads());
    isa_active(); /* chosen before threads ask */
#pragma omp parallel for schedule(dynamic)
    for (int64_t index = 0; index < (p->b_tensor ? columns : tiles); index++) {
        Workspace w = workspace_of(&all, p, size);
        Tile t = {
            .i = index / columns * size.m, .j = index % columns * size.n, .m = size.m, .n = size.n};
        if (p->b_tensor)
            column_run(p, t, &w);
        else
            tile_run(p, t, &w);
    }
}

/* op(b) is used where it lies, or decoded slab by slab. */
static void set_b(Product *p, const Matrix *b, bool as_levels) {
    bool is_ready = operand_is_plain(&b->tensor) || (as_levels && b->tensor.dtype == DTYPE_F32);
    p->b = side_of(b, is_ready ? b->tensor.data : NULL);
    p->b_tensor = is_ready ? NULL : &b->tensor;
    p->has_slabs = !operand_is_plain(&b->tensor); /* the same tiles, in whatever storage */
    p->b_as_levels = as_levels;
}

/* Whether a scale of b's levels goes with an index of the sum. */
static bool scales_go_with_k(const Matrix *b) {
    const Scales *scales = b->tensor.scales;
    return scales && !b->is_transposed && scales_fit(b, true);
}

/* a's columns times the scales that go with them; a is not transposed. */
static Side scaled(const Product *p, const Side *a, const Scales *scales, Arena *scratch) {
    float *to = arena_alloc(scratch, checked_mul(sizeof *to, (size_t)(p->m * p->k)));
    int64_t step = scales->count > 1;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t k = 0; k < p->k; k++)
            to[i * p->k + k] = a->data[i * a->row_stride + k] * scales->scale[k * step];
    return (Side){to, p->k, false};
}

/* `p` says where the product goes. */
static void run(Product p, Matrix a, Matrix b, Arena *scratch) {
    assert(op_cols(&a) == op_rows(&b));
    assert(operand_is_plain(&a.tensor) || a.row_stride == a.cols);
    assert(operand_is_plain(&b.tensor) || b.row_stride == b.cols);
    ArenaMark mark = arena_mark(scratch);
    p.m = op_rows(&a), p.n = op_cols(&b), p.k = op_cols(&a);
    if (p.beta == 0.0f && scales_fit(&a, !a.is_transposed) && scales_fit(&b, b.is_transposed)) {
        const Scales *as = a.tensor.scales, *bs = b.tensor.scales;
        p.exact_k = exact_products(as, bs);
        p.a_scale = as->scale, p.a_scale_step = as->count > 1;
        p.b_scale = bs->scale, p.b_scale_step = bs->count > 1;
        p.a = side_of(&a, operand_levels(&a.tensor, scratch));
        set_b(&p, &b, true);
    } else {
        bool is_scaled = !a.is_transposed && scales_go_with_k(&b);
        p.a = side_of(&a, operand_values(&a.tensor, scratch));
        if (is_scaled) p.a = scaled(&p, &p.a, b.tensor.scales, scratch);
        set_b(&p, &b, is_scaled);
    }
    product_run(&p, scratch);
    arena_rewind(scratch, mark);
}

void gemm(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride, const Epilogue *epilogue,
          Arena *scratch) {
    assert(beta == 0.0f || !epilogue);
    bool on_levels =
        beta == 0.0f && scales_fit(&a, !a.is_transposed) && scales_fit(&b, b.is_transposed);
    if (on_levels && kernels_reference()) {
        gemm_integer_reference(a, b, c, c_row_stride, epilogue);
        return;
    }
    const float *bias = epilogue ? epilogue->bias : NULL;
    run((Product){.bias = bias, .beta = beta, .c = c, .c_row_stride = c_row_stride}, a, b, scratch);
}

void gemm_tensor(Matrix a, Matrix b, float beta, const Tensor *c, const Epilogue *epilogue,
                 Arena *scratch) {
    int64_t columns = op_cols(&b);
    if (c->dtype == DTYPE_F32) {
        gemm(a, b, beta, tensor_f32(c), columns, epilogue, scratch);
        return;
    }
    assert(!c->scales && (beta == 0.0f || !epilogue) && !kernels_reference());
    const float *bias = epilogue ? epilogue->bias : NULL;
    run((Product){.bias = bias, .beta = beta, .c_row_stride = columns, .c_half = c}, a, b, scratch);
}
