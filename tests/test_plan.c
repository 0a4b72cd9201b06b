/* Planned memory: what ops say they spare is never read, buffers that live together lie apart, and
 * a planned step has the bits of one that keeps everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"
#include "autograd/plan.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "tests/batched.h"

static int set_up(void **state) {
    (void)state;
    Error err = {0};
    tape_fixture();
    tape->seed = 5;
    tape->step = 3;
    return parallel_init(2, &err) ? 0 : -1;
}

/* ---- What backward spares ---- */

static void poison(Var *v) {
    if (!v->value.data) return;
    for (int64_t i = 0; i < var_count(v); i++) ((float *)v->value.data)[i] = NAN;
}

/* sum w y backward; `spoils` overwrites what the op's flags say is not read any more. */
static Var *run_sample(const Op *op, int which, bool spoils) {
    tape_begin(tape, TAPE_TRAINING);
    Var *out = op->sample(tape, which);
    if (!out) return NULL;
    int recorded = tape->count;
    Tensor weight = tensor_new(tape->arena, DTYPE_F32, out->value.shape);
    random_fill_uniform((RandomKey){.seed = 2, .stream = RANDOM_TEST}, 0.5f, 1, var_count(out),
                        weight.data);
    Var *constant = tape_constant(tape, weight);
    Var *weighted = op_mul(tape, out, constant);
    Var *loss = op_sum(tape, weighted, -1);
    for (int i = 0; spoils && i < recorded; i++) {
        Var *v = tape->vars[i];
        if (v->op != op) continue;
        /* A map makes its output again, from inputs that must then be there. */
        bool spares_inputs = op->flags & OP_SPARES_INPUTS;
        if (map_fits(v)) spares_inputs = spares_inputs && op->flags & OP_SPARES_OUTPUT;
        if (map_fits(v) || op->flags & OP_SPARES_OUTPUT) poison(v);
        for (int j = 0; j < v->in_count && spares_inputs; j++)
            if (v->in[j] && !(op->flags & OP_ALIASES)) poison(v->in[j]);
    }
    tape_backward(tape, loss, 1);
    return out;
}

static void test_what_is_spared_is_not_read(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++)
        for (int which = 0; run_sample(op_rows[r], which, false); which++) {
            int count = tape->count;
            float **grads = arena_new_array(arena, float *, count);
            for (int i = 0; i < count; i++) {
                const Var *v = tape->vars[i];
                if (v->op || !v->needs_grad || !*v->has_grad) continue;
                grads[i] = arena_new_array(arena, float, var_count(v));
                memcpy(grads[i], var_grad_f32(v), sizeof(float) * (size_t)var_count(v));
            }
            run_sample(op_rows[r], which, true);
            for (int i = 0; i < count; i++) {
                const Var *v = tape->vars[i];
                if (grads[i] &&
                    memcmp(grads[i], var_grad_f32(v), sizeof(float) * (size_t)var_count(v)))
                    fail_msg("%s, sample %d, reads what it spares", op_rows[r]->name, which);
            }
        }
}

/* ---- Whole networks ---- */

#define IMAGES_BY(batch)                                                                           \
    "data: {kind: synthetic, height: 12, width: 12, channels: 3, classes: 4, train: 200, "         \
    "test: 20, validation: 32, batch: " #batch ", augment: {crop_padding: 1, flip: true}}\n"
#define IMAGES IMAGES_BY(16)

