#include <math.h>

#include "experiments/report/chart.h"

enum {
    SPACE = 20, /* thousandths of the width between lines of a grid that can still be told apart */
};

/* In thousandths of the plot's width. */
static double place_of(const HistogramChart *chart, double value) {
    double share = (value - chart->low) / (chart->high - chart->low);
    return 1000 * fmin(1, fmax(0, share));
}

static void bars_put(Page *page, const HistogramChart *chart) {
    double largest = 0, width = 1000.0 / chart->count;
    for (int i = 0; i < chart->count; i++) largest = fmax(largest, chart->counts[i]);
    if (!(largest > 0)) return;
    page_format(page, "<path class=\"bars s%d\" d=\"M0 1000", chart->colour % CHART_COLOURS);
    for (int i = 0; i < chart->count; i++) {
        double height = 940 * sqrt(chart->counts[i] / largest);
        page_format(page, "V%.0fH%.1f", 1000 - height, (i + 1) * width);
    }
    page_put(page, "V1000Z\"/>");
}

static void shade_put(Page *page, double first, double last) {
    if (last - first < 1) return;
    page_format(page, "<rect class=\"beyond\" x=\"%.1f\" width=\"%.1f\" y=\"0\" height=\"1000\"/>",
                first, last - first);
}

static bool is_seen(const HistogramChart *chart, double value) {
    return value >= chart->low && value <= chart->high;
}

static void grid_put(Page *page, const HistogramChart *chart) {
    if (!chart->grid_count) return;
    double first = place_of(chart, chart->grid[0]);
    double last = place_of(chart, chart->grid[chart->grid_count - 1]);
    shade_put(page, 0, first);
    shade_put(page, last, 1000);
    int seen = 0;
    for (int i = 0; i < chart->grid_count; i++) seen += is_seen(chart, chart->grid[i]);
    if ((last - first) < SPACE * seen) {
        page_format(page,
                    "<rect class=\"dense\" x=\"%.1f\" width=\"%.1f\" y=\"0\" height=\"1000\"/>",
                    first, fmax(1, last - first));
        return;
    }
    page_put(page, "<path class=\"lines\" d=\"");
    for (int i = 0; i < chart->grid_count; i++) {
        if (is_seen(chart, chart->grid[i]))
            page_format(page, "M%.1f 0V1000", place_of(chart, chart->grid[i]));
    }
    page_put(page, "\"/>");
}

static void end_put(Page *page, const HistogramChart *chart, double value, const char *place) {
    page_format(page, "<text class=\"tick %s\" x=\"%.2f%%\" y=\"100%%\" dy=\"15\">%.3g</text>",
                place, place_of(chart, value) / 10, value);
}

void chart_histogram(Page *page, const HistogramChart *chart) {
    page_put(page, "<figure class=\"chart tiny\"><figcaption>");
    page_text(page, chart->title);
    page_put(page, "</figcaption>\n");
    page_note(page, chart->note);
    if (!(chart->high > chart->low) || !isfinite(chart->high - chart->low) || chart->count < 1) {
        page_put(page, "<p class=\"note\">No values.</p></figure>\n");
        return;
    }
    page_put(page, "<svg class=\"plot\" role=\"img\" aria-label=\"Histogram: ");
    page_text(page, chart->title);
    page_format(page, ", from %.3g to %.3g", chart->low, chart->high);
    if (chart->grid_count)
        page_format(page, ", grid from %.3g to %.3g", chart->grid[0],
                    chart->grid[chart->grid_count - 1]);
    page_put(page, "\"><svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\">");
    bars_put(page, chart);
    grid_put(page, chart);
    page_put(page, "</svg><line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/>");
    end_put(page, chart, chart->low, "start");
    double middle = place_of(chart, 0);
    if (middle > 300 && middle < 700) end_put(page, chart, 0, "mid");
    end_put(page, chart, chart->high, "end");
    page_put(page, "</svg></figure>\n");
}
