/* What a file, a name or a model holds is shown, not obeyed: no command prints or writes a control
 * character, a character that turns text around, or a line of somebody else's. */
#include "tests/program.h"

#include "core/print.h"
#include "tests/reseal.h"

#define SPOOF "nibble:" PROGRAM_SPACE "forged" /* a line that only an attacker begins so */
/* ESC and BEL, a line, right-to-left override, and CSI as one character. */
#define EVIL      "e\x1b]0;x\a\n" SPOOF "\xe2\x80\xae\xc2\x9b"
#define EVIL_YAML "\"e\\e]0;x\\a\\nnibble: forged\\u202e\\x9b\""
#define EVIL_WORD "\"e\\e]0;x\\a\\nnibble:" PROGRAM_SPACE "forged\\u202e\\x9b\""
#define EVIL_LINE "\"\\e]0;x\\a\\u202e\\x9b\"" /* where a name must be one line */
#define SHOWN     "\\x1b]0;x\\x07"             /* of both, somewhere */

/* ---- What is looked at ---- */

static void check_text(const char *text, size_t bytes, const char *where) {
    for (size_t at = 0, used; at < bytes; at += used) {
        unsigned code;
        bool is_character = print_decode(text + at, bytes - at, &code, &used);
        if (!is_character || (print_is_hidden(code) && code != '\n'))
            fail_msg("%s prints U+%04X behind '%.*s'", where, code, (int)(at < 200 ? at : 200),
                     text + at - (at < 200 ? at : 200));
    }
    bool is_page = strstr(where, ".html"); /* where line breaks are blanks */
    if (!is_page && strstr(text, "\nnibble: forged"))
        fail_msg("%s prints a line of somebody else's", where);
}

static Result show(int code, const char *command) {
    Result result = run(code, "%s", command);
    check_text(result.out, strlen(result.out), command);
    check_text(result.err, strlen(result.err), command);
    return result;
}

static bool is_for_people(const char *name) {
    static const char *const ends[] = {".json", ".jsonl", ".html", ".yaml", ".csv", ".txt"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t length = strlen(name), end = strlen(ends[i]);
        if (length > end && !strcmp(name + length - end, ends[i])) return true;
    }
    return false;
}

/* Every text below `path`. */
static void check_files(const char *path) {
    DIR *listing = opendir(path);
    if (!listing && is_for_people(path)) {
        size_t bytes;
        const char *text = (const char *)file_read(path, &bytes);
        check_text(text, bytes, path);
    }
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (entry->d_name[0] != '.') check_files(format("%s/%s", path, entry->d_name));
    if (listing) closedir(listing);
}

/* As a word of a command becomes a name. */
static const char *name_of(const char *word) {
    char *name = arena_strdup(program_arena, word);
    for (char *at = name; (at = strchr(at, PROGRAM_SPACE[0]));) *at = ' ';
    return name;
}

/* ---- Names of files ---- */

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER                            \
    "quant: {bits: 4}\ntrain: {epochs: 2, log_every: 4, checkpoint_every: 4}\n"
#define ADAPTED                                                                                    \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER                            \
    "train: {epochs: 1, init: base}\nadapter: {kind: lora, rank: 2}\n"
#define COMPARISON                                                                                 \
    "experiment:\n"                                                                                \
    "  model: {kind: mlp, widths: [4]}\n"                                                          \
    "  data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 64, test: 32, "             \
    "validation: 32, batch: 32, eval_batch: 32}\n"                                                 \
    "  train: {epochs: 1}\n"                                                                       \
    "seeds: [1]\nmethods: [{kind: qat, bits: [8]}]\n"

static void test_names_of_files(void **state) {
    (void)state;
    static const char *const commands[] = {
        "train " EVIL ".yaml --out " EVIL,
        "train --resume " EVIL " train.steps=0",
        "eval " EVIL,
        "eval " EVIL " --json",
        "eval " EVIL " --split",
        "eval " EVIL " --sensitivity",
        "convert " EVIL,
        "verify " EVIL,
        "predict " EVIL " " EVIL ".pgm",
        "predict " EVIL " " EVIL ".pgm --json",
        "inspect " EVIL "/checkpoint.h5",
        "plan " EVIL ".yaml",
        "plan " EVIL ".yaml --json",
        "quantize base " EVIL "-q.yaml --out " EVIL "-ptq",
        "export adapted --format peft --out " EVIL "-peft",
        "compare " EVIL "-c.yaml --out " EVIL "-c",
        "compare --resume " EVIL "-c",
    };
    text_file(name_of(EVIL ".yaml"), MLP);
    text_file(name_of(EVIL "-c.yaml"), COMPARISON);
    text_file(name_of(EVIL "-q.yaml"), "quant: {bits: 4}\ncalibration: {rows: 64}\n");
    text_file("adapted.yaml", ADAPTED);
    file_write(name_of(EVIL ".pgm"),
               "P5 8 8 255\n0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-", 75);
    run(0, "train " EVIL ".yaml --out base quant.bits=32");
    run(0, "train adapted.yaml --out adapted");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) show(0, commands[i]);
    check_files(".");
}

