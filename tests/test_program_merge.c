/* What nibble merge takes in memory: the base and one weight, never the network that it writes. */
#include "tests/program.h"

#include "core/random.h"
#include "data/safetensors.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { HOLDS_MEMORY = 1 }; /* freed memory stays with the process */
#else
enum { HOLDS_MEMORY = 0 };
#endif

enum { WIDTH = 256, FF = 1024, LAYERS = 10, TOKENS = 260, PART = 1 << 16 };

static void add(SafeTensorData *tensors, int *count, const char *name, Shape shape) {
    tensors[(*count)++] = (SafeTensorData){name, {.dtype = DTYPE_F16, .shape = shape}};
}

static int layer_tensors(SafeTensorData *to, int layer) {
    static const struct {
        const char *name;
        int64_t out, in;
    } rows[] = {
        {"self_attn.q_proj", WIDTH, WIDTH},     {"self_attn.k_proj", WIDTH, WIDTH},
        {"self_attn.v_proj", WIDTH, WIDTH},     {"self_attn.o_proj", WIDTH, WIDTH},
        {"mlp.gate_proj", FF, WIDTH},           {"mlp.up_proj", FF, WIDTH},
        {"mlp.down_proj", WIDTH, FF},           {"input_layernorm", WIDTH, 0},
        {"post_attention_layernorm", WIDTH, 0},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        add(to, &count, format("model.layers.%d.%s.weight", layer, rows[i].name),
            rows[i].in ? SHAPE(rows[i].out, rows[i].in) : SHAPE(rows[i].out));
    return count;
}

static void write_config(void) {
    text_file("model/config.json",
              format("{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"vocab_size\": %d, "
                     "\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
                     "\"num_attention_heads\": 4, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000, "
                     "\"tie_word_embeddings\": true, \"max_position_embeddings\": 64}",
                     TOKENS, WIDTH, FF, LAYERS));
}

/* 10 million random weights, 21 MB in f16. */
static void write_weights(void) {
    SafeTensorData *tensors = arena_new_array(program_arena, SafeTensorData, LAYERS * 9 + 2);
    int count = 0;
    for (int i = 0; i < LAYERS; i++) count += layer_tensors(tensors + count, i);
    add(tensors, &count, "model.embed_tokens.weight", SHAPE(TOKENS, WIDTH));
    add(tensors, &count, "model.norm.weight", SHAPE(WIDTH));
    float *values = arena_new_array(program_arena, float, PART);
    uint16_t *halves = arena_new_array(program_arena, uint16_t, PART);
    random_fill_normal((RandomKey){.seed = 1, .stream = RANDOM_TEST}, 0.05f, PART, values);
    dtype_encode(DTYPE_F16, values, PART, NULL, halves);
    SafeTensorsWriter w;
    Error err = {0};
    bool ok = safetensors_write_begin("model/model.safetensors", tensors, count, NULL, &w, &err);
    for (int i = 0; ok && i < count; i++)
        for (int64_t due = shape_count(tensors[i].tensor.shape); ok && due > 0; due -= PART) {
            int64_t some = due < PART ? due : PART;
            ok = safetensors_write_part(&w, halves, sizeof *halves * (size_t)some, &err);
        }
    if (!safetensors_write_end(&w, ok, &err)) fail_msg("%s", err.message);
}

static void test_memory(void **state) {
    (void)state;
    if (HOLDS_MEMORY) skip();
    mkdir("model", 0777);
    write_config();
    write_weights();
    text_file("text.txt",
              "A text that is read by its bytes, long enough for a row or two of them.");
    text_file("q.yaml", "model: {kind: pretrained, path: model, base: {kind: nf4}}\n"
                        "data: {kind: text, path: text.txt, length: 16, batch: 1, eval_batch: 1, "
                        "validation: 0.25, test: 0.25}\n"
                        "optimizer: {kind: adamw, lr: 0.001}\n"
                        "adapter: {kind: lora, rank: 2}\ntrain: {steps: 1}\n");
    run(0, "train q.yaml --out run");
    int64_t evaluated = run(0, "eval run --text text.txt").peak_bytes;
    static const char *const routes[] = {"f16", "dequantized"};
    for (int i = 0; i < 2; i++) {
        Result merged = run(0, "merge run --out merged%d --route %s", i, routes[i]);
        int64_t more = merged.peak_bytes - evaluated;
        if (more > 8 << 20) fail_msg("%s: %ld bytes more than eval", routes[i], (long)more);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
