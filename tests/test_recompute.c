/* Values of blocks that are made again for backward: the bits of a step that keeps everything, in
 * less memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "tests/batched.h"
#include "tests/model_source.h"

#define IMAGES_BY(batch)                                                                           \
    "data: {kind: synthetic, height: 12, width: 12, channels: 4, classes: 4, train: 200, "         \
    "test: 20, validation: 32, batch: " #batch ", augment: {crop_padding: 1, flip: true}}\n"       \
    "train: {recompute: block}\n"
#define IMAGES IMAGES_BY(16)
#define RESNET "model: {kind: resnet, depth: 14, widths: [8, 12, 16]}\n" IMAGES

/* A transformer's feed-forward block, of whole tiles of 32 or not; the last shares its stream. */
#define BLOCK(in, out)                                                                             \
    "{kind: residual, main: [{kind: rms_norm}, {kind: linear, units: " #in                         \
    "}, {kind: silu}, {kind: dropout, probability: 0.1}, {kind: linear, units: " #out "}]}"
#define STREAM(in, out)                                                                            \
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: " #out              \
    "}, " BLOCK(in, out) ", " BLOCK(in, out) ", " BLOCK(in, out) ", {kind: rms_norm}, "            \
                                                                 "{kind: linear, units: 4}]}\n"

static const char *const networks[] = {
    RESNET,
    RESNET "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}]}\n",
    RESNET "quant: {bits: 3, residual_bits: 8}\n",
    RESNET "quant: {bits: 8, activations: {quantizer: ema, affine: true}, freeze_batch_norm: 2}\n",
    RESNET "quant: {bits: 4, start: 2, weights: {quantizer: dorefa, granularity: tensor}}\n",
    STREAM(77, 40) IMAGES_BY(35),
    STREAM(96, 64) IMAGES_BY(32),
    STREAM(77, 40) IMAGES_BY(35) "quant: {bits: 4}\n",
    STREAM(96, 64)
        IMAGES_BY(32) "quant: {bits: 8, weights: {bits: 4, granularity: group, group_size: 32}, "
                      "activations: {quantizer: minmax, granularity: token}}\n",
    STREAM(96, 64) IMAGES_BY(32) "quant: {bits: 8, activations: {quantizer: lsq_plus, affine: "
                                 "true}}\n",
    STREAM(96, 64) IMAGES_BY(32) "adapter: {kind: lora, rank: 4, dropout: 0.1}\n",
    STREAM(77, 40) IMAGES_BY(35) "adapter: {kind: lora, rank: 4, dora: true}\n",
    /* A batch norm, a pooling and activations at the edges of blocks, which join groups there; one
     * block within another. */
    "model: {kind: sequential, layers: [{kind: conv, filters: 8}, {kind: batch_norm}, "
    "{kind: residual, main: [{kind: relu}, {kind: conv, filters: 8}, {kind: batch_norm}]}, "
    "{kind: relu}, {kind: max_pool, kernel: 2}, "
    "{kind: residual, main: [{kind: silu}, {kind: residual, main: [{kind: conv, filters: 8}, "
    "{kind: batch_norm}, {kind: relu6}]}, {kind: dropout, probability: 0.2}], "
    "shortcut: [{kind: conv, filters: 8}, {kind: batch_norm}]}, "
    "{kind: gelu}, {kind: residual, main: [{kind: tanh}]}, {kind: sigmoid}, {kind: global_pool}, "
    "{kind: linear, units: 4}]}\n" IMAGES,
    /* A linear layer behind a block feeds the block's last maps on the way back. */
    "model: {kind: sequential, layers: [{kind: flatten}, {kind: linear, units: 64}, "
    "{kind: residual, main: [{kind: linear, units: 64}, {kind: relu}]}, {kind: linear, units: 64}, "
    "{kind: residual, main: [{kind: linear, units: 64}, {kind: silu}]}, {kind: relu}, "
    "{kind: linear, units: 4}]}\n" IMAGES_BY(32),
};
enum {
    NETWORKS = sizeof networks / sizeof *networks,
    STREAMS_FIRST = 5, /* those with norms within blocks */
    STREAMS_END = 12
};

