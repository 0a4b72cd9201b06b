#include "experiments/compare/board.h"

#include <math.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/print.h"
#include "experiments/compare/results.h"
#include "experiments/report/progress.h"
#include "experiments/train/environment.h"

enum { CELL = 10, LINES = 24, LABEL_MAX = 40, CELL_BYTES = 64 };

static const double LIVE_SECONDS = 0.25, PLAIN_SECONDS = 60; /* between two looks at a run */

double board_seconds(const Board *b) {
    return b->earlier + environment_seconds() - b->schedule->began;
}

/* "7 of 24 runs done, 12:40 so far, about 31:20 left" */
static void print_head(const Board *b) {
    char so_far[DURATION_BYTES], left[DURATION_BYTES];
    double seconds = schedule_left(b->schedule);
    print_to(b->stream, "%d of %d runs done, %s so far", schedule_count(b->schedule, RUN_DONE),
             b->schedule->run_count, duration_print(board_seconds(b), so_far));
    if (!isnan(seconds)) print_to(b->stream, ", about %s left", duration_print(seconds, left));
}

/* Without its unit. */
static const char *score_text(const CompareRun *run, char text[CELL_BYTES]) {
    const Score *score = &results_run_task(run)->scores[0];
    snprintf(text, CELL_BYTES, "%.*f", score->decimals,
             score->factor * json_number(run->result, score->key));
    return text;
}

static void cell_text(const CompareRun *run, char text[CELL_BYTES]) {
    double share = run->steps > 0 ? (double)run->step / (double)run->steps : 0;
    switch (run->state) {
    case RUN_WAITING:
        snprintf(text, CELL_BYTES, ".");
        break;
    case RUN_MAKING:
        if (run->steps > 0)
            snprintf(text, CELL_BYTES, "> %.0f%%", floor(100 * fmin(share, 1)));
        else
            snprintf(text, CELL_BYTES, "> ...");
        break;
    case RUN_EVALUATING:
        snprintf(text, CELL_BYTES, "> test");
        break;
    case RUN_DONE:
        score_text(run, text);
        break;
    case RUN_FAILED:
        snprintf(text, CELL_BYTES, "failed");
        break;
    }
}

/* ---- A terminal ---- */

static int terminal_lines(FILE *stream) {
    struct winsize size = {0};
    return !ioctl(fileno(stream), TIOCGWINSZ, &size) && size.ws_row > 0 ? size.ws_row : LINES;
}

static int label_width(const Comparison *c) {
    int width = 4;
    for (int i = 0; i < c->row_count; i++) {
        int length = (int)strlen(c->rows[i].label);
        if (length > width) width = length < LABEL_MAX ? length : LABEL_MAX;
    }
    return width;
}

/* The first of `shown` neighbours, `at` among them. */
static int window_start(int at, int shown, int all) {
    int first = at - shown / 2;
    if (first > all - shown) first = all - shown;
    return first < 0 ? 0 : first;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* As many rows and seeds as the terminal has room for, those at work among them. */
static void draw(Board *b, const CompareRun *at) {
    const Schedule *s = b->schedule;
    const Comparison *c = s->comparison;
    int index = (int)(at - s->runs), label = label_width(c);
    int seeds = smaller(c->seed_count, (terminal_columns(b->stream) - 1 - label) / CELL);
    int rows = smaller(c->row_count, terminal_lines(b->stream) - 4);
    seeds = seeds < 1 ? 1 : seeds;
    rows = rows < 1 ? 1 : rows;
    int first_seed = window_start(index / c->row_count, seeds, c->seed_count);
    int first_row = window_start(index % c->row_count, rows, c->row_count);
    if (b->shown_lines) fprintf(b->stream, "\x1b[%dA", b->shown_lines);
    fputs("\r", b->stream);
    print_head(b);
    fputs("\x1b[K\n", b->stream);
    print_to(b->stream, "%-*s", label, "");
    for (int i = 0; i < seeds; i++) {
        char text[CELL_BYTES];
        snprintf(text, sizeof text, "seed %ld", (long)c->seeds[first_seed + i]);
        print_to(b->stream, "%*s", CELL, text);
    }
    fputs("\x1b[K\n", b->stream);
    for (int i = 0; i < rows; i++) {
        print_to(b->stream, "%-*.*s", label, label, c->rows[first_row + i].label);
        for (int j = 0; j < seeds; j++) {
            char text[CELL_BYTES];
            cell_text(&s->runs[(first_seed + j) * c->row_count + first_row + i], text);
            print_to(b->stream, "%*s", CELL, text);
        }
        fputs("\x1b[K\n", b->stream);
    }
    fputs("\x1b[J", b->stream);
    fflush(b->stream);
    b->shown_lines = rows + 2;
}

/* ---- A pipe ---- */

static void print_change(const Board *b, const CompareRun *run) {
    char seconds[DURATION_BYTES], text[CELL_BYTES];
    if (run->state == RUN_EVALUATING) return;
    print_to(b->stream, "%s, seed %ld: ", run->row->label, (long)run->seed);
    if (run->state == RUN_MAKING) {
        fputs(run->first_step ? "goes on" : "begins", b->stream);
    } else if (run->state == RUN_FAILED) {
        print_to(b->stream, "failed: %s", run->failure);
    } else {
        const Score *score = &results_run_task(run)->scores[0];
        print_to(b->stream, "%s%s%s in %s; ", score_text(run, text), *score->unit ? " " : "",
                 score->unit, duration_print(run->seconds, seconds));
        print_head(b);
    }
    fputc('\n', b->stream);
    fflush(b->stream);
}

static void print_step(const Board *b, const CompareRun *run) {
    print_to(b->stream, "%s, seed %ld: step %ld of %ld; ", run->row->label, (long)run->seed,
             (long)run->step, (long)run->steps);
    print_head(b);
    fputc('\n', b->stream);
    fflush(b->stream);
}

/* ---- Both ---- */

void board_begin(Board *board, const Schedule *schedule, double earlier, FILE *stream) {
    *board = (Board){.schedule = schedule,
                     .stream = stream,
                     .earlier = earlier,
                     .is_live = terminal_is_live(stream),
                     .shown = environment_seconds()};
}

void board_watch(void *board, const CompareRun *run, bool has_changed) {
    Board *b = board;
    double now = environment_seconds();
    if (!has_changed && now - b->shown < (b->is_live ? LIVE_SECONDS : PLAIN_SECONDS)) return;
    b->shown = now;
    if (b->is_live)
        draw(b, run);
    else if (has_changed)
        print_change(b, run);
    else if (run->row->method->is_trained)
        print_step(b, run);
}

void board_end(Board *board) {
    if (board->shown_lines) fprintf(board->stream, "\x1b[%dA\r\x1b[J", board->shown_lines);
    board->shown_lines = 0;
    fflush(board->stream);
}
