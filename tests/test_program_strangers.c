/* A model's directory from a stranger: whatever is wrong with a file of it, nibble says which and
 * where, at once, and takes no memory for what a header claims. */
#include "tests/program.h"

#define LLAMA "/tests/golden/llm/llama"

enum { MIB = 1 << 20, FILE_BYTES_MAX = 6 * MIB };

static void copy_model(void) {
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    remove_tree("m");
    mkdir("m", 0777);
    for (int i = 0; i < 4; i++)
        file_copy(format("%s" LLAMA "/%s", program_source_root, files[i]),
                  format("m/%s", files[i]));
    text_file("text.txt", "some text to read");
}

static double children_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Of files of a few MiB at most: with a message, in half a second, in little memory. */
static void expect_refusal_of(const char *command, const char *message) {
    double before = children_seconds();
    Result result = run(2, "%s", command);
    double seconds = children_seconds() - before;
    assert_has(result.err, message);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    if (seconds > 0.5) fail_msg("%s: after %.2f s", message, seconds);
    if (result.peak_bytes > 192 * (int64_t)MIB)
        fail_msg("%s: took %ld MiB", message, (long)(result.peak_bytes / MIB));
#else
    (void)seconds;
#endif
}

static void expect_refused(const char *message) {
    expect_refusal_of("eval m --text text.txt", message);
}

/* ---- Weights ---- */

/* A file with this header, whose length is told as it is, and so many bytes behind it. */
static void write_weights(const char *path, const char *header, size_t data_bytes) {
    size_t bytes = strlen(header);
    unsigned char *file = arena_zalloc(program_arena, 8 + bytes + data_bytes);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(bytes >> 8 * i);
    memcpy(file + 8, header, bytes);
    file_write(path, file, 8 + bytes + data_bytes);
}

#define F32(shape, begin, end)                                                                     \
    "{\"dtype\": \"F32\", \"shape\": " shape ", \"data_offsets\": [" #begin ", " #end "]}"

static void test_weights(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *message;
    } cases[] = {
        {"{\"a\": " F32("[2]", 0, 8) ", \"b\": " F32("[2]", 4, 12) "}", 12,
         "m/model.safetensors: tensor 'b' lies over the one before it"},
        {"{\"a\": " F32("[2]", 0, 8) ", \"b\": " F32("[1]", 12, 16) "}", 16,
         "m/model.safetensors: tensor 'b' leaves bytes before it that belong to none"},
        {"{\"a\": " F32("[2]", 0, 8) "}", 7,
         "m/model.safetensors: tensor 'a': lies at 0 to 8, but the file has 7 bytes of data"},
        {"{\"a\": " F32("[2]", 0, 8) "}", 9,
         "m/model.safetensors: 1 bytes at its end belong to no tensor"},
        {"{\"a\": " F32("[3]", 0, 8) "}", 8,
         "m/model.safetensors: tensor 'a': [3] of F32 does not have the 8 bytes that it is given"},
        {"{\"a\": " F32("[4194305, 4194305, 211106198978564]", 0, 16) "}", 16,
         "m/model.safetensors: tensor 'a': [4194305, 4194305, 211106198978564] of F32 does not"},
        {"{\"a\": " F32("[1]", 0, 4) ", \"a\": " F32("[1]", 0, 4) "}", 4,
         "m/model.safetensors: header:1:65: not valid JSON: duplicate object key near '\"a\"'"},
        {"{\"a\": " F32("[1]", 0, 4611686018427387904) "}", 4,
         "m/model.safetensors: tensor 'a': lies at 0 to 4611686018427387904"},
    };
    copy_model();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_weights("m/model.safetensors", cases[i].header, cases[i].data_bytes);
        expect_refused(cases[i].message);
    }
}

/* The golden file, cut at many places. */
static void test_cut_weights(void **state) {
    (void)state;
    size_t bytes;
    copy_model();
    unsigned char *whole = file_read("m/model.safetensors", &bytes);
    static const double shares[] = {0, 1e-4, 0.01, 0.3, 0.999};
    for (int i = 0; i < 5; i++) {
        file_write("m/model.safetensors", whole, (size_t)(shares[i] * (double)bytes));
        expect_refused("m/model.safetensors: ");
    }
    whole[7] = 0x10; /* 2^60 bytes of header */
    file_write("m/model.safetensors", whole, bytes);
    expect_refused("m/model.safetensors: its header claims ");
}

