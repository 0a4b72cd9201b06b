/* Where charts put what they draw. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "experiments/report/chart.h"
#include "experiments/report/table.h"
#include "tests/html.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

static const char *drawn(const LineChart *chart) {
    Page page = {.arena = arena};
    chart_lines(&page, chart);
    assert_html(page.text);
    assert_null(strstr(page.text, "nan"));
    return page.text;
}

static void assert_has(const char *html, const char *part) {
    if (!strstr(html, part)) fail_msg("no %s in\n%s", part, html);
}

/* x 0 to 10 with ticks, so 6 % of room on both sides; y 80 to 100. */
static LineChart chart_of(const Series *series, int count) {
    static const ChartTick ticks[] = {{0, "none"}, {10, "<ten>"}};
    return (LineChart){.title = "T & t",
                       .suffix = "%",
                       .series = series,
                       .series_count = count,
                       .x_title = "x",
                       .ticks = ticks,
                       .tick_count = 2};
}

static void points_lie_where_they_should(void **state) {
    (void)state;
    Series series = {
        .name = "a", .count = 3, .x = (double[]){0, 5, 10}, .y = (double[]){80, 95, 100}};
    LineChart chart = chart_of(&series, 1);
    const char *html = drawn(&chart);
    /* 0.6 / 11.2 of the width, and 10.6 / 11.2 */
    assert_has(html, "points=\"53.6,1000.0 500.0,250.0 946.4,0.0 \"");
    assert_has(html, "x=\"5.36%\" y=\"100%\" dy=\"17\">none</text>");
    assert_has(html, "x=\"94.64%\" y=\"100%\" dy=\"17\">&lt;ten&gt;</text>");
    assert_has(html, "y=\"25.00%\" dy=\".35em\">95%</text>");
    assert_has(html, "aria-label=\"T &amp; t, over x\"");
    assert_has(html, "<desc>a: 3 points, from 80% to 100%. </desc>");
}

/* Labels are said of points, and in the description. */
static void labels_are_said(void **state) {
    (void)state;
    Series series = {.name = "a",
                     .count = 2,
                     .x = (double[]){0, 10},
                     .y = (double[]){80, 100},
                     .labels = (const char *[]){"<one>", "two"}};
    LineChart chart = chart_of(&series, 1);
    const char *html = drawn(&chart);
    assert_has(html, "<title>&lt;one&gt;</title>");
    assert_has(html, "<desc>a: &lt;one&gt;. two. </desc>");
}

static void whiskers_span_intervals(void **state) {
    (void)state;
    Series series[2] = {{.name = "a",
                         .count = 2,
                         .x = (double[]){0, 10},
                         .y = (double[]){85, 95},
                         .low = (double[]){80, NAN},
                         .high = (double[]){90, NAN}},
                        {.name = "b",
                         .count = 1,
                         .colour = 1,
                         .x = (double[]){0},
                         .y = (double[]){100},
                         .low = (double[]){NAN},
                         .high = (double[]){NAN}}};
    LineChart chart = chart_of(series, 2);
    const char *html = drawn(&chart);
    assert_int_equal(html_count(html, "href=\"#cap\""), 2); /* NAN: no interval is known */
    assert_has(html, "x1=\"5.36%\" x2=\"5.36%\" y1=\"100.00%\" y2=\"50.00%\"");
    /* side by side, so that whiskers at one x are told apart */
    assert_has(html, "<g transform=\"translate(-2.5 0)\">");
    assert_has(html, "<g transform=\"translate(2.5 0)\">");
    series[0].has_band = series[1].has_band = true;
    html = drawn(&chart);
    assert_int_equal(html_count(html, "href=\"#cap\""), 0);
    assert_has(html,
               "class=\"band s0\" points=\"53.6,500.0 946.4,250.0 946.4,250.0 53.6,1000.0 \"");
    assert_has(html, "translate(0.0 0)");
}

/* What lies far below the rest stands at the lower edge with its value, one above the other. */
static void deep_values_stand_at_the_edge(void **state) {
    (void)state;
    Series series[2] = {
        {.name = "a", .count = 2, .x = (double[]){0, 10}, .y = (double[]){10, 100}},
        {.name = "b", .count = 2, .colour = 1, .x = (double[]){0, 10}, .y = (double[]){20, 100}}};
    LineChart chart = chart_of(series, 2);
    assert_null(strstr(drawn(&chart), "#below0"));
    chart.depth = 20;
    const char *html = drawn(&chart);
    assert_has(html, ">80%</text>");
    assert_null(strstr(html, ">60%</text>"));
    assert_int_equal(html_count(html, "href=\"#below0\""), 2);
    assert_has(html, "y=\"100.00%\" dy=\"-16\">10%</text>");
    assert_has(html, "y=\"100.00%\" dy=\"-30\">20%</text>");
}

/* Nor does an interval that is wide make the axis: it goes on beyond the plot, without a cap. */
static void wide_intervals_are_cut(void **state) {
    (void)state;
    Series series = {.name = "a",
                     .count = 2,
                     .x = (double[]){0, 10},
                     .y = (double[]){90, 100},
                     .low = (double[]){0, 99},
                     .high = (double[]){200, 101}};
    LineChart chart = chart_of(&series, 1);
    chart.depth = 12;
    const char *html = drawn(&chart); /* 85 to 105 */
    assert_has(html, ">105%</text>");
    assert_null(strstr(html, ">110%</text>"));
    assert_has(html, "y1=\"100.00%\" y2=\"0.00%\"");
    assert_int_equal(html_count(html, "href=\"#cap\""), 2);
}