/* Every command, given a name of nothing: its message shows the name. */
static void test_messages(void **state) {
    (void)state;
    static const char *const commands[] = {
        "train %s --out new",
        "train --resume %s",
        "eval %s",
        "convert %s",
        "verify %s",
        "predict %s x.png",
        "export %s --format peft --out new",
        "export adapted --format %s --out new",
        "merge %s --out new",
        "inspect %s",
        "compare %s --out new",
        "tokenize %s text",
        "generate %s --prompt x",
        "data show %s 0",
        "data %s x 0",
        "plan %s",
        "bench %s",
        "help %s",
        "quantize %s q.yaml --out new",
        "%s",
        "eval --%s",
        "eval --threads %s",
        "plan " EVIL ".yaml %s",
        "plan " EVIL ".yaml seed=%s",
        "plan " EVIL ".yaml model.%s=1",
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        assert_has(show(2, format(commands[i], EVIL "-none")).err, SHOWN);
}

/* ---- Names in files ---- */

static void write_evil_h5(const char *path) {
    Error err = {0};
    float zeros[2] = {0};
    const char *name = name_of(EVIL);
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_int(w, "", "format_version", 3);
    h5_write_tensor(w, name, H5_F32, SHAPE(2), zeros);
    h5_write_int(w, format("%s-group", name), name, 1);
    h5_write_text(w, "config", name);
    if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
}

static void test_inspect(void **state) {
    (void)state;
    write_evil_h5("evil.h5");
    assert_has(show(0, "inspect evil.h5").out, SHOWN "\\nnibble: forged\\u202e\\x9b  f32 [2]");
    static const char header[] = "{\"e\\u001b]0;x\\u0007\\nnibble: forged\\u202e\\u009b\": "
                                 "{\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}";
    char file[512] = {(char)(sizeof header - 1)};
    memcpy(file + 8, header, sizeof header - 1);
    file_write("evil.safetensors", file, 8 + sizeof header - 1 + 4);
    assert_has(show(0, "inspect evil.safetensors").out,
               SHOWN "\\nnibble: forged\\u202e\\x9b  F32 [1]");
}

/* A checkpoint and a packed model with names that no network has. */
static void test_other_networks(void **state) {
    (void)state;
    write_evil_h5("base/checkpoint.h5");
    static const char *const commands[] = {"train --resume base", "eval base", "convert base",
                                           "train " EVIL ".yaml --out new --force train.init=base"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) show(2, commands[i]);
}

static void test_configurations(void **state) {
    (void)state;
    text_file("c.yaml", "model: {kind: " EVIL_YAML "}\n" EVIL_YAML ": 1\n");
    assert_has(show(2, "plan c.yaml").err, SHOWN);
    text_file("c.yaml", "model: \x1b\n");
    assert_has(show(2, "plan c.yaml").err, "control character 0x1b");
    text_file("c.yaml", "&" EVIL_YAML " model: *" EVIL_YAML "\n");
    show(2, "plan c.yaml");
    text_file("c.yaml", "!" SHOWN "\xe2\x80\xae model: 1\n");
    show(2, "plan c.yaml");
}

static void test_class_and_layer_names(void **state) {
    (void)state;
    text_file("names.yaml",
              "model:\n  kind: sequential\n  layers: [flatten, {kind: linear, units: 2, name: "
              "plain}]\n"
              "data: {kind: synthetic, height: 8, width: 8, classes: 2, train: 64, test: 32, "
              "validation: 32, batch: 32, class_names: [" EVIL_LINE ", b]}\n"
              "quant: {bits: 8}\ntrain: {epochs: 1}\n");
    show(0, "train names.yaml --out names");
    show(0, "eval names");
    show(0, "convert names");
    assert_has(show(0, "predict names " EVIL ".pgm").out, SHOWN);
    show(0, "predict names " EVIL ".pgm --json");
    assert_has(file_text("names/report.html"), SHOWN);
    check_files("names");
    assert_has(show(2, "plan names.yaml data.class_names=[" EVIL_WORD ",b]").err, "one line");
    assert_has(
        show(
            2,
            "plan names.yaml model.layers=[flatten,{\"kind\":linear,\"units\":2,\"name\":" EVIL_WORD
            "}]")
            .err,
        "name");
}

/* ---- Texts, and what models make of them ---- */

#define TEXT "the cat\x1b[31m and\a the dog\xe2\x80\xae and the cat\n"

static void test_text(void **state) {
    (void)state;
    const char *text = TEXT TEXT TEXT TEXT TEXT TEXT TEXT TEXT;
    text_file("text", text);
    text_file("text.yaml", "model: {kind: transformer, width: 8, layers: 1, heads: 1, ff: 8}\n"
                           "data: {kind: text, path: text, length: 16, batch: 2, eval_batch: 2, "
                           "validation: 0.2, test: 0.2}\ntrain: {epochs: 1}\n");
    show(0, "train text.yaml --out words");
    assert_has(show(0, "data show text.yaml 0").out, "\\x1b[31m");
    assert_has(show(0, "eval words").out, "perplexity");
    const char *drawn = show(0, "generate words --prompt the --temperature 100 --tokens 300").out;
    assert_has(drawn, "\\x0"); /* of 257 tokens about 30 are control characters */
    show(0, "generate words --prompt the --temperature 100 --tokens 300 --json");
    check_files("words");
}

static void test_tokens(void **state) {
    (void)state;
    text_file("tokenizer.json",
              "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"\\u001b\": 1, \"\\u202e\": "
              "2, \"\\u009b\": 3, \"\\n\": 4}, \"merges\": []}}");
    text_file("tokens", "a\x1b\xe2\x80\xae\xc2\x9b\n");
    assert_string_equal(show(0, "tokenize tokenizer.json tokens").out,
                        "       0  a\n       1  \\x1b\n       2  \\u202e\n       3  \\x9b\n"
                        "       4  \\n\n");
    text_file("tokenizer.json", "{\"model\": {\"type\": \"\\u001b[31m\"}}");
    assert_has(show(2, "tokenize tokenizer.json tokens").err, "\\x1b[31m");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_of_files), cmocka_unit_test(test_messages),
        cmocka_unit_test(test_inspect),        cmocka_unit_test(test_other_networks),
        cmocka_unit_test(test_text),           cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_tokens),         cmocka_unit_test(test_class_and_layer_names),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
