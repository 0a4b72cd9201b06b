#include "qat/ptq/hessian.h"

#include <string.h>

#include "core/blas.h"

enum { BLOCK = 256 /* columns of inputs at a time */, TILE = 128 };

static int64_t edge_of(const ConvGeometry *g) {
    return g->kernel_h * g->kernel_w * (g->in_c / g->groups);
}

static int64_t tile_end(int64_t first, int64_t size) {
    return first + TILE < size ? first + TILE : size;
}

int64_t hessian_bytes(const ConvGeometry *geometry) {
    int64_t size = edge_of(geometry), elements = geometry->groups * size * (size + BLOCK);
    return (int64_t)sizeof(double) * elements;
}

Hessian hessian_new(const ConvGeometry *geometry, Arena *arena) {
    blas_may_be_shared();
    Hessian h = {.groups = geometry->groups, .size = edge_of(geometry)};
    h.sum = arena_new_array(arena, double, h.groups *h.size *h.size);
    h.panel = arena_new_array(arena, double, BLOCK *h.groups *h.size);
    return h;
}

/* ---- Sums ---- */

/* What output pixel `pixel` reads, group by group. */
static void gather(const ConvGeometry *g, const float *x, int64_t pixel, double *columns) {
    int64_t image = pixel / (g->out_h * g->out_w), within = pixel % (g->out_h * g->out_w);
    int64_t top = within / g->out_w * g->stride_h - g->pad_top;
    int64_t left = within % g->out_w * g->stride_w - g->pad_left;
    int64_t depth = g->in_c / g->groups, size = edge_of(g);
    for (int64_t tap = 0; tap < g->kernel_h * g->kernel_w; tap++) {
        int64_t row = top + tap / g->kernel_w * g->dilation_h;
        int64_t column = left + tap % g->kernel_w * g->dilation_w;
        bool is_inside = row >= 0 && row < g->in_h && column >= 0 && column < g->in_w;
        const float *from = x + ((image * g->in_h + row) * g->in_w + column) * g->in_c;
        for (int64_t group = 0; group < g->groups; group++) {
            double *to = columns + group * size + tap * depth;
            for (int64_t c = 0; c < depth; c++)
                to[c] = is_inside ? (double)from[group * depth + c] : 0;
        }
    }
}

/* The tiles on and below the diagonal, one after the other in rows. */
static void tile_at(int64_t number, int64_t *row, int64_t *column) {
    int64_t i = 0;
    while ((i + 1) * (i + 2) / 2 <= number) i++;
    *row = i * TILE;
    *column = (number - i * (i + 1) / 2) * TILE;
}

static void add_block(Hessian *h, int64_t count) {
    int64_t size = h->size, width = h->groups * size, edges = (size + TILE - 1) / TILE;
    int64_t tiles = edges * (edges + 1) / 2;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < h->groups * tiles; i++) {
        int64_t group = i / tiles, row, column;
        tile_at(i % tiles, &row, &column);
        const double *x = h->panel + group * size;
        blas_dgemm(true, false, tile_end(row, size) - row, tile_end(column, size) - column, count,
                   1, x + row, width, x + column, width, 1,
                   h->sum + (group * size + row) * size + column, size);
    }
}

void hessian_add(Hessian *h, const ConvGeometry *geometry, const float *x, int64_t samples) {
    int64_t pixels = geometry->batch * geometry->out_h * geometry->out_w;
    for (int64_t first = 0; first < pixels; first += BLOCK) {
        int64_t count = pixels - first < BLOCK ? pixels - first : BLOCK;
#pragma omp parallel for
        for (int64_t i = 0; i < count; i++)
            gather(geometry, x, first + i, h->panel + i * h->groups * h->size);
        add_block(h, count);
    }
    h->samples += samples;
}

void hessian_finish(Hessian *h) {
    double scale = h->samples ? 2.0 / (double)h->samples : 0;
    for (int64_t group = 0; group < h->groups; group++) {
        double *sum = h->sum + group * h->size * h->size;
        for (int64_t i = 0; i < h->size; i++)
            for (int64_t j = 0; j <= i; j++) sum[j * h->size + i] = sum[i * h->size + j] *= scale;
    }
}

/* ---- The factor ---- */

static void reverse(double *a, int64_t count) {
    for (int64_t i = 0, j = count - 1; i < j; i++, j--) {
        double kept = a[i];
        a[i] = a[j];
        a[j] = kept;
    }
}

/* With J the matrix that reverses, J H J = L L^T gives H^-1 = U^T U of U = J L^-1 J: one
 * factorization and a triangle's inverse, where the published way inverts H and factors again.
 * Reversing rows and columns of a whole matrix is reversing its elements. */
bool hessian_factor(const double *h, int64_t size, const int64_t *order, double damping,
                    double *factor) {
    double mean = 0;
    for (int64_t i = 0; i < size; i++) mean += h[i * size + i] / (double)size;
#pragma omp parallel for
    for (int64_t i = 0; i < size; i++) {
        const double *row = h + (order ? order[i] : i) * size;
        for (int64_t j = 0; j < size; j++) factor[i * size + j] = row[order ? order[j] : j];
        factor[i * size + i] += damping * mean;
    }
    reverse(factor, size * size);
    bool ok = false;
#pragma omp parallel
#pragma omp single /* the door's rule: within a region */
    ok = blas_cholesky(factor, size) && blas_invert_triangle(factor, size);
    reverse(factor, size * size);
    for (int64_t i = 1; i < size && ok; i++)
        memset(factor + i * size, 0, sizeof(double) * (size_t)i);
    return ok;
}
