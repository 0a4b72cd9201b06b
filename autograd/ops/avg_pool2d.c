/* The mean of each window's pixels that lie inside the image, NHWC (PyTorch's avg_pool2d with
 * count_include_pad=False). */
#include <string.h>

#include "autograd/ops.h"

static int64_t out_size(int64_t in, const Pool2dAttr *attr) {
    int64_t padded = in + 2 * attr->padding;
    return padded < attr->kernel ? 0 : (padded - attr->kernel) / attr->stride + 1;
}

static bool infer(Var *v, Error *err) {
    const Pool2dAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape;
    char a[SHAPE_TEXT_BYTES];
    if (attr->kernel < 1 || attr->stride < 1)
        return FAIL(err, ERROR_INPUT, "kernel and stride must be at least 1");
    if (attr->padding < 0 || attr->padding > attr->kernel / 2)
        return FAIL(err, ERROR_INPUT, "padding must be from 0 to half the kernel (%lld)",
                    (long long)(attr->kernel / 2));
    if (x.rank != 4)
        return FAIL(err, ERROR_INPUT, "input %s is not a batch of images [n, h, w, channels]",
                    shape_text(x, a));
    int64_t out_h = out_size(x.dim[1], attr), out_w = out_size(x.dim[2], attr);
    if (out_h < 1 || out_w < 1)
        return FAIL(err, ERROR_INPUT, "image %s is smaller than the %lldx%lld window",
                    shape_text(x, a), (long long)attr->kernel, (long long)attr->kernel);
    v->value.shape = SHAPE(x.dim[0], out_h, out_w, x.dim[3]);
    return true;
}

/* The pixels of an output's window inside the image, and 1 / their number. */
typedef struct Window {
    int64_t top, bottom, left, right;
    float share;
} Window;

static Window window_of(int64_t row, int64_t column, Shape in, const Pool2dAttr *attr) {
    int64_t top = row * attr->stride - attr->padding, bottom = top + attr->kernel;
    int64_t left = column * attr->stride - attr->padding, right = left + attr->kernel;
    Window window = {
        .top = top < 0 ? 0 : top,
        .bottom = bottom > in.dim[1] ? in.dim[1] : bottom,
        .left = left < 0 ? 0 : left,
        .right = right > in.dim[2] ? in.dim[2] : right,
    };
    int64_t pixels = (window.bottom - window.top) * (window.right - window.left);
    window.share = 1.0f / (float)pixels;
    return window;
}

static void add_scaled(const float *restrict x, float factor, int64_t count, float *restrict y) {
    for (int64_t c = 0; c < count; c++) y[c] += x[c] * factor;
}

static void pool_pixel(const float *x, Window window, Shape in, float *y) {
    int64_t channels = in.dim[3];
    memset(y, 0, sizeof *y * (size_t)channels);
    for (int64_t h = window.top; h < window.bottom; h++)
        for (int64_t w = window.left; w < window.right; w++)
            add_scaled(x + (h * in.dim[2] + w) * channels, 1, channels, y);
    for (int64_t c = 0; c < channels; c++) y[c] *= window.share;
}

static void forward(Tape *t, Var *v) {
    Shape in = v->in[0]->value.shape, out = v->value.shape;
    int64_t image = in.dim[1] * in.dim[2] * in.dim[3], out_row = out.dim[2] * out.dim[3];
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
    ArenaMark mark = arena_mark(t->arena);
    ProbeRun probe = probe_begin(v->probe, t->arena);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < out.dim[0] * out.dim[1]; r++) {
        for (int64_t w = 0; w < out.dim[2]; w++)
            pool_pixel(x + r / out.dim[1] * image, window_of(r % out.dim[1], w, in, v->attr), in,
                       y + r * out_row + w * in.dim[3]);
        probe_add(&probe, y + r * out_row, out_row);
    }
    v->is_seen = probe_end(&probe);
    arena_rewind(t->arena, mark);
}

static void backward_image(const float *dy, Shape in, Shape out, const Pool2dAttr *attr,
                           float *dx) {
    int64_t channels = in.dim[3];
    for (int64_t i = 0; i < out.dim[1] * out.dim[2]; i++) {
        Window window = window_of(i / out.dim[2], i % out.dim[2], in, attr);
        for (int64_t h = window.top; h < window.bottom; h++)
            for (int64_t w = window.left; w < window.right; w++)
                add_scaled(dy + i * channels, window.share, channels,
                           dx + (h * in.dim[2] + w) * channels);
    }
}

static void backward(Tape *t, Var *v) {
    Shape in = v->in[0]->value.shape, out = v->value.shape;
    int64_t image = in.dim[1] * in.dim[2] * in.dim[3], pooled = out.dim[1] * out.dim[2] * in.dim[3];
    float beta, *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < in.dim[0]; n++) {
        if (beta == 0) memset(dx + n * image, 0, sizeof *dx * (size_t)image);
        backward_image(var_grad_f32(v) + n * pooled, in, out, v->attr, dx + n * image);
    }
}

static Var *sample(Tape *t, int which) {
    static const Pool2dAttr attrs[] = {{2, 2, 0}, {3, 2, 1}, {3, 1, 0}};
    if (which >= 3) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(2, 5, 4, 3), -1, 1);
    return op_avg_pool2d(t, x, attrs[which]);
}

Var *op_avg_pool2d(Tape *t, Var *x, Pool2dAttr attr) {
    return tape_record(t, &op_row_avg_pool2d, 1, &x, &attr, sizeof attr);
}

static int64_t forward_scratch(const Var *v) {
    return probe_scratch(v->probe);
}

const Op op_row_avg_pool2d = {
    .name = "avg_pool2d",
    .flags = OP_IS_HOMOGENEOUS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .forward_scratch = forward_scratch,
};
