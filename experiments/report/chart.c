#include "experiments/report/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report/axis.h"

enum {
    POINTS_MAX = 280, /* more are averaged */
    MARKERS_MAX = 60, /* fewer points get a mark each, with what is said of it as a tooltip */
    SMALL_MAX = 8,    /* of a small chart */
    TOLD_MAX = 16,    /* fewer points are all in the description */
    DODGE = 5,        /* pixels between series whose whiskers would lie on each other */
};

static const double VALUE_MAX = 1e15; /* what is farther out would only flatten the rest */

typedef struct Plot {
    Page *page;
    const LineChart *chart;
    Series *series; /* with the points that can be drawn */
    Axis x, y;
} Plot;

/* In per cent of the plot's width and height. */
static double plot_x(const Plot *plot, double x) {
    return 100 * axis_share(&plot->x, x);
}

static double plot_y(const Plot *plot, double y) {
    return 100 - 100 * fmin(1, fmax(0, axis_share(&plot->y, y)));
}

static bool is_small(const LineChart *chart) {
    return chart->size && !strcmp(chart->size, "small");
}

static const char *colour_class(int colour, Arena *arena) {
    if (colour == CHART_MUTED) return "muted";
    return arena_format(arena, "s%d", colour % CHART_COLOURS);
}

/* Series that colours alone would tell apart have marks of other shapes, too. */
static int shape_of(int colour) {
    enum { SHAPES = 4 };
    return colour == CHART_MUTED ? 0 : colour % SHAPES;
}

void chart_mark(Page *page, int colour) {
    page_format(page,
                "<svg class=\"mark\" aria-hidden=\"true\"><use href=\"#mark%d\" class=\"dot %s\" "
                "x=\"7\" y=\"7\"/></svg>",
                shape_of(colour), colour_class(colour, page->arena));
}

/* ---- The grid. ---- */

static void plot_rows(const Plot *plot) {
    Page *page = plot->page;
    int count = axis_tick_count(&plot->y);
    for (int i = 0; i < count; i++) {
        double value = axis_tick(&plot->y, i), y = plot_y(plot, value);
        page_format(
            page, "<line class=\"grid\" x1=\"0\" x2=\"100%%\" y1=\"%.2f%%\" y2=\"%.2f%%\"/>", y, y);
        page_format(page, "<text class=\"tick end\" x=\"-8\" y=\"%.2f%%\" dy=\".35em\">", y);
        axis_tick_put(page, value, plot->y.decimals);
        page_format(page, "%s</text>\n", plot->chart->suffix);
    }
}

static void column_begin(const Plot *plot, double value) {
    double x = plot_x(plot, value);
    page_format(plot->page,
                "<line class=\"axis\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"100%%\" y2=\"100%%\" "
                "transform=\"translate(0 2)\"/>",
                x, x);
    page_format(plot->page, "<text class=\"tick mid\" x=\"%.2f%%\" y=\"100%%\" dy=\"17\">", x);
}

static void plot_columns(const Plot *plot) {
    const LineChart *chart = plot->chart;
    int count = chart->ticks ? chart->tick_count : axis_tick_count(&plot->x);
    for (int i = 0; i < count; i++) {
        double value = chart->ticks ? chart->ticks[i].value : axis_tick(&plot->x, i);
        column_begin(plot, value);
        if (chart->ticks) {
            page_text(plot->page, chart->ticks[i].name);
        } else {
            axis_tick_put(plot->page, value, plot->x.decimals);
        }
        page_put(plot->page, "</text>\n");
    }
    page_put(plot->page, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/>"
                         "<text class=\"tick mid\" x=\"50%\" y=\"100%\" dy=\"35\">");
    page_text(plot->page, chart->x_title ? chart->x_title : "step");
    page_put(plot->page, "</text>\n");
}

static void plot_reference(const Plot *plot) {
    const ChartReference *r = &plot->chart->reference;
    if (!r->name || !isfinite(r->value)) return;
    if (isfinite(r->low + r->high)) {
        double top = plot_y(plot, r->high);
        page_format(plot->page,
                    "<rect class=\"refband\" x=\"0\" width=\"100%%\" y=\"%.2f%%\" "
                    "height=\"%.2f%%\"/>",
                    top, plot_y(plot, r->low) - top);
    }
    double y = plot_y(plot, r->value);
    page_format(plot->page,
                "<line class=\"ref\" x1=\"0\" x2=\"100%%\" y1=\"%.2f%%\" y2=\"%.2f%%\"/>\n", y, y);
}

/* ---- Series. ---- */

