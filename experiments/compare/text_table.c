#include "experiments/compare/text_table.h"

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
    bool is_baseline = method_is_baseline(g->row->method);
    if (!isnan(g->train_seconds)) duration_print(g->train_seconds, seconds);
    return arena_format(
        arena, "%-*s %6s %7s %12s  %-19s %5s %5s %7s", label, g->row->label,
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
    const char *text = arena_format(arena,
                                    "accuracy: mean of %d seeds, 95 %% interval (Student's t)\n"
                                    "against FP32: points, paired by seed, 95 %% interval\n",
                                    seeds);
    if (is_by_rows) text = "against FP32: points; one seed: 95 % interval over test images\n";
    text = arena_format(arena, "%sp: McNemar's test over the test images\n", text);
    if (!has_recovered) return text;
    return arena_format(arena,
                        "%srec.: recovered of what PTQ at the same bits loses, if 2 points or "
                        "more\n",
                        text);
}

/* Whether neighbours share their bits of weights. */
static bool is_together(const Group *groups, int count, int i) {
    return i >= 0 && i + 1 < count && groups[i].row->weight_bits == groups[i + 1].row->weight_bits;
}

/* Those with a run that is done, in `out`; how many. */
static int finished(const Group *groups, int count, Group *out) {
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (groups[i].seeds) out[kept++] = groups[i];
    return kept;
}

/* An empty line around rows of the same bits. */
const char *text_table(const Group *all, int all_count, Arena *arena) {
    Group *groups = arena_new_array(arena, Group, all_count);
    int count = finished(all, all_count, groups), label = label_width(groups, count);
    const char *text =
        arena_format(arena, "%-*s %6s %7s %12s  %-19s %5s %5s %7s\n", label, "", "bits/w", "size",
                     "accuracy %", "against FP32", "p", "rec.", "time");
    for (int i = 0; i < count; i++) {
        bool is_new = i > 0 && !is_together(groups, count, i - 1);
        bool has_gap =
            is_new && (is_together(groups, count, i) || is_together(groups, count, i - 2));
        text = arena_format(arena, "%s%s%s\n", text, has_gap ? "\n" : "",
                            row_text(&groups[i], label, arena));
    }
    return arena_format(arena, "%s\n%s", text, notes_text(groups, count, arena));
}
