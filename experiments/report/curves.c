#include "experiments/report/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

typedef enum Curve {
    TRAINING_LOSS,
    VALIDATION_LOSS,
    TRAINED_SCORE,
    SHADOW_SCORE,
    LEARNING_RATE,
    RATE,
    CURVE_COUNT
} Curve;

static void curves_name(CurveRow rows[CURVE_COUNT], const Task *task, Arena *arena) {
    const Score *score = &task->scores[0];
    const char *validation = arena_format(arena, "validation.%s", score->key);
    const char *shadow = arena_format(arena, "shadow.%s", score->key);
    rows[TRAINING_LOSS] = (CurveRow){"training", "loss", 1};
    rows[VALIDATION_LOSS] = (CurveRow){"validation", "validation.loss", 1};
    rows[TRAINED_SCORE] = (CurveRow){"as trained", validation, score->factor};
    rows[SHADOW_SCORE] = (CurveRow){"shadow", shadow, score->factor};
    rows[LEARNING_RATE] = (CurveRow){"learning rate", "lr", 1};
    rows[RATE] = (CurveRow){"training", "samples_per_second", 1};
}

/* Where the points of a series lie while they are read. */
typedef struct Points {
    double *x, *y;
} Points;

static bool line_read(const Json *line, const CurveRow *rows, int count, Series *series,
                      const Points *points) {
    double step = json_number(line, "step");
    if (isnan(step)) return false;
    for (int i = 0; i < count; i++) {
        double value = json_number(line, rows[i].path);
        if (isnan(value)) continue;
        int at = series[i].count++;
        points[i].x[at] = step;
        points[i].y[at] = value * rows[i].factor;
    }
    return true;
}

static int line_count(const char *text, size_t bytes) {
    int lines = 1;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    return lines;
}

/* A line may hold anything, zeros too. */
int curves_read(const char *metrics, size_t bytes, const CurveRow *rows, int count, Series *series,
                Arena *arena) {
    const char *end = metrics + bytes;
    int lines = line_count(metrics, bytes), bad_lines = 0;
    Points *points = arena_new_array(arena, Points, count);
    for (int i = 0; i < count; i++) {
        points[i].x = arena_new_array(arena, double, lines);
        points[i].y = arena_new_array(arena, double, lines);
        series[i] = (Series){.name = rows[i].name, .x = points[i].x, .y = points[i].y};
    }
    for (const char *line = metrics; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((next ? next : end) - line);
        Error err = {0};
        Json *json = json_read_text(line, length, "metrics.jsonl", &err);
        bool is_read = json && line_read(json, rows, count, series, points);
        bad_lines += !is_read && (json || length);
        json_free(json);
        line += length + 1;
    }
    return bad_lines;
}

/* "Validation accuracy (%)"; without brackets where there is no unit. */
static const char *score_title(const Score *score, Arena *arena) {
    if (!*score->unit) return arena_format(arena, "Validation %s", score->name);
    return arena_format(arena, "Validation %s (%s)", score->name, score->unit);
}

/* ---- The shadow, where train.shadow_every looked at it ---- */

/* The last whole line about layers; NULL: there is none. */
static Json *last_shadow(const char *metrics, size_t bytes) {
    static const char mark[] = "\"shadow\":{\"kl\":";
    const char *end = metrics + bytes;
    Json *last = NULL;
    for (const char *line = metrics; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((next ? next : end) - line);
        Error ignored = {0};
        Json *json = memmem(line, length, mark, sizeof mark - 1)
                         ? json_read_text(line, length, "metrics.jsonl", &ignored)
                         : NULL;
        if (json) {
            json_free(last);
            last = json;
        }
        line += length + 1;
    }
    return last;
}

typedef struct RankedLayer {
    double sqnr_db;
    int place; /* in the list */
} RankedLayer;

/* Among the lowest so far, which are sorted; of equal ones the first counts, and an unknown one is
 * the highest. A file may list any number. */
