#include "experiments/report/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 560, /* of a line chart, in units of its view box */
    HEIGHT = 240,
    LEFT = 60,
    RIGHT = 16,
    TOP = 12,
    BOTTOM = 40,
    POINTS_MAX = 280, /* more are averaged */
    MARKERS_MAX = 60, /* fewer points get a dot each, with its values as a tooltip */
    ROW = 22,         /* of a bar chart */
    NAME_WIDTH = 220,
    PANEL_WIDTH = 270,
    LABELS_MAX = 20, /* a larger matrix has no numbers in its cells */
};

static const double VALUE_MAX = 1e15; /* what is farther out would only flatten the rest */

/* ---- Axes. ---- */

typedef struct Axis {
    double min, max, step; /* ticks are multiples of the step */
    int decimals;
} Axis;

/* The smallest of 1, 2, 5, 10, 20 ... (times any power of ten) that is at least `least`. */
static double round_step(double least) {
    double power = pow(10, floor(log10(least)));
    double digit = least / power;
    return (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10) * power;
}

static Axis axis_of(double min, double max, int ticks) {
    if (max - min < 1e-12 * fmax(fabs(max), 1e-6)) { /* one value */
        double pad = max ? fabs(max) * 0.05 : 1;
        min -= pad;
        max += pad;
    }
    Axis axis = {min, max, round_step((max - min) / ticks), 0};
    axis.decimals = (int)fmin(12, fmax(0, -floor(log10(axis.step) + 1e-9)));
    return axis;
}

static double axis_share(const Axis *axis, double value) {
    return (value - axis->min) / (axis->max - axis->min);
}

static void tick_put(Page *page, double value, int decimals) {
    if (fabs(value) >= 1000 && !decimals) {
        page_count(page, llround(value));
    } else if (decimals > 5) {
        page_format(page, "%.2g", value);
    } else {
        page_format(page, "%.*f", decimals, value == 0 ? 0 : value); /* no "-0" */
    }
}

/* ---- Lines. ---- */

typedef struct Plot {
    Page *page;
    const char *suffix;
    Axis x, y;
} Plot;

static double plot_x(const Plot *plot, double x) {
    return LEFT + axis_share(&plot->x, x) * (WIDTH - LEFT - RIGHT);
}

static double plot_y(const Plot *plot, double y) {
    return HEIGHT - BOTTOM - axis_share(&plot->y, y) * (HEIGHT - TOP - BOTTOM);
}

static void plot_grid(const Plot *plot) {
    Page *page = plot->page;
    long first = lround(ceil(plot->y.min / plot->y.step - 1e-9));
    for (long i = first; (double)i * plot->y.step <= plot->y.max + 1e-9 * plot->y.step; i++) {
        double value = (double)i * plot->y.step, y = plot_y(plot, value);
        page_format(page, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>",
                    LEFT, WIDTH - RIGHT, y, y);
        page_format(page, "<text class=\"tick end\" x=\"%d\" y=\"%.1f\">", LEFT - 8, y + 4);
        tick_put(page, value, plot->y.decimals);
        page_format(page, "%s</text>\n", plot->suffix);
    }
    first = lround(ceil(plot->x.min / plot->x.step - 1e-9));
    for (long i = first; (double)i * plot->x.step <= plot->x.max; i++) {
        double value = (double)i * plot->x.step, x = plot_x(plot, value);
        page_format(page, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x,
                    x, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4);
        page_format(page, "<text class=\"tick mid\" x=\"%.1f\" y=\"%d\">", x, HEIGHT - BOTTOM + 17);
        tick_put(page, value, plot->x.decimals);
        page_put(page, "</text>\n");
    }
    page_format(page, "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>", LEFT,
                WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM);
    page_format(page, "<text class=\"tick mid\" x=\"%d\" y=\"%d\">step</text>\n",
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4);
}

/* A stretch of a series: its middle, average and extremes. */
typedef struct Bucket {
    double x, y, low, high;
} Bucket;

static Bucket bucket_of(const Series *s, int first, int end) {
    Bucket b = {0, 0, INFINITY, -INFINITY};
    for (int i = first; i < end; i++) {
        b.x += s->x[i];
        b.y += s->y[i];
        b.low = fmin(b.low, s->y[i]);
        b.high = fmax(b.high, s->y[i]);
    }
    b.x /= end - first;
    b.y /= end - first;
    return b;
}

static void plot_band(const Plot *plot, int index, const Bucket *buckets, int count) {
    page_format(plot->page, "<polygon class=\"band s%d\" points=\"", index);
    for (int i = 0; i < count; i++) {
        page_format(plot->page, "%.1f,%.1f ", plot_x(plot, buckets[i].x),
                    plot_y(plot, buckets[i].high));
    }
    for (int i = count - 1; i >= 0; i--) {
        page_format(plot->page, "%.1f,%.1f ", plot_x(plot, buckets[i].x),
                    plot_y(plot, buckets[i].low));
    }
    page_put(plot->page, "\"/>\n");
}

