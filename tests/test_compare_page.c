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
#include "data/images.h"
#include "experiments/compare/page.h"
#include "experiments/report/image.h"
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
    int status = system(arena_format(arena, "rm -rf '%s'", folder));
    arena_free(arena);
    return status;
}

static void put(const char *name, const char *text) {
    char *path = arena_strdup(arena, arena_format(arena, "%s/%s", folder, name));
    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    fclose(file);
}

static const char *page(void) {
    if (!comparison_page_write(folder, &err)) fail_msg("%s", err.message);
    FILE *file = fopen(arena_format(arena, "%s/report.html", folder), "rb");
    assert_non_null(file);
    char *text = arena_alloc(arena, 8 << 20);
    size_t bytes = fread(text, 1, (8 << 20) - 1, file);
    fclose(file);
    text[bytes] = '\0';
    assert_html(text);
    return text;
}

static void assert_says(const char *html, const char *part) {
    if (!strstr(html, part)) fail_msg("not on the page: %s", part);
}

/* Nothing is fetched and nothing runs: what an element could load comes with the page. */
static void assert_alone(const char *html) {
    static const char *const loading[] = {"http", "@import", "url(", "<script", "<link", "<iframe"};
    for (size_t i = 0; i < sizeof loading / sizeof *loading; i++)
        if (strstr(html, loading[i])) fail_msg("on the page: %s", loading[i]);
    for (const char *at = strstr(html, "src="); at; at = strstr(at + 1, "src="))
        assert_memory_equal(at, "src=\"data:image/png;base64,", 27);
    for (const char *at = strstr(html, "href="); at; at = strstr(at + 1, "href="))
        assert_memory_equal(at, "href=\"#", 7);
}

/* Two seeds of FP32, PTQ and QAT at 4 bits, two classes, two test images. */
#define RUN(row, method, bits, seed)                                                               \
    "{\"row\": \"" row "\", \"run\": \"" row "-s" #seed "\", \"method\": \"" method                \
    "\", \"weight_bits\": " #bits ", \"seed\": " #seed "}"

static const char complete[] =
    "{\"machine\": {\"cpu\": \"CPU <9000>\", \"cores\": 2, \"memory_bytes\": 8589934592},"
    " \"seconds\": 600, \"is_complete\": true, \"model\": \"cnn\","
    " \"data\": {\"name\": \"f&mnist\", \"test_rows\": 2, \"classes\": [\"cat\", \"<dog>\"]},"
    " \"rows\": [" RUN("fp32", "fp32", 32, 1) "," RUN("fp32", "fp32", 32, 2) "," RUN(
        "ptq-w4a4", "ptq", 4,
        1) "," RUN("qat-w4a4", "qat", 4,
                   1) "," RUN("qat-w4a4", "qat", 4,
                              2) "],"
                                 " \"groups\": [{\"row\": \"qat-w4a4\", \"label\": \"QAT W4A4\", "
                                 "\"method\": \"qat\","
                                 " \"weight_bits\": 4, \"activation_bits\": 4, \"seeds\": 2,"
                                 " \"accuracy\": {\"mean\": 0.9212, \"low\": 0.9192, \"high\": "
                                 "0.9232},"
                                 " \"difference\": {\"mean\": -0.0012, \"low\": -0.0031, \"high\": "
                                 "0.0007},"
                                 " \"kl\": 0.0123, \"mcnemar\": {\"better\": 33, \"worse\": 44, "
                                 "\"p\": 0.25}, "
                                 "\"recovered\": 0.97,"
                                 " \"bits_per_weight\": 4.25, \"bytes\": 58300, \"train_seconds\": "
                                 "258},"
                                 " {\"row\": \"fp32\", \"label\": \"FP32\", \"method\": \"fp32\", "
                                 "\"weight_bits\": 32,"
                                 " \"activation_bits\": 32, \"seeds\": 2, \"accuracy\": {\"mean\": "
                                 "0.9224, \"low\": 0.92,"
                                 " \"high\": 0.9248}, \"bits_per_weight\": 32, \"bytes\": 430000, "
                                 "\"train_seconds\": 100},"
                                 " {\"row\": \"ptq-w4a4\", \"label\": \"PTQ W4A4\", \"method\": "
                                 "\"ptq\", \"weight_bits\": 4,"
                                 " \"activation_bits\": 4, \"seeds\": 1, \"accuracy\": {\"mean\": "
                                 "0.41, \"low\": null,"
                                 " \"high\": null}, \"difference\": {\"mean\": -0.5124}, "
                                 "\"bits_per_weight\": 4.25,"
                                 " \"bytes\": 58300}]}";

