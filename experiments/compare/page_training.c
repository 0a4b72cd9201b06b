#include <math.h>
#include <string.h>

#include "core/file.h"
#include "experiments/compare/comparison.h"
#include "experiments/compare/page_parts.h"
#include "experiments/report/curves.h"
#include "experiments/train/run.h"

enum { LOSS, SCORE, KINDS };

enum { METRICS_BYTES_MAX = 64 << 20 };

/* Over the runs of a row: means, and the least and the largest. */
typedef struct Mean {
    int count;
    const double *x;
    double *y, *low, *high;
} Mean;

typedef struct Training {
    Mean means[KINDS];
    int run_count;
} Training;

/* Adds the curve of one more run; steps that not all runs have are cut off. */
static void mean_add(Mean *mean, const Series *one, int earlier, Arena *arena) {
    if (!earlier)
        *mean = (Mean){.count = one->count,
                       .x = one->x,
                       .y = arena_new_array(arena, double, one->count),
                       .low = arena_new_array(arena, double, one->count),
                       .high = arena_new_array(arena, double, one->count)};
    int count = 0;
    while (count < mean->count && count < one->count && mean->x[count] == one->x[count]) count++;
    mean->count = count;
    for (int i = 0; i < count; i++) {
        double y = one->y[i];
        mean->y[i] = (mean->y[i] * earlier + y) / (earlier + 1);
        mean->low[i] = earlier ? fmin(mean->low[i], y) : y;
        mean->high[i] = earlier ? fmax(mean->high[i], y) : y;
    }
}

static void run_add(ComparisonPage *c, Training *training, const char *run) {
    size_t bytes = 0;
    Error err = {0};
    Series series[KINDS];
    const char *score = arena_format(c->arena, "validation.%s", c->score->key);
    const CurveRow rows[KINDS] = {{"", "loss", 1}, {"", score, c->score->factor}};
    const char *path =
        arena_format(c->arena, "%s/" COMPARISON_RUNS "/%s/%s", c->directory, run, RUN_METRICS);
    if (file_find(path, &err) == FILE_ABSENT) return;
    const char *text = file_read(path, METRICS_BYTES_MAX, c->arena, &bytes, &err);
    if (!text) return;
    curves_read(text, bytes, rows, KINDS, series, c->arena);
    if (!series[LOSS].count && !series[SCORE].count) return;
    for (int i = 0; i < KINDS; i++)
        mean_add(&training->means[i], &series[i], training->run_count, c->arena);
    training->run_count++;
}

static Training training_of(ComparisonPage *c, const PageGroup *group) {
    Training training = {0};
    for (int i = 0; i < c->run_count; i++) {
        const Json *run = json_element(c->results, "rows", i);
        const char *row = json_get_text(run, "row"), *name = json_get_text(run, "run");
        if (row && !strcmp(row, group->row) && page_data_is_plain(name))
            run_add(c, &training, name);
    }
    return training;
}

static Series series_of(const PageGroup *group, const Training *training, int kind) {
    const Mean *mean = &training->means[kind];
    bool has_band = training->run_count > 1;
    return (Series){.name = group->label,
                    .count = mean->count,
                    .x = mean->x,
                    .y = mean->y,
                    .low = has_band ? mean->low : NULL,
                    .high = has_band ? mean->high : NULL,
                    .has_band = has_band,
                    .colour = group->colour};
}

/* One small chart a row, FP32 behind it. */
static void multiples_put(ComparisonPage *c, const Training *all, int kind, double depth) {
    const Training *fp32 = c->fp32 ? &all[c->fp32 - c->groups] : NULL;
    double limits[2] = {INFINITY, -INFINITY};
    for (int i = 0; i < c->group_count; i++) {
        const Mean *mean = &all[i].means[kind];
        for (int k = 0; k < mean->count; k++) {
            limits[0] = fmin(limits[0], mean->low[k]);
            limits[1] = fmax(limits[1], mean->high[k]);
        }
    }
    page_put(&c->page, "<div class=\"multiples\">\n");
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        if (!all[i].means[kind].count || (group == c->fp32 && c->group_count > 1)) continue;
        Series series[2] = {series_of(group, &all[i], kind)};
        bool has_other = fp32 && fp32 != &all[i] && fp32->means[kind].count;
        if (has_other) series[1] = series_of(c->fp32, fp32, kind);
        chart_lines(&c->page, &(LineChart){.title = group->label,
                                           .suffix = "",
                                           .series = series,
                                           .series_count = has_other ? 2 : 1,
                                           .depth = depth,
                                           .limits = limits,
                                           .size = "small"});
    }
    page_put(&c->page, "</div>\n");
}

void page_training_put(ComparisonPage *c) {
    Training *all = arena_new_array(c->arena, Training, c->group_count + 1);
    int trained = 0;
    for (int i = 0; i < c->group_count; i++) {
        all[i] = training_of(c, &c->groups[i]);
        trained += all[i].run_count;
    }
    if (!trained) return;
    page_put(&c->page, "<h2 id=\"training\">Training</h2>\n");
    page_note(
        &c->page,
        "Means over seeds, with a band from the least to the largest; grey is FP32. All on one "
        "scale.");
    page_format(&c->page, "<h3>Validation %s%s</h3>\n", c->score->name, page_unit(c));
    multiples_put(c, all, SCORE, c->score->is_lower_better ? 0 : 20);
    page_put(&c->page, "<h3>Training loss (nats)</h3>\n");
    multiples_put(c, all, LOSS, 0);
}
