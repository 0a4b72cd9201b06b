/* What a person sees while a network trains: one line that moves on a terminal, plain lines at a
 * calm rhythm in a pipe or on a dumb terminal.
 *
 * Nothing here feeds back into what is computed. A Progress lives in its owner's memory, owns no
 * memory and borrows the stream. Call from one thread. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_PROGRESS_H
#define NIBBLE_EXPERIMENTS_REPORT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/log.h"
#include "experiments/train/task.h"

/* Where training stands. Quantities that are not known yet are NAN. */
typedef struct ProgressState {
    int64_t step;  /* steps done since the very beginning, before a resume too */
    int64_t epoch; /* the current one, from 1 */
    double loss, score /* the task's first, on the validation split */, learning_rate;
    int64_t samples; /* trained on since progress_begin */
} ProgressState;

typedef struct Progress {
    FILE *stream;
    const Task *task;        /* its words and its first score */
    double (*seconds)(void); /* monotonic; a test puts its own clock and times here after begin */
    bool is_live;            /* the line is rewritten in place */
    bool has_colour;         /* only with is_live */
    bool is_line_shown;      /* the cursor stands behind a live line */
    int64_t total_steps, epochs;
    int64_t first_step;       /* done before begin: not part of the rate */
    double started, shown;    /* seconds: at begin, and when a line was last written */
    double measured;          /* seconds: when the rate was last brought up to date */
    double samples_in_window; /* both decay with time, */
    double seconds_in_window; /* so that their ratio is the rate of late */
    ProgressState state;
} Progress;

enum {
    PROGRESS_COLUMNS = 80,      /* where the terminal does not tell its width */
    PROGRESS_PLAIN_SECONDS = 10 /* at most one plain line in this time, but for milestones */
};

/* `first_step` is 0 but for a resumed run; 0 `total_steps` or `epochs`: unknown. The terminal is
 * asked what it can do: NO_COLOR and TERM=dumb are respected. */
void progress_begin(Progress *progress, FILE *stream, int64_t first_step, int64_t total_steps,
                    int64_t epochs, const Task *task);

/* Cheap enough for every step: most calls only look at the clock. A milestone (the end of an epoch,
 * an evaluation) is always shown. */
void progress_update(Progress *progress, const ProgressState *state, bool is_milestone);

/* A line above the bar. A LogSink: log_set_sink(progress_message, progress). Control characters are
 * shown as '?'. */
void progress_message(void *progress, LogLevel level, const char *message);

/* Leaves the last line on the terminal and the cursor below it. */
void progress_end(Progress *progress);

/* "1:02:03", "4:05"; a day or more is "2d 3h". */
enum { DURATION_BYTES = 32 };
const char *duration_print(double seconds, char text[DURATION_BYTES]);

/* Of a stream: whether what is written to it can be written over, and its width. */
bool terminal_is_live(FILE *stream);
int terminal_columns(FILE *stream);

#endif
