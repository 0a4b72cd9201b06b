#include "experiments/train/ranges.h"

#include "core/log.h"
#include "experiments/train/evaluate.h"
#include "qat/calibration.h"

const char *ranges_missing(const Experiment *e, int64_t step, int64_t total, Arena *arena) {
    const Quant *q = calibration_find_missing(e->qat);
    if (!q) return NULL;
    int64_t start = qat_start(e->qat, total);
    if (step <= start)
        return arena_format(arena,
                            "'%s' has no range yet: the run stopped at step %ld of %ld, and "
                            "fake-quant starts at step %ld (quant.start %g)",
                            q->name, (long)step, (long)total, (long)start + 1,
                            e->qat->config.start);
    return arena_format(
        arena,
        "'%s' has no range: until step %ld of %ld it saw nothing but zeros, since the "
        "layers before it give nothing else (a lower optimizer.lr may keep them alive)",
        q->name, (long)step, (long)total);
}

/* `learned`: how many of them take theirs from the first batch alone. */
static void log_calibrated(const Experiment *e, int count, int learned, int64_t images) {
    int64_t batch = loader_config(e->loader)->batch;
    const char *plural = count == 1 ? "" : "s";
    if (!learned || images <= batch)
        log_info("%d quantizer%s without a range took one from %ld training images", count, plural,
                 (long)images);
    else
        log_info("%d quantizer%s without a range took one from %ld training images (of these, %d "
                 "learned from the first %ld images alone, a batch)",
                 count, plural, (long)images, learned, (long)batch);
}

bool ranges_calibrate(Experiment *e, int64_t images, Error *err) {
    int64_t rows = loader_rows(e->loader, LOADER_CALIBRATION);
    if (images > rows)
        return FAIL(err, ERROR_INPUT, "--calibrate %ld: there are %ld training images",
                    (long)images, (long)rows);
    if (!calibration_find_missing(e->qat)) {
        log_info("every quantizer has its range from training; --calibrate changes nothing");
        return true;
    }
    Evaluation evaluation = {.limit = images};
    int count = calibration_begin(e->qat), learned = calibration_learned(e->qat);
    bool ok = evaluate(e, LOADER_CALIBRATION, false, &evaluation, err);
    calibration_end(e->qat);
    if (!ok) error_prefix(err, "--calibrate %ld", (long)images);
    if (!ok) return false;
    const Quant *missing = calibration_find_missing(e->qat);
    if (!missing) {
        log_calibrated(e, count, learned, images);
        return true;
    }
    return FAIL(err, ERROR_INPUT,
                "--calibrate %ld: '%s' saw nothing but zeros, since the layers before it give "
                "nothing else; "
                "give more images, or train with a lower optimizer.lr",
                (long)images, missing->name);
}
