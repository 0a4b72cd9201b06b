#include "experiments/ptq/quantize.h"

#include <math.h>
#include <string.h>

#include "core/json.h"
#include "core/log.h"
#include "experiments/ptq/stream.h"
#include "experiments/report/summary.h"
#include "experiments/report/text.h"
#include "experiments/train/checkpoint.h"
#include "experiments/train/environment.h"
#include "experiments/train/layers.h"
#include "experiments/train/metrics.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"

/* ---- Opening ---- */

/* Ranges are found anew: no configuration quantizes as "" does. */
static bool load(const Checkpoint *network, Experiment *e, Error *err) {
    TRY(experiment_check_data(e, &network->facts, network->path, err));
    if (!checkpoint_init(network, "", e->model, err)) {
        error_append(err,
                     ": the run's config.yaml does not fit its weights; undo what was changed");
        return false;
    }
    e->step = network->cursor.step;
    memcpy(e->network_digest, network->digest, sizeof e->network_digest);
    return saved_warn_quantized(network, e->model, err);
}

static bool check_quantizes(const Experiment *e, Error *err) {
    if (qat_is_active(e->qat)) return true;
    (void)(FAIL(err, ERROR_INPUT,
                "nothing is quantized: set quant.bits, or quant.weights.bits, below 32") ||
           error_blame(err, "quant"));
    config_place(&e->config, err);
    return false;
}

bool quantize_open(const char *run, const ExperimentConfig *config, Arena *config_arena,
                   Experiment *e, Error *err) {
    *e = (Experiment){0};
    Checkpoint network;
    TRY(saved_open_network(run, config_arena, &network, err));
    bool ok = experiment_open_for(config, run, config_arena, e, err) && check_quantizes(e, err) &&
              stream_check(e, err) && load(&network, e, err);
    checkpoint_close(&network);
    if (ok) qat_set_evaluation(e->qat);
    return ok;
}

/* ---- The pipeline ---- */

static const char *method_name(const Experiment *e, int i) {
    return ((const Variant *)e->config.quantize.items)[i].kind->name;
}

static bool apply_methods(Experiment *e, Ptq *p, double *seconds, Error *err) {
    const List *methods = &e->config.quantize;
    for (int i = 0; i < methods->count; i++) {
        log_info("quantize.%d: %s", i, method_name(e, i));
        double began = environment_seconds();
        TRY(ptq_apply(p, methods, i, err));
        seconds[i] = environment_seconds() - began;
    }
    return ptq_finish(p, err);
}

/* ---- Files ---- */

static bool add_line(Metrics *m, Json *json, Arena *arena, Error *err) {
    bool ok = metrics_add(m, json_line(json, arena), err);
    json_free(json);
    return ok;
}

static Json *line_of(const Experiment *e, int method) {
    Json *json = json_new();
    json_set_int(json, "step", e->step);
    json_set_text(json, "method", method_name(e, method));
    return json;
}

/* What a method says of a layer, and of itself, is a line each. */
static bool add_notes(Metrics *m, const Experiment *e, const Ptq *p, int method, Arena *arena,
                      Error *err) {
    for (int i = 0; i < p->note_count;) {
        const PtqNote *first = &p->notes[i];
        if (first->method != method) {
            i++;
            continue;
        }
        Json *json = line_of(e, method);
        if (first->layer) json_set_text(json, "layer", first->layer);
        for (; i < p->note_count && p->notes[i].method == method; i++) {
            const PtqNote *note = &p->notes[i];
            bool is_same = note->layer && first->layer ? !strcmp(note->layer, first->layer)
                                                       : note->layer == first->layer;
            if (!is_same) break;
            if (note->text)
                json_set_text(json, note->name, note->text);
            else
                json_set_number(json, note->name, note->value);
        }
        TRY(add_line(m, json, arena, err));
    }
    return true;
}

static bool add_lines(Metrics *m, const Experiment *e, const Ptq *p, const double *seconds,
                      Arena *arena, Error *err) {
    for (int i = 0; i < e->config.quantize.count; i++) {
        TRY(add_notes(m, e, p, i, arena, err));
        Json *json = line_of(e, i);
        json_set_number(json, "seconds", seconds[i]);
        TRY(add_line(m, json, arena, err));
    }
    return metrics_sync(m, err);
}

