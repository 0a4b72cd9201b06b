#include "experiments/report/report.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "experiments/report/curves.h"
#include "experiments/report/layer_table.h"
#include "experiments/report/page.h"
#include "experiments/report/table.h"
#include "experiments/report/text.h"
#include "experiments/train/run.h"

enum { FILE_BYTES_MAX = 256 << 20 };

typedef struct Report {
    const char *directory;
    const Task *task;
    Arena *arena;
    Page page;
} Report;

/* ---- Reading. ---- */

static const char *path_of(const Report *r, const char *name) {
    return arena_format(r->arena, "%s/%s", r->directory, name);
}

/* NULL, and a note on the page, where there is no such file or it is none. The folder's name is no
 * part of a report. */
static char *text_read(Report *r, const char *name, size_t *bytes) {
    Error err = {0};
    const char *path = path_of(r, name);
    bool is_absent = file_find(path, &err) == FILE_ABSENT;
    char *text = is_absent ? NULL : file_read(path, FILE_BYTES_MAX, r->arena, bytes, &err);
    bool has_folder = !strncmp(err.message, path, strlen(path));
    const char *found = err.message + (has_folder ? strlen(path) - strlen(name) : 0);
    if (is_absent) page_note(&r->page, arena_format(r->arena, "%s is missing.", name));
    if (!is_absent && !text) page_note(&r->page, found);
    return text;
}

static Json *object_read(Report *r, const char *name) {
    size_t bytes = 0;
    const char *text = text_read(r, name, &bytes);
    Error err = {0};
    Json *json = text ? json_read_text(text, bytes, name, &err) : NULL;
    if (text && !json) page_note(&r->page, err.message);
    return json;
}

/* ---- Headline. ---- */

static void tile_begin(Page *page, const char *name) {
    page_format(page, "<div><dt>%s</dt><dd>", name);
}

static void tile_end(Page *page) {
    page_put(page, "</dd></div>\n");
}

static void score_tile(Page *page, const char *name, const Score *score, double value,
                       const char *note) {
    tile_begin(page, name);
    if (isnan(value)) {
        page_put(page, "\xe2\x80\x93");
    } else {
        page_format(page, "%.*f%s", score->decimals, value * score->factor, score->unit);
    }
    if (note) page_format(page, "<small>%s</small>", note);
    tile_end(page);
}

static void count_tile(Page *page, const char *name, double count) {
    if (!(fabs(count) < 1e15)) return; /* unknown, or nonsense */
    tile_begin(page, name);
    page_count(page, llround(count));
    tile_end(page);
}

static void bytes_tile(Page *page, const char *name, double bytes, double full) {
    if (!(bytes >= 0 && bytes < 1e15)) return;
    tile_begin(page, name);
    page_bytes(page, bytes);
    page_put(page, "<small>");
    page_count(page, llround(bytes));
    page_put(page, " bytes");
    if (full > 0 && bytes > 0) page_format(page, ", %.1f times smaller", full / bytes);
    page_put(page, "</small>");
    tile_end(page);
}

/* "accuracy" as the beginning of a title. */
static double score_of(const Report *r, const Json *summary, const char *network, int i) {
    const char *key = r->task->scores[i].key;
    return json_number(summary, arena_format(r->arena, "%s.%s", network, key));
}

/* The shadow stands beside the quantized network, and no difference is made of the two: that is
 * not what quantization costs. */
static void score_tiles(Report *r, const Json *summary) {
    Page *page = &r->page;
    const Score *score = &r->task->scores[0];
    double shadow = score_of(r, summary, "shadow", 0);
    double quantized = score_of(r, summary, "quantized", 0);
    if (isnan(shadow)) { /* of a run of which nothing is quantized */
        score_tile(page, arena_format(r->arena, "Test %s", score->name), score,
                   score_of(r, summary, "test", 0), NULL);
        return;
    }
    score_tile(page, arena_format(r->arena, "Quantized %s", score->name), score, quantized, NULL);
    score_tile(page, arena_format(r->arena, "Shadow %s", score->name), score, shadow,
               "the same weights with nothing quantized: a diagnostic, no baseline");
}

