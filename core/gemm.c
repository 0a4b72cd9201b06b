/* Every product is cut into blocks of PANEL rows and columns; a block is one call of the kernel
 * over the whole depth, so that each element is one chain of multiply-adds in order of k, whatever
 * the other sizes. The kernel broadcasts the numbers of one factor ("rows") and reads the other's
 * as vectors ("panel", packed). `a` is made ready whole, before; `b` a block of columns at a time,
 * by the thread that multiplies it by some or all of `a`, so that weights are decoded into its
 * cache. */
#include "core/gemm.h"
#include "core/kernels.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "core/shares.h"

_Static_assert((int)GEMM_BLOCK == (int)PANEL, "a block is what the kernel makes");

enum {
    DECODED = 128,     /* columns decoded at a time, before they are transposed */
    GROUP_MAX = 4,     /* blocks of b that are decoded together */
    GROUPS_WANTED = 8, /* half as many, and so wider ones, where b is decoded */
    TASKS_WANTED = 4,  /* so that several threads share a product of few blocks of b */
};

/* A factor as the product sees it: `outer` rows of op(a), or columns of op(b), of k numbers. */
typedef struct Factor {
    Operand operand;
    int64_t outer, stride; /* between stored rows */
    bool is_k_last;        /* stored [outer][k], else [k][outer] */
    bool is_panel;
} Factor;

/* One product. */
typedef struct Product {
    Factor a, b;
    int64_t k;
    int64_t exact_k;                    /* levels: products that one f32 sum may hold; 0: values */
    const float *a_scale, *b_scale;     /* levels: per row of op(a), per column of op(b) */
    int64_t a_scale_step, b_scale_step; /* 0: one scale for all, 1: one each */
    Epilogue epilogue;
    float beta;
    Tensor c;
    int64_t c_row_stride;
} Product;

/* PANEL rows of op(a) or columns of op(b), or fewer, as the kernel reads them. */
typedef struct Block {
    const float *at;
    int64_t stride; /* rows: from one to the next; of a panel it is PANEL */
} Block;

