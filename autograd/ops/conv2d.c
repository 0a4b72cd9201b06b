/* 2-D convolution (cross-correlation) on NHWC images with weights [out, kernel_h, kernel_w,
 * in / groups]:
 *     y[n, i, j, o] = bias[o] + sum x[n, i stride + a dilation - pad, ..., c] w[o, a, b, c]
 * Operands that hold levels are multiplied as integers (core/conv.h); gradients read their values.
 */
#include "autograd/channel.h"
#include "autograd/flops.h"
#include "autograd/ops.h"
#include "core/conv.h"
#include "core/conv_scratch.h"
#include "core/kernels/operand.h"

static int64_t out_size(int64_t in, int64_t kernel, int64_t padding, const Conv2dAttr *attr) {
    int64_t span = attr->dilation * (kernel - 1) + 1;
    return in + padding < span ? 0 : (in + padding - span) / attr->stride + 1;
}

static bool check_attr(const Conv2dAttr *attr, Error *err) {
    if (attr->stride < 1 || attr->dilation < 1 || attr->groups < 1)
        return FAIL(err, ERROR_INPUT, "stride, dilation and groups must be at least 1");
    if (attr->pad_top < 0 || attr->pad_bottom < 0 || attr->pad_left < 0 || attr->pad_right < 0)
        return FAIL(err, ERROR_INPUT, "padding must not be negative");
    return true;
}

static bool infer(Var *v, Error *err) {
    const Conv2dAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape, w = v->in[1]->value.shape;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    TRY(check_attr(attr, err));
    if (x.rank != 4 || w.rank != 4 || x.dim[3] != w.dim[3] * attr->groups)
        return FAIL(err, ERROR_INPUT,
                    "input %s does not fit weight %s with %lld group(s): expected images "
                    "[n, h, w, channels] and weights [out, kernel_h, kernel_w, channels / groups]",
                    shape_text(x, a), shape_text(w, b), (long long)attr->groups);
    if (w.dim[0] % attr->groups)
        return FAIL(err, ERROR_INPUT, "%lld output channels cannot be split into %lld groups",
                    (long long)w.dim[0], (long long)attr->groups);
    if (v->in[2] && var_count(v->in[2]) != w.dim[0])
        return FAIL(err, ERROR_INPUT, "bias %s does not fit weight %s: one value per output",
                    shape_text(v->in[2]->value.shape, a), shape_text(w, b));
    int64_t out_h = out_size(x.dim[1], w.dim[1], attr->pad_top + attr->pad_bottom, attr);
    int64_t out_w = out_size(x.dim[2], w.dim[2], attr->pad_left + attr->pad_right, attr);
    if (out_h < 1 || out_w < 1)
        return FAIL(err, ERROR_INPUT, "image %s is smaller than the kernel of weight %s",
                    shape_text(x, a), shape_text(w, b));
    v->value.shape = SHAPE(x.dim[0], out_h, out_w, w.dim[0]);
    return true;
}

static ConvGeometry geometry_of(const Var *v) {
    const Conv2dAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape, w = v->in[1]->value.shape, y = v->value.shape;
    return (ConvGeometry){
        .batch = x.dim[0],
        .in_h = x.dim[1],
        .in_w = x.dim[2],
        .in_c = x.dim[3],
        .out_h = y.dim[1],
        .out_w = y.dim[2],
        .out_c = y.dim[3],
        .kernel_h = w.dim[1],
        .kernel_w = w.dim[2],
        .stride_h = attr->stride,
        .stride_w = attr->stride,
        .dilation_h = attr->dilation,
        .dilation_w = attr->dilation,
        .pad_top = attr->pad_top,
        .pad_left = attr->pad_left,
        .groups = attr->groups,
    };
}

/* Who reads an image once it is written. */
typedef struct Readers {
    const Var *v;
    MomentParts moments; /* where v->wants_moments */
    ProbeRun probe;
} Readers;

static void tell_readers(const void *context, int64_t image) {
    const Readers *readers = context;
    const Tensor *y = &readers->v->value;
    if (readers->v->wants_moments) moment_parts_add(&readers->moments, image);
    if (!readers->v->probe) return; /* y may be half precision */
    int64_t count = tensor_count(y) / y->shape.dim[0];
    probe_add(&readers->probe, tensor_f32(y) + image * count, count);
}

