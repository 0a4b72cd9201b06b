/* PACT (Choi et al. 2018, "Parameterized Clipping Activation"): activations are clipped to
 * [0, alpha], and alpha is learned:
 *     d y / d alpha  = 1 where x is above alpha, else 0
 *     decay          = lambda / 2 alpha^2
 *
 * What is stored and trained is s = alpha / n with n = 2^b - 1. Its gradient (RANGE_PACT) is n
 * times alpha's, and is multiplied by 1 / n^2: a step of SGD on s then moves alpha by exactly what
 * the paper's step on alpha does. In the same units the decay adds lambda s to the gradient of s;
 * it is added here, because optimizers do not decay scales. */
#include <string.h>

#include "qat/observer.h"

typedef struct PactConfig {
    double alpha, decay;
} PactConfig;

static const Field fields[] = {
    FIELD_FLOAT(PactConfig, alpha, "6", 1e-6, 1e6, "clipping value at the start"),
    FIELD_FLOAT(PactConfig, decay, "0.0002", 0, 1, "weight of the squared clipping value, halved"),
    FIELD_END,
};

static bool attach(Quant *q, Error *err) {
    const PactConfig *config = q->spec.quantizer.config;
    if (q->spec.is_signed || q->spec.is_affine)
        return FAIL(err, ERROR_INPUT,
                    "quantizer 'pact' clips to [0, alpha] but %s is %s: use 'lsq' there", q->name,
                    q->spec.is_affine ? "affine" : "signed");
    float steps = (float)grid_high(q->grid);
    q->grad_scale = 1 / (steps * steps);
    *tensor_f32(&q->scale->value) = (float)config->alpha / steps;
    return true;
}

/* Starts the sum of an update's gradients (the first micro-batch finds none) with the decay's,
 * which is no part of the loss and is scaled as the loss is. */
static void add_decay(const Quant *q, const Tape *t) {
    const PactConfig *config = q->spec.quantizer.config;
    Param *scale = q->scale;
    if (scale->has_grad || scale->is_frozen || config->decay == 0) return;
    scale->grad[0] = (float)(config->decay * t->mode.loss_scale) * *tensor_f32(&scale->value);
    scale->has_grad = true;
}

static Var *fake(Quant *q, Tape *t, Var *x) {
    if (t->mode.is_training && t->mode.needs_grad && !t->mode.is_dry) add_decay(q, t);
    return quant_fake(q, t, x);
}

const Quantizer quantizer_pact = {
    .kind = {.name = "pact",
             .help = "learned clipping of activations that are never negative",
             .config_bytes = sizeof(PactConfig),
             .fields = fields},
    .flags = QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .fake = fake,
    .learns = true,
    .range_gradient = RANGE_PACT,
};
