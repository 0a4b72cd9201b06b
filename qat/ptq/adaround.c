/* AdaRound (Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization): of
 * every weight, whether the level below or above it is taken, so that the layer, reading what it
 * reads in the quantized network, gives what it gives in the float one:
 *
 *     minimise  E(W^) / E(nearest) + 3 penalty(h) / count
 *     E(W^) = mean over samples and channels (f(W^ x^ + b) - f(y))^2
 *
 * with W^ and the penalty as in qat/ptq/soft_rounding.h and f the activation that alone reads the
 * layer, or none. The paper adds 0.01 penalty(h) to E, which depends on the scale of outputs and on
 * how many a layer has; both terms are shares here, the same for every layer. Adam at 1e-2 over
 * drawn samples; the penalty joins after a fifth of the iterations, its beta falling from 20 to 2.
 * Layers follow one another from input to output. Then h is rounded, and where that leaves a larger
 * error than rounding to nearest, the nearest stay. */
#include <math.h>
#include <string.h>

#include "qat/ptq/samples.h"
#include "qat/ptq/soft_rounding.h"

typedef struct AdaroundConfig {
    int64_t iterations, samples, batch;
    double rate, penalty;
    bool activation;
} AdaroundConfig;

static const Field fields[] = {
    FIELD_INT(AdaroundConfig, iterations, "2000", 1, 1000000, "steps of Adam for each layer"),
    FIELD_INT(AdaroundConfig, samples, "8192", 1, 1 << 24,
              "outputs of each layer to reproduce: pixels of a convolution, rows else"),
    FIELD_INT(AdaroundConfig, batch, "128", 1, 1 << 20, "samples of a step"),
    FIELD_FLOAT(AdaroundConfig, rate, "0.01", 1e-6, 1, "learning rate"),
    FIELD_FLOAT(AdaroundConfig, penalty, "3", 0, 1e6,
                "weight of the penalty on soft levels, against the error as a share of nearest's"),
    FIELD_BOOL(AdaroundConfig, activation, "true",
               "compare behind the activation that alone reads a layer"),
    FIELD_END,
};

static const double warm_start = 0.2, beta_first = 20, beta_last = 2;

typedef struct Adaround {
    const AdaroundConfig *config;
    Ptq *p;
    const WeightSite *site;
    Arena *arena; /* of the layer */
    Tape *tape;
    Samples samples;
    SoftRounding rounding;
    double nearest;           /* the error that rounding to nearest has */
    float *weight, *gradient; /* values of the soft levels, and what comes to them */
    Tensor bias;
    float *inputs, *targets; /* of a batch */
} Adaround;

/* ---- The error of a layer ---- */

static Tensor tensor_over(float *x, Shape shape) {
    return (Tensor){.dtype = DTYPE_F32, .shape = shape, .data = x};
}

static Var *activated(const Adaround *a, Var *y) {
    const Module *module = a->config->activation ? a->samples.activation : NULL;
    return module ? module->layer->forward((Module *)(uintptr_t)module, a->tape, &y) : y;
}

/* The mean square over samples and channels, of samples that lie at `inputs` and `targets`. */
static Var *record_error(const Adaround *a, int64_t count, float *inputs, float *targets,
                         Var *weight) {
    const Samples *s = &a->samples;
    Shape input = {.rank = s->shape.rank + 1, .dim = {count}};
    memcpy(input.dim + 1, s->shape.dim, sizeof(int64_t) * (size_t)s->shape.rank);
    Var *x = tape_constant(a->tape, tensor_over(inputs, input));
    Var *target = tape_constant(a->tape, tensor_over(targets, SHAPE(count, s->channels)));
    Var *bias = tape_constant(a->tape, a->bias);
    Var *y = samples_product(s, a->tape, x, weight);
    y = op_add(a->tape, y, bias);
    y = activated(a, y);
    target = activated(a, target);
    return op_mse(a->tape, y, target);
}

/* Of all samples, with these values of the weight. */
static double whole_error(const Adaround *a, float *values) {
    const Samples *s = &a->samples;
    int64_t part = a->config->batch, length = shape_count(s->shape);
    double sum = 0;
    for (int64_t first = 0; first < s->count; first += part) {
        int64_t count = s->count - first < part ? s->count - first : part;
        tape_begin(a->tape, TAPE_EVALUATION);
        Var *weight = tape_constant(a->tape, tensor_over(values, a->site->weight->value.shape));
        Var *error = record_error(a, count, s->inputs + first * length,
                                  s->targets + first * s->channels, weight);
        sum += (double)*var_f32(error) * (double)count;
    }
    return sum / (double)s->count;
}

static double error_of_levels(const Adaround *a, const float *levels) {
    levels_decode(levels, a->rounding.scales, 0, a->rounding.count, a->weight);
    return whole_error(a, a->weight);
}

/* ---- Learning ---- */

