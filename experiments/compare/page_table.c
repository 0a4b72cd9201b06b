#include <math.h>

#include "experiments/compare/page_parts.h"
#include "experiments/report/chart.h"
#include "experiments/report/table.h"
#include "experiments/report/text.h"

static const char heads[] =
    "<thead><tr><th scope=\"col\">Row</th><th scope=\"col\" class=\"n\">%s%s%s</th>"
    "<th scope=\"col\" class=\"n\">Difference to FP32, %s</th><th aria-hidden=\"true\"></th>"
    "<th scope=\"col\" class=\"n\">Recovered</th><th scope=\"col\" class=\"n\">Bits per weight</th>"
    "<th scope=\"col\" class=\"n\">Size</th><th scope=\"col\" class=\"n\">Time</th>"
    "</tr></thead>\n";

void page_name_put(Page *page, const PageGroup *group) {
    chart_mark(page, group->colour);
    page_put(page, "<span class=\"name\" title=\"");
    page_text(page, group->label);
    page_put(page, "\">");
    page_text(page, group->label);
    page_put(page, "</span>");
}

static void score_put(ComparisonPage *c, const Interval *interval) {
    Page *page = &c->page;
    const Score *score = c->score;
    page_put(page, "<td class=\"n\">");
    page_number(page, score->factor * interval->mean, score->decimals);
    double half = (interval->high - interval->low) / 2;
    if (isfinite(half))
        page_format(page, " <small>\xc2\xb1&#8239;%.*f</small>", score->decimals,
                    score->factor * half);
    page_put(page, "</td>");
}

static void difference_put(Page *page, const Interval *difference) {
    page_put(page, "<td class=\"n\">");
    page_points(page, difference->mean);
    if (isfinite(difference->low + difference->high)) {
        page_put(page, " <small>");
        page_points(page, difference->low);
        page_put(page, " to ");
        page_points(page, difference->high);
        page_put(page, "</small>");
    }
    page_put(page, "</td>");
}

/* An axis for the differences that one looks at: what loses very much lies at its end. */
static TableInterval axis_of_differences(const ComparisonPage *c) {
    static const double deepest = -0.04;
    TableInterval axis = {.min = -0.001, .max = 0.001};
    for (int i = 0; i < c->group_count; i++) {
        const Interval *d = &c->groups[i].difference;
        if (c->groups[i].is_fp32 || !isfinite(d->mean) || c->groups[i].loss > -deepest) continue;
        axis.min = fmin(axis.min, fmin(d->mean, d->low));
        axis.max = fmax(axis.max, fmax(d->mean, d->high));
    }
    axis.min = fmax(axis.min, 2 * deepest);
    axis.max = fmin(axis.max, -deepest);
    return axis;
}

static void group_put(ComparisonPage *c, const PageGroup *group, TableInterval axis) {
    Page *page = &c->page;
    page_put(page, group == c->chosen ? "<tr class=\"chosen\">" : "<tr>");
    page_put(page, "<th scope=\"row\">");
    page_name_put(page, group);
    page_put(page, "</th>");
    score_put(c, &group->score);
    Interval none = {NAN, NAN, NAN};
    const Interval *difference = group->is_fp32 ? &none : &group->difference;
    difference_put(page, difference);
    axis.mean = difference->mean;
    axis.low = difference->low;
    axis.high = difference->high;
    axis.colour = group->colour;
    table_interval(page, &axis);
    table_number(page, 100 * group->recovered, "%.0f&#8239;%%");
    table_number(page, group->bits_per_weight, "%.2f");
    page_put(page, "<td class=\"n\">");
    if (group->bytes > 0) page_bytes(page, group->bytes);
    page_put(page, "</td><td class=\"n\">");
    if (group->train_seconds > 0) page_duration(page, group->train_seconds);
    page_put(page, "</td></tr>\n");
}

/* Of all runs; NAN where they differ. */
static double epochs_of(const ComparisonPage *c) {
    double epochs = json_number(json_element(c->results, "rows", 0), "epochs");
    for (int i = 1; i < c->run_count; i++)
        if (json_number(json_element(c->results, "rows", i), "epochs") != epochs) return NAN;
    return epochs;
}

static void notes_put(ComparisonPage *c) {
    bool has_recovered = false, has_interval = false, is_by_rows = false;
    for (int i = 0; i < c->group_count; i++) {
        has_recovered |= isfinite(c->groups[i].recovered);
        has_interval |= isfinite(c->groups[i].score.high);
        is_by_rows |= c->groups[i].is_by_rows;
    }
    double epochs = epochs_of(c);
    page_put(&c->page, "<p class=\"note\">");
    if (epochs > 0)
        page_format(&c->page, "Trained for %.3g epoch%s. ", epochs, epochs == 1 ? "" : "s");
    const char *pairs = c->task->has_confusion ? "by test image (95&#8239;%, normal approximation)"
                                               : "by batch of the test split (95&#8239;%)";
    const char *one_seed = is_by_rows
                               ? arena_format(c->arena,
                                              "One seed: intervals are of the differences alone, "
                                              "paired %s. ",
                                              pairs)
                               : "One seed: there are no intervals. ";
    page_put(&c->page, has_interval
                           ? "Means over seeds with their 95&#8239;% intervals (Student's t); "
                             "differences are paired by seed. "
                           : one_seed);
    page_put(&c->page, "Bits per weight and size count scales and zero points; time is what "
                       "training took, or making a PTQ network of the FP32 one. ");
    if (has_recovered)
        page_put(&c->page, "Recovered: how much of what PTQ loses at the same bits is won back, "
                           "where that is two points or more. ");
    page_put(&c->page, "</p>\n");
}

void page_table_put(ComparisonPage *c) {
    Page *page = &c->page;
    TableInterval axis = axis_of_differences(c);
    double bits = NAN;
    bool is_open = false;
    if (!c->group_count) return;
    page_put(page, "<h2 id=\"results\">Results</h2>\n<div class=\"scroll\" tabindex=\"0\" "
                   "role=\"region\" aria-label=\"Results\"><table class=\"results\">");
    page_format(page, heads, text_capital(c->score->name, c->arena), *c->score->unit ? ", " : "",
                c->score->unit, c->points);
    for (int i = 0; i < c->group_count; i++) { /* rows of the same weight bits stand together */
        const PageGroup *group = &c->groups[i];
        bool is_next = !is_open || group->weight_bits != bits || i == 1;
        if (is_open && is_next) page_put(page, "</tbody>\n");
        if (is_next) page_put(page, "<tbody>\n");
        group_put(c, group, axis);
        bits = group->weight_bits;
        is_open = true;
    }
    page_put(page, "</tbody></table></div>\n");
    notes_put(c);
}