static const char *const networks[] = {
    "model: {kind: mlp, widths: [30, 20], dropout: 0.2}\n" IMAGES,
    "model: {kind: cnn, widths: [8, 12], hidden: 24, dropout: 0.2}\n" IMAGES,
    "model: {kind: cnn, widths: [8, 12], hidden: 24}\n" IMAGES
    "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}]}\n",
    "model: {kind: resnet, depth: 8, widths: [8, 12, 16]}\n" IMAGES "quant: {bits: 3}\n",
    "model: {kind: resnet, depth: 8, widths: [8, 12, 16]}\n" IMAGES
    "quant: {bits: 8, activations: {quantizer: ema, affine: true}, freeze_batch_norm: 2}\n",
    "model: {kind: sequential, layers: [{kind: conv, filters: 6}, {kind: batch_norm}, {kind: "
    "relu6}, "
    "{kind: residual, main: [{kind: conv, filters: 6}, {kind: batch_norm}]}, {kind: silu}, "
    "{kind: max_pool, kernel: 2}, {kind: dropout, probability: 0.1}, {kind: conv, filters: 5}, "
    "{kind: gelu}, {kind: global_pool}, {kind: linear, units: 4}]}\n" IMAGES
    "quant: {bits: 4, activations: {quantizer: lsq_plus, affine: true}}\n",
    /* A map is the second to add to the gradient of what two branches read. */
    "model: {kind: sequential, layers: [{kind: conv, filters: 6}, {kind: branches, branches: ["
    "{layers: [{kind: silu}]}, {layers: [{kind: conv, filters: 4}]}]}, {kind: global_pool}, "
    "{kind: linear, units: 4}]}\n" IMAGES,
    "model: {kind: cnn, widths: [8, 12], hidden: 24}\n" IMAGES
    "quant: {bits: 8, activations: {quantizer: ema}, freeze_batch_norm: 2}\n",
    "model: {kind: mobilenet, stem: 8, widths: [8, 16], strides: [1, 2]}\n" IMAGES
    "quant: {bits: 8, weights: {bits: 4}, activations: {quantizer: ema}, freeze_batch_norm: 2}\n",
    /* Windows of 4 rows cross blocks of 6: no tail. */
    "model: {kind: sequential, layers: [{kind: conv, filters: 16}, {kind: batch_norm}, {kind: "
    "relu}, "
    "{kind: max_pool, kernel: 4}, {kind: flatten}, {kind: linear, units: 4}]}\n" IMAGES,
    /* A pooling ends a group whose last value another branch reads too. */
    "model: {kind: sequential, layers: [{kind: conv, filters: 8}, {kind: batch_norm}, {kind: "
    "relu}, "
    "{kind: branches, branches: [{layers: [{kind: max_pool, kernel: 2}]}, "
    "{layers: [{kind: conv, filters: 4, stride: 2}]}]}, {kind: global_pool}, "
    "{kind: linear, units: 4}]}\n" IMAGES,
    "model: {kind: cnn, widths: [7, 10], hidden: 23}\n" IMAGES
    "quant: {bits: 4, weights: {granularity: tensor}}\n",
    "model: {kind: mobilenet, stem: 8, widths: [8, 16], strides: [1, 2]}\n" IMAGES
    "quant: {bits: 4, start: 2, weights: {quantizer: dorefa, granularity: tensor}}\n",
    /* Linear layers that feed maps, in whole tiles and in parts of them. */
    "model: {kind: mlp, widths: [64, 96]}\n" IMAGES_BY(32),
    "model: {kind: mlp, widths: [70, 41], dropout: 0.2}\n" IMAGES_BY(40) "quant: {bits: 4}\n",
    "model: {kind: mlp, widths: [65, 34]}\n" IMAGES_BY(
        35) "quant: {bits: 8, activations: {quantizer: ema, affine: true}}\n",
    "model: {kind: mlp, widths: [1100, 34, 36]}\n" IMAGES_BY(
        35) "quant: {bits: 4, weights: {granularity: tensor}, activations: {quantizer: lsq_plus, "
            "affine: "
            "true}}\n",
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 40}, {kind: "
    "batch_norm}, {kind: relu6}, {kind: residual, main: [{kind: linear, units: 77}, {kind: silu}, "
    "{kind: dropout, probability: 0.1}, {kind: linear, units: 40}]}, {kind: gelu}, {kind: "
    "branches, branches: [{layers: [{kind: linear, units: 33}, {kind: tanh}]}, {layers: [{kind: "
    "linear, units: 32}]}]}, {kind: relu}, {kind: linear, units: 4}]}\n" IMAGES_BY(35),
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 40}, {kind: "
    "batch_norm}, {kind: relu}, {kind: linear, units: 35}, {kind: batch_norm}, {kind: relu}, "
    "{kind: linear, units: 4}]}\n" IMAGES_BY(
        35) "quant: {bits: 8, activations: {quantizer: ema}, freeze_batch_norm: 2}\n",
    /* A map that joins a batch norm's group, but reads what a branch before it made. */
    "model: {kind: sequential, layers: [{kind: conv, filters: 8}, {kind: branches, branches: "
    "[{layers: [{kind: conv, filters: 8}, {kind: batch_norm}]}, {layers: [{kind: silu}]}]}, "
    "{kind: flatten}, {kind: linear, units: 4}]}\n" IMAGES,
    /* The last linear layer alone reads what the group makes last, another op what it makes first.
     */
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 40}, {kind: relu}, "
    "{kind: branches, branches: [{layers: [{kind: layer_norm}, {kind: linear, units: 5}]}, "
    "{layers: [{kind: linear, units: 33}]}]}, {kind: linear, units: 4}]}\n" IMAGES_BY(
        35) "quant: {bits: 4}\n",
    /* A sum that lies in memory while the maps behind it are made again; a product of two maps. */
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 40}, {kind: "
    "residual, main: [{kind: linear, units: 33}], shortcut: [{kind: linear, units: 33}]}, {kind: "
    "silu}, {kind: gated_mlp, units: 36}, {kind: linear, units: 4}]}\n" IMAGES_BY(35),
};

