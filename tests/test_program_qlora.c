/* A language model from Hugging Face's directory in 4 bits, with an adapter: trained, killed, gone
 * on with, evaluated, written for PEFT, begun from again, merged, and asked for text. */
#include "tests/program.h"

#include <math.h>

#define BASE "base: {kind: nf4, double_quantization: true}"

static const char *directory(const char *name) {
    return format("%s/tests/golden/llm/%s", program_source_root, name);
}

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    const char *model = directory("llama");
    const char *rest = format("data: {kind: text, path: %s, tokenizer: %s, length: 32, batch: 2, "
                              "validation: 0.1, test: 0.1}\n"
                              "optimizer: {kind: adamw, lr: 0.003}\n"
                              "train: {epochs: 4, log_every: 1, checkpoint_every: 5}\n",
                              directory("text.txt"), model);
    text_file("q.yaml",
              format("model: {kind: pretrained, path: %s, " BASE ", cache: base.cache}\n%s"
                     "adapter: {kind: lora, rank: 4, alpha: 8}\n",
                     model, rest));
    text_file("plain.yaml", format("model: {kind: pretrained, path: %s}\n%s", model, rest));
    run(0, "train q.yaml --out whole");
    return 0;
}

static double perplexity_of(const char *name) {
    Json *json = json_of(run(0, "eval %s --json", name).out);
    double perplexity = number_of(json, "test.perplexity");
    json_free(json);
    return perplexity;
}

static void assert_same_run(const char *a, const char *b) {
    assert_files_equal(format("%s/checkpoint.h5", a), format("%s/checkpoint.h5", b));
    assert_files_equal(format("%s/best.h5", a), format("%s/best.h5", b));
}

/* 14 layers of 25,000 numbers and more are not in the file, whose most is the optimizer's. */
static void test_trains_the_adapter_alone(void **state) {
    (void)state;
    const char *text = run(0, "inspect whole/checkpoint.h5").out;
    assert_has(text, "model.layers.1.mlp.down_proj.lora_B.weight  f32 [32, 4]");
    assert_has(text, "base_digest");
    assert_lacks(text, "embed_tokens");
    assert_true(strstr(file_text("whole/metrics.jsonl"), "perplexity") != NULL);
}

static void test_goes_on(void **state) {
    (void)state;
    run(0, "train q.yaml --out paused train.steps=7");
    run(0, "train --resume paused train.steps=0");
    assert_same_run("whole", "paused");
    for (int i = 0; i < 3; i++) {
        pid_t child =
            program_start((Start){0}, i ? "train --resume killed" : "train q.yaml --out killed");
        for (int wait = 0; wait < 5000 && !file_exists("killed/checkpoint.h5"); wait++)
            usleep(1000);
        usleep((unsigned)(i * 20000));
        kill(child, SIGKILL);
        program_wait(child);
    }
    run(0, "train --resume killed");
    assert_same_run("whole", "killed");
}

static void test_base_in_other_bits_is_refused(void **state) {
    (void)state;
    run(0, "train q.yaml --out true train.steps=6");
    assert_has(run(2, "train --resume true model.path=%s", directory("qwen2")).err,
               "true/checkpoint.h5 stands on another base (digest ");
    const char *config = file_text("true/config.yaml"), *rest = strstr(config, "ation: true");
    assert_non_null(rest);
    text_file("true/config.yaml",
              format("%.*sation: false%s", (int)(rest - config), config, rest + 11));
    const char *message = run(2, "train --resume true").err;
    assert_has(message, "stands on another base (digest ");
    assert_has(message, "say where that network lies (model.path=DIR), or start a new run");
}

static void test_out_and_in_again(void **state) {
    (void)state;
    run(0, "export whole --format peft --out peft");
    Json *json = json_of(file_text("peft/adapter_config.json"));
    assert_string_equal(json_get_text(json, "task_type"), "CAUSAL_LM");
    assert_string_equal(json_get_text(json, "base_model_name_or_path"), directory("llama"));
    assert_int_equal(json_count(json, "target_modules"), 7);
    json_free(json);
    const char *text = (const char *)file_text("q.yaml");
    text_file("from.yaml", format("%.*sadapter: {kind: lora, from: peft}\n",
                                  (int)(strstr(text, "adapter:") - text), text));
    run(0, "train from.yaml --out from optimizer.lr=0 train.epochs=1");
    assert_true(perplexity_of("from") == perplexity_of("whole"));
}