/* A stretch of a series: its middle, average and extremes. */
typedef struct Bucket {
    double x, y, low, high;
} Bucket;

static Bucket bucket_of(const Series *s, int first, int end) {
    Bucket b = {0, 0, INFINITY, -INFINITY};
    for (int i = first; i < end; i++) {
        bool is_known = s->low && isfinite(s->low[i] + s->high[i]);
        b.x += s->x[i];
        b.y += s->y[i];
        b.low = fmin(b.low, is_known ? s->low[i] : s->y[i]);
        b.high = fmax(b.high, is_known ? s->high[i] : s->y[i]);
    }
    b.x /= end - first;
    b.y /= end - first;
    return b;
}

static void point_put(const Plot *plot, double x, double y) {
    page_format(plot->page, "%.1f,%.1f ", 10 * plot_x(plot, x), 10 * plot_y(plot, y));
}

static void plot_lines(const Plot *plot, const Series *s, const Bucket *buckets, int count) {
    Page *page = plot->page;
    const char *colour = colour_class(s->colour, page->arena);
    page_put(page, "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\">");
    if (count < s->count || s->has_band) {
        page_format(page, "<polygon class=\"band %s\" points=\"", colour);
        for (int i = 0; i < count; i++) point_put(plot, buckets[i].x, buckets[i].high);
        for (int i = count - 1; i >= 0; i--) point_put(plot, buckets[i].x, buckets[i].low);
        page_put(page, "\"/>\n");
    }
    page_format(page, "<polyline class=\"line %s%s\" points=\"", colour,
                s->is_dashed ? " dashed" : "");
    for (int i = 0; i < count; i++) point_put(plot, buckets[i].x, buckets[i].y);
    page_put(page, "\"/></svg>\n");
}

static void cap_put(const Plot *plot, const char *colour, double x, double y) {
    if (y < plot->y.min || y > plot->y.max) return; /* it goes on beyond the plot */
    page_format(plot->page, "<use href=\"#cap\" class=\"line %s\" x=\"%.2f%%\" y=\"%.2f%%\"/>",
                colour, x, plot_y(plot, y));
}

static void whisker_put(const Plot *plot, const char *colour, const Bucket *b) {
    double x = plot_x(plot, b->x), low = plot_y(plot, b->low), high = plot_y(plot, b->high);
    page_format(plot->page,
                "<line class=\"line %s\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%.2f%%\" y2=\"%.2f%%\"/>",
                colour, x, x, low, high);
    cap_put(plot, colour, x, b->low);
    cap_put(plot, colour, x, b->high);
    page_put(plot->page, "\n");
}

static void said_put(Page *page, const LineChart *chart, const Series *s, int i) {
    if (s->labels) {
        page_text(page, s->labels[i]);
        return;
    }
    page_text(page, s->name);
    page_format(page, ", step %.0f: %.4g%s", s->x[i], s->y[i], chart->suffix);
}

/* How many points of earlier series lie below the plot at the same x. */
static int below_count(const Plot *plot, const Series *s, double x) {
    int count = 0;
    for (const Series *other = plot->series; other < s; other++) {
        for (int i = 0; i < other->count; i++)
            count += other->x[i] == x && other->y[i] < plot->y.min;
    }
    return count;
}

static void mark_put(const Plot *plot, const Series *s, int i) {
    Page *page = plot->page;
    const char *colour = colour_class(s->colour, page->arena);
    bool is_below = s->y[i] < plot->y.min;
    double x = plot_x(plot, s->x[i]), y = plot_y(plot, s->y[i]);
    page_format(page, "<use href=\"#%s%d\" class=\"dot %s%s\" x=\"%.2f%%\" y=\"%.2f%%\"><title>",
                is_below ? "below" : "mark", is_below ? 0 : shape_of(s->colour), colour,
                s->is_dashed ? " hollow" : "", x, y);
    said_put(page, plot->chart, s, i);
    page_put(page, "</title></use>\n");
    if (!is_below) return;
    int up = 16 + 14 * below_count(plot, s, s->x[i]);
    page_format(page, "<text class=\"value mid %s\" x=\"%.2f%%\" y=\"%.2f%%\" dy=\"-%d\">", colour,
                x, y, up);
    page_format(page, "%.3g%s</text>\n", s->y[i], plot->chart->suffix);
}

