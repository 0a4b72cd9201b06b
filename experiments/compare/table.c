#include "experiments/compare/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report/progress.h"

static const char *or_blank(double value, const char *text) {
    return isnan(value) ? "" : text;
}

/* "1.69 MB", "430 kB": three digits. */
static const char *size_text(double bytes, Arena *arena) {
    static const char *const units[] = {"B", "kB", "MB", "GB"};
    int unit = 0;
    for (; bytes >= 999.5 && unit < 3; unit++) bytes /= 1000;
    int decimals = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
    return arena_format(arena, "%.*f %s", decimals, bytes, units[unit]);
}

/* "92.91 +-0.12" */
static const char *accuracy_text(const Group *g, Arena *arena) {
    double half = 100 * (g->accuracy.high - g->accuracy.mean);
    if (isnan(half)) return arena_format(arena, "%.2f", 100 * g->accuracy.mean);
    return arena_format(arena, "%.2f +-%.2f", 100 * g->accuracy.mean, half);
}

/* "-0.03 [-0.10 +0.04]" */
static const char *difference_text(const Group *g, Arena *arena) {
    const Interval *d = &g->difference;
    if (isnan(d->mean)) return "";
    if (isnan(d->low)) return arena_format(arena, "%+.2f", 100 * d->mean);
    return arena_format(arena, "%+.2f [%+.2f %+.2f]", 100 * d->mean, 100 * d->low, 100 * d->high);
}

static const char *p_text(double p, Arena *arena) {
    return isnan(p) ? "" : p < 0.001 ? "<.001" : arena_format(arena, "%.3f", p);
}

static const char *row_text(const Group *g, int label, Arena *arena) {
    char seconds[DURATION_BYTES] = "";
    bool is_baseline =
        g->row->weight_bits == 32 && g->row->activation_bits == 32 && !g->row->method->has_bits;
    if (!isnan(g->train_seconds)) duration_print(g->train_seconds, seconds);
    return arena_format(
        arena, "%-*s %6s %7s %12s  %-21s %5s %5s %7s", label, g->row->label,
        or_blank(g->bits_per_weight, arena_format(arena, "%.2f", g->bits_per_weight)),
        or_blank(g->bytes, size_text(g->bytes, arena)), accuracy_text(g, arena),
        is_baseline ? "" : difference_text(g, arena), is_baseline ? "" : p_text(g->p, arena),
        or_blank(g->recovered, arena_format(arena, "%.0f %%", 100 * g->recovered)), seconds);
}

static int label_width(const Group *groups, int count) {
    int width = 8;
    for (int i = 0; i < count; i++) {
        int length = (int)strlen(groups[i].row->label);
        width = length > width ? length : width;
    }
    return width;
}

/* What the columns are, in words, as far as there is something in them. */
static const char *notes_text(const Group *groups, int count, Arena *arena) {
    bool is_by_rows = false, has_recovered = false;
    int seeds = 0;
    for (int i = 0; i < count; i++) {
        is_by_rows |= groups[i].is_by_rows;
        has_recovered |= !isnan(groups[i].recovered);
        seeds = groups[i].seeds > seeds ? groups[i].seeds : seeds;
    }
    const char *text =
        seeds > 1 ? arena_format(arena,
                                 "Means over %d seeds with 95 %% intervals (Student's t); against "
                                 "FP32 in points, paired by\nseed.",
                                 seeds)
                  : "One seed: no interval of the accuracy.";
    if (is_by_rows)
        text = arena_format(arena,
                            "%s Against FP32 in points, with the 95 %% interval over\ntest images, "
                            "paired.",
                            text);
    text = arena_format(arena, "%s p: McNemar's test over the test images.", text);
    if (has_recovered)
        text = arena_format(arena,
                            "%s\nrec.: share of the loss of PTQ at the same bits that is "
                            "won back, where PTQ loses 2 points or more.",
                            text);
    return arena_format(arena, "%s\n", text);
}

/* An empty line before other bits of weights. */
const char *table_text(const Group *groups, int count, Arena *arena) {
    int label = label_width(groups, count);
    const char *text =
        arena_format(arena, "%-*s %6s %7s %12s  %-21s %5s %5s %7s\n", label, "", "bits/w", "size",
                     "accuracy %", "against FP32 [95 %]", "p", "rec.", "time");
    double bits = NAN;
    for (int i = 0; i < count; i++) {
        const Group *g = &groups[i];
        if (!g->seeds) continue;
        const char *gap = !isnan(bits) && bits != g->row->weight_bits ? "\n" : "";
        text = arena_format(arena, "%s%s%s\n", text, gap, row_text(g, label, arena));
        bits = g->row->weight_bits;
    }
    return arena_format(arena, "%s\n%s", text, notes_text(groups, count, arena));
}
