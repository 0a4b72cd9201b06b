/* How long values are kept: of a product's factors, what a gradient needs; of a dropout, as long as
 * values are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "tests/batched.h"

static int set_up(void **state) {
    (void)state;
    Error err = {0};
    tape_fixture();
    return parallel_init(2, &err) ? 0 : -1;
}

#define IMAGES                                                                                     \
    "data: {kind: synthetic, height: 12, width: 12, channels: 3, classes: 4, train: 200, "         \
    "test: 20, validation: 32, batch: 16, augment: {crop_padding: 1, flip: true}}\n"

/* ---- Products ---- */

static void poison(Var *v) {
    if (!v->value.data) return;
    for (int64_t i = 0; i < var_count(v); i++) ((float *)v->value.data)[i] = NAN;
}

/* Gradients of `which` of a product's factors, where that alone has one and its own values are
 * lost.
 */
static void check_product(const Op *op, int which, int factor) {
    float *grads[2];
    size_t bytes = 0;
    for (int spoils = 0; spoils < 2; spoils++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *out = op->sample(tape, which);
        Var *loss = op_sum(tape, out, -1), *in = out->in[factor];
        out->in[1 - factor]->needs_grad = false;
        if (spoils) poison(in);
        if (spoils && out->in[2]) poison(out->in[2]);
        tape_backward(tape, loss, 1);
        bytes = sizeof(float) * (size_t)var_count(in);
        grads[spoils] = memcpy(arena_alloc(arena, bytes), var_grad_f32(in), bytes);
    }
    if (memcmp(grads[0], grads[1], bytes))
        fail_msg("%s, sample %d, reads factor %d for its own gradient", op->name, which, factor);
}

static void products_read_the_other_factor(void **state) {
    (void)state;
    int checked = 0;
    for (int r = 0; r < op_row_count; r++)
        for (int which = 0; op_rows[r]->geometry; which++, checked++) {
            tape_begin(tape, TAPE_TRAINING);
            if (!op_rows[r]->sample(tape, which)) break;
            check_product(op_rows[r], which, 0);
            check_product(op_rows[r], which, 1);
        }
    assert_true(checked > 3);
}

/* What a frozen weight multiplies, nobody reads again. */
static void frozen_products_keep_no_input(void **state) {
    (void)state;
    static const char network[] =
        "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 64}, "
        "{kind: rms_norm}, {kind: linear, name: known, units: 64}, {kind: gelu}, "
        "{kind: linear, units: 4}]}\n" IMAGES;
    for (int is_frozen = 0; is_frozen < 2; is_frozen++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        open_network(network, configs, &e);
        model_find_param(e.model, "known.weight")->is_frozen = is_frozen;
        Batched b = batched(&e, 0);
        const Var *loss = tape_run(e.tape, TAPE_TRAINING, record, &b);
        tape_backward(e.tape, e.tape->vars[loss->index], 1);
        int norms = 0;
        for (int i = 0; i < e.tape->count; i++) {
            if (e.tape->vars[i]->op != &op_row_rms_norm) continue;
            norms++;
            size_t expected = is_frozen ? 0 : 16 * 64 * sizeof(float);
            assert_int_equal(plan_kept_bytes(e.tape->plan, i), expected);
        }
        assert_int_equal(norms, 1);
        experiment_close(&e);
        arena_free(configs);
    }
}

/* Of a sum that SiLU reads the sum is kept, not both values that it adds; but one that somebody
 * else reads serves as well. Of SwiGLU gate and values, and what the last product reads. */
static void sums_are_kept_rather_than_both_values(void **state) {
    (void)state;
    static const char *const shortcuts[] = {"[{kind: linear, units: 64}]", "[]"};
    for (int is_read = 0; is_read < 2; is_read++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        open_network(arena_format(configs,
                                  "model: {kind: sequential, layers: [{kind: flatten}, {kind: "
                                  "linear, units: 64}, {kind: residual, main: [{kind: linear, "
                                  "units: 64}], shortcut: %s}, {kind: silu}, {kind: gated_mlp, "
                                  "units: 48}, {kind: linear, units: 4}]}\n" IMAGES,
                                  shortcuts[is_read]),
                     configs, &e);
        Batched b = batched(&e, 0);
        const Var *loss = tape_run(e.tape, TAPE_TRAINING, record, &b);
        tape_backward(e.tape, e.tape->vars[loss->index], 1);
        int sums = 0, products = 0;
        for (int i = 0; i < e.tape->count; i++) {
            const Var *v = e.tape->vars[i];
            const Plan *plan = e.tape->plan;
            if (v->op == &op_row_add && v->in[0]->op == &op_row_linear) {
                sums++;
                bool is_kept = plan_kept_bytes(plan, i) > 0;
                bool is_main_kept = plan_kept_bytes(plan, v->in[0]->index) > 0;
                assert_true(is_kept == !is_read && is_main_kept == is_read);
            }
            if (v->op == &op_row_mul) {
                products++;
                size_t bytes = 16 * 48 * sizeof(float);
                assert_int_equal(plan_kept_bytes(plan, i), bytes);
                assert_int_equal(plan_kept_bytes(plan, v->in[0]->index), 0);
                assert_int_equal(plan_kept_bytes(plan, v->in[0]->in[0]->index), bytes);
                assert_int_equal(plan_kept_bytes(plan, v->in[1]->index), bytes);
            }
        }
        assert_int_equal(sums, 1);
        assert_int_equal(products, 1);
        experiment_close(&e);
        arena_free(configs);
    }
}

/* A byte for each element, which goes with the values of the block where blocks are made again. */
static void dropouts_notes_are_planned(void **state) {
    (void)state;
    static const char network[] =
        "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 64}, "
        "{kind: residual, main: [{kind: linear, units: 64}, {kind: dropout, probability: 0.3}]}, "
        "{kind: rms_norm}, {kind: linear, units: 4}]}\n" IMAGES;
    for (int recomputes = 0; recomputes < 2; recomputes++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        TapeMode way = TAPE_TRAINING;
        way.recompute = recomputes ? RECOMPUTE_BLOCK : RECOMPUTE_NONE;
        open_network(network, configs, &e);
        Batched b = batched(&e, 0);
        tape_run(e.tape, way, record, &b);
        int dropouts = 0;
        for (int i = 0; i < e.tape->count; i++) {
            const Var *v = e.tape->vars[i];
            if (v->op != &op_row_dropout) continue;
            dropouts++;
            assert_int_equal(e.tape->plan->slots[i].mask.bytes, 16 * 64);
            assert_true(recomputes ? !v->notes : v->notes != NULL);
        }
        assert_int_equal(dropouts, 1);
        experiment_close(&e);
        arena_free(configs);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(products_read_the_other_factor, set_up, tear_down),
        cmocka_unit_test_setup_teardown(frozen_products_keep_no_input, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sums_are_kept_rather_than_both_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dropouts_notes_are_planned, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
