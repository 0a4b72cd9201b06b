#include "experiments/ptq/stream.h"

#include "core/log.h"
#include "core/parallel.h"
#include "experiments/train/task.h"

typedef struct Stream {
    Experiment *e;
    int64_t rows, part;  /* in all; at most at a time */
    int64_t whole, held; /* rows of a full batch of the loader; the one in `batch`, -1: none */
    Batch batch;
} Stream;

static int64_t parts_of(int64_t rows, int64_t part) {
    return (rows + part - 1) / part;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Both networks read the same memory, so it is filled once. */
static Batch batch_at(Stream *s, int64_t index) {
    int64_t parts = parts_of(s->whole, s->part), wanted = index / parts;
    if (s->held != wanted) s->batch = loader_batch(s->e->loader, LOADER_CALIBRATION, 0, wanted);
    s->held = wanted;
    int64_t rows = smaller(s->batch.count, s->rows - wanted * s->whole);
    int64_t first = index % parts * s->part;
    return batch_part(&s->batch, first, smaller(s->part, rows - first));
}

static Var *record(void *context, int64_t index, Tape *t, int64_t *rows) {
    Stream *s = context;
    TaskStep step = {.e = s->e, .batch = batch_at(s, index)};
    *rows = step.batch.count;
    parallel_adapt();
    return task_record(&step, t);
}

/* How many classes the first `rows` rows are of. */
static int64_t count_classes(const Experiment *e, int64_t rows) {
    int64_t classes = loader_dataset(e->loader)->class_count, found = 0, seen = 0;
    Arena *arena = arena_new("classes");
    bool *is_seen = arena_new_array(arena, bool, classes);
    for (int64_t i = 0; seen < rows; i++) {
        Batch batch = loader_batch(e->loader, LOADER_CALIBRATION, 0, i);
        const int32_t *labels = batch_i32(&batch, "labels");
        for (int64_t j = 0; j < batch.count && seen < rows; j++, seen++) {
            found += !is_seen[labels[j]];
            is_seen[labels[j]] = true;
        }
    }
    arena_free(arena);
    return found;
}

static void tell_classes(const Experiment *e, int64_t rows) {
    if (!e->task->has_confusion) return;
    int64_t classes = loader_dataset(e->loader)->class_count, found = count_classes(e, rows);
    if (2 * found >= smaller(classes, rows)) return;
    log_warning("the first %ld training %s, which calibrate, are of %ld of %ld classes: the data "
                "set seems sorted; shuffle it, or raise calibration.rows",
                (long)rows, e->task->rows, (long)found, (long)classes);
}

bool stream_check(const Experiment *e, Error *err) {
    int64_t rows = e->config.calibration.rows;
    int64_t available = loader_rows(e->loader, LOADER_CALIBRATION);
    if (rows <= available) {
        tell_classes(e, rows);
        return true;
    }
    (void)(FAIL(err, ERROR_INPUT, "calibration.rows is %ld, but there are %ld training %s",
                (long)rows, (long)available, e->task->rows) ||
           error_blame(err, "calibration.rows"));
    config_place(&e->config, err);
    return false;
}

PtqData stream_open(Experiment *e) {
    const CalibrationConfig *config = &e->config.calibration;
    Stream *s = arena_new_array(e->arena, Stream, 1);
    int64_t whole = loader_config(e->loader)->batch;
    *s = (Stream){.e = e,
                  .rows = config->rows,
                  .part = smaller(config->batch, whole),
                  .whole = whole,
                  .held = -1};
    int64_t full = s->rows / whole, rest = s->rows % whole;
    return (PtqData){.batch_count = full * parts_of(whole, s->part) + parts_of(rest, s->part),
                     .row_count = s->rows,
                     .record = record,
                     .context = s};
}
