/* The largest of each window, NHWC; padding never wins. On a tie the first pixel in row-major order
 * has it, and a NaN spreads (as PyTorch's max_pool2d). Levels under one scale are compared as they
 * are and keep their scale. */
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { PANEL = 64, KERNEL_MAX = 256 };

typedef struct Saved {
    uint16_t *winner; /* one per output: which pixel of the window, row-major */
    Scales scales;    /* the output's, where the input holds levels */
} Saved;

static int64_t out_size(int64_t in, const Pool2dAttr *attr) {
    int64_t padded = in + 2 * attr->padding;
    return padded < attr->kernel ? 0 : (padded - attr->kernel) / attr->stride + 1;
}

static bool infer(Var *v, Error *err) {
    const Pool2dAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape;
    char a[SHAPE_TEXT_BYTES];
    if (attr->kernel < 1 || attr->kernel > KERNEL_MAX || attr->stride < 1)
        return FAIL(err, ERROR_INPUT, "kernel must be 1 to %d and stride at least 1", KERNEL_MAX);
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

/* The pixels of a window that lie inside the image, on one axis. */
typedef struct Window {
    int64_t first, begin, end; /* image index of the window's pixel 0; of those inside */
} Window;

static Window window_of(int64_t out, int64_t in_size, const Pool2dAttr *attr) {
    int64_t first = out * attr->stride - attr->padding, end = first + attr->kernel;
    return (Window){first, first < 0 ? 0 : first, end > in_size ? in_size : end};
}

static void compare(const float *restrict x, int32_t pixel, int64_t count, float *restrict best,
                    int32_t *restrict winner) {
    for (int64_t c = 0; c < count; c++) {
        int wins = (x[c] > best[c]) | (x[c] != x[c]);
        best[c] = wins ? x[c] : best[c];
        winner[c] = wins ? pixel : winner[c];
    }
}

/* One output pixel, `count` channels (at most PANEL) from `x` and `y` on. */
static void pool_panel(const float *x, Window rows, Window columns, int64_t width, int64_t channels,
                       int64_t kernel, int64_t count, float *y, uint16_t *winner) {
    float best[PANEL];
    int32_t at[PANEL];
    memcpy(best, x + (rows.begin * width + columns.begin) * channels, sizeof *best * (size_t)count);
    int32_t first = (int32_t)((rows.begin - rows.first) * kernel + columns.begin - columns.first);
    for (int64_t c = 0; c < count; c++) at[c] = first;
    for (int64_t h = rows.begin; h < rows.end; h++)
        for (int64_t w = columns.begin; w < columns.end; w++) {
            int64_t pixel = (h - rows.first) * kernel + w - columns.first;
            compare(x + (h * width + w) * channels, (int32_t)pixel, count, best, at);
        }
    memcpy(y, best, sizeof *best * (size_t)count);
    for (int64_t c = 0; c < count; c++) winner[c] = (uint16_t)at[c];
}

static void pool_row(const float *x, int64_t row, Shape in, Shape out, const Pool2dAttr *attr,
                     float *y, uint16_t *winner) {
    int64_t channels = in.dim[3];
    Window rows = window_of(row, in.dim[1], attr);
    for (int64_t w = 0; w < out.dim[2]; w++, y += channels, winner += channels) {
        Window columns = window_of(w, in.dim[2], attr);
        for (int64_t c = 0; c < channels; c += PANEL)
            pool_panel(x + c, rows, columns, in.dim[2], channels, attr->kernel,
                       channels - c < PANEL ? channels - c : PANEL, y + c, winner + c);
    }
}

/* Levels under one scale stay levels; others become values in step memory. */
static Tensor read_input(Tape *t, Var *v) {
    Saved *saved = v->saved;
    const Tensor *x = &v->in[0]->value;
    bool stays_levels = x->scales && x->scales->count == 1;
    v->value.scales = NULL;
    if (stays_levels) {
        saved->scales = *x->scales;
        saved->scales.row_length = saved->scales.run_length = var_count(v);
        v->value.scales = &saved->scales;
    }
    return operand_numbers(x, stays_levels, t->arena);
}

static const Scales *describe(Tape *t, Var *v) {
    const Scales *in = v->in[0]->value.scales;
    if (!in || in->count != 1) return NULL;
    Scales *out = tape_alloc(t, sizeof *out);
    *out = *in;
    out->row_length = out->run_length = var_count(v);
    return out;
}

static int64_t image_size(Shape shape) {
    return shape.dim[1] * shape.dim[2] * shape.dim[3];
}

/* For each thread, where images of other precisions are f32. */
static float *buffers_new(Tape *t, int64_t floats) {
    return tape_alloc(t, checked_mul(sizeof(float), (size_t)(floats * parallel_threads())));
}

static void saved_make(Tape *t, Var *v) {
    if (v->saved) return;
    Saved *saved = v->saved = tape_alloc(t, sizeof *saved);
    saved->winner = tape_alloc(t, sizeof *saved->winner * (size_t)var_count(v));
}

static void forward(Tape *t, Var *v) {
    const Pool2dAttr *attr = v->attr;
    Shape in = v->in[0]->value.shape, out = v->value.shape;
    saved_make(t, v);
    const Saved *saved = v->saved;
    ArenaMark mark = arena_mark(t->arena);
    const Tensor x = read_input(t, v);
    int64_t image = image_size(in), pooled = image_size(out), row = out.dim[2] * out.dim[3];
    float *buffers = buffers_new(t, image + pooled);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < out.dim[0]; n++) {
        float *buffer = buffers + parallel_self() * (image + pooled);
        const float *from = operand_part(&x, n * image, image, buffer);
        bool is_f32 = v->value.dtype == DTYPE_F32;
        float *to = is_f32 ? (float *)v->value.data + n * pooled : buffer + image;
        for (int64_t r = 0; r < out.dim[1]; r++)
            pool_row(from, r, in, out, attr, to + r * row, saved->winner + n * pooled + r * row);
        if (!is_f32) operand_write(to, n * pooled, pooled, &v->value);
    }
    arena_rewind(t->arena, mark);
}

