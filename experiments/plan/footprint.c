#include "experiments/plan/footprint.h"

#include <stdio.h>
#include <string.h>

#include "autograd/flops.h"
#include "core/counts.h"
#include "experiments/plan/available.h"
#include "experiments/plan/record.h"
#include "experiments/train/environment.h"
#include "experiments/train/layers.h"
#include "experiments/train/teacher.h"
#include "experiments/train/trainer.h"

const char *const footprint_kind_names[FOOTPRINT_KINDS] = {
    [FOOTPRINT_PROCESS] = "process",
    [FOOTPRINT_DATA] = "data",
    [FOOTPRINT_MASTERS] = "masters",
    [FOOTPRINT_OPTIMIZER] = "optimizer",
    [FOOTPRINT_GRADIENTS] = "gradients",
    [FOOTPRINT_ACTIVATIONS] = "activations",
    [FOOTPRINT_ACTIVATION_GRADIENTS] = "activation_gradients",
    [FOOTPRINT_SCRATCH] = "scratch",
    [FOOTPRINT_TEACHER] = "teacher",
    [FOOTPRINT_EVALUATION] = "evaluation",
};

const char *const footprint_kind_texts[FOOTPRINT_KINDS] = {
    [FOOTPRINT_PROCESS] = "the program and its libraries",
    [FOOTPRINT_DATA] = "the data set and its batches",
    [FOOTPRINT_MASTERS] = "parameters and buffers",
    [FOOTPRINT_OPTIMIZER] = "the optimizer's state and averages of weights",
    [FOOTPRINT_GRADIENTS] = "gradients of parameters",
    [FOOTPRINT_ACTIVATIONS] = "values kept from forward to backward",
    [FOOTPRINT_ACTIVATION_GRADIENTS] = "gradients of activations and values soon forgotten",
    [FOOTPRINT_SCRATCH] = "what operations save and kernels take",
    [FOOTPRINT_TEACHER] = "the teacher's network and its values",
    [FOOTPRINT_EVALUATION] = "what evaluations and the best weights take beyond that",
};

/* ---- Records ---- */

static bool check_record(const Tape *t, Error *err) {
    if (t->error.code == ERROR_NONE) return true;
    *err = t->error;
    return false;
}

static TapeMode dry(TapeMode mode) {
    mode.is_dry = true;
    return mode;
}

static Batch training_batch(const Experiment *e) {
    return loader_sketch(e->loader, loader_config(e->loader)->batch);
}

static bool record_step(Experiment *e, Tape *t, Batch batch, Arena *arena, Plan **plan,
                        Error *err) {
    TaskStep step = {.e = e, .batch = batch};
    tape_begin(t, dry(trainer_mode(e)));
    const Var *loss = task_record(&step, t);
    TRY(check_record(t, err));
    *plan = plan_new(t, loss, arena);
    return true;
}

/* `is_apart`: as layers_compare does it, every value for itself. */
static bool record_evaluation(Experiment *e, Tape *t, Batch batch, Network network, bool is_apart,
                              RecordBytes *out, Error *err) {
    TaskStep step = {.e = e, .batch = batch, .wants_outputs = qat_is_active(e->qat)};
    Arena *arena = arena_new("plan");
    tape_begin(t, dry(evaluate_mode(network)));
    const Var *output = task_record(&step, t);
    bool ok = check_record(t, err);
    if (ok) *out = record_bytes(t, is_apart ? NULL : plan_new(t, output, arena));
    arena_free(arena);
    return ok;
}

/* ---- Quantizers that have seen data, as all have after the first steps ---- */

static Quant *quant_number(const Qat *qat, int i) {
    if (i < qat->site_count) return qat->sites[i].quant;
    return qat->edges[i - qat->site_count].quant;
}

/* Sets every count of observed batches; what it was before goes to `old` [sites + edges]. */
static void counts_fill(const Qat *qat, float *old) {
    for (int i = 0; i < qat->site_count + qat->edge_count; i++) {
        const Quant *q = quant_number(qat, i);
        if (!q || !q->count) continue;
        old[i] = *tensor_f32(&q->count->value);
        if (old[i] == 0) *tensor_f32(&q->count->value) = 1;
    }
}

static void counts_restore(const Qat *qat, const float *old) {
    for (int i = qat->site_count + qat->edge_count - 1; i >= 0; i--) {
        const Quant *q = quant_number(qat, i);
        if (q && q->count) *tensor_f32(&q->count->value) = old[i];
    }
}

/* ---- Layers ---- */