static void plot_markers(const Plot *plot, int index, const Series *s, const Bucket *buckets,
                         int count) {
    for (int i = 0; i < count; i++) {
        page_format(plot->page,
                    "<circle class=\"dot s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>", index,
                    plot_x(plot, buckets[i].x), plot_y(plot, buckets[i].y));
        page_text(plot->page, s->name);
        page_format(plot->page, ", step %.0f: %.4g%s</title></circle>\n", buckets[i].x,
                    buckets[i].y, plot->suffix);
    }
}

static void plot_series(const Plot *plot, int index, const Series *s) {
    Bucket buckets[POINTS_MAX];
    int count = s->count < POINTS_MAX ? s->count : POINTS_MAX;
    for (int i = 0; i < count; i++) {
        int first = (int)((int64_t)s->count * i / count);
        int end = (int)((int64_t)s->count * (i + 1) / count);
        buckets[i] = bucket_of(s, first, end);
    }
    if (count < s->count) plot_band(plot, index, buckets, count);
    page_format(plot->page, "<polyline class=\"line s%d\" points=\"", index);
    for (int i = 0; i < count; i++) {
        page_format(plot->page, "%.1f,%.1f ", plot_x(plot, buckets[i].x),
                    plot_y(plot, buckets[i].y));
    }
    page_put(plot->page, "\"/>\n");
    if (count <= MARKERS_MAX) plot_markers(plot, index, s, buckets, count);
}

/* The points that can be drawn. */
static Series series_clean(Arena *arena, const Series *s) {
    double *x = arena_new_array(arena, double, s->count);
    double *y = arena_new_array(arena, double, s->count);
    int count = 0;
    for (int i = 0; i < s->count; i++) {
        if (!(fabs(s->x[i]) < VALUE_MAX && fabs(s->y[i]) < VALUE_MAX)) continue;
        x[count] = s->x[i];
        y[count++] = s->y[i];
    }
    return (Series){s->name, count, x, y};
}

static void limits_of(const double *values, int count, double *min, double *max) {
    for (int i = 0; i < count; i++) {
        *min = fmin(*min, values[i]);
        *max = fmax(*max, values[i]);
    }
}

static void legend_put(Page *page, const LineChart *chart, const Series *clean) {
    page_put(page, "<p class=\"legend\">");
    for (int i = 0; i < chart->series_count; i++) {
        if (!clean[i].count) continue;
        page_format(page, "<span><i class=\"s%d\"></i>", i);
        if (chart->series_count > 1) page_text(page, clean[i].name);
        page_format(page, "%s%.4g%s at the end</span>", chart->series_count > 1 ? ": " : "",
                    clean[i].y[clean[i].count - 1], chart->suffix);
    }
    page_put(page, "</p>\n");
}

