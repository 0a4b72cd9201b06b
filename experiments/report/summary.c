#include "experiments/report/summary.h"

#include <math.h>
#include <stdio.h>

#include "core/log.h"
#include "experiments/report/report.h"
#include "experiments/train/environment.h"
#include "experiments/train/ranges.h"
#include "experiments/train/run.h"
#include "experiments/train/trainer.h"
#include "qat/convert.h"

enum { LAYER_BATCHES = 4 }; /* of the test set, for the noise of each layer */

static bool add_layers(Experiment *e, Json *json, Error *err) {
    Arena *arena = arena_new("layers");
    LayerReport *reports = arena_new_array(arena, LayerReport, e->qat->site_count);
    bool ok = evaluate_layers(e, LOADER_TEST, LAYER_BATCHES, reports, err);
    for (int i = 0; ok && i < e->qat->site_count; i++) {
        Json *layer = json_append(json, "layers");
        json_set_text(layer, "name", reports[i].name);
        json_set_shortest(layer, "bits", bits_number(reports[i].weight_bits));
        json_set_shortest(layer, "activation_bits", bits_number(reports[i].activation_bits));
        json_set_number(layer, "sqnr_db", reports[i].sqnr_db);
    }
    arena_free(arena);
    return ok;
}

/* With the names of the classes, where they have any. */
static void add_confusion(Json *json, const int64_t *confusion, const Dataset *dataset) {
    int64_t classes = dataset->class_count;
    const char *const *names = dataset->class_names.names;
    for (int64_t i = 0; names && i < classes; i++) json_append_text(json, "classes", names[i]);
    for (int64_t i = 0; i < classes; i++)
        json_append_ints(json, "confusion", confusion + i * classes, (int)classes);
}

/* Of one network: the task's scores, then the loss; `missing`: there is no such network. */
static void add_scores(Json *json, const Task *task, const char *network, const Evaluation *result,
                       bool is_missing, Arena *arena) {
    for (int i = 0; i < task->score_count; i++)
        json_set_number(json, arena_format(arena, "%s.%s", network, task->scores[i].key),
                        is_missing ? NAN : result->scores[i]);
    json_set_number(json, arena_format(arena, "%s.loss", network), is_missing ? NAN : result->loss);
}

/* `missing`: why there is no quantized network yet; what was trained is its shadow then. A run of
 * which nothing is quantized has neither. */
static bool add_results(Experiment *e, Json *json, const char *missing, Error *err) {
    Arena *arena = arena_new("evaluation");
    const Task *task = e->task;
    const Dataset *dataset = loader_dataset(e->loader);
    int64_t classes = dataset->class_count;
    Evaluation trained = {0};
    bool has_matrix = task->has_confusion && classes <= REPORT_CLASSES_MAX;
    if (has_matrix) trained.confusion = arena_new_array(arena, int64_t, classes * classes);
    bool is_quantized = qat_is_active(e->qat);
    bool ok = evaluate(e, LOADER_TEST, missing != NULL, &trained, err);
    Evaluation shadow = trained;
    shadow.confusion = NULL;
    if (ok && !missing && is_quantized) ok = evaluate(e, LOADER_TEST, true, &shadow, err);
    if (ok) {
        add_scores(json, task, "test", &trained, false, arena);
        if (is_quantized) add_scores(json, task, "quantized", &trained, missing != NULL, arena);
        if (is_quantized) add_scores(json, task, "shadow", &shadow, false, arena);
        if (missing) json_set_text(json, "quantized.reason", missing);
        if (has_matrix) add_confusion(json, trained.confusion, dataset);
    }
    arena_free(arena);
    return ok;
}

bool summary_evaluate(Experiment *e, Json **out, Error *err) {
    *out = json_new();
    if (add_results(e, *out, NULL, err) && add_layers(e, *out, err)) return true;
    json_free(*out);
    *out = NULL;
    return false;
}

static void add_facts(const Experiment *e, Json *json, const SummaryTimes *times, Arena *arena) {
    ModelBytes bytes = convert_bytes(e->qat);
    json_set_int(json, "steps", times->steps);
    json_set_text(json, "checkpoint_digest", times->checkpoint_digest);
    bool is_timed = times->timed_from < times->steps; /* else there is nothing to measure */
    json_set_number(json, "samples_per_second", is_timed ? times->samples_per_second : NAN);
    json_set_number(json, "train_seconds", is_timed ? times->seconds : NAN);
    json_set_int(json, "timed_from_step", times->timed_from);
    json_set_text(json, "precision", dtype_name(config_half(&e->config)));
    if (e->loss_scale.is_dynamic) json_set_int(json, "skipped_steps", e->loss_scale.skipped);
    json_set_int(json, "parameters", model_trainable_count(e->model));
    json_set_int(json, "model_bytes", bytes.f32);
    json_set_int(json, "quantized_bytes", bytes.quantized);
    json_set_number(json, "bits_per_weight", bytes.bits_per_weight);
    if (!times->best_step) return;
    json_set_int(json, "best.step", times->best_step);
    const char *key = arena_format(arena, "best.validation_%s", e->task->scores[0].key);
    json_set_number(json, key, times->best_score);
}

bool summary_write(Experiment *e, const char *directory, const SummaryTimes *times, Error *err) {
    optimizer_swap_ema(e->optimizer);
    qat_set_evaluation(e->qat);
    Json *json = json_new();
    Arena *arena = arena_new("summary");
    add_facts(e, json, times, arena);
    const char *missing = ranges_missing(e, times->steps, trainer_total_steps(e), arena);
    bool ok = add_results(e, json, missing, err) && (missing || add_layers(e, json, err));
    json_set_int(json, "peak_rss_bytes", environment_peak_rss_bytes());
    optimizer_swap_ema(e->optimizer);
    ok = ok && json_write_file(json, run_path(arena, directory, RUN_SUMMARY), err);
    arena_free(arena);
    json_free(json);
    return ok && report_write(directory, e->task, err);
}