static int set_up(void **state) {
    (void)state;
    Error err = {0};
    tape_fixture();
    return parallel_init(2, &err) ? 0 : -1;
}

/* ---- Bits ---- */

/* Of parameters, buffers and gradients. */
static void assert_same_params(const Model *a, const Model *b, size_t network, int64_t step) {
    for (int i = 0; i < a->param_count; i++) {
        const Param *p = a->params[i], *q = b->params[i];
        size_t bytes = tensor_bytes(&p->value);
        assert_int_equal(p->has_grad, q->has_grad);
        if (memcmp(p->value.data, q->value.data, bytes))
            fail_msg("network %zu, step %ld: the value of %s", network, (long)step, p->name);
        if (p->has_grad && memcmp(p->grad, q->grad, bytes))
            fail_msg("network %zu, step %ld: the gradient of %s", network, (long)step, p->name);
    }
}

/* What a record of a plan gives; backward takes no memory beyond what it gives back. */
static float take_step(Experiment *e, TapeMode way, int64_t step) {
    Batched b = batched(e, step);
    Tape *t = e->tape;
    Error err = {0};
    t->step = (uint64_t)step;
    qat_set_step(e->qat, step, 6);
    model_clear_grads(e->model);
    Var *loss = tape_run(t, way, record, &b);
    assert_int_equal(t->error.code, ERROR_NONE);
    float value = *var_f32(loss);
    size_t used = arena_used(t->arena);
    tape_backward(t, loss, 1);
    assert_int_equal(arena_used(t->arena), used);
    assert_true(optimizer_step(e->optimizer, 0.1, &err));
    return value;
}

/* Two experiments see the same batches, one keeps what the other makes again. */
static void check_bits(size_t network, Dtype half, Recompute recompute) {
    Experiment e[2];
    Arena *configs = arena_new("configs");
    for (int i = 0; i < 2; i++) open_network(networks[network], configs, &e[i]);
    for (int64_t step = 0; step < 4; step++) {
        float losses[2];
        for (int i = 0; i < 2; i++) {
            TapeMode way = trainer_mode(&e[i]);
            assert_int_equal(way.recompute, RECOMPUTE_BLOCK);
            way.recompute = i ? recompute : RECOMPUTE_NONE;
            way.half = half;
            losses[i] = take_step(&e[i], way, step);
        }
        assert_memory_equal(&losses[0], &losses[1], sizeof *losses);
        assert_same_params(e[0].model, e[1].model, network, step);
        const Plan *all = e[0].tape->plan, *plan = e[1].tape->plan;
        assert_int_equal(all->segment_count, 0);
        assert_true(plan->segment_count > 1);
        assert_true(plan->value_bytes_kept < all->value_bytes_kept);
        assert_true(plan->value_bytes_kept <= plan->bytes);
    }
    for (int i = 0; i < 2; i++) experiment_close(&e[i]);
    arena_free(configs);
}

static void recomputation_changes_no_bit(void **state) {
    (void)state;
    for (size_t n = 0; n < NETWORKS; n++) check_bits(n, DTYPE_F32, RECOMPUTE_BLOCK);
}

static void nor_of_what_is_cheap(void **state) {
    (void)state;
    for (size_t n = STREAMS_FIRST; n < STREAMS_END; n++) check_bits(n, DTYPE_F32, RECOMPUTE_CHEAP);
}

static void nor_in_half_precision(void **state) {
    (void)state;
    for (size_t n = 0; n < NETWORKS; n++) {
        check_bits(n, DTYPE_F16, RECOMPUTE_BLOCK);
        check_bits(n, DTYPE_BF16, RECOMPUTE_BLOCK);
    }
}

/* ---- Language models ---- */

enum { VOCABULARY = 50, ROWS = 3, LENGTH = 37 };

#define TRANSFORMER(more)                                                                          \
    "model: {kind: transformer, vocabulary: 50, width: 32, layers: 3, heads: 4, kv_heads: 2, "     \
    "ff: 80" more "}\n"

/* Documents of 10 and 27 tokens in a row; the last token of each is not scored. */
typedef struct Tokens {
    Model *model;
    float ids[ROWS * LENGTH], starts[ROWS * LENGTH];
    int32_t labels[ROWS * LENGTH];
} Tokens;

