/* Reads tests/golden/llm, whose maker (make_llm.py) says what is in it: NAME.safetensors and
 * NAME.json, beside the directory NAME of a model or an adapter. What is missing ends the test. */
#ifndef NIBBLE_TESTS_LLM_GOLDEN_H
#define NIBBLE_TESTS_LLM_GOLDEN_H

#include "core/arena.h"
#include "core/json.h"
#include "data/safetensors.h"

#define LLM_GOLDEN "tests/golden/llm/"

static const char *const llm_models[] = {"llama", "mistral", "qwen2", "qwen3"};
static const char *const llm_adapters[] = {"lora", "rslora", "dora"}; /* of llama */
enum { LLM_MODEL_COUNT = 4, LLM_ADAPTER_COUNT = 3 };

typedef struct LlmGolden {
    Arena *arena; /* of all that is read */
    const char *directory;
    Json *facts;
    SafeTensors tensors;
} LlmGolden;

static inline LlmGolden llm_golden_open(const char *name, Arena *arena) {
    Error err = {0};
    LlmGolden g = {.arena = arena, .directory = arena_format(arena, LLM_GOLDEN "%s", name)};
    g.facts = json_read_file(arena_format(arena, "%s.json", g.directory), &err);
    const char *path = arena_format(arena, "%s.safetensors", g.directory);
    if (!g.facts || !safetensors_open(path, arena, &g.tensors, &err)) fail_msg("%s", err.message);
    return g;
}

static inline void llm_golden_close(LlmGolden *g) {
    json_free(g->facts);
    safetensors_close(&g->tensors);
}

static inline const SafeTensor *llm_golden_tensor(const LlmGolden *g, const char *name) {
    const SafeTensor *tensor = safetensors_find(&g->tensors, name);
    if (!tensor) fail_msg("%s.safetensors has no %s", g->directory, name);
    return tensor;
}

/* logits, PARAM.grad, PARAM.after */
static inline float *llm_golden_values(const LlmGolden *g, const char *name) {
    Error err = {0};
    const SafeTensor *tensor = llm_golden_tensor(g, name);
    int64_t count = shape_count(tensor->shape);
    float *values = arena_new_array(g->arena, float, count);
    if (!safetensors_read(&g->tensors, tensor, 0, count, values, &err)) fail_msg("%s", err.message);
    return values;
}

/* ids, tokens, labels */
static inline int32_t *llm_golden_ids(const LlmGolden *g, const char *name) {
    Error err = {0};
    const SafeTensor *tensor = llm_golden_tensor(g, name);
    assert_string_equal(tensor->type, "I32");
    int32_t *ids = arena_new_array(g->arena, int32_t, shape_count(tensor->shape));
    if (!safetensors_read_bytes(&g->tensors, tensor, ids, &err)) fail_msg("%s", err.message);
    return ids;
}

/* prompt_ids, new_ids of NAME.json */
static inline int32_t *llm_golden_list(const LlmGolden *g, const char *name, int *count) {
    *count = json_count(g->facts, name);
    assert_in_range(*count, 1, 1000);
    int64_t *wide = arena_new_array(g->arena, int64_t, *count);
    int32_t *ids = arena_new_array(g->arena, int32_t, *count);
    assert_true(json_get_ints(g->facts, name, wide, *count));
    for (int i = 0; i < *count; i++) ids[i] = (int32_t)wide[i];
    return ids;
}

#endif
