#include "qat/ptq/gptq_solve.h"

#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/blas.h"
#include "qat/ptq/hessian.h"

enum { ROWS = 32 /* of a tile: what a thread works on at a time */ };

typedef struct Work {
    const GptqProblem *problem;
    GptqSolution *solution;
    double *hessian, *factor;      /* [columns, columns]; hessian: dead columns mended */
    double *w, *error;             /* [rows, columns] in the order of rounding; [rows, block] */
    int64_t *order;                /* column number i of those */
    float *panel;                  /* [rows, run]: what a group's scales are found of */
    float *scale, *zero;           /* as stored */
    float *run_scale, *run_offset; /* [rows] */
    double *tile;                  /* [rows, columns]: for errors */
    Scales scales;
} Work;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t runs_of(const GptqProblem *p) {
    return (p->columns + p->run - 1) / p->run;
}

static int64_t tiles_of(const GptqProblem *p) {
    return (p->rows + ROWS - 1) / ROWS;
}

static Work work_new(const GptqProblem *p, GptqSolution *solution, Arena *arena) {
    int64_t cells = p->rows * p->columns, squared = p->columns * p->columns;
    int64_t count = p->rows * runs_of(p);
    Work work = {.problem = p, .solution = solution};
    work.hessian = arena_new_array(arena, double, squared);
    work.factor = arena_new_array(arena, double, squared);
    work.w = arena_new_array(arena, double, cells);
    work.tile = arena_new_array(arena, double, cells);
    work.error = arena_new_array(arena, double, p->rows * p->settings.block);
    work.order = arena_new_array(arena, int64_t, p->columns);
    work.panel = arena_new_array(arena, float, cells);
    work.scale = arena_new_array(arena, float, count);
    work.zero = solution->offset ? arena_new_array(arena, float, count) : NULL;
    work.run_scale = arena_new_array(arena, float, p->rows);
    work.run_offset = arena_new_array(arena, float, p->rows);
    work.scales = (Scales){.row_length = p->columns,
                           .run_length = p->run,
                           .count = count,
                           .dtype = p->scale_dtype,
                           .grid = p->grid,
                           .scale = work.scale,
                           .zero = work.zero};
    return work;
}

/* ---- Scales ---- */

/* As quant_freeze has them. */
static void freeze(Work *work, int64_t run) {
    const GptqProblem *p = work->problem;
    const GptqSolution *s = work->solution;
    for (int64_t row = 0; row < p->rows; row++) {
        int64_t i = row * runs_of(p) + run;
        work->scale[i] = fake_quant_stored_scale(p->scale_dtype, s->scale[i]);
        if (work->zero) work->zero[i] = fake_quant_zero(p->grid, s->offset[i], work->scale[i]);
    }
}

/* The scales of one run of every row, of what the panel holds. */
static void fit_panel(Work *work, int64_t run) {
    const GptqProblem *p = work->problem;
    GptqSolution *s = work->solution;
    int64_t length = least(p->run, p->columns - run * p->run);
    for (int64_t row = 0; row < p->rows; row++) { /* what stays where there is nothing to fit */
        work->run_scale[row] = s->scale[row * runs_of(p) + run];
        if (s->offset) work->run_offset[row] = s->offset[row * runs_of(p) + run];
    }
    p->fit(p->context, work->panel, p->rows, length, work->run_scale,
           s->offset ? work->run_offset : NULL);
    for (int64_t row = 0; row < p->rows; row++) {
        s->scale[row * runs_of(p) + run] = work->run_scale[row];
        if (s->offset) s->offset[row * runs_of(p) + run] = work->run_offset[row];
    }
    freeze(work, run);
}

/* Of the weights as given. */
static void fit_all(Work *work) {
    const GptqProblem *p = work->problem;
    for (int64_t run = 0; run < runs_of(p); run++) {
        int64_t first = run * p->run, length = least(p->run, p->columns - first);
        for (int64_t row = 0; row < p->rows && p->fit; row++)
            memcpy(work->panel + row * length, p->weight + row * p->columns + first,
                   sizeof(float) * (size_t)length);
        if (p->fit)
            fit_panel(work, run);
        else
            freeze(work, run);
    }
}

