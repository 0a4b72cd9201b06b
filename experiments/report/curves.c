#include "experiments/report/curves.h"

#include <math.h>
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
    page_put(page, "</div>\n");
    if (bad_lines)
        page_note(page, arena_format(arena, "Lines of metrics.jsonl that could not be read: %d",
                                     bad_lines));
}
