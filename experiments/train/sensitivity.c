#include "experiments/train/sensitivity.h"

#include <assert.h>

#include "autograd/layers/batch_norm.h"
#include "core/parallel.h"

static int64_t outputs_per_row(const Experiment *e) {
    return shape_count(e->model->output);
}

static bool check_masters(const Model *model, Error *err) {
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->origin)
            return FAIL(err, ERROR_INPUT,
                        "the weights were quantized without training (nibble quantize): ask what "
                        "layers cost of the run that they are of");
    return true;
}

bool sensitivity_begin(Experiment *e, int64_t rows, Arena *arena, Sensitivity *out, Error *err) {
    TRY(check_masters(e->model, err));
    int64_t available = loader_rows(e->loader, LOADER_VALIDATION);
    if (!available)
        return FAIL(err, ERROR_INPUT,
                    "there is no validation split to measure what layers cost on: set "
                    "data.validation") ||
               error_blame(err, "data.validation");
    if (!rows || rows > available) rows = available;
    int64_t numbers = rows * outputs_per_row(e);
    *out = (Sensitivity){.e = e, .classes = shape_last(e->model->output)};
    out->exact = (Evaluation){.limit = rows, .outputs = arena_new_array(arena, float, numbers)};
    out->given = arena_new_array(arena, float, numbers);
    return evaluate(e, LOADER_VALIDATION, NETWORK_SHADOW, &out->exact, err);
}

static bool measure(Sensitivity *s, TapeMode mode, SensitivityCost *out, Error *err) {
    const Task *task = s->e->task;
    Evaluation given = {.limit = s->exact.limit, .outputs = s->given};
    OutputChange change = {0};
    parallel_adapt();
    TRY(evaluate_as(s->e, LOADER_VALIDATION, mode, &given, err));
    int64_t outputs = s->exact.rows * outputs_per_row(s->e) / s->classes;
    output_change_add(&change, s->exact.outputs, s->given, outputs, s->classes);
    output_change_end(&change);
    double lost = s->exact.scores[0] - given.scores[0];
    *out = (SensitivityCost){.loss = given.loss - s->exact.loss,
                             .score = task->scores[0].is_lower_better ? -lost : lost,
                             .kl = change.kl,
                             .changed = change.changed};
    return true;
}

/* ---- As settings quantize ---- */

bool sensitivity_layer(Sensitivity *s, int site, SensitivityPart part, SensitivityCost *out,
                       Error *err) {
    const WeightSite *of = &s->e->qat->sites[site];
    TapeMode mode = evaluate_mode(NETWORK_TRAINED);
    mode.only[0] = of->module->name;
    mode.only[1] = of->input_at->name;
    mode.floats_activations = part == SENSITIVITY_WEIGHTS;
    mode.floats_weights = part == SENSITIVITY_INPUT;
    bool has_weights = of->quant && part != SENSITIVITY_INPUT;
    bool has_input = of->input && part != SENSITIVITY_WEIGHTS;
    *out = (SensitivityCost){0};
    return !(has_weights || has_input) || measure(s, mode, out, err);
}

/* ---- Weights at any bits ---- */

static QuantSpec spec_for(const Qat *qat, int bits) {
    const TensorQuantConfig *c = &qat->config.weights;
    return (QuantSpec){.quantizer = {.kind = &quantizer_mse.kind},
                       .bits = bits,
                       .is_affine = c->affine && bits != BITS_TERNARY,
                       .is_signed = true,
                       .granularity = qat_weight_granularities[c->granularity],
                       .group_size = c->group_size,
                       .scale_dtype = DTYPE_F32};
}

/* values = Q(values), by a quantizer of its own in a model of its own. Zeros alone stay. */
static bool round_values(const WeightSite *site, const QuantSpec *spec, float *values, Arena *arena,
                         Error *err) {
    static const QuantPhase phase = {.is_faking = true};
    Model model = {.arena = arena};
    Shape shape = site->weight->value.shape;
    Quant *q;
    TRY(quant_new(&model, site->weight->name, true, shape, spec, &phase, &q, err));
    if (!q->row->observe(q, (Observed){values, shape_count(shape), false, arena})) return true;
    *tensor_f32(&q->count->value) = 1;
    Tensor levels = quant_levels(q, values, arena);
    tensor_decode(&levels, values);
    return true;
}

/* A master that reads as the rounded weight: what is rounded is folded, and unfolded after. */
static bool rounded_master(const WeightSite *site, const QuantSpec *spec, Arena *arena, Tensor *out,
                           Error *err) {
    const Tensor *master = &site->weight->value;
    int64_t count = tensor_count(master);
    float *values = arena_new_array(arena, float, count);
    float *folded = arena_new_array(arena, float, count);
    float *rounded = arena_new_array(arena, float, count);
    tensor_decode(master, values);
    if (site->norm)
        batch_norm_folded_weight(site->norm, folded);
    else
        tensor_decode(master, folded);
    for (int64_t i = 0; i < count; i++) rounded[i] = folded[i];
    TRY(round_values(site, spec, rounded, arena, err));
    for (int64_t i = 0; i < count; i++)
        rounded[i] = folded[i] != 0 ? rounded[i] * (values[i] / folded[i]) : values[i];
    *out = (Tensor){.dtype = DTYPE_F32, .shape = master->shape, .data = rounded};
    return true;
}

bool sensitivity_weight(Sensitivity *s, int site, int bits, SensitivityCost *out, Error *err) {
    const Qat *qat = s->e->qat;
    Param *weight = qat->sites[site].weight;
    Tensor master = weight->value, rounded;
    QuantSpec spec = spec_for(qat, bits);
    Arena *arena = arena_new("rounded weight");
    bool ok = rounded_master(&qat->sites[site], &spec, arena, &rounded, err);
    if (ok) {
        weight->value = rounded;
        ok = measure(s, evaluate_mode(NETWORK_SHADOW), out, err);
        weight->value = master;
    }
    arena_free(arena);
    return ok;
}

bool sensitivity_table(Sensitivity *s, const int *bits, int bit_count, SensitivityCost *costs,
                       Error *err) {
    for (int i = 0; i < s->e->qat->site_count; i++)
        for (int j = 0; j < bit_count; j++)
            TRY(sensitivity_weight(s, i, bits[j], &costs[i * bit_count + j], err));
    return true;
}
