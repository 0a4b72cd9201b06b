#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/json.h"
#include "core/random.h"
#include "experiments/report/text.h"

static Json *read_good(const char *text) {
    Error err = {0};
    Json *object = json_read_text(text, strlen(text), "t", &err);
    if (!object) print_error("%s\n", err.message);
    assert_non_null(object);
    return object;
}

static void test_dotted_names_nest(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Json *json = json_new();
    json_set_number(json, "test.accuracy", 0.9231);
    json_set_int(json, "steps", 12);
    json_set_number(json, "test.loss", 2);
    json_set_bool(json, "quick", true);
    json_set_text(json, "name", "a \"b\"\n\303\251");
    json_set_text(json, "nothing", NULL);
    json_set_number(json, "bad", NAN);
    json_set_number(json, "worse", -INFINITY);
    json_set_numbers(json, "list", (double[]){0.5, NAN, -3}, 3);
    json_set_numbers(json, "none", NULL, 0);
    Json *layer = json_append(json, "report.layers");
    json_set_text(layer, "name", "conv1");
    json_set_int(layer, "w.bits", 4);
    layer = json_append(json, "report.layers");
    assert_string_equal(
        json_line(json, arena),
        "{\"test\": {\"accuracy\": 0.9231, \"loss\": 2.0}, \"steps\": 12, \"quick\": true, "
        "\"name\": \"a \\\"b\\\"\\n\303\251\", \"nothing\": null, \"bad\": null, \"worse\": null, "
        "\"list\": [0.5, null, -3.0], \"none\": [], "
        "\"report\": {\"layers\": [{\"name\": \"conv1\", \"w\": {\"bits\": 4}}, {}]}}");
    json_free(json);
    json_free(NULL);
    arena_free(arena);
}

static bool is_seen(void *context, const JsonMember *member) {
    double *sum = context;
    if (!strcmp(member->name, "a.b")) assert_true(member->type == JSON_INT && member->integer == 3);
    if (!strcmp(member->name, "a.c")) assert_true(member->type == JSON_NUMBER);
    *sum += member->number;
    return true;
}

/* A name with dots that is none of a path. */
static void test_members(void **state) {
    (void)state;
    Json *j = json_new();
    double sum = 0;
    json_set_member(j, "in.side", NULL, 0);
    assert_int_equal(json_type_at(j, "in.side"), JSON_MEMBERS);
    json_set_member(j, "in.side", "a.b", 3);
    json_set_member(j, "in.side", "a.c", 0.5);
    assert_true(json_each_member(j, "in.side", is_seen, &sum));
    assert_true(sum == 3.5);
    json_free(j);
}

static void test_set_replaces(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Json *json = json_new();
    json_set_int(json, "a", 1);
    json_set_int(json, "b", 2);
    json_set_int(json, "a", 3);
    json_set_int(json, "b.c", 4); /* a number gives way to an object */
    assert_string_equal(json_line(json, arena), "{\"a\": 3, \"b\": {\"c\": 4}}");
    json_set_text(json, "b", "x\377y"); /* not UTF-8 */
    assert_string_equal(json_get_text(json, "b"), "x?y");
    assert_string_equal(json_indented(json, arena), "{\n  \"a\": 3,\n  \"b\": \"x?y\"\n}\n");
    json_free(json);
    arena_free(arena);
}

static void test_get(void **state) {
    (void)state;
    Json *json = read_good("{\"a\": {\"b\": 1.5, \"i\": -9223372036854775808, \"t\": \"x\"}, "
                           "\"ok\": false, \"list\": [{\"n\": 1}, 2], \"null\": null}");
    double number = 7;
    int64_t whole = 7;
    bool flag = true;
    assert_true(json_get_number(json, "a.b", &number));
    assert_true(number == 1.5);
    assert_true(json_get_int(json, "a.i", &whole));
    assert_true(whole == INT64_MIN);
    assert_true(json_get_number(json, "a.i", &number));
    assert_true(number == -0x1p63);
    assert_true(json_get_bool(json, "ok", &flag));
    assert_false(flag);
    assert_string_equal(json_get_text(json, "a.t"), "x");
    assert_int_equal(json_count(json, "list"), 2);
    assert_true(json_get_int(json_element(json, "list", 0), "n", &whole));
    assert_int_equal(whole, 1);
    /* absent, or of another type */
    assert_null(json_element(json, "list", 1));
    assert_null(json_element(json, "list", 2));
    assert_null(json_element(json, "list", -1));
    assert_null(json_element(json, "a", 0));
    assert_int_equal(json_count(json, "a"), 0);
    assert_false(json_get_int(json, "a.b", &whole));
    assert_false(json_get_number(json, "a.t", &number));
    assert_false(json_get_number(json, "null", &number));
    assert_false(json_get_bool(json, "a", &flag));
    assert_false(json_get_number(json, "a.b.c", &number));
    assert_false(json_get_number(json, "x.y", &number));
    assert_null(json_get_text(json, "ok"));
    assert_int_equal(whole, 1);
    json_free(json);
}