typedef struct Leaves {
    const Module **modules;
    int count;
} Leaves;

static bool add_leaf(void *context, Module *module) {
    Leaves *leaves = context;
    if (!module->child_count) leaves->modules[leaves->count++] = module;
    return true;
}

/* The layer whose name is `name` or begins it, up to a dot; the longest such. Or NULL. */
static FootprintLayer *layer_of(const Footprint *f, const char *name) {
    FootprintLayer *found = NULL;
    size_t best = 0;
    for (int i = 0; i < f->layer_count; i++) {
        size_t length = strlen(f->layers[i].name);
        if (length < best || strncmp(f->layers[i].name, name, length) != 0) continue;
        if (name[length] && name[length] != '.') continue;
        found = &f->layers[i];
        best = length;
    }
    return found;
}

static const Quant *quant_read_by(const Qat *qat, const char *name) {
    for (int i = 0; i < qat->edge_count; i++)
        for (int j = 0; j < qat->edges[i].reader_count; j++)
            if (!strcmp(qat->edges[i].readers[j], name)) return qat->edges[i].quant;
    return NULL;
}

static void layers_make(const Experiment *e, Arena *arena, Footprint *out) {
    Leaves leaves = {.modules = arena_new_array(arena, const Module *, e->model->module_count)};
    model_visit(e->model, add_leaf, &leaves);
    out->layers = arena_new_array(arena, FootprintLayer, leaves.count);
    out->layer_count = leaves.count;
    for (int i = 0; i < leaves.count; i++) {
        const Module *module = leaves.modules[i];
        const WeightSite *site = qat_find_site(e->qat, module);
        out->layers[i] =
            (FootprintLayer){.name = module->name,
                             .shape = module->last_out->value.shape,
                             .weight = site ? site->quant : NULL,
                             .input = site ? site->input : quant_read_by(e->qat, module->name)};
    }
    for (int i = 0; i < e->model->param_count; i++) {
        const Param *p = e->model->params[i];
        FootprintLayer *layer = layer_of(out, p->name);
        if (layer) layer->parameter_bytes += (int64_t)tensor_bytes(&p->value);
    }
}

/* What each layer computes and keeps in a step. */
static void layers_fill(const Experiment *e, const Tape *t, const Plan *plan, Arena *arena,
                        Footprint *out) {
    const Flops *flops = flops_by_var(t, arena);
    double accumulate = (double)e->config.train.accumulate;
    out->step_flops = accumulate * flops_of_step(t);
    for (int i = 0; i < t->count; i++) {
        FootprintLayer *layer = layer_of(out, t->vars[i]->scope);
        if (!layer) continue;
        layer->flops +=
            accumulate * (flops[i].forward + flops[i].input_grad + flops[i].weight_grad);
        layer->kept_bytes += (int64_t)plan_kept_bytes(plan, i);
    }
}

/* ---- Steps: all phases of the training ---- */

/* The first step whose fake-quant is on, or the last. */
static int64_t first_faked(Experiment *e, int64_t total) {
    int64_t low = 0, high = total - 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        qat_set_step(e->qat, middle, total);
        if (e->qat->phase.is_faking)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool step_bytes(Experiment *e, Tape *t, Batch batch, int64_t step, RecordBytes *largest,
                       Error *err) {
    Arena *arena = arena_new("plan");
    Plan *plan;
    qat_set_step(e->qat, step, trainer_total_steps(e));
    bool ok = record_step(e, t, batch, arena, &plan, err);
    if (ok) {
        RecordBytes bytes = record_bytes(t, plan);
        if (record_arena(&bytes) + bytes.staged > record_arena(largest) + largest->staged)
            *largest = bytes;
    }
    arena_free(arena);
    return ok;
}

/* The largest of all steps: before fake-quant starts, its first step, where quantizers look at
 * values for the first time, and steps after that, up to the last, whose norms may be frozen. */
bool footprint_step_bytes(Experiment *e, Tape *t, Batch batch, RecordBytes *out, Error *err) {
    int64_t total = trainer_total_steps(e), started = first_faked(e, total);
    *out = (RecordBytes){0};
    return step_bytes(e, t, batch, 0, out, err) && step_bytes(e, t, batch, started, out, err) &&
           step_bytes(e, t, batch, total - 1, out, err);
}

static bool layers_find(Experiment *e, Tape *t, Arena *arena, Footprint *out, Error *err) {
    int64_t total = trainer_total_steps(e);
    Plan *plan;
    qat_set_step(e->qat, first_faked(e, total), total);
    TRY(record_step(e, t, training_batch(e), arena, &plan, err));
    layers_make(e, arena, out);
    layers_fill(e, t, plan, arena, out);
    return true;
}

/* ---- Evaluations ---- */

/* The outputs of layers that layers_compare keeps beside a record. */
static int64_t copied_bytes(const Qat *qat) {
    int64_t bytes = 0;
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        const Var *out = site->norm ? site->norm->last_out : site->module->last_out;
        bytes += (int64_t)sizeof(float) * var_count(out);
    }
    return bytes;
}