/* Headers as long as one may be, and longer. */
static void test_long_headers(void **state) {
    (void)state;
    enum { HEADER_MAX = 2 * MIB };
    copy_model();
    char *text = arena_zalloc(program_arena, FILE_BYTES_MAX), *at = text;
    *at++ = '{';
    for (int i = 0; at < text + HEADER_MAX - 64; i++) at += sprintf(at, "\"%x\":1,", i);
    strcpy(at, "\"0\":1}");
    write_weights("m/model.safetensors", text, 0);
    expect_refused("not valid JSON: duplicate object key near '\"0\"'");
    memset(text, '[', HEADER_MAX - 8);
    write_weights("m/model.safetensors", text, 0);
    expect_refused("m/model.safetensors: header:1:2049: not valid JSON: maximum parsing depth");
    memset(text, ' ', HEADER_MAX + 8);
    write_weights("m/model.safetensors", text, 0);
    expect_refused("m/model.safetensors: its header has 2097160 bytes; nibble reads up to 2097152");
    at = text +
         sprintf(text, "{\"0\": {\"dtype\": \"U8\", \"shape\": [0], \"data_offsets\": [0,0]}");
    for (int i = 1; i <= 25000; i++)
        at += sprintf(at, ",\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i);
    strcpy(at, "}");
    write_weights("m/model.safetensors", text, 0);
    expect_refused("m/model.safetensors: has more than 25000 tensors");
}

static void test_index(void **state) {
    (void)state;
    static const char *const outside[] = {"../m/x.safetensors", "/etc/passwd", "a/b", "..", ""};
    copy_model();
    assert_int_equal(rename("m/model.safetensors", "m/x.safetensors"), 0);
    for (int i = 0; i < 5; i++) {
        text_file("m/model.safetensors.index.json",
                  format("{\"weight_map\": {\"a\": \"%s\"}}", outside[i]));
        expect_refused(
            format("m/model.safetensors.index.json: 'a' lies in a file that is not beside "
                   "the index: '%s'",
                   outside[i]));
    }
    text_file("m/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\"}}");
    expect_refused("m/model.safetensors.index.json: 'a' is not in x.safetensors");
    text_file("m/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"y.safetensors\"}}");
    expect_refused("m/y.safetensors: ");
    char *text = arena_zalloc(program_arena, FILE_BYTES_MAX), name[257] = {0};
    memset(name, 'n', 256);
    text_file("m/model.safetensors.index.json", format("{\"weight_map\": {\"a\": \"%s\"}}", name));
    expect_refused("'a' lies in a file that is not beside the index: 'nnn");
    memset(text, ' ', FILE_BYTES_MAX - 1);
    text_file("m/model.safetensors.index.json", text);
    expect_refused("m/model.safetensors.index.json has 6291455 bytes, more than the 2097152");
}

/* ---- What the network is, and its text ---- */

static void test_config(void **state) {
    (void)state;
    static const char *const needed[] = {
        "model_type",        "hidden_act",         "vocab_size",          "hidden_size",
        "num_hidden_layers", "intermediate_size",  "num_attention_heads", "max_position_embeddings",
        "rms_norm_eps",      "tie_word_embeddings"};
    static const struct {
        const char *key, *value, *message;
    } cases[] = {
        {"model_type", "\"gemma\"", "model_type 'gemma' is not read"},
        {"hidden_act", "\"gelu\"", "hidden_act 'gelu' is not supported"},
        {"hidden_size", "1e9", "hidden_size must be a whole number from 1 to"},
        {"vocab_size", "-1", "vocab_size must be a whole number from 1 to"},
        {"layer_types", "[\"chunked_attention\"]",
         "layer_types must be a list of 'full_attention'"},
        {"layer_types", "\"full_attention\"", "layer_types must be a list of 'full_attention'"},
        {"layer_types", "{\"a\": \"full_attention\"}", "layer_types must be a list of"},
        {"num_hidden_layers", "4611686018427387904", "num_hidden_layers must be a whole number"},
    };
    copy_model();
    const char *good = file_text("m/config.json");
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        char *text = arena_strdup(program_arena, good);
        char *key = strstr(text, format("\"%s\"", needed[i]));
        assert_non_null(key);
        key[1] = '_';
        text_file("m/config.json", text);
        expect_refused(format("m/config.json: %s is missing; nothing is guessed", needed[i]));
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = arena_strdup(program_arena, good);
        char *key = strstr(text, format("\"%s\"", cases[i].key));
        if (key) key[1] = '_';
        text_file("m/config.json",
                  format("{\"%s\": %s,%s", cases[i].key, cases[i].value, text + 1));
        expect_refused(format("m/config.json: %s", cases[i].message));
    }
    char *text = arena_zalloc(program_arena, FILE_BYTES_MAX);
    memset(text, '[', 2 * MIB);
    text_file("m/config.json", text);
    expect_refused("m/config.json has 2097152 bytes, more than the 1048576");
    text[MIB] = '\0';
    text_file("m/config.json", text);
    expect_refused("m/config.json:1:2049: not valid JSON: maximum parsing depth reached");
}

/* Nor does a training make the network of a configuration that its files do not have. */
static void test_training(void **state) {
    (void)state;
    copy_model();
    const char *good = file_text("m/config.json"),
               *width = strstr(good, "\"intermediate_size\": 48");
    assert_non_null(width);
    text_file("m/config.json", format("%.*s\"intermediate_size\": 1000000%s", (int)(width - good),
                                      good, width + strlen("\"intermediate_size\": 48")));
    text_file("c.yaml", "model: {kind: pretrained, path: m}\n"
                        "data: {kind: text, sample: 'a text of some words, for a trial of this', "
                        "length: 4, batch: 1, validation: 0.2, test: 0.2, tokenizer: m}\n");
    expect_refusal_of("train c.yaml --out run",
                      "c.yaml:1:33: m/model.safetensors: model.layers.0.mlp.gate_proj.weight is "
                      "[48, 32], and in the network of config.json [1000000, 32]");
}

static void test_text(void **state) {
    (void)state;
    copy_model();
    text_file("text.txt", "ab\ncd\xc3(");
    expect_refused("text.txt: byte 5 (0xc3) is not UTF-8");
    text_file("text.txt", "some text");
    text_file("m/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"\\u00");
    expect_refused("m/tokenizer.json:1:");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),      cmocka_unit_test(test_cut_weights),
        cmocka_unit_test(test_long_headers), cmocka_unit_test(test_index),
        cmocka_unit_test(test_config),       cmocka_unit_test(test_training),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
