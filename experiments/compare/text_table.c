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
static const char *score_text(const Group *g, Arena *arena) {
    const Score *score = &g->task->scores[0];
    double half = score->factor * (g->score.high - g->score.mean),
           mean = score->factor * g->score.mean;
    if (isnan(half)) return arena_format(arena, "%.*f", score->decimals, mean);
    return arena_format(arena, "%.*f +-%.*f", score->decimals, mean, score->decimals, half);
}

/* Points of accuracy; of a loss, per cent of what it is the logarithm of. */
static double shown_difference(const Group *g, double difference) {
    return 100 * (g->task->has_confusion ? difference : expm1(difference));
}

/* "-0.03 [-0.10 +0.04]" */
static const char *difference_text(const Group *g, Arena *arena) {
    double mean = shown_difference(g, g->difference.mean),
           low = shown_difference(g, g->difference.low),
           high = shown_difference(g, g->difference.high);
    if (isnan(mean)) return "";
    if (isnan(low)) return arena_format(arena, "%+.2f", mean);
    return arena_format(arena, "%+.2f [%+.2f %+.2f]", mean, low, high);
}

static const char *p_text(double p, Arena *arena) {
    return isnan(p) ? "" : p < 0.001 ? "<.001" : arena_format(arena, "%.3f", p);
}

/* What else there is to tell: of answers, whether they differ by chance and what is won back; of
 * other tasks, what the training takes. */
static const char *others_text(const Group *g, Arena *arena) {
    if (!g->task->has_confusion)
        return arena_format(
            arena, "%7s %9s", or_blank(g->peak_bytes, size_text(g->peak_bytes, arena)),
            or_blank(g->samples_per_second, arena_format(arena, "%.0f", g->samples_per_second)));
    return arena_format(arena, "%5s %5s",
                        method_is_baseline(g->row->method) ? "" : p_text(g->p, arena),
                        or_blank(g->recovered, arena_format(arena, "%.0f %%", 100 * g->recovered)));
}

static const char *row_text(const Group *g, int label, Arena *arena) {
    char seconds[DURATION_BYTES] = "";
    bool is_baseline = method_is_baseline(g->row->method);
    if (!isnan(g->train_seconds)) duration_print(g->train_seconds, seconds);
    return arena_format(
        arena, "%-*s %6s %7s %12s  %-19s %s %7s", label, g->row->label,
        or_blank(g->bits_per_weight, arena_format(arena, "%.2f", g->bits_per_weight)),
        or_blank(g->bytes, size_text(g->bytes, arena)), score_text(g, arena),
        is_baseline ? "" : difference_text(g, arena), others_text(g, arena), seconds);
}

static const char *head_text(const Task *task, int label, Arena *arena) {
    const Score *score = &task->scores[0];
    const char *name =
        *score->unit ? arena_format(arena, "%s %s", score->name, score->unit) : score->name;
    const char *others = task->has_confusion
                             ? arena_format(arena, "%5s %5s", "p", "rec.")
                             : arena_format(arena, "%7s %7s/s", "memory", task->samples);
    return arena_format(arena, "%-*s %6s %7s %12s  %-19s %s %7s\n", label, "", "bits/w", "size",
                        name, "against FP32", others, "time");
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
static const char *class_notes(const Group *groups, int count, Arena *arena) {
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

static const char *notes_text(const Group *groups, int count, Arena *arena) {
    if (!count) return "";
    if (groups[0].task->has_confusion) return class_notes(groups, count, arena);
    bool is_by_rows = false;
    for (int i = 0; i < count; i++) is_by_rows |= groups[i].is_by_rows;
    return arena_format(arena,
                        "against FP32: %% of the %s, paired by %s, 95 %% interval\n"
                        "memory: the peak of the process that trains\n",
                        groups[0].task->scores[0].name,
                        is_by_rows ? "batch of the test split" : "seed");
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
    const char *text = head_text(count ? groups[0].task : tasks[0], label, arena);
    for (int i = 0; i < count; i++) {
        bool is_new = i > 0 && !is_together(groups, count, i - 1);
        bool has_gap =
            is_new && (is_together(groups, count, i) || is_together(groups, count, i - 2));
        text = arena_format(arena, "%s%s%s\n", text, has_gap ? "\n" : "",
                            row_text(&groups[i], label, arena));
    }
    return arena_format(arena, "%s\n%s", text, notes_text(groups, count, arena));
}