static bool write_metrics(const Experiment *e, const Ptq *p, const double *seconds,
                          const char *directory, Arena *arena, Error *err) {
    Metrics m = {.file = -1};
    bool ok = metrics_open(&m, run_path(arena, directory, RUN_METRICS), 0, err) &&
              add_lines(&m, e, p, seconds, arena, err);
    metrics_close(&m);
    return ok;
}

/* By which settings are to be chosen: the test set is for what was chosen. NAN: nothing is kept
 * aside for validation. */
static bool validate(Experiment *e, double *score, Error *err) {
    Evaluation result = {0};
    *score = NAN;
    if (!loader_rows(e->loader, LOADER_VALIDATION)) return true;
    TRY(evaluate(e, LOADER_VALIDATION, false, &result, err));
    *score = result.scores[0];
    return true;
}

enum { FIT_ROWS = 128 };

/* Each layer's SQNR with its weights alone quantized, over the first rows of a split. */
static bool find_sqnr(Experiment *e, LoaderSplit split, int64_t rows, double *sqnr, Error *err) {
    Arena *arena = arena_new("fit");
    int sites = e->qat->site_count;
    LayerReport *reports = arena_new_array(arena, LayerReport, sites);
    if (rows > FIT_ROWS) rows = FIT_ROWS;
    bool ok = !rows || layers_compare(e, split, rows, true, reports, err);
    for (int i = 0; i < sites; i++)
        sqnr[i] = rows ? reports[i].causes[LAYER_WEIGHTS_LOCAL].sqnr_db : (double)NAN;
    arena_free(arena);
    return ok;
}

static bool find_fits(Experiment *e, SummaryFit *fits, Arena *arena, Error *err) {
    int sites = e->qat->site_count;
    double *fitted = arena_new_array(arena, double, 2 * sites), *others = fitted + sites;
    int64_t validation = loader_rows(e->loader, LOADER_VALIDATION);
    TRY(find_sqnr(e, LOADER_CALIBRATION, e->config.calibration.rows, fitted, err) &&
        find_sqnr(e, LOADER_VALIDATION, validation, others, err));
    for (int i = 0; i < sites; i++) fits[i] = (SummaryFit){fitted[i], others[i]};
    return true;
}

/* Without a configuration it is no run directory, without a summary no finished one. */
static bool write_run(Experiment *e, const char *directory, Arena *arena, Error *err) {
    const char *checkpoint = run_path(arena, directory, RUN_CHECKPOINT);
    Cursor cursor = {.step = e->step, .loss_scale = e->loss_scale};
    SummaryTimes times = {.steps = e->step, .timed_from = e->step};
    SummaryFit *fits = arena_new_array(arena, SummaryFit, e->qat->site_count);
    double score;
    TRY(validate(e, &score, err) && find_fits(e, fits, arena, err));
    times.fits = fits;
    if (!isnan(score)) {
        times.best_step = e->step;
        times.best_score = score;
    }
    TRY(checkpoint_save(checkpoint, NULL, e->fixed_text, loader_facts(e->loader), &cursor, e->model,
                        e->optimizer, err));
    TRY(envelope_claim(checkpoint, times.checkpoint_digest, err));
    TRY(environment_write(run_path(arena, directory, RUN_ENVIRONMENT), err));
    TRY(text_write(run_path(arena, directory, RUN_CONFIG), config_write(&e->config, arena), err));
    return summary_write(e, directory, &times, err);
}

bool quantize_run(Experiment *e, const char *directory, Error *err) {
    double *seconds = arena_new_array(e->arena, double, e->config.quantize.count);
    Ptq *p = ptq_new(e->qat, stream_open(e), e->arena);
    bool ok = apply_methods(e, p, seconds, err) &&
              write_metrics(e, p, seconds, directory, e->arena, err) &&
              write_run(e, directory, e->arena, err);
    ptq_free(p);
    return ok;
}
