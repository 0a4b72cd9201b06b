#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/settings_example.h"

#define ALL                                                                                        \
    "known: seed, precision, temperature, name, optimizer, clip, noise, train, stop, layers, "     \
    "rules, "                                                                                      \
    "milestones, factors, tags"
#define CANNOT_BEGIN                                                                               \
    "not valid YAML: this character cannot begin a value (indent with spaces, not tabs; put text " \
    "with special characters in quotes)"

typedef struct BadText {
    const char *text, *mistakes;
} BadText;

/* clang-format off */
static const BadText bad_texts[] = {
    {"seed: 1\nseed: 2",
     "c:2:1: duplicate setting 'seed'; it is first on line 1, column 1"},
    {"seed: 1\nname: a\nseed: 2\nseed: 3",
     "c:3:1: duplicate setting 'seed'; it is first on line 1, column 1\n"
         "c:4:1: duplicate setting 'seed'; it is first on line 1, column 1"},
    {"temperature: 1 # ok\n  2",
     "c:2:3: not valid YAML: did not find expected key while parsing a block mapping"},
    {"optimizer: {kind: sgd, kind: adam}",
     "c:1:24: duplicate setting 'kind'; it is first on line 1, column 13"},
    {"optimizer: {adam: {lr: 1, lr: 2}}",
     "c:1:27: duplicate setting 'lr'; it is first on line 1, column 20"},
    {"seed: 1\n...\n---\nseed: 2",
     "c:3:1: a second document; there can be only one"},
    {"a: &x 1\nb: *x",
     "c:1:1: unknown setting 'a'; " ALL "\n"
         "c:1:4: anchor '&x': anchors are not supported; write it out\n"
         "c:2:1: unknown setting 'b'; " ALL "\n"
         "c:2:4: alias '*x': aliases are not supported; write it out"},
    {"seed: &x 1",
     "c:1:7: anchor '&x': anchors are not supported; write it out"},
    {"seed: !!int 1",
     "c:1:7: tag 'tag:yaml.org,2002:int': tags are not supported; write the plain value"},
    {"seed: !foo 1",
     "c:1:7: tag '!foo': tags are not supported; write the plain value"},
    {"train: !!map {epochs: 0}",
     "c:1:8: tag 'tag:yaml.org,2002:map': tags are not supported; write the plain value\n"
         "c:1:23: 'train.epochs' must be from 1 to 1e+18, not 0"},
    {"train: &t {epochs: 0}",
     "c:1:8: anchor '&t': anchors are not supported; write it out\n"
         "c:1:20: 'train.epochs' must be from 1 to 1e+18, not 0"},
    {"layers: &l [liner]",
     "c:1:9: anchor '&l': anchors are not supported; write it out\n"
         "c:1:13: unknown layer 'liner'; did you mean 'linear'? Known: linear, relu, branch"},
    {"<<: {seed: 1}",
     "c:1:1: merge key '<<' is not supported; write it out"},
    {"train: {<<: *t, epochs: 3}",
     "c:1:9: merge key '<<' is not supported; write it out\n"
         "c:1:13: alias '*t': aliases are not supported; write it out"},
    {"? [a]\n: 1",
     "c:1:3: a setting's name must be plain text, not a list, map or alias"},
    {"? {a: b}\n: 1",
     "c:1:3: a setting's name must be plain text, not a list, map or alias"},
    {"[a]: 1",
     "c:1:1: a setting's name must be plain text, not a list, map or alias"},
    {"*a : 1",
     "c:1:1: a setting's name must be plain text, not a list, map or alias"},
    {"&a seed: 1",
     "c:1:1: anchor '&a': anchors are not supported; write it out"},
    {": 1",
     "c:1:1: not valid YAML: did not find expected key while parsing a block mapping"},
    {"seed: 1\n name: b",
     "c:2:6: not valid YAML: mapping values are not allowed in this context"},
    {"seed: \"abc",
     "c:1:11: not valid YAML: found unexpected end of stream while scanning a quoted scalar"},
    {"seed: [1, 2",
     "c:2:1: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence"},
    {"seed: {a: 1",
     "c:2:1: not valid YAML: did not find expected ',' or '}' while parsing a flow mapping"},
    {"seed: ]",
     "c:1:7: not valid YAML: did not find expected node content while parsing a block node"},
    {"seed: @x",
     "c:1:7: " CANNOT_BEGIN},
    {"seed: `x",
     "c:1:7: " CANNOT_BEGIN},
    {"seed: %x",
     "c:1:7: " CANNOT_BEGIN},
    {"seed:\t- 1",
     "c:1:7: not valid YAML: block sequence entries are not allowed in this context"},
    {"train:\n\tepochs: 3",
     "c:2:1: " CANNOT_BEGIN},
    {"seed: 1: 2",
     "c:1:8: not valid YAML: mapping values are not allowed in this context"},
    {"- a",
     "c:1:1: expected settings such as 'name: value'"},
    {"a",
     "c:1:1: expected settings such as 'name: value'"},
    {"\"quoted\"",
     "c:1:1: expected settings such as 'name: value'"},
    {"- - - a",
     "c:1:1: expected settings such as 'name: value'"},
    {"*x",
     "c:1:1: expected settings such as 'name: value'\n"
         "c:1:1: alias '*x': aliases are not supported; write it out"},
    {"!!str x",
     "c:1:1: expected settings such as 'name: value'\n"
         "c:1:1: tag 'tag:yaml.org,2002:str': tags are not supported; write the plain value"},
    {"seed: \"\\0\"",
     "c:1:7: text with a NUL character ('\\0')"},
    {"\"se\\0ed\": 1",
     "c:1:1: text with a NUL character ('\\0')"},
    {"seed: \"\\q\"",
     "c:1:8: not valid YAML: found unknown escape character while parsing a quoted scalar"},
    {"seed: \"\\uD800\"",
     "c:1:10: not valid YAML: found invalid Unicode character escape code while parsing a quoted scalar"},
    {"%YAML 1.1\n---\nseed: 1",
     "c:1:1: directives (a line that begins with '%') are not supported"},
    {"%TAG ! x\n---\nseed: 1",
     "c:1:1: directives (a line that begins with '%') are not supported"},
    {"seed: \377",
     "c:1:7: byte 0xff is not part of valid UTF-8 text"},
    {"seed: \303",
     "c:1:7: byte 0xc3 is not part of valid UTF-8 text"},
    {"seed: \351t\351",
     "c:1:7: byte 0xe9 is not part of valid UTF-8 text"},
    {"na\001me: 3",
     "c:1:3: control character 0x01 is not allowed"},
    {"\377\376s\000", "c: this is UTF-16 text; save it as UTF-8"},
    {"\376\377\000s", "c: this is UTF-16 text; save it as UTF-8"},
    {"\357\273\277sede: 1", "c:1:1: unknown setting 'sede'; did you mean 'seed'?"},
    {"seed: 1 # \300\200", "c:1:11: byte 0xc0 is not part of valid UTF-8 text"}, /* overlong NUL */
    {"a: \355\240\200", "c:1:4: byte 0xed is not part of valid UTF-8 text"}, /* surrogate */
    {"a: \360\200\200\200", "c:1:4: byte 0xf0 is not part of valid UTF-8 text"},
    {"a: \364\220\200\200", "c:1:4: byte 0xf4 is not part of valid UTF-8 text"},
    {"a: \302\233", "c:1:4: byte 0xc2 is not part of valid UTF-8 text"}, /* C1 control */
    {"\303\251\303\251: \033[0m", "c:1:5: control character 0x1b is not allowed"},
    {"a: 1\nb: \177", "c:2:4: control character 0x7f is not allowed"},
};
/* clang-format on */