static void plot_series(const Plot *plot, const Series *s, double dodge) {
    Bucket buckets[POINTS_MAX];
    int count = s->count < POINTS_MAX ? s->count : POINTS_MAX;
    for (int i = 0; i < count; i++) {
        int first = (int)((int64_t)s->count * i / count);
        int end = (int)((int64_t)s->count * (i + 1) / count);
        buckets[i] = bucket_of(s, first, end);
    }
    page_format(plot->page, "<g transform=\"translate(%.1f 0)\">", dodge);
    plot_lines(plot, s, buckets, count);
    bool has_whiskers = s->low && !s->has_band && s->count <= MARKERS_MAX;
    for (int i = 0; has_whiskers && i < count; i++) {
        bool is_seen = buckets[i].high > fmax(buckets[i].low, plot->y.min);
        if (is_seen) whisker_put(plot, colour_class(s->colour, plot->page->arena), &buckets[i]);
    }
    bool has_marks = s->count <= (is_small(plot->chart) ? SMALL_MAX : MARKERS_MAX);
    for (int i = 0; has_marks && i < count; i++) mark_put(plot, s, i);
    page_put(plot->page, "</g>\n");
}

/* The points that can be drawn. */
static Series series_clean(Arena *arena, const Series *s) {
    Series clean = *s;
    double *x = arena_new_array(arena, double, s->count);
    double *y = arena_new_array(arena, double, s->count);
    double *low = arena_new_array(arena, double, s->count);
    double *high = arena_new_array(arena, double, s->count);
    const char **labels = arena_new_array(arena, const char *, s->count);
    int count = 0;
    for (int i = 0; i < s->count; i++) {
        if (!(fabs(s->x[i]) < VALUE_MAX && fabs(s->y[i]) < VALUE_MAX)) continue;
        x[count] = s->x[i];
        y[count] = s->y[i];
        low[count] = s->low && fabs(s->low[i]) < VALUE_MAX ? s->low[i] : NAN;
        high[count] = s->high && fabs(s->high[i]) < VALUE_MAX ? s->high[i] : NAN;
        labels[count++] = s->labels ? s->labels[i] : NULL;
    }
    clean.count = count;
    clean.x = x;
    clean.y = y;
    clean.low = s->low && s->high ? low : NULL;
    clean.high = clean.low ? high : NULL;
    clean.labels = s->labels ? labels : NULL;
    return clean;
}

/* ---- Words. ---- */

static void key_put(Page *page, const Series *s) {
    const char *colour = colour_class(s->colour, page->arena),
               *dashed = s->is_dashed ? " dashed" : "";
    page_format(page,
                "<svg class=\"key\" aria-hidden=\"true\"><line class=\"line %s%s\" x1=\"1\" "
                "x2=\"27\" y1=\"7\" y2=\"7\"/>",
                colour, dashed);
    page_format(page, "<use href=\"#mark%d\" class=\"dot %s%s\" x=\"14\" y=\"7\"/></svg>",
                shape_of(s->colour), colour, s->is_dashed ? " hollow" : "");
}

static void legend_reference(Page *page, const LineChart *chart) {
    const ChartReference *r = &chart->reference;
    if (!r->name || !isfinite(r->value)) return;
    page_put(page, "<span><svg class=\"key\" aria-hidden=\"true\"><line class=\"ref\" x1=\"1\" "
                   "x2=\"27\" y1=\"7\" y2=\"7\"/></svg>");
    page_text(page, r->name);
    page_format(page, ": %.4g%s</span>", r->value, chart->suffix);
}

static void legend_put(const Plot *plot) {
    Page *page = plot->page;
    const LineChart *chart = plot->chart;
    page_put(page, "<p class=\"legend\">");
    for (int i = 0; i < chart->series_count; i++) {
        const Series *s = &plot->series[i];
        bool is_reference = chart->reference.name && !strcmp(s->name, chart->reference.name);
        bool is_named = chart->series_count > 1 || chart->reference.name || chart->x_title;
        if (!s->count || is_reference) continue;
        page_put(page, "<span>");
        key_put(page, s);
        if (is_named) page_text(page, s->name);
        if (!chart->x_title)
            page_format(page, "%s%.4g%s at the end", is_named ? ": " : "", s->y[s->count - 1],
                        chart->suffix);
        page_put(page, "</span>");
    }
    legend_reference(page, chart);
    page_put(page, "</p>\n");
}

