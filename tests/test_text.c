/* Data sets of text: tokens, labels and starts of rows are what the headers say, of every format
 * and template; what is wrong is told with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sys/stat.h>
#include <unistd.h>

#include "data/datasets/text.h"
#include "data/text/chat.h"
#include "tests/data_source.h"

enum { END = VOCABULARY_BYTES_END };

static int make_folder(void **state) {
    (void)state;
    arena = arena_new("test");
    return !mkdtemp(folder);
}

static int remove_folder(void **state) {
    (void)state;
    int failed = system(arena_format(arena, "rm -rf '%s'", folder));
    arena_free(arena);
    return failed;
}

static const char *write_file(const char *name, const char *text) {
    const char *path = in_folder(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    return path;
}

static Loader *open_well(Variant data) {
    Loader *loader;
    Error err = {0};
    if (!loader_open(data, 1, arena, &loader, &err)) fail_msg("%s", err.message);
    return loader;
}

static const char *error_of(Variant data) {
    Loader *loader;
    Error err = {0};
    assert_false(loader_open(data, 1, arena, &loader, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    return arena_strdup(arena, err.message);
}

static void assert_message(const char *message, const char *part) {
    if (!strstr(message, part)) fail_msg("\"%s\" does not say \"%s\"", message, part);
}

/* Row by row: the tokens as text (the end is '$', what is empty 0), what is learned, what is seen.
 */
static void assert_row(const Batch *batch, int64_t row, const char *tokens, const char *labels,
                       const char *starts) {
    int64_t length = batch->columns[0].shape.dim[0];
    assert_int_equal(strlen(tokens), length);
    Tensor all = batch_f32(batch, "tokens"), from = batch_f32(batch, "starts");
    const float *t = tensor_f32(&all) + row * length;
    const float *s = tensor_f32(&from) + row * length;
    const int32_t *l = batch_i32(batch, "labels") + row * length;
    for (int64_t i = 0; i < length; i++) {
        int token = tokens[i] == '$' ? END : tokens[i] == '_' ? 0 : tokens[i];
        int label = labels[i] == '$' ? END : labels[i] == '_' ? -1 : labels[i];
        int start = starts[i] == '.' ? (int)i : starts[i] - '0';
        if ((int)t[i] != token || l[i] != label || (int)s[i] != start)
            fail_msg("row %d, position %d: token %d, label %d, start %d; expected %d, %d, %d",
                     (int)row, (int)i, (int)t[i], (int)l[i], (int)s[i], token, label, start);
    }
}

static void documents_share_rows(void **state) {
    (void)state;
    mkdir(in_folder("four"), 0700);
    write_file("four/c", "ghijkl"); /* read by name, not as they were made */
    write_file("four/b", "ef");
    write_file("four/a", "abcd");
    write_file("four/.hidden", "not read");
    Variant data = source("text", "path", in_folder("four"), "length", "5", "batch", "3",
                          "validation", "0", "test_path", write_file("test", "tested"), NULL);
    Loader *loader = open_well(data);
    assert_int_equal(loader_rows(loader, LOADER_TRAIN), 3);
    assert_int_equal(loader_rows(loader, LOADER_VALIDATION), 0);
    assert_int_equal(loader_dataset(loader)->class_count, 257);
    Batch batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    assert_row(&batch, 0, "abcde", "bcd$f", "00004");
    assert_row(&batch, 1, "fghij", "$hijk", "01111");
    assert_row(&batch, 2, "kl___", "l$___", "00...");
    batch = loader_batch(loader, LOADER_TEST, 0, 0);
    assert_int_equal(batch.count, 2);
    assert_row(&batch, 0, "teste", "ested", "00000");
    assert_row(&batch, 1, "d____", "$____", "0....");
    loader_close(loader);
    Variant apart = source("text", "path", in_folder("four"), "length", "5", "batch", "1", "pack",
                           "false", "validation", "0", "test_path", in_folder("test"), NULL);
    loader = open_well(apart);
    assert_int_equal(loader_rows(loader, LOADER_TRAIN), 4);
    batch = loader_batch(loader, LOADER_CALIBRATION, 0, 1);
    assert_row(&batch, 0, "ef___", "f$___", "00...");
    loader_close(loader);
}

static Variant lines(const char *format, const char *text, const char *length, const char *key,
                     const char *value) {
    return source("text", "path", write_file("lines", text), "format", format, "length", length,
                  "batch", "1", "validation", "0", "test_path", in_folder("lines"), key, value,
                  NULL);
}

