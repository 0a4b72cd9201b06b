#include "experiments/report/summary.h"

#include <math.h>
#include <stdio.h>

#include "core/log.h"
#include "experiments/report/report.h"
#include "experiments/report/text.h"
#include "experiments/train/environment.h"
#include "experiments/train/ranges.h"
#include "experiments/train/run.h"
#include "experiments/train/trainer.h"
#include "qat/convert.h"

/* ---- Layers ---- */

static void add_deviation(Json *json, const char *path, const Deviation *d, Arena *arena) {
    json_set_number(json, arena_format(arena, "%ssqnr_db", path), d->sqnr_db);
    json_set_number(json, arena_format(arena, "%scosine", path), d->cosine);
    json_set_number(json, arena_format(arena, "%serror_max", path), d->error_max);
    json_set_number(json, arena_format(arena, "%serror_mean", path), d->error_mean);
}

static void add_code_use(Json *json, const char *part, double clipped, int unused, Arena *arena) {
    json_set_number(json, arena_format(arena, "clipped_%s", part), clipped);
    const char *path = arena_format(arena, "unused_codes_%s", part);
    if (unused >= 0)
        json_set_int(json, path, unused);
    else
        json_set_number(json, path, NAN);
}

static void add_layer(Json *json, const LayerReport *r, bool has_causes, Arena *arena) {
    static const char *const causes[LAYER_CAUSES] = {
        [LAYER_WEIGHTS_LOCAL] = "split.weights.local.",
        [LAYER_WEIGHTS_CUMULATIVE] = "split.weights.cumulative.",
        [LAYER_INPUT_LOCAL] = "split.activations.local.",
        [LAYER_INPUT_CUMULATIVE] = "split.activations.cumulative.",
    };
    Json *layer = json_append(json, "layers");
    json_set_text(layer, "name", r->name);
    json_set_shortest(layer, "bits", bits_number(r->weight_bits));
    json_set_shortest(layer, "activation_bits", bits_number(r->activation_bits));
    add_deviation(layer, "", &r->whole, arena);
    add_code_use(layer, "weight", r->clipped_weight, r->unused_weight, arena);
    add_code_use(layer, "input", r->clipped_input, r->unused_input, arena);
    for (int i = 0; has_causes && i < LAYER_CAUSES; i++)
        add_deviation(layer, causes[i], &r->causes[i], arena);
}

/* ---- Networks ---- */

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

static void add_shadow(const Experiment *e, Json *json, const Shadow *shadow, bool has_causes,
                       Arena *arena) {
    static const char *const names[NETWORK_COUNT] = {
        [NETWORK_TRAINED] = "test",
        [NETWORK_SHADOW] = "shadow",
        [NETWORK_WEIGHTS] = "split.weights",
        [NETWORK_ACTIVATIONS] = "split.activations",
    };
    add_scores(json, e->task, "quantized", &shadow->networks[NETWORK_TRAINED], false, arena);
    for (int i = 0; i < (has_causes ? NETWORK_COUNT : NETWORK_WEIGHTS); i++) {
        add_scores(json, e->task, names[i], &shadow->networks[i], false, arena);
        if (i == NETWORK_SHADOW) continue;
        const OutputChange *change = &shadow->changes[i];
        const char *network = i == NETWORK_TRAINED ? "quantized" : names[i];
        json_set_number(json, arena_format(arena, "%s.kl", network), change->kl);
        json_set_int(json, arena_format(arena, "%s.changed", network), change->changed);
    }
    json_set_int(json, "outputs", shadow->changes[NETWORK_TRAINED].outputs);
    json_set_int(json, "layer_rows", shadow->layer_rows);
}

/* `missing`: why there is no quantized network yet; what was trained is its shadow then. A run of
 * which nothing is quantized has neither. */
static bool add_one_network(Experiment *e, Json *json, const char *missing, int64_t *confusion,
                            Arena *arena, Error *err) {
    Evaluation trained = {.confusion = confusion};
    TRY(evaluate(e, LOADER_TEST, missing ? NETWORK_SHADOW : NETWORK_TRAINED, &trained, err));
    add_scores(json, e->task, "test", &trained, false, arena);
    if (!missing) return true;
    add_scores(json, e->task, "quantized", &trained, true, arena);
    add_scores(json, e->task, "shadow", &trained, false, arena);
    json_set_text(json, "quantized.reason", missing);
    return true;
}

static bool add_networks(Experiment *e, Json *json, const ShadowOptions *options,
                         int64_t *confusion, Arena *arena, Error *err) {
    Shadow shadow;
    TRY(shadow_evaluate(e, options, confusion, arena, &shadow, err));
    add_shadow(e, json, &shadow, options->has_causes, arena);
    for (int i = 0; i < e->qat->site_count; i++)
        add_layer(json, &shadow.layers[i], options->has_causes, arena);
    return true;
}

static bool add_results(Experiment *e, Json *json, const ShadowOptions *options,
                        const char *missing, Error *err) {
    Arena *arena = arena_new("evaluation");
    const Dataset *dataset = loader_dataset(e->loader);
    int64_t classes = dataset->class_count, *confusion = NULL;
    if (e->task->has_confusion && classes <= REPORT_CLASSES_MAX)
        confusion = arena_new_array(arena, int64_t, classes * classes);
    bool ok = missing || !qat_is_active(e->qat)
                  ? add_one_network(e, json, missing, confusion, arena, err)
                  : add_networks(e, json, options, confusion, arena, err);
    if (ok && confusion) add_confusion(json, confusion, dataset);
    arena_free(arena);
    return ok;
}

bool summary_evaluate(Experiment *e, const ShadowOptions *options, Json **out, Error *err) {
    *out = json_new();
    if (add_results(e, *out, options, NULL, err)) return true;
    json_free(*out);
    *out = NULL;
    return false;
}

/* ---- A run ---- */

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

static void add_fits(Json *json, const SummaryFit *fits) {
    for (int i = 0; i < json_count(json, "layers"); i++) {
        Json *layer = json_element(json, "layers", i);
        json_set_number(layer, "fit.calibration_db", fits[i].calibration_db);
        json_set_number(layer, "fit.held_out_db", fits[i].held_out_db);
    }
}

bool summary_write(Experiment *e, const char *directory, const SummaryTimes *times, Error *err) {
    optimizer_swap_ema(e->optimizer);
    qat_set_evaluation(e->qat);
    Json *json = json_new();
    Arena *arena = arena_new("summary");
    add_facts(e, json, times, arena);
    const char *missing = ranges_missing(e, times->steps, trainer_total_steps(e), arena);
    ShadowOptions options = {.split = LOADER_TEST, .layer_rows = SHADOW_LAYER_ROWS};
    bool ok = add_results(e, json, &options, missing, err);
    if (ok && times->fits) add_fits(json, times->fits);
    json_set_int(json, "peak_rss_bytes", environment_peak_rss_bytes());
    optimizer_swap_ema(e->optimizer);
    ok = ok && text_write_json(json, run_path(arena, directory, RUN_SUMMARY), err);
    arena_free(arena);
    json_free(json);
    return ok && report_write(directory, e->task, err);
}
