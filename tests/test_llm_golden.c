/* tests/golden/llm is whole, and its parts fit each other: directories as transformers and PEFT
 * write them are opened by our readers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "data/text/tokenizer.h"
#include "tests/llm_golden.h"

static Json *read_json(const LlmGolden *g, const char *file) {
    Error err = {0};
    Json *json = json_read_file(arena_format(g->arena, "%s/%s", g->directory, file), &err);
    if (!json) fail_msg("%s", err.message);
    return json;
}

static SafeTensors open_directory(const char *directory, Arena *arena) {
    Error err = {0};
    SafeTensors st;
    if (!safetensors_open(directory, arena, &st, &err)) fail_msg("%s", err.message);
    return st;
}

static void check_weights(const LlmGolden *g, const Json *config) {
    SafeTensors st = open_directory(g->directory, g->arena);
    int64_t vocabulary = 0, hidden = 0;
    assert_true(json_get_int(config, "vocab_size", &vocabulary));
    assert_true(json_get_int(config, "hidden_size", &hidden));
    bool is_tied = false;
    assert_true(json_get_bool(config, "tie_word_embeddings", &is_tied));
    const SafeTensor *table = safetensors_find(&st, "model.embed_tokens.weight");
    assert_non_null(table);
    assert_true(shape_equal(table->shape, SHAPE(vocabulary, hidden)));
    assert_true(is_tied == !safetensors_find(&st, "lm_head.weight"));
    Dtype dtype = !strcmp(json_get_text(config, "dtype"), "float32")   ? DTYPE_F32
                  : !strcmp(json_get_text(config, "dtype"), "float16") ? DTYPE_F16
                                                                       : DTYPE_BF16;
    for (int i = 0; i < st.count; i++) assert_int_equal(st.items[i].dtype, dtype);
    assert_int_equal(st.file_count, strcmp(g->directory, LLM_GOLDEN "qwen2") ? 1 : 2);
    int64_t length = llm_golden_tensor(g, "ids")->shape.dim[0];
    assert_true(shape_equal(llm_golden_tensor(g, "logits")->shape, SHAPE(length, vocabulary)));
    safetensors_close(&st);
}

static void check_tokenizer(const LlmGolden *g, Span text) {
    Error err = {0};
    Tokenizer *tokenizer;
    const char *path = arena_format(g->arena, "%s/tokenizer.json", g->directory);
    if (!tokenizer_open(path, g->arena, &tokenizer, &err)) fail_msg("%s", err.message);
    TokenIds ids = {.arena = g->arena};
    assert_true(tokenizer_encode(tokenizer, text, true, &ids, &err));
    assert_int_equal(ids.count, json_number(g->facts, "token_count"));
    int32_t *first = llm_golden_ids(g, "ids");
    int64_t length = llm_golden_tensor(g, "ids")->shape.dim[0];
    assert_memory_equal(ids.items, first, sizeof *first * (size_t)length);

    const char *prompt = json_get_text(g->facts, "prompt");
    int count;
    int32_t *expected = llm_golden_list(g, "prompt_ids", &count);
    ids.count = 0;
    Span span = {prompt, (int64_t)strlen(prompt)};
    assert_true(tokenizer_encode(tokenizer, span, true, &ids, &err));
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.items, expected, sizeof *expected * (size_t)count);

    expected = llm_golden_list(g, "new_ids", &count);
    Span decoded;
    assert_true(tokenizer_decode(tokenizer, expected, count, true, g->arena, &decoded, &err));
    const char *wanted = json_get_text(g->facts, "text");
    assert_int_equal(decoded.bytes, strlen(wanted));
    assert_memory_equal(decoded.text, wanted, strlen(wanted));
    tokenizer_close(tokenizer);
}

static void check_perplexity(const Json *facts, const char *under) {
    char loss[64], perplexity[64];
    snprintf(loss, sizeof loss, "%sloss", under);
    snprintf(perplexity, sizeof perplexity, "%sperplexity", under);
    double wanted = exp(json_number(facts, loss));
    assert_true(fabs(json_number(facts, perplexity) - wanted) < 1e-9 * wanted);
}

static void test_models(void **state) {
    (void)state;
    for (int i = 0; i < LLM_MODEL_COUNT; i++) {
        Arena *arena = arena_new("test");
        Error err = {0};
        LlmGolden g = llm_golden_open(llm_models[i], arena);
        Json *config = read_json(&g, "config.json");
        check_weights(&g, config);
        Span text = {0};
        size_t bytes;
        text.text = file_read(LLM_GOLDEN "text.txt", 1 << 20, arena, &bytes, &err);
        assert_non_null(text.text);
        text.bytes = (int64_t)bytes;
        check_tokenizer(&g, text);
        check_perplexity(g.facts, "");
        check_perplexity(g.facts, "stride.");
        json_free(config);
        llm_golden_close(&g);
        arena_free(arena);
    }
}

/* Every tensor of the adapter has a gradient and a value after training, of its shape. */
static void test_adapters(void **state) {
    (void)state;
    for (int i = 0; i < LLM_ADAPTER_COUNT; i++) {
        Arena *arena = arena_new("test");
        LlmGolden g = llm_golden_open(llm_adapters[i], arena);
        Json *config = read_json(&g, "adapter_config.json");
        assert_string_equal(json_get_text(config, "base_model_name_or_path"), LLM_GOLDEN "llama");
        json_free(config);
        const char *path = arena_format(arena, "%s/adapter_model.safetensors", g.directory);
        SafeTensors st = open_directory(path, arena);
        assert_in_range(st.count, 12, 42);
        for (int k = 0; k < st.count; k++) {
            static const char prefix[] = "base_model.model.";
            assert_memory_equal(st.items[k].name, prefix, strlen(prefix));
            const char *name = st.items[k].name + strlen(prefix);
            const char *grad = arena_format(arena, "%s.grad", name);
            const char *after = arena_format(arena, "%s.after", name);
            assert_true(shape_equal(llm_golden_tensor(&g, grad)->shape, st.items[k].shape));
            assert_true(shape_equal(llm_golden_tensor(&g, after)->shape, st.items[k].shape));
        }
        assert_int_equal(json_count(g.facts, "losses"), 3);
        const SafeTensor *tokens = llm_golden_tensor(&g, "tokens");
        int32_t *ids = llm_golden_ids(&g, "tokens"), *labels = llm_golden_ids(&g, "labels");
        int64_t rows = tokens->shape.dim[0], length = tokens->shape.dim[1];
        for (int64_t k = 0; k < rows * length; k++)
            assert_true(labels[k] == -1 || (k % length < length - 1 && labels[k] == ids[k + 1]));
        safetensors_close(&st);
        llm_golden_close(&g);
        arena_free(arena);
    }
}

/* As bitsandbytes stores llama: codes and scales of the projections, everything else as it was. */
static void test_quantized(void **state) {
    (void)state;
    for (int is_double = 0; is_double < 2; is_double++) {
        Arena *arena = arena_new("test");
        const char *kind = is_double ? "nf4" : "fp4";
        SafeTensors st = open_directory(arena_format(arena, LLM_GOLDEN "llama_%s", kind), arena);
        static const char weight[] = "model.layers.1.mlp.up_proj.weight";
        const SafeTensor *codes = safetensors_find(&st, weight);
        assert_non_null(codes);
        assert_true(shape_equal(codes->shape, SHAPE(48 * 32 / 2, 1)));
        const SafeTensor *absmax = safetensors_find(&st, arena_format(arena, "%s.absmax", weight));
        assert_non_null(absmax);
        assert_string_equal(absmax->type, is_double ? "U8" : "F32");
        const char *quant_state =
            arena_format(arena, "%s.quant_state.bitsandbytes__%s", weight, kind);
        assert_non_null(safetensors_find(&st, quant_state));
        assert_int_equal(safetensors_find(&st, "model.embed_tokens.weight")->dtype, DTYPE_F32);
        safetensors_close(&st);
        arena_free(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_quantized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
