#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/json.h"
#include "experiments/report/chart.h"
#include "experiments/report/page.h"
#include "experiments/report/report.h"
#include "experiments/train/run.h"
#include "tests/html.h"

static char folder[64];
static Arena *arena;
static Error err;

static int setup(void **unused) {
    (void)unused;
    strcpy(folder, "/tmp/nibble-test-XXXXXX");
    arena = arena_new("test");
    err = (Error){0};
    return mkdtemp(folder) ? 0 : 1;
}

static int teardown(void **unused) {
    (void)unused;
    static const char *const names[] = {RUN_CONFIG, RUN_ENVIRONMENT, RUN_METRICS, RUN_SUMMARY,
                                        RUN_REPORT};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        unlink(arena_format(arena, "%s/%s", folder, names[i]));
        rmdir(arena_format(arena, "%s/%s", folder, names[i]));
    }
    arena_free(arena);
    return rmdir(folder);
}

static void put_bytes(const char *name, const char *text, size_t bytes) {
    FILE *file = fopen(arena_format(arena, "%s/%s", folder, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
}

static void put(const char *name, const char *text) {
    put_bytes(name, text, strlen(text));
}

static const char *report(void) {
    if (!report_write(folder, &task_classify, &err)) fail_msg("%s", err.message);
    FILE *file = fopen(arena_format(arena, "%s/%s", folder, RUN_REPORT), "rb");
    assert_non_null(file);
    char *text = arena_alloc(arena, 8 << 20);
    size_t bytes = fread(text, 1, (8 << 20) - 1, file);
    fclose(file);
    text[bytes] = '\0';
    return text;
}

static void put_sample(void) {
    put(RUN_CONFIG, "seed: 7\ndata: {path: \"/data/<b>&\"}\n");
    put(RUN_ENVIRONMENT, "{\"nibble\": {\"version\": \"9.8.7\"}, \"threads\": 2,"
                         " \"machine\": {\"memory_bytes\": 8589934592}}");
    put(RUN_SUMMARY,
        "{\"steps\": 4690, \"samples_per_second\": 2312.4, \"train_seconds\": 259.2,"
        " \"peak_rss_bytes\": 432013312, \"test\": {\"accuracy\": 0.9213, \"loss\": 0.2312},"
        " \"shadow\": {\"accuracy\": 0.9241}, \"quantized\": {\"accuracy\": 0.9213},"
        " \"model_bytes\": 1000000, \"quantized_bytes\": 125000,"
        " \"classes\": [\"cat\", \"<dog>\"], \"confusion\": [[90, 10], [0, 50]],"
        " \"layers\": [{\"name\": \"conv1\", \"bits\": 8, \"activation_bits\": 8,"
        " \"sqnr_db\": 41.2}, {\"name\": \"fc\", \"bits\": 4, \"sqnr_db\": null}]}");
    put(RUN_METRICS, "{\"step\": 1, \"loss\": 2.5, \"lr\": 0.1, \"samples_per_second\": 2000}\n"
                     "{\"step\": 2, \"loss\": null, \"lr\": 0.2, \"samples_per_second\": 2100}\n"
                     "{\"step\": 2, \"validation\": {\"loss\": 2, \"accuracy\": 0.5},"
                     " \"shadow\": {\"accuracy\": 0.75}}\n"
                     "{\"step\": 3, \"lo"); /* torn */
}

static void test_page_shows_what_is_known(void **unused) {
    (void)unused;
    put_sample();
    const char *html = report();
    assert_html(html);
    static const char *const expected[] = {
        "92.41%",
        "92.13%",
        "a diagnostic, no baseline",
        "1 MB",
        "125 kB",
        "125,000 bytes, 8.0 times smaller",
        "2,312",
        "4,690",
        "4.3 min",
        "loss 0.2312",
        "training, step 1: 2.5</title>",
        "as trained, step 2: 50%</title>",
        "shadow, step 2: 75%</title>",
        "could not be read: 1<",
        ("<th scope=\"row\">conv1</th><td class=\"n\">8</td><td class=\"n\">8</td>"
         "<td class=\"n bar\">41.2<i style=\"width:100.0%\"></i></td></tr>"),
        "10 of 100 (10.0%): cat taken for &lt;dog&gt;",
        "path: &quot;/data/&lt;b&gt;&amp;&quot;",
        "9.8.7",
        "8,589,934,592",
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (!strstr(html, expected[i])) fail_msg("not on the page: %s", expected[i]);
    }
    assert_int_equal(html_count(html, "class=\"dot s") - 6, /* of which are legends' */
                     1 + 1 + 2 + 2 + 2);                    /* one a value; a null is none */
    assert_null(strstr(html, "is missing"));
    assert_null(strstr(html, "<script"));
    assert_null(strstr(html, "http"));
    assert_null(strstr(html, "nan"));
}

/* Columns of which no layer knows anything are left out. */
static void test_layers_have_the_columns_that_are_known(void **unused) {
    (void)unused;
    put(RUN_SUMMARY, "{\"layers\": [{\"name\": \"a\", \"weight_bits\": 1.58, \"cosine\": 0.98765,"
                     " \"clipped_weight\": 0.0123, \"sqnr_db\": 10}, {\"name\": \"b\", \"bits\": 8,"
                     " \"cosine\": null, \"unused_codes_input\": 3, \"sqnr_db\": 40}]}");
    const char *html = report();
    assert_html(html);
    assert_non_null(strstr(html, "<th scope=\"row\">a</th><td class=\"n\">1.58</td>"
                                 "<td class=\"n bar\">10.0<i style=\"width:25.0%\"></i></td>"
                                 "<td class=\"n\">0.9877</td><td class=\"n\">1.23</td>"
                                 "<td class=\"n\">\xe2\x80\x93</td></tr>"));
    assert_non_null(strstr(html, "Clipped weights, %</th>"));
    assert_non_null(strstr(html, "Unused input codes</th>"));
    assert_null(strstr(html, "Clipped inputs"));
    assert_null(strstr(html, "Activation bits"));
}

static void test_same_files_same_bytes(void **unused) {
    (void)unused;
    put_sample();
    const char *first = report();
    assert_string_equal(first, report());
    char *slash = arena_format(arena, "%s/", folder);
    assert_true(
        report_write(slash, &task_classify, &err)); /* and the path's spelling does not matter */
    assert_string_equal(first, report());
    assert_null(strstr(first, "/tmp/"));
}

static void test_missing_files_are_told(void **unused) {
    (void)unused;
    const char *html = report();
    assert_html(html);
    static const char *const names[] = {RUN_CONFIG, RUN_ENVIRONMENT, RUN_METRICS, RUN_SUMMARY};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_non_null(strstr(html, arena_format(arena, "%s is missing.", names[i])));
    }
}

static void test_damaged_files_are_told(void **unused) {
    (void)unused;
    put(RUN_SUMMARY, "{\"steps\": 3,,}");
    put(RUN_ENVIRONMENT, "[]");
    put(RUN_METRICS, "");
    assert_int_equal(mkdir(arena_format(arena, "%s/%s", folder, RUN_CONFIG), 0700), 0);
    const char *html = report();
    assert_html(html);
    assert_non_null(strstr(html, "summary.json:1:"));
    assert_non_null(strstr(html, "env.json: expected a JSON object"));
    assert_non_null(strstr(html, ">config.yaml is a directory")); /* without the folder's name */
    assert_int_equal(html_count(html, "No values."), 4);
}

/* Nothing that a file says may become an element, and no value may break a number's text. */
static void test_hostile_files_are_harmless(void **unused) {
    (void)unused;
    put(RUN_SUMMARY, "{\"steps\": 1e300, \"model_bytes\": -5, \"quantized_bytes\": 0,"
                     " \"shadow\": {\"accuracy\": 0}, \"quantized\": {\"accuracy\": \"<b>\"}, "
                     "\"train_seconds\": 1e308,"
                     " \"classes\": [1, \"<script>\"], \"confusion\": [[1, 2], [3, -4]],"
                     " \"layers\": [7, {}, {\"name\": \"\\\"><script>\", \"bits\": -1e300,"
                     " \"sqnr_db\": 1e300}]}");
    static const char metrics[] = "{\"step\": 1e308, \"loss\": 1}\n"
                                  "{\"step\": -3, \"loss\": 1e308}\n"
                                  "{\"step\": \"x\"}\n\n"
                                  "\0{\"step\": 5}\n";
    put_bytes(RUN_METRICS, metrics, sizeof metrics - 1);
    put(RUN_CONFIG, "</pre><script>alert('\x1b\x01')</script>\xff\xc0\x80\xed\xa0\x80\xc3\xa9");
    const char *html = report();
    assert_html(html);
    assert_null(strstr(html, "<script"));
    assert_non_null(strstr(html, "no square of counts"));
    assert_non_null(strstr(html, "alert(&#39;\\x1b\\x01&#39;)"));
    /* the six bytes that are no UTF-8, and the e acute as it is */
    assert_non_null(strstr(html, "&lt;/script&gt;\\xff\\xc0\\x80\\xed\\xa0\\x80\xc3\xa9"));
}

static void test_long_runs_stay_small(void **unused) {
    (void)unused;
    enum { LINES = 20000 };
    FILE *file = fopen(arena_format(arena, "%s/%s", folder, RUN_METRICS), "wb");
    assert_non_null(file);
    for (int i = 1; i <= LINES; i++) {
        fprintf(file, "{\"step\": %d, \"loss\": %d, \"lr\": 1e-5, \"samples_per_second\": 10}\n", i,
                i % 2 ? 3 : 5);
    }
    fclose(file);
    const char *html = report();
    assert_html(html);
    assert_true(strlen(html) < 100000);
    assert_non_null(strstr(html, "<polygon class=\"band s0\"")); /* from 3 to 5 */
    assert_non_null(strstr(html, ">20,000</text>"));
}

static void test_confusion_draws_every_count(void **unused) {
    (void)unused;
    enum { CLASSES = 30 };
    Json *json = json_new();
    for (int row = 0; row < CLASSES; row++) {
        int64_t values[CLASSES] = {0};
        values[row] = 9;
        values[(row + 1) % CLASSES] = 1;
        json_append_ints(json, "confusion", values, CLASSES);
    }
    put(RUN_SUMMARY, json_indented(json, arena));
    json_free(json);
    const char *html = report();
    assert_html(html);
    assert_int_equal(html_count(html, "class=\"cell\""), 2 * CLASSES);
    assert_int_equal(html_count(html, "9 of 10 (90.0%)"), CLASSES);
    assert_non_null(strstr(html, "29 taken for 0\"")); /* classes without names are numbers */
}

static void test_directory_must_be_there(void **unused) {
    (void)unused;
    assert_false(report_write(arena_format(arena, "%s/none", folder), &task_classify, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "no run directory"));
    put(RUN_CONFIG, "seed: 1\n");
    err = (Error){0};
    assert_false(
        report_write(arena_format(arena, "%s/%s", folder, RUN_CONFIG), &task_classify, &err));
    assert_non_null(strstr(err.message, "is not a run directory"));
}

static void test_counts_are_grouped(void **unused) {
    (void)unused;
    static const struct {
        int64_t count;
        const char *text;
    } rows[] = {{0, "0"},        {999, "999"},
                {1000, "1,000"}, {-123456, "-123,456"},
                {-12, "-12"},    {1234567890, "1,234,567,890"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Page page = {.arena = arena};
        page_count(&page, rows[i].count);
        assert_string_equal(page.text, rows[i].text);
    }
}

/* Ticks lie on round values, inside the plot, whatever the range. */
static void test_ticks_are_round(void **unused) {
    (void)unused;
    static const struct {
        double low, high;
        const char *ticks[3];
    } rows[] = {{0, 0.003, {">0.000<", ">0.001<", ">0.003<"}},
                {84.7, 92.6, {">84<", ">90<", ">94<"}},
                {-1, 1, {">-1.0<", ">0.0<", ">1.0<"}},
                {1e-7, 4e-7, {">1e-07<", ">2e-07<", ">4e-07<"}},
                {1e-16, 3e-16, {">1e-16<", ">2e-16<", ">3e-16<"}},
                {5, 5, {">4.8<", ">5.0<", ">5.2<"}},
                {0, 0, {">-1.0<", ">0.0<", ">1.0<"}},
                {2e6, 9e6, {">2,000,000<", ">6,000,000<", ">10,000,000<"}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double x[2] = {1, 2}, y[2] = {rows[i].low, rows[i].high};
        Series series = {.name = "y", .count = 2, .x = x, .y = y};
        LineChart chart = {.title = "y", .suffix = "", .series_count = 1, .series = &series};
        Page page = {.arena = arena};
        chart_lines(&page, &chart);
        assert_html(page.text);
        assert_in_range(html_count(page.text, "class=\"grid\""), 3, 12);
        for (int k = 0; k < 3; k++) {
            if (!strstr(page.text, rows[i].ticks[k]))
                fail_msg("row %zu has no tick %s:\n%s", i, rows[i].ticks[k], page.text);
        }
    }
}

/* Of lines that train.shadow_every left; of many layers those with the lowest SQNR at the end, and
 * a line that is cut short ends nothing. */
static void test_shadow_curves(void **unused) {
    (void)unused;
    put_sample();
    assert_null(strstr(report(), "KL from the shadow"));
    put(RUN_METRICS,
        "{\"step\":5,\"epoch\":1,\"shadow\":{\"kl\":0.25,\"changed\":1,\"outputs\":64,\"layers\":["
        "{\"name\":\"<a>\",\"sqnr_db\":20.5},{\"name\":\"b\",\"sqnr_db\":null}]}}\n"
        "{\"step\":10,\"epoch\":1,\"shadow\":{\"kl\":0.125,\"changed\":1,\"outputs\":64,\"layers\":"
        "["
        "{\"name\":\"<a>\",\"sqnr_db\":21.5},{\"name\":\"b\",\"sqnr_db\":12.25}]}}\n"
        "{\"step\":15,\"epoch\":1,\"shadow\":{\"kl\":0.1,");
    const char *html = report();
    assert_html(html);
    static const char *const expected[] = {
        "KL from the shadow (nats)",       "KL, step 5: 0.25</title>",
        "KL, step 10: 0.125</title>",      "SQNR of each layer (dB)<",
        "&lt;a&gt;, step 5: 20.5</title>", "&lt;a&gt;, step 10: 21.5</title>",
        "b, step 10: 12.25</title>"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(html, expected[i])) fail_msg("not on the page: %s", expected[i]);
    const char *layers = "";
    for (int i = 0; i < 10; i++)
        layers = arena_format(arena, "%s%s{\"name\":\"layer%d\",\"sqnr_db\":%d}", layers,
                              i ? "," : "", i, 30 - (i + 3) % 10);
    put(RUN_METRICS,
        arena_format(arena, "{\"step\":5,\"shadow\":{\"kl\":0.25,\"layers\":[%s]}}\n", layers));
    html = report();
    assert_true(strstr(html, "(dB), the 8 lowest of 10 at the end") != NULL);
    for (int i = 0; i < 10; i++) { /* the seventh has 30 dB, the eighth 29 */
        bool is_there = strstr(html, arena_format(arena, "layer%d, step 5: ", i)) != NULL;
        assert_int_equal(is_there, i != 7 && i != 8);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_page_shows_what_is_known, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shadow_curves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layers_have_the_columns_that_are_known, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_same_files_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_files_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_files_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_files_are_harmless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_runs_stay_small, setup, teardown),
        cmocka_unit_test_setup_teardown(test_confusion_draws_every_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directory_must_be_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_counts_are_grouped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ticks_are_round, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
