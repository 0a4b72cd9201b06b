/* A run's tokenizer: it may move, and nothing else is taken for it. */
#include "tests/program.h"

static const char *golden(const char *name) {
    return format("%s/tests/golden/llm/%s", program_source_root, name);
}

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    mkdir("own", 0777);
    file_copy(golden("llama/tokenizer.json"), "own/tokenizer.json");
    file_copy(golden("text.txt"), "text.txt");
    text_file("c.yaml", "model: {kind: transformer, width: 16, layers: 1, heads: 2, ff: 24}\n"
                        "data: {kind: text, path: text.txt, tokenizer: own, length: 16, batch: 4, "
                        "validation: 0.1, test: 0.1}\n"
                        "optimizer: {kind: adamw, lr: 0.001}\ntrain: {epochs: 2}\n");
    run(0, "train c.yaml --out run train.steps=3");
    run(0, "train c.yaml --out bytes train.steps=3 data.tokenizer=byte");
    return 0;
}

static void refuse(const char *command, const char *name) {
    const char *message = run(2, "%s", command).err;
    assert_has(message, format("%s is not the tokenizer that the network of ", name));
    assert_has(message, ".h5 was trained with (digest ");
    assert_has(message, "); say where that lies (data.tokenizer=...)");
}

static void refuse_all(const char *name, const char *option) {
    refuse(format("train --resume run train.steps=5 data.changed=allow%s", option), name);
    refuse(format("eval run%s", option), name);
    refuse(format("eval run --text text.txt%s", option), name);
    refuse(format("export run --format huggingface --out out%s", option), name);
    assert_false(file_exists("out/model.safetensors"));
}

/* As many tokens, and others; then one byte more in the run's own file, which means the same, but
 * nobody looks that far. */
static void test_another_is_refused(void **state) {
    (void)state;
    refuse_all(golden("qwen2/tokenizer.json"), format(" data.tokenizer=%s", golden("qwen2")));
    refuse("eval run data.tokenizer=byte", "byte");
    refuse("eval bytes data.tokenizer=own", "own/tokenizer.json");
    const char *text = file_text("own/tokenizer.json");
    text_file("own/tokenizer.json", format("%s\n", text));
    refuse_all("own/tokenizer.json", "");
    refuse("generate run --prompt Nobody", "own/tokenizer.json");
    text_file("own/tokenizer.json", text);
}

static void test_it_may_move(void **state) {
    (void)state;
    assert_int_equal(rename("own", "moved"), 0);
    assert_has(run(2, "eval run").err, "own");
    run(0, "eval run data.tokenizer=moved");
    run(0, "train --resume run train.steps=4 data.tokenizer=moved");
    run(0, "generate run --prompt Nobody --tokens 3");
    run(0, "export run --format huggingface --out out");
    assert_files_equal("out/tokenizer.json", "moved/tokenizer.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_is_refused),
        cmocka_unit_test(test_it_may_move),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
