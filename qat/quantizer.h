/* Quantizers: rows of quantizers.def. Each decides a scale (and an offset) for one tensor, from
 * what it observes or by learning, and fakes the quantization in training through op_fake_quant.
 *
 * A quantizer's state lives in Params (learned: role PARAM_SCALE; observed: PARAM_BUFFER), so
 * optimizers, checkpoints and reports need to know nothing about quantizers. */
#ifndef NIBBLE_QAT_QUANTIZER_H
#define NIBBLE_QAT_QUANTIZER_H

#include "autograd/module.h"
#include "autograd/ops.h"
#include "core/probe.h"
#include "qat/range.h"

typedef enum Granularity {
    GRANULARITY_TENSOR,
    GRANULARITY_CHANNEL, /* weights: a scale per output channel (row) */
    GRANULARITY_GROUP,   /* weights: a scale per group_size consecutive elements of a row */
    GRANULARITY_TOKEN, /* activations of linear layers: a scale per row, from the data each time */
} Granularity;

enum {
    BITS_FLOAT = 32,    /* not quantized */
    BITS_AUTO = -1,     /* yet to be chosen (QatConfig.bits) */
    BITS_TERNARY = 158, /* three levels: what settings and reports call 1.58 bits */
};
double bits_number(int bits);    /* as settings and reports have it */
const char *bits_noun(int bits); /* "bit" after 1, else "bits" */

/* What is asked of a quantizer for one tensor; resolved from the config's rules. */
typedef struct QuantSpec {
    Variant quantizer; /* a row of quantizer_kinds with its settings */
    int bits;          /* 2 to 8; of weights also 1 and BITS_TERNARY */
    bool is_affine;    /* with a zero point */
    bool is_signed;    /* activations: by the range of what produces them; weights: true */
    Granularity granularity;
    int64_t group_size;
    Dtype scale_dtype; /* f32, f16 or bf16 */
} QuantSpec;

/* When fake-quant starts and when observers stop, in steps; and the phase now. Owned by whoever
 * runs the training; quantizers only read it. */
typedef struct QuantPhase {
    bool is_faking;    /* false: values pass (observers still observe) */
    bool is_observing; /* false: observers are frozen */
} QuantPhase;

typedef struct Quant Quant;
typedef struct Quantizer Quantizer;

struct Quant {
    const Quantizer *row;
    QuantSpec spec;
    const char *name; /* "conv1.weight" or "relu1.out4": prefix of its Params' names */
    bool is_weight;
    const QuantPhase *phase;
    Model *model;
    Shape shape;         /* of a weight; of an activation with a batch of 1 */
    int64_t scale_count; /* 1, channels, or groups in all; GRANULARITY_TOKEN: 0, made per batch */
    Grid grid;           /* weights signed, affine or unsigned activations unsigned; a row's attach
                            may choose another */
    RangeGradient range_gradient; /* the row's; its attach may choose another */
    float grad_scale; /* on the gradients of scale and offset; 1 unless attach says otherwise */
    Param *scale;     /* [scale_count]; NULL for GRANULARITY_TOKEN */
    Module *norm;     /* scales are learned row by row of a weight that this batch norm folds into:
                         what is used is scale * batch_norm_gain; else NULL */
    Param *offset;    /* [scale_count] in value units, or NULL: symmetric */
    Param *count;     /* buffer [1]: batches observed; 0: uncalibrated, the scale means nothing.
                         NULL: the row observes nothing */
    bool is_calibrating; /* it observes in evaluation too (qat/calibration.h) */
    void *state;         /* the row's own */
    Probe probe;         /* what it asks of who writes an activation */
    /* Memo: readers of one edge share the fake-quant of a record. */
    Var *seen, *faked;
    uint64_t generation;
};

/* What a quantizer looks at. */
typedef struct Observed {
    const float *x;
    int64_t count;
    bool is_seen;   /* the quantizer's probe is answered already; else the values are to be read */
    Arena *scratch; /* left as it was found */
} Observed;

struct Quantizer {
    Kind kind;
    unsigned flags; /* QUANTIZER_FOR_... */
    /* Makes the row's Params (besides scale, offset, count, which quant_new makes with role
     * PARAM_SCALE when `learns`, else PARAM_BUFFER) and refuses specs it does not support. May be
     * NULL. */
    bool (*attach)(Quant *q, Error *err);
    /* Looks at values and updates scale, offset and state. Called in training while
     * phase->is_observing, and in calibration; of a row that `learns`, only until it is
     * calibrated, once faking starts. False: nothing was to be seen (only zeros, or values that
     * are not finite), and nothing was changed. Deterministic for any number of threads. NULL:
     * needs no data. */
    bool (*observe)(Quant *q, Observed seen);
    /* x through the fake quantizer. NULL: quant_fake. */
    Var *(*fake)(Quant *q, Tape *t, Var *x);
    bool learns; /* scale (and offset) are trained */
    RangeGradient range_gradient;
};