/* What a thread needs beside the factors. */
typedef struct Workspace {
    float *b;         /* a block of it */
    float *sum, *out; /* a block of the product, as the kernel writes it and as rows of c */
    double *exact;    /* the same, of levels that f32 cannot hold */
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

/* ---- Blocks of factors ---- */

static bool is_in_place(const Factor *f) {
    return operand_lies(&f->operand) && f->is_k_last && !f->is_panel;
}

static int64_t block_floats(const Factor *f, int64_t k) {
    return is_in_place(f) ? 0 : PANEL * lanes_up(k);
}

/* Rows first .. first + rows - 1 of the stored matrix, of them columns from `column` on, to columns
 * that are `to_stride` apart. */
static void numbers_turn(const Factor *f, int64_t first, int64_t rows, int64_t column,
                         int64_t columns, float *to, int64_t to_stride) {
    const Isa *isa = isa_active();
    if (operand_lies(&f->operand)) {
        const float *from = tensor_f32(&f->operand.tensor) + first * f->stride + column;
        isa->transpose(from, f->stride, rows, columns, to, to_stride);
        return;
    }
    float part[PANEL * DECODED];
    for (int64_t i = 0; i < rows; i += PANEL)
        for (int64_t j = 0; j < columns; j += DECODED) {
            int64_t some_rows = count_least(PANEL, rows - i),
                    some_columns = count_least(DECODED, columns - j);
            for (int64_t r = 0; r < some_rows; r++)
                operand_copy(&f->operand, (first + i + r) * f->stride + column + j, some_columns,
                             part + r * DECODED);
            isa->transpose(part, DECODED, some_rows, some_columns, to + j * to_stride + i,
                           to_stride);
        }
}

/* Of levels wanted as values, whose scales go with stored rows: what to multiply row i by. */
static const float *row_scales(const Factor *f, int64_t columns) {
    const Scales *scales = f->operand.tensor.scales;
    if (f->operand.as_levels || !tensor_holds_levels(&f->operand.tensor)) return NULL;
    return scales_by_row(scales, columns) ? scales->scale : NULL;
}

/* Columns first .. first + columns - 1 of row i, at most GROUP_MAX * PANEL of them. */
static const float *row_read(const Factor *f, const float *scales, int64_t i, int64_t first,
                             int64_t columns, float *part) {
    int64_t at = i * f->stride + first;
    if (operand_lies(&f->operand)) return tensor_f32(&f->operand.tensor) + at;
    if (!scales) {
        operand_copy(&f->operand, at, columns, part);
        return part;
    }
    operand_read(&f->operand.tensor, at, columns,
                 part); /* faster than looking for the scale each time */
    float scale = f->operand.tensor.scales->count == 1 ? scales[0] : scales[i];
    isa_active()->multiply(part, scale, columns, part);
    return part;
}

/* Columns first .. first + columns - 1 of k rows to consecutive panels. */
static void panels_copy(const Factor *f, int64_t first, int64_t columns, int64_t k, float *panels) {
    float part[GROUP_MAX * PANEL];
    const float *scales = row_scales(f, f->stride);
    int64_t size = block_floats(f, k), whole = columns / PANEL * PANEL, rest = columns - whole;
    for (int64_t i = 0; i < k; i++, panels += PANEL) {
        const float *row = row_read(f, scales, i, first, columns, part);
        for (int64_t j = 0; j < whole; j += PANEL)
            memcpy(panels + j / PANEL * size, row + j, PANEL * sizeof *row);
        float *last = panels + whole / PANEL * size;
        for (int64_t j = 0; rest && j < PANEL; j++) last[j] = j < rest ? row[whole + j] : 0;
    }
}

/* A panel is [k][PANEL], zeros past the last column; rows are [PANEL][k, rounded up to LANES]. */
static Block block_at(const Factor *f, int64_t index, int64_t k, const float *buffer) {
    if (is_in_place(f))
        return (Block){tensor_f32(&f->operand.tensor) + index * PANEL * f->stride, f->stride};
    return (Block){buffer, f->is_panel ? PANEL : lanes_up(k)};
}

static void block_make(const Factor *f, int64_t first, int64_t outer, int64_t k, float *buffer) {
    if (f->is_panel && outer < PANEL) memset(buffer, 0, sizeof *buffer * (size_t)(PANEL * k));
    if (f->is_panel)
        numbers_turn(f, first, outer, 0, k, buffer, PANEL);
    else if (!f->is_k_last)
        numbers_turn(f, 0, k, first, outer, buffer, lanes_up(k));
    else
        for (int64_t i = 0; i < outer; i++)
            operand_copy(&f->operand, (first + i) * k, k, buffer + i * lanes_up(k));
}

/* Blocks index .. index + count - 1, one behind the other. */
static void blocks_make(const Factor *f, int64_t index, int64_t count, int64_t k, float *buffer) {
    int64_t first = index * PANEL, outer = count_least(count * PANEL, f->outer - first);
    int64_t size = block_floats(f, k);
    if (is_in_place(f)) return;
    if (f->is_panel && !f->is_k_last) {
        panels_copy(f, first, outer, k, buffer);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        block_make(f, first + i * PANEL, count_least(PANEL, outer - i * PANEL), k,
                   buffer + i * size);
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

/* numbers first .. first + depth - 1 of the sums */
static void sum_stretch(const Product *p, Place at, Block a, Block b, int64_t first, int64_t depth,
                        bool is_first, float *sum, int64_t stride) {
    bool a_is_panel = p->a.is_panel;
    Block rows = a_is_panel ? b : a, panel = a_is_panel ? a : b;
    ProductJob job = {.rows = rows.at + first,
                      .row_stride = rows.stride,
                      .row_count = a_is_panel ? at.n : at.m,
                      .panel = panel.at + first * PANEL,
                      .depth = depth,
                      .columns = a_is_panel ? at.m : at.n,
                      .is_first = is_first,
                      .sum = sum,
                      .sum_stride = stride};
    isa_active()->product(&job);
}

/* Sums of levels that f32 cannot hold: exact f32 partial sums, added exactly in double (integers up
 * to 2^53), rounded to f32 once. */
static void sum_in_chunks(const Product *p, Place at, Block a, Block b, const Workspace *w) {
    enum { COUNT = PANEL * PANEL };
    memset(w->exact, 0, COUNT * sizeof *w->exact);
    for (int64_t first = 0; first < p->k; first += p->exact_k) {
        sum_stretch(p, at, a, b, first, count_least(p->exact_k, p->k - first), true, w->sum, PANEL);
        for (int64_t i = 0; i < COUNT; i++) w->exact[i] += (double)w->sum[i];
    }
    for (int64_t i = 0; i < COUNT; i++) w->sum[i] = (float)w->exact[i];
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

static void block_run(const Product *p, Place at, Block a, Block b, const Workspace *w) {
    bool is_first = p->beta == 0.0f, is_turned = p->a.is_panel;
    if (is_direct(p, at)) {
        float *c = tensor_f32(&p->c) + at.i * p->c_row_stride + at.j;
        sum_stretch(p, at, a, b, 0, p->k, is_first, c, p->c_row_stride);
        return;
    }
    float *out = is_turned ? w->out : w->sum;
    if (!is_first) {
        c_read(p, at, out);
        if (is_turned) isa_active()->transpose(out, PANEL, at.m, at.n, w->sum, PANEL);
    }
    if (p->exact_k && p->exact_k < p->k)
        sum_in_chunks(p, at, a, b, w);
    else
        sum_stretch(p, at, a, b, 0, p->k, is_first, w->sum, PANEL);
    if (is_turned) isa_active()->transpose(w->sum, PANEL, at.n, at.m, out, PANEL);
    epilogue_apply(p, at, out);
    if (p->epilogue.take)
        p->epilogue.take(p->epilogue.context, &(GemmBlock){at.i, at.j, at.m, at.n, out});
    else
        c_write(p, at, out);
}

/* ---- Products ---- */

/* What one task multiplies: a group of blocks of b by a stretch of blocks of a. */
typedef struct Cut {
    int64_t a_blocks, stretches;
    int64_t b_blocks, group, groups;
} Cut;

/* From the shape alone. */
static Cut cut_of(const Product *p) {
    Cut cut = {.a_blocks = count_pieces(p->a.outer, PANEL),
               .b_blocks = count_pieces(p->b.outer, PANEL)};
    int64_t wanted = operand_lies(&p->b.operand) ? GROUPS_WANTED : GROUPS_WANTED / 2;
    cut.group = p->b.is_panel ? count_least(GROUP_MAX, count_pieces(cut.b_blocks, wanted)) : 1;
    cut.groups = count_pieces(cut.b_blocks, cut.group);
    cut.stretches = count_least(cut.a_blocks, count_pieces(TASKS_WANTED, cut.groups));
    return cut;
}

static Workspace workspace_new(const Product *p, const Cut *cut, Arena *scratch) {
    size_t threads = (size_t)parallel_threads(), blocks = threads * PANEL * PANEL;
    bool in_chunks = p->exact_k && p->exact_k < p->k;
    size_t floats = checked_mul(threads, (size_t)(cut->group * block_floats(&p->b, p->k)));
    return (Workspace){.b = arena_alloc(scratch, checked_mul(sizeof(float), floats)),
                       .sum = arena_alloc(scratch, sizeof(float) * blocks),
                       .out = arena_alloc(scratch, sizeof(float) * blocks),
                       .exact = arena_alloc(scratch, sizeof(double) * (in_chunks ? blocks : 0))};
}

static Workspace workspace_of(const Workspace *all, const Product *p, const Cut *cut) {
    int64_t self = parallel_self(), block = self * PANEL * PANEL;
    return (Workspace){all->b + self * cut->group * block_floats(&p->b, p->k), all->sum + block,
                       all->out + block, all->exact + block};
}

static float *a_ready(const Product *p, Arena *scratch) {
    int64_t size = block_floats(&p->a, p->k), blocks = size ? count_pieces(p->a.outer, PANEL) : 0;
    size_t count = checked_mul((size_t)blocks, (size_t)size);
    float *ready = arena_alloc(scratch, checked_mul(sizeof *ready, count));
    if (blocks == 1) blocks_make(&p->a, 0, 1, p->k, ready);
    if (blocks < 2) return ready;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) blocks_make(&p->a, i, 1, p->k, ready + i * size);
    return ready;
}

static void task_run(const Product *p, const Cut *cut, int64_t task, const float *a,
                     const Workspace *w) {
    int64_t stretch = task % cut->stretches, b_first = task / cut->stretches * cut->group;
    int64_t count = count_least(cut->group, cut->b_blocks - b_first);
    int64_t a_size = block_floats(&p->a, p->k), b_size = block_floats(&p->b, p->k);
    int64_t first = stretch * cut->a_blocks / cut->stretches;
    int64_t end = (stretch + 1) * cut->a_blocks / cut->stretches;
    blocks_make(&p->b, b_first, count, p->k, w->b);
    for (int64_t j = 0; j < count; j++) {
        Block b = block_at(&p->b, b_first + j, p->k, w->b + j * b_size);
        for (int64_t i = first; i < end; i++)
            block_run(p, place_of(p, i, b_first + j), block_at(&p->a, i, p->k, a + i * a_size), b,
                      w);
    }
}

static void product_run(const Product *p, Arena *scratch) {
    isa_active(); /* chosen before threads ask */
    Cut cut = cut_of(p);
    float *a = a_ready(p, scratch);
    Workspace all = workspace_new(p, &cut, scratch);
    Shares shares = shares_new(cut.groups * cut.stretches, scratch);
#pragma omp parallel
    {
        Workspace w = workspace_of(&all, p, &cut);
        for (int64_t task; (task = shares_take(&shares)) >= 0;) task_run(p, &cut, task, a, &w);
    }
}

/* Packs the smaller factor of two that must be turned; few rows are broadcast, not padded. */
static bool a_is_panel(const Matrix *a, const Matrix *b) {
    int64_t m = op_rows(a);
    return b->is_transposed && (a->is_transposed || (m > LANES && op_cols(b) > m));
}

/* Else values are multiplied; of levels the epilogue multiplies by the scales. */
static bool multiplies_levels(const Matrix *a, const Matrix *b, float beta) {
    return beta == 0.0f && scales_fit(a, !a->is_transposed) && scales_fit(b, b->is_transposed);
}

/* All but where the product goes. */
static void set_factors(Product *p, const Matrix *a, const Matrix *b, bool as_levels) {
    bool turned = a_is_panel(a, b);
    p->k = op_cols(a);
    p->a = (Factor){{a->tensor, as_levels}, op_rows(a), a->row_stride, !a->is_transposed, turned};
    p->b = (Factor){{b->tensor, as_levels}, op_cols(b), b->row_stride, b->is_transposed, !turned};
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
    return arena_padded(each * cut.a_blocks * block_floats(&p.a, p.k)) +
           arena_padded(each * threads * cut.group * block_floats(&p.b, p.k)) +
           2 * arena_padded(each * blocks) + arena_padded((int64_t)sizeof(double) * exact) +
           shares_bytes();
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
