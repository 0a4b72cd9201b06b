/* A language model's whole way: a directory of Hugging Face's is loaded into 4 bits, an adapter
 * learns, the run is cut short and goes on, is evaluated, exported, and writes. */
#include "tests/program.h"

#include "tests/llm_golden.h"

static const char *root(const char *name) {
    return format("%s/" LLM_GOLDEN "%s", program_source_root, name);
}

static void write_config(const char *path, const char *model, const char *rest) {
    text_file(path, format("model: {kind: pretrained, path: %s%s}\n"
                           "data: {kind: text, path: text.txt, tokenizer: %s, length: 32, batch: 2,"
                           " eval_batch: 2, validation: 0.1, test: 0.1}\n"
                           "optimizer: {kind: adamw, lr: 0.01}\n%s",
                           root("llama"), model, root("llama"), rest));
}

#define ADAPTER "adapter: {kind: lora, rank: 4, alpha: 8}\n"
#define TRAIN   "train: {epochs: 8, log_every: 5, checkpoint_every: 4}\n"

static double number_in(const char *text, const char *path) {
    Json *json = json_of(text);
    double value = number_of(json, path);
    json_free(json);
    return value;
}

static const char *written(const char *model) {
    return run(0, "generate %s --prompt It" PROGRAM_SPACE "took --greedy --tokens 9 --json", model)
        .out;
}

static void test_whole_way(void **state) {
    (void)state;
    file_copy(root("text.txt"), "text.txt");
    write_config("q.yaml", ", base: {kind: nf4, double_quantization: true}, cache: base.cache",
                 ADAPTER TRAIN);
    run(0, "train q.yaml --out whole");
    assert_true(file_exists("base.cache"));
    double first = number_in(run(0, "eval whole --json").out, "test.perplexity");
    assert_true(first > 1);

    write_config("short.yaml", ", base: {kind: nf4, double_quantization: true}, cache: base.cache",
                 ADAPTER "train: {epochs: 8, log_every: 5, checkpoint_every: 4, steps: 7}\n");
    run(0, "train short.yaml --out cut");
    assert_false(files_equal("cut/checkpoint.h5", "whole/checkpoint.h5"));
    run(0, "train --resume cut train.steps=0");
    assert_files_equal("cut/checkpoint.h5", "whole/checkpoint.h5");

    const char *text = written("whole");
    assert_has(text, "\"prompt_ids\": [0, 42, 85, 281, 80, 76]");
    assert_string_not_equal(text, written(root("llama")));
    assert_string_equal(text, written("cut"));
    run(0, "export whole --format peft --out adapter");
    assert_true(file_exists("adapter/adapter_model.safetensors"));
    run(0, "merge whole --out merged");
    assert_has(written("merged"), "\"new_ids\"");
}

static void test_all_of_it_learns(void **state) {
    (void)state;
    file_copy(root("text.txt"), "text.txt");
    write_config("full.yaml", "", TRAIN);
    run(0, "train full.yaml --out full");
    double before = number_in(file_text("full/summary.json"), "test.perplexity");
    assert_true(before > 1 && before < 900); /* untrained: 922 */
    assert_string_not_equal(written("full"), written(root("llama")));
}

static void test_refusals(void **state) {
    (void)state;
    file_copy(root("text.txt"), "text.txt");
    write_config("none.yaml", ", base: nf4", TRAIN);
    assert_has(run(2, "train none.yaml --out none").err,
               "model.base keeps the weights as they are, so nothing learns: add an adapter, or "
               "leave out base");
    write_config("q.yaml", ", base: nf4", ADAPTER TRAIN);
    run(0, "train q.yaml --out base");
    write_config("base/config.yaml", ", base: fp4", ADAPTER TRAIN);
    assert_has(run(2, "eval base").err, "stands on another base (digest ");
    write_config("base/config.yaml", ", base: nf4", ADAPTER TRAIN);
    mkdir("moved", 0777);
    file_copy(format("%s/config.json", root("llama")), "moved/config.json");
    file_copy(format("%s/model.safetensors", root("llama")), "moved/model.safetensors");
    assert_string_equal(run(0, "eval base model.path=moved").out, run(0, "eval base").out);
    text_file("wrong.yaml", "model: {kind: pretrained, path: nowhere}\n"
                            "data: {kind: text, path: text.txt}\n");
    assert_has(run(2, "train wrong.yaml --out wrong").err, "nowhere/config.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_way),
        cmocka_unit_test(test_all_of_it_learns),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
