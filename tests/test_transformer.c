/* The transformer of language models: names, what a position sees, the loss behind the head, any
 * batch and length, training with quantizers, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "autograd/layers.h"
#include "core/parallel.h"
#include "tests/model_source.h"

#define SETTINGS "vocabulary: 23, width: 8, layers: 2, heads: 4, kv_heads: 2, ff: 12"
enum { VOCABULARY = 23, LENGTH = 7 };

static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    Error err = {0};
    return parallel_init(0, &err) ? 0 : -1;
}

static Model *build(const char *settings) {
    ModelSource source =
        model_source(arena_format(arena, "model: {kind: transformer, " SETTINGS "%s}", settings));
    return model_of(&source, SHAPE(LENGTH), VOCABULARY, 3);
}

static Tensor tokens(int64_t batch, int64_t length) {
    Tensor x = tensor_new(arena, DTYPE_F32, SHAPE(batch, length));
    for (int64_t i = 0; i < batch * length; i++)
        tensor_f32(&x)[i] = (float)((i * i + 3 * i + 1) % VOCABULARY);
    return x;
}

/* The token after each position; the last of a row is not scored. */
static int32_t *labels_of(Tensor x) {
    int64_t count = tensor_count(&x), length = shape_last(x.shape);
    int32_t *labels = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++)
        labels[i] = i % length == length - 1 ? -1 : (int32_t)tensor_f32(&x)[i + 1];
    return labels;
}

static void names_are_those_of_hugging_face(void **state) {
    (void)state;
    static const struct {
        const char *name;
        Shape shape;
    } params[] = {
        {"model.embed_tokens.weight", {2, {23, 8}}},
        {"model.layers.0.input_layernorm.weight", {1, {8}}},
        {"model.layers.0.self_attn.q_proj.weight", {2, {24, 8}}},
        {"model.layers.0.self_attn.q_proj.bias", {1, {24}}},
        {"model.layers.0.self_attn.k_proj.weight", {2, {12, 8}}},
        {"model.layers.1.self_attn.k_proj.bias", {1, {12}}},
        {"model.layers.1.self_attn.v_proj.weight", {2, {12, 8}}},
        {"model.layers.1.self_attn.v_proj.bias", {1, {12}}},
        {"model.layers.1.self_attn.o_proj.weight", {2, {8, 24}}},
        {"model.layers.1.self_attn.q_norm.weight", {1, {6}}},
        {"model.layers.1.self_attn.k_norm.weight", {1, {6}}},
        {"model.layers.1.post_attention_layernorm.weight", {1, {8}}},
        {"model.layers.1.mlp.gate_proj.weight", {2, {12, 8}}},
        {"model.layers.1.mlp.up_proj.weight", {2, {12, 8}}},
        {"model.layers.1.mlp.down_proj.weight", {2, {8, 12}}},
        {"model.norm.weight", {1, {8}}},
        {"lm_head.weight", {2, {23, 8}}},
    };
    Model *model = build(", head_dim: 6, attention_bias: qkv, qk_norm: true, tied: false");
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        const Param *p = model_find_param(model, params[i].name);
        if (!p) fail_msg("no %s", params[i].name);
        assert_true(shape_equal(p->value.shape, params[i].shape));
    }
    assert_null(model_find_param(model, "model.layers.0.self_attn.o_proj.bias"));
    assert_int_equal(model->param_count, 1 + 2 * 14 + 2);
    Model *tied = build("");
    assert_null(model_find_param(tied, "lm_head.weight"));
    assert_int_equal(tied->param_count, 1 + 2 * 9 + 1);
    assert_non_null(
        model_find_param(build(", attention_bias: all"), "model.layers.0.self_attn.o_proj.bias"));
}

static void any_batch_and_length(void **state) {
    (void)state;
    Model *model = build("");
    assert_true(shape_equal(model->output, SHAPE(1, LENGTH, VOCABULARY)));
    Tensor whole = tokens(1, 40);
    Tensor logits = logits_of(model, tape, whole);
    for (int64_t length = 1; length < 40; length += 6) {
        Tensor part = whole;
        part.shape = SHAPE(1, length);
        Tensor some = logits_of(model, tape, part);
        logits.shape = SHAPE(1, length, VOCABULARY);
        assert_same_bits(some,
                         logits); /* no position sees a later one, nor depends on the length */
    }
    Tensor rows = tokens(3, 5), of_rows = logits_of(model, tape, rows);
    rows.shape = SHAPE(1, 5);
    of_rows.shape = SHAPE(1, 5, VOCABULARY);
    assert_same_bits(logits_of(model, tape, rows), of_rows);
}