static void put_test_set(Report *r, const Json *summary) {
    Page *page = &r->page;
    double loss = json_number(summary, "test.loss");
    if (isnan(loss + score_of(r, summary, "test", 0))) return;
    page_put(page, "<p class=\"note\">Test set: ");
    for (int i = 0; i < r->task->score_count; i++) {
        const Score *score = &r->task->scores[i];
        page_format(page, "%s %.*f%s, ", score->name, score->decimals,
                    score_of(r, summary, "test", i) * score->factor, score->unit);
    }
    page_format(page, "loss %.4g.</p>\n", loss);
}

static void put_headline(Report *r, const Json *summary) {
    Page *page = &r->page;
    const char *missing = json_get_text(summary, "quantized.reason");
    double model_bytes = json_number(summary, "model_bytes");
    double seconds = json_number(summary, "train_seconds");
    double timed_from = json_number(summary, "timed_from_step");
    page_put(page, "<dl class=\"tiles\">\n");
    score_tiles(r, summary);
    bytes_tile(page, "Model, FP32", model_bytes, 0);
    bytes_tile(page, "Model, quantized", json_number(summary, "quantized_bytes"), model_bytes);
    const char *speed =
        arena_format(r->arena, "%s/s in training", text_capital(r->task->samples, r->arena));
    count_tile(page, speed, json_number(summary, "samples_per_second"));
    count_tile(page, "Steps", json_number(summary, "steps"));
    if (isfinite(seconds)) {
        tile_begin(page, "Training time");
        page_duration(page, seconds);
        if (timed_from > 0) page_format(page, "<small>from step %.0f on</small>", timed_from);
        tile_end(page);
    }
    bytes_tile(page, "Peak memory", json_number(summary, "peak_rss_bytes"), 0);
    page_put(page, "</dl>\n");
    put_test_set(r, summary);
    if (!missing) return;
    page_note(page, arena_format(r->arena,
                                 "There is no quantized %s, and the test set's is the shadow's:",
                                 r->task->scores[0].name));
    page_note(page, missing);
}

/* ---- Curves. ---- */

static void put_curves(Report *r) {
    size_t bytes = 0;
    page_put(&r->page, "<h2>Training</h2>\n");
    const char *text = text_read(r, RUN_METRICS, &bytes);
    if (text) curves_put(&r->page, text, bytes, r->task);
}

/* ---- Layers. ---- */

static void put_layers(Report *r, const Json *summary) {
    Page *page = &r->page;
    page_put(page, "<h2>Layers</h2>\n");
    if (!summary || !json_count(summary, "layers")) {
        page_note(page, "summary.json lists no layers.");
        return;
    }
    bool has_shadow = !isnan(score_of(r, summary, "shadow", 0)); /* else nothing is quantized */
    if (has_shadow)
        page_note(page, "Each layer's output against its shadow's, the same weights with nothing "
                        "quantized. SQNR: signal to quantization noise; 6 dB are about one bit.");
    if (isfinite(json_number(json_element(summary, "layers", 0), "fit.calibration_db")))
        page_note(page, "Fitted and held out: SQNR of the layer with its weights alone quantized, "
                        "over calibration data and over validation data, which no method has seen. "
                        "Where the second is much lower, more calibration.rows may help.");
    layer_table_put(page, summary);
}

/* ---- Confusion matrix. ---- */

/* False unless it is a square of counts. */
static bool confusion_read(const Json *summary, int count, int64_t *values, Arena *arena) {
    for (int row = 0; row < count; row++) {
        if (json_count(summary, arena_format(arena, "confusion.%d", row)) != count) return false;
        for (int column = 0; column < count; column++) {
            int64_t *value = &values[row * count + column];
            const char *path = arena_format(arena, "confusion.%d.%d", row, column);
            if (!json_get_int(summary, path, value) || *value < 0) return false;
        }
    }
    return true;
}

