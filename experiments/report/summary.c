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
        json_set_int(layer, "bits", reports[i].weight_bits);
        json_set_int(layer, "activation_bits", reports[i].activation_bits);
        json_set_number(layer, "sqnr_db", reports[i].sqnr_db);
    }
    arena_free(arena);
    return ok;
}

static void add_confusion(Json *json, const int64_t *confusion, int64_t classes) {
    for (int64_t i = 0; i < classes; i++)
        json_append_ints(json, "confusion", confusion + i * classes, (int)classes);
}

/* `missing`: why there is no quantized network yet; what was trained is its shadow then. */
static bool add_accuracies(Experiment *e, Json *json, const char *missing, Error *err) {
    Arena *arena = arena_new("evaluation");
    int64_t classes = loader_dataset(e->loader)->class_count;
    Evaluation trained = {.confusion = arena_new_array(arena, int64_t, classes * classes)};
    bool ok = evaluate(e, LOADER_TEST, missing != NULL, &trained, err);
    Evaluation shadow = {.accuracy = trained.accuracy, .loss = trained.loss};
    if (ok && !missing && qat_is_active(e->qat)) ok = evaluate(e, LOADER_TEST, true, &shadow, err);
    if (ok) {
        json_set_number(json, "test.accuracy", trained.accuracy);
        json_set_number(json, "test.loss", trained.loss);
        json_set_number(json, "fp32.accuracy", shadow.accuracy);
        json_set_number(json, "fp32.loss", shadow.loss);
        json_set_number(json, "quantized.accuracy", missing ? NAN : trained.accuracy);
        json_set_number(json, "quantized.loss", missing ? NAN : trained.loss);
        if (missing) json_set_text(json, "quantized.reason", missing);
        add_confusion(json, trained.confusion, classes);
    }
    arena_free(arena);
    return ok;
}

bool summary_evaluate(Experiment *e, Json **out, Error *err) {
    *out = json_new();
    if (add_accuracies(e, *out, NULL, err) && add_layers(e, *out, err)) return true;
    json_free(*out);
    *out = NULL;
    return false;
}

static void add_facts(const Experiment *e, Json *json, const SummaryTimes *times) {
    ModelBytes bytes = convert_bytes(e->qat);
    json_set_int(json, "steps", times->steps);
    json_set_number(json, "samples_per_second", times->samples_per_second);
    json_set_number(json, "train_seconds", times->seconds);
    json_set_text(json, "precision", dtype_name(config_half(&e->config)));
    if (e->loss_scale.is_dynamic) json_set_int(json, "skipped_steps", e->loss_scale.skipped);
    json_set_int(json, "parameters", model_trainable_count(e->model));
    json_set_int(json, "model_bytes", bytes.f32);
    json_set_int(json, "quantized_bytes", bytes.quantized);
    if (!times->best_step) return;
    json_set_int(json, "best.step", times->best_step);
    json_set_number(json, "best.validation_accuracy", times->best_accuracy);
}

bool summary_write(Experiment *e, const char *directory, const SummaryTimes *times, Error *err) {
    optimizer_swap_ema(e->optimizer);
    qat_set_evaluation(e->qat);
    Json *json = json_new();
    add_facts(e, json, times);
    Arena *arena = arena_new("summary");
    const char *missing = ranges_missing(e, times->steps, trainer_total_steps(e), arena);
    bool ok = add_accuracies(e, json, missing, err) && (missing || add_layers(e, json, err));
    json_set_int(json, "peak_rss_bytes", environment_peak_rss_bytes());
    optimizer_swap_ema(e->optimizer);
    ok = ok && json_write_file(json, run_path(arena, directory, RUN_SUMMARY), err);
    arena_free(arena);
    json_free(json);
    return ok && report_write(directory, err);
}