static int keep_lowest(RankedLayer lowest[CHART_COLOURS], int count, RankedLayer layer) {
    int at = count;
    if (isnan(layer.sqnr_db)) layer.sqnr_db = INFINITY;
    while (at > 0 && layer.sqnr_db < lowest[at - 1].sqnr_db) at--;
    if (at == CHART_COLOURS) return count;
    if (count < CHART_COLOURS) count++;
    memmove(lowest + at + 1, lowest + at, sizeof *lowest * (size_t)(count - at - 1));
    lowest[at] = layer;
    return count;
}

static int by_place(const void *a, const void *b) {
    return ((const RankedLayer *)a)->place - ((const RankedLayer *)b)->place;
}

/* The layers with the lowest SQNR at the end, as many as there are colours. */
static int choose_layers(const Json *last, CurveRow rows[CHART_COLOURS], Arena *arena) {
    RankedLayer lowest[CHART_COLOURS];
    int all = json_count(last, "shadow.layers"), kept = 0, count = 0;
    for (int i = 0; i < all; i++) {
        const Json *layer = json_element(last, "shadow.layers", i);
        kept = keep_lowest(lowest, kept, (RankedLayer){json_number(layer, "sqnr_db"), i});
    }
    qsort(lowest, (size_t)kept, sizeof *lowest, by_place);
    for (int i = 0; i < kept; i++) {
        int place = lowest[i].place;
        const char *name = json_get_text(json_element(last, "shadow.layers", place), "name");
        const char *path = arena_format(arena, "shadow.layers.%d.sqnr_db", place);
        if (name) rows[count++] = (CurveRow){arena_strdup(arena, name), path, 1};
    }
    return count;
}

static void shadow_put(Page *page, const char *metrics, size_t bytes) {
    Arena *arena = page->arena;
    Json *last = last_shadow(metrics, bytes);
    if (!last) return;
    CurveRow rows[1 + CHART_COLOURS] = {{"KL", "shadow.kl", 1}};
    Series series[1 + CHART_COLOURS];
    int count = choose_layers(last, rows + 1, arena), all = json_count(last, "shadow.layers");
    curves_read(metrics, bytes, rows, 1 + count, series, arena);
    for (int i = 0; i < count; i++) series[1 + i].colour = i;
    chart_lines(page, &(LineChart){.title = "KL from the shadow (nats)",
                                   .suffix = "",
                                   .series_count = 1,
                                   .series = series});
    const char *title = "SQNR of each layer (dB)";
    if (count < all)
        title = arena_format(arena, "%s, the %d lowest of %d at the end", title, count, all);
    chart_lines(
        page,
        &(LineChart){.title = title, .suffix = "", .series_count = count, .series = series + 1});
    json_free(last);
}

void curves_put(Page *page, const char *metrics, size_t bytes, const Task *task) {
    Arena *arena = page->arena;
    const Score *score = &task->scores[0];
    const struct {
        const char *title, *suffix;
        Curve curves[2];
        int count;
    } rows[] = {
        {"Loss (nats)", "", {TRAINING_LOSS, VALIDATION_LOSS}, 2},
        {score_title(score, arena), score->unit, {TRAINED_SCORE, SHADOW_SCORE}, 2},
        {"Learning rate", "", {LEARNING_RATE}, 1},
        {arena_format(arena, "Speed (%s/s)", task->samples), "", {RATE}, 1},
    };
    CurveRow names[CURVE_COUNT];
    Series all[CURVE_COUNT];
    curves_name(names, task, arena);
    int bad_lines = curves_read(metrics, bytes, names, CURVE_COUNT, all, arena);
    page_put(page, "<div class=\"charts\">\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Series series[2];
        for (int k = 0; k < rows[i].count; k++) {
            series[k] = all[rows[i].curves[k]];
            series[k].colour = k;
        }
        chart_lines(page, &(LineChart){.title = rows[i].title,
                                       .suffix = rows[i].suffix,
                                       .series_count = rows[i].count,
                                       .series = series});
    }
    shadow_put(page, metrics, bytes);
    page_put(page, "</div>\n");
    if (bad_lines)
        page_note(page, arena_format(arena, "Lines of metrics.jsonl that could not be read: %d",
                                     bad_lines));
}