/* The gradients of every parameter in turn. */
static float *gradients(const Model *model, int64_t *count) {
    *count = 0;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->grad) *count += tensor_count(&model->params[i]->value);
    float *all = arena_new_array(arena, float, *count), *to = all;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        int64_t size = tensor_count(&p->value);
        if (!p->grad) continue;
        if (p->has_grad) memcpy(to, p->grad, sizeof *to * (size_t)size);
        to += size;
    }
    return all;
}

/* Two experiments see the same batches, one with a plan and one without. */
static void test_a_plan_changes_no_bit(void **state) {
    (void)state;
    int tails = 0, moments = 0, feeds = 0, back_feeds = 0;
    for (size_t n = 0; n < sizeof networks / sizeof *networks; n++) {
        Experiment e[2];
        Arena *configs = arena_new("configs");
        for (int i = 0; i < 2; i++) open_network(networks[n], configs, &e[i]);
        for (int64_t step = 0; step < 4; step++) {
            float *grads[2], losses[2];
            int64_t count = 0;
            for (int i = 0; i < 2; i++) {
                Batched b = batched(&e[i], step);
                Tape *t = e[i].tape;
                t->step = (uint64_t)step;
                qat_set_step(e[i].qat, step, 6);
                model_clear_grads(e[i].model);
                if (!i) tape_begin(t, TAPE_TRAINING);
                Var *loss = i ? tape_run(t, TAPE_TRAINING, record, &b) : record(&b, t);
                assert_int_equal(t->error.code, ERROR_NONE);
                losses[i] = *var_f32(loss);
                tape_backward(t, loss, 1);
                grads[i] = gradients(e[i].model, &count);
                Error err = {0};
                assert_true(optimizer_step(e[i].optimizer, 0.1, &err));
                for (int j = 0; i && j < t->count; j++) moments += t->vars[j]->moments != NULL;
                for (int j = 0; i && j < t->plan->forward.count; j++)
                    feeds += t->plan->forward.groups[j].feed >= 0;
                for (int j = 0; i && j < t->plan->backward.count; j++) {
                    tails += t->plan->backward.groups[j].tail >= 0;
                    back_feeds += t->plan->backward.groups[j].feed >= 0;
                }
            }
            assert_memory_equal(&losses[0], &losses[1], sizeof *losses);
            for (int64_t j = 0; j < count; j++)
                if (memcmp(&grads[0][j], &grads[1][j], sizeof **grads))
                    fail_msg("network %zu, step %ld, gradient %ld: %g and %g", n, (long)step,
                             (long)j, (double)grads[0][j], (double)grads[1][j]);
        }
        for (int i = 0; i < 2; i++) experiment_close(&e[i]);
        arena_free(configs);
    }
    assert_true(tails > 0 && moments > 0 && feeds > 0 && back_feeds > 0);
}

