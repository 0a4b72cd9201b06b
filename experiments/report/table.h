/* Cells of HTML tables that show a number as well as say it, and the matrix of classes. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_TABLE_H
#define NIBBLE_EXPERIMENTS_REPORT_TABLE_H

#include "experiments/report/page.h"

/* Each is one <td>; `format` is of a double. What is NAN, or beyond 1e15, is a dash. */
void table_number(Page *page, double value, const char *format);
/* With a bar under the number, full at `largest`. */
void table_bar(Page *page, double value, double largest, const char *format);
/* On a ground that is the stronger the larger `share`, 0 to 1. */
void table_heat(Page *page, double value, double share, const char *format);

/* A mean and its interval on an axis that the cells of a column share; 0 is marked. */
typedef struct TableInterval {
    double mean, low, high; /* low and high may be NAN */
    double min, max;        /* of the axis */
    int colour;             /* of a series (chart.h) */
} TableInterval;

void table_interval(Page *page, const TableInterval *interval);

/* Rows are true classes, columns predicted ones; the darker, the larger the row's share. */
typedef struct ConfusionMatrix {
    const char *title;
    int count;
    const char *const *names; /* [count] */
    const int64_t *values;    /* [count][count], not negative */
} ConfusionMatrix;

void table_matrix(Page *page, const ConfusionMatrix *matrix);

#endif