static void add_winners(const float *restrict dy, const uint16_t *restrict winner, uint16_t pixel,
                        int64_t count, float *restrict dx) {
    for (int64_t c = 0; c < count; c++) {
        float d = dy[c]; /* read in any case, so that the loop vectorises */
        dx[c] += winner[c] == pixel ? d : 0.0f;
    }
}

static void backward_image(const float *dy, const uint16_t *winner, Shape in, Shape out,
                           const Pool2dAttr *attr, float *dx) {
    int64_t channels = in.dim[3];
    for (int64_t i = 0; i < out.dim[1] * out.dim[2]; i++, dy += channels, winner += channels) {
        Window rows = window_of(i / out.dim[2], in.dim[1], attr);
        Window columns = window_of(i % out.dim[2], in.dim[2], attr);
        for (int64_t h = rows.begin; h < rows.end; h++)
            for (int64_t w = columns.begin; w < columns.end; w++)
                add_winners(dy, winner,
                            (uint16_t)((h - rows.first) * attr->kernel + w - columns.first),
                            channels, dx + (h * in.dim[2] + w) * channels);
    }
}

static void backward(Tape *t, Var *v) {
    const Saved *saved = v->saved;
    Shape in = v->in[0]->value.shape, out = v->value.shape;
    int64_t image = image_size(in), pooled = image_size(out);
    const Tensor dy = var_grad(v);
    float beta;
    const Tensor dx = tape_grad_tensor(t, v->in[0], &beta);
    if (!dx.data) return;
    bool is_f32 = dx.dtype == DTYPE_F32;
    ArenaMark mark = arena_mark(t->arena);
    float *buffers = buffers_new(t, image + pooled);
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t n = 0; n < in.dim[0]; n++) {
        float *buffer = buffers + parallel_self() * (image + pooled);
        const float *from = operand_part(&dy, n * pooled, pooled, buffer + image);
        float *to = is_f32 ? (float *)dx.data + n * image : buffer;
        if (beta == 0)
            memset(to, 0, sizeof *to * (size_t)image);
        else if (!is_f32)
            operand_read(&dx, n * image, image, to);
        backward_image(from, saved->winner + n * pooled, in, out, v->attr, to);
        if (!is_f32) operand_write(to, n * image, image, &dx);
    }
    arena_rewind(t->arena, mark);
}

