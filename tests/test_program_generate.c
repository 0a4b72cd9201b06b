/* nibble generate, as a user meets it: what transformers writes (golden/make_llm.py), text at a
 * terminal, seeds, and what is refused. */
#include "tests/program.h"

#include "core/json.h"
#include "core/print.h"
#include "tests/llm_golden.h"

static const char *root(const char *name) {
    return format("%s/" LLM_GOLDEN "%s", program_source_root, name);
}

static Json *facts_of(const char *name) {
    Error err = {0};
    Json *json = json_read_file(root(format("%s.json", name)), &err);
    if (!json) fail_msg("%s", err.message);
    return json;
}

static const char *list_text(const Json *json, const char *name) {
    int64_t ids[100];
    int count = json_count(json, name);
    assert_true(json_get_ints(json, name, ids, count));
    const char *text = "";
    for (int i = 0; i < count; i++) text = format("%s%s%ld", text, i ? ", " : "", (long)ids[i]);
    return text;
}

/* With its spaces as a word of a command has them. */
static const char *word_of(const char *text) {
    char *word = arena_strdup(program_arena, text);
    for (char *at = word; (at = strpbrk(at, " \n"));) *at = PROGRAM_SPACE[0];
    return word;
}

static const char *options_for(const Json *facts) {
    return format("--greedy --tokens %d --prompt %s", json_count(facts, "new_ids"),
                  word_of(json_get_text(facts, "prompt")));
}

static void test_as_transformers(void **state) {
    (void)state;
    for (int i = 0; i < LLM_MODEL_COUNT; i++) {
        Json *facts = facts_of(llm_models[i]);
        Error err = {0};
        const char *out =
            run(0, "generate %s %s --json", root(llm_models[i]), options_for(facts)).out;
        Json *json = json_read_text(out, strlen(out), "output", &err);
        if (!json) fail_msg("%s", err.message);
        assert_string_equal(list_text(json, "prompt_ids"), list_text(facts, "prompt_ids"));
        assert_string_equal(list_text(json, "new_ids"), list_text(facts, "new_ids"));
        assert_string_equal(json_get_text(json, "text"), json_get_text(facts, "text"));
        /* what streams to a terminal is the same text, control characters written out */
        const char *text = json_get_text(facts, "text");
        assert_string_equal(run(0, "generate %s %s", root(llm_models[i]), options_for(facts)).out,
                            format("%s\n", print_lines(text, strlen(text), program_arena)));
        json_free(json);
        json_free(facts);
    }
}

static void test_seeds(void **state) {
    (void)state;
    const char *command =
        format("generate %s --prompt It" PROGRAM_SPACE "took --tokens 20 --json", root("llama"));
    const char *first = run(0, "%s --seed 1", command).out;
    assert_string_equal(run(0, "%s", command).out, first);
    assert_string_equal(run(0, "%s --seed 1 --threads 3", command).out, first);
    assert_string_not_equal(run(0, "%s --seed 2", command).out, first);
    assert_string_not_equal(run(0, "%s --greedy", command).out, first);
    assert_string_not_equal(run(0, "%s --temperature 3", command).out, first);
    const char *greedy = run(0, "%s --greedy", command).out;
    assert_string_equal(run(0, "%s --temperature 0", command).out, greedy);
    assert_string_equal(run(0, "%s --top-p 0", command).out, greedy);
}

/* A copy of llama's directory that may be changed. */
static void copy_model(void) {
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json"};
    mkdir("model", 0777);
    for (int i = 0; i < 3; i++)
        file_copy(format("%s/%s", root("llama"), files[i]), format("model/%s", files[i]));
}