static void test_mistakes(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        const BadText *bad = &bad_texts[i];
        ExampleConfig config = {0};
        const char *mistakes = example_mistakes(bad->text, strlen(bad->text), &config, arena);
        if (strcmp(mistakes, bad->mistakes)) print_error("for the text\n%s\n", bad->text);
        assert_string_equal(mistakes, bad->mistakes);
        arena_reset(arena);
    }
    ExampleConfig config = {0};
    assert_string_equal(example_mistakes("seed: 1\0", 8, &config, arena),
                        "c:1:8: control character 0x00 is not allowed");
    arena_free(arena);
}

typedef struct Read {
    bool is_good;
    Node *root;
    Faults faults;
    Error err;
} Read;

static Read read_text(const char *text, size_t bytes, Arena *arena) {
    Read read = {.faults = {.arena = arena}};
    read.is_good = yaml_read_text(text, bytes, "f", arena, &read.root, &read.faults, &read.err);
    return read;
}

static Read read_string(const char *text, Arena *arena) {
    return read_text(text, strlen(text), arena);
}

static void test_tree_and_marks(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Read read =
        read_string("\357\273\277# a comment\na: 1\nb:\n  - x\n  - {c: 'y z', \"d\": [~, ]}\n"
                    "e: |\n  two\n  lines\n\303\251: >-\n  fol\n  ded\n",
                    arena);
    assert_true(read.is_good);
    assert_int_equal(read.faults.count, 0);
    assert_int_equal(read.root->count, 4);
    const Node *b = node_find(read.root, "b");
    assert_int_equal(b->key_mark.line, 3);
    assert_int_equal(b->mark.line, 4);
    assert_int_equal(b->mark.column, 3);
    assert_string_equal(b->mark.file, "f");
    const Node *c = node_find(b->last, "c"), *d = node_find(b->last, "d");
    assert_string_equal(c->text, "y z");
    assert_true(c->is_quoted);
    assert_int_equal(c->mark.column, 9);
    assert_int_equal(d->key_mark.column, 16);
    assert_int_equal(d->count, 1);
    assert_false(d->first->is_quoted);
    assert_true(node_is_null(d->first));
    assert_string_equal(node_find(read.root, "e")->text, "two\nlines\n");
    assert_string_equal(node_find(read.root, "\303\251")->text, "fol ded");
    arena_free(arena);
}