/* Those of the shadow, kept while another network sees the same batch. */
static int64_t outputs_bytes(const Experiment *e, int64_t rows) {
    if (!qat_is_active(e->qat)) return 0;
    return (int64_t)sizeof(float) * rows * shape_count(e->model->output);
}

static bool evaluation_bytes(Experiment *e, Tape *t, int64_t held, int64_t *out, Error *err) {
    int64_t test = loader_rows(e->loader, LOADER_TEST);
    int64_t rows = count_most(test, loader_rows(e->loader, LOADER_VALIDATION));
    int64_t batch = loader_config(e->loader)->eval_batch, part = LAYERS_PART_ROWS;
    if (rows > batch) rows = batch;
    if (part > rows) part = rows;
    *out = 0;
    qat_set_evaluation(e->qat);
    for (Network network = NETWORK_TRAINED; network <= NETWORK_SHADOW; network++) {
        RecordBytes whole, layers;
        Batch all = loader_sketch(e->loader, rows), few = loader_sketch(e->loader, part);
        TRY(record_evaluation(e, t, all, network, false, &whole, err));
        TRY(record_evaluation(e, t, few, network, true, &layers, err));
        *out = count_most(*out, record_arena(&whole) - held + outputs_bytes(e, rows));
        *out = count_most(*out, record_arena(&layers) - held + copied_bytes(e->qat));
    }
    return true;
}

/* ---- The teacher ---- */

/* What it takes for a batch, and the work of that in every step. */
static bool add_teacher(Experiment *e, Tape *t, Arena *arena, Footprint *out, Error *err) {
    if (!e->teacher) return true;
    Batch batch = training_batch(e);
    RecordBytes bytes;
    TRY(record_evaluation(&e->teacher->network, t, batch, NETWORK_TRAINED, false, &bytes, err));
    out->bytes[FOOTPRINT_TEACHER] += record_arena(&bytes);
    const Flops *flops = flops_by_var(t, arena);
    for (int i = 0; i < t->count; i++)
        out->step_flops += (double)e->config.train.accumulate * flops[i].forward;
    return true;
}

/* ---- All together ---- */

static bool add_state(void *context, const char *name, Tensor value) {
    (void)name;
    *(int64_t *)context += (int64_t)tensor_bytes(&value);
    return true;
}

static void add_params(const Model *model, int64_t *values, int64_t *grads) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        *values += (int64_t)tensor_bytes(&p->value);
        if (p->grad) *grads += (int64_t)tensor_bytes(&p->value);
    }
}

static void find_params(const Model *model, Footprint *out) {
    for (int i = 0; i < 2 * DTYPE_COUNT; i++) {
        FootprintParams *row = &out->params[out->params_count];
        *row = (FootprintParams){.dtype = (Dtype)(i % DTYPE_COUNT), .is_trained = i < DTYPE_COUNT};
        for (int j = 0; j < model->param_count; j++) {
            const Param *p = model->params[j];
            bool is_trained = p->grad && !p->is_frozen;
            if (p->value.dtype != row->dtype || is_trained != row->is_trained) continue;
            row->count += tensor_count(&p->value);
            row->bytes += (int64_t)tensor_bytes(&p->value);
        }
        out->params_count += row->count > 0;
    }
}

/* What is there already. */
static void find_present(const Experiment *e, Footprint *out) {
    int64_t *bytes = out->bytes, *teacher = &bytes[FOOTPRINT_TEACHER];
    bytes[FOOTPRINT_DATA] = (int64_t)e->data_bytes;
    add_params(e->model, &bytes[FOOTPRINT_MASTERS], &bytes[FOOTPRINT_GRADIENTS]);
    find_params(e->model, out);
    if (e->teacher) {
        add_params(e->teacher->network.model, teacher, teacher);
        *teacher += e->teacher->image_bytes;
    }
    optimizer_visit(e->optimizer, add_state, &bytes[FOOTPRINT_OPTIMIZER]);
    int64_t rest = environment_rss_bytes();
    for (int i = FOOTPRINT_DATA; i < FOOTPRINT_KINDS; i++) rest -= bytes[i];
    bytes[FOOTPRINT_PROCESS] = count_most(rest, 0);
}