static void references_cross_the_plot(void **state) {
    (void)state;
    Series series = {.name = "a", .count = 2, .x = (double[]){0, 10}, .y = (double[]){80, 85}};
    LineChart chart = chart_of(&series, 1);
    chart.reference = (ChartReference){"FP<32", 90, 85, 100};
    const char *html = drawn(&chart);
    assert_has(html, "class=\"ref\" x1=\"0\" x2=\"100%\" y1=\"50.00%\" y2=\"50.00%\"");
    assert_has(html, "class=\"refband\" x=\"0\" width=\"100%\" y=\"0.00%\" height=\"75.00%\"");
    assert_has(html, "FP&lt;32: 90%</span>");
    chart.reference.low = NAN;
    assert_null(strstr(drawn(&chart), "refband"));
}

/* An axis that several charts share. */
static void limits_hold_whatever_the_values(void **state) {
    (void)state;
    Series series = {.name = "a", .count = 2, .x = (double[]){0, 10}, .y = (double[]){90, 91}};
    LineChart chart = chart_of(&series, 1);
    chart.limits = (double[]){50, 1e300}; /* and nonsense is passed over */
    assert_has(drawn(&chart), ">50%</text>");
}

static void small_charts_have_few_marks(void **state) {
    (void)state;
    double x[20], y[20];
    for (int i = 0; i < 20; i++) x[i] = y[i] = i;
    Series series = {.name = "a", .count = 20, .x = x, .y = y};
    LineChart chart = {.title = "t", .suffix = "", .series = &series, .series_count = 1};
    assert_int_equal(html_count(drawn(&chart), "<title>"), 20);
    chart.size = "small";
    assert_int_equal(html_count(drawn(&chart), "<title>"), 0);
}

static void histograms_show_the_grid(void **state) {
    (void)state;
    Page page = {.arena = arena};
    HistogramChart chart = {.title = "w",
                            .note = "n",
                            .low = -2,
                            .high = 2,
                            .count = 4,
                            .counts = (double[]){0, 4, 16, 1},
                            .grid_count = 3,
                            .grid = (double[]){-1, 0, 1}};
    chart_histogram(&page, &chart);
    assert_html(page.text);
    assert_has(page.text, "d=\"M0 1000V1000H250.0V530H500.0V60H750.0V765H1000.0V1000Z\"");
    assert_has(page.text, "M250.0 0V1000M500.0 0V1000M750.0 0V1000\"");
    assert_has(page.text, "class=\"beyond\" x=\"0.0\" width=\"250.0\"");
    assert_has(page.text, "class=\"beyond\" x=\"750.0\" width=\"250.0\"");
    assert_has(page.text, "aria-label=\"Histogram: w, from -2 to 2, grid from -1 to 1\"");
    /* a grid that cannot be told apart is a ground; one that is not there is none */
    double dense[256];
    for (int i = 0; i < 256; i++) dense[i] = -1 + i / 127.5;
    page = (Page){.arena = arena};
    chart.grid = dense;
    chart.grid_count = 256;
    chart_histogram(&page, &chart);
    assert_has(page.text, "class=\"dense\" x=\"250.0\" width=\"500.0\"");
    assert_null(strstr(page.text, "class=\"lines\""));
    page = (Page){.arena = arena};
    chart.grid_count = 0;
    chart_histogram(&page, &chart);
    assert_null(strstr(page.text, "beyond"));
    page = (Page){.arena = arena};
    chart.high = NAN;
    chart_histogram(&page, &chart);
    assert_has(page.text, "No values.");
}

static void cells_show_their_numbers(void **state) {
    (void)state;
    Page page = {.arena = arena};
    table_bar(&page, 5, 20, "%.1f");
    table_heat(&page, 5, 0.5, "%.1f");
    table_heat(&page, NAN, -3, "%.1f");
    table_number(&page, 1e300, "%.2f");
    table_interval(&page, &(TableInterval){.mean = 0.5, .low = 0, .high = 1, .min = -1, .max = 1});
    assert_html(page.text);
    assert_has(page.text, "<td class=\"n bar\">5.0<i style=\"width:25.0%\"></i></td>");
    assert_has(page.text, "style=\"--v:31%\">5.0</td>"); /* half of 62 */
    assert_has(page.text, "style=\"--v:0%\">\xe2\x80\x93</td>");
    assert_has(page.text, "<td class=\"n\">\xe2\x80\x93</td>");
    assert_has(page.text, "x1=\"50.0%\" x2=\"100.0%\" y1=\"50%\" y2=\"50%\"");
    assert_has(page.text, "x=\"75.0%\" y=\"50%\"");
    page = (Page){.arena = arena};
    table_interval(&page,
                   &(TableInterval){.mean = -5, .low = NAN, .high = NAN, .min = -1, .max = 1});
    assert_has(page.text, "href=\"#left0\" class=\"dot s0\" x=\"0.0%\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(points_lie_where_they_should, set_up, tear_down),
        cmocka_unit_test_setup_teardown(labels_are_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(whiskers_span_intervals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(deep_values_stand_at_the_edge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wide_intervals_are_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(references_cross_the_plot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(limits_hold_whatever_the_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(small_charts_have_few_marks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(histograms_show_the_grid, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cells_show_their_numbers, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