static const char evaluated[] =
    "{\"changed\": 1, \"predictions\": [0, 1], \"confusion\": [[90, 10], [0, 50]],"
    " \"layers\": [{\"name\": \"conv1\", \"sqnr_db\": 31.4}, {\"name\": \"head_1.fc\", "
    "\"sqnr_db\": 12.5, "
    "\"cosine\": 0.75},"
    " {\"name\": \"exact\", \"sqnr_db\": null}],"
    " \"histograms\": [{\"layer\": \"conv1\", \"of\": \"weight\", \"low\": -2, \"high\": 2,"
    " \"counts\": [1, 4, 9, 16], \"grid\": [-1, 0, 1]}],"
    " \"activations_of\": \"the first 64 test images\","
    " \"examples\": [{\"index\": 1, \"label\": 0, \"height\": 2, \"width\": 2, \"channels\": 1,"
    " \"pixels\": [0, 255, 128, 7]}]}";

static void put_complete(void) {
    put("results.json", complete);
    put("config.yaml", "seeds: [1, 2] # <b>\n");
    put("evaluations/fp32-s1.json", "{\"predictions\": [0, 0], \"confusion\": [[95, 5], [1, 49]]}");
    put("evaluations/qat-w4a4-s1.json", evaluated);
    put("runs/fp32-s1/metrics.jsonl", "{\"step\": 10, \"loss\": 0.5}\n"
                                      "{\"step\": 20, \"validation\": {\"accuracy\": 0.5}}\n");
    put("runs/fp32-s2/metrics.jsonl", "{\"step\": 10, \"loss\": 0.7}\n"
                                      "{\"step\": 20, \"validation\": {\"accuracy\": 0.75}}\n");
    put("runs/qat-w4a4-s1/metrics.jsonl", "{\"step\": 10, \"loss\": 0.25}\n{\"st");
}

