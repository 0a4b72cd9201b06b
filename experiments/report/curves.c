#include "experiments/report/curves.h"

#include <math.h>
#include <string.h>

#include "experiments/report/chart.h"
#include "experiments/report/json.h"

typedef enum Curve {
    TRAINING_LOSS,
    VALIDATION_LOSS,
    TRAINED_SCORE,
    SHADOW_SCORE,
    LEARNING_RATE,
    RATE,
    CURVE_COUNT
} Curve;

typedef struct CurveRow {
    const char *name, *path;
    double factor;
} CurveRow;

typedef struct Curves {
    Series series[CURVE_COUNT];
    double *x[CURVE_COUNT], *y[CURVE_COUNT];
    CurveRow rows[CURVE_COUNT];
    int bad_lines;
} Curves;

static void curves_name(Curves *curves, const Task *task, Arena *arena) {
    const Score *score = &task->scores[0];
    const char *validation = arena_format(arena, "validation.%s", score->key);
    const char *shadow = arena_format(arena, "shadow.%s", score->key);
    CurveRow *rows = curves->rows;
    rows[TRAINING_LOSS] = (CurveRow){"training", "loss", 1};
    rows[VALIDATION_LOSS] = (CurveRow){"validation", "validation.loss", 1};
    rows[TRAINED_SCORE] = (CurveRow){"as trained", validation, score->factor};
    rows[SHADOW_SCORE] = (CurveRow){"shadow", shadow, score->factor};
    rows[LEARNING_RATE] = (CurveRow){"learning rate", "lr", 1};
    rows[RATE] = (CurveRow){"training", "samples_per_second", 1};
}

static void curves_add(Curves *curves, const Json *line) {
    double step = json_number(line, "step");
    if (isnan(step)) {
        curves->bad_lines++;
        return;
    }
    for (int i = 0; i < CURVE_COUNT; i++) {
        double value = json_number(line, curves->rows[i].path);
        if (isnan(value)) continue;
        int at = curves->series[i].count++;
        curves->x[i][at] = step;
        curves->y[i][at] = value * curves->rows[i].factor;
    }
}

/* A line may hold anything, zeros too. */
static void curves_read(Curves *curves, const char *text, size_t bytes, Arena *arena) {
    const char *end = text + bytes;
    int lines = 1;
    for (const char *c = text; c < end; c++) lines += *c == '\n';
    for (int i = 0; i < CURVE_COUNT; i++) {
        curves->x[i] = arena_new_array(arena, double, lines);
        curves->y[i] = arena_new_array(arena, double, lines);
        curves->series[i] = (Series){curves->rows[i].name, 0, curves->x[i], curves->y[i]};
    }
    for (const char *line = text; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((next ? next : end) - line);
        Error err = {0};
        Json *json = json_read_text(line, length, "metrics.jsonl", &err);
        if (json) {
            curves_add(curves, json);
        } else if (length) {
            curves->bad_lines++;
        }
        json_free(json);
        line += length + 1;
    }
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
        Curve curves[CHART_SERIES_MAX];
        int count;
    } rows[] = {
        {"Loss (nats)", "", {TRAINING_LOSS, VALIDATION_LOSS}, 2},
        {score_title(score, arena), score->unit, {TRAINED_SCORE, SHADOW_SCORE}, 2},
        {"Learning rate", "", {LEARNING_RATE}, 1},
        {arena_format(arena, "Speed (%s/s)", task->samples), "", {RATE}, 1},
    };
    Curves curves = {0};
    curves_name(&curves, task, arena);
    curves_read(&curves, metrics, bytes, arena);
    page_put(page, "<div class=\"charts\">\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        LineChart chart = {rows[i].title, rows[i].suffix, rows[i].count, {{0}}};
        for (int k = 0; k < rows[i].count; k++) chart.series[k] = curves.series[rows[i].curves[k]];
        chart_lines(page, &chart);
    }
    page_put(page, "</div>\n");
    if (curves.bad_lines) {
        page_note(page, arena_format(arena, "Lines of metrics.jsonl that could not be read: %d",
                                     curves.bad_lines));
    }
}
