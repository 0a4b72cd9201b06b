#include "experiments/compare/compare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/print.h"
#include "experiments/compare/board.h"
#include "experiments/compare/page.h"
#include "experiments/compare/results.h"
#include "experiments/compare/text_table.h"
#include "experiments/report/text.h"
#include "experiments/train/run.h"
#include "experiments/train/stop.h"

/* ---- The directory ---- */

/* One comparison at a time works in it. Processes of one that was killed a moment ago hold it until
 * they are gone. */
static bool claim(const char *directory, int *fd, Error *err) {
    enum { TRIES = 50 };
    *fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0)
        return FAIL(err, ERROR_INPUT, "cannot open the directory %s: %s", directory,
                    strerror(errno));
    for (int i = 0; i < TRIES; i++) {
        if (!flock(*fd, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return true;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return FAIL(err, ERROR_INPUT, "another process is comparing in %s; wait for it or stop it",
                directory);
}

/* What a process that was killed left half-written; nobody else writes there now. */
static void remove_leftovers(const char *directory, const char *folder, Arena *arena) {
    const char *path = run_path(arena, directory, folder);
    DIR *listing = opendir(path);
    if (!listing) return;
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strstr(entry->d_name, ".tmp.")) unlink(run_path(arena, path, entry->d_name));
    closedir(listing);
}

/* What was begun there must be the same, but for rows and seeds more. */
static bool check_before(const Comparison *now, const char *directory, Arena *arena, Error *err) {
    Comparison then;
    FileState state = file_find(run_path(arena, directory, COMPARISON_CONFIG), err);
    if (state == FILE_ABSENT) return true;
    return state == FILE_REGULAR && comparison_read_saved(directory, arena, &then, err) &&
           comparison_continues(&then, now, directory, err);
}

static bool write_configs(const Comparison *c, const char *directory, Arena *arena, Error *err) {
    static const char *const folders[] = {COMPARISON_RUNS, COMPARISON_LOGS, COMPARISON_CONFIGS,
                                          COMPARISON_EVALUATIONS, "."};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        TRY(file_make_directories(run_path(arena, directory, folders[i]), err));
        if (i >= 2) remove_leftovers(directory, folders[i], arena);
    }
    for (int i = 0; i < c->row_count; i++) {
        const char *path =
            arena_format(arena, "%s/%s/%s.yaml", directory, COMPARISON_CONFIGS, c->rows[i].name);
        TRY(text_write(path, c->rows[i].text, err));
    }
    return text_write(run_path(arena, directory, COMPARISON_CONFIG), comparison_write(c, arena),
                      err);
}

/* ---- Runs ---- */

static bool publish(const Schedule *s, double seconds, Error *err) {
    return results_write(s, seconds, err) && comparison_page_write(s->directory, err);
}

static bool make_runs(Schedule *s, Board *board, Error *err) {
    for (int i = 0; i < s->run_count; i++) {
        CompareRun *run = &s->runs[i];
        if (run->state != RUN_WAITING) continue;
        TRY(schedule_make(s, run, board_watch, board, err));
        TRY(publish(s, board_seconds(board), err));
    }
    return true;
}

static void print_results(const Schedule *s, Arena *arena) {
    const Comparison *c = s->comparison;
    Group *groups = arena_new_array(arena, Group, c->row_count);
    results_groups(s, groups);
    const char *table = text_table(groups, c->row_count, arena);
    putchar('\n');
    print_text(stdout, table, strlen(table));
    putchar('\n');
    for (int i = 0; i < s->run_count; i++)
        if (s->runs[i].state == RUN_FAILED)
            print_out("%s, seed %ld failed: %s (%s)\n", s->runs[i].row->label,
                      (long)s->runs[i].seed, s->runs[i].failure, s->runs[i].log);
    print_out("results: %s/" COMPARISON_RESULTS "\n", s->directory);
    print_out("report:  %s/" COMPARISON_REPORT "\n", s->directory);
}

/* With runs that failed it is not a success, though all is done that can be. */
static bool check_failures(const Schedule *s, Error *err) {
    int failed = schedule_count(s, RUN_FAILED);
    return !failed || FAIL(err, ERROR_MISMATCH, "%d of %d runs failed", failed, s->run_count);
}

static bool make_all(Schedule *s, Arena *arena, Error *err) {
    Board board;
    double earlier = results_seconds(s->directory);
    int waiting = schedule_count(s, RUN_WAITING);
    if (waiting) {
        print_to(stderr, "looking at %d rows before anything is trained\n",
                 s->comparison->row_count);
        TRY(schedule_survey(s, err));
    }
    board_begin(&board, s, earlier, stderr);
    bool ok = make_runs(s, &board, err);
    board_end(&board);
    if (err->code == ERROR_STOPPED)
        error_append(err, "; %d of %d runs are done. Go on with 'nibble compare --resume %s'",
                     schedule_count(s, RUN_DONE), s->run_count, s->directory);
    else if (!ok)
        error_append(err, ". What is done stays: 'nibble compare --resume %s' goes on",
                     s->directory);
    TRY(ok);
    if (!waiting) TRY(publish(s, earlier, err));
    print_results(s, arena);
    return check_failures(s, err);
}

bool compare_run(const Comparison *comparison, const char *directory, Error *err) {
    Arena *arena = arena_new("comparison");
    Schedule schedule = {0};
    int fd = -1;
    bool ok = file_make_directories(directory, err) && claim(directory, &fd, err) &&
              check_before(comparison, directory, arena, err) &&
              write_configs(comparison, directory, arena, err);
    if (ok) {
        stop_install();
        schedule_open(&schedule, comparison, directory, arena);
        ok = schedule_check_runs(&schedule, err) && make_all(&schedule, arena, err);
        schedule_close(&schedule);
    }
    if (fd >= 0) close(fd);
    arena_free(arena);
    return ok;
}
