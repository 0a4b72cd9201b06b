/* Charts as inline SVG, in colours that the page's style sheet defines (page_style.h): they follow
 * the reader's light or dark mode. A plot is as wide as its figure while its text keeps its size:
 * places are per cents, and lines lie in an SVG of their own that is stretched. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_CHART_H
#define NIBBLE_EXPERIMENTS_REPORT_CHART_H

#include "experiments/report/page.h"

enum {
    CHART_COLOURS = 8, /* of series; more begin again */
    CHART_MUTED = -1,  /* grey: what others are compared with */
};

typedef struct Series {
    const char *name;
    int count;
    const double *x, *y;
    int colour;                /* 0 to CHART_COLOURS - 1, or CHART_MUTED */
    bool is_dashed;            /* a variant of the series in the same colour */
    bool has_band;             /* low to high is a band; else a whisker at each point */
    const double *low, *high;  /* [count], or NULL; NAN: none at this point */
    const char *const *labels; /* [count]: what is said of a point; or NULL */
} Series;

typedef struct ChartTick {
    double value;
    const char *name;
} ChartTick;

/* A level that series are compared with: a line across the plot, and a band. */
typedef struct ChartReference {
    const char *name; /* NULL: there is none */
    double value, low, high;
} ChartReference;

/* Values over x. Points that are not finite are left out; many points are drawn as averages with a
 * band from the least to the largest. A chart without points says so. */
typedef struct LineChart {
    const char *title;  /* with the unit of y */
    const char *suffix; /* of values and ticks: "%" */
    int series_count;
    const Series *series;
    const char *x_title;    /* NULL: x are steps, and the legend says the value at the end */
    const ChartTick *ticks; /* of x; NULL: round values */
    int tick_count;
    ChartReference reference;
    double depth; /* values further below the largest than that lie at the lower edge, and are
                     named there; 0: no limit */
    const double *limits; /* [2] of y, that the axis holds whatever the values; or NULL */
    const char *size;     /* class of the figure: "tall", "small"; NULL: as usual */
} LineChart;

void chart_lines(Page *page, const LineChart *chart);

/* The mark of a series of that colour, in a line of text. */
void chart_mark(Page *page, int colour);

/* How often values lie in equal parts of a range, and the grid that codes can name. Heights are
 * roots of counts, so that rare values are seen. What lies beyond the grid is shaded. */
typedef struct HistogramChart {
    const char *title, *note; /* the note in small print */
    double low, high;
    int count;
    const double *counts; /* [count], not negative */
    int grid_count;       /* 0: a float has no grid */
    const double *grid;   /* ascending */
    int colour;
} HistogramChart;

void chart_histogram(Page *page, const HistogramChart *chart);

#endif