static void test_nothing_is_no_settings(void **state) {
    (void)state;
    static const char *const texts[] = {
        "", "\n\n", "# only a comment", "---\n", "---\n...\n", "~", "null", "{}", "\357\273\277"};
    Arena *arena = arena_new("test");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Read read = read_string(texts[i], arena);
        assert_true(read.is_good);
        assert_int_equal(read.root->type, NODE_MAP);
        assert_int_equal(read.root->count, 0);
    }
    arena_free(arena);
}

/* ---- Limits ---- */

static char *repeated(const char *head, const char *piece, size_t count, const char *tail,
                      Arena *arena) {
    size_t length = strlen(piece), head_length = strlen(head);
    char *text = arena_alloc(arena, head_length + length * count + strlen(tail) + 1), *at = text;
    memcpy(at, head, head_length);
    at += head_length;
    for (size_t i = 0; i < count; i++, at += length) memcpy(at, piece, length);
    strcpy(at, tail);
    return text;
}

static void assert_refused(const char *text, const char *reason, Arena *arena) {
    Read read = read_string(text, arena);
    assert_false(read.is_good);
    if (!strstr(read.err.message, reason)) print_error("%.60s\n", text);
    assert_non_null(strstr(read.err.message, reason));
    assert_int_equal(read.err.code, ERROR_INPUT);
}

static void test_depth(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    const char *closing = repeated("", "]", 64, "", arena);
    assert_true(read_string(repeated("a: ", "[", 63, closing + 1, arena), arena).is_good);
    assert_refused(repeated("a: ", "[", 64, closing, arena),
                   "f:1:67: nested more than 64 levels deep", arena);
    assert_refused(repeated("a: ", "[", 64, "", arena), "nested more than 64", arena);
    arena_free(arena);
}