static void draw_batch(const Adaround *a, int64_t iteration) {
    const Samples *s = &a->samples;
    RandomKey key = {.seed = a->p->qat->model->seed,
                     .stream = RANDOM_SAMPLES,
                     .step =
                         ((uint64_t)(a->site - a->p->qat->sites) << 32) + (uint64_t)iteration + 1};
    int64_t length = shape_count(s->shape);
    for (int64_t i = 0; i < a->config->batch; i++) {
        int64_t from = (int64_t)random_below(key, (uint64_t)i, (uint64_t)s->count);
        memcpy(a->inputs + i * length, s->inputs + from * length, sizeof(float) * (size_t)length);
        memcpy(a->targets + i * s->channels, s->targets + from * s->channels,
               sizeof(float) * (size_t)s->channels);
    }
}

/* What the penalty's beta is; 0 while there is none. */
static double beta_at(const Adaround *a, int64_t iteration) {
    double at = (double)iteration / (double)a->config->iterations;
    if (at < warm_start) return 0;
    return beta_first + (beta_last - beta_first) * (at - warm_start) / (1 - warm_start);
}

static bool learn(Adaround *a, Error *err) {
    Tape *t = a->tape;
    for (int64_t i = 0; i < a->config->iterations; i++) {
        draw_batch(a, i);
        soft_rounding_values(&a->rounding, a->weight);
        bool has_gradient = false;
        tape_begin(t, (TapeMode){.needs_grad = true, .loss_scale = 1});
        Var *weight = tape_leaf(t, tensor_over(a->weight, a->site->weight->value.shape),
                                a->gradient, &has_gradient);
        Var *error = record_error(a, a->config->batch, a->inputs, a->targets, weight);
        tape_backward(t, error, (float)((double)a->rounding.count / a->nearest));
        if (t->error.code != ERROR_NONE) *err = t->error;
        TRY(t->error.code == ERROR_NONE);
        double beta = beta_at(a, i);
        soft_rounding_gradient(&a->rounding, beta > 0 ? a->config->penalty : 0, beta, a->gradient);
        soft_rounding_step(&a->rounding, a->gradient, a->config->rate);
    }
    return true;
}

/* ---- A layer ---- */

static void prepare(Adaround *a) {
    const AdaroundConfig *c = a->config;
    int64_t count = tensor_count(&a->site->weight->value);
    a->tape = tape_new(a->arena);
    a->weight = arena_new_array(a->arena, float, count);
    a->gradient = arena_new_array(a->arena, float, count);
    a->inputs = arena_new_array(a->arena, float, c->batch *shape_count(a->samples.shape));
    a->targets = arena_new_array(a->arena, float, c->batch * a->samples.channels);
    a->bias = tensor_new(a->arena, DTYPE_F32, SHAPE(a->samples.channels));
    ptq_bias(a->site, tensor_f32(&a->bias));
    ptq_weight(a->site, a->weight);
    a->rounding =
        soft_rounding_new(a->weight, count, quant_freeze(a->site->quant, a->arena), a->arena);
}

/* The mean square of what is to be reproduced: errors are told as shares of it. */
static double power_of(const Adaround *a) {
    Adaround zeros = *a;
    float *nothing = arena_new_array(a->arena, float, tensor_count(&a->site->weight->value));
    zeros.bias = tensor_zeros(a->arena, DTYPE_F32, a->bias.shape);
    return whole_error(&zeros, nothing);
}

static bool round_layer(Adaround *a, Error *err) {
    Ptq *p = a->p;
    prepare(a);
    float *levels = arena_new_array(a->arena, float, a->rounding.count);
    Tensor nearest = ptq_levels(a->site, a->arena);
    double power = power_of(a), before = error_of_levels(a, tensor_f32(&nearest));
    a->nearest = before;
    if (power == 0) {
        ptq_skip(p, a->site->name, "what it gives is 0 in all calibration data");
        return true;
    }
    if (a->nearest > 0) TRY(learn(a, err)); /* else h stays, and rounds to nearest */
    soft_rounding_levels(&a->rounding, levels);
    double after = error_of_levels(a, levels);
    ptq_note(p, a->site->name, "error_before", before / power);
    ptq_note(p, a->site->name, "error_after", after / power);
    if (after > before)
        ptq_skip(p, a->site->name, "rounding to nearest has an error of %.3g, less than %.3g",
                 before / power, after / power);
    else
        ptq_set_levels(a->site, levels);
    return true;
}

static bool apply_to(Adaround *a, Error *err) {
    a->arena = arena_new("AdaRound");
    bool ok = samples_draw(a->p, a->site, a->config->samples, a->arena, &a->samples, err);
    if (ok && !a->samples.count)
        ptq_skip(a->p, a->site->name, "it is not a product with one weight");
    else if (ok)
        ok = round_layer(a, err);
    if (a->tape) tape_free(a->tape);
    arena_free(a->arena);
    return ok;
}

static bool apply(Ptq *p, const void *config, Error *err) {
    for (int i = 0; i < p->qat->site_count; i++) {
        const WeightSite *site = &p->qat->sites[i];
        if (!site->quant) continue;
        if (!ptq_takes_levels(site)) {
            ptq_skip(p, site->name, "its quantizer rounds a function of the weight");
            continue;
        }
        Adaround a = {.config = config, .p = p, .site = site};
        TRY(apply_to(&a, err));
    }
    return true;
}

const PtqMethod ptq_method_adaround = {
    .kind = {.name = "adaround",
             .help = "learns for each weight whether to round it up or down",
             .config_bytes = sizeof(AdaroundConfig),
             .fields = fields},
    .apply = apply,
};
