/* What core/conv_scratch.h says a convolution takes is what it takes, over random shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/conv_scratch.h"
#include "core/parallel.h"
#include "core/random.h"

enum { SHAPES = 60 };

static uint64_t drawn;

static int64_t draw(int64_t low, int64_t high) {
    RandomKey key = {11, RANDOM_TEST, 0};
    return low + (int64_t)random_below(key, drawn++, (uint64_t)(high - low + 1));
}

static int64_t out_size(int64_t in, int64_t pad, int64_t kernel, int64_t stride, int64_t dilation) {
    int64_t reach = (kernel - 1) * dilation + 1;
    return in + 2 * pad < reach ? 0 : (in + 2 * pad - reach) / stride + 1;
}

/* kind 0: one group; 1: some groups; 2: depthwise */
static ConvGeometry geometry_draw(int kind) {
    ConvGeometry g;
    do {
        int64_t groups = kind == 0 ? 1 : draw(2, 40);
        int64_t pad = draw(0, 2);
        g = (ConvGeometry){
            .batch = draw(1, 20),
            .in_h = draw(1, 17),
            .in_w = draw(1, 17),
            .in_c = groups * (kind == 2 ? 1 : draw(1, 20)),
            .out_c = groups * (kind == 2 ? 1 : draw(1, 40)),
            .kernel_h = draw(1, 4),
            .kernel_w = draw(1, 4),
            .stride_h = draw(1, 2),
            .stride_w = draw(1, 2),
            .dilation_h = draw(1, 2),
            .dilation_w = draw(1, 2),
            .pad_top = pad,
            .pad_left = pad,
            .groups = groups,
        };
        g.out_h = out_size(g.in_h, pad, g.kernel_h, g.stride_h, g.dilation_h);
        g.out_w = out_size(g.in_w, pad, g.kernel_w, g.stride_w, g.dilation_w);
    } while (g.out_h < 1 || g.out_w < 1);
    return g;
}

static void assert_said(const char *what, size_t taken, int64_t said) {
    if ((int64_t)taken != said)
        fail_msg("%s takes %zu bytes, said were %lld", what, taken, (long long)said);
}

static void check(const ConvGeometry *g, Dtype dtype) {
    Arena *arena = arena_new("operands");
    Shape filters = SHAPE(g->out_c, g->kernel_h, g->kernel_w, g->in_c / g->groups);
    Tensor x = tensor_zeros(arena, dtype, SHAPE(g->batch, g->in_h, g->in_w, g->in_c));
    Tensor w = tensor_zeros(arena, dtype, filters), dw = tensor_zeros(arena, DTYPE_F32, filters);
    Tensor y = tensor_zeros(arena, dtype, SHAPE(g->batch, g->out_h, g->out_w, g->out_c));
    Arena *scratch[3];
    for (int i = 0; i < 3; i++) scratch[i] = arena_new("scratch");
    conv_forward(g, &x, &w, NULL, &y, (ConvWritten){0}, scratch[0]);
    conv_backward_input(g, &y, &w, 0, &x, scratch[1]);
    conv_backward_weight(g, &x, &y, 0, dw.data, scratch[2]);
    assert_said("forward", arena_peak(scratch[0]), conv_forward_scratch(g, &x, &w, &y));
    assert_said("backward to the input", arena_peak(scratch[1]),
                conv_backward_input_scratch(g, &y, &w, &x));
    assert_said("backward to the weight", arena_peak(scratch[2]),
                conv_backward_weight_scratch(g, &x, &y));
    for (int i = 0; i < 3; i++) arena_free(scratch[i]);
    arena_free(arena);
}

static void what_is_said_is_taken(void **state) {
    (void)state;
    Error err = {0};
    for (int i = 0; i < SHAPES; i++) {
        assert_true(parallel_init(1 + i % 3, &err));
        ConvGeometry g = geometry_draw(i % 3);
        check(&g, i % 2 ? DTYPE_F32 : DTYPE_BF16);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_said_is_taken)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