/* Each takes seconds to hours where time is quadratic; the alarm ends the program then. */
static void test_traps(void **state) {
    (void)state;
    static const struct {
        const char *head, *piece;
        size_t count;
        const char *tail, *reason;
    } traps[] = {
        {"", "[", 128000, "", "f:1:65: nested more than 64 levels deep"},
        {"a: ", "[", 1000000, "", "nested more than 64"},
        {"a: ", "[\n", 500000, "", "nested more than 64"},
        {"a: ", "[\"x\", ", 150000, "", "nested more than 64"},
        {"", "{a: ", 250000, "", "nested more than 64"},
        {"", "- ", 500000, "", "nested more than 64"},
        {"", "? ", 500000, "", "must be plain text"},
        {"", "[? ", 300000, "", "must be plain text"},
        {"", "{", 1000000, "", "must be plain text"},
        {"a: [", "1,", 500000, "]", "more than 100000 values"},
        {"{", "a,", 500000, "}", "more than 100000 values"},
        {"", "a: 1\n", 200000, "", "more than 100000 values"},
        {"", "?\n", 500000, "", "more than 100000 values"},
        {"", "---\n", 250000, "", "a second document"},
        {"%YAML 1.1\n", "%TAG !a! b\n", 50000, "--- {}", "directives"},
        {"# comment\n", "%TAG !a! b\n", 50000, "--- {}", "directives"},
        {"", "\t", 1000000, "", "cannot begin"},
        {"", "a", 1000000, ": 1",
         "not valid YAML"}, /* libyaml: a name has at most 1,024 characters */
        {"a: \"", "\n", 1000000, "", "not valid YAML"},
        {"", "a", 1048577, "", "f: larger than 1048576 bytes"},
    };
    Arena *arena = arena_new("test");
    alarm(20); /* for all of them; they take a few hundredths of a second without sanitizers */
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++) {
        char *text = repeated(traps[i].head, traps[i].piece, traps[i].count, traps[i].tail, arena);
        assert_refused(text, traps[i].reason, arena);
        arena_reset(arena);
    }
    alarm(0);
    arena_free(arena);
}

/* Big and legal: all wrong keys are counted, the first hundred kept. */
static void test_many_keys(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    alarm(20);
    const char *text = "";
    char *all = arena_alloc(arena, 1 << 20), *at = all;
    for (int i = 0; i < 45000; i++) at += sprintf(at, "k%d: 1\n", i % 40000);
    ExampleConfig config = {0};
    text = example_mistakes(all, strlen(all), &config, arena);
    assert_non_null(strstr(text, "c:40001:1: duplicate setting 'k0'; it is first on line 1"));
    assert_non_null(strstr(text, "and 44900 more mistakes"));
    char *layers = repeated("layers: [", "x,", 95000, "]", arena);
    text = example_mistakes(layers, strlen(layers), &config, arena);
    assert_non_null(strstr(text, "and 94900 more mistakes"));
    layers = repeated("layers: [", "branch,", 95000, "]", arena);
    assert_string_equal(example_mistakes(layers, strlen(layers), &config, arena), "");
    assert_int_equal(config.layers.count, 95000);
    alarm(0);
    arena_free(arena);
}

/* ---- Files and values ---- */

