#include "experiments/train/experiment.h"

#include <string.h>

#include "core/log.h"
#include "core/parallel.h"
#include "data/describe.h"
#include "experiments/adapter/frozen.h"
#include "experiments/adapter/import.h"
#include "experiments/models/models.h"
#include "experiments/plan/available.h"
#include "experiments/train/bits.h"
#include "experiments/train/ranges.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"
#include "experiments/train/task.h"
#include "experiments/train/teacher.h"
#include "experiments/train/trainer.h"

/* Before anything is made, because what does not fit ends in the system's killer: the weights with
 * their gradients and the optimizer's state alone. Activations are looked at later (footprint.h).
 */
static bool parameters_fit(const ExperimentConfig *config, Shape input, int64_t classes,
                           Arena *scratch, Error *err) {
    const ModelKind *row = (const ModelKind *)config->model.kind;
    int64_t parameters, available = available_bytes();
    if (row->is_stored && row->is_stored(config->model.config)) return true; /* in few bits */
    TRY(models_count(&config->model, input, classes, scratch, &parameters, err));
    const double f32 = sizeof(float);
    double each = f32;
    if (!config->adapter.kind) each += f32 + optimizer_bytes_each(&config->optimizer);
    double bytes = each * (double)parameters;
    if (bytes <= (double)available) return true;
    return FAIL(err, ERROR_INPUT,
                "the model's %.4g parameters take %.1f GiB with their gradients and the "
                "optimizer's state, and %.1f GiB are left: make the model smaller",
                (double)parameters, bytes / 0x1p30, (double)available / 0x1p30) ||
           error_blame(err, "model");
}

/* What was read, before anybody waits for it. */
static void describe_data(const Dataset *data) {
    Arena *arena = arena_new("description");
    log_info("%s", dataset_description(data, arena));
    const char *suspicion = dataset_suspicion(data, arena);
    if (suspicion) log_warning("%s", suspicion);
    arena_free(arena);
}

/* `facts`: of the training images, which are not read then; or NULL. */
static bool open_data(Experiment *e, const DataFacts *facts, Error *err) {
    const ExperimentConfig *config = &e->config;
    if (facts)
        TRY(loader_open_test(config->data, facts, e->arena, &e->loader, err));
    else
        TRY(loader_open(config->data, (uint64_t)config->seed, e->arena, &e->loader, err));
    e->data_bytes = arena_used(e->arena);
    TRY(parallel_init(0, err));
    const Dataset *data = loader_dataset(e->loader);
    Batch sketch = loader_sketch(e->loader, 1);
    TRY(task_choose(sketch.columns, sketch.column_count, &e->task, err));
    describe_data(data);
    Arena *scratch = arena_new("sketch");
    bool fits = parameters_fit(config, dataset_shape(data), data->class_count, scratch, err);
    arena_free(scratch);
    return fits;
}

static bool is_no_block(void *context, Module *module) {
    (void)context;
    return !(module->layer->flags & LAYER_IS_BLOCK);
}

/* Silently keeping everything would be found out when memory ends. */
static bool check_blocks(const Experiment *e, Error *err) {
    if (e->config.train.recompute == RECOMPUTE_NONE) return true;
    if (!model_visit(e->model, is_no_block, NULL)) return true;
    const char *kinds = layer_kinds_with(LAYER_IS_BLOCK, e->arena);
    return FAIL(err, ERROR_INPUT,
                "train.recompute is %s, but no layer of the model is a block (%s): set it to none, "
                "or data.batch lower",
                e->config.train.recompute == RECOMPUTE_BLOCK ? "block" : "cheap", kinds) ||
           error_blame(err, "train.recompute");
}

static void set_base(Experiment *e) {
    const ModelKind *row = (const ModelKind *)e->config.model.kind;
    if (!row->directory) return;
    e->base_directory = row->directory(e->config.model.config);
    e->base_source = frozen_source(e->base_directory);
}

static bool add_adapter(Experiment *e, Error *err) {
    const Variant *choice = &e->config.adapter;
    if (choice->kind && qat_is_active(e->qat))
        return FAIL(err, ERROR_INPUT,
                    "adapter: the weights are frozen, so quant has nothing to train; leave out "
                    "quant, or merge the adapter first") ||
               error_blame(err, "adapter");
    if (adapter_install(e->model, choice, e->arena, &e->adapter, err)) return true;
    const char *from = import_directory(&e->config);
    if (from) error_prefix(err, "%s is for another base", from);
    return false;
}

static bool check_learns(const Experiment *e, Error *err) {
    const ModelKind *row = (const ModelKind *)e->config.model.kind;
    if (e->adapter || !row->is_stored || !row->is_stored(e->config.model.config)) return true;
    return FAIL(err, ERROR_INPUT,
                "model.base keeps the weights as they are, so nothing learns: add an adapter, or "
                "leave out base") ||
           error_blame(err, "model.base");
}