/* ---- As the tail of a group of maps: windows side by side, in blocks of whole image rows. ---- */

static bool tail_fits(const Var *v, int64_t block_rows) {
    const Pool2dAttr *attr = v->attr;
    const Tensor *x = &v->in[0]->value;
    int64_t kernel = attr->kernel, width = x->shape.dim[2];
    return kernel == attr->stride && !attr->padding && !x->scales && width % kernel == 0 &&
           block_rows % (kernel * width) == 0 &&
           x->shape.dim[1] % (block_rows / width) == 0; /* no block of two images */
}

static int64_t tail_ratio(const Var *v) {
    const Pool2dAttr *attr = v->attr;
    return attr->kernel * attr->kernel;
}

static void tail_prepare(Tape *t, Var *v) {
    saved_make(t, v);
    v->value.scales = NULL;
}

/* The rows of a block as an image of their own. */
static void tail_shapes(const Var *v, int64_t count, Shape *in, Shape *out) {
    const Pool2dAttr *attr = v->attr;
    *in = v->in[0]->value.shape;
    *out = v->value.shape;
    in->dim[1] = count / (in->dim[2] * in->dim[3]);
    out->dim[1] = in->dim[1] / attr->kernel;
}

static void tail_forward(const Var *v, int64_t first, int64_t count, const float *x, float *y) {
    const Saved *saved = v->saved;
    Shape in, out;
    tail_shapes(v, count, &in, &out);
    uint16_t *winner = saved->winner + first / tail_ratio(v);
    int64_t row = out.dim[2] * out.dim[3];
    for (int64_t r = 0; r < out.dim[1]; r++)
        pool_row(x, r, in, out, v->attr, y + r * row, winner + r * row);
}

static void tail_backward(const Var *v, int64_t first, int64_t count, const float *dy, float *dx) {
    const Saved *saved = v->saved;
    Shape in, out;
    tail_shapes(v, count, &in, &out);
    memset(dx, 0, sizeof *dx * (size_t)count);
    backward_image(dy, saved->winner + first / tail_ratio(v), in, out, v->attr, dx);
}

static const MapTail tail = {
    .fits = tail_fits,
    .ratio = tail_ratio,
    .prepare = tail_prepare,
    .forward = tail_forward,
    .backward = tail_backward,
};

/* A permutation of multiples of 0.05: no two pixels tie. */
static Var *distinct_leaf(Tape *t, Shape shape) {
    Var *x = tape_sample_leaf(t, shape, -1, 1);
    int64_t count = var_count(x);
    for (int64_t i = 0; i < count; i++)
        var_f32(x)[i] = 0.05f * (float)(i * 37 % count) - 0.025f * (float)count;
    return x;
}

static Var *sample(Tape *t, int which) {
    static const Pool2dAttr attrs[] = {{2, 2, 0}, {3, 2, 1}, {3, 1, 0}};
    if (which >= 3) return NULL;
    Var *x = distinct_leaf(t, which ? SHAPE(1, 5, 4, 2) : SHAPE(2, 4, 6, 2));
    return op_max_pool2d(t, x, attrs[which]);
}

Var *op_max_pool2d(Tape *t, Var *x, Pool2dAttr attr) {
    return tape_record(t, &op_row_max_pool2d, 1, &x, &attr, sizeof attr);
}

const Op op_row_max_pool2d = {
    .name = "max_pool2d",
    .flags = OP_READS_LEVELS | OP_READS_HALF | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .describe = describe,
    .tail = &tail,
};