/* Of the weights as corrected so far, which lie as they stand. */
static void fit_corrected(Work *work, int64_t run) {
    const GptqProblem *p = work->problem;
    int64_t first = run * p->run, length = least(p->run, p->columns - first);
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t i = 0; i < length; i++)
            work->panel[row * length + i] = (float)work->w[row * p->columns + first + i];
    fit_panel(work, run);
}

/* ---- Errors ---- */

/* tr(D H D^T) of the change from the weights to `values` (NULL: to 0). */
static double output_error(const Work *work, const float *values, Arena *arena) {
    const GptqProblem *p = work->problem;
    int64_t n = p->columns;
    ArenaMark mark = arena_mark(arena);
    double *sums = arena_new_array(arena, double, tiles_of(p)), sum = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles_of(p); tile++) {
        int64_t first = tile * ROWS, rows = least(ROWS, p->rows - first);
        double *change = work->w + first * n, *product = work->tile + first * n;
        for (int64_t i = 0; i < rows * n; i++)
            change[i] =
                (double)p->weight[first * n + i] - (values ? (double)values[first * n + i] : 0);
        blas_dgemm(false, false, rows, n, n, 1, change, n, p->hessian, n, 0, product, n);
        for (int64_t i = 0; i < rows * n; i++) sums[tile] += change[i] * product[i];
    }
    for (int64_t tile = 0; tile < tiles_of(p); tile++) sum += sums[tile];
    arena_rewind(arena, mark);
    return sum;
}

/* The weights, each rounded by itself. */
static void round_all(const Work *work, float *values) {
    const GptqProblem *p = work->problem;
#pragma omp parallel for
    for (int64_t row = 0; row < p->rows; row++) {
        int64_t first = row * p->columns;
        quantize_levels(p->weight + first, &work->scales, first, p->columns, values + first);
        levels_decode(values + first, &work->scales, first, p->columns, values + first);
    }
}

/* ---- The Hessian ---- */

static bool check(const GptqProblem *p, Error *err) {
    for (int64_t i = 0; i < p->rows * p->columns; i++)
        if (!isfinite(p->weight[i]))
            return FAIL(err, ERROR_NUMERIC, "weight %ld is not finite", (long)i);
    for (int64_t i = 0; i < p->columns; i++)
        if (!isfinite(p->hessian[i * p->columns + i]))
            return FAIL(
                err, ERROR_NUMERIC,
                "the squares of input %ld, summed over the calibration data, are not finite",
                (long)i);
    return true;
}

static void mend_dead(Work *work) {
    const GptqProblem *p = work->problem;
    int64_t n = p->columns;
    memcpy(work->hessian, p->hessian, sizeof(double) * (size_t)(n * n));
    for (int64_t i = 0; i < n; i++) {
        if (work->hessian[i * n + i] != 0) continue;
        work->hessian[i * n + i] = 1;
        work->solution->dead++;
    }
}

static bool is_dead(const Work *work, int64_t column) {
    return work->problem->hessian[column * (work->problem->columns + 1)] == 0;
}

/* By falling diagonal, equal ones as they stand: a merge sort. */
static void sort_columns(Work *work, int64_t first, int64_t end, int64_t *spare) {
    if (end - first < 2) return;
    int64_t middle = (first + end) / 2, n = work->problem->columns, *order = work->order;
    sort_columns(work, first, middle, spare);
    sort_columns(work, middle, end, spare);
    for (int64_t i = first, left = first, right = middle; i < end; i++) {
        bool takes_left = left < middle;
        if (takes_left && right < end)
            takes_left =
                work->hessian[order[left] * (n + 1)] >= work->hessian[order[right] * (n + 1)];
        spare[i] = takes_left ? order[left++] : order[right++];
    }
    memcpy(order + first, spare + first, sizeof *order * (size_t)(end - first));
}

static void choose_order(Work *work, Arena *arena) {
    const GptqProblem *p = work->problem;
    for (int64_t i = 0; i < p->columns; i++) work->order[i] = i;
    if (!p->settings.act_order) return;
    ArenaMark mark = arena_mark(arena);
    sort_columns(work, 0, p->columns, arena_new_array(arena, int64_t, p->columns));
    arena_rewind(arena, mark);
}

