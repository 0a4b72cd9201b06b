#include "experiments/report/table.h"

#include <math.h>
#include <stdio.h>

#include "experiments/report/chart.h"

enum {
    LABELS_MAX = 20,  /* a larger matrix has neither numbers nor names */
    HEAT_PERCENT = 62 /* of the colour in the ground: text on it can still be read */
};

static void number_put(Page *page, double value, const char *format) {
    char text[64];
    if (!(fabs(value) < 1e15)) { /* unknown, or nonsense */
        page_put(page, "\xe2\x80\x93");
        return;
    }
    snprintf(text, sizeof text, format, value);
    page_put(page, text);
}

static double share_of(double value, double largest) {
    return value > 0 && largest > 0 ? fmin(1, value / largest) : 0;
}

void table_number(Page *page, double value, const char *format) {
    page_put(page, "<td class=\"n\">");
    number_put(page, value, format);
    page_put(page, "</td>");
}

void table_bar(Page *page, double value, double largest, const char *format) {
    page_put(page, "<td class=\"n bar\">");
    number_put(page, value, format);
    page_format(page, "<i style=\"width:%.1f%%\"></i></td>", 100 * share_of(value, largest));
}

void table_heat(Page *page, double value, double share, const char *format) {
    double percent = HEAT_PERCENT * fmin(1, fmax(0, share));
    page_format(page, "<td class=\"n heat\" style=\"--v:%.0f%%\">", percent);
    number_put(page, value, format);
    page_put(page, "</td>");
}

/* ---- An interval. ---- */

static double place_of(const TableInterval *interval, double value) {
    double share = (value - interval->min) / (interval->max - interval->min);
    return 100 * fmin(1, fmax(0, share));
}

static void mean_put(Page *page, const TableInterval *interval) {
    double zero = place_of(interval, 0), mean = place_of(interval, interval->mean);
    int colour = interval->colour < 0 ? 0 : interval->colour % CHART_COLOURS;
    page_put(page, "<svg class=\"interval\" aria-hidden=\"true\">");
    page_format(page, "<line class=\"axis\" x1=\"%.1f%%\" x2=\"%.1f%%\" y1=\"0\" y2=\"100%%\"/>",
                zero, zero);
    if (isfinite(interval->low + interval->high)) {
        double low = place_of(interval, interval->low), high = place_of(interval, interval->high);
        page_format(page,
                    "<line class=\"line s%d\" x1=\"%.1f%%\" x2=\"%.1f%%\" y1=\"50%%\" "
                    "y2=\"50%%\"/>",
                    colour, low, high);
    }
    bool is_beyond = interval->mean < interval->min;
    page_format(page, "<use href=\"#%s0\" class=\"dot s%d\" x=\"%.1f%%\" y=\"50%%\"/></svg>",
                is_beyond ? "left" : "mark", colour, mean);
}

void table_interval(Page *page, const TableInterval *interval) {
    page_put(page, "<td class=\"interval\" aria-hidden=\"true\">");
    if (isfinite(interval->mean) && interval->max > interval->min) mean_put(page, interval);
    page_put(page, "</td>");
}

/* ---- The matrix of classes. ---- */

static void cell_put(Page *page, const ConfusionMatrix *matrix, int row, int column, double total) {
    int64_t value = matrix->values[row * matrix->count + column];
    if (!value) {
        page_put(page, "<td></td>");
        return;
    }
    double share = (double)value / total;
    page_format(page, "<td class=\"cell\" title=\"%lld of %.0f (%.1f%%): ", (long long)value, total,
                share * 100);
    page_text(page, matrix->names[row]);
    page_put(page, row == column ? " recognised as " : " taken for ");
    page_text(page, matrix->names[column]);
    /* The root shows confusions of a few per cent beside a diagonal near one. */
    page_format(page, "\" style=\"--v:%.0f%%\">", HEAT_PERCENT * sqrt(share));
    if (matrix->count <= LABELS_MAX) page_format(page, "%lld", (long long)value);
    page_put(page, "</td>");
}

static void names_put(Page *page, const ConfusionMatrix *matrix) {
    page_put(page, "<tr><td class=\"corner\"></td>");
    for (int i = 0; i < matrix->count; i++) {
        page_put(page, "<th scope=\"col\"><span>");
        page_text(page, matrix->names[i]);
        page_put(page, "</span></th>");
    }
    page_put(page, "</tr>\n");
}

void table_matrix(Page *page, const ConfusionMatrix *matrix) {
    bool is_named = matrix->count <= LABELS_MAX;
    page_put(page, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"");
    page_text(page, matrix->title);
    page_format(page, "\"><table class=\"matrix%s\"><caption>", is_named ? "" : " many");
    page_text(page, matrix->title);
    page_put(page, "</caption>\n");
    if (is_named) names_put(page, matrix);
    for (int row = 0; row < matrix->count; row++) {
        double total = 0;
        for (int i = 0; i < matrix->count; i++)
            total += (double)matrix->values[row * matrix->count + i];
        page_put(page, "<tr>");
        if (is_named) {
            page_put(page, "<th scope=\"row\">");
            page_text(page, matrix->names[row]);
            page_put(page, "</th>");
        }
        for (int column = 0; column < matrix->count; column++)
            cell_put(page, matrix, row, column, total);
        page_put(page, "</tr>\n");
    }
    page_put(page, "</table></div>\n");
}