/* Two documents in a row give what each gives alone. */
static void documents_do_not_see_each_other(void **state) {
    (void)state;
    enum { FIRST = 4, SECOND = 6, ALL = FIRST + SECOND };
    Model *model = build(", qk_norm: true");
    Tensor both = tokens(1, ALL);
    float starts[ALL];
    for (int i = 0; i < ALL; i++) starts[i] = i < FIRST ? 0 : FIRST;
    tape_begin(tape, TAPE_EVALUATION);
    Var *x = tape_constant(tape, both);
    Tensor at = {.dtype = DTYPE_F32, .shape = both.shape, .data = starts};
    model_tokens(model, tape)->starts = tape_constant(tape, at);
    Var *y = model_forward(model, tape, x);
    float *logits = arena_new_array(arena, float, ALL *VOCABULARY);
    memcpy(logits, var_f32(y), sizeof(float) * ALL * VOCABULARY);
    Tensor alone = {.dtype = DTYPE_F32, .shape = SHAPE(1, FIRST), .data = both.data};
    Tensor expected = logits_of(model, tape, alone); /* a new record: starts are forgotten */
    assert_memory_equal(logits, expected.data, tensor_bytes(&expected));
    alone.shape = SHAPE(1, SECOND);
    alone.data = tensor_f32(&both) + FIRST;
    expected = logits_of(model, tape, alone);
    const float *second = logits + FIRST * VOCABULARY;
    for (int i = 0; i < SECOND * VOCABULARY; i++)
        assert_true(fabsf(second[i] - tensor_f32(&expected)[i]) < 1e-6f);
}

static float loss_of(Model *model, TapeMode mode, Tensor x, const int32_t *labels) {
    model_clear_grads(model);
    tape_begin(tape, mode);
    Var *in = tape_constant(tape, x);
    TokenContext *context = model_tokens(model, tape);
    context->is_scored = true;
    context->labels = labels;
    Var *loss = model_forward(model, tape, in);
    if (mode.needs_grad) tape_backward(tape, loss, 1);
    if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
    return *var_f32(loss);
}

static void the_loss_is_that_of_the_logits(void **state) {
    (void)state;
    static const char *const settings[] = {"", ", tied: false"};
    for (int i = 0; i < 2; i++) {
        Model *model = build(settings[i]);
        Tensor x = tokens(2, LENGTH), logits = logits_of(model, tape, x);
        const int32_t *labels = labels_of(x);
        double sum = 0, scored = 0;
        for (int64_t r = 0; r < 2 * LENGTH; r++) {
            const float *z = tensor_f32(&logits) + r * VOCABULARY;
            double all = 0;
            for (int c = 0; c < VOCABULARY; c++) all += exp((double)z[c]);
            if (labels[r] < 0) continue;
            sum += log(all) - (double)z[labels[r]];
            scored++;
        }
        assert_true(fabs((double)loss_of(model, TAPE_EVALUATION, x, labels) - sum / scored) < 1e-5);
    }
}

/* Central differences of the whole network, for some numbers of every parameter. */
static void gradients_are_those_of_the_loss(void **state) {
    (void)state;
    Model *model = build(", head_dim: 6, attention_bias: all, mlp_bias: true, qk_norm: true");
    Tensor x = tokens(2, LENGTH);
    const int32_t *labels = labels_of(x);
    for (int i = 0; i < model->param_count; i++) { /* far from the start, where all is small */
        Param *p = model->params[i];
        for (int64_t k = 0; k < tensor_count(&p->value); k++)
            tensor_f32(&p->value)[k] += 0.3f * sinf((float)(k * 7 + i));
    }
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        int64_t count = tensor_count(&p->value);
        for (int64_t k = 0; k < count; k += 1 + count / 3) {
            float *number = tensor_f32(&p->value) + k, kept = *number, h = 0.01f;
            loss_of(model, TAPE_TRAINING, x, labels);
            assert_true(p->has_grad);
            float grad = p->grad[k];
            *number = kept + h;
            double above = (double)loss_of(model, TAPE_EVALUATION, x, labels);
            *number = kept - h;
            double below = (double)loss_of(model, TAPE_EVALUATION, x, labels);
            *number = kept;
            double slope = (above - below) / (2 * (double)h);
            if (fabs(slope - (double)grad) > 2e-3 + 2e-2 * fabs(slope))
                fail_msg("%s[%lld]: %g, by differences %g", p->name, (long long)k, (double)grad,
                         slope);
        }
    }
}

