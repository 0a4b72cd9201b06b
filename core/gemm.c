/* Every product is cut into blocks of PANEL rows and columns. The kernel broadcasts the numbers of
 * one factor ("rows") and reads the other's as vectors ("panel"). `a` is made ready whole, before;
 * of `b` a task makes a few columns at a time, of a slice of k, so that weights are decoded into
 * the cache of the thread that multiplies them. A block's sums wait from slice to slice and go on,
 * so that each element is one chain of multiply-adds in order of k, whatever the other sizes. */
#include "core/gemm.h"
#include "core/kernels.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/gemm_factor.h"
#include "core/parallel.h"
#include "core/shares.h"

_Static_assert((int)GEMM_BLOCK == (int)PANEL, "a block is what the kernel makes");

enum {
    MADE = 1 << 16,     /* numbers of b made at a time: they stay in the second cache */
    MADE_FEW = 1 << 14, /* for few rows, which need them once: in the first one */
    GROUPS_WANTED = 8,  /* of blocks of b */
    GROUPS_READ = 16,   /* where nothing is made of them: a block takes a microsecond, */
    PANELS_READ = 4,    /* and a kernel may want some at once */
    TASKS_WANTED = 4,   /* so that several threads share a product of few blocks of b */
    A_BLOCKS_MAX = 16,  /* whose sums wait from slice to slice */
};

/* One product. */
typedef struct Product {
    Factor a, b;
    int64_t k, depth;                   /* of a slice */
    int64_t exact_k;                    /* levels: products that one f32 sum may hold; 0: values */
    const float *a_scale, *b_scale;     /* levels: per row of op(a), per column of op(b) */
    int64_t a_scale_step, b_scale_step; /* 0: one scale for all, 1: one each */
    Epilogue epilogue;
    float beta;
    Tensor c;
    int64_t c_row_stride;
} Product;

/* What a thread needs beside the factors. */
typedef struct Workspace {
    float *b;      /* what is made of it */
    float *sums;   /* blocks of the product, as the kernel writes them */
    float *out;    /* one, as rows of c */
    double *exact; /* the same, of levels that f32 cannot hold */
} Workspace;

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

/* One scale for all, or one for each stored row. */
static bool scales_by_row(const Scales *scales, int64_t columns) {
    return scales->count == 1 || (scales->row_length == columns && scales->run_length == columns);
}

/* Levels under one scale, or (`is_stored_along`: the outer dimension of op() is the stored rows)
 * under one scale per stored row. */
static bool scales_fit(const Matrix *matrix, bool is_stored_along) {
    const Scales *scales = matrix->tensor.scales;
    if (!tensor_holds_levels(&matrix->tensor) || !scales->scale) return false;
    return scales->count == 1 || (is_stored_along && scales_by_row(scales, matrix->cols));
}

/* ---- Blocks of the product ---- */

/* Where a block of c begins, and its size. */
typedef struct Place {
    int64_t i, j, m, n;
} Place;

static Place place_of(const Product *p, int64_t a_index, int64_t b_index) {
    int64_t i = a_index * PANEL, j = b_index * PANEL;
    return (Place){i, j, count_least(PANEL, p->a.outer - i), count_least(PANEL, p->b.outer - j)};
}

/* Of `blocks` of b from at.j on, which are multiplied as they lie, all of k. */
static void sum_coded(const Product *p, Place at, int64_t blocks, Tile a, Tile b, bool is_first,
                      float *sum, int64_t stride) {
    CodedJob job = {.rows = a.at,
                    .row_stride = a.stride,
                    .row_count = at.m,
                    .is_first = is_first,
                    .sum = sum,
                    .sum_stride = stride};
    factor_multiply(&p->b, at.j / PANEL, blocks, b, &job);
}

/* Numbers first .. first + depth - 1 of the tiles. */
static void sum_stretch(const Product *p, Place at, Tile a, Tile b, Slice stretch, bool is_first,
                        float *sum, int64_t stride) {
    bool a_is_panel = p->a.is_panel;
    Tile rows = a_is_panel ? b : a, panel = a_is_panel ? a : b;
    if (p->b.is_coded) {
        sum_coded(p, at, 1, a, b, is_first, sum, stride);
        return;
    }
    ProductJob job = {.rows = rows.at + stretch.first,
                      .row_stride = rows.stride,
                      .row_count = a_is_panel ? at.n : at.m,
                      .panel = panel.at + stretch.first * panel.stride,
                      .panel_stride = panel.stride,
                      .depth = stretch.depth,
                      .columns = a_is_panel ? at.m : at.n,
                      .is_first = is_first,
                      .sum = sum,
                      .sum_stride = stride};
    isa_active()->product(&job);
}