static bool find_all(Experiment *e, Tape *t, Arena *arena, Footprint *out, Error *err) {
    const Qat *qat = e->qat;
    float *counts = arena_new_array(arena, float, qat->site_count + qat->edge_count + 1);
    RecordBytes step;
    int64_t *bytes = out->bytes;
    find_present(e, out);
    TRY(footprint_step_bytes(e, t, training_batch(e), &step, err));
    counts_fill(qat, counts);
    bool ok = layers_find(e, t, arena, out, err) && add_teacher(e, t, arena, out, err) &&
              evaluation_bytes(e, t, record_arena(&step), &bytes[FOOTPRINT_EVALUATION], err);
    counts_restore(qat, counts);
    bytes[FOOTPRINT_ACTIVATIONS] = step.kept;
    bytes[FOOTPRINT_ACTIVATION_GRADIENTS] = step.block - step.kept;
    bytes[FOOTPRINT_SCRATCH] = step.vars + step.scratch + step.staged;
    /* The best weights are read back before the test set is seen: a file in memory. */
    bytes[FOOTPRINT_EVALUATION] += bytes[FOOTPRINT_MASTERS] + bytes[FOOTPRINT_OPTIMIZER];
    for (int i = 0; i < FOOTPRINT_KINDS; i++) out->total += bytes[i];
    return ok;
}

bool footprint_find(Experiment *e, Arena *arena, Footprint *out, Error *err) {
    *out = (Footprint){0};
    Tape *t = tape_new(arena);
    bool ok = find_all(e, t, arena, out, err);
    qat_set_step(e->qat, 0, trainer_total_steps(e));
    tape_free(t);
    return ok;
}

/* ---- Refusing ---- */

/* What to change so that less of the largest kind is needed: a setting, and in words. */
typedef struct Remedy {
    const char *setting, *text;
} Remedy;

static Remedy remedy_for(FootprintKind largest) {
    switch (largest) {
    case FOOTPRINT_EVALUATION:
        return (Remedy){"data.eval_batch", "lower data.eval_batch"};
    case FOOTPRINT_DATA:
        return (Remedy){"data", "use fewer images, or lower data.batch and data.eval_batch"};
    case FOOTPRINT_MASTERS:
    case FOOTPRINT_OPTIMIZER:
    case FOOTPRINT_GRADIENTS:
        return (Remedy){"model", "make the model smaller"};
    default:
        return (Remedy){"data.batch", "lower data.batch (and raise train.accumulate for as many "
                                      "images per step)"};
    }
}

/* "1.2 GiB", as short as a message wants it. */
static const char *size_text(int64_t bytes, Arena *arena) {
    double mib = (double)bytes / 1048576.0;
    return mib < 1024 ? arena_format(arena, "%.0f MiB", mib)
                      : arena_format(arena, "%.1f GiB", mib / 1024);
}

static bool refuse(const Footprint *f, int64_t available, Arena *arena, Error *err) {
    FootprintKind largest = FOOTPRINT_DATA;
    for (int i = FOOTPRINT_DATA; i < FOOTPRINT_KINDS; i++)
        if (f->bytes[i] > f->bytes[largest]) largest = i;
    Remedy remedy = remedy_for(largest);
    return FAIL(err, ERROR_INPUT,
                "this training needs %s of memory, and there are %s for it; most of it is %s (%s): "
                "%s; 'nibble plan' shows what takes how much",
                size_text(f->total, arena), size_text(available, arena),
                footprint_kind_texts[largest], size_text(f->bytes[largest], arena), remedy.text) ||
           error_blame(err, "%s", remedy.setting);
}

bool footprint_fits(const Footprint *f, int64_t *available) {
    int64_t held = environment_rss_bytes(), more = available_bytes();
    *available = more > INT64_MAX - held ? INT64_MAX : held + more;
    return f->total <= *available;
}

bool footprint_check(Experiment *e, Error *err) {
    Arena *arena = arena_new("footprint");
    Footprint f;
    int64_t available;
    bool ok = footprint_find(e, arena, &f, err);
    if (ok && !footprint_fits(&f, &available)) ok = refuse(&f, available, arena, err);
    if (!ok) config_place(&e->config, err);
    arena_free(arena);
    return ok;
}
