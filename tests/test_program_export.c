/* A transformer trained from nothing, as a directory of Hugging Face: what is in it, that it is the
 * same network, and what is refused. */
#include "tests/program.h"

#include <math.h>

#define DATA                                                                                       \
    "data: {kind: text, path: text.txt, length: 16, batch: 4, validation: 0.1, test: 0.2}\n"
#define SCRATCH                                                                                    \
    "model: {kind: transformer, width: 16, layers: 2, heads: 4, kv_heads: 2, ff: 24}\n" DATA       \
    "optimizer: {kind: adamw, lr: 0.01}\ntrain: {steps: 12}\n"
#define AGAIN                                                                                      \
    "model: {kind: pretrained, path: model}\n" DATA                                                \
    "optimizer: {kind: adamw, lr: 1e-12}\ntrain: {steps: 1}\n"

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    file_copy(format("%s/tests/golden/llm/text.txt", program_source_root), "text.txt");
    text_file("scratch.yaml", SCRATCH);
    text_file("again.yaml", AGAIN);
    run(0, "train scratch.yaml --out scratch");
    assert_has(run(0, "export scratch --format huggingface --out model").out, "model: ");
    return 0;
}

static Json *read_json(const char *path) {
    return json_of(file_text(path));
}

static void test_config(void **state) {
    (void)state;
    Json *config = read_json("model/config.json");
    assert_string_equal(json_get_text(config, "model_type"), "llama");
    assert_string_equal(json_get_text(config, "architectures.0"), "LlamaForCausalLM");
    static const struct {
        const char *name;
        double value;
    } numbers[] = {{"vocab_size", 257},
                   {"hidden_size", 16},
                   {"intermediate_size", 24},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},
                   {"head_dim", 4},
                   {"max_position_embeddings", 16},
                   {"rms_norm_eps", 1e-5},
                   {"rope_parameters.rope_theta", 10000},
                   {"eos_token_id", 256}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_float_equal(number_of(config, numbers[i].name), numbers[i].value, 0);
    json_free(config);
}

/* Bytes are their own ids, and what a text ends with is one token. */
static void test_tokenizer(void **state) {
    (void)state;
    text_file("some.txt", "\303\251 a<|endoftext|>\n");
    Json *json = json_of(run(0, "tokenize model some.txt --json").out);
    int64_t ids[6];
    assert_true(json_get_ints(json, "ids", ids, 6));
    static const int64_t expected[] = {0xc3, 0xa9, ' ', 'a', 256, '\n'};
    assert_memory_equal(ids, expected, sizeof ids);
    json_free(json);
}

static double test_perplexity(const char *directory) {
    Json *json = read_json(format("%s/summary.json", directory));
    double perplexity = number_of(json, "test.perplexity");
    json_free(json);
    return perplexity;
}

/* Trained on by a millionth of nothing, it is what it was. */
static void test_is_the_network(void **state) {
    (void)state;
    run(0, "train again.yaml --out again data.tokenizer=model");
    double was = test_perplexity("scratch"), is = test_perplexity("again");
    assert_float_equal(is, was, 1e-6 * was);
}

/* A base is what an adapter stands on. */
static void test_nothing_learns(void **state) {
    (void)state;
    assert_has(run(2, "train again.yaml --out refused model.base=f32").err, "nothing learns: ");
}

static void test_families(void **state) {
    (void)state;
    static const char *const forms[][2] = {
        {"model.qk_norm=true model.head_dim=6", "qwen3"},
        {"model.attention_bias=qkv model.tied=false", "qwen2"},
        {"model.attention_bias=all model.mlp_bias=true", "llama"},
        {"model.rope_scaling.factor=4", "llama"},
    };
    for (int i = 0; i < 4; i++) {
        run(0, "train scratch.yaml --out form%d %s", i, forms[i][0]);
        run(0, "export form%d --format huggingface --out form%d-model", i, i);
        Json *config = read_json(format("form%d-model/config.json", i));
        assert_string_equal(json_get_text(config, "model_type"), forms[i][1]);
        json_free(config);
        run(0, "train again.yaml --out form%d-again model.path=form%d-model", i, i);
        double was = test_perplexity(format("form%d", i));
        assert_float_equal(test_perplexity(format("form%d-again", i)), was, 1e-6 * was);
    }
}

/* configs/language/compare.yaml, on less: what a comparison of language models tells. */
static void test_comparison(void **state) {
    (void)state;
    const char *out =
        run(0,
            "compare %s/configs/language/compare.yaml --out compared experiment.model.path=model "
            "experiment.data.path=text.txt experiment.data.test_path=text.txt "
            "experiment.data.tokenizer=model experiment.data.length=16 experiment.data.batch=4 "
            "experiment.train.steps=2 experiment.train.checkpoint_every=0",
            program_source_root)
            .out;
    assert_has(out, "bits/w    size   perplexity  against FP32         memory  tokens/s");
    assert_has(out, "against FP32: % of the perplexity, paired by batch of the test split");
    Json *json = read_json("compared/results.json");
    assert_string_equal(json_get_text(json, "task"), "language");
    int count = json_count(json, "groups");
    assert_int_equal(count, 14);
    double base = number_of(json, "rows.0.loss");
    for (int i = 0; i < count; i++) {
        const Json *group = json_element(json, "groups", i), *row = json_element(json, "rows", i);
        assert_float_equal(log(number_of(row, "perplexity")), number_of(row, "loss"), 1e-5);
        assert_true(number_of(group, "perplexity.mean") > 1);
        assert_true(number_of(group, "peak_rss_bytes") > 0);
        if (!i) continue;
        assert_string_equal(json_get_text(group, "difference.paired_by"), "batch");
        double difference = number_of(group, "difference.mean");
        assert_true(number_of(group, "difference.low") <= difference);
        assert_true(number_of(group, "difference.high") >= difference);
        assert_true(json_type_at(group, "mcnemar") == JSON_ABSENT);
    }
    const Json *full = json_element(json, "rows", 1);
    assert_string_equal(json_get_text(full, "row"), "full-f32");
    assert_float_equal(number_of(json_element(json, "groups", 1), "difference.mean"),
                       number_of(full, "loss") - base, 1e-5);
    json_free(json);
    const char *page = file_text("compared/report.html");
    assert_has(page, "Validation perplexity");
    assert_has(page, "<th scope=\"col\" class=\"n\">Perplexity</th>");
    assert_has(file_text("compared/results.csv"), "seed,perplexity,loss,");
}

static void test_refused(void **state) {
    (void)state;
    assert_has(run(2, "export scratch --format huggingface --out model").err,
               "config.json is there already");
    run(0, "export scratch --format huggingface --out model --force");
    text_file("mlp.yaml", "model: {kind: mlp, widths: [8]}\n" PROGRAM_DATA "train: {epochs: 1}\n");
    run(0, "train mlp.yaml --out mlp");
    assert_has(run(2, "export mlp --format huggingface --out other").err,
               "mlp: the run is not of a transformer that was trained on text");
    run(0, "train scratch.yaml --out mixed model.qk_norm=true model.mlp_bias=true");
    assert_has(run(2, "export mixed --format huggingface --out other").err,
               "no family of models has");
    run(0, "train scratch.yaml --out bits quant.bits=8");
    assert_has(run(2, "export bits --format huggingface --out other").err, "the run is quantized");
    assert_false(file_exists("other/config.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),         cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_is_the_network), cmocka_unit_test(test_nothing_learns),
        cmocka_unit_test(test_families),       cmocka_unit_test(test_comparison),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
