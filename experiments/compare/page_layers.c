#include <math.h>
#include <string.h>

#include "experiments/compare/page_parts.h"
#include "experiments/report/chart.h"
#include "experiments/report/layer_table.h"
#include "experiments/report/table.h"

/* ---- Signal to noise, layers by rows. ---- */

/* Of the ground's colour: from none to all of it. */
static const double SQNR_GOOD = 45, SQNR_BAD = 5;

static bool has_layers(const PageGroup *group) {
    return !group->is_fp32 && group->evaluation && json_count(group->evaluation, "layers");
}

static const Json *layer_find(const Json *evaluation, const char *name) {
    for (int i = 0; i < json_count(evaluation, "layers"); i++) {
        const Json *layer = json_element(evaluation, "layers", i);
        const char *own = json_get_text(layer, "name");
        if (own && !strcmp(own, name)) return layer;
    }
    return NULL;
}

/* Every name that a row has, in the order of the first that has it. */
static int names_of(const ComparisonPage *c, const char ***names) {
    int most = 0, count = 0;
    for (int i = 0; i < c->group_count; i++)
        if (has_layers(&c->groups[i])) most += json_count(c->groups[i].evaluation, "layers");
    *names = arena_new_array(c->arena, const char *, most + 1);
    for (int i = 0; i < c->group_count; i++) {
        const Json *evaluation = c->groups[i].evaluation;
        for (int k = 0; has_layers(&c->groups[i]) && k < json_count(evaluation, "layers"); k++) {
            const char *name = json_get_text(json_element(evaluation, "layers", k), "name");
            int at = 0;
            while (name && at < count && strcmp((*names)[at], name)) at++;
            if (name && at == count) (*names)[count++] = name;
        }
    }
    return count;
}

static void layer_cell(Page *page, const Json *layer) {
    double sqnr = json_number(layer, "sqnr_db");
    double share = isnan(sqnr) ? 0 : (SQNR_GOOD - sqnr) / (SQNR_GOOD - SQNR_BAD);
    table_heat(page, sqnr, share, "%.1f");
}

void page_layers_put(ComparisonPage *c) {
    const char **names;
    Page *page = &c->page;
    int count = names_of(c, &names);
    if (!count) return;
    page_put(page, "<h2 id=\"layers\">Layers</h2>\n");
    page_note(page, "Signal to quantization noise of each layer's output, in dB, against the "
                    "shadow: the same weights with nothing quantized. The stronger the ground, "
                    "the more is lost; 6 dB are about one bit; a dash: exact, or no such layer.");
    page_put(page,
             "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Signal to "
             "noise by layer\"><table class=\"layers\"><thead><tr><th scope=\"col\">Layer</th>");
    for (int i = 0; i < c->group_count; i++) {
        if (!has_layers(&c->groups[i])) continue;
        page_put(page, "<th scope=\"col\" class=\"n\"><span>");
        page_text(page, c->groups[i].label);
        page_put(page, "</span></th>");
    }
    page_put(page, "</tr></thead><tbody>\n");
    for (int k = 0; k < count; k++) {
        page_put(page, "<tr><th scope=\"row\">");
        page_text(page, names[k]);
        page_put(page, "</th>");
        for (int i = 0; i < c->group_count; i++)
            if (has_layers(&c->groups[i]))
                layer_cell(page, layer_find(c->groups[i].evaluation, names[k]));
        page_put(page, "</tr>\n");
    }
    page_put(page, "</tbody></table></div>\n");
    if (!c->chosen || !has_layers(c->chosen)) return;
    page_put(page, "<h3>");
    page_name_put(page, c->chosen);
    page_put(page, "</h3>\n");
    layer_table_put(page, c->chosen->evaluation);
}

/* ---- Histograms. ---- */

static double *numbers_read(const Json *json, const char *name, int *count, Arena *arena) {
    enum { NUMBERS_MAX = 4096 };
    *count = json_count(json, name);
    if (*count > NUMBERS_MAX) *count = NUMBERS_MAX;
    double *numbers = arena_new_array(arena, double, *count + 1);
    for (int i = 0; i < *count; i++) {
        numbers[i] = json_number(json, arena_format(arena, "%s.%d", name, i));
        if (!isfinite(numbers[i])) numbers[i] = 0;
    }
    return numbers;
}

static const char *grid_words(const Json *histogram, int grid_count, Arena *arena) {
    const char *unit = json_get_text(histogram, "unit");
    const char *in = unit && !strcmp(unit, "step") ? ", in steps" : "";
    if (!grid_count) return arena_format(arena, "not quantized%s", in);
    return arena_format(arena, "%d values%s", grid_count, in);
}

static void histogram_put(ComparisonPage *c, const Json *json) {
    const char *layer = json_get_text(json, "layer"), *of = json_get_text(json, "of");
    int count, grid_count;
    double *counts = numbers_read(json, "counts", &count, c->arena);
    double *grid = numbers_read(json, "grid", &grid_count, c->arena);
    bool is_weight = of && !strcmp(of, "weight");
    for (int i = 0; i < count; i++) counts[i] = fmax(0, counts[i]);
    const char *title = arena_format(c->arena, "%s, %s", layer ? layer : "", of ? of : "");
    chart_histogram(&c->page, &(HistogramChart){.title = title,
                                                .note = grid_words(json, grid_count, c->arena),
                                                .low = json_number(json, "low"),
                                                .high = json_number(json, "high"),
                                                .count = count,
                                                .counts = counts,
                                                .grid_count = grid_count,
                                                .grid = grid,
                                                .colour = is_weight ? 0 : 2});
}

static void group_put(ComparisonPage *c, const PageGroup *group) {
    const Json *evaluation = group->evaluation;
    page_put(&c->page, "<div class=\"multiples narrow\">\n");
    for (int i = 0; i < json_count(evaluation, "histograms"); i++) {
        const Json *histogram = json_element(evaluation, "histograms", i);
        if (histogram) histogram_put(c, histogram);
    }
    page_put(&c->page, "</div>\n");
}

static bool has_histograms(const PageGroup *group) {
    return !group->is_fp32 && group->evaluation && json_count(group->evaluation, "histograms");
}

/* The row of which most is shown; else any that has histograms. */
static const PageGroup *histograms_first(const ComparisonPage *c) {
    const PageGroup *first = c->chosen && has_histograms(c->chosen) ? c->chosen : NULL;
    for (int i = 0; !first && i < c->group_count; i++)
        if (has_histograms(&c->groups[i])) first = &c->groups[i];
    return first;
}

void page_histograms_put(ComparisonPage *c) {
    Page *page = &c->page;
    const PageGroup *first = histograms_first(c);
    if (!first) return;
    const char *seen = json_get_text(first->evaluation, "activations_of");
    page_put(page, "<h2 id=\"histograms\">Weights and activations on their grids</h2>\n");
    page_note(page, "Heights are roots of counts. Lines are the values that codes can name, a grey "
                    "ground where they are too dense to tell apart; what lies on the coloured "
                    "ground is clipped. In steps: each value is divided by its channel's or "
                    "group's own scale.");
    if (seen) page_note(page, arena_format(c->arena, "Activations: %s.", seen));
    page_put(page, "<h3>");
    page_name_put(page, first);
    page_put(page, "</h3>\n");
    group_put(c, first);
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        if (group == first || !has_histograms(group)) continue;
        page_put(page, "<details class=\"more\"><summary>");
        page_name_put(page, group);
        page_put(page, "</summary>\n");
        group_put(c, group);
        page_put(page, "</details>\n");
    }
}
