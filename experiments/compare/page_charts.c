#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/compare/page_parts.h"
#include "experiments/report/chart.h"

enum { TICKS_MAX = 64 };

/* Values further below the best, in points, are named at the lower edge: chance is far away. */
static const double DEPTH = 6;

/* ---- Groups as points. ---- */

/* Which groups a curve joins: one family's, and where that has several ways to quantize
 * activations, those of one way. */
typedef struct Curve {
    const char *family;
    double activation_bits; /* NAN: as the weights'; INFINITY: any */
    int colour;
    bool is_dashed;
} Curve;

/* Chosen layer by layer, or the same number. */
static bool is_as_weights(const PageGroup *group) {
    bool are_chosen = isnan(group->weight_bits) && isnan(group->activation_bits);
    return are_chosen || group->activation_bits == group->weight_bits;
}

static bool curve_has(const Curve *curve, const PageGroup *group) {
    if (group->is_fp32 || strcmp(group->family, curve->family)) return false;
    if (isinf(curve->activation_bits)) return true;
    if (isnan(curve->activation_bits)) return is_as_weights(group);
    return group->activation_bits == curve->activation_bits;
}

static const char *curve_name(const ComparisonPage *c, const Curve *curve) {
    const char *name = curve->family;
    double bits = curve->activation_bits;
    if (isinf(bits)) return name;
    if (isnan(bits)) return arena_format(c->arena, "%s, activations as weights", name);
    if (bits >= 32) return arena_format(c->arena, "%s, weights only", name);
    return arena_format(c->arena, "%s, %g-bit activations", name, bits);
}

/* The ways of a family: NAN where activations have the weights' bits, else the bits. */
static int ways_of(const ComparisonPage *c, const char *family, double *ways) {
    int count = 0;
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        double way = is_as_weights(group) ? NAN : group->activation_bits;
        if (group->is_fp32 || strcmp(group->family, family)) continue;
        int found = 0;
        while (found < count && ways[found] != way && !(isnan(ways[found]) && isnan(way))) found++;
        if (found == count) ways[count++] = way;
    }
    return count;
}

static int curves_of(const ComparisonPage *c, Curve *curves) {
    double *ways = arena_new_array(c->arena, double, c->group_count + 1);
    int count = 0;
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        bool is_new = !group->is_fp32;
        for (int k = 0; k < count; k++) is_new &= strcmp(curves[k].family, group->family) != 0;
        int way_count = is_new ? ways_of(c, group->family, ways) : 0;
        for (int k = 0; k < way_count; k++)
            curves[count++] =
                (Curve){group->family, way_count > 1 ? ways[k] : INFINITY, group->colour, k > 0};
    }
    return count;
}

static const char *said_of(const ComparisonPage *c, const PageGroup *group) {
    Page text = {.arena = c->arena};
    const Interval *a = &group->score;
    page_format(&text, "%s: %.2f\xe2\x80\xaf%%", group->label, 100 * a->mean);
    if (isfinite(a->low + a->high))
        page_format(&text, " (%.2f to %.2f)", 100 * a->low, 100 * a->high);
    if (isfinite(group->bits_per_weight))
        page_format(&text, ", %.2f bits per weight", group->bits_per_weight);
    if (group->bytes > 0) {
        page_put(&text, ", ");
        page_bytes(&text, group->bytes);
    }
    return text.text;
}

/* ---- Series. ---- */

typedef double (*Place)(const PageGroup *group, const ChartTick *ticks, int tick_count);

typedef struct Point {
    double x;
    const PageGroup *group;
} Point;

static int point_order(const void *a, const void *b) {
    const Point *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? -1 : 1;
    return p->group->index - q->group->index;
}

static Series series_of(const ComparisonPage *c, const char *name, const Point *points, int count) {
    double *numbers = arena_new_array(c->arena, double, 4 * count + 1);
    double *x = numbers, *y = x + count, *low = y + count, *high = low + count;
    const char **labels = arena_new_array(c->arena, const char *, count + 1);
    for (int i = 0; i < count; i++) {
        const PageGroup *group = points[i].group;
        x[i] = points[i].x;
        y[i] = 100 * group->score.mean;
        /* Student's t knows no bounds; NAN stays what it is. */
        low[i] = group->score.low < 0 ? 0 : 100 * group->score.low;
        high[i] = group->score.high > 1 ? 100 : 100 * group->score.high;
        labels[i] = said_of(c, group);
    }
    return (Series){
        .name = name, .count = count, .x = x, .y = y, .low = low, .high = high, .labels = labels};
}

static Series curve_series(const ComparisonPage *c, const Curve *curve, Place place,
                           const ChartTick *ticks, int tick_count) {
    Point *points = arena_new_array(c->arena, Point, c->group_count);
    int count = 0;
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        if (curve_has(curve, group))
            points[count++] = (Point){place(group, ticks, tick_count), group};
    }
    qsort(points, (size_t)count, sizeof *points, point_order);
    Series series = series_of(c, curve_name(c, curve), points, count);
    series.colour = curve->colour;
    series.is_dashed = curve->is_dashed;
    return series;
}

