/* PEFT's adapters on a language model (golden/make_llm.py): logits, the loss and its gradients,
 * three steps of AdamW, and the files that are written back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "experiments/adapter/frozen.h"
#include "experiments/adapter/import.h"
#include "experiments/adapter/merge.h"
#include "qat/adapters/lora.h"
#include "tests/llm_golden.h"
#include "tests/model_source.h"

static Tape *tape;

/* `base`: more settings of the model. */
static Experiment import_on(const char *base, const char *directory) {
    ModelSource source = model_source(
        arena_format(arena, "model: {kind: pretrained, path: " LLM_GOLDEN "%s}", base));
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->from = directory;
    Experiment e = {.arena = arena, .model = model_of(&source, SHAPE(12), 64, 1)};
    e.config.adapter = (Variant){&adapter_lora.kind, lora};
    Error err = {0};
    if (!import_settings(&e.config, arena, &err) ||
        !adapter_install(e.model, &e.config.adapter, arena, &e.adapter, &err) ||
        !import_weights(&e, &err))
        fail_msg("%s", err.message);
    return e;
}

static Experiment import(const char *directory) {
    return import_on("llama", directory);
}

static Tensor ids_of(const LlmGolden *g, const char *name) {
    const SafeTensor *tensor = llm_golden_tensor(g, name);
    Shape shape = tensor->shape.rank == 1 ? SHAPE(1, tensor->shape.dim[0]) : tensor->shape;
    const int32_t *ids = llm_golden_ids(g, name);
    Tensor x = tensor_new(arena, DTYPE_F32, shape);
    for (int64_t i = 0; i < shape_count(shape); i++) tensor_f32(&x)[i] = (float)ids[i];
    return x;
}

/* The largest difference, as a share of the range of what is expected. */
static double distance(const float *expected, const float *given, int64_t count) {
    double low = INFINITY, high = -INFINITY, most = 0;
    for (int64_t i = 0; i < count; i++) {
        low = fmin(low, (double)expected[i]);
        high = fmax(high, (double)expected[i]);
        most = fmax(most, fabs((double)given[i] - (double)expected[i]));
    }
    return most / (high - low);
}

static void logits_are_those_of_peft(void **state) {
    (void)state;
    for (int i = 0; i < LLM_ADAPTER_COUNT; i++) {
        LlmGolden g = llm_golden_open(llm_adapters[i], arena);
        Experiment e = import(g.directory);
        Tensor logits = logits_of(e.model, tape, ids_of(&g, "ids"));
        double share =
            distance(llm_golden_values(&g, "logits"), logits.data, tensor_count(&logits));
        printf("%s: %.2g of the range\n", llm_adapters[i], share);
        assert_true(share < 1e-5); /* asked for: 1e-4 */
        llm_golden_close(&g);
    }
}

static double step(Experiment *e, Tensor ids, const int32_t *labels) {
    model_clear_grads(e->model);
    tape_begin(tape, TAPE_TRAINING);
    Var *x = tape_constant(tape, ids);
    TokenContext *context = model_tokens(e->model, tape);
    context->is_scored = true;
    context->labels = labels;
    Var *loss = model_forward(e->model, tape, x);
    tape_backward(tape, loss, 1);
    if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
    return (double)var_f32(loss)[0];
}

static void compare_params(const LlmGolden *g, const Model *model, const char *what, bool is_grad,
                           double tolerance) {
    int compared = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (p->is_base) continue;
        const float *expected = llm_golden_values(g, arena_format(arena, "%s.%s", p->name, what));
        const float *given = is_grad ? p->grad : tensor_f32(&p->value);
        double share = distance(expected, given, tensor_count(&p->value));
        if (!(share < tolerance)) fail_msg("%s.%s: %g of the range", p->name, what, share);
        compared++;
    }
    assert_true(compared >= 12);
}

