#include "experiments/report/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/print.h"
#include "experiments/train/environment.h"

enum { COLUMNS_MAX = 400, BAR_MIN = 8, BAR_MAX = 30 };

static const double LIVE_SECONDS = 0.1; /* between two redraws: fast for an eye, free for a CPU */
static const double RATE_SECONDS = 5;   /* how fast the rate forgets */

/* One part of the line. When the terminal is narrow, parts of low worth are left out first. */
typedef struct Piece {
    int worth;
    char text[64];
} Piece;

typedef struct Pieces {
    int count;
    Piece items[10];
} Pieces;

static Piece *pieces_add(Pieces *pieces, int worth) {
    Piece *piece = &pieces->items[pieces->count++];
    piece->worth = worth;
    return piece;
}

#define PIECE(pieces, worth, ...)                                                                  \
    do {                                                                                           \
        Piece *piece_ = pieces_add((pieces), (worth));                                             \
        snprintf(piece_->text, sizeof piece_->text, __VA_ARGS__);                                  \
    } while (0)

const char *duration_print(double seconds, char text[DURATION_BYTES]) {
    long whole = lround(fmin(fmax(seconds, 0), 1e9));
    if (whole >= 86400) {
        snprintf(text, DURATION_BYTES, "%ldd %ldh", whole / 86400, whole / 3600 % 24);
    } else if (whole >= 3600) {
        snprintf(text, DURATION_BYTES, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60,
                 whole % 60);
    } else {
        snprintf(text, DURATION_BYTES, "%ld:%02ld", whole / 60, whole % 60);
    }
    return text;
}

static double progress_fraction(const Progress *p) {
    if (p->total_steps <= 0) return 0;
    return fmin(1, fmax(0, (double)p->state.step / (double)p->total_steps));
}

static void progress_add_counts(const Progress *p, Pieces *pieces) {
    const ProgressState *s = &p->state;
    if (p->epochs > 0) {
        PIECE(pieces, 3, "epoch %lld/%lld", (long long)s->epoch, (long long)p->epochs);
    } else if (s->epoch > 0) {
        PIECE(pieces, 3, "epoch %lld", (long long)s->epoch);
    }
    if (p->total_steps > 0) {
        PIECE(pieces, 6, "step %lld/%lld", (long long)s->step, (long long)p->total_steps);
        PIECE(pieces, 8, "%3.0f%%", floor(progress_fraction(p) * 100));
    } else {
        PIECE(pieces, 6, "step %lld", (long long)s->step);
    }
}

/* The time left, from the average since the start: pauses for evaluations and saves count too. */
static void progress_add_time(const Progress *p, Pieces *pieces, double now) {
    char text[DURATION_BYTES];
    double elapsed = now - p->started;
    int64_t done = p->state.step - p->first_step, left = p->total_steps - p->state.step;
    if (p->total_steps > 0 && left <= 0) {
        PIECE(pieces, 7, "took %s", duration_print(elapsed, text));
    } else if (p->total_steps > 0 && done > 0) {
        PIECE(pieces, 7, "ETA %s", duration_print(elapsed / (double)done * (double)left, text));
    }
}

static void progress_add_values(const Progress *p, Pieces *pieces, double now) {
    const ProgressState *s = &p->state;
    const Score *score = &p->task->scores[0];
    if (!isnan(s->loss)) PIECE(pieces, 5, "loss %.4g", s->loss);
    if (!isnan(s->score))
        PIECE(pieces, 4, "%s %.*f%s", score->short_name, score->decimals, s->score * score->factor,
              score->unit);
    if (!isnan(s->learning_rate)) PIECE(pieces, 1, "lr %.3g", s->learning_rate);
    if (p->seconds_in_window > 0) {
        double rate = p->samples_in_window / p->seconds_in_window;
        PIECE(pieces, 2, "%.*f %s/s", rate < 10, rate, p->task->samples);
    }
    progress_add_time(p, pieces, now);
}

static int pieces_width(const Pieces *pieces) {
    int width = 0;
    for (int i = 0; i < pieces->count; i++) width += (int)strlen(pieces->items[i].text) + 2;
    return width > 0 ? width - 2 : 0;
}

static void pieces_fit(Pieces *pieces, int columns) {
    while (pieces->count > 0 && pieces_width(pieces) > columns) {
        int least = 0;
        for (int i = 1; i < pieces->count; i++) {
            if (pieces->items[i].worth < pieces->items[least].worth) least = i;
        }
        pieces->count--;
        memmove(&pieces->items[least], &pieces->items[least + 1],
                sizeof(Piece) * (size_t)(pieces->count - least));
    }
}