/* ---- Codes ---- */

/* One step on `threads` threads; the gradients of every parameter. */
static float *step_gradients(const char *network, int threads, Experiment *e, Arena *configs,
                             int64_t *count) {
    Error err = {0};
    assert_true(parallel_init(threads, &err));
    open_network(network, configs, e);
    Batched b = batched(e, 0);
    qat_set_step(e->qat, 3, 6);
    for (int again = 0; again < 2; again++) { /* ranges are found in the first */
        model_clear_grads(e->model);
        Var *loss = tape_run(e->tape, TAPE_TRAINING, record, &b);
        assert_int_equal(e->tape->error.code, ERROR_NONE);
        tape_backward(e->tape, loss, 1);
    }
    return gradients(e->model, count);
}

/* Half a byte where a code has at most 4 bits and every row begins with a byte. */
static void check_codes(const Tape *t, bool is_seen[3]) {
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        if (v->op != &op_row_fake_quant || !map_fits(v)) continue;
        bool is_small = v->value.scales->grid.bits <= 4,
             is_even = shape_last(v->value.shape) % 2 == 0;
        assert_int_equal(v->value.dtype, is_small && is_even ? DTYPE_NIBBLE : DTYPE_BYTE);
        is_seen[!is_small ? 0 : is_even ? 1 : 2] = true;
    }
}

static void test_codes_are_as_small_as_they_go(void **state) {
    (void)state;
    static const char *const narrow[] = {
        "model: {kind: cnn, widths: [7, 10], hidden: 23}\n" IMAGES
        "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}], weights: {granularity: "
        "tensor}}\n",
        "model: {kind: resnet, depth: 8, widths: [8, 13, 16]}\n" IMAGES
        "quant: {bits: 3, residual_bits: 8}\n",
    };
    for (size_t n = 0; n < sizeof narrow / sizeof *narrow; n++) {
        Arena *configs = arena_new("configs");
        bool is_seen[3] = {false, false, false};
        float *one = NULL;
        for (int threads = 1; threads <= 4; threads++) {
            Experiment e;
            int64_t count = 0;
            float *some = step_gradients(narrow[n], threads, &e, configs, &count);
            check_codes(e.tape, is_seen);
            if (threads == 1) one = some;
            assert_memory_equal(one, some, sizeof *one * (size_t)count);
            experiment_close(&e);
        }
        for (int i = 0; i < 3; i++) assert_true(is_seen[i]);
        arena_free(configs);
    }
    Error err = {0};
    assert_true(parallel_init(2, &err));
}

/* ---- Half precision ---- */

/* One step of two equal experiments, in f32 and in `half`. Losses agree to the precision of the
 * format, gradients point the same way. */