static void draw_tokens(Tokens *x, int64_t step) {
    const RandomKey key = {.seed = 2, .stream = RANDOM_TEST, .step = (uint64_t)step};
    random_fill_uniform(key, 0, VOCABULARY, ROWS * LENGTH, x->ids);
    for (int i = 0; i < ROWS * LENGTH; i++) {
        x->ids[i] = floorf(x->ids[i]);
        x->starts[i] = i % LENGTH < 10 ? 0 : 10;
    }
    for (int i = 0; i < ROWS * LENGTH; i++) {
        bool is_last = i % LENGTH == 9 || i % LENGTH == LENGTH - 1;
        x->labels[i] = is_last ? -1 : (int32_t)x->ids[i + 1];
    }
}

static Var *record_tokens(void *context, Tape *t) {
    Tokens *x = context;
    const Tensor ids = {.dtype = DTYPE_F32, .shape = SHAPE(ROWS, LENGTH), .data = x->ids};
    Tensor starts = ids;
    starts.data = x->starts;
    TokenContext *tokens = model_tokens(x->model, t);
    tokens->starts = tape_constant(t, starts);
    tokens->is_scored = true;
    tokens->labels = x->labels;
    Var *leaf = tape_constant(t, ids);
    return model_forward(x->model, t, leaf);
}

static void descend(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        for (int64_t j = 0; p->has_grad && j < tensor_count(&p->value); j++)
            tensor_f32(&p->value)[j] -= 0.05f * p->grad[j];
    }
}

/* The last loss. */
static float check_tokens(const char *text, Dtype half, Recompute recompute) {
    const ModelSource source = model_source(text);
    Tokens x[2];
    Qat *qat[2];
    float last = 0;
    for (int i = 0; i < 2; i++) {
        x[i].model = model_of(&source, SHAPE(LENGTH), VOCABULARY, 3);
        qat[i] = qat_of(&source, x[i].model);
    }
    for (int64_t step = 0; step < 3; step++) {
        size_t kept[2];
        for (int i = 0; i < 2; i++) {
            TapeMode way = TAPE_TRAINING;
            way.recompute = i ? recompute : RECOMPUTE_NONE;
            way.half = half;
            tape->step = (uint64_t)step;
            draw_tokens(&x[i], step);
            qat_set_step(qat[i], step, 3);
            model_clear_grads(x[i].model);
            Var *loss = tape_run(tape, way, record_tokens, &x[i]);
            if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
            last = *var_f32(loss);
            tape_backward(tape, loss, 1);
            kept[i] = tape->plan->value_bytes_kept;
            if (i) assert_int_equal(tape->plan->segment_count, 3);
            descend(x[i].model);
        }
        if (half == DTYPE_F32 || recompute == RECOMPUTE_BLOCK)
            assert_same_params(x[0].model, x[1].model, 0, step);
        assert_true(kept[1] < kept[0]);
    }
    return last;
}

static void decoders_are_blocks(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const char *const models[] = {
        TRANSFORMER(""),
        TRANSFORMER(", tied: false, qk_norm: true, attention_bias: qkv"),
        TRANSFORMER("") "quant: {bits: 8, weights: {bits: 4, granularity: group, group_size: 16}, "
                        "activations: {quantizer: minmax, granularity: token}}\n",
        TRANSFORMER("") "quant: {bits: 8}\n",
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        float exact = check_tokens(models[i], halves[0], RECOMPUTE_BLOCK);
        assert_true(check_tokens(models[i], halves[0], RECOMPUTE_CHEAP) == exact);
        for (int h = 1; h < 3; h++)
            for (Recompute r = RECOMPUTE_CHEAP; r <= RECOMPUTE_BLOCK; r++) {
                float loss = check_tokens(models[i], halves[h], r);
                assert_true(loss != exact && fabsf(loss - exact) < 0.02f * exact);
            }
    }
}

/* ---- Memory ---- */