static void pieces_print(const Pieces *pieces, FILE *stream) {
    for (int i = 0; i < pieces->count; i++) {
        print_to(stream, "%s%s", i ? "  " : "", pieces->items[i].text);
    }
}

static void bar_print(const Progress *p, int width) {
    int inside = width - 2, filled = (int)(progress_fraction(p) * inside);
    fputc('[', p->stream);
    if (p->has_colour) fputs("\x1b[32m", p->stream);
    for (int i = 0; i < inside; i++) fputc(i < filled ? '=' : i == filled ? '>' : ' ', p->stream);
    if (p->has_colour) fputs("\x1b[0m", p->stream);
    fputs("]  ", p->stream);
}

int terminal_columns(FILE *stream) {
    struct winsize size = {0};
    int columns = PROGRESS_COLUMNS;
    if (!ioctl(fileno(stream), TIOCGWINSZ, &size) && size.ws_col > 0) columns = size.ws_col;
    return columns < COLUMNS_MAX ? columns : COLUMNS_MAX;
}

static void progress_draw(Progress *p, double now) {
    Pieces pieces = {0};
    progress_add_counts(p, &pieces);
    progress_add_values(p, &pieces, now);
    if (p->is_live) {
        int columns = terminal_columns(p->stream) - 1; /* in the last column some terminals wrap */
        pieces_fit(&pieces, columns);
        int room = columns - pieces_width(&pieces) - 2;
        fputc('\r', p->stream);
        if (p->total_steps > 0 && room >= BAR_MIN) bar_print(p, room < BAR_MAX ? room : BAR_MAX);
        pieces_print(&pieces, p->stream);
        fputs("\x1b[K", p->stream);
    } else {
        pieces_print(&pieces, p->stream);
        fputc('\n', p->stream);
    }
    fflush(p->stream);
    p->is_line_shown = p->is_live;
    p->shown = now;
}

/* Takes in the samples since the last call. A call without new samples closes a pause: the time of
 * evaluations and saves is no part of the rate. */
static void progress_measure(Progress *p, int64_t samples, double now) {
    double seconds = now - p->measured;
    p->measured = now;
    if (samples <= 0 || seconds <= 0) return;
    double keep = exp(-seconds / RATE_SECONDS);
    p->samples_in_window = p->samples_in_window * keep + (double)samples;
    p->seconds_in_window = p->seconds_in_window * keep + seconds;
}

bool terminal_is_live(FILE *stream) {
    const char *term = getenv("TERM");
    return isatty(fileno(stream)) && term && *term && strcmp(term, "dumb");
}

void progress_begin(Progress *progress, FILE *stream, int64_t first_step, int64_t total_steps,
                    int64_t epochs, const Task *task) {
    const char *no_colour = getenv("NO_COLOR");
    *progress = (Progress){.stream = stream,
                           .task = task,
                           .seconds = environment_seconds,
                           .first_step = first_step,
                           .total_steps = total_steps,
                           .epochs = epochs,
                           .state = {first_step, 0, NAN, NAN, NAN, 0}};
    progress->started = progress->shown = progress->measured = progress->seconds();
    progress->is_live = terminal_is_live(stream);
    progress->has_colour = progress->is_live && !(no_colour && *no_colour);
}

void progress_update(Progress *progress, const ProgressState *state, bool is_milestone) {
    double now = progress->seconds();
    progress_measure(progress, state->samples - progress->state.samples, now);
    progress->state = *state;
    double wait = progress->is_live ? LIVE_SECONDS : (double)PROGRESS_PLAIN_SECONDS;
    if (is_milestone || now - progress->shown >= wait) progress_draw(progress, now);
}

void progress_message(void *progress, LogLevel level, const char *message) {
    static const char *const names[] = {"debug: ", "", "warning: ", "error: "};
    Progress *p = progress;
    if (p->is_line_shown) fputs("\r\x1b[K", p->stream);
    fputs(names[level], p->stream);
    print_to(p->stream, "%s\n", message);
    if (p->is_line_shown) progress_draw(p, p->seconds());
    fflush(p->stream);
}

void progress_end(Progress *progress) {
    if (!progress->is_line_shown) return;
    progress_draw(progress, progress->seconds());
    fputc('\n', progress->stream);
    fflush(progress->stream);
    progress->is_line_shown = false;
}
