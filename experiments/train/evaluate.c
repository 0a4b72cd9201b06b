#include "experiments/train/evaluate.h"

#include <math.h>
#include <string.h>

TapeMode evaluate_mode(bool is_float) {
    TapeMode mode = TAPE_EVALUATION;
    mode.is_float = is_float;
    return mode;
}

/* One batch on a record of which every value stays. */
static Var *forward(TaskStep *step, bool is_float) {
    tape_begin(step->e->tape, evaluate_mode(is_float));
    return task_record(step, step->e->tape);
}

static bool is_sound(const Tape *t, const Var *logits) {
    return var_is_finite(logits) && !tape_find_nan(t);
}

static bool check_finite(const Tape *t, const Var *logits, Error *err) {
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    if (is_sound(t, logits)) return true;
    const Var *bad = tape_find_nonfinite(t);
    return FAIL(err, ERROR_NUMERIC,
                "evaluation: %s (%s) gives values that are not finite: the training has diverged "
                "(train with a lower optimizer.lr, or with optimizer.clip_norm), or data hold "
                "numbers far beyond those that it saw",
                *bad->scope ? bad->scope : "input", bad->op ? bad->op->name : "data");
}

/* To name the layer at fault, a batch is seen once more, and this time every value stays. */
static bool run_step(TaskStep *step, bool is_float, Error *err) {
    Tape *t = step->e->tape;
    tape_run(t, evaluate_mode(is_float), task_record, step);
    if (t->error.code == ERROR_NONE && !is_sound(t, step->output)) forward(step, is_float);
    return check_finite(t, step->output, err);
}

bool evaluate(Experiment *e, LoaderSplit split, bool is_float, Evaluation *out, Error *err) {
    int64_t batches = loader_batches(e->loader, split);
    TaskTally tally = {.confusion = out->confusion};
    float *outputs = out->outputs;
    out->rows = 0;
    for (int64_t i = 0; i < batches && (!out->limit || out->rows < out->limit); i++) {
        TaskStep step = {.e = e, .batch = loader_batch(e->loader, split, 0, i)};
        int64_t left = out->limit - out->rows;
        if (out->limit && step.batch.count > left) step.batch = batch_part(&step.batch, 0, left);
        TRY(run_step(&step, is_float, err));
        task_tally(&step, &tally);
        int64_t count = var_count(step.output);
        if (outputs) memcpy(outputs, var_f32(step.output), sizeof(float) * (size_t)count);
        if (outputs) outputs += count;
        out->rows += step.batch.count;
    }
    if (!tally.samples) return true;
    out->loss = tally.loss / (double)tally.samples;
    e->task->score(&tally, out->scores);
    return true;
}

/* Where a site's result can be compared: after the batch norm that was folded into it. */
static Var *site_output(const WeightSite *site) {
    return site->norm ? site->norm->last_out : site->module->last_out;
}

typedef struct Noise {
    double signal, noise;
} Noise;

static void add_noise(const Var *exact, const float *quantized, Noise *sum) {
    const float *a = var_f32(exact);
    int64_t count = var_count(exact);
    for (int64_t i = 0; i < count; i++) {
        double difference = (double)a[i] - (double)quantized[i];
        sum->signal += (double)a[i] * (double)a[i];
        sum->noise += difference * difference;
    }
}

static void report_site(const WeightSite *site, const Noise *sum, LayerReport *report) {
    *report = (LayerReport){
        .name = site->name,
        .weight_bits = site->quant ? site->quant->spec.bits : BITS_FLOAT,
        .activation_bits = site->input ? site->input->spec.bits : BITS_FLOAT,
        .sqnr_db = sum->noise > 0 ? 10 * log10(sum->signal / sum->noise) : INFINITY,
    };
}

static const float *copy_output(const Var *v, Arena *arena) {
    size_t bytes = sizeof(float) * (size_t)var_count(v);
    return memcpy(arena_alloc(arena, bytes), var_f32(v), bytes);
}

/* Adds what every site's output, quantized, is away from the shadow's. */
static bool compare_layers(TaskStep *step, Noise *sums, Arena *arena, Error *err) {
    Experiment *e = step->e;
    int sites = e->qat->site_count;
    ArenaMark mark = arena_mark(arena);
    const float **quantized = arena_new_array(arena, const float *, sites);
    TRY(check_finite(e->tape, forward(step, false), err));
    for (int i = 0; i < sites; i++)
        quantized[i] = copy_output(site_output(&e->qat->sites[i]), arena);
    TRY(check_finite(e->tape, forward(step, true), err));
    for (int i = 0; i < sites; i++)
        add_noise(site_output(&e->qat->sites[i]), quantized[i], &sums[i]);
    arena_rewind(arena, mark);
    return true;
}

bool evaluate_layers(Experiment *e, LoaderSplit split, int64_t batches, LayerReport *reports,
                     Error *err) {
    int sites = e->qat->site_count;
    Arena *arena = arena_new("layer report");
    Noise *sums = arena_new_array(arena, Noise, sites);
    int64_t available = loader_batches(e->loader, split);
    bool ok = true;
    for (int64_t i = 0; ok && i < batches && i < available; i++) {
        Batch batch = loader_batch(e->loader, split, 0, i);
        for (int64_t first = 0; ok && first < batch.count; first += EVALUATE_LAYER_ROWS) {
            int64_t left = batch.count - first;
            int64_t count = left < EVALUATE_LAYER_ROWS ? left : EVALUATE_LAYER_ROWS;
            TaskStep step = {.e = e, .batch = batch_part(&batch, first, count)};
            ok = compare_layers(&step, sums, arena, err);
        }
    }
    for (int j = 0; j < sites; j++) report_site(&e->qat->sites[j], &sums[j], &reports[j]);
    arena_free(arena);
    return ok;
}