static bool build_network(Experiment *e, Error *err) {
    const ExperimentConfig *config = &e->config;
    const Dataset *data = loader_dataset(e->loader);
    uint64_t seed = (uint64_t)config->seed;
    TRY((config->adapter.kind ? models_build_frozen : models_build)(
        &config->model, dataset_shape(data), data->class_count, seed, e->arena, &e->model, err));
    TRY(check_blocks(e, err));
    TRY(qat_prepare(e->model, &config->quant, e->arena, &e->qat, err));
    set_base(e);
    TRY(add_adapter(e, err));
    TRY(check_learns(e, err));
    TRY(optimizer_new(&config->optimizer, e->model, e->arena, &e->optimizer, err));
    e->tape = tape_new(e->arena);
    e->tape->seed = seed;
    e->loss_scale = loss_scale_new(config_half(config) == DTYPE_F16);
    return true;
}

static Experiment experiment_new(const ExperimentConfig *config) {
    return (Experiment){.config = *config, .arena = arena_new("model and data")};
}

static bool build(Experiment *e, Arena *config_arena, Error *err) {
    e->fixed_text = config_write_fixed(&e->config, config_arena);
    return build_network(e, err);
}

/* Of a run: nothing is left to choose, and nobody teaches. */
static bool open_with(const ExperimentConfig *config, const DataFacts *facts, Arena *config_arena,
                      Experiment *e, Error *err) {
    *e = experiment_new(config);
    if (open_data(e, facts, err) && build(e, config_arena, err)) return true;
    config_place(config, err);
    return false;
}

bool experiment_open_for(const ExperimentConfig *config, const char *weights, Arena *config_arena,
                         Experiment *e, Error *err) {
    *e = experiment_new(config);
    if (open_data(e, NULL, err) && bits_resolve(e, weights, config_arena, err) &&
        build(e, config_arena, err) && teacher_open(e, err))
        return true;
    config_place(config, err);
    return false;
}

bool experiment_open(const ExperimentConfig *config, Arena *config_arena, Experiment *e,
                     Error *err) {
    return experiment_open_for(config, config->train.init, config_arena, e, err);
}

bool experiment_check_data(Experiment *e, const DataFacts *then, const char *path, Error *err) {
    const DataFacts *now = loader_facts(e->loader);
    TRY(facts_check_fit(then, now, "training", err));
    loader_use(e->loader, then);
    const char *difference = facts_difference(then, now, e->arena);
    if (!difference) return true;
    if (loader_config(e->loader)->changed == CHANGED_ALLOW) {
        log_warning("the training %s have changed: %s; the normalisation stays", facts_noun(now),
                    difference);
        return true;
    }
    return FAIL(err, ERROR_INPUT,
                "%s was made with other training %s: %s. Say where those lie (data.path=...), "
                "or go on with these (data.changed=allow)",
                path, facts_noun(now), difference);
}

void experiment_close(Experiment *e) {
    teacher_close(e->teacher);
    tape_free(e->tape);
    loader_close(e->loader);
    arena_free(e->arena);
    *e = (Experiment){0};
}

static bool ranges_ensure(Experiment *e, const char *directory, int64_t calibrate, Error *err) {
    if (calibrate) return ranges_calibrate(e, calibrate, err);
    const char *missing = ranges_missing(e, e->step, trainer_total_steps(e), e->arena);
    if (!missing) return true;
    int64_t start = qat_start(e->qat, trainer_total_steps(e));
    bool comes_later = e->step <= start && start < trainer_total_steps(e);
    const char *train_on = arena_format(
        e->arena, "Train on with 'nibble train --resume %s train.steps=0', or calibrate",
        directory);
    return FAIL(err, ERROR_INPUT, "%s: %s. %s on training images with --calibrate N", directory,
                missing, comes_later ? train_on : "Calibrate");
}

/* `network` is open. */
static bool open_network(const char *directory, const Checkpoint *network,
                         const RunOptions *options, Arena *config_arena, Experiment *e,
                         Error *err) {
    ExperimentConfig config;
    const char *path = run_path(config_arena, directory, RUN_CONFIG);
    TRY(config_read_run(path, options->override_count, options->overrides, config_arena, &config,
                        err));
    bool reads_all = options->calibrate || options->reads_training;
    TRY(open_with(&config, reads_all ? NULL : &network->facts, config_arena, e, err));
    if (reads_all) TRY(experiment_check_data(e, &network->facts, network->path, err));
    TRY(frozen_load(e, err) &&
        frozen_check_digest(e, network->cursor.base_digest, network->path, err));
    TRY(checkpoint_load(network, e->fixed_text, e->model, e->optimizer, err));
    e->step = network->cursor.step;
    memcpy(e->network_digest, network->digest, sizeof e->network_digest);
    return true;
}

bool experiment_open_run(const char *directory, const RunOptions *options, Arena *config_arena,
                         Experiment *e, Error *err) {
    *e = (Experiment){0};
    Checkpoint network;
    TRY(run_exists(directory, err));
    TRY(saved_open_network(directory, config_arena, &network, err));
    bool ok = open_network(directory, &network, options, config_arena, e, err);
    checkpoint_close(&network);
    TRY(ok);
    optimizer_swap_ema(e->optimizer);
    qat_set_evaluation(e->qat);
    return ranges_ensure(e, directory, options->calibrate, err);
}