static float descend(Model *model, int steps) {
    Tensor x = tokens(2, LENGTH);
    const int32_t *labels = labels_of(x);
    float loss = 0;
    for (int step = 0; step < steps; step++) {
        loss = loss_of(model, TAPE_TRAINING, x, labels);
        for (int i = 0; i < model->param_count; i++) {
            Param *p = model->params[i];
            for (int64_t k = 0; p->has_grad && k < tensor_count(&p->value); k++)
                tensor_f32(&p->value)[k] -= 0.3f * p->grad[k];
        }
    }
    return loss;
}

/* Activations of 8 bits by token, weights of 4 in groups: every product is quantized, the looking
 * up is not, and it learns. */
static void quantized_training_learns(void **state) {
    (void)state;
    ModelSource source = model_source(
        "model: {kind: transformer, " SETTINGS ", tied: false}\n"
        "quant: {bits: 8, weights: {bits: 4, granularity: group, group_size: 4, quantizer: minmax},"
        "        activations: {granularity: token, quantizer: minmax}}");
    Model *model = model_of(&source, SHAPE(LENGTH), VOCABULARY, 3);
    Qat *qat = qat_of(&source, model);
    assert_int_equal(qat->site_count, 2 * 7 + 1);
    for (int i = 0; i < qat->site_count; i++)
        assert_true(qat->sites[i].quant && qat->sites[i].input);
    assert_string_equal(qat->sites[0].name, "model.layers.0.self_attn.q_proj");
    assert_ptr_equal(qat->sites[0].input, qat->sites[2].input); /* q, k and v read one edge */
    assert_string_equal(qat->sites[14].name, "lm_head");
    for (int i = 0; i < qat->edge_count; i++)
        assert_string_not_equal(qat->edges[i].producer, "input");
    float first = descend(model, 1), last = descend(model, 200);
    if (!(last < 0.85f * first)) fail_msg("from %g to %g", (double)first, (double)last);
}

typedef struct Planned {
    Model *model;
    Tensor x;
    const int32_t *labels;
} Planned;

static Var *record(void *context, Tape *t) {
    const Planned *p = context;
    Var *x = tape_constant(t, p->x);
    TokenContext *around = model_tokens(p->model, t);
    around->is_scored = true;
    around->labels = p->labels;
    return model_forward(p->model, t, x);
}

/* Ids beyond what half precision holds stay whole, and gradients are near. */
static void half_precision_is_near(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    float losses[3], grads[3];
    for (int i = 0; i < 3; i++) {
        ModelSource source = model_source(
            "model: {kind: transformer, vocabulary: 5003, width: 8, layers: 1, heads: 2, ff: 12}");
        Model *model = model_of(&source, SHAPE(LENGTH), 5003, 3);
        Planned p = {.model = model, .x = tokens(2, LENGTH)};
        for (int k = 0; k < 2 * LENGTH; k++) tensor_f32(&p.x)[k] += 4901;
        p.labels = labels_of(p.x);
        TapeMode mode = TAPE_TRAINING;
        mode.half = halves[i];
        model_clear_grads(model);
        Var *loss = tape_run(tape, mode, record, &p);
        losses[i] = *var_f32(loss);
        tape_backward(tape, loss, 1);
        assert_int_equal(tape->error.code, ERROR_NONE);
        grads[i] = model_find_param(model, "model.embed_tokens.weight")->grad[4902 * 8];
        assert_true(grads[i] != 0);
        assert_true(fabsf(losses[i] - losses[0]) < 0.01f * losses[0]);
        assert_true(fabsf(grads[i] - grads[0]) < 0.05f * fabsf(grads[0]));
    }
    assert_true(losses[1] != losses[0] && losses[2] != losses[0]);
}