static void accuracy_chart(ComparisonPage *c, LineChart chart, Place place) {
    Curve *curves = arena_new_array(c->arena, Curve, c->group_count + 1);
    int count = curves_of(c, curves);
    Series *series = arena_new_array(c->arena, Series, count + 1);
    for (int i = 0; i < count; i++)
        series[i] = curve_series(c, &curves[i], place, chart.ticks, chart.tick_count);
    chart.series = series;
    chart.series_count = count;
    if (c->fp32) {
        const PageGroup *fp32 = c->fp32;
        Point point = {place(fp32, chart.ticks, chart.tick_count), fp32};
        series[count] = series_of(c, "FP32", &point, 1);
        chart.reference = (ChartReference){.name = "FP32",
                                           .value = 100 * fp32->score.mean,
                                           .low = series[count].low[0],
                                           .high = series[count].high[0]};
        series[count].colour = CHART_MUTED;
        chart.series_count++;
    }
    chart.suffix = "";
    chart.depth = DEPTH;
    chart.size = "tall";
    chart_lines(&c->page, &chart);
}

/* ---- Accuracy against bits: bit-widths that occur, evenly spaced. ---- */

/* Bits that were chosen layer by layer lie between those, by their mean. */
static double place_of_bits(const PageGroup *group, const ChartTick *ticks, int tick_count) {
    bool are_chosen = isnan(group->weight_bits);
    double bits = are_chosen ? group->bits_per_weight : group->weight_bits;
    for (int i = 0; i < tick_count; i++) {
        double at = strtod(ticks[i].name, NULL), before = i ? strtod(ticks[i - 1].name, NULL) : 0;
        if (bits == at) return i;
        if (are_chosen && bits < at) return i ? i - (at - bits) / (at - before) : 0;
    }
    return NAN;
}

static int bits_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int ticks_of_bits(const ComparisonPage *c, ChartTick ticks[TICKS_MAX]) {
    double *bits = arena_new_array(c->arena, double, c->group_count + 1);
    int found = 0, count = 0;
    for (int i = 0; i < c->group_count; i++)
        if (isfinite(c->groups[i].weight_bits)) bits[found++] = c->groups[i].weight_bits;
    qsort(bits, (size_t)found, sizeof *bits, bits_order);
    for (int i = 0; i < found && count < TICKS_MAX; i++) {
        if (i && bits[i] == bits[i - 1]) continue;
        ticks[count] = (ChartTick){count, arena_format(c->arena, "%g", bits[i])};
        count++;
    }
    return count;
}

/* ---- Accuracy against bytes, on a logarithmic axis. ---- */

static double place_of_bytes(const PageGroup *group, const ChartTick *ticks, int tick_count) {
    (void)ticks;
    (void)tick_count;
    return group->bytes > 0 ? log10(group->bytes) : NAN;
}

static const char *bytes_name(double bytes, Arena *arena) {
    Page text = {.arena = arena};
    page_bytes(&text, bytes);
    return text.text;
}

/* 1, 2 and 5 times powers of ten within the sizes that occur; powers alone where those are many. */
static int ticks_of_bytes(const ComparisonPage *c, ChartTick ticks[TICKS_MAX]) {
    static const double digits[] = {1, 2, 5};
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < c->group_count; i++) {
        double place = place_of_bytes(&c->groups[i], NULL, 0);
        low = fmin(low, place); /* NAN is passed over */
        high = fmax(high, place);
    }
    int count = 0, step = high - low > 2.2 ? 3 : 1;
    if (!(high >= low && high - low < 16)) return 0; /* none has a size, or one is nonsense */
    for (int power = (int)floor(low); power <= high; power++) {
        for (int i = 0; i < 3; i += step) {
            double bytes = digits[i] * pow(10, power), place = log10(bytes);
            bool is_near = place > low - 0.15 && place < high + 0.15;
            if (is_near && count < TICKS_MAX)
                ticks[count++] = (ChartTick){place, bytes_name(bytes, c->arena)};
        }
    }
    return count;
}

void page_charts_put(ComparisonPage *c) {
    ChartTick ticks[TICKS_MAX];
    if (!c->group_count || !c->task->has_confusion) return;
    page_put(&c->page, "<h2 id=\"charts\">Accuracy against bits and bytes</h2>\n");
    page_note(&c->page, "Whiskers are 95 % intervals; the dotted line and its band are FP32. "
                        "Values far below the rest stand at the lower edge.");
    page_put(&c->page, "<div class=\"charts\">\n");
    int count = ticks_of_bits(c, ticks);
    accuracy_chart(c,
                   (LineChart){.title = "Test accuracy (%) by weight bits",
                               .x_title = "bits of a weight",
                               .ticks = ticks,
                               .tick_count = count},
                   place_of_bits);
    count = ticks_of_bytes(c, ticks);
    accuracy_chart(c,
                   (LineChart){.title = "Test accuracy (%) by size",
                               .x_title = "size of the model, logarithmic",
                               .ticks = count ? ticks : NULL,
                               .tick_count = count},
                   place_of_bytes);
    page_put(&c->page, "</div>\n");
}