/* Sums of levels that f32 cannot hold: exact f32 partial sums, added exactly in double (integers up
 * to 2^53), rounded to f32 once. */
static void sum_in_chunks(const Product *p, Place at, Tile a, Tile b, double *exact, float *sum) {
    enum { COUNT = PANEL * PANEL };
    memset(exact, 0, COUNT * sizeof *exact);
    for (int64_t first = 0; first < p->k; first += p->exact_k) {
        Slice stretch = {first, count_least(p->exact_k, p->k - first)};
        sum_stretch(p, at, a, b, stretch, true, sum, PANEL);
        for (int64_t i = 0; i < COUNT; i++) exact[i] += (double)sum[i];
    }
    for (int64_t i = 0; i < COUNT; i++) sum[i] = (float)exact[i];
}

/* Scales of rows or columns first .. first + count - 1. */
static const float *scales_at(const float *scales, int64_t step, int64_t first, int64_t count,
                              float own[PANEL]) {
    if (step) return scales + first;
    for (int64_t i = 0; i < count; i++) own[i] = scales[0];
    return own;
}

static void epilogue_apply(const Product *p, Place at, float *out) {
    float own[2][PANEL];
    const float *rows = NULL, *columns = NULL, *bias = p->epilogue.bias;
    if (p->exact_k) {
        rows = scales_at(p->a_scale, p->a_scale_step, at.i, at.m, own[0]);
        columns = scales_at(p->b_scale, p->b_scale_step, at.j, at.n, own[1]);
    }
    isa_active()->rescale(rows, columns, bias ? bias + at.j : NULL, PANEL, at.m, at.n, out);
}

static void c_read(const Product *p, Place at, float *out) {
    for (int64_t i = 0; i < at.m; i++, out += PANEL) {
        operand_read(&p->c, (at.i + i) * p->c_row_stride + at.j, at.n, out);
        for (int64_t j = 0; j < at.n; j++) out[j] *= p->beta;
    }
}

static void c_write(const Product *p, Place at, const float *out) {
    const Codec *codec = p->c.dtype == DTYPE_F32 ? NULL : dtype_codec(p->c.dtype);
    int64_t bytes = codec ? codec->code_bits / 8 : (int64_t)sizeof *out;
    char *to = (char *)p->c.data + (at.i * p->c_row_stride + at.j) * bytes;
    for (int64_t i = 0; i < at.m; i++, out += PANEL, to += p->c_row_stride * bytes) {
        if (codec)
            codec->encode(out, at.n, NULL, to);
        else
            memcpy(to, out, sizeof *out * (size_t)at.n);
    }
}

/* The kernel may write c itself. */
static bool is_direct(const Product *p, Place at) {
    bool is_bare = !p->exact_k && !p->epilogue.bias && !p->epilogue.take;
    return p->c.dtype == DTYPE_F32 && !p->a.is_panel && at.n == PANEL && is_bare &&
           (p->beta == 0.0f || p->beta == 1.0f);
}

/* c times beta, as the kernel goes on from it. */
static void sum_begin(const Product *p, Place at, float *sum, float *out) {
    bool is_turned = p->a.is_panel;
    c_read(p, at, is_turned ? out : sum);
    if (is_turned) isa_active()->transpose(out, PANEL, at.m, at.n, sum, PANEL);
}

static void sum_end(const Product *p, Place at, float *sum, float *out) {
    if (p->a.is_panel)
        isa_active()->transpose(sum, PANEL, at.n, at.m, out, PANEL);
    else
        out = sum;
    epilogue_apply(p, at, out);
    if (p->epilogue.take)
        p->epilogue.take(p->epilogue.context, &(GemmBlock){at.i, at.j, at.m, at.n, out});
    else
        c_write(p, at, out);
}

/* A slice's share of a block of the product; `sum` holds that of the slices before it. */
static void block_run(const Product *p, Place at, Tile a, Tile b, Slice slice, float *sum,
                      const Workspace *w) {
    bool begins = slice.first == 0, ends = slice.first + slice.depth >= p->k;
    bool is_first = begins && p->beta == 0.0f;
    const Slice whole = {0, slice.depth};
    if (is_direct(p, at)) {
        float *c = tensor_f32(&p->c) + at.i * p->c_row_stride + at.j;
        sum_stretch(p, at, a, b, whole, is_first, c, p->c_row_stride);
        return;
    }
    if (begins && !is_first) sum_begin(p, at, sum, w->out);
    if (p->exact_k && p->exact_k < p->k)
        sum_in_chunks(p, at, a, b, w->exact, sum);
    else
        sum_stretch(p, at, a, b, whole, is_first, sum, PANEL);
    if (ends) sum_end(p, at, sum, w->out);
}

