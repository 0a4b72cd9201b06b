#include "experiments/report/layer_table.h"

#include <math.h>

#include "experiments/report/table.h"

typedef struct LayerColumn {
    const char *title, *format;
    const char *paths[2]; /* the first that is there */
    double factor;
    bool has_bar;
} LayerColumn;

static const LayerColumn columns[] = {
    {"Weight bits", "%.4g", {"bits", "weight_bits"}, 1, false},
    {"Activation bits", "%.4g", {"activation_bits"}, 1, false},
    {"SQNR, dB", "%.1f", {"sqnr_db"}, 1, true},
    {"Fitted, dB", "%.1f", {"fit.calibration_db"}, 1, false},
    {"Held out, dB", "%.1f", {"fit.held_out_db"}, 1, false},
    {"Cosine", "%.4f", {"cosine"}, 1, false},
    {"Largest error", "%.3g", {"error_max"}, 1, false},
    {"Mean error", "%.3g", {"error_mean"}, 1, false},
    {"Clipped weights, %", "%.2f", {"clipped_weight"}, 100, false},
    {"Clipped inputs, %", "%.2f", {"clipped_input"}, 100, false},
    {"Unused weight codes", "%.0f", {"unused_codes_weight"}, 1, false},
    {"Unused input codes", "%.0f", {"unused_codes_input"}, 1, false},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static double value_of(const Json *layer, const LayerColumn *column) {
    double value = json_number(layer, column->paths[0]);
    if (isnan(value) && column->paths[1]) value = json_number(layer, column->paths[1]);
    return value * column->factor;
}

/* The largest of a column; NAN: nothing is known. */
static double largest_of(const Json *json, const LayerColumn *column) {
    double largest = NAN;
    for (int i = 0; i < json_count(json, "layers"); i++)
        largest = fmax(largest, value_of(json_element(json, "layers", i), column));
    return largest;
}

static void layer_put(Page *page, const Json *layer, const double largest[COLUMNS]) {
    page_put(page, "<tr><th scope=\"row\">");
    page_text(page, json_get_text(layer, "name"));
    page_put(page, "</th>");
    for (int i = 0; i < COLUMNS; i++) {
        double value = value_of(layer, &columns[i]);
        if (isnan(largest[i])) continue;
        if (columns[i].has_bar) {
            table_bar(page, value, largest[i], columns[i].format);
        } else {
            table_number(page, value, columns[i].format);
        }
    }
    page_put(page, "</tr>\n");
}

void layer_table_put(Page *page, const Json *json) {
    double largest[COLUMNS];
    page_put(page, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Layers\">"
                   "<table class=\"results\"><thead><tr><th scope=\"col\">Layer</th>");
    for (int i = 0; i < COLUMNS; i++) {
        largest[i] = largest_of(json, &columns[i]);
        if (!isnan(largest[i]))
            page_format(page, "<th scope=\"col\" class=\"n\">%s</th>", columns[i].title);
    }
    page_put(page, "</tr></thead><tbody>\n");
    for (int i = 0; i < json_count(json, "layers"); i++) {
        const Json *layer = json_element(json, "layers", i);
        if (layer) layer_put(page, layer, largest);
    }
    page_put(page, "</tbody></table></div>\n");
}