static void answers_alone_are_learned(void **state) {
    (void)state;
    static const char text[] = "{\"prompt\": \"1+1=\", \"completion\": \"2\"}\n\n"
                               "{\"prompt\": \"a\", \"completion\": \"bc\", \"other\": 1}\n"
                               "{\"prompt\": \"long\", \"completion\": \"er\"}";
    Loader *loader = open_well(lines("prompts", text, "9", "score", "answer"));
    assert_int_equal(loader_rows(loader, LOADER_TRAIN), 2);
    Batch batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    assert_row(&batch, 0, "1+1=2abc_", "___2$bc$_", "00000555.");
    batch = loader_batch(loader, LOADER_CALIBRATION, 0, 1);
    assert_row(&batch, 0, "longer___", "___er$___", "000000...");
    loader_close(loader);
    loader = open_well(lines("prompts", text, "8", "score", "answer")); /* they just fit */
    assert_int_equal(loader_rows(loader, LOADER_TRAIN), 2);
    batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    assert_row(&batch, 0, "1+1=2abc", "___2$bc$", "00000555");
    loader_close(loader);
    loader = open_well(lines("prompts", text, "9", "score", "all"));
    batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    assert_row(&batch, 0, "1+1=2abc_", "+1=2$bc$_", "00000555.");
    loader_close(loader);
}

/* What a template makes of a conversation, and which of it is learned, in brackets. */
static void templates_write_what_models_read(void **state) {
    (void)state;
    static const ChatMessage messages[] = {{CHAT_SYSTEM, "S"},
                                           {CHAT_USER, "U"},
                                           {CHAT_ASSISTANT, "A"},
                                           {CHAT_USER, "V"},
                                           {CHAT_ASSISTANT, "B"}};
    static const char *const expected[] = {
        "SU{A}V{B}",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\n{A<|im_end|>}\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n{B<|im_end|>}\n",
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] {A </s>}<s>[INST] V [/INST] {B </s>}",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{A<|eot_id|>}"
        "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{B<|eot_id|>}",
        "<s>[INST] S\n\nU [/INST] {A</s>}[INST] V [/INST] {B</s>}",
    };
    for (int i = 0; chat_template_names[i]; i++) {
        ChatText chat = chat_render(&chat_templates[i], messages, 5, arena);
        const char *text = "", *at = chat.text.text;
        for (int k = 0; k < chat.answer_count; k++) {
            Span answer = chat.answers[k];
            text = arena_format(arena, "%s%.*s{%.*s}", text, (int)(answer.text - at), at,
                                (int)answer.bytes, answer.text);
            at = answer.text + answer.bytes;
        }
        int rest = (int)(chat.text.text + chat.text.bytes - at);
        assert_string_equal(arena_format(arena, "%s%.*s", text, rest, at), expected[i]);
    }
}

