/* The operations, as rows of ops.def. Adding one: a file in autograd/ops and a row; the gradient
 * check, the thread-count check and the help come with the row. */
#ifndef NIBBLE_AUTOGRAD_OPS_H
#define NIBBLE_AUTOGRAD_OPS_H

#include "autograd/attention_panels.h"
#include "autograd/tape.h"

typedef struct Conv2dAttr {
    int64_t stride, dilation, groups;
    int64_t pad_top, pad_bottom, pad_left, pad_right;
} Conv2dAttr;

/* Queries of head h meet keys and values of head h / (heads / kv_heads) (grouped-query attention,
 * Ainslie et al. 2023). */
typedef struct AttentionAttr {
    int64_t heads, kv_heads; /* kv_heads divides heads */
    float scale;             /* of products of queries and keys, above 0: 1 / sqrt(dim) */
    /* Of a batch of one, without gradients: what is seen, the record's own positions last; the
     * caller's, as long as the record. NULL: these alone. */
    const AttentionPanels *kept;
} AttentionAttr;

typedef struct RotaryAttr {
    int64_t heads;
    const float
        *frequencies; /* [dim / 2], radians a position; the caller's, as long as the record */
    int64_t position; /* of the first of each sequence; 0 in training */
} RotaryAttr;

typedef struct Pool2dAttr {
    int64_t kernel, stride, padding;
} Pool2dAttr;

/* Running statistics are the caller's, [C], and are updated in training when `uses_batch`:
 * running = (1 - momentum) running + momentum batch, with the unbiased batch variance (as PyTorch).
 *
 * Folded (quantization-aware) batch norm is one convolution: with sigma = sqrt(running_variance +
 * epsilon) and the factor f = gamma / sigma (|gamma| is kept at least 1e-5),
 *     c = conv(x, Q(batch_norm_fold(w, gamma)))        y = batch_norm_folded(c, ...)
 * where, with batch statistics m_c and v_c taken from c (those of c / f are m_c / f and v_c / f^2),
 *     y = |gamma| (c - m_c) / sqrt(v_c + epsilon f^2) + beta
 * and with running statistics, as deployed,
 *     y = c + (beta + (bias - running_mean) f)         (bias: the convolution's own, or NULL).
 * Equal to PyTorch's _ConvBnNd in its approximate (one convolution) form. Running statistics
 * describe c / f + bias, the unfolded convolution. */
typedef struct BatchNormAttr {
    float epsilon, momentum;
    bool uses_batch;   /* batch statistics (training before the freeze) or running ones */
    bool is_magnitude; /* batch_norm_fold: by |f| instead of f */
    float *running_mean, *running_variance;
} BatchNormAttr;

/* The factor f and the deployed bias beta + (bias - mean) f; used by forward, convert and export.
 */
float batch_norm_factor(float gamma, float running_variance, float epsilon);
float batch_norm_bias(float gamma, float beta, float bias, float running_mean,
                      float running_variance, float epsilon);

/* How a fake-quant's range learns.
 *   fixed: not at all; scale and offset come from an observer and get no gradient.
 *   lsq:   Esser et al. 2020; d x^/d scale = round(v) - v in range, outside it the clamped level
 * less offset / s; d x^/d offset = 1 outside the range, 0 inside (LSQ+, Bhalgat et al. 2020). The
 *          zero point stays on the grid: an offset that would leave it gets no gradient.
 *   sign:  of two levels; d x^/d scale = the level, anywhere (XNOR-Net, BiT), and x gets its
 * gradient where it lies between the two levels. stretched: ParetoQ's SEQ, Liu et al. 2025; lsq,
 * where in range ends at 0.99 of what the levels evenly share. pact:  Choi et al. 2018; d x^/d
 * scale = 0 in range, the clamped level outside. */
typedef enum RangeGradient {
    RANGE_FIXED,
    RANGE_LSQ,
    RANGE_PACT,
    RANGE_SIGN,
    RANGE_STRETCHED,
} RangeGradient;

/* x^ = s clamp(round(x / s), low, high) with s = scale rounded to `scale_dtype` (what is stored),
 * zero point z = -round(offset / s) and levels low = base - z .. high = base + step (2^b - 1) - z,
 * all by quantize_levels (core/dtype.h). The output holds levels, with scales. `scale` and `offset`
 * (NULL: 0, symmetric) are [count of scales]; row_length and run_length as in Scales.
 * The straight-through mask is taken on the unclamped level: dx = dy where it is in range, else 0.
 * Gradients to scale and offset are multiplied by grad_scale (LSQ: 1 / sqrt(N Qp)). */
typedef struct FakeQuantAttr {
    Grid grid;
    int64_t row_length, run_length;
    Dtype scale_dtype;
    RangeGradient range_gradient;
    float grad_scale;
} FakeQuantAttr;

/* The scale as it is stored: rounded to `dtype`, never below its smallest normal number nor above
 * its largest. */
float fake_quant_stored_scale(Dtype dtype, float scale);

/* The zero point -round(offset / stored_scale), half to even, kept on the grid (a learned offset
 * may leave it) so that 0 is always a level and padding with 0 stays exact. Scales.zero holds
 * these. */
float fake_quant_zero(Grid grid, float offset, float stored_scale);

#define OP(name, arguments)                                                                        \
    Var *op_##name arguments;                                                                      \
    extern const Op op_row_##name;
#include "autograd/ops.def"
#undef OP

extern const Op *const op_rows[]; /* every row, in the order of ops.def */
extern const int op_row_count;

#endif
