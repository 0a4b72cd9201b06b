#include "experiments/train/evaluate.h"

#include <math.h>
#include <string.h>

#include "autograd/ops.h"

static int64_t argmax(const float *x, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

Var *evaluate_record(void *context, Tape *t) {
    Question *q = context;
    Model *model = q->e->model;
    const Batch *batch = q->batch;
    Tensor images = {
        .dtype = DTYPE_F32,
        .shape = SHAPE(batch->count, model->input.dim[0], model->input.dim[1], model->input.dim[2]),
        .data = (void *)batch->images};
    Var *x = tape_constant(t, images);
    q->logits = model_forward(model, t, x);
    q->loss = op_cross_entropy(t, q->logits, batch->labels, 0); /* last, so nothing follows it */
    return q->logits;
}

TapeMode evaluate_mode(bool is_float) {
    TapeMode mode = TAPE_EVALUATION;
    mode.is_float = is_float;
    return mode;
}

/* One batch on a record of which every value stays. */
static Var *forward(Experiment *e, Tape *t, const Batch *batch, bool is_float) {
    tape_begin(t, evaluate_mode(is_float));
    Question question = {.e = e, .batch = batch};
    return evaluate_record(&question, t);
}

static bool check_finite(const Tape *t, const Var *logits, Error *err) {
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    if (var_is_finite(logits)) return true;
    const Var *bad = tape_find_nonfinite(t);
    return FAIL(err, ERROR_NUMERIC, "evaluation: %s (%s) gives values that are not finite",
                *bad->scope ? bad->scope : "input", bad->op ? bad->op->name : "data");
}

static void count_batch(const float *logits, const Batch *batch, int64_t classes, int64_t first,
                        Evaluation *out, int64_t *correct) {
    for (int64_t i = 0; i < batch->count; i++) {
        int64_t guess = argmax(logits + i * classes, classes);
        *correct += guess == batch->labels[i];
        if (out->confusion) out->confusion[batch->labels[i] * classes + guess]++;
    }
    if (out->logits)
        memcpy(out->logits + first * classes, logits,
               sizeof(float) * (size_t)(batch->count * classes));
}

bool evaluate(Experiment *e, LoaderSplit split, bool is_float, Evaluation *out, Error *err) {
    Tape *t = e->tape;
    int64_t classes = loader_dataset(e->loader)->class_count;
    int64_t batches = loader_batches(e->loader, split), correct = 0;
    double loss_sum = 0;
    bool ok = true;
    out->rows = 0;
    for (int64_t i = 0; ok && i < batches && (!out->limit || out->rows < out->limit); i++) {
        Batch batch = loader_batch(e->loader, split, 0, i);
        int64_t left = out->limit - out->rows;
        if (out->limit && batch.count > left) batch.count = left;
        Question q = {.e = e, .batch = &batch};
        tape_run(t, evaluate_mode(is_float), evaluate_record, &q);
        /* To name the layer, the batch is seen once more, and this time every value stays. */
        if (t->error.code == ERROR_NONE && !var_is_finite(q.logits))
            q.logits = forward(e, t, &batch, is_float);
        ok = check_finite(t, q.logits, err);
        if (!ok) break;
        count_batch(var_f32(q.logits), &batch, classes, out->rows, out, &correct);
        loss_sum += (double)var_f32(q.loss)[0] * (double)batch.count;
        out->rows += batch.count;
    }
    if (!ok) return false;
    out->loss = out->rows ? loss_sum / (double)out->rows : 0;
    out->accuracy = out->rows ? (double)correct / (double)out->rows : 0;
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
        .name = site->module->name,
        .weight_bits = site->quant ? site->quant->spec.bits : BITS_FLOAT,
        .activation_bits = site->input ? site->input->spec.bits : BITS_FLOAT,
        .sqnr_db = sum->noise > 0 ? 10 * log10(sum->signal / sum->noise) : INFINITY,
    };
}

/* A few images of a batch. */
static Batch batch_part(const Experiment *e, const Batch *batch, int64_t first) {
    int64_t left = batch->count - first;
    return (Batch){.images = batch->images + first * dataset_pixels(loader_dataset(e->loader)),
                   .labels = batch->labels + first,
                   .count = left < EVALUATE_LAYER_ROWS ? left : EVALUATE_LAYER_ROWS};
}

static const float *copy_output(const Var *v, Arena *arena) {
    size_t bytes = sizeof(float) * (size_t)var_count(v);
    return memcpy(arena_alloc(arena, bytes), var_f32(v), bytes);
}

/* Adds what every site's output, quantized, is away from the shadow's. */
static bool compare_layers(Experiment *e, const Batch *batch, Noise *sums, Arena *arena,
                           Error *err) {
    int sites = e->qat->site_count;
    ArenaMark mark = arena_mark(arena);
    const float **quantized = arena_new_array(arena, const float *, sites);
    TRY(check_finite(e->tape, forward(e, e->tape, batch, false), err));
    for (int i = 0; i < sites; i++)
        quantized[i] = copy_output(site_output(&e->qat->sites[i]), arena);
    TRY(check_finite(e->tape, forward(e, e->tape, batch, true), err));
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
            Batch part = batch_part(e, &batch, first);
            ok = compare_layers(e, &part, sums, arena, err);
        }
    }
    for (int j = 0; j < sites; j++) report_site(&e->qat->sites[j], &sums[j], &reports[j]);
    arena_free(arena);
    return ok;
}