static void test_page_has_each_part(void **unused) {
    (void)unused;
    put_complete();
    const char *html = page();
    static const char *const parts[] = {
        "<h1>cnn on f&amp;mnist, quantized</h1>",
        /* the sentence */
        "<strong>QAT W4A4</strong> reaches 92.12&#8239;%, 0.12 points below FP32 (95 % interval "
        "\xe2\x88\x92"
        "0.31 to +0.07), with 4.25 bits per weight: 58.3 kB instead of 430 kB.",
        "Fewest bits without training</dt><dd>none",
        "Layer that loses most</dt><dd>head_<wbr/>1.<wbr/>fc<small>12.5 dB",
        /* the table */
        "92.12 <small>\xc2\xb1&#8239;0.20</small>",
        "97&#8239;%",
        "4.25</td><td class=\"n\">58.3 kB</td><td class=\"n\">4.3 min</td>",
        /* charts */
        "Test accuracy (%) by weight bits",
        "<title>QAT W4A4: 92.12\xe2\x80\xaf% (91.92 to 92.32), 4.25 bits per weight, 58.3 kB",
        ">41</text>", /* what lies below */
        "Test accuracy (%) by size",
        ">100 kB</text>",
        /* layers and histograms */
        ">31.4</td>",
        "<th scope=\"row\">exact</th><td class=\"n heat\" style=\"--v:0%\">\xe2\x80\x93</td>",
        "<th scope=\"row\">head_1.fc</th><td class=\"n bar\">12.5<i style=\"width:39.8%\"></i></td>"
        "<td class=\"n\">0.7500</td>",
        "conv1, weight",
        "3 values",
        "M250.0 0V1000M500.0 0V1000M750.0 0V1000", /* the grid */
        "the first 64 test images",
        /* training: the mean of 0.5 and 0.75 */
        "FP32: 0.6 at the end",
        "QAT W4A4: 0.25 at the end",
        /* changes */
        ">1</td><td class=\"n\">44</td><td class=\"n\">33</td><td class=\"n\">0.250</td>"
        "<td class=\"n\">0.0123</td>",
        "alt=\"Test image 1\" width=\"2\" height=\"2\" src=\"data:image/png;base64,iVBORw0KGgo",
        "<dt>FP32</dt><dd class=\"right\">cat",
        "<dt>QAT W4A4</dt><dd class=\"wrong\">&lt;dog&gt;",
        "5 of 100 (5.0%): cat taken for &lt;dog&gt;",
        "10 of 100 (10.0%): cat taken for &lt;dog&gt;",
        /* machine and settings */
        "CPU &lt;9000&gt;",
        "8,589,934,592",
        "10.0 min",
        "<pre>seeds: [1, 2] # &lt;b&gt;\n</pre>",
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_says(html, parts[i]);
    assert_null(strstr(html, "not complete"));
    assert_null(strstr(html, "nan"));
    assert_null(strstr(html, folder));
    assert_alone(html);
    assert_string_equal(html, page()); /* the same files, the same bytes */
}

/* Rows of the same bits stand together, FP32 first, whatever the order of the file. */
static void test_rows_stand_by_bits(void **unused) {
    (void)unused;
    put_complete();
    const char *table = strstr(page(), "<table class=\"results\">");
    const char *fp32 = strstr(table, ">FP32</span>"), *qat = strstr(table, ">QAT W4A4</span>");
    const char *ptq = strstr(table, ">PTQ W4A4</span>");
    assert_true(fp32 && fp32 < qat && qat < ptq);
    const char *end = strstr(table, "</table>");
    int bodies = 0;
    for (const char *at = strstr(table, "<tbody>"); at && at < end; at = strstr(at + 1, "<tbody>"))
        bodies++;
    assert_int_equal(bodies, 2);
}

/* Of rows with the same bits within half a point, the best is the one to show. */
static void test_the_best_of_the_smallest_is_chosen(void **unused) {
    (void)unused;
#define ROW(row, method, bits, accuracy, difference)                                               \
    ", {\"row\": \"" row "\", \"label\": \"" row "\", \"method\": \"" method                       \
    "\", \"weight_bits\": 4, \"bits_per_weight\": " #bits ", \"accuracy\": {\"mean\": " #accuracy  \
    "}, \"difference\": {\"mean\": " #difference "}, \"mcnemar\": {\"better\": 1, \"worse\": 2,"   \
    " \"p\": 1e-9}}"
    put("results.json",
        "{\"groups\": [{\"row\": \"fp32\", \"method\": \"fp32\", \"accuracy\": {\"mean\": "
        "0.9}}" ROW("ptq", "ptq", 4.5, 0.896, -0.004) ROW("qat", "qat", 4.5, 0.899, -0.001)
            ROW("large", "qat", 8, 0.91, 0.01) ROW("small", "qat", 2, 0.89, -0.01) "]}");
    const char *html = page();
    assert_says(html, "<strong>qat</strong> reaches 89.90&#8239;%, 0.10 points below FP32, with");
    assert_says(html, "Fewest bits without training</dt><dd>ptq");
    assert_says(html, "<td class=\"n\">&lt;&#8239;0.001</td>");
}

static void test_what_is_left_is_told(void **unused) {
    (void)unused;
    put("results.json",
        "{\"is_complete\": false, \"planned\": [\"fp32-s1\", \"<qat>\", \"x\"],"
        " \"rows\": [" RUN(
            "fp32", "fp32", 32,
            1) "], "
               " \"failed\": [{\"run\": \"<qat>\", \"reason\": \"the disk is full\"}],"
               " \"groups\": [{\"row\": \"later\", \"label\": \"Later\", \"method\":"
               " \"qat\", \"seeds\": 0}]}");
    const char *html = page();
    assert_says(html, "No run is complete yet.");
    assert_says(html, "Still to come: &lt;qat&gt;, x (2 of 3 runs).");
    assert_says(html, "<li>&lt;qat&gt;: the disk is full</li>");
    assert_says(html, "config.yaml is missing.");
    assert_null(strstr(html, "id=\"layers\""));
    assert_null(strstr(html, "href=\"#layers\""));
    put("results.json", "{\"groups\": [{\"row\": \"fp32\", \"label\": \"FP32\", \"method\":"
                        " \"fp32\", \"accuracy\": {\"mean\": 0.5}}]}");
    assert_says(page(), "FP32 reaches 50.00&#8239;%; no quantized network is complete yet.");
    put("results.json", "{\"groups\": [{\"row\": \"q\", \"label\": \"Q\", \"method\": \"qat\","
                        " \"accuracy\": {\"mean\": 0.5}}]}");
    assert_says(page(), "that the others are compared with is not there yet.");
}

static void test_one_seed_has_no_interval(void **unused) {
    (void)unused;
    put("results.json",
        "{\"is_complete\": true, \"groups\": [{\"row\": \"fp32\", \"label\": \"FP32\", \"method\":"
        " \"fp32\", \"weight_bits\": 32, \"seeds\": 1, \"accuracy\": {\"mean\": 0.5}}, {\"row\":"
        " \"q\", \"label\": \"Q\", \"method\": \"qat\", \"weight_bits\": 1.58, \"seeds\": 1,"
        " \"accuracy\": {\"mean\": 0.4, \"low\": null, \"high\": null},"
        " \"difference\": {\"mean\": -0.1, \"low\": null}}]}");
    const char *html = page();
    assert_says(html, "Nothing quantized stays within half a point of FP32. Closest: "
                      "<strong>Q</strong> reaches 40.00&#8239;%, 10.00 points below FP32.");
    assert_says(html, "One seed: there are no intervals.");
    assert_null(strstr(html, "Trained for"));
    assert_says(html, ">1.58</text>");
    assert_null(strstr(html, "#cap\"")); /* no whiskers */
    assert_null(strstr(html, "nan"));
    put("results.json", "{\"groups\": [{\"row\": \"q\", \"method\": \"qat\", \"difference\":"
                        " {\"mean\": -0.1, \"low\": -0.11, \"high\": -0.09, \"paired_by\":"
                        " \"row\"}}]}");
    html = page();
    assert_says(html, "paired by test image");
    assert_says(html, "10.00 <small>\xe2\x88\x92"
                      "11.00 to \xe2\x88\x92"
                      "9.00");
    put("results.json", "{\"rows\": [{\"epochs\": 0.5}, {\"epochs\": 0.5}], \"groups\":"
                        " [{\"row\": \"q\", \"method\": \"qat\"}]}");
    assert_says(page(), "Trained for 0.5 epochs. One seed");
    put("results.json", "{\"rows\": [{\"epochs\": 0.5}, {\"epochs\": 1}], \"groups\":"
                        " [{\"row\": \"q\", \"method\": \"qat\"}]}");
    assert_null(strstr(page(), "Trained for"));
}

/* Nothing that a file says may become an element or lead out of the directory, and no value may
 * break a number's text. */
static void test_hostile_files_are_harmless(void **unused) {
    (void)unused;
    put("results.json",
        "{\"model\": \"<script>\", \"data\": {\"name\": 3, \"classes\": [\"\\\"><script>\"]},"
        " \"rows\": [1, {}, {\"row\": \"<i>\", \"run\": \"../../x\"},"
        " {\"row\": \"sub\", \"run\": \"sub/b\"},"
        " {\"row\": \"<i>\", \"run\": \"a\", \"seed\": \"one\"}],"
        " \"groups\": [null, 7, {}, {\"row\": \"<i>\", \"label\": \"<script>%s%n\", \"method\":"
        " \"<u>\", \"weight_bits\": 1e308, \"activation_bits\": -1e308, \"seeds\": 1e300,"
        " \"accuracy\": {\"mean\": 1e308, \"low\": -1e308, \"high\": 1e308}, \"difference\":"
        " {\"mean\": -1e308, \"low\": 5}, \"bytes\": 1e308, \"train_seconds\": 1e308,"
        " \"bits_per_weight\": 1e300, \"recovered\": 1e306, \"mcnemar\": 4},"
        " {\"row\": \"sub\", \"method\": \"qat\"},"
        " {\"row\": \"fp32\", \"method\": \"fp32\", \"accuracy\": {\"mean\": 0.5}}]}");
    put("evaluations/sub/b.json", "{\"layers\": [{\"name\": \"elsewhere\"}]}");
    put("evaluations/a.json",
        "{\"changed\": 1e300, \"predictions\": [\"x\", -5, 99], \"confusion\": [[1, 2], [-3]],"
        " \"layers\": [3, {}, {\"name\": \"<script>\", \"sqnr_db\": 1e300}],"
        " \"histograms\": [5, {}, {\"layer\": \"<script>\", \"low\": 3, \"high\": 1, \"counts\":"
        " [1]}, {\"low\": 0, \"high\": 1, \"counts\": [-5, \"x\", 1e300], \"grid\": [5, 6, 7]}],"
        " \"examples\": [{\"index\": 2, \"label\": 0, \"height\": 1, \"width\": 1, \"channels\": 1,"
        " \"pixels\": [1e300]}, {\"index\": 2, \"label\": 0, \"height\": 1, \"width\": 1,"
        " \"channels\": 1, \"pixels\": [255]}, {\"index\": 1, \"label\": 0, \"height\": 100000, "
        "\"width\": 100000,"
        " \"channels\": 3, \"pixels\": []}, {\"index\": -1}, {\"index\": 99999999999999}]}");
    put("runs/a/metrics.jsonl",
        "{\"step\": 1e308, \"loss\": 1e308}\n{\"step\": -1, \"loss\": 2}\n");
    const char *html = page();
    assert_alone(html);
    assert_null(strstr(html, "<i>"));
    assert_null(strstr(html, "nan"));
    assert_null(strstr(html, ":inf"));
    assert_says(html, "&lt;script&gt;%s%n");
    assert_null(strstr(html, "elsewhere"));
    const char *first = strstr(html, "src="), *second = strstr(first + 1, "src=");
    assert_memory_equal(first, second, 117); /* 1e300 is as white as 255 */
}

/* Sizes that are none have no axis. */
static void test_rows_without_sizes(void **unused) {
    (void)unused;
    put("results.json",
        "{\"groups\": [{\"row\": \"a\", \"method\": \"qat\", \"label\": \"QAT W4A4\", "
        "\"weight_bits\": 4, \"activation_bits\": 4, \"seeds\": 1, \"bytes\": -1, "
        "\"accuracy\": {\"mean\": 0.5}}]}");
    assert_alone(page());
}

/* More runs than there can be would take for ever. */
static void test_too_many_runs(void **unused) {
    (void)unused;
    char *text = arena_alloc(arena, 1 << 20), *at = text + sprintf(text, "{\"groups\": [{}");
    for (int i = 0; i < 10000; i++) at = stpcpy(at, ",{}");
    strcpy(at, "]}");
    put("results.json", text);
    assert_false(comparison_page_write(folder, &err));
    assert_non_null(strstr(err.message, "results.json: has more than 10000 runs"));
}

/* What is compared with a run is the FP32 run of its seed. */
static void test_seeds_are_paired(void **unused) {
    (void)unused;
    put_complete();
    assert_int_equal(unlink(arena_format(arena, "%s/evaluations/qat-w4a4-s1.json", folder)), 0);
    put("evaluations/qat-w4a4-s2.json", evaluated);
    put("evaluations/fp32-s2.json", "{\"predictions\": [0, 0], \"confusion\": [[7, 1], [2, 6]]}");
    const char *html = page();
    assert_says(html, "7 of 8 (87.5%): cat");
    assert_null(strstr(html, "95 of 100"));
    assert_int_equal(unlink(arena_format(arena, "%s/evaluations/fp32-s2.json", folder)), 0);
    assert_says(page(), "95 of 100"); /* or, while it is not there, of another */
}

static void test_damaged_results_are_named(void **unused) {
    (void)unused;
    assert_false(comparison_page_write(folder, &err));
    assert_non_null(strstr(err.message, "results.json"));
    put("results.json", "{\"rows\": [1,,]}");
    err = (Error){0};
    assert_false(comparison_page_write(folder, &err));
    assert_non_null(strstr(err.message, "results.json:1:"));
    /* an evaluation that is damaged is none */
    put_complete();
    put("evaluations/qat-w4a4-s1.json", "{");
    const char *html = page();
    assert_null(strstr(html, "id=\"layers\""));
    assert_says(html, "FP32</caption>");
}

static void test_many_classes_fit(void **unused) {
    (void)unused;
    enum { CLASSES = 100 };
    Json *json = json_new();
    for (int row = 0; row < CLASSES; row++) {
        int64_t values[CLASSES] = {0};
        values[row] = 9;
        values[(row + 1) % CLASSES] = 1;
        json_append_ints(json, "confusion", values, CLASSES);
    }
    put_complete();
    put("evaluations/fp32-s1.json", json_indented(json, arena));
    const char *html = page();
    assert_says(html, "9 of 10 (90.0%): cat recognised as cat");
    assert_says(html, "1 of 10 (10.0%): 99 taken for cat"); /* 99 has no name */
    assert_true(strlen(html) < 400000);
    json_free(json);
}

/* A curve joins rows that differ in bits alone, and treat activations alike. */
static void test_curves_follow_activations(void **unused) {
    (void)unused;
#define GROUP(label, weight, activation, accuracy)                                                 \
    ", {\"row\": \"x\", \"label\": \"" label "\", \"method\": \"qat\", \"weight_bits\": " #weight  \
    ", \"activation_bits\": " #activation ", \"accuracy\": {\"mean\": " #accuracy "}}"
    put("results.json", "{\"groups\": [{\"method\": \"fp32\"}" GROUP("QAT W4A4", 4, 4, 0.9)
                            GROUP("QAT W8A8", 8, 8, 0.91) "]}");
    assert_says(page(), "</svg>QAT</span>");
    put("results.json", "{\"groups\": [{\"method\": \"fp32\"}" GROUP("QAT W4A4", 4, 4, 0.9)
                            GROUP("QAT W8A8", 8, 8, 0.91) GROUP("QAT W1.58A8", 1.58, 8, 0.89)
                                GROUP("QAT W4", 4, 32, 0.92) GROUP("my own W4A4", 4, 4, 0.93)
                                    GROUP("odd", 2, 2, 0.94) "]}");
    const char *html = page();
    assert_says(html, "QAT, activations as weights: QAT W4A4: 90.00\xe2\x80\xaf%. "
                      "QAT W8A8: 91.00\xe2\x80\xaf%. QAT, ");
    assert_says(html, "QAT, weights only: QAT W4: ");
    assert_says(html, "QAT, 8-bit activations: QAT W1.58A8: 89.00\xe2\x80\xaf%. "
                      "QAT W8A8: 91.00\xe2\x80\xaf%. ");
    assert_says(html, "my own: my own W4A4: 93.00");
    assert_says(html, "qat: odd: 94.00");
    assert_says(html, "class=\"dot s1\"");
    assert_says(html, "class=\"dot s2\"");
    assert_null(strstr(html, "class=\"dot s3\""));
}

/* Bits that were chosen layer by layer have no number; their mean says where they lie. */
static void test_chosen_bits_lie_by_their_mean(void **unused) {
    (void)unused;
#define CHOSEN(label, mean, accuracy)                                                              \
    ", {\"row\": \"x\", \"label\": \"" label "\", \"method\": \"qat\", \"weight_bits\": null, "    \
    "\"activation_bits\": null, \"bits_per_weight\": " #mean                                       \
    ", \"accuracy\": {\"mean\": " #accuracy "}}"
    put("results.json",
        "{\"groups\": [{\"method\": \"fp32\", \"weight_bits\": 32}" GROUP("QAT W4A4", 4, 4, 0.9)
            GROUP("QAT W8A8", 8, 8, 0.91) GROUP("QAT W4", 4, 32, 0.89) CHOSEN("QAT AUTO", 5, 0.905)
                CHOSEN("QAT few AUTO", 3, 0.88) "]}");
    const char *html = page();
    assert_says(html, "QAT, activations as weights: QAT W4A4: 90.00\xe2\x80\xaf%. QAT AUTO: "
                      "90.50\xe2\x80\xaf%, 5.00 bits per weight. QAT W8A8: ");
    assert_says(html, "QAT few: QAT few AUTO: 88.00\xe2\x80\xaf%, 3.00 bits per weight.");
}

/* What a layer costs in the FP32 network; the ground is the root of its share of the largest. */
static void test_costs_of_layers(void **unused) {
    (void)unused;
    put_complete();
    assert_null(strstr(page(), "id=\"costs\""));
    put("evaluations/fp32-s2.json",
        "{\"costs_rows\": 512, \"costs_bits\": [4, 2], \"costs\": [{\"layer\": \"<a>\", "
        "\"parameters\": 1234, \"kl\": [0.01, 0.04]}, {\"layer\": \"b\", \"parameters\": 5, "
        "\"kl\": [null, 0]}]}");
    const char *html = page();
    assert_html(html);
    assert_says(html, "over 512 validation images");
    assert_says(html, "<th scope=\"col\" class=\"n\"><span>2 bits</span></th></tr>");
    assert_says(html, "<th scope=\"row\">&lt;a&gt;</th><td class=\"n\">1234</td>"
                      "<td class=\"n heat\" style=\"--v:31%\">0.01000</td>"
                      "<td class=\"n heat\" style=\"--v:62%\">0.04000</td></tr>");
    assert_says(html, "<th scope=\"row\">b</th><td class=\"n\">5</td>"
                      "<td class=\"n heat\" style=\"--v:0%\">\xe2\x80\x93</td>"
                      "<td class=\"n heat\" style=\"--v:0%\">0.00000</td></tr>");
    assert_says(html, "<a href=\"#costs\">Costs</a>");
}

/* What image_png writes is read by libpng as it was. */
static void test_images_are_png(void **unused) {
    (void)unused;
    for (int channels = 1; channels <= 3; channels += 2) {
        uint8_t pixels[5 * 7 * 3];
        for (int i = 0; i < 5 * 7 * channels; i++) pixels[i] = (uint8_t)(i * 37 + channels);
        Image image = {5, 7, channels, pixels};
        size_t bytes;
        const uint8_t *png = image_png(&image, &bytes, arena);
        ImagesRequest request = {.size = SHAPE(5, 7, channels), .type = PIXEL_U8};
        Images read;
        if (!png_read("image", png, bytes, &request, arena, &read, &err))
            fail_msg("%s", err.message);
        assert_int_equal(read.count, 1);
        assert_memory_equal(read.pixels, pixels, (size_t)(5 * 7 * channels));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_page_has_each_part, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_stand_by_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_best_of_the_smallest_is_chosen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_left_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_seed_has_no_interval, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_files_are_harmless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_without_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seeds_are_paired, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_results_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_classes_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_curves_follow_activations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chosen_bits_lie_by_their_mean, setup, teardown),
        cmocka_unit_test_setup_teardown(test_costs_of_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_images_are_png, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