/* ---- Products ---- */

/* How a product falls into tasks: each multiplies a group of blocks of b by a stretch of blocks of
 * a. */
typedef struct Cut {
    int64_t a_blocks, stretches;
    int64_t b_blocks, group, groups;
    int64_t sums; /* blocks of the product that a task makes together */
} Cut;

/* From the shape alone. */
static Cut cut_of(const Product *p) {
    Cut cut = {.a_blocks = count_pieces(p->a.outer, PANEL),
               .b_blocks = count_pieces(p->b.outer, PANEL),
               .group = p->b.blocks};
    cut.groups = count_pieces(cut.b_blocks, cut.group);
    cut.stretches = count_least(cut.a_blocks, count_pieces(TASKS_WANTED, cut.groups));
    cut.sums = 1;
    if (p->depth == p->k) return cut;
    cut.stretches = count_most(cut.stretches, count_pieces(cut.a_blocks, A_BLOCKS_MAX));
    cut.sums = cut.group * count_pieces(cut.a_blocks, cut.stretches);
    return cut;
}

static Workspace workspace_new(const Product *p, const Cut *cut, Arena *scratch) {
    size_t threads = (size_t)parallel_threads(), blocks = threads * PANEL * PANEL;
    bool in_chunks = p->exact_k && p->exact_k < p->k;
    size_t floats = checked_mul(threads, (size_t)factor_made_floats(&p->b));
    return (Workspace){.b = arena_alloc(scratch, checked_mul(sizeof(float), floats)),
                       .sums = arena_alloc(scratch, sizeof(float) * blocks * (size_t)cut->sums),
                       .out = arena_alloc(scratch, sizeof(float) * blocks),
                       .exact = arena_alloc(scratch, sizeof(double) * (in_chunks ? blocks : 0))};
}

static Workspace workspace_of(const Workspace *all, const Product *p, const Cut *cut) {
    int64_t self = parallel_self(), block = self * PANEL * PANEL;
    return (Workspace){all->b + self * factor_made_floats(&p->b), all->sums + block * cut->sums,
                       all->out + block, all->exact + block};
}

static float *a_ready(const Product *p, Arena *scratch) {
    int64_t size = factor_made_floats(&p->a), blocks = size ? count_pieces(p->a.outer, PANEL) : 0;
    size_t count = checked_mul((size_t)blocks, (size_t)size);
    float *ready = arena_alloc(scratch, checked_mul(sizeof *ready, count));
    const Slice whole = {0, p->k};
    if (blocks == 1) factor_make(&p->a, 0, 1, whole, ready);
    if (blocks < 2) return ready;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) factor_make(&p->a, i, 1, whole, ready + i * size);
    return ready;
}

/* What one task multiplies: blocks of a and b from these on. */
typedef struct Task {
    int64_t a_first, a_end, b_first, b_count;
} Task;

static Task task_of(const Cut *cut, int64_t number) {
    int64_t stretch = number % cut->stretches, b_first = number / cut->stretches * cut->group;
    return (Task){stretch * cut->a_blocks / cut->stretches,
                  (stretch + 1) * cut->a_blocks / cut->stretches, b_first,
                  count_least(cut->group, cut->b_blocks - b_first)};
}

/* All blocks of b in one call, which writes c itself. False: it cannot. */
static bool task_run_coded(const Product *p, const Task *task, const float *a) {
    int64_t last = task->b_first + task->b_count - 1;
    Place at = place_of(p, task->a_first, task->b_first);
    if (!p->b.is_coded || !p->b.in_panels || !is_direct(p, place_of(p, task->a_first, last)))
        return false;
    const Slice whole = {0, p->k};
    assert(task->a_end == task->a_first + 1); /* of few rows */
    sum_coded(p, at, task->b_count, factor_tile(&p->a, task->a_first, whole, a, 0, 0), (Tile){0},
              p->beta == 0.0f, tensor_f32(&p->c) + at.j, p->c_row_stride);
    return true;
}