static void forward(Tape *t, Var *v) {
    ConvGeometry geometry = geometry_of(v);
    const float *bias = v->in[2] ? var_f32(v->in[2]) : NULL;
    int64_t channels = shape_last(v->value.shape);
    if (v->wants_moments) v->moments = tape_alloc(t, sizeof(float) * 2 * (size_t)channels);
    ArenaMark mark = arena_mark(t->arena);
    Readers readers = {.v = v, .probe = probe_begin(v->probe, t->arena)};
    if (v->wants_moments) readers.moments = moment_parts_new(&v->value, t->arena);
    ConvWritten written = {v->wants_moments || v->probe ? tell_readers : NULL, &readers};
    conv_forward(&geometry, &v->in[0]->value, &v->in[1]->value, bias, &v->value, written, t->arena);
    if (v->wants_moments) moment_parts_finish(&readers.moments, v->moments, v->moments + channels);
    v->is_seen = probe_end(&readers.probe);
    arena_rewind(t->arena, mark);
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t channels = shape_last(v->value.shape);
    return v->wants_moments ? arena_padded(2 * (int64_t)sizeof(float) * channels) : 0;
}

static int64_t forward_scratch(const Var *v) {
    ConvGeometry g = geometry_of(v);
    return probe_scratch(v->probe) + (v->wants_moments ? moment_parts_scratch(&v->value) : 0) +
           conv_forward_scratch(&g, &v->in[0]->value, &v->in[1]->value, &v->value);
}

static void bias_backward(Tape *t, Var *v, const Tensor *dy) {
    float beta, *grad = tape_grad(t, v->in[2], &beta);
    if (!grad) return;
    ArenaMark mark = arena_mark(t->arena);
    const float *values = operand_values(dy, t->arena);
    channel_sum(values, shape_rows(v->value.shape), shape_last(v->value.shape), beta, grad,
                t->arena);
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    ConvGeometry geometry = geometry_of(v);
    const Tensor dy = v->grad;
    float beta;
    Tensor dx = tape_grad_tensor(t, v->in[0], &beta);
    if (dx.data) conv_backward_input(&geometry, &dy, &v->in[1]->value, beta, &dx, t->arena);
    float *dw = tape_grad(t, v->in[1], &beta);
    if (dw) conv_backward_weight(&geometry, &v->in[0]->value, &dy, beta, dw, t->arena);
    bias_backward(t, v, &dy);
}

static int64_t backward_scratch(const Var *v) {
    ConvGeometry g = geometry_of(v);
    const Tensor *x = &v->in[0]->value, *w = &v->in[1]->value;
    const Tensor dx = v->in[0]->grad, dy = v->grad;
    int64_t most = 0, parts[3] = {0};
    if (v->in[0]->needs_grad) parts[0] = conv_backward_input_scratch(&g, &dy, w, &dx);
    if (v->in[1]->needs_grad) parts[1] = conv_backward_weight_scratch(&g, x, &dy);
    if (v->in[2] && v->in[2]->needs_grad)
        parts[2] = operand_values_scratch(&dy) +
                   channel_sum_scratch(shape_rows(dy.shape), shape_last(dy.shape));
    for (int i = 0; i < 3; i++) most = parts[i] > most ? parts[i] : most;
    return most;
}

static Var *sample(Tape *t, int which) {
    static const struct {
        Shape x, w;
        Conv2dAttr attr;
        bool has_bias;
    } samples[] = {
        {{4, {2, 5, 4, 3}}, {4, {4, 3, 3, 3}}, {1, 1, 1, 1, 1, 1, 1}, true},
        {{4, {1, 7, 8, 2}}, {4, {3, 3, 2, 2}}, {2, 2, 1, 2, 1, 0, 1}, true},
        {{4, {2, 4, 4, 4}}, {4, {6, 3, 3, 2}}, {1, 1, 2, 1, 1, 1, 1}, false},
        {{4, {2, 6, 5, 3}}, {4, {3, 3, 3, 1}}, {2, 1, 3, 1, 1, 1, 1}, true}, /* depthwise */
        {{4, {2, 3, 3, 4}}, {4, {5, 1, 1, 4}}, {1, 1, 1, 0, 0, 0, 0}, false},
        {{4, {17, 2, 3, 2}}, {4, {3, 2, 2, 2}}, {1, 1, 1, 0, 0, 0, 0}, true}, /* many images */
    };
    if (which >= (int)(sizeof samples / sizeof *samples)) return NULL;
    Var *x = tape_sample_leaf(t, samples[which].x, -1, 1);
    Var *w = tape_sample_leaf(t, samples[which].w, -1, 1);
    Var *bias = NULL;
    if (samples[which].has_bias) bias = tape_sample_leaf(t, SHAPE(samples[which].w.dim[0]), -1, 1);
    return op_conv2d(t, x, w, bias, samples[which].attr);
}

Var *op_conv2d(Tape *t, Var *x, Var *w, Var *bias, Conv2dAttr attr) {
    Var *in[] = {x, w, bias};
    return tape_record(t, &op_row_conv2d, 3, in, &attr, sizeof attr);
}

const Op op_row_conv2d = {
    .name = "conv2d",
    .flags = OP_READS_LEVELS | OP_READS_HALF | OP_SPARES_OUTPUT | OP_GIVES_MOMENTS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .half_grads = 1,
    .flops = flops_of_product,
    .geometry = geometry_of,
};
