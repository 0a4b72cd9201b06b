/* A network whose weights lie in panels gives the bits that it gave, whatever reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/kv_cache.h"
#include "core/storage.h"
#include "tests/model_adapter.h"

enum { VOCABULARY = 64, LENGTH = 40 };

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
    return 0;
}

static void fill(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        RandomKey key = {.seed = 9, .stream = RANDOM_TEST, .step = (uint64_t)i};
        if (p->role != PARAM_BUFFER && p->role != PARAM_SCALE)
            random_fill_uniform(key, -0.5f, 0.7f, tensor_count(&p->value), tensor_f32(&p->value));
    }
}

static Model *network(const char *text, Shape input, int64_t classes) {
    ModelSource source = model_source(text);
    Model *model = model_of(&source, input, classes, 3);
    if (strstr(text, "quant:")) qat_of(&source, model);
    fill(model);
    return model;
}

static void store(Param *p, Dtype dtype, Dtype scales) {
    Storage storage = {.dtype = dtype, .block = 16, .scale_dtype = scales};
    Tensor stored;
    Error err = {0};
    if (!tensor_encode(arena, tensor_f32(&p->value), p->value.shape, &storage, &stored, &err))
        fail_msg("%s", err.message);
    param_store(p, stored);
}

static void lies_in_panels(Model *model, const char *name, bool expected) {
    const Param *p = model_find_param(model, name);
    assert_non_null(p);
    if ((p->value.layout == LAYOUT_PANELS) != expected)
        fail_msg("%s lies in %s", name, expected ? "rows" : "panels");
}

/* ---- Language models ---- */

#define TRANSFORMER(more)                                                                          \
    "model: {kind: transformer, width: 32, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ff: "   \
    "96, attention_bias: qkv, " more "}"

static float ids[LENGTH];

/* Of all positions, some at once and the others one by one. */
static float *logits_fed(Model *model) {
    KvCache *cache = kv_cache_new(LENGTH, arena);
    float *all = arena_new_array(arena, float, LENGTH *VOCABULARY);
    for (int64_t count = LENGTH / 2; cache->length < LENGTH; count = 1) {
        Tensor part = {.dtype = DTYPE_F32, .shape = SHAPE(1, count), .data = ids + cache->length};
        tape_begin(tape, TAPE_EVALUATION);
        Var *x = tape_constant(tape, part);
        model_tokens(model, tape)->cache = cache;
        Var *y = model_forward(model, tape, x);
        if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
        memcpy(all + cache->length * VOCABULARY, var_f32(y),
               sizeof *all * (size_t)(count * VOCABULARY));
        kv_cache_advance(cache, count);
    }
    return all;
}

static void language_models_say_the_same(void **state) {
    (void)state;
    static const struct {
        const char *text, *table;
        bool is_tied;
    } rows[] = {{TRANSFORMER("tied: true"), "model.embed_tokens.weight", true},
                {TRANSFORMER("tied: false"), "model.embed_tokens.weight", false}};
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < LENGTH; i++) ids[i] = (float)((i * i + 5 * i) % VOCABULARY);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof dtypes / sizeof *dtypes; j++) {
            Model *model = network(rows[i].text, SHAPE(LENGTH), VOCABULARY);
            store(model_find_param(model, rows[i].table), dtypes[j], DTYPE_F32);
            float *before = logits_fed(model);
            model_lay_weights(model);
            lies_in_panels(model, "model.layers.0.self_attn.k_proj.weight", true);
            lies_in_panels(model, "model.layers.1.mlp.down_proj.weight", true);
            lies_in_panels(model, rows[i].table, rows[i].is_tied);
            if (!rows[i].is_tied) lies_in_panels(model, "lm_head.weight", true);
            assert_memory_equal(logits_fed(model), before, sizeof *before * LENGTH * VOCABULARY);
        }
}

/* ---- Adapters ---- */

#define LAYERS                                                                                     \
    "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 96}, {kind: tanh}, "      \
    "{kind: linear, name: fc2, units: 64, bias: false}, {kind: linear, name: classes, units: 3}]}"

static void adapters_add_the_same(void **state) {
    (void)state;
    static const char *const texts[] = {
        "adapter: {kind: lora, rank: 16, target: [fc1, fc2]}",
        "adapter: {kind: lora, rank: 16, dora: true, target: [fc1, fc2]}",
        "adapter: {kind: lora, rank: 4, target: [fc1, fc2]}", /* fits no panel */
    };
    static const Storage ways[] = {{.dtype = DTYPE_F32, .scale_dtype = DTYPE_F32},
                                   {.dtype = DTYPE_F16, .scale_dtype = DTYPE_F32},
                                   {.dtype = DTYPE_INT4, .scale_dtype = DTYPE_F32},
                                   {.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32},
                                   {.dtype = DTYPE_NF4, .scale_dtype = DTYPE_DYNAMIC8}};
    for (int i = 0; i < 3; i++)
        for (size_t j = 0; j < sizeof ways / sizeof *ways; j++)
            for (int64_t count = 1; count < 30; count += 19) {
                Model *model = network(LAYERS, SHAPE(64), 3);
                install(model, texts[i]);
                fill(model);
                store(model_find_param(model, "fc1.weight"), ways[j].dtype, ways[j].scale_dtype);
                store(model_find_param(model, "fc2.weight"), ways[j].dtype, ways[j].scale_dtype);
                Tensor x = batch_of(model, count, 7), before = logits_of(model, tape, x);
                model_lay_weights(model);
                lies_in_panels(model, "fc1.weight", true);
                lies_in_panels(model, "fc1.lora_A.weight", i < 2);
                lies_in_panels(model, "fc2.lora_B.weight", true);
                lies_in_panels(model, "classes.weight", false);
                Tensor after = logits_of(model, tape, x);
                assert_memory_equal(after.data, before.data, tensor_bytes(&before));
            }
}

/* ---- Quantizers ---- */

/* They read weights row by row, and products multiply levels. */
static void quantized_weights_stay(void **state) {
    (void)state;
    Model *model =
        network("quant: {weights: {bits: 4}, activations: {bits: 8}}\n" LAYERS, SHAPE(64), 3);
    Tensor x = batch_of(model, 20, 7);
    logits_in(TAPE_TRAINING, model, tape, x); /* observers see it */
    Tensor before = logits_of(model, tape, x);
    model_lay_weights(model);
    lies_in_panels(model, "fc1.weight", false);
    lies_in_panels(model, "fc2.weight", false);
    Tensor after = logits_of(model, tape, x);
    assert_memory_equal(after.data, before.data, tensor_bytes(&before));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(language_models_say_the_same),
        TEST(adapters_add_the_same),
        TEST(quantized_weights_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