static void test_merge(void **state) {
    (void)state;
    Json *json = json_of(run(0, "merge whole --out merged --json").out);
    assert_true(number_of(json, "routes.dequantized.gain") > 0.99);
    assert_true(number_of(json, "routes.f16.gain") > 0.99);
    assert_true(number_of(json, "routes.requantized.gain") < 0.9);
    assert_true(number_of(json, "outputs") >= 32 && number_of(json, "kl") > 0);
    assert_true(number_of(json, "kl") < 1e-4);
    json_free(json);
    assert_has(run(2, "merge whole --out lossy --route requantized").err, "insist with --force");
    json = json_of(run(0, "merge whole --out lossy --route requantized --force --json").out);
    assert_true(number_of(json, "kl") > 1e-3);
    json_free(json);
    json = json_of(file_text("merged/config.json"));
    assert_string_equal(json_get_text(json, "dtype"), "float16");
    json_free(json);
    /* the merged network is the adapted one, to f16 */
    run(0, "train plain.yaml --out again model.path=merged optimizer.lr=0 train.epochs=1");
    assert_float_equal(perplexity_of("again") / perplexity_of("whole"), 1, 1e-3);
}

/* On a text of the user's: logits differ by what f16 rounds, and by far more where the update is
 * lost. The windows are those of the text, and the text matters. */
static void test_merge_on_a_text(void **state) {
    (void)state;
    text_file("one.txt", "It took a whole summer before anybody asked about the boat again.");
    text_file("two.txt", "Nobody!");
    double kl[3];
    const char *texts[] = {"one.txt", "two.txt", "one.txt"};
    for (int i = 0; i < 3; i++) {
        const char *route = i < 2 ? "dequantized" : "requantized --force";
        Json *json = json_of(
            run(0, "merge whole --out on%d --text %s --route %s --json", i, texts[i], route).out);
        kl[i] = number_of(json, "kl");
        assert_true(number_of(json, "rows") == 1);
        assert_true(number_of(json, "outputs") > (i == 1 ? 2 : 20));
        assert_true(number_of(json, "outputs") < (i == 1 ? 12 : 64));
        json_free(json);
    }
    assert_true(kl[0] > 0 && kl[1] > 0 && kl[0] != kl[1]);
    assert_true(kl[0] < 1e-4 && kl[1] < 1e-4 && kl[2] > 100 * kl[0]);
    assert_files_equal("on0/model.safetensors", "on1/model.safetensors");
    const char *text = directory("text.txt");
    Json *seen = json_of(run(0, "eval whole --text %s --json", text).out);
    Json *json = json_of(run(0, "merge whole --out long --text %s --json", text).out);
    assert_true(number_of(json, "outputs") == number_of(seen, "tokens"));
    assert_true(number_of(json, "rows") == 11); /* of 64 tokens */
    json_free(seen);
    json_free(json);
    text_file("none.txt", "");
    assert_has(run(2, "merge whole --out never --text none.txt").err,
               "none.txt: the text has 1 tokens; it takes at least 2");
    text_file("bad.txt", "ab\xff");
    assert_has(run(2, "merge whole --out never --text bad.txt").err,
               "bad.txt: byte 2 (0xff) is not UTF-8");
    assert_has(run(2, "merge whole --out never --text gone.txt").err, "gone.txt");
    assert_has(run(2, "merge whole --out never data.test=0").err, "data.test");
    assert_false(file_exists("never"));
    assert_has(run(0, "merge whole --out told --text one.txt").out,
               " nats, over 1 windows of one.txt; ");
}

static const char *text_from(const char *name) {
    Json *json = json_of(run(0, "generate %s --prompt She --greedy --tokens 12 --json", name).out);
    const char *text = format("%s", json_get_text(json, "text"));
    json_free(json);
    return text;
}

static void test_generate(void **state) {
    (void)state;
    run(0, "merge whole --out said");
    assert_string_equal(text_from("whole"), text_from("said"));
    assert_string_not_equal(text_from("whole"), text_from(directory("llama")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trains_the_adapter_alone),
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_base_in_other_bits_is_refused),
        cmocka_unit_test(test_out_and_in_again),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_on_a_text),
        cmocka_unit_test(test_generate),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