static void put_confusion(Report *r, const Json *summary) {
    if (!summary || !r->task->has_confusion) return;
    int count = json_count(summary, "confusion");
    page_put(&r->page, "<h2>Confusion matrix of the test set</h2>\n");
    if (!count || count > REPORT_CLASSES_MAX) {
        page_note(&r->page, "There are too many classes for a matrix.");
        return;
    }
    int64_t *values = arena_new_array(r->arena, int64_t, (size_t)count * (size_t)count);
    if (!confusion_read(summary, count, values, r->arena)) {
        page_note(&r->page, "The matrix cannot be drawn: it is no square of counts.");
        return;
    }
    const char **names = arena_new_array(r->arena, const char *, count);
    for (int i = 0; i < count; i++) {
        const char *name = json_get_text(summary, arena_format(r->arena, "classes.%d", i));
        names[i] = name ? name : arena_format(r->arena, "%d", i);
    }
    const char *title = "Rows are true classes, columns what the network as trained answered";
    table_matrix(&r->page, &(ConfusionMatrix){title, count, names, values});
}

/* ---- Settings and machine. ---- */

static void put_config(Report *r) {
    size_t bytes = 0;
    page_put(&r->page, "<h2>Settings</h2>\n");
    const char *text = text_read(r, RUN_CONFIG, &bytes);
    if (!text) return;
    page_put(&r->page, "<details><summary>" RUN_CONFIG "</summary>\n<pre>");
    page_text(&r->page, text);
    page_put(&r->page, "</pre></details>\n");
}

static void put_environment(Report *r) {
    static const struct {
        const char *name, *path;
    } rows[] = {
        {"nibble", "nibble.version"},
        {"Compiler", "nibble.compiler"},
        {"Processor", "machine.cpu"},
        {"Cores", "machine.cores"},
        {"Cores usable", "machine.usable_cores"},
        {"Memory, bytes", "machine.memory_bytes"},
        {"System", "system.name"},
        {"Kernel", "system.kernel"},
        {"Threads", "threads"},
        {"Kernels", "kernels"},
    };
    page_put(&r->page, "<h2>Environment</h2>\n");
    Json *json = object_read(r, RUN_ENVIRONMENT);
    if (!json) return;
    page_put(&r->page, "<div class=\"scroll\"><table>\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *text = json_get_text(json, rows[i].path);
        int64_t count = 0;
        bool is_count = json_get_int(json, rows[i].path, &count);
        if (!text && !is_count) continue;
        page_format(&r->page, "<tr><th scope=\"row\">%s</th><td>", rows[i].name);
        if (is_count) page_count(&r->page, count);
        page_text(&r->page, text);
        page_put(&r->page, "</td></tr>\n");
    }
    page_put(&r->page, "</table></div>\n");
    json_free(json);
}

/* ---- The page. ---- */

static void put_page(Report *r) {
    const char *name = text_last_name(r->directory, r->arena);
    Page *page = &r->page;
    page_begin(page, name);
    page_put(page, "<main>\n<h1>");
    page_text(page, name);
    page_put(page, "</h1>\n");
    Json *summary = object_read(r, RUN_SUMMARY);
    if (summary) {
        put_headline(r, summary);
    } else {
        page_note(page, "Without a summary the run has not ended, or was stopped.");
    }
    put_curves(r);
    put_layers(r, summary);
    put_confusion(r, summary);
    put_environment(r);
    put_config(r);
    page_put(page, "</main>\n");
    page_end(page);
    json_free(summary);
}

bool report_write(const char *run_directory, const Task *task, Error *err) {
    struct stat status;
    if (stat(run_directory, &status))
        return FAIL(err, errno == ENOENT ? ERROR_INPUT : ERROR_SYSTEM, "no run directory '%s': %s",
                    run_directory, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return FAIL(err, ERROR_INPUT, "'%s' is not a run directory", run_directory);
    Arena *arena = arena_new("report");
    Report report = {run_directory, task, arena, {.arena = arena}};
    put_page(&report);
    bool is_written = text_write(path_of(&report, RUN_REPORT), report.page.text, err);
    arena_free(arena);
    return is_written;
}