void chart_lines(Page *page, const LineChart *chart) {
    Series clean[CHART_SERIES_MAX];
    double x[2] = {INFINITY, -INFINITY}, y[2] = {INFINITY, -INFINITY};
    for (int i = 0; i < chart->series_count; i++) {
        clean[i] = series_clean(page->arena, &chart->series[i]);
        limits_of(clean[i].x, clean[i].count, &x[0], &x[1]);
        limits_of(clean[i].y, clean[i].count, &y[0], &y[1]);
    }
    page_put(page, "<figure><figcaption>");
    page_text(page, chart->title);
    page_put(page, "</figcaption>\n");
    if (x[0] > x[1]) {
        page_put(page, "<p class=\"note\">No values.</p></figure>\n");
        return;
    }
    legend_put(page, chart, clean);
    Plot plot = {page, chart->suffix, axis_of(x[0], x[1], 6), axis_of(y[0], y[1], 5)};
    plot.y.min = floor(plot.y.min / plot.y.step) * plot.y.step;
    plot.y.max = ceil(plot.y.max / plot.y.step) * plot.y.step;
    if (plot.x.step < 1) { /* there are no half steps */
        plot.x.step = 1;
        plot.x.decimals = 0;
    }
    page_format(page, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    page_text(page, chart->title);
    page_put(page, " over steps\">\n");
    plot_grid(&plot);
    for (int i = chart->series_count - 1; i >= 0; i--) { /* the first on top */
        if (clean[i].count) plot_series(&plot, i, &clean[i]);
    }
    page_put(page, "</svg></figure>\n");
}

/* ---- Bars. ---- */

static void bar_put(Page *page, int panel, int row, double value, double largest) {
    if (!isfinite(value) || largest <= 0) return;
    int x = NAME_WIDTH + panel * PANEL_WIDTH, y = 24 + row * ROW;
    double width = fmax(1, fmax(0, value) / largest * (PANEL_WIDTH - 70));
    page_format(page,
                "<rect class=\"bar\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"14\" rx=\"2\"/>", x,
                y, width);
    page_format(page, "<text class=\"value\" x=\"%.1f\" y=\"%d\">%.3g</text>\n", x + width + 6,
                y + 11, value);
}

/* Names are cut at the front, where dotted names are alike. */
static void row_name_put(Page *page, const char *name, int row) {
    enum { NAME_MAX_CHARS = 30 };
    size_t length = strlen(name), cut = length > NAME_MAX_CHARS ? length - NAME_MAX_CHARS : 0;
    page_format(page, "<text class=\"name end\" x=\"%d\" y=\"%d\"><title>", NAME_WIDTH - 8,
                35 + row * ROW);
    page_text(page, name);
    page_put(page, cut ? "</title>\xe2\x80\xa6" : "</title>");
    while (cut && ((unsigned char)name[cut] & 0xc0) == 0x80) cut++; /* not within a character */
    page_text(page, name + cut);
    page_put(page, "</text>\n");
}

void chart_bars(Page *page, const BarChart *chart) {
    double largest[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        for (int row = 0; row < chart->count; row++) {
            double value = chart->values[i][row];
            if (isfinite(value)) largest[i] = fmax(largest[i], value);
        }
    }
    page_format(page, "<figure><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
                NAME_WIDTH + 2 * PANEL_WIDTH, 30 + chart->count * ROW);
    page_text(page, chart->titles[0]);
    page_put(page, " and ");
    page_text(page, chart->titles[1]);
    page_put(page, " of each layer\">\n");
    for (int i = 0; i < 2; i++) {
        int x = NAME_WIDTH + i * PANEL_WIDTH;
        page_format(page, "<text class=\"tick\" x=\"%d\" y=\"12\">", x);
        page_text(page, chart->titles[i]);
        page_format(page, "</text><line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"20\" y2=\"%d\"/>\n",
                    x, x, 24 + chart->count * ROW);
    }
    for (int row = 0; row < chart->count; row++) {
        row_name_put(page, chart->names[row], row);
        bar_put(page, 0, row, chart->values[0][row], largest[0]);
        bar_put(page, 1, row, chart->values[1][row], largest[1]);
    }
    page_put(page, "</svg></figure>\n");
}

/* ---- A matrix. ---- */

static void cell_put(Page *page, const MatrixChart *chart, int row, int column, double total,
                     double size) {
    int64_t value = chart->values[row * chart->count + column];
    if (!value) return;
    double share = (double)value / total, x = 130 + column * size, y = 24 + row * size;
    /* The root shows confusions of a few per cent beside a diagonal near one. */
    page_format(page, "<g><title>%lld of %.0f (%.1f%%): ", (long long)value, total, share * 100);
    page_text(page, chart->names[row]);
    page_put(page, row == column ? " recognised as " : " taken for ");
    page_text(page, chart->names[column]);
    page_format(page,
                "</title><rect class=\"cell\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
                "fill-opacity=\"%.3f\"/>",
                x, y, size - 1, size - 1, sqrt(share));
    if (chart->count <= LABELS_MAX) {
        page_format(page, "<text class=\"%s mid\" x=\"%.1f\" y=\"%.1f\">%lld</text>",
                    share > 0.3 ? "on" : "off", x + size / 2, y + size / 2 + 4, (long long)value);
    }
    page_put(page, "</g>\n");
}

static void class_name_put(Page *page, const char *name, double x, double y, const char *place,
                           int most) {
    page_format(page, "<text class=\"name %s\" x=\"%.1f\" y=\"%.1f\"><title>", place, x, y);
    page_text(page, name);
    page_put(page, "</title>");
    size_t count = strlen(name), kept = count > (size_t)most ? (size_t)most : count;
    while (kept < count && ((unsigned char)name[kept] & 0xc0) == 0x80) kept--;
    page_text(page, arena_format(page->arena, "%.*s", (int)kept, name));
    page_put(page, kept < count ? "\xe2\x80\xa6</text>\n" : "</text>\n");
}

void chart_matrix(Page *page, const MatrixChart *chart) {
    double size = chart->count <= LABELS_MAX ? 58 : fmax(5, 720.0 / chart->count);
    page_format(page,
                "<figure><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
                "aria-label=\"Confusion matrix\">\n",
                134 + size * chart->count, 28 + size * chart->count);
    for (int row = 0; row < chart->count; row++) {
        double total = 0;
        for (int i = 0; i < chart->count; i++) {
            total += (double)chart->values[row * chart->count + i];
        }
        if (chart->count <= LABELS_MAX) {
            class_name_put(page, chart->names[row], 124, 24 + (row + 0.5) * size + 4, "end", 16);
            class_name_put(page, chart->names[row], 130 + (row + 0.5) * size, 14, "mid", 8);
        }
        for (int column = 0; column < chart->count; column++) {
            cell_put(page, chart, row, column, total, size);
        }
    }
    page_put(page, "</svg></figure>\n");
}