static bool factor(Work *work, Error *err) {
    const GptqProblem *p = work->problem;
    double damping = p->settings.damping;
    while (!hessian_factor(work->hessian, p->columns, work->order, damping, work->factor)) {
        if (damping >= 1)
            return FAIL(err, ERROR_NUMERIC,
                        "the Hessian of %ld inputs has no Cholesky factor, not even with its mean "
                        "diagonal added %g times: more calibration data, or a method without one",
                        (long)p->columns, damping);
        damping = damping > 0 ? fmin(10 * damping, 1) : 0.01;
    }
    work->solution->damping = damping;
    return true;
}

/* ---- Rounding ---- */

/* In `order` (NULL: as they stand), dead columns as 0. */
static void load_weights(Work *work, const int64_t *order) {
    const GptqProblem *p = work->problem;
#pragma omp parallel for
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t i = 0; i < p->columns; i++) {
            int64_t column = order ? order[i] : i;
            work->w[row * p->columns + i] =
                is_dead(work, column) ? 0 : (double)p->weight[row * p->columns + column];
        }
}

/* Columns first .. first + count - 1 of a row. */
static void round_row(const Work *work, int64_t row, int64_t first, int64_t count) {
    const GptqProblem *p = work->problem;
    int64_t n = p->columns;
    double *w = work->w + row * n + first, *error = work->error + row * p->settings.block;
    for (int64_t i = 0; i < count; i++) {
        const double *u = work->factor + (first + i) * n + first;
        int64_t element = row * n + work->order[first + i];
        float x = (float)w[i], *q = &work->solution->values[element];
        quantize_levels(&x, &work->scales, element, 1, q);
        levels_decode(q, &work->scales, element, 1, q);
        error[i] = (w[i] - (double)*q) / u[i];
        for (int64_t j = i + 1; j < count; j++) w[j] -= error[i] * u[j];
    }
}

static void round_block(Work *work, int64_t first) {
    const GptqProblem *p = work->problem;
    int64_t n = p->columns, block = p->settings.block, count = least(block, n - first);
    int64_t after = first + count;
#pragma omp parallel for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles_of(p); tile++) {
        int64_t row = tile * ROWS, rows = least(ROWS, p->rows - row);
        for (int64_t i = 0; i < rows; i++) round_row(work, row + i, first, count);
        if (after < n)
            blas_dgemm(false, false, rows, n - after, count, -1, work->error + row * block, block,
                       work->factor + first * n + after, n, 1, work->w + row * n + after, n);
    }
}

static void round_corrected(Work *work) {
    const GptqProblem *p = work->problem;
    const GptqSettings *settings = &p->settings;
    bool is_grouped = p->fit && p->run < p->columns;
    bool is_static = settings->static_groups || settings->act_order;
    load_weights(work, NULL);
    for (int64_t run = 0; is_grouped && is_static && run < runs_of(p); run++)
        fit_corrected(work, run);
    if (settings->act_order) load_weights(work, work->order);
    for (int64_t first = 0; first < p->columns; first += settings->block) {
        int64_t end = least(first + settings->block, p->columns);
        /* All groups that begin in the block: its own corrections are not for them. */
        for (int64_t run = (first + p->run - 1) / p->run;
             is_grouped && !is_static && run * p->run < end; run++)
            fit_corrected(work, run);
        round_block(work, first);
    }
}

int64_t gptq_solve_bytes(int64_t rows, int64_t columns, int64_t run, int64_t block) {
    int64_t doubles = 2 * columns * columns + 2 * rows * columns + rows * block + 2 * columns;
    int64_t floats = rows * columns + 2 * rows * ((columns + run - 1) / run + 1);
    return 8 * doubles + 4 * floats + 16 * ARENA_ALIGNMENT;
}

bool gptq_solve(const GptqProblem *problem, GptqSolution *solution, Arena *arena, Error *err) {
    TRY(check(problem, err));
    blas_may_be_shared();
    ArenaMark mark = arena_mark(arena);
    Work work = work_new(problem, solution, arena);
    solution->dead = 0;
    fit_all(&work);
    round_all(&work, solution->values);
    solution->nearest = output_error(&work, solution->values, arena);
    solution->energy = output_error(&work, NULL, arena);
    mend_dead(&work);
    choose_order(&work, arena);
    bool ok = factor(&work, err);
    if (ok) round_corrected(&work);
    if (ok) solution->error = output_error(&work, solution->values, arena);
    arena_rewind(arena, mark);
    return ok;
}
