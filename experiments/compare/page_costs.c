#include <math.h>

#include "experiments/compare/page_parts.h"
#include "experiments/report/table.h"

static double cost_of(const ComparisonPage *c, const Json *evaluation, int layer, int width) {
    return json_number(json_element(evaluation, "costs", layer),
                       arena_format(c->arena, "kl.%d", width));
}

static double largest_of(const ComparisonPage *c, const Json *evaluation) {
    double largest = 0;
    for (int i = 0; i < json_count(evaluation, "costs"); i++)
        for (int j = 0; j < json_count(evaluation, "costs_bits"); j++)
            largest = fmax(largest, cost_of(c, evaluation, i, j));
    return largest;
}

static void row_put(ComparisonPage *c, const Json *evaluation, int layer, double largest) {
    Page *page = &c->page;
    const Json *cost = json_element(evaluation, "costs", layer);
    page_put(page, "<tr><th scope=\"row\">");
    page_text(page, json_get_text(cost, "layer"));
    page_put(page, "</th>");
    table_number(page, json_number(cost, "parameters"), "%.0f");
    for (int j = 0; j < json_count(evaluation, "costs_bits"); j++) {
        double kl = cost_of(c, evaluation, layer, j);
        table_heat(page, kl, largest > 0 && kl > 0 ? sqrt(kl / largest) : 0, "%.5f");
    }
    page_put(page, "</tr>\n");
}

void page_costs_put(ComparisonPage *c) {
    Page *page = &c->page;
    const Json *evaluation = page_data_costs(c);
    if (!evaluation) return;
    page_put(page, "<h2 id=\"costs\">What each layer costs</h2>\n");
    page_note(page, arena_format(c->arena,
                                 "KL divergence of the answers, in nats, when the weights of one "
                                 "layer alone are rounded to so many bits: of an FP32 run, over "
                                 "%.0f validation %s. A layer that costs much deserves more bits "
                                 "(quant.rules, or bits: auto).",
                                 json_number(evaluation, "costs_rows"), c->task->rows));
    page_put(page, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Costs by "
                   "layer\"><table class=\"layers\"><thead><tr><th scope=\"col\">Layer</th>"
                   "<th scope=\"col\" class=\"n\"><span>Weights</span></th>");
    for (int j = 0; j < json_count(evaluation, "costs_bits"); j++)
        page_format(page, "<th scope=\"col\" class=\"n\"><span>%.4g bits</span></th>",
                    json_number(evaluation, arena_format(c->arena, "costs_bits.%d", j)));
    page_put(page, "</tr></thead><tbody>\n");
    double largest = largest_of(c, evaluation);
    for (int i = 0; i < json_count(evaluation, "costs"); i++) row_put(c, evaluation, i, largest);
    page_put(page, "</tbody></table></div>\n");
}