static void chats_are_learned_in_all_their_answers(void **state) {
    (void)state;
    static const char text[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "
        "\"content\": \"yo\"}, {\"role\": \"user\", \"content\": \"so\"}, {\"role\": "
        "\"assistant\", \"content\": \"no\"}]}\n";
    Loader *loader = open_well(lines("chat", text, "10", "template", "plain"));
    Batch batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    assert_row(&batch, 0, "hiyosono__", "_yo__no$__", "00000000..");
    loader_close(loader);
    static const char *const learned[][2] = {{"mistral", "yo</s>no</s>"},
                                             {"chatml", "yo<|im_end|>no<|im_end|>"}};
    for (int k = 0; k < 2; k++) {
        loader = open_well(lines("chat", text, "200", "template", learned[k][0]));
        batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
        const int32_t *labels = batch_i32(&batch, "labels");
        char found[200] = "";
        for (int i = 0, n = 0; i < 200; i++)
            if (labels[i] >= 0) found[n++] = (char)labels[i];
        assert_string_equal(found, learned[k][1]);
        loader_close(loader);
    }
}

/* A tokenizer of words puts its own token in front, and the border of an answer lies between
 * tokens. */
static void tokenizers_are_those_of_models(void **state) {
    (void)state;
    static const char text[] = "{\"prompt\": \"The cat\", \"completion\": \" sat\"}\n";
    Variant data = source("text", "path", write_file("cat", text), "format", "prompts", "length",
                          "40", "batch", "1", "validation", "0", "test_path", in_folder("cat"),
                          "tokenizer", "tests/golden/llm/llama", "end_token", "<|end|>", NULL);
    Loader *loader = open_well(data);
    Vocabulary v;
    Error err = {0};
    assert_true(text_vocabulary_open(data.config, arena, &v, &err));
    assert_int_equal(loader_dataset(loader)->class_count, v.size);
    TokenIds whole = {.arena = arena}, prompt = {.arena = arena};
    Span all = {"The cat sat", 11}, part = {"The cat", 7}, back;
    assert_true(vocabulary_encode(&v, all, true, &whole, &err));
    assert_true(vocabulary_encode(&v, part, true, &prompt, &err));
    assert_int_equal(v.end, tokenizer_find(v.tokenizer, "<|end|>"));
    Batch batch = loader_batch(loader, LOADER_CALIBRATION, 0, 0);
    Tensor tokens = batch_f32(&batch, "tokens");
    const int32_t *labels = batch_i32(&batch, "labels");
    for (int64_t i = 0; i < whole.count; i++) {
        int32_t next = i + 1 < whole.count ? whole.items[i + 1] : v.end;
        assert_int_equal((int)tensor_f32(&tokens)[i], whole.items[i]);
        assert_int_equal(labels[i], i + 1 < prompt.count ? -1 : next);
    }
    assert_true(vocabulary_decode(&v, whole.items + prompt.count, whole.count - prompt.count, arena,
                                  &back, &err));
    vocabulary_close(&v);
    loader_close(loader);
}

/* Whole documents where there are three or more; the same whatever the seed. */
static void documents_are_kept_aside_whole(void **state) {
    (void)state;
    const char *text = "";
    for (int i = 0; i < 20; i++)
        text = arena_format(arena, "%s{\"prompt\": \"\", \"completion\": \"%c%c\"}\n", text,
                            'a' + i, 'a' + i);
    Variant data =
        source("text", "path", write_file("many", text), "format", "prompts", "length", "3",
               "batch", "1", "eval_batch", "20", "validation", "0.2", "test", "3", NULL);
    int seen[20] = {0};
    char first[2][20] = {{0}};
    for (uint64_t seed = 1; seed <= 2; seed++) {
        Loader *loader;
        Error err = {0};
        assert_true(loader_open(data, seed, arena, &loader, &err));
        assert_int_equal(loader_rows(loader, LOADER_TRAIN), 13);
        assert_int_equal(loader_rows(loader, LOADER_VALIDATION), 4);
        assert_int_equal(loader_rows(loader, LOADER_TEST), 3);
        Batch batch = loader_batch(loader, LOADER_VALIDATION, 0, 0);
        for (int i = 0; i < 4; i++) {
            first[seed - 1][i] = (char)batch_i32(&batch, "labels")[3 * i];
            seen[first[seed - 1][i] - 'a']++;
        }
        batch = loader_batch(loader, LOADER_TEST, 0, 0);
        for (int i = 0; i < 3; i++) seen[batch_i32(&batch, "labels")[3 * i] - 'a']++;
        for (int64_t i = 0; i < 13; i++) {
            batch = loader_batch(loader, LOADER_TRAIN, 0, i);
            seen[batch_i32(&batch, "labels")[0] - 'a']++;
        }
        loader_close(loader);
    }
    for (int i = 0; i < 20; i++) assert_int_equal(seen[i], 2);
    assert_memory_equal(first[0], first[1], 20);
}

static void one_document_is_cut(void **state) {
    (void)state;
    Variant data = source("text", "sample", "abcdefghijklmnopqrs", "length", "4", "batch", "1",
                          "validation", "0.2", "test", "0.2", NULL);
    Loader *loader = open_well(data);
    Batch batch = loader_batch(loader, LOADER_VALIDATION, 0, 0);
    assert_int_equal(batch.count, 1);
    assert_row(&batch, 0, "mno_", "nop_", "000.");
    batch = loader_batch(loader, LOADER_TEST, 0, 0);
    assert_row(&batch, 0, "qrs_", "rs$_", "000.");
    loader_close(loader);
    const DataFacts *facts;
    Loader *test;
    Error err = {0};
    loader = open_well(data);
    facts = loader_facts(loader);
    assert_true(loader_open_test(data, facts, arena, &test, &err));
    assert_int_equal(loader_rows(test, LOADER_TRAIN), loader_rows(loader, LOADER_TRAIN));
    batch = loader_batch(test, LOADER_TEST, 0, 0);
    assert_row(&batch, 0, "qrs_", "rs$_", "000.");
    loader_close(test);
    loader_close(loader);
}

static void what_is_wrong_is_told_with_its_place(void **state) {
    (void)state;
    static const struct {
        const char *format, *text, *message;
    } wrong[] = {
        {"prompts", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \n",
         "lines, line 2:1:"},
        {"prompts", "[1]\n", "lines, line 1: expected a JSON object"},
        {"prompts", "\n{\"prompt\": \"a\"}\n", "lines, line 2: has no \"completion\""},
        {"prompts", "{\"prompt\": 1, \"completion\": \"b\"}\n",
         "lines, line 1: \"prompt\" is no text"},
        {"prompts", "{\"prompt\": \"abc\", \"completion\": \"12345678\"}\n",
         "lines, line 1: prompt and answer have 12 tokens, and a row has room for 9: shorten them, "
         "or raise data.length"},
        {"chat", "{\"messages\": []}\n", "lines, line 1: has no list \"messages\""},
        {"chat", "{\"messages\": [3]}\n", "lines, line 1: message 1: is no object"},
        {"chat", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
         "lines, line 1: there is no answer to learn"},
        {"chat", "{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}\n",
         "lines, line 1: message 1: the role \"tool\" is none of system, user, assistant"},
        {"text", "good\xff", "lines: byte 4 (0xff) is not UTF-8"},
        {"prompts", "\xc3(", "lines: byte 0 (0xc3) is not UTF-8"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Variant data = lines(wrong[i].format, wrong[i].text, "8", "template", "plain");
        assert_message(error_of(data), wrong[i].message);
    }
}

/* Thousands of answers in one conversation would take hours. */
static void endless_conversations_are_refused(void **state) {
    (void)state;
    enum { ANSWERS = 16000 };
    static const char answer[] = ",{\"role\": \"assistant\", \"content\": \"b\"}";
    char *text = arena_alloc(arena, 100 + ANSWERS * sizeof answer);
    char *at = stpcpy(text, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}");
    for (int i = 0; i < ANSWERS; i++) at = stpcpy(at, answer);
    strcpy(at, "]}\n");
    assert_message(
        error_of(lines("chat", text, "8", "template", "plain")),
        "lines, line 1: has 16000 answers in 16001 bytes, too many for a conversation so "
        "long; divide it");
}

static void settings_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const char good[] = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    static const struct {
        const char *key, *value, *message;
    } wrong[] = {
        {"vocabulary", "256",
         "byte has ids up to 256, but data.vocabulary says that the network "
         "knows 256: it is another network's tokenizer"},
        {"tokenizer", "nowhere/tokenizer.json", "nowhere/tokenizer.json"},
        {"path", "nowhere", "nowhere: No such file"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bool is_path = !strcmp(wrong[i].key, "path");
        Variant data = lines("prompts", good, "8", is_path ? "score" : wrong[i].key,
                             is_path ? "all" : wrong[i].value);
        if (is_path) ((TextConfig *)data.config)->path = wrong[i].value;
        assert_message(error_of(data), wrong[i].message);
    }
    Variant chatml = source("text", "sample", "abcdef", "tokenizer", "tests/golden/llm/llama",
                            "template", "chatml", NULL);
    assert_message(error_of(chatml), "the template 'chatml' writes <|im_start|>, which "
                                     "tests/golden/llm/llama/tokenizer.json does not have");
    Variant ended = source("text", "sample", "abcdef", "tokenizer", "tests/golden/llm/llama",
                           "end_token", "<stop>", NULL);
    assert_message(error_of(ended), "tokenizer.json has no token '<stop>'");
    assert_message(error_of(source("text", NULL)), "data.path is empty");
    Variant all = source("text", "path", in_folder("four"), "validation", "3", NULL);
    assert_message(error_of(all), "of 3 documents 3 are for validation and 1 for the test: none is "
                                  "left to learn from");
    mkdir(in_folder("empty"), 0700);
    assert_message(error_of(source("text", "path", in_folder("empty"), NULL)),
                   "a directory without files");
    assert_message(error_of(source("text", "sample", "abcdef", "validation", "1", NULL)),
                   "must be shares, together below 1");
}

/* Bits of batches, whatever was asked for before. */
static void batches_are_pure(void **state) {
    (void)state;
    const char *text = "the quick brown fox jumps over the lazy dog, and again, and again";
    Variant data = source("text", "sample", text, "length", "4", "batch", "2", NULL);
    Loader *a = open_well(data), *b = open_well(data);
    loader_batch(b, LOADER_TRAIN, 0, 0);
    loader_batch(b, LOADER_TEST, 0, 0);
    Batch x = loader_batch(a, LOADER_TRAIN, 3, 1), y = loader_batch(b, LOADER_TRAIN, 3, 1);
    Batch other = loader_batch(open_well(data), LOADER_TRAIN, 4, 1);
    assert_memory_equal(x.data[TEXT_TOKENS], y.data[TEXT_TOKENS], 2 * 4 * sizeof(float));
    assert_memory_equal(x.data[TEXT_LABELS], y.data[TEXT_LABELS], 2 * 4 * sizeof(int32_t));
    assert_memory_not_equal(x.data[TEXT_LABELS], other.data[TEXT_LABELS], 2 * 4 * sizeof(int32_t));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_share_rows),
        cmocka_unit_test(answers_alone_are_learned),
        cmocka_unit_test(templates_write_what_models_read),
        cmocka_unit_test(chats_are_learned_in_all_their_answers),
        cmocka_unit_test(tokenizers_are_those_of_models),
        cmocka_unit_test(documents_are_kept_aside_whole),
        cmocka_unit_test(one_document_is_cut),
        cmocka_unit_test(what_is_wrong_is_told_with_its_place),
        cmocka_unit_test(endless_conversations_are_refused),
        cmocka_unit_test(settings_that_do_not_fit_are_refused),
        cmocka_unit_test(batches_are_pure),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