static void test_files(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    char path[] = "/tmp/test_yaml_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "a: [1\nb: 2\n", 11), 11);
    close(fd);
    Node *root = NULL;
    Faults faults = {.arena = arena};
    Error err = {0};
    assert_false(yaml_read_file(path, arena, &root, &faults, &err));
    const char *place = arena_format(arena, "%s:2:2: not valid YAML", path);
    assert_int_equal(strncmp(err.message, place, strlen(place)), 0);
    assert_int_equal(truncate(path, 5), 0);
    err = (Error){0};
    fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "]", 1), 1);
    close(fd);
    assert_true(yaml_read_file(path, arena, &root, &faults, &err));
    assert_int_equal(node_find(root, "a")->count, 1);
    assert_int_equal(truncate(path, YAML_BYTES_MAX + 1), 0);
    assert_false(yaml_read_file(path, arena, &root, &faults, &err));
    assert_non_null(strstr(err.message, "larger than 1048576 bytes"));
    unlink(path);
    err = (Error){0};
    assert_false(yaml_read_file(path, arena, &root, &faults, &err));
    assert_non_null(strstr(err.message, "No such file"));
    err = (Error){0};
    assert_false(yaml_read_file("/tmp", arena, &root, &faults, &err));
    assert_non_null(strstr(err.message, "cannot read '/tmp': Is a directory"));
    arena_free(arena);
}

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *text, *yaml;
    } values[] = {{"3", "3\n"},         {"", "null\n"},     {"[1, [2]]", "- 1\n- [2]\n"},
                  {"{a: b}", "a: b\n"}, {"'x'", "\"x\"\n"}, {" /a/b ", "/a/b\n"},
                  {"a b", "\"a b\"\n"}};
    Arena *arena = arena_new("test");
    Mark mark = {"command line: x", 0, 3};
    Faults faults = {.arena = arena};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        Node *value = NULL;
        Error err = {0};
        assert_true(yaml_read_value(values[i].text, mark, arena, &value, &faults, &err));
        assert_string_equal(node_to_yaml(value, arena), values[i].yaml);
        assert_string_equal(value->mark.file, mark.file);
        assert_int_equal(value->mark.line, 0);
        assert_int_equal(value->mark.column, 3);
    }
    Node *value = NULL;
    Error err = {0};
    assert_false(yaml_read_value("[1", mark, arena, &value, &faults, &err));
    assert_int_equal(strncmp(err.message, "not valid YAML: ", 16), 0);
    assert_int_equal(faults.count, 0);
    arena_free(arena);
}

/* ---- Writing ---- */

/* Written and read, a tree is the same, whatever it holds. */
static void test_write_reads_back(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "a: 1\n",
        "a: {}\nb: []\nc: ''\nd: ~\n",
        "a: [[], {}, [[1, 2], [3]], {b: {c: [x]}}]\n",
        "a:\n- - - x\n    - y\n- - {b: 1}\n",
        "'': 1\n'a b': {'~': 1, '- x': 2}\n'<<': 3\n",
        "a: ['---', '...', '-', '#', 'a: b', ' x ', \"\\n\", \"\\t\", \"\\e\"]\n",
        "a: [\"\\L\\P\\N\\uFEFF\"]\n",
        "a: [---x, -1, .5, 1e-5, true, yes, 0x1, ~, null, \"null\"]\n",
        "a: |\n  x\n\n  y\nb: \"\\U0010FFFF \\uFFFE\"\n",
    };
    Arena *arena = arena_new("test");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Read read = read_string(texts[i], arena);
        assert_true(read.is_good);
        assert_int_equal(read.faults.count,
                         strstr(texts[i], "<<") != NULL); /* << is refused, in quotes as well */
        const char *yaml = node_to_yaml(read.root, arena);
        Read again = read_string(yaml, arena);
        if (!again.is_good) print_error("%s\n%s\n", yaml, again.err.message);
        assert_true(again.is_good);
        assert_int_equal(again.faults.count, 0);
        assert_string_equal(node_to_yaml(again.root, arena), yaml);
        assert_int_equal(again.root->count, read.root->count);
    }
    Read read = read_string("a: [\"\\e\\L\", 'x: \"y\"']", arena);
    assert_string_equal(node_to_yaml(read.root, arena),
                        "a: [\"\\x1b\\u2028\", \"x: \\\"y\\\"\"]\n");
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_tree_and_marks),
        cmocka_unit_test(test_nothing_is_no_settings),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_traps),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_write_reads_back),
    };
    return cmocka_run_group_tests_name("yaml", tests, NULL, NULL);
}