static void slice_run(const Product *p, const Task *task, Slice slice, int64_t sums, const float *a,
                      const Workspace *w) {
    int64_t a_size = factor_made_floats(&p->a), number = 0;
    factor_make(&p->b, task->b_first, task->b_count, slice, w->b);
    for (int64_t j = 0; j < task->b_count; j++) {
        Tile b = factor_tile(&p->b, task->b_first + j, slice, w->b, j, slice.first);
        for (int64_t i = task->a_first; i < task->a_end; i++, number++)
            block_run(p, place_of(p, i, task->b_first + j),
                      factor_tile(&p->a, i, slice, a + i * a_size, 0, 0), b, slice,
                      w->sums + number % sums * (PANEL * PANEL), w);
    }
}

static void task_run(const Product *p, const Cut *cut, int64_t number, const float *a,
                     const Workspace *w) {
    const Task task = task_of(cut, number);
    Slice slice = {0, p->depth};
    if (task_run_coded(p, &task, a)) return;
    do { /* once of no k at all: the epilogue */
        slice_run(p, &task, slice, cut->sums, a, w);
        slice.first += slice.depth;
        slice.depth = count_least(p->depth, p->k - slice.first);
    } while (slice.depth > 0);
}

/* A thread's part. */
static void tasks_run(const Product *p, const Cut *cut, const Shares *shares, const float *a,
                      const Workspace *all) {
    Workspace w = workspace_of(all, p, cut);
    for (int64_t task; (task = shares_take(shares)) >= 0;) task_run(p, cut, task, a, &w);
}

static void product_run(const Product *p, Arena *scratch) {
    isa_active(); /* chosen before threads ask */
    Cut cut = cut_of(p);
    float *a = a_ready(p, scratch);
    Workspace all = workspace_new(p, &cut, scratch);
    Shares shares = shares_new(cut.groups * cut.stretches, scratch);
    if (!parallel_pays(p->a.outer * p->b.outer * p->k)) {
        tasks_run(p, &cut, &shares, a, &all);
        return;
    }
#pragma omp parallel
    tasks_run(p, &cut, &shares, a, &all);
}

/* Packs the smaller factor of two that must be turned; few rows are broadcast, not padded. What
 * lies in panels is one. */
static bool a_is_panel(const Matrix *a, const Matrix *b) {
    int64_t m = op_rows(a);
    if (b->tensor.layout == LAYOUT_PANELS && b->is_transposed) return false;
    return b->is_transposed && (a->is_transposed || (m > LANES && op_cols(b) > m));
}

/* Else values are multiplied; of levels the epilogue multiplies by the scales. */
static bool multiplies_levels(const Matrix *a, const Matrix *b, float beta) {
    return beta == 0.0f && scales_fit(a, !a->is_transposed) && scales_fit(b, b->is_transposed);
}

/* What is made at a time. Rows of levels are never cut: their sums have chunks of their own. */
static void set_slices(Product *p, bool as_levels) {
    int64_t blocks = count_pieces(p->b.outer, PANEL);
    bool is_wide = p->b.is_panel && !p->b.is_k_last;
    bool are_few = p->a.outer <= CODED_ROWS;
    p->b.is_coded = are_few && factor_can_be_coded(&p->b);
    bool is_read = are_few && p->b.in_panels && (p->b.is_coded || p->b.is_in_place);
    p->b.blocks = 1;
    if (is_wide)
        p->b.blocks = count_least(factor_panels(&p->b), count_pieces(blocks, GROUPS_WANTED));
    if (is_read)
        p->b.blocks = count_pieces(count_pieces(blocks, GROUPS_READ), PANELS_READ) * PANELS_READ;
    int64_t made = p->a.outer <= LANES ? MADE_FEW : MADE, width = p->b.blocks * PANEL;
    bool is_whole = as_levels || p->b.is_coded || is_read;
    p->depth = is_whole ? p->k : count_least(p->k, made / width);
    p->a.blocks = 1, p->a.depth = p->k;
    p->b.depth = p->depth;
}

/* All but where the product goes. */
static void set_factors(Product *p, const Matrix *a, const Matrix *b, bool as_levels) {
    bool turned = a_is_panel(a, b);
    p->k = op_cols(a);
    p->a = factor_of(a, as_levels, !a->is_transposed, turned);
    p->b = factor_of(b, as_levels, b->is_transposed, !turned);
    set_slices(p, as_levels);
}