static void test_ends(void **state) {
    (void)state;
    copy_model(); /* 54 is the second token that llama writes */
    text_file("model/generation_config.json", "{\"eos_token_id\": [9, 54]}");
    const char *out = run(0, "generate model --prompt It" PROGRAM_SPACE "took --greedy --json").out;
    assert_has(out, "\"new_ids\": [125, 54]");
    unlink("model/generation_config.json");
    Result full =
        run(0, "generate model --prompt It" PROGRAM_SPACE "took --greedy --tokens 100 --json");
    assert_has(full.err, "warning: the model's context of 64 tokens is full");
    Error err = {0};
    Json *json = json_read_text(full.out, strlen(full.out), "output", &err);
    assert_int_equal(json_count(json, "prompt_ids") + json_count(json, "new_ids"), 64 + 1);
    json_free(json);
}

/* A tokenizer of one token: what the network writes beside it has no text, and that is said once.
 */
static void test_unknown_tokens(void **state) {
    (void)state;
    copy_model();
    text_file("model/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"x\": 9}, "
                                      "\"merges\": []}, \"added_tokens\": []}");
    const char *command = "generate model --prompt x --greedy --tokens 5";
    Result result = run(0, "%s --json", command);
    assert_has(result.out, "\"text\": \"\"");
    assert_has(result.err, "and model/tokenizer.json has none with that id");
    const char *first = strstr(result.err, "the model wrote token ");
    assert_true(first && !strstr(first + 1, "the model wrote token "));
    assert_string_equal(run(0, "%s", command).out, "\n");
}

static void test_one_position(void **state) {
    (void)state;
    copy_model();
    char *config = arena_strdup(program_arena, file_text("model/config.json"));
    char *at = strstr(config, "\"max_position_embeddings\": 64");
    assert_non_null(at);
    memcpy(at + strlen("\"max_position_embeddings\": "), " 1", 2);
    text_file("model/config.json", config);
    static const char message[] = "model/config.json: max_position_embeddings must be at least 2";
    assert_has(run(2, "generate model --prompt x").err, message);
    text_file("text", "It took");
    assert_has(run(2, "eval model --text text").err, message);
}

static void test_refusals(void **state) {
    (void)state;
    const char *llama = root("llama");
    assert_has(run(2, "generate %s", llama).err, "say what to begin with: --prompt \"...\"");
    assert_has(run(2, "generate . --prompt x").err,
               ".: there is neither a run's config.yaml nor a model's config.json");
    assert_has(run(2, "generate %s --prompt x --tokens 0", llama).err,
               "--tokens must be a whole number from 1 on, not '0'");
    assert_has(run(2, "generate %s --prompt x --seed -1", llama).err,
               "--seed must be a whole number from 0 on, not '-1'");
    assert_has(run(2, "generate %s --prompt x --temperature hot", llama).err,
               "--temperature must be a number from 0 to 100, not 'hot'");
    assert_has(run(2, "generate %s --prompt x --temperature -1", llama).err,
               "--temperature must be a number from 0 to 100, not '-1'");
    assert_has(run(2, "generate %s --prompt x --top-p 1.1", llama).err,
               "--top-p must be a number from 0 to 1, not '1.1'");
    assert_has(run(2, "generate %s --prompt x --top-p nan", llama).err,
               "--top-p must be a number from 0 to 1, not 'nan'");
    assert_has(run(2, "generate %s --prompt a\xff", llama).err,
               "--prompt: byte 1 (0xff) is not UTF-8; convert the text first");
    assert_has(run(2, "generate %s --prompt=", root("qwen2")).err,
               "--prompt: the text has no tokens; write at least a word");
    const char *long_text = word_of(file_text(root("text.txt")));
    assert_has(run(2, "generate %s --prompt %s", llama, long_text).err,
               "--prompt: the text has 697 tokens, and the model's context is 64; shorten it");
    copy_model();
    unlink("model/tokenizer.json");
    assert_has(run(2, "generate model --prompt x").err, "model/tokenizer.json");
    copy_model();
    text_file("model/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"x\": 300}, "
                                      "\"merges\": []}, \"added_tokens\": []}");
    assert_has(run(2, "generate model --prompt x").err,
               "token 1 is 300, and the model has 300; take the tokenizer that belongs to it");
    copy_model();
    size_t bytes;
    unsigned char *weights = file_read("model/model.safetensors", &bytes);
    file_write("model/model.safetensors", weights, bytes - 4);
    assert_has(run(2, "generate model --prompt x").err, "model/model.safetensors: ");
}