static void check_half(const char *network, Dtype half, double tolerance) {
    Experiment e[2];
    Arena *configs = arena_new("configs");
    float *grads[2], losses[2];
    int64_t count = 0;
    for (int i = 0; i < 2; i++) {
        open_network(network, configs, &e[i]);
        Batched b = batched(&e[i], 0);
        Tape *t = e[i].tape;
        qat_set_step(e[i].qat, 3, 6);
        mode.half = i ? half : DTYPE_F32;
        for (int again = 0; again < 2; again++) { /* ranges are found in the first */
            model_clear_grads(e[i].model);
            Var *loss = tape_run(t, mode, record, &b);
            assert_int_equal(t->error.code, ERROR_NONE);
            losses[i] = *var_f32(loss);
            tape_backward(t, loss, 1);
        }
        grads[i] = gradients(e[i].model, &count);
    }
    double dot = 0, norms[2] = {0};
    for (int64_t j = 0; j < count; j++) {
        dot += (double)grads[0][j] * (double)grads[1][j];
        for (int i = 0; i < 2; i++) norms[i] += (double)grads[i][j] * (double)grads[i][j];
    }
    double cosine = dot / sqrt(norms[0] * norms[1]);
    double off = fabs((double)(losses[1] - losses[0])) / (double)losses[0];
    if (!(off < tolerance) || !(cosine > 1 - tolerance) || losses[0] == losses[1])
        fail_msg("%s: loss %g and %g, cosine of gradients %g", network, (double)losses[0],
                 (double)losses[1], cosine);
    bool has_images = false; /* of linear layers, weights weigh more than values */
    for (int i = 0; i < e[0].tape->count; i++)
        has_images = has_images || e[0].tape->vars[i]->op == &op_row_conv2d;
    size_t kept = e[0].tape->plan->value_bytes_kept;
    bool has_floats = has_images && !strstr(network, "freeze"); /* not codes and masks alone */
    assert_true(!has_floats || e[1].tape->plan->value_bytes_kept < kept);
    for (int i = 0; i < 2; i++) experiment_close(&e[i]);
    arena_free(configs);
}

static void test_half_precision(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof networks / sizeof *networks; n++) {
        bool is_quantized = strstr(networks[n], "quant:"); /* a code may fall on the other side */
        check_half(networks[n], DTYPE_F16, is_quantized ? 0.1 : 0.003);
        check_half(networks[n], DTYPE_BF16, is_quantized ? 0.2 : 0.02);
    }
}

/* Maps that a product feeds see its value as it is kept, so that backward makes the same of it. */
static void test_fed_maps_see_what_is_kept(void **state) {
    (void)state;
    static const char network[] =
        "model: {kind: mlp, widths: [64, 70]}\n" IMAGES_BY(35) "quant: {bits: 4}\n";
    const Dtype halves[] = {DTYPE_F16, DTYPE_BF16};
    for (int h = 0; h < 2; h++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        open_network(network, configs, &e);
        mode.half = halves[h];
        qat_set_step(e.qat, 3, 6);
        Batched b = batched(&e, 0);
        for (int again = 0; again < 2; again++) tape_run(e.tape, mode, record, &b);
        int checked = 0;
        for (int i = 0; i < e.tape->count; i++) {
            const Var *fq = e.tape->vars[i],
                      *relu = fq->op == &op_row_fake_quant ? fq->in[0] : NULL;
            if (!relu || relu->op != &op_row_relu || relu->in[0]->op != &op_row_linear) continue;
            int64_t count = var_count(fq);
            float *x = arena_new_array(arena, float, count),
                  *got = arena_new_array(arena, float, count);
            assert_int_equal(relu->in[0]->value.dtype, halves[h]);
            operand_read(&relu->in[0]->value, 0, count, x);
            for (int64_t j = 0; j < count; j++) x[j] = x[j] > 0 ? x[j] : 0;
            quantize_levels(x, fq->value.scales, 0, count, x);
            operand_read(&fq->value, 0, count, got);
            assert_memory_equal(x, got, sizeof *x * (size_t)count);
            checked++;
        }
        assert_int_equal(checked, 2);
        experiment_close(&e);
        arena_free(configs);
    }
}

static bool share_memory(const PlanBuffer *a, const PlanBuffer *b) {
    return a->bytes && b->bytes && a->offset < b->offset + b->bytes &&
           b->offset < a->offset + a->bytes && a->begin <= b->end && b->begin <= a->end;
}

static void check_apart(const Plan *plan) {
    PlanBuffer *all = arena_new_array(arena, PlanBuffer, 3 * plan->count);
    size_t sum = 0;
    for (int i = 0; i < plan->count; i++) {
        all[3 * i] = plan->slots[i].value;
        all[3 * i + 1] = plan->slots[i].grad;
        all[3 * i + 2] = plan->slots[i].mask;
    }
    for (int i = 0; i < 3 * plan->count; i++) {
        assert_true(all[i].offset + all[i].bytes <= plan->bytes);
        sum += all[i].bytes;
        for (int j = 0; j < i; j++) assert_false(share_memory(&all[i], &all[j]));
    }
    assert_true(plan->bytes < sum); /* something is shared */
}