static void run(Product p, Matrix a, Matrix b, bool as_levels, Arena *scratch) {
    assert(op_cols(&a) == op_rows(&b));
    assert(operand_is_plain(&a.tensor) || a.row_stride == a.cols);
    assert(operand_is_plain(&b.tensor) || b.row_stride == b.cols);
    ArenaMark mark = arena_mark(scratch);
    if (as_levels) {
        const Scales *as = a.tensor.scales, *bs = b.tensor.scales;
        p.exact_k = exact_products(as, bs);
        p.a_scale = as->scale, p.a_scale_step = as->count > 1;
        p.b_scale = bs->scale, p.b_scale_step = bs->count > 1;
    }
    set_factors(&p, &a, &b, as_levels);
    factor_ready_scales(&p.a, scratch);
    factor_ready_scales(&p.b, scratch);
    product_run(&p, scratch);
    arena_rewind(scratch, mark);
}

int64_t gemm_scratch(Matrix a, Matrix b, float beta) {
    if (op_rows(&a) == 0 || op_cols(&b) == 0) return 0;
    bool as_levels = multiplies_levels(&a, &b, beta);
    Product p = {.beta = beta};
    set_factors(&p, &a, &b, as_levels);
    Cut cut = cut_of(&p);
    int64_t threads = parallel_threads();
    const int64_t each = sizeof(float), blocks = threads * PANEL * PANEL;
    int64_t exact = as_levels ? blocks : 0; /* where f32 cannot hold the sums */
    return factor_scales_scratch(&p.a) + factor_scales_scratch(&p.b) +
           arena_padded(each * cut.a_blocks * factor_made_floats(&p.a)) +
           arena_padded(each * threads * factor_made_floats(&p.b)) +
           arena_padded(each * blocks * cut.sums) + arena_padded(each * blocks) +
           arena_padded((int64_t)sizeof(double) * exact) + shares_bytes();
}

/* Hands over a product that is there. */
static void blocks_take(const float *c, int64_t rows, int64_t columns, const Epilogue *epilogue) {
    float values[GEMM_BLOCK * GEMM_BLOCK];
    for (int64_t i = 0; i < rows; i += GEMM_BLOCK)
        for (int64_t j = 0; j < columns; j += GEMM_BLOCK) {
            GemmBlock block = {i, j, count_least(GEMM_BLOCK, rows - i),
                               count_least(GEMM_BLOCK, columns - j), values};
            for (int64_t r = 0; r < block.rows; r++)
                memcpy(values + r * GEMM_BLOCK, c + (i + r) * columns + j,
                       sizeof *values * (size_t)block.columns);
            epilogue->take(epilogue->context, &block);
        }
}

static void integer_reference(Matrix a, Matrix b, const Tensor *c, int64_t c_row_stride,
                              const Epilogue *epilogue, Arena *scratch) {
    if (!epilogue || !epilogue->take) {
        gemm_integer_reference(a, b, tensor_f32(c), c_row_stride, epilogue);
        return;
    }
    ArenaMark mark = arena_mark(scratch);
    int64_t rows = op_rows(&a), columns = op_cols(&b);
    size_t count = checked_mul((size_t)rows, (size_t)columns);
    float *product = arena_alloc(scratch, checked_mul(sizeof *product, count));
    gemm_integer_reference(a, b, product, columns, epilogue);
    blocks_take(product, rows, columns, epilogue);
    arena_rewind(scratch, mark);
}

static void into(Matrix a, Matrix b, float beta, const Tensor *c, int64_t c_row_stride,
                 const Epilogue *epilogue, Arena *scratch) {
    assert(beta == 0.0f || !epilogue);
    assert(c || (epilogue && epilogue->take));
    if (op_rows(&a) == 0 || op_cols(&b) == 0) return;
    bool as_levels = multiplies_levels(&a, &b, beta);
    if (kernels_reference() && as_levels) {
        integer_reference(a, b, c, c_row_stride, epilogue, scratch);
        return;
    }
    Product p = {.beta = beta, .c_row_stride = c_row_stride};
    if (epilogue) p.epilogue = *epilogue;
    if (c) p.c = *c;
    run(p, a, b, as_levels, scratch);
}

void gemm_tensor(Matrix a, Matrix b, float beta, const Tensor *c, const Epilogue *epilogue,
                 Arena *scratch) {
    assert(!c || (!c->scales && (c->dtype == DTYPE_F32 || !kernels_reference())));
    into(a, b, beta, c, op_cols(&b), epilogue, scratch);
}

void gemm(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride, const Epilogue *epilogue,
          Arena *scratch) {
    into(a, b, beta, TENSOR_F32(c), c_row_stride, epilogue, scratch);
}
