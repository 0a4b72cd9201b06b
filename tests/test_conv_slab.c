/* Convolutions with more weights than are packed at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/conv_scratch.h"
#include "core/conv_slab.h"
#include "core/parallel.h"
#include "core/random.h"

static Arena *arena, *scratch;

/* Each makes several slabs, of which the last is not whole: one group; slabs that end in a group,
 * and groups in a slab; depthwise. Strides make phases. */
static const ConvGeometry geometries[] = {
    {2, 5, 4, 530, 5, 4, 75, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {2, 5, 5, 70, 3, 3, 550, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {1, 4, 4, 2 * 400, 4, 4, 2 * 130, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {1, 4, 5, 40 * 33, 2, 3, 40 * 37, 3, 2, 2, 2, 1, 1, 1, 0, 40},
    {1, 3, 4, 29500, 3, 2, 29500, 3, 3, 1, 2, 1, 1, 1, 1, 29500},
};
enum { GEOMETRIES = sizeof geometries / sizeof *geometries };

static Tensor drawn(Shape shape, uint64_t stream) {
    Tensor t = tensor_new(arena, DTYPE_F32, shape);
    random_fill_uniform((RandomKey){9, RANDOM_TEST, stream}, -1, 1, tensor_count(&t), t.data);
    return t;
}

static Tensor stored(const Tensor *t, Dtype dtype) {
    Tensor s = tensor_new(arena, dtype, t->shape);
    dtype_encode(dtype, t->data, tensor_count(t), NULL, s.data);
    return s;
}

static void assert_close(const Tensor *got, const Tensor *expected, int64_t terms) {
    const float *a = tensor_f32(got), *b = tensor_f32(expected);
    double most = 2e-7 * (double)(terms + 100);
    for (int64_t i = 0; i < tensor_count(got); i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= most))
            fail_msg("element %lld: %g instead of %g", (long long)i, (double)a[i], (double)b[i]);
}

typedef struct Case {
    ConvGeometry g;
    Tensor x, w, y, dx;
    float *bias;
} Case;

static Case case_make(const ConvGeometry *g) {
    Case c = {.g = *g};
    c.x = drawn(SHAPE(g->batch, g->in_h, g->in_w, g->in_c), 1);
    c.w = drawn(SHAPE(g->out_c, g->kernel_h, g->kernel_w, g->in_c / g->groups), 2);
    c.y = drawn(SHAPE(g->batch, g->out_h, g->out_w, g->out_c), 3);
    c.dx = drawn(c.x.shape, 4);
    Tensor bias = drawn(SHAPE(g->out_c), 5);
    c.bias = bias.data;
    return c;
}

/* How many slabs there are, as the plan has them. */
static int64_t slabs_of(const Case *c, bool is_backward) {
    ConvPlan plan;
    ConvSlabs slabs;
    if (is_backward)
        conv_plan_backward(&plan, &c->g, true, scratch);
    else
        conv_plan_forward(&plan, &c->g, true, 1, 0, scratch);
    conv_slabs_init(&slabs, &plan, (Operand){c->w, false}, scratch);
    int64_t count = (slabs.blocks + slabs.per_slab - 1) / slabs.per_slab;
    assert_int_not_equal(slabs.blocks % slabs.per_slab, 0);
    arena_reset(scratch);
    return count;
}

static void results_equal_the_reference(void **state) {
    (void)state;
    for (int i = 0; i < GEOMETRIES; i++) {
        Case c = case_make(geometries + i);
        assert_true(slabs_of(&c, false) > 1 && slabs_of(&c, true) > 1);
        int64_t terms = tensor_count(&c.w) / c.g.out_c;
        Tensor y = tensor_new(arena, DTYPE_F32, c.y.shape), dx = c.dx;
        conv_forward_reference(&c.g, &c.x, &c.w, c.bias, y.data);
        Tensor got = drawn(y.shape, 6);
        conv_forward(&c.g, &c.x, &c.w, c.bias, &got, (ConvWritten){0}, scratch);
        assert_close(&got, &y, terms);
        dx.data = memcpy(arena_alloc(arena, tensor_bytes(&dx)), c.dx.data, tensor_bytes(&dx));
        conv_backward_input_reference(&c.g, tensor_f32(&c.y), &c.w, 0.5f, dx.data);
        conv_backward_input(&c.g, &c.y, &c.w, 0.5f, &c.dx, scratch);
        assert_close(&c.dx, &dx, terms * c.g.out_c / c.g.in_c);
        arena_reset(arena);
    }
}

/* Results of half precision are those of f32, rounded; and so is what beta adds to. */
static void half_results_are_rounded(void **state) {
    (void)state;
    for (int i = 0; i < GEOMETRIES; i++) {
        Case c = case_make(geometries + i);
        Tensor half = stored(&c.y, DTYPE_BF16), dx = stored(&c.dx, DTYPE_F16);
        conv_forward(&c.g, &c.x, &c.w, c.bias, &c.y, (ConvWritten){0}, scratch);
        Tensor rounded = stored(&c.y, DTYPE_BF16);
        conv_forward(&c.g, &c.x, &c.w, c.bias, &half, (ConvWritten){0}, scratch);
        assert_memory_equal(half.data, rounded.data, tensor_bytes(&half));
        tensor_decode(&dx, c.dx.data);
        conv_backward_input(&c.g, &c.y, &c.w, 1, &c.dx, scratch);
        rounded = stored(&c.dx, DTYPE_F16);
        conv_backward_input(&c.g, &c.y, &c.w, 1, &dx, scratch);
        assert_memory_equal(dx.data, rounded.data, tensor_bytes(&dx));
        arena_reset(arena);
    }
}

/* Weights in another form mean the same; and what a convolution takes beside its operands has no
 * copy of them. */
static void weights_are_decoded_by_slabs(void **state) {
    (void)state;
    for (int i = 0; i < GEOMETRIES; i++) {
        Case c = case_make(geometries + i);
        Tensor half = stored(&c.w, DTYPE_F16);
        tensor_decode(&half, c.w.data);
        Tensor y = drawn(c.y.shape, 7), dx = drawn(c.x.shape, 8);
        conv_forward(&c.g, &c.x, &c.w, c.bias, &c.y, (ConvWritten){0}, scratch);
        arena_reset(scratch);
        conv_forward(&c.g, &c.x, &half, c.bias, &y, (ConvWritten){0}, scratch);
        assert_memory_equal(y.data, c.y.data, tensor_bytes(&y));
        conv_backward_input(&c.g, &c.y, &c.w, 0, &c.dx, scratch);
        conv_backward_input(&c.g, &c.y, &half, 0, &dx, scratch);
        assert_memory_equal(dx.data, c.dx.data, tensor_bytes(&dx));
        arena_reset(arena);
    }
}

static void packed_weights_have_a_bound(void **state) {
    (void)state;
    enum { MIB = 1 << 20 };
    ConvGeometry g = {1, 4, 4, 1024, 4, 4, 1024, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    Tensor x = {DTYPE_F32, SHAPE(1, 4, 4, 1024), NULL, NULL};
    Tensor w = {DTYPE_F16, SHAPE(1024, 3, 3, 1024), NULL, NULL}; /* 36 MiB in f32 */
    assert_true(conv_forward_scratch(&g, &x, &w, &x) < 3 * MIB);
    assert_true(conv_backward_input_scratch(&g, &x, &w, &x) < 3 * MIB);
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    arena = arena_new("case");
    scratch = arena_new("scratch");
    return parallel_init(2, &err) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    arena_free(arena);
    arena_free(scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_equal_the_reference),
        cmocka_unit_test(half_results_are_rounded),
        cmocka_unit_test(weights_are_decoded_by_slabs),
        cmocka_unit_test(packed_weights_have_a_bound),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