static void test_buffers_that_live_together_lie_apart(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof networks / sizeof *networks; n++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        open_network(networks[n], configs, &e);
        qat_set_step(e.qat, 3, 6);
        Batched b = batched(&e, 0);
        tape_run(e.tape, TAPE_TRAINING, record, &b); /* ranges are found */
        assert_int_equal(e.tape->error.code, ERROR_NONE);
        check_apart(e.tape->plan);
        tape_run(e.tape, TAPE_TRAINING, record, &b);
        Plan *plan = e.tape->plan;
        check_apart(plan);
        size_t mark = plan->bytes++; /* of this plan, not of another at the same place */
        tape_run(e.tape, TAPE_TRAINING, record, &b);
        assert_ptr_equal(e.tape->plan, plan); /* the same record has the same plan */
        assert_int_equal(plan->bytes, mark + 1);
        tape_run(e.tape, TAPE_EVALUATION, record, &b);
        check_apart(e.tape->plan);
        assert_true(e.tape->plan->value_bytes_kept <= ARENA_ALIGNMENT); /* the loss alone */
        experiment_close(&e);
        arena_free(configs);
    }
}

/* Bytes kept for backward per element that convolutions write, at a step. */
static double kept_per_element(Experiment *e, int64_t step) {
    qat_set_step(e->qat, step, 6);
    Batched b = batched(e, 0);
    tape_run(e->tape, TAPE_TRAINING, record, &b);
    assert_int_equal(e->tape->error.code, ERROR_NONE);
    int64_t elements = 0;
    for (int i = 0; i < e->tape->count; i++) {
        const Var *v = e->tape->vars[i];
        if (v->op == &op_row_conv2d) elements += var_count(v);
    }
    return (double)e->tape->plan->value_bytes_kept / (double)elements;
}

/* What a convolution writes is needed by batch norm while it moves, and by ranges that learn. */
static void test_frozen_norms_leave_codes_and_bits(void **state) {
    (void)state;
    static const struct {
        const char *quantizer;
        double moving, frozen; /* at most */
    } cases[] = {{"ema", 7, 3}, {"lsq", 7, 7}};
    for (int i = 0; i < 2; i++) {
        Experiment e;
        Arena *configs = arena_new("configs");
        const char *text =
            arena_format(arena,
                         "model: {kind: resnet, depth: 8, widths: [8, 16, 32]}\n" IMAGES
                         "quant: {bits: 8, activations: {quantizer: %s}, freeze_batch_norm: 2}\n",
                         cases[i].quantizer);
        open_network(text, configs, &e);
        double moving = kept_per_element(&e, 1), frozen = kept_per_element(&e, 2);
        if (!(moving > 5 && moving <= cases[i].moving))
            fail_msg("%s: %g bytes while norms move", cases[i].quantizer, moving);
        if (!(frozen <= cases[i].frozen && (frozen < 5) == (cases[i].frozen < 5)))
            fail_msg("%s: %g bytes once norms are frozen", cases[i].quantizer, frozen);
        experiment_close(&e);
        arena_free(configs);
    }
}

static Var *record_wrong(void *context, Tape *t) {
    (void)context;
    Var *a = tape_sample_leaf(t, SHAPE(2, 3), -1, 1);
    Var *b = tape_sample_leaf(t, SHAPE(4), -1, 1);
    return op_add(t, a, b);
}

static void test_errors_show_in_the_dry_run(void **state) {
    (void)state;
    tape_run(tape, TAPE_TRAINING, record_wrong, NULL);
    assert_int_equal(tape->error.code, ERROR_INPUT);
    assert_false(tape->mode.is_dry);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_spared_is_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_plan_changes_no_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_codes_are_as_small_as_they_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_buffers_that_live_together_lie_apart, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_half_precision, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fed_maps_see_what_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_frozen_norms_leave_codes_and_bits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors_show_in_the_dry_run, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
