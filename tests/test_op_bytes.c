/* Every row of ops.def: what it says that it takes (Op.saved_bytes, forward_scratch,
 * backward_scratch, half_grads) is what its samples take, to the byte, in f32 and half precision,
 * on 1 to 3 threads; and it says whether it makes products. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/channel.h"
#include "autograd/map.h"
#include "autograd/ops.h"
#include "core/counts.h"
#include "core/probe.h"
#include "tests/tape_fixture.h"

enum { THREADS_MAX = 3 };

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    tape->seed = 5;
    return 0;
}

/* How a sample is run. */
typedef struct Way {
    Dtype dtype;          /* of tensors of rank 2 and more, where the op takes it so */
    bool keeps_residuals; /* of forward; such a record is f32 */
    bool is_asked;        /* an observer looks at the value, a norm wants its moments */
    int threads;
} Way;

typedef struct Bytes {
    int64_t saved, forward, backward, staged;
} Bytes;

static bool runs_as_map(const Var *v) {
    return map_fits(v) && !(tape->mode.keeps_residuals && v->op->forward);
}

static bool takes_half(const Var *v) {
    return map_fits(v) || (v->op->flags & OP_READS_HALF);
}

/* ---- What is said ---- */

static int64_t scratch_of(const Var *v, int64_t (*scratch)(const Var *v)) {
    return scratch ? scratch(v) : 0;
}

static Bytes bytes_said(Var *v) {
    const Op *op = v->op;
    MapGroup alone = {.ops = {v}, .count = 1};
    Bytes b = {.forward = scratch_of(v, op->forward_scratch),
               .backward = scratch_of(v, op->backward_scratch)};
    if (op->saved_bytes) b.saved = op->saved_bytes(tape, v);
    if (runs_as_map(v)) {
        b.forward = count_most(b.forward, map_scratch(&alone, false));
        b.backward = map_scratch(&alone, true);
    }
    for (int j = map_fits(v) ? v->in_count : op->half_grads; j < v->in_count; j++) {
        const Var *in = v->in[j];
        if (in && in->needs_grad && in->grad.dtype != DTYPE_F32) /* a note, and the copy */
            b.staged += ARENA_ALIGNMENT + arena_padded((int64_t)sizeof(float) * var_count(in));
    }
    return b;
}

/* ---- What is taken ---- */

/* From here on the arena's peak says what is taken beyond now. */
static int64_t level(Arena *used) {
    arena_alloc(used, arena_peak(used) - arena_used(used));
    assert_int_equal(arena_used(used), arena_peak(used));
    return (int64_t)arena_used(used);
}

static Bytes bytes_taken(Var *v) {
    MapGroup alone = {.ops = {v}, .count = 1};
    Bytes b;
    int64_t before = level(tape->arena), staged = level(tape->staging);
    v->saved = NULL;
    if (!runs_as_map(v)) {
        v->op->forward(tape, v);
    } else {
        map_prepare(tape, v);
        map_forward(tape, &alone);
    }
    b.saved = (int64_t)arena_used(tape->arena) - before;
    b.forward = (int64_t)arena_peak(tape->arena) - before - b.saved;
    before = level(tape->arena);
    if (runs_as_map(v))
        map_backward(tape, &alone);
    else
        v->op->backward(tape, v);
    b.backward = (int64_t)arena_peak(tape->arena) - before;
    assert_int_equal(arena_used(tape->arena), before); /* nothing stays */
    b.staged = (int64_t)arena_peak(tape->staging) - staged;
    tape->staged = NULL;
    return b;
}

/* ---- A sample ---- */

static void *zeros(int64_t count) {
    return arena_new_array(tape->arena, float, count);
}

/* Of rank 2 and more, as plans keep them. */
static void keep_half(Var *v, Dtype dtype) {
    if (v->value.shape.rank < 2) return;
    v->grad.dtype = dtype;
    v->grad.data = zeros(var_count(v));
    if (v->value.scales) return;
    v->value.dtype = dtype;
    v->value.data = zeros(var_count(v));
}

static void run_in(Var *v, Way way) {
    static Probe probe;
    bool is_half = way.dtype != DTYPE_F32 && takes_half(v);
    v->grad.data = zeros(var_count(v));
    *v->has_grad = true;
    if (is_half) keep_half(v, way.dtype);
    for (int j = 0; j < v->in_count; j++) {
        Var *in = v->in[j];
        bool is_parameter = map_fits(v) && j >= v->op->map->input_count;
        if (!in) continue;
        if (is_half && !is_parameter && !in->is_parameter) keep_half(in, way.dtype);
        *in->has_grad = false;
    }
    probe = (Probe){0};
    v->probe = way.is_asked && v->value.dtype == DTYPE_F32 ? &probe : NULL;
    bool has_moments = (v->op->flags & OP_GIVES_MOMENTS) && channel_has_images(v->value.shape);
    v->wants_moments = way.is_asked && has_moments;
}

static void check(const Op *op, int which, Way way) {
    Var *v = op->sample(tape, which);
    assert_ptr_equal(v->op, op);
    run_in(v, way);
    Bytes said = bytes_said(v), taken = bytes_taken(v);
    if (said.saved != taken.saved || said.forward != taken.forward ||
        said.backward != taken.backward || said.staged != taken.staged)
        fail_msg("%s, sample %d, %s%s, %d threads: says saved %lld, forward %lld, backward %lld, "
                 "staged %lld; takes %lld, %lld, %lld, %lld",
                 op->name, which, dtype_name(way.dtype), way.keeps_residuals ? ", residuals" : "",
                 way.threads, (long long)said.saved, (long long)said.forward,
                 (long long)said.backward, (long long)said.staged, (long long)taken.saved,
                 (long long)taken.forward, (long long)taken.backward, (long long)taken.staged);
}

static bool has_sample(const Op *op, int which) {
    tape_begin(tape, mode);
    return op->sample(tape, which) != NULL;
}

static void check_rows(Way way) {
    Error err = {0};
    assert_true(parallel_init(way.threads, &err));
    mode.keeps_residuals = way.keeps_residuals;
    for (int r = 0; r < op_row_count; r++)
        for (int which = 0; has_sample(op_rows[r], which); which++) {
            tape_begin(tape, mode);
            check(op_rows[r], which, way);
        }
}

static void test_what_is_said_is_taken(void **state) {
    (void)state;
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        check_rows((Way){DTYPE_F32, false, false, threads});
        check_rows((Way){DTYPE_F32, false, true, threads});
        check_rows((Way){DTYPE_F32, true, false, threads});
        check_rows((Way){DTYPE_F16, false, false, threads});
        check_rows((Way){DTYPE_BF16, false, false, threads});
    }
}

static void test_products_are_declared(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        const Op *op = op_rows[r];
        if (!op->flops != !!(op->flags & OP_NO_FLOPS))
            fail_msg("%s: either a row counts its products (flops), or it says OP_NO_FLOPS",
                     op->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_said_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_products_are_declared, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
