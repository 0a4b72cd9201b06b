/* Sums of products of layers' inputs, and the factors of their inverses. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "core/random.h"
#include "qat/ptq/hessian.h"

/* ---- The factor ---- */

static void test_factor(void **state) {
    (void)state;
    enum { N = 137 };
    Arena *arena = arena_new("factor");
    float *x = arena_new_array(arena, float, 300 * N);
    random_fill_normal((RandomKey){2, RANDOM_TEST, 0}, 1, 300 * N, x);
    for (int64_t i = 0; i < 300; i++)
        for (int64_t j = 1; j < N; j++) x[i * N + j] += 0.7f * x[i * N + j - 1];
    ConvGeometry rows = conv_of_rows(300, N, 1);
    Hessian h = hessian_new(&rows, arena);
    hessian_add(&h, &rows, x, 300);
    hessian_finish(&h);
    double *u = arena_new_array(arena, double, N *N);
    int64_t order[N];
    double mean = 0;
    for (int64_t i = 0; i < N; i++) {
        order[i] = (i * 5 + 3) % N;
        mean += h.sum[i * N + i] / N;
    }
    assert_true(hessian_factor(h.sum, N, order, 0.01, u));
    double *product = arena_new_array(arena, double, N *N); /* U^T U */
    for (int64_t k = 0; k < N; k++)
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < N; j++) product[i * N + j] += u[k * N + i] * u[k * N + j];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = 0;
            for (int64_t k = 0; k < N; k++)
                sum += (h.sum[order[i] * N + order[k]] + (i == k ? 0.01 * mean : 0)) *
                       product[k * N + j];
            assert_float_equal(sum, i == j, 1e-9);
            if (j < i) assert_true(u[i * N + j] == 0);
        }
    arena_free(arena);
}

/* ---- Hessians of convolutions ---- */

/* One element of the column that an output pixel reads. */
static double read_input(const ConvGeometry *g, const float *x, int64_t image, int64_t y,
                         int64_t xx, int64_t group, int64_t element) {
    int64_t depth = g->in_c / g->groups, tap = element / depth;
    int64_t row = y * g->stride_h - g->pad_top + tap / g->kernel_w * g->dilation_h;
    int64_t column = xx * g->stride_w - g->pad_left + tap % g->kernel_w * g->dilation_w;
    if (row < 0 || row >= g->in_h || column < 0 || column >= g->in_w) return 0;
    int64_t channel = group * depth + element % depth;
    return (double)x[((image * g->in_h + row) * g->in_w + column) * g->in_c + channel];
}

static void check_conv(ConvGeometry g) {
    Arena *arena = arena_new("conv");
    int64_t count = g.batch * g.in_h * g.in_w * g.in_c;
    float *x = arena_new_array(arena, float, count);
    random_fill_normal((RandomKey){3, RANDOM_TEST, 0}, 1, count, x);
    Hessian h = hessian_new(&g, arena);
    assert_int_equal(arena_used(arena) >= (size_t)hessian_bytes(&g), true);
    hessian_add(&h, &g, x, g.batch);
    hessian_add(&h, &g, x, g.batch); /* twice the sum, and twice the samples */
    hessian_finish(&h);
    assert_int_equal(h.size, g.kernel_h * g.kernel_w * g.in_c / g.groups);
    for (int64_t group = 0; group < g.groups; group++)
        for (int64_t i = 0; i < h.size; i++)
            for (int64_t j = 0; j < h.size; j++) {
                double sum = 0;
                for (int64_t p = 0; p < g.batch * g.out_h * g.out_w; p++) {
                    int64_t image = p / (g.out_h * g.out_w), y = p / g.out_w % g.out_h;
                    int64_t column = p % g.out_w;
                    sum += read_input(&g, x, image, y, column, group, i) *
                           read_input(&g, x, image, y, column, group, j);
                }
                double found = h.sum[(group * h.size + i) * h.size + j];
                assert_float_equal(found, 2.0 / (double)g.batch * sum, 1e-9);
            }
    arena_free(arena);
}

static void test_hessians_of_convolutions(void **state) {
    (void)state;
    ConvGeometry g = {.batch = 3,
                      .in_h = 9,
                      .in_w = 8,
                      .in_c = 6,
                      .out_h = 9,
                      .out_w = 8,
                      .out_c = 12,
                      .kernel_h = 3,
                      .kernel_w = 3,
                      .stride_h = 1,
                      .stride_w = 1,
                      .dilation_h = 1,
                      .dilation_w = 1,
                      .pad_top = 1,
                      .pad_left = 1,
                      .groups = 1};
    check_conv(g);
    g.groups = 2;
    check_conv(g);
    g.groups = 6; /* depthwise, two outputs each */
    check_conv(g);
    g.in_c = 17; /* 153 elements: more than a tile */
    g.groups = 1;
    check_conv(g);
    g.stride_h = g.stride_w = g.dilation_h = g.dilation_w = 2;
    g.pad_top = g.pad_left = 2;
    g.out_h = 5;
    g.out_w = 4;
    check_conv(g);
}

/* ---- Hessians of ops ---- */

/* The energy tr(W H W^T) of a product, from H alone. */
static double energy_of(const Hessian *h, const float *w, int64_t rows) {
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double *sums = h->sum + r / (rows / h->groups) * h->size * h->size;
        for (int64_t i = 0; i < h->size; i++)
            for (int64_t j = 0; j < h->size; j++)
                sum +=
                    (double)w[r * h->size + i] * sums[i * h->size + j] * (double)w[r * h->size + j];
    }
    return sum;
}

/* Whatever products there are: what their geometry makes of their inputs gives the squares of their
 * outputs. */
static void check_product(const Op *op, Tape *t, int which) {
    const Var *y = op->sample(t, which), *bias = y->in[2];
    ConvGeometry g = op->geometry(y);
    Hessian h = hessian_new(&g, t->arena);
    hessian_add(&h, &g, var_f32(y->in[0]), 1);
    hessian_finish(&h);
    int64_t channels = shape_last(y->value.shape);
    double sum = 0;
    for (int64_t i = 0; i < var_count(y); i++) {
        double value = (double)var_f32(y)[i];
        if (bias) value -= (double)var_f32(bias)[i % channels];
        sum += value * value;
    }
    assert_true(sum > 0);
    assert_float_equal(energy_of(&h, var_f32(y->in[1]), channels) / sum, 2, 1e-5);
}

static void test_products(void **state) {
    (void)state;
    Arena *arena = arena_new("products");
    Tape *t = tape_new(arena);
    int products = 0;
    for (int i = 0; i < op_row_count; i++)
        for (int which = 0; op_rows[i]->geometry; which++, products++) {
            tape_begin(t, TAPE_EVALUATION);
            if (!op_rows[i]->sample(t, which)) break;
            tape_begin(t, TAPE_EVALUATION);
            check_product(op_rows[i], t, which);
        }
    assert_true(products >= 6);
    tape_free(t);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_hessians_of_convolutions),
        cmocka_unit_test(test_products),
    };
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