enum {
    QUANTIZER_FOR_WEIGHTS = 1,
    QUANTIZER_FOR_ACTIVATIONS = 2,
    QUANTIZER_FOR_TOKENS = 4,
    QUANTIZER_FOR_ONE_BIT = 8
};

/* `name` prefixes the Params; `shape` is the tensor's (activations: with a batch of 1). */
bool quant_new(Model *model, const char *name, bool is_weight, Shape shape, const QuantSpec *spec,
               const QuantPhase *phase, Quant **out, Error *err);

/* False while the range comes from data and none was seen: what such a quantizer would make of a
 * value means nothing. */
bool quant_is_calibrated(const Quant *q);

/* Observes (in training, while observing, and where it calibrates; never else), then fakes; once
 * per record and x. This is the View that is installed: apply = quant_view, self = the Quant. Where
 * the record's mode wants it in float x passes, and so it does in an evaluation that finds the
 * quantizer uncalibrated. In training one that is not calibrated yet has seen nothing but zeros,
 * which are the same at any scale. */
Var *quant_apply(Quant *q, Tape *t, Var *x);
Var *quant_view(void *self, Tape *t, Var *x);

/* Takes the range from these values by the row's rule, whatever the phase. Where there is nothing
 * to see in them, the range stays. Fails where a scale cannot be stored. The row has `observe`. */
bool quant_fit(Quant *q, Observed seen, Error *err);

/* For who chooses levels itself. The scales, and offsets where the quantizer has them, that the
 * row's rule gives to `rows` runs of `length` values each, as they will be used; those of runs in
 * which there is nothing to see stay. The quantizer stays as it is. The row has `observe`. */
void quant_fit_runs(const Quant *q, const float *x, int64_t rows, int64_t length, float *scale,
                    float *offset);
/* From now on these are the scales (and offsets) in use, and the quantizer is calibrated. Fails
 * where one cannot be stored. */
bool quant_set_scales(Quant *q, const float *scale, const float *offset, Error *err);

/* Scales that say all but their numbers: geometry, grid, storage, whether there are zero points.
 * Scales and zero points are 0. NULL for GRANULARITY_TOKEN, which stores none. */
Scales *quant_layout(const Quant *q, Arena *arena);
/* What convert stores: the final scales, made in `arena`; identical to what op_fake_quant uses. Of
 * an activation they are those of a batch of one. NULL for GRANULARITY_TOKEN. The quantizer must be
 * calibrated. */
const Scales *quant_freeze(const Quant *q, Arena *arena);
/* What convert packs: a weight's values as levels under quant_freeze's scales (f32, with scales),
 * made in `arena` by the calls that training makes, so whatever a row does to a weight first is in
 * them. */
Tensor quant_levels(Quant *q, const float *values, Arena *arena);

/* Tells a weight's quantizer that `norm` folds into the weight. Scales that are learned for each
 * row become relative to the norm's factor (batch_norm_gain); all others stay as they are. */
void quant_join(Quant *q, Module *norm);

/* For a weight of which row r was multiplied by factors[r], above 0: scales of channels or groups
 * that give the same levels. Those that are relative to a joined norm follow by themselves. Fails
 * where a scale cannot be stored. */
bool quant_scale_rows(Quant *q, const float *factors, Error *err);

/* The geometry of scales for a tensor of this shape. */
void quant_geometry(const QuantSpec *spec, Shape shape, int64_t *row_length, int64_t *run_length);

/* ---- For rows. ---- */

/* op_fake_quant with the quantizer's scale, offset and range_gradient. */
Var *quant_fake(Quant *q, Tape *t, Var *x);
/* Calls `fit` with the values of each scale in turn, in parallel where there are several. */
typedef void (*QuantFit)(Quant *q, int64_t scale, const float *x, int64_t count);
void quant_fit_each(Quant *q, const float *x, int64_t count, QuantFit fit);
/* The scale (and offset) number `scale` that make `range` fit the grid (qat/range.h). */
void quant_set_range(Quant *q, int64_t scale, Range range);
/* A buffer of the row's own, "<name>.<part>", all zeros. */
Param *quant_buffer(Quant *q, const char *part, Shape shape);

#define QUANTIZER(name) extern const Quantizer quantizer_##name;
#include "qat/quantizers.def"
#undef QUANTIZER

extern const KindTable quantizer_kinds;

#endif