static void training_is_that_of_peft(void **state) {
    (void)state;
    Variant adamw = {.kind = kind_find(&optimizer_kinds, "adamw")};
    for (int i = 0; i < LLM_ADAPTER_COUNT; i++) {
        LlmGolden g = llm_golden_open(llm_adapters[i], arena);
        Experiment e = import(g.directory);
        Error err = {0};
        adamw.config = kind_defaults(adamw.kind, arena);
        OptimizerConfig *config = adamw.config;
        config->lr = json_number(g.facts, "learning_rate");
        config->weight_decay = json_number(g.facts, "weight_decay");
        assert_true(optimizer_new(&adamw, e.model, arena, &e.optimizer, &err));
        Tensor ids = ids_of(&g, "tokens");
        const int32_t *labels = llm_golden_ids(&g, "labels");
        for (int k = 0; k < 3; k++) {
            double loss = step(&e, ids, labels);
            double expected = json_number(g.facts, arena_format(arena, "losses.%d", k));
            if (!(fabs(loss - expected) < 2e-5)) fail_msg("loss %d: %g, %g", k, loss, expected);
            if (k == 0) compare_params(&g, e.model, "grad", true, 1e-4);
            assert_true(optimizer_step(e.optimizer, 1, &err));
        }
        compare_params(&g, e.model, "after", false, 2e-3); /* Adam divides by small numbers */
        llm_golden_close(&g);
    }
}

/* PEFT's adapter on what bitsandbytes stored: its logits, loss and gradients. */
static void on_a_base_of_bitsandbytes(void **state) {
    (void)state;
    LlmGolden g = llm_golden_open("wide_nf4_lora", arena);
    Experiment e = import_on("wide_nf4, base: stored", LLM_GOLDEN "wide_lora");
    Tensor logits = logits_of(e.model, tape, ids_of(&g, "ids"));
    double share = distance(llm_golden_values(&g, "logits"), logits.data, tensor_count(&logits));
    printf("wide_nf4_lora: %.2g of the range\n", share);
    assert_true(share < 1e-5); /* asked for: 1e-4 */
    double loss = step(&e, ids_of(&g, "tokens"), llm_golden_ids(&g, "labels"));
    assert_float_equal(loss, json_number(g.facts, "losses.0"), 2e-5);
    compare_params(&g, e.model, "grad", true, 1e-4);
    llm_golden_close(&g);
}

/* From now on the base is f32, of the values that it has. */
static void decode_base(const Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        Tensor values = tensor_new(arena, DTYPE_F32, p->value.shape);
        if (!p->is_base) continue;
        tensor_decode(&p->value, values.data);
        p->value = values;
    }
}

static float *gradients_of(const Model *model, int64_t *count) {
    *count = 0;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->grad) *count += tensor_count(&model->params[i]->value);
    float *all = arena_new_array(arena, float, *count), *at = all;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (!p->grad) continue;
        memcpy(at, p->grad, tensor_bytes(&p->value));
        at += tensor_count(&p->value);
    }
    return all;
}

/* A base in few bits is the network of its values; bitsandbytes' own is the one that is made here.
 */
static void bases_in_few_bits(void **state) {
    (void)state;
    static const char *const bases[] = {
        "llama_nf4, base: stored", "llama, base: {kind: nf4, double_quantization: true}",
        "llama, base: fp4", "llama, base: {kind: i4, group: 16, affine: true}", "llama, base: i8"};
    static const char *const adapters[] = {"lora", "dora"};
    LlmGolden g = llm_golden_open("lora", arena);
    Tensor ids = ids_of(&g, "tokens");
    const int32_t *labels = llm_golden_ids(&g, "labels");
    for (int k = 0; k < 2; k++) {
        double losses[5];
        for (int i = 0; i < 5; i++) {
            int64_t count;
            Experiment e = import_on(bases[i], arena_format(arena, LLM_GOLDEN "%s", adapters[k]));
            for (int j = 0; j < e.adapter->site_count; j++)
                assert_true(dtype_codec(e.adapter->sites[j].weight->value.dtype)->code_bits <= 8);
            losses[i] = step(&e, ids, labels);
            const float *stored = gradients_of(e.model, &count);
            decode_base(e.model);
            assert_float_equal(step(&e, ids, labels), losses[i], 1e-5);
            assert_true(distance(gradients_of(e.model, &count), stored, count) < 1e-5);
        }
        assert_float_equal(losses[0], losses[1], 1e-5);
        for (int i = 2; i < 5; i++) assert_true(fabs(losses[i] - losses[i - 1]) > 1e-3);
    }
    llm_golden_close(&g);
}

/* ---- The weights as they were ---- */

static Experiment adapted(const char *base, LoraInit init) {
    ModelSource source = model_source(
        arena_format(arena, "model: {kind: pretrained, path: " LLM_GOLDEN "llama%s}", base));
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->init = init;
    Experiment e = {.arena = arena, .model = model_of(&source, SHAPE(12), 300, 1)};
    e.config.adapter = (Variant){&adapter_lora.kind, lora};
    e.base_source = frozen_source(LLM_GOLDEN "llama");
    Error err = {0};
    if (!adapter_install(e.model, &e.config.adapter, arena, &e.adapter, &err) ||
        !adapter_start(e.adapter, &e.base_source, &err))
        fail_msg("%s", err.message);
    return e;
}