/* What the program reads at its terminal. */
static Result converse(const char *lines, int code, const char *command) {
    text_file("lines", lines);
    int kept = dup(0), fd = open("lines", O_RDONLY);
    assert_true(kept >= 0 && fd >= 0 && dup2(fd, 0) == 0);
    Result result = run(code, "%s", command);
    dup2(kept, 0);
    close(kept);
    close(fd);
    return result;
}

static void test_chat(void **state) {
    (void)state;
    const char *model = root("llama"), *greedy = "--greedy --tokens 9";
    const char *alone =
        run(0, "generate %s --prompt It" PROGRAM_SPACE "took %s", model, greedy).out;
    const char *command = format("generate %s --chat plain %s", model, greedy);
    assert_string_equal(converse("It took", 0, command).out, format("> %s> \n", alone));
    const char *both = converse("It took\nand\n", 0, command).out;
    const char *begin = format("> %s> ", alone);
    assert_memory_equal(both, begin, strlen(begin));
    assert_true(strlen(both) > strlen(begin) + 9); /* another answer, and the last prompt */
    assert_string_equal(converse("", 0, command).out, "> \n");
    assert_has(converse("a\xff", 2, command).err, "byte 1 (0xff) is not UTF-8");
    assert_has(run(2, "generate %s --chat dialogue", model).err,
               "--chat: there is no template 'dialogue'; there are plain, chatml, llama2, llama3 "
               "and mistral");
    assert_has(run(2, "generate %s --chat chatml", model).err,
               "--chat: the template 'chatml' writes <|im_start|>, which ");
    assert_has(run(2, "generate %s --chat plain --prompt x", model).err,
               "say what to begin with: --prompt \"...\", or --chat TEMPLATE to converse");
    assert_has(run(2, "generate %s --chat plain --json", model).err,
               "--json goes with --prompt, not with --chat");
}

static const char *replaced(const char *text, const char *from, const char *to) {
    const char *out = "", *at;
    for (; (at = strstr(text, from)); text = at + strlen(from))
        out = format("%s%.*s%s", out, (int)(at - text), text, to);
    return format("%s%s", out, text);
}

static const char *written_behind(const char *prompt) {
    const char *out = run(0, "generate model --greedy --tokens 1 --prompt %s", word_of(prompt)).out;
    return format("%.*s", (int)strlen(out) - 1, out);
}

/* The blank before an answer is the model's to write: it may, and when the conversation goes on,
 * there is one. */
static void test_chat_with_a_template(void **state) {
    (void)state;
    static const char *const lines[] = {"took", "far"}; /* answered without a blank, and with one */
    copy_model();
    const char *text = replaced(file_text("model/tokenizer.json"), "<|begin|>", "<s>");
    text_file("model/tokenizer.json", replaced(text, "<|end|>", "</s>"));
    for (int i = 0; i < 2; i++) {
        const char *asked = format("[INST] %s [/INST]", lines[i]), *first = written_behind(asked);
        assert_int_equal(*first == ' ', i);
        const char *second =
            written_behind(format("%s%s%s</s>[INST] and [/INST]", asked, i ? "" : " ", first));
        assert_string_equal(converse(format("%s\nand\n", lines[i]), 0,
                                     "generate model --chat mistral --greedy --tokens 1")
                                .out,
                            format("> %s\n> %s\n> \n", first, second));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_transformers),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_chat_with_a_template),
        cmocka_unit_test(test_unknown_tokens),
        cmocka_unit_test(test_one_position),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
