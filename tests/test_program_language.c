/* Language models from YAML to the end: words of the task, the same bits after a kill, what a row
 * of text shows, and what a quantized one reports. */
#include "tests/program.h"

#include <math.h>
#include <time.h>

#define MODEL "model: {kind: transformer, width: 16, layers: 1, heads: 2, ff: 24}\n"
#define DATA                                                                                       \
    "data: {kind: text, path: text, length: 16, batch: 4, eval_batch: 4, validation: 0.1, "        \
    "test: 0.1}\n"
#define TRAIN "optimizer: {kind: adam, lr: 0.005}\n"

static void write_text(void) {
    char *text = arena_zalloc(program_arena, 1 << 16), *at = text;
    for (int i = 0; i < 200; i++)
        at += sprintf(at, "%d and %d are %d; ", i % 10, i / 10 % 10, i % 10 + i / 10 % 10);
    text_file("text", text);
}

static void a_run_speaks_of_tokens(void **state) {
    (void)state;
    write_text();
    text_file("c.yaml", MODEL DATA TRAIN "train: {epochs: 4, log_every: 5}\n");
    Result result = run(0, "train c.yaml --out words");
    assert_has(result.err, "documents");
    assert_has(result.err, "tokens/s");
    assert_has(result.err, "ppl ");
    assert_has(result.out, "perplexity");
    assert_has(result.out, "training tokens/s");
    Json *json = json_of(file_text("words/summary.json"));
    double perplexity = number_of(json, "test.perplexity");
    assert_true(fabs(perplexity - exp(number_of(json, "test.loss"))) < 1e-6 * perplexity);
    assert_true(perplexity > 1 && perplexity < 100); /* of 257 */
    assert_true(number_of(json, "best.validation_perplexity") > 1);
    json_free(json);
    const char *page = file_text("words/report.html");
    assert_has(page, "Test perplexity");
    assert_has(page, "Tokens/s in training");
    json = json_of(run(0, "eval words --json").out);
    assert_true(number_of(json, "test.perplexity") == perplexity);
    json_free(json);
}