/* What a step of `count` blocks keeps; the block of memory that all values share. */
static double kept_by(const char *block, int count, const char *rest, Recompute recompute,
                      double *shared) {
    Experiment e;
    Arena *configs = arena_new("configs");
    const char *layers = "{kind: flatten}, {kind: linear, units: 256}";
    for (int i = 0; i < count; i++) layers = arena_format(configs, "%s, %s", layers, block);
    open_network(arena_format(configs,
                              "model: {kind: sequential, layers: [%s, %s]}\n" IMAGES_BY(128),
                              layers, rest),
                 configs, &e);
    TapeMode way = trainer_mode(&e);
    way.recompute = recompute;
    take_step(&e, way, 0);
    double bytes = (double)e.tape->plan->value_bytes_kept;
    *shared = (double)e.tape->plan->bytes;
    experiment_close(&e);
    arena_free(configs);
    return bytes;
}

/* Of each block its input, and of one block what it makes. */
static void one_block_is_kept_with_the_inputs_of_all(void **state) {
    (void)state;
    static const char block[] =
        "{kind: residual, main: [{kind: rms_norm}, {kind: linear, units: 512}, {kind: silu}, "
        "{kind: linear, units: 512}, {kind: gelu}, {kind: linear, units: 256}]}";
    static const char rest[] = "{kind: rms_norm}, {kind: linear, units: 4}";
    const double input = 128 * 256 * sizeof(float);
    double shared, all, less_shared;
    double few = kept_by(block, 6, rest, RECOMPUTE_NONE, &shared);
    double many = kept_by(block, 12, rest, RECOMPUTE_NONE, &all);
    double one = (many - few) / 6, outside = few - 6 * one;
    assert_true(one > 5 * input);
    double less = kept_by(block, 6, rest, RECOMPUTE_BLOCK, &shared);
    double more = kept_by(block, 12, rest, RECOMPUTE_BLOCK, &less_shared);
    assert_true(more - less == 6 * input);
    if (!(more <= 12 * input + 1.2 * one + outside))
        fail_msg("12 blocks keep %g, one alone %g, their inputs %g", more, one, 12 * input);
    if (!(less_shared <= 12 * input + 1.6 * one + outside && less_shared < 0.4 * all))
        fail_msg("12 blocks take %g, without recomputation %g", less_shared, all);
}

/* What is cheap lies there for one block; of the others what it is made of: the block's input and
 * the wider product. */
static void cheap_values_are_made_of_those_that_are_kept(void **state) {
    (void)state;
    static const char block[] = "{kind: residual, main: [{kind: rms_norm}, {kind: linear, units: "
                                "512}, {kind: silu}, {kind: linear, units: 256}]}";
    static const char rest[] = "{kind: rms_norm}, {kind: linear, units: 4}";
    const double input = 128 * 256 * sizeof(float);
    double shared, kept[2];
    for (Recompute r = RECOMPUTE_NONE; r <= RECOMPUTE_CHEAP; r++)
        kept[r] = kept_by(block, 12, rest, r, &shared) - kept_by(block, 6, rest, r, &shared);
    assert_true(kept[RECOMPUTE_NONE] == 6 * (1 + 1 + 2 + 2) * input);
    assert_true(kept[RECOMPUTE_CHEAP] == 6 * (1 + 2) * input);
}

/* What only a block's last ops make, backward does not read: it is not made again. */
static void the_last_op_does_not_run_again(void **state) {
    (void)state;
    Experiment e;
    Arena *configs = arena_new("configs");
    open_network(networks[5], configs, &e);
    take_step(&e, trainer_mode(&e), 0);
    const Tape *t = e.tape;
    int linear = 0, again = 0;
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        bool is_linear = v->op == &op_row_linear && v->segment;
        linear += is_linear;
        again += is_linear && t->plan->slots[i].runs_again;
    }
    assert_int_equal(linear, 6);
    assert_int_equal(again, 3);
    experiment_close(&e);
    arena_free(configs);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(recomputation_changes_no_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nor_of_what_is_cheap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nor_in_half_precision, set_up, tear_down),
        cmocka_unit_test_setup_teardown(decoders_are_blocks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_block_is_kept_with_the_inputs_of_all, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(cheap_values_are_made_of_those_that_are_kept, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_last_op_does_not_run_again, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