/* For who does not see it. */
static void description_put(const Plot *plot) {
    Page *page = plot->page;
    page_put(page, "<desc>");
    for (int i = 0; i < plot->chart->series_count; i++) {
        const Series *s = &plot->series[i];
        if (!s->count) continue;
        page_text(page, s->name);
        page_put(page, ": ");
        bool is_told = s->labels && s->count <= TOLD_MAX;
        for (int k = 0; is_told && k < s->count; k++) {
            page_text(page, s->labels[k]);
            page_put(page, ". ");
        }
        if (is_told) continue;
        page_format(page, "%d points, from %.4g%s to %.4g%s. ", s->count, s->y[0],
                    plot->chart->suffix, s->y[s->count - 1], plot->chart->suffix);
    }
    page_put(page, "</desc>\n");
}

/* ---- The chart. ---- */

static void limits_add(const double *values, int count, double limits[2]) {
    for (int i = 0; values && i < count; i++) { /* fmin and fmax pass over NAN */
        limits[0] = fmin(limits[0], values[i]);
        limits[1] = fmax(limits[1], values[i]);
    }
}

static Axis axis_of_columns(const LineChart *chart, double limits[2]) {
    for (int i = 0; i < chart->tick_count; i++) limits_add(&chart->ticks[i].value, 1, limits);
    double pad = chart->ticks ? fmax(0.06 * (limits[1] - limits[0]), 1e-9) : 0;
    Axis axis = axis_of(limits[0] - pad, limits[1] + pad, is_small(chart) ? 5 : 6);
    if (!chart->x_title && axis.step < 1) { /* there are no half steps */
        axis.step = 1;
        axis.decimals = 0;
    }
    return axis;
}

/* `limits`: of the values; `all`: of their intervals, too. */
static Axis axis_of_rows(const LineChart *chart, const double limits[2], double all[2]) {
    const ChartReference *r = &chart->reference;
    double top = r->name ? fmax(limits[1], r->value) : limits[1];
    if (r->name) {
        limits_add(&r->value, 1, all);
        limits_add(&r->low, 1, all);
        limits_add(&r->high, 1, all);
    }
    for (int i = 0; chart->limits && i < 2; i++)
        if (fabs(chart->limits[i]) < VALUE_MAX) limits_add(&chart->limits[i], 1, all);
    if (chart->depth > 0) { /* intervals may go a little above all values, not far */
        all[0] = fmax(all[0], top - chart->depth);
        all[1] = fmin(all[1], top + chart->depth / 3);
    }
    return axis_round(all[0], all[1], 5);
}

/* False: there is nothing to draw. */
static bool plot_measure(Plot *plot) {
    const LineChart *chart = plot->chart;
    double x[2] = {INFINITY, -INFINITY}, y[2] = {INFINITY, -INFINITY}, all[2] = {0};
    for (int i = 0; i < chart->series_count; i++) {
        Series *s = &plot->series[i];
        *s = series_clean(plot->page->arena, &chart->series[i]);
        limits_add(s->x, s->count, x);
        limits_add(s->y, s->count, y);
    }
    if (x[0] > x[1]) return false;
    plot->x = axis_of_columns(chart, x);
    memcpy(all, y, sizeof all);
    for (int i = 0; i < chart->series_count; i++) {
        limits_add(plot->series[i].low, plot->series[i].count, all);
        limits_add(plot->series[i].high, plot->series[i].count, all);
    }
    plot->y = axis_of_rows(chart, y, all);
    return true;
}

void chart_lines(Page *page, const LineChart *chart) {
    Plot plot = {
        page, chart, arena_new_array(page->arena, Series, chart->series_count + 1), {0}, {0}};
    page_format(page, "<figure class=\"chart %s\"><figcaption>", chart->size ? chart->size : "");
    page_text(page, chart->title);
    page_put(page, "</figcaption>\n");
    if (!plot_measure(&plot)) {
        page_put(page, "<p class=\"note\">No values.</p></figure>\n");
        return;
    }
    legend_put(&plot);
    page_put(page, "<svg class=\"plot\" role=\"img\" aria-label=\"");
    page_text(page, chart->title);
    page_put(page, ", over ");
    page_text(page, chart->x_title ? chart->x_title : "steps");
    page_put(page, "\">");
    description_put(&plot);
    plot_rows(&plot);
    plot_columns(&plot);
    plot_reference(&plot);
    bool is_dodging = false;
    for (int i = 0; i < chart->series_count; i++)
        is_dodging |= plot.series[i].low && !plot.series[i].has_band;
    for (int i = chart->series_count - 1; i >= 0; i--) { /* the first on top */
        double dodge = is_dodging ? DODGE * (i - (chart->series_count - 1) / 2.0) : 0;
        if (plot.series[i].count) plot_series(&plot, &plot.series[i], dodge);
    }
    page_put(page, "</svg></figure>\n");
}