static void loftq_comes_nearer(void **state) {
    (void)state;
    LlmGolden g = llm_golden_open("llama", arena);
    double shares[2];
    for (int i = 0; i < 2; i++) {
        Experiment e = adapted(", base: nf4", i ? LORA_LOFTQ : LORA_DEFAULT);
        Tensor logits = logits_of(e.model, tape, ids_of(&g, "ids"));
        shares[i] = distance(llm_golden_values(&g, "logits"), logits.data, tensor_count(&logits));
    }
    printf("nf4: %.3g of the range, with loftq %.3g\n", shares[0], shares[1]);
    assert_true(shares[1] < 0.7 * shares[0]);
    llm_golden_close(&g);
}

static void merging_begins_with_them(void **state) {
    (void)state;
    Experiment e = adapted(", base: nf4", LORA_DEFAULT), plain = adapted("", LORA_DEFAULT);
    Merge merge;
    Error err = {0};
    for (int i = 0; i < e.adapter->site_count; i++) { /* B is zeros */
        const Param *weight = e.adapter->sites[i].weight;
        int64_t count = tensor_count(&weight->value);
        float *values = arena_new_array(arena, float, count);
        if (!merge_values(&e, MERGE_F16, weight, values, &err)) fail_msg("%s", err.message);
        const float *w = tensor_f32(&plain.adapter->sites[i].weight->value);
        for (int64_t k = 0; k < count; k++) assert_true(values[k] == dtype_round(DTYPE_F16, w[k]));
    }
    e.base_source = frozen_source(LLM_GOLDEN "llama_nf4");
    assert_false(merge_measure(&e, MERGE_F16, false, arena, &merge, &err));
    assert_string_equal(err.message,
                        "model.layers.0.self_attn.q_proj, route f16: tests/golden/llm/llama_nf4 "
                        "does not have model.layers.0.self_attn.q_proj.weight as it was before it "
                        "was stored in few bits");
}

/* The merged network, without an adapter, computes what the adapted one does, to f16. */
static void merged_is_the_same(void **state) {
    (void)state;
    for (int i = 0; i < LLM_ADAPTER_COUNT; i++) {
        LlmGolden g = llm_golden_open(llm_adapters[i], arena);
        Experiment e = import(g.directory);
        Error err = {0};
        for (int k = 0; k < e.adapter->site_count; k++) {
            Param *weight = e.adapter->sites[k].weight;
            Tensor merged = tensor_new(arena, DTYPE_F32, weight->value.shape);
            if (!merge_values(&e, MERGE_DEQUANTIZED, weight, merged.data, &err))
                fail_msg("%s", err.message);
            e.adapter->sites[k].module->output = (View){0};
            weight->value = merged;
        }
        Tensor logits = logits_of(e.model, tape, ids_of(&g, "ids"));
        double share =
            distance(llm_golden_values(&g, "logits"), logits.data, tensor_count(&logits));
        assert_true(share < 2e-3 && share > 0);
        llm_golden_close(&g);
    }
}

static void adapters_of_other_models_are_refused(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: pretrained, path: " LLM_GOLDEN "qwen3}");
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->from = LLM_GOLDEN "lora";
    Experiment e = {.arena = arena, .model = model_of(&source, SHAPE(12), 300, 1)};
    e.config.adapter = (Variant){&adapter_lora.kind, lora};
    Error err = {0};
    assert_true(import_settings(&e.config, arena, &err) &&
                adapter_install(e.model, &e.config.adapter, arena, &e.adapter, &err));
    assert_false(import_weights(&e, &err));
    assert_non_null(strstr(err.message, "is for another base: "
                                        "'base_model.model.model.layers.0.self_attn.q_proj.lora_B."
                                        "weight' is [32, 4], and for "
                                        "model.layers.0.self_attn.q_proj it must be [64, 4]"));
}

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
    return 0;
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(logits_are_those_of_peft),  TEST(training_is_that_of_peft),
        TEST(on_a_base_of_bitsandbytes), TEST(bases_in_few_bits),
        TEST(loftq_comes_nearer),        TEST(merging_begins_with_them),
        TEST(merged_is_the_same),        TEST(adapters_of_other_models_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
