/* The end of a run: the test set evaluated once, summary.json and report.html. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_SUMMARY_H
#define NIBBLE_EXPERIMENTS_REPORT_SUMMARY_H

#include "core/json.h"
#include "data/envelope.h"
#include "experiments/train/shadow.h"

/* How well a layer's weights keep its output where it reads what the float network gives it: SQNR,
 * over rows that they were fitted to, and over validation rows, which they were not. */
typedef struct SummaryFit {
    double calibration_db, held_out_db; /* NAN: there are none */
} SummaryFit;

/* `seconds` and `samples_per_second` are of the steps after `timed_from`: of this process alone. */
typedef struct SummaryTimes {
    int64_t steps, timed_from, best_step;
    double seconds, samples_per_second, best_score;
    char checkpoint_digest[ENVELOPE_DIGEST_TEXT]; /* of checkpoint.h5 at the end */
    const SummaryFit *fits; /* [qat->site_count], of what was quantized without training; or NULL */
} SummaryTimes;

/* Evaluates the weights that are loaded (averaged where EMA is on). Where a quantizer has no range,
 * there is no quantized network, and the summary says why. */
bool summary_write(Experiment *e, const char *directory, const SummaryTimes *times, Error *err);

/* What `nibble eval` prints: test, quantized and shadow with the task's scores, layers[]. The
 * weights are evaluated as they are. The object is the caller's. */
bool summary_evaluate(Experiment *e, const ShadowOptions *options, Json **out, Error *err);

#endif
