/* Optimizers: a row of optimizers.def is a pure update of one Param. Clipping, parameter groups,
 * the average of weights (EMA) and saved state are written once, here, and serve every row.
 *
 * One step, for every Param that has a gradient now and is not frozen:
 *   norm of all gradients together; with clip_norm: gradients * min(1, clip_norm / (norm + 1e-6));
 *   update(value, gradient, state) with lr = optimizer.lr * lr_factor, for learned scales *
 * scale_lr; with ema: average = value on a Param's first update, then average += (1 - ema) (value -
 * average). All of it as PyTorch 2 does (torch.optim, clip_grad_norm_, get_ema_multi_avg_fn), in
 * f32, sums in double over fixed chunks: the same bits for any number of threads. A step allocates
 * nothing.
 *
 * Weight decay applies to PARAM_WEIGHT and PARAM_TABLE, to norms and biases when asked for, to
 * scales never.
 *
 * State is f32, or codes of 8 bits (optim/state.h): then a block's is decoded, updated and encoded
 * again while it is in cache. */
#ifndef NIBBLE_OPTIM_OPTIMIZER_H
#define NIBBLE_OPTIM_OPTIMIZER_H

#include "autograd/module.h"
#include "core/settings/field.h"

/* The config struct of every row begins with this, as member `optimizer`. */
typedef struct OptimizerConfig {
    double lr, weight_decay;
    bool decay_norms, decay_biases;
    double scale_lr;
    double clip_norm; /* 0: off */
    double ema;       /* 0: off */
    int state_bits;   /* OptimizerStateBits */
} OptimizerConfig;

typedef enum OptimizerStateBits { OPTIMIZER_STATE_32, OPTIMIZER_STATE_8 } OptimizerStateBits;
extern const char *const optimizer_state_bits[]; /* "32", "8" */

#define OPTIMIZER_FIELD_FLOAT(Struct, member, fallback_, min_, max_, help_)                        \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_FLOAT, .offset = offsetof(Struct, optimizer.member),   \
        .fallback = fallback_, .min = min_, .max = max_, .help = help_                             \
    }
#define OPTIMIZER_FIELD_BOOL(Struct, member, fallback_, help_)                                     \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_BOOL, .offset = offsetof(Struct, optimizer.member),    \
        .fallback = fallback_, .help = help_                                                       \
    }

/* The shared settings, with the row's own defaults for the learning rate and the weight decay. */
#define OPTIMIZER_FIELDS(Struct, lr_, weight_decay_)                                               \
    OPTIMIZER_FIELD_FLOAT(Struct, lr, lr_, 0, 1e30,                                                \
                          "learning rate, before the schedule's factor"),                          \
        OPTIMIZER_FIELD_FLOAT(Struct, weight_decay, weight_decay_, 0, 1,                           \
                              "pull of weights towards 0"),                                        \
        OPTIMIZER_FIELD_BOOL(Struct, decay_norms, "false",                                         \
                             "whether gammas and betas of norms decay"),                           \
        OPTIMIZER_FIELD_BOOL(Struct, decay_biases, "false", "whether biases decay"),               \
        OPTIMIZER_FIELD_FLOAT(Struct, scale_lr, "0.1", 0, 1000,                                    \
                              "factor on lr for quantizers' learned scales"),                      \
        OPTIMIZER_FIELD_FLOAT(Struct, clip_norm, "0", 0, 1e9,                                      \
                              "largest norm of all gradients; 0: no limit"),                       \
        OPTIMIZER_FIELD_FLOAT(Struct, ema, "0", 0, 0.99999,                                        \
                              "decay of the average of weights; 0: no average"),                   \
    {                                                                                              \
        .name = "state_bits", .type = FIELD_TYPE_CHOICE,                                           \
        .offset = offsetof(Struct, optimizer.state_bits), .fallback = "32",                        \
        .choices = optimizer_state_bits, .omits_zero = true,                                       \
        .help = "of what is kept per element between steps; 8: codes under a scale per 256, "      \
                "for tensors of 4,096 elements or more, averages excepted"                         \
    }

/* What one update of one Param is told. */
typedef struct UpdateTerms {
    double lr;           /* with the schedule's and the group's factor */
    double weight_decay; /* 0 for what is excluded */
    double step;         /* updates of this Param, this one included: 1, 2, ...; stays at 2^24 */
} UpdateTerms;

enum { OPTIMIZER_STATES_MAX = 2 };

/* A row of optimizers.def. */
typedef struct UpdateRule {
    Kind kind;
    const char *states[OPTIMIZER_STATES_MAX]; /* names of what is kept per element, "momentum" */
    bool is_unsigned[OPTIMIZER_STATES_MAX];   /* and which of them are never below 0 */
    /* How many of them these settings need; NULL: every one that has a name. */
    int (*state_count)(const void *config);
    /* Refuses settings that contradict each other; NULL: none do. */
    bool (*check)(const void *config, Error *err);
    /* Updates `count` consecutive elements, each by itself; state[i] starts as zeros. */
    void (*update)(const void *config, const UpdateTerms *terms, int64_t count, float *value,
                   const float *grad, float *const *state);
} UpdateRule;

#define OPTIMIZER(name) extern const UpdateRule optimizer_##name;
#include "optim/optimizers.def"
#undef OPTIMIZER

extern const KindTable optimizer_kinds;

typedef struct Optimizer Optimizer;

/* Settings that contradict each other, for reporting before any data is loaded. */
bool optimizer_check(const Variant *settings, Error *err);

/* Makes the state of every Param of the model that has a gradient (all roles but PARAM_BUFFER), in
 * `arena`. Params that qat adds must be there before. Frozen Params get state too, so that thawing
 * one later works. `settings` and the model are borrowed. */
bool optimizer_new(const Variant *settings, Model *model, Arena *arena, Optimizer **out,
                   Error *err);
/* Bytes that it keeps per element of a large Param, averaged weights among them. */
double optimizer_bytes_each(const Variant *settings);

/* One step with the schedule's factor (optim/schedule.h). Params without a gradient are left as
 * they are; gradients stay as they are, and set (model_clear_grads is the caller's).
 * ERROR_NUMERIC: a gradient is not finite, named, and nothing was changed; or an update left a
 * value or state that is not finite, named, and the model must not be saved. */
bool optimizer_step(Optimizer *optimizer, double lr_factor, Error *err);

/* Directly before a step: it takes all gradients times `factor` (1 / the loss scale). False: one is
 * not finite, so the step must be skipped. */
bool optimizer_unscale(Optimizer *optimizer, double factor);

/* Norm of all gradients of the latest step, before clipping. */
double optimizer_norm(const Optimizer *optimizer);

/* Every tensor of saved state under a name that depends on the model only: "steps" [Params],
 * updates counted per Param; "momentum/conv1.weight"; "ema/conv1.weight". The visitor reads or
 * fills the tensor's data, and its scales' where it has any. Stops when it returns false, and
 * returns that. Not while averages are swapped in. */
bool optimizer_visit(Optimizer *optimizer,
                     bool (*visit)(void *context, const char *name, Tensor value), void *context);

/* Of a name that the visitor is given: whether no such number is ever below 0. */
bool optimizer_is_unsigned(const Optimizer *optimizer, const char *name);

/* Averages of weights. Swapping exchanges masters and averages, element by element in place; a
 * second swap undoes the first, and is due before the next step. Params that were never updated,
 * and buffers such as running statistics, have no average and stay as they are. Without EMA: does
 * nothing. */
bool optimizer_has_ema(const Optimizer *optimizer);
void optimizer_swap_ema(Optimizer *optimizer);

#endif