/* Any finite double comes back with the same bits. */
static void test_numbers_round_trip(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    for (uint64_t i = 0; i < 2000; i++) {
        Random4 words = random_words((RandomKey){3, RANDOM_TEST, 0}, i);
        uint64_t bits = (uint64_t)words.word[0] << 32 | words.word[1];
        double value, again = 0;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        Json *json = json_new();
        json_set_number(json, "x", value);
        Json *read = read_good(json_line(json, arena));
        assert_true(json_get_number(read, "x", &again));
        assert_memory_equal(&again, &value, sizeof value);
        json_free(read);
        json_free(json);
    }
    arena_free(arena);
}

static void test_bad_text(void **state) {
    (void)state;
    static const struct {
        const char *text, *reason;
    } bad[] = {
        {"", "t:1:0: not valid JSON"},
        {"{", "t:1:1: not valid JSON"},
        {"[1]", "t: expected a JSON object"},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": NaN}", "not valid JSON"},
        {"{\"a\": \"\\u0000\"}", "not valid JSON"},
        {"{\"a\": \"\377\"}", "not valid JSON"},
        {"{a: 1}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error err = {0};
        assert_null(json_read_text(bad[i].text, strlen(bad[i].text), "t", &err));
        assert_int_equal(err.code, ERROR_INPUT);
        if (!strstr(err.message, bad[i].reason)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, bad[i].reason));
    }
    static char deep[100000];
    memset(deep, '[', sizeof deep);
    Error err = {0};
    assert_null(json_read_text(deep, sizeof deep, "t", &err));
    assert_non_null(strstr(err.message, "maximum parsing depth reached"));
}

static void test_files(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    char directory[] = "/tmp/test_json_XXXXXX";
    assert_non_null(mkdtemp(directory));
    const char *path = arena_format(arena, "%s/summary.json", directory);
    Json *json = json_new();
    Error err = {0};
    for (int i = 0; i < 3; i++) { /* the second and third replace */
        json_set_int(json, "steps", i);
        assert_true(text_write_json(json, path, &err));
        Json *again = json_read_file(path, &err);
        assert_non_null(again);
        int64_t steps = -1;
        assert_true(json_get_int(again, "steps", &steps));
        assert_int_equal(steps, i);
        json_free(again);
    }
    assert_int_equal(unlink(path), 0);
    assert_null(json_read_file(path, &err));
    assert_non_null(strstr(err.message, "No such file"));
    assert_int_equal(rmdir(directory), 0); /* nothing was left beside it */
    err = (Error){0};
    assert_false(text_write_json(json, path, &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_non_null(strstr(err.message, "cannot write"));
    err = (Error){0};
    assert_null(json_read_file("/tmp", &err));
    assert_non_null(strstr(err.message, "is a directory"));
    json_free(json);
    arena_free(arena);
}

/* A write that fails keeps the old file, and leaves nothing beside it. */
static void test_failed_write_keeps_old(void **state) {
    (void)state;
    char directory[] = "/tmp/test_json_XXXXXX";
    assert_non_null(mkdtemp(directory));
    Arena *arena = arena_new("test");
    const char *path = arena_format(arena, "%s/d", directory);
    assert_int_equal(mkdir(path, 0700), 0); /* cannot be replaced by a file */
    Error err = {0};
    assert_false(text_write(path, "x", &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(directory), 0);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dotted_names_nest),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_set_replaces),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_numbers_round_trip),
        cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_failed_write_keeps_old),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
