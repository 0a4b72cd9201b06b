/* Post-training quantization: a pipeline of methods, rows of ptq.def, over a prepared model that
 * holds a trained network.
 *
 * A method is one file, qat/ptq/<name>.c. It changes masters, biases, norms' parameters and
 * quantizers' ranges, and leaves an ordinary prepared and calibrated model: evaluation, conversion,
 * verification and QAT need nothing new. Where a method chooses levels other than by rounding, it
 * sets the master to the value of the chosen level (ptq_set_levels).
 *
 * Two networks are looked at:
 *     exact      the float network that is to be kept: the masters as they were when the pipeline
 *                began, or behind the last method that keeps the function (PTQ_KEEPS_FUNCTION).
 *                Methods that move masters to levels do not change it.
 *     quantized  the model as it is now: its masters, through the quantizers.
 * Both run in evaluation mode on calibration data alone, batch by batch; every result is the same
 * for any number of threads. */
#ifndef NIBBLE_QAT_PTQ_H
#define NIBBLE_QAT_PTQ_H

#include "qat/prepare.h"

/* Calibration data. qat knows no data sets: whoever owns them records a batch of them. */
typedef struct PtqData {
    int64_t batch_count, row_count; /* rows in all batches */
    /* Runs the model on batch `index` (0 to batch_count - 1), as a record on `t`, which has begun
     * one: the network's output. The same rows whenever it is asked; `*rows` is how many. */
    Var *(*record)(void *context, int64_t index, Tape *t, int64_t *rows);
    void *context;
} PtqData;

/* What a method says of itself, for metrics: a number or a text of one layer, or of the whole. */
typedef struct PtqNote {
    int method;        /* its place in the pipeline, from 0 */
    const char *layer; /* NULL: of the method as a whole */
    const char *name;  /* "largest_correction"; "skipped", with the reason as text */
    double value;
    const char *text; /* NULL: `value` is what is said */
} PtqNote;

typedef struct Ptq {
    Qat *qat;
    PtqData data;
    Arena *arena;   /* as long as the Ptq: what a method keeps for good */
    Arena *scratch; /* rewound after each method: what it needs while it works */
    Tape *exact, *quantized;
    bool is_calibrated; /* ranges are those of the masters as they are */
    int method;         /* the one at work */
    PtqNote *notes;
    int note_count, note_capacity;
} Ptq;

enum {
    /* The float network computes what it computed before (cross-layer equalization). Such methods
     * come first in a pipeline; behind each the exact network is taken anew from the masters, and
     * ranges are found behind the last. While one works, quantizers have no range. */
    PTQ_KEEPS_FUNCTION = 1,
};

/* A row of ptq.def. */
typedef struct PtqMethod {
    Kind kind;
    unsigned flags; /* PTQ_KEEPS_FUNCTION */
    /* `config` is the kind's, or NULL where it has no settings. Every quantizer has its range,
     * unless PTQ_KEEPS_FUNCTION. A layer that the method is not for: ptq_skip, and go on. */
    bool (*apply)(Ptq *p, const void *config, Error *err);
} PtqMethod;

/* ---- For who runs a pipeline ---- */

/* `qat` holds the trained network, and no range worth keeping. `arena` lives as long as the model,
 * of which the exact network becomes the shadow (Param.origin). */
Ptq *ptq_new(Qat *qat, PtqData data, Arena *arena);
void ptq_free(Ptq *p); /* accepts NULL */

/* Whether these methods (Variants over ptq_kinds) may follow one another. */
bool ptq_check(const List *methods, Error *err);

/* Method `index` of the pipeline, and calibration where it is due. Errors name the method. */
bool ptq_apply(Ptq *p, const List *methods, int index, Error *err);
/* Behind the last method: calibration, where no method asked for it. */
bool ptq_finish(Ptq *p, Error *err);

/* ---- For methods: data ---- */

/* What a site's layer met in one network and batch. f32 values or, with scales, levels
 * (core/tensor.h): tensor_decode gives values of either. */
typedef struct PtqLayer {
    const Var *input;   /* as it came, before its quantizer */
    const Var *operand; /* as the product read it: behind the quantizer of the layer's input */
    const Var *output;  /* of the joined norm, else of the layer with its bias: what both networks
                           should have in common */
} PtqLayer;

typedef struct PtqBatch {
    int64_t index, rows;
    /* [qat->site_count], in the order of Qat.sites; NULL where that network was not asked for.
     * Valid until the visitor returns. The modules' last_in and last_out are those of the quantized
     * network, or of the exact one where it alone was asked for. */
    const PtqLayer *exact, *quantized;
} PtqBatch;

enum { PTQ_EXACT = 1, PTQ_QUANTIZED = 2 };

/* Runs the networks asked for over all calibration batches, in order, each value kept while `visit`
 * looks at a batch. ERROR_NUMERIC: values that are not finite, with the layer. `visit` false ends
 * it, with its error. */
typedef bool PtqVisit(void *context, const PtqBatch *batch, Error *err);
bool ptq_stream(Ptq *p, unsigned networks, PtqVisit *visit, void *context, Error *err);

/* Adds the sums over rows and positions to `sums` [last dimension], in double and in one order. */
void ptq_add_channel_sums(const Var *v, double *sums);

/* ---- For methods: layers ---- */

/* The weight that the product of the deployed network has before it is quantized: folded with the
 * joined norm, [weight's count], output channels first. */
void ptq_weight(const WeightSite *site, float *values);
/* Its levels as deployed, under scales; made in `arena`. The site has a quantizer with a range. */
Tensor ptq_levels(const WeightSite *site, Arena *arena);

/* Whether levels may be chosen: the weight is quantized, and what its quantizer rounds is the
 * weight itself (dorefa rounds a function of it). */
bool ptq_takes_levels(const WeightSite *site);
/* Moves the master so that the deployed weight has these levels [weight's count], which must lie on
 * the grid, under the scales as they are: master = scale level / f, with the fold factor f of a
 * joined norm. The site takes levels. Our mistake (assert): quantizing does not give them back. */
void ptq_set_levels(const WeightSite *site, const float *levels);
/* The range of these values of the weight, as folded, by its quantizer's own rule, in the place of
 * the one it had, which stays where all are 0. Fails where the scale cannot be stored. */
bool ptq_refit(const WeightSite *site, const float *values, Error *err);

/* Whether in the last record the layer was one product of its input with its weight, and a bias. */
bool ptq_is_product(const WeightSite *site);
int64_t ptq_channels(const WeightSite *site); /* output channels: rows of the weight */
/* Whether there is a Param that moves the deployed bias: a bias, or a joined norm's beta. */
bool ptq_has_bias(const WeightSite *site);
void ptq_bias(const WeightSite *site, float *bias); /* as deployed, [channels]; zeros if none */
void ptq_add_bias(const WeightSite *site, const float *correction); /* to that; it has one */

/* ---- For methods: what they say ---- */

/* Strings may be temporary. `layer` NULL: of the method as a whole. */
void ptq_note(Ptq *p, const char *layer, const char *name, double value);
/* What the method does not do to this layer, and why: a warning, and the note `skipped`. */
void ptq_skip(Ptq *p, const char *layer, const char *reason, ...)
    __attribute__((format(printf, 3, 4)));

#define PTQ_METHOD(name) extern const PtqMethod ptq_method_##name;
#include "qat/ptq.def"
#undef PTQ_METHOD

extern const KindTable ptq_kinds;

#endif
