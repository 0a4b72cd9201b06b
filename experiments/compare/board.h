/* What a person sees while a comparison is at work: on a terminal a table of rows and seeds that
 * changes in place, in a pipe a line for each run that begins or ends. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_BOARD_H
#define NIBBLE_EXPERIMENTS_COMPARE_BOARD_H

#include <stdio.h>

#include "experiments/compare/schedule.h"

typedef struct Board {
    const Schedule *schedule;
    FILE *stream;
    double earlier; /* seconds that processes before this one took */
    bool is_live;
    int shown_lines; /* of the table on the terminal, above the cursor */
    double shown;    /* seconds: when it was last written */
} Board;

void board_begin(Board *board, const Schedule *schedule, double earlier, FILE *stream);
void board_watch(void *board, const CompareRun *run, bool has_changed); /* a ScheduleWatch */
void board_end(Board *board); /* takes the table from the terminal: the results follow */

/* Seconds that the comparison has taken, with those before. */
double board_seconds(const Board *board);

#endif