static void kill_at_random(const char *command, int milliseconds) {
    pid_t child = program_start((Start){0}, command);
    struct timespec time = {.tv_sec = milliseconds / 1000,
                            .tv_nsec = milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
    kill(child, SIGKILL);
    program_wait(child);
}

static void a_killed_run_ends_with_the_same_bits(void **state) {
    (void)state;
    write_text();
    text_file("k.yaml",
              MODEL DATA TRAIN "train: {epochs: 30, log_every: 50, checkpoint_every: 7}\n");
    run(0, "train k.yaml --out whole");
    bool was_cut = false;
    for (int i = 0; i < 8; i++) {
        bool begun = file_exists("cut/checkpoint.h5");
        kill_at_random(begun ? "train --resume cut" : "train k.yaml --out cut --force",
                       60 + 70 * i);
        was_cut |= file_exists("cut/checkpoint.h5") && !file_exists("cut/summary.json");
    }
    assert_true(was_cut);
    run(0,
        file_exists("cut/checkpoint.h5") ? "train --resume cut" : "train k.yaml --out cut --force");
    assert_files_equal("whole/checkpoint.h5", "cut/checkpoint.h5");
    assert_files_equal("whole/best.h5", "cut/best.h5");
}

static void other_text_is_refused_when_a_run_goes_on(void **state) {
    (void)state;
    write_text();
    text_file("o.yaml", MODEL DATA TRAIN "train: {epochs: 2, steps: 5}\n");
    run(0, "train o.yaml --out other");
    char *text = (char *)file_text("text");
    text[100] = '!';
    text_file("text", text);
    Result result = run(2, "train --resume other train.steps=0");
    assert_has(result.err, "was made with other training rows: other text");
    run(0, "train --resume other train.steps=0 data.changed=allow");
}

static void quantized_ones_are_compared_with_their_shadow(void **state) {
    (void)state;
    write_text();
    text_file("q.yaml", MODEL DATA TRAIN
              "quant: {bits: 8, activations: {granularity: token, quantizer: minmax}}\n"
              "train: {epochs: 1, accumulate: 2, log_every: 5}\n");
    run(0, "train q.yaml --out quantized");
    Json *json = json_of(file_text("quantized/summary.json"));
    assert_true(number_of(json, "quantized.perplexity") > 1);
    assert_true(number_of(json, "shadow.perplexity") > 1);
    assert_true(number_of(json, "quantized.kl") > 0);
    json_free(json);
    assert_has(run(2, "convert quantized").err,
               "quantized: its task is 'language', and quantized.h5 holds no networks of that");
    assert_has(run(0, "eval quantized --sensitivity").out, "model.layers.0.mlp.down_proj");
}

static void a_row_is_shown_as_the_network_sees_it(void **state) {
    (void)state;
    text_file("lines", "{\"prompt\": \"1+1=\", \"completion\": \"2\"}\n"
                       "{\"prompt\": \"a\\n\", \"completion\": \"b\"}\n"
                       "{\"prompt\": \"c\", \"completion\": \"long answer\"}\n");
    text_file("s.yaml", MODEL "data: {kind: text, path: lines, format: prompts, length: 14, batch: "
                              "1, validation: 0, test_path: lines}\n");
    assert_string_equal(run(0, "data show s.yaml 0").out,
                        "training row 0 of 2, 14 tokens\n"
                        "-- document 1: positions 0 to 4, 2 tokens learned\n"
                        "masked  | 1+1=\n"
                        "learned | 2<end>\n"
                        "-- document 2: positions 5 to 7, 2 tokens learned\n"
                        "masked  | a\\n\n"
                        "learned | b<end>\n"
                        "-- positions 8 to 13 are empty\n");
    assert_string_equal(run(0, "data show s.yaml 1").out,
                        "training row 1 of 2, 14 tokens\n"
                        "-- document 1: positions 0 to 11, 12 tokens learned\n"
                        "masked  | c\n"
                        "learned | long answer<end>\n"
                        "-- positions 12 to 13 are empty\n");
    assert_has(run(2, "data show s.yaml 2").err, "there is no training row 2: they are 0 to 1");
    assert_has(run(2, "data show s.yaml x").err, "'x' is no number of a row");
    text_file("z.yaml", MODEL "data: {kind: text, path: lines, format: prompts, length: 14, batch: "
                              "1, validation: 0, test: 0}\n");
    assert_has(run(2, "data show z.yaml 0").err, "z.yaml:");
    assert_has(run(2, "data show z.yaml 0").err, ": the test part has no rows");
    assert_has(run(2, "data hide s.yaml 0").err, "data: 'hide' is none of: show");
    text_file("i.yaml", "model: {kind: mlp}\ndata: {kind: synthetic}\n");
    assert_has(run(2, "data show i.yaml 0").err, "the data are of kind 'synthetic', and no text");
    assert_has(run(2, "data show s.yaml 0 data.length=4").err, "lines, line 1: prompt and answer");
}

/* By a template that trims, with the system's message in the user's. */
static void a_conversation_is_shown_as_the_template_has_it(void **state) {
    (void)state;
    text_file("chats", "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": "
                       "\"user\", \"content\": \"U \\n\"}, {\"role\": \"assistant\", \"content\": "
                       "\"A \"}]}\n");
    text_file("chat.yaml", MODEL "data: {kind: text, path: chats, format: chat, length: 52, batch: "
                                 "1, validation: 0, test_path: chats, template: llama2}\n");
    const char *out = run(0, "data show chat.yaml 0").out;
    assert_has(out, "masked  | <s>[INST] <<SYS>>\\n\n        | S\\n\n        | <</SYS>>\\n\n"
                    "        | \\n\n        | U [/INST] \nlearned | A </s>\n");
    text_file("chats", "{\"messages\": [{\"role\": \"user\", \"content\": \"U\"}, {\"role\": "
                       "\"assistant\", \"content\": \"A\"}, {\"role\": \"system\", \"content\": "
                       "\"S\"}]}\n");
    assert_has(run(2, "data show chat.yaml 0").err,
               "chats, line 1: message 3: the template 'llama2' writes the system's message");
    run(0, "data show chat.yaml 0 data.template=chatml data.length=200");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_speaks_of_tokens),
        cmocka_unit_test(a_killed_run_ends_with_the_same_bits),
        cmocka_unit_test(other_text_is_refused_when_a_run_goes_on),
        cmocka_unit_test(quantized_ones_are_compared_with_their_shadow),
        cmocka_unit_test(a_row_is_shown_as_the_network_sees_it),
        cmocka_unit_test(a_conversation_is_shown_as_the_template_has_it),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