static void same_bits_on_any_threads(void **state) {
    (void)state;
    float losses[5];
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        losses[threads] = descend(build(", qk_norm: true"), 5);
        assert_true(losses[threads] == losses[1]);
    }
}

static void written_out_is_the_built_in_model(void **state) {
    (void)state;
#define BLOCK(name) "{kind: decoder_block, name: '" name "', heads: 4, kv_heads: 2, ff: 12}"
    ModelSource source = model_source(
        "model: {kind: sequential, layers: [{kind: sequential, name: model, layers: ["
        "{kind: embedding, name: embed_tokens, rows: 23, units: 8},"
        "{kind: sequential, name: layers, layers: [" BLOCK("0") ", " BLOCK(
            "1") "]},"
                 "{kind: rms_norm, name: norm}]}, {kind: head, name: lm_head, tied: true}]}");
    Model *written = model_of(&source, SHAPE(LENGTH), VOCABULARY, 3), *built_in = build("");
    Tensor x = tokens(2, LENGTH);
    assert_same_bits(logits_of(written, tape, x), logits_of(built_in, tape, x));
}

/* Llama 3.2's: long wavelengths 32 times as long, short ones as they are (golden logits hold the
 * numbers between). */
static void scaled_positions_change_what_is_seen(void **state) {
    (void)state;
    Tensor x = tokens(1, LENGTH);
    Tensor plain = logits_of(build(""), tape, x);
    Tensor short_ones =
        logits_of(build(", rope_scaling: {factor: 32, original_length: 1000000000}"), tape, x);
    Tensor scaled = logits_of(build(", rope_scaling: {factor: 32, original_length: 2}"), tape, x);
    assert_same_bits(plain, short_ones);
    assert_memory_not_equal(plain.data, scaled.data, tensor_bytes(&plain));
}

static void wrong_settings_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *model, *message;
    } refusals[] = {
        {"{kind: transformer, width: 8, heads: 4, kv_heads: 3}",
         "model 'transformer': model.layers.0.self_attn: kv_heads 3 does not divide heads 4"},
        {"{kind: transformer, width: 8, heads: 3}",
         "model 'transformer': model.layers.0.self_attn: heads 3 does not divide the width 8; give "
         "head_dim"},
        {"{kind: transformer, width: 12, heads: 4}",
         "model 'transformer': model.layers.0.self_attn: a head has 3 numbers; rotary positions "
         "need an even number"},
        {"{kind: transformer, rope_scaling: {factor: 2, low_freq_factor: 4}}",
         "model 'transformer': model.layers.0.self_attn: rope_scaling: high_freq_factor must be "
         "above low_freq_factor"},
        {"{kind: transformer, vocabulary: 22}",
         "model: the network has 22 tokens, but the data's tokenizer 23; take the tokenizer that "
         "belongs to it"},
        {"{kind: sequential, layers: [head]}",
         "model 'sequential': head1: no embedding stands before this head; give units, untied"},
        {"{kind: sequential, layers: [{kind: embedding, rows: 5, units: 4}, {kind: linear, units: "
         "3}, {kind: head, tied: true}]}",
         "model 'sequential': head1: a tied head needs a table [5, 3], but the embedding's is [5, "
         "4]"},
        {"{kind: sequential, layers: [{kind: self_attention, heads: 2}]}",
         "model 'sequential': self_attention1: self_attention needs [n, length, width], not [1, "
         "7]"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text = arena_format(arena, "model: %s", refusals[i].model);
        assert_string_equal(model_error(text, SHAPE(LENGTH), VOCABULARY), refusals[i].message);
    }
    assert_string_equal(
        model_error("model: {kind: transformer}", SHAPE(8, 8, 1), 10),
        "model 'transformer': model.embed_tokens: embedding needs tokens [n, length], not [1, 8, "
        "8, 1]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(names_are_those_of_hugging_face),
        TEST(any_batch_and_length),
        TEST(documents_do_not_see_each_other),
        TEST(the_loss_is_that_of_the_logits),
        TEST(gradients_are_those_of_the_loss),
        TEST(quantized_training_learns),
        TEST(half_precision_is_near),
        TEST(same_bits_on_any_threads),
        TEST(written_out_is_the_built_in_model),
        TEST(scaled_positions_change_what_is_seen),
        TEST(wrong_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
