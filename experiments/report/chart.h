/* Charts as inline SVG, in colours that the page's style sheet defines (report.c): they follow the
 * reader's light or dark mode. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_CHART_H
#define NIBBLE_EXPERIMENTS_REPORT_CHART_H

#include "experiments/report/page.h"

enum { CHART_SERIES_MAX = 2 };

typedef struct Series {
    const char *name;
    int count;
    const double *x, *y;
} Series;

/* Values over steps. Points that are not finite are left out; many points are drawn as averages
 * with a band from the least to the largest. A chart without points says so. */
typedef struct LineChart {
    const char *title;  /* with the unit of y */
    const char *suffix; /* of values and ticks: "%" */
    int series_count;
    Series series[CHART_SERIES_MAX];
} LineChart;

void chart_lines(Page *page, const LineChart *chart);

/* One horizontal bar a row in each of two panels, beside common names. */
typedef struct BarChart {
    int count;
    const char *const *names;
    const char *titles[2];   /* with units */
    const double *values[2]; /* [count]; NAN: no bar */
} BarChart;

void chart_bars(Page *page, const BarChart *chart);

/* Rows are true classes, columns predicted ones; the darker, the larger the row's share. */
typedef struct MatrixChart {
    int count;
    const char *const *names; /* [count] */
    const int64_t *values;    /* [count][count], not negative */
} MatrixChart;

void chart_matrix(Page *page, const MatrixChart *chart);

#endif
