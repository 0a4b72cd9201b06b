/* A transformer, trained from nothing or out of a directory, as a directory of Hugging Face: what
 * is in it, that it is the same network, and what is refused. */
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

static const char *golden(const char *name) {
    return format("%s/tests/golden/llm/%s", program_source_root, name);
}

static const char *perplexity_text(const char *name) {
    Json *json = json_of(run(0, "eval %s --text text.txt --json", name).out);
    const char *text = format("%.17g", number_of(json, "perplexity"));
    json_free(json);
    return text;
}

/* Out of a directory, trained, and into one again: the same bits, the same config but for the type
 * of the weights, and the files that lay beside them. */
static void test_pretrained(void **state) {
    (void)state;
    static const char *const models[] = {"llama", "mistral", "qwen2", "qwen3"};
    for (int i = 0; i < 4; i++) {
        const char *from = golden(models[i]), *tuned = format("tuned-%s", models[i]);
        const char *out = format("%s-model", tuned);
        run(0,
            "train again.yaml --out %s model.path=%s data.tokenizer=%s optimizer.lr=0.001 "
            "train.steps=2",
            tuned, from, from);
        run(0, "export %s --format huggingface --out %s", tuned, out);
        assert_string_equal(perplexity_text(out), perplexity_text(tuned));
        assert_string_not_equal(perplexity_text(out), perplexity_text(from));
        assert_files_equal(format("%s/tokenizer.json", out), format("%s/tokenizer.json", from));
        assert_files_equal(format("%s/tokenizer_config.json", out),
                           format("%s/tokenizer_config.json", from));
        Json *a = read_json(format("%s/config.json", out));
        Json *b = read_json(format("%s/config.json", from));
        assert_string_equal(json_get_text(a, "dtype"), "float32");
        json_set_text(b, "dtype", "float32");
        assert_string_equal(json_line(a, program_arena), json_line(b, program_arena));
        json_free(a);
        json_free(b);
    }
}

/* Bytes in the place of the directory's tokenizer: nothing of that is left beside them. */
static void test_pretrained_by_bytes(void **state) {
    (void)state;
    run(0, "train again.yaml --out by-bytes model.path=%s train.steps=2", golden("llama"));
    run(0, "export by-bytes --format huggingface --out by-bytes-model");
    assert_false(file_exists("by-bytes-model/tokenizer_config.json"));
    text_file("a.txt", "a");
    assert_has(run(0, "tokenize by-bytes-model a.txt --json").out, "[97]");
    run(0, "train again.yaml --out stays train.steps=2");
    assert_has(run(2, "export stays --format huggingface --out model --force").err,
               "model is the directory that the network came from; name another --out");
    run(0, "train again.yaml --out low model.base=f16 adapter.kind=lora train.steps=2");
    assert_has(run(2, "export low --format huggingface --out other").err,
               "the run has an adapter: export it as peft, or merge it (nibble merge)");
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
        cmocka_unit_test(test_pretrained),     cmocka_unit_test(test_pretrained_by_bytes),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
