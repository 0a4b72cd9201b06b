/* The largest of each window, NHWC; padding never wins. On a tie the first pixel in row-major order
 * has it, and a NaN spreads (as PyTorch's max_pool2d). Levels under one scale are compared as they
 * are and keep their scale. */
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { KERNEL_MAX = 256 };

typedef struct Saved {
    uint16_t *winner; /* one per output: which pixel of the window inside the image, row-major */
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
    int64_t begin, end;
} Window;

static Window window_of(int64_t out, int64_t in_size, const Pool2dAttr *attr) {
    int64_t first = out * attr->stride - attr->padding, end = first + attr->kernel;
    return (Window){first < 0 ? 0 : first, end > in_size ? in_size : end};
}

typedef struct Geometry {
    const Pool2dAttr *attr;
    Shape in, out;
} Geometry;

/* Windows of one row that lie side by side, as kernels take them. */
typedef struct Span {
    PoolWindow window;
    int64_t at, pooled; /* elements before it: of the image, of the row of outputs */
} Span;

/* How many windows lie inside the image as a whole, from `column` on; at least 1. */
static int64_t windows_alike(const Geometry *g, int64_t column) {
    int64_t count = 0;
    for (; column + count < g->out.dim[2]; count++) {
        Window w = window_of(column + count, g->in.dim[2], g->attr);
        if (w.end - w.begin < g->attr->kernel) break;
    }
    return count ? count : 1;
}

/* The next windows of row `row` of outputs from *column on, which moves past them. */
static bool next_span(const Geometry *g, int64_t row, int64_t *column, Span *span) {
    if (*column == g->out.dim[2]) return false;
    Window rows = window_of(row, g->in.dim[1], g->attr);
    Window columns = window_of(*column, g->in.dim[2], g->attr);
    int64_t channels = g->in.dim[3], width = g->in.dim[2];
    span->at = (rows.begin * width + columns.begin) * channels;
    span->pooled = *column * channels;
    span->window = (PoolWindow){.rows = rows.end - rows.begin,
                                .columns = columns.end - columns.begin,
                                .row_stride = width * channels,
                                .pixel_stride = channels,
                                .count = windows_alike(g, *column),
                                .step = g->attr->stride * channels};
    *column += span->window.count;
    return true;
}

/* Of one image, or some rows of it that are an image of their own. */
static void pool_image(const Geometry *g, const float *x, float *y, uint16_t *winner) {
    int64_t channels = g->in.dim[3], row = g->out.dim[2] * channels;
    for (int64_t r = 0; r < g->out.dim[1]; r++, y += row, winner += row) {
        Span span;
        for (int64_t column = 0; next_span(g, r, &column, &span);)
            isa_active()->pool_max(&span.window, x + span.at, channels, y + span.pooled,
                                   winner + span.pooled);
    }
}

/* dx (joins: plus what is there) = dy where the winners are, else 0. */
static void spread_image(const Geometry *g, const float *dy, const uint16_t *winner, bool joins,
                         float *dx) {
    int64_t channels = g->in.dim[3], row = g->out.dim[2] * channels;
    for (int64_t r = 0; r < g->out.dim[1]; r++, dy += row, winner += row) {
        Span span;
        for (int64_t column = 0; next_span(g, r, &column, &span);)
            isa_active()->pool_spread(&span.window, dy + span.pooled, winner + span.pooled,
                                      channels, joins, dx + span.at);
    }
}

/* Levels under one scale stay levels; others are read as values. */
static Operand read_input(Var *v) {
    Saved *saved = v->saved;
    const Tensor *x = &v->in[0]->value;
    bool stays_levels = tensor_has_one_scale(x);
    if (stays_levels) {
        saved->scales = *x->scales;
        saved->scales.row_length = saved->scales.run_length = var_count(v);
        v->value.scales = &saved->scales;
    }
    return (Operand){*x, stays_levels};
}

static const Scales *describe(Tape *t, Var *v) {
    const Tensor *x = &v->in[0]->value;
    if (!tensor_has_one_scale(x)) return NULL;
    Scales *out = tape_alloc(t, sizeof *out);
    *out = *x->scales;
    out->row_length = out->run_length = var_count(v);
    return out;
}

static int64_t image_size(Shape shape) {
    return shape.dim[1] * shape.dim[2] * shape.dim[3];
}

/* For each thread, where images of other precisions are f32: one of the input, one of the output.
 */
static int64_t buffers_bytes(const Var *v) {
    int64_t floats = image_size(v->in[0]->value.shape) + image_size(v->value.shape);
    return arena_padded((int64_t)sizeof(float) * floats * parallel_threads());
}

static void saved_make(Tape *t, Var *v) {
    if (v->saved) return;
    Saved *saved = v->saved = tape_alloc(t, sizeof *saved);
    saved->winner = tape_alloc(t, sizeof *saved->winner * (size_t)var_count(v));
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    return arena_padded(sizeof(Saved)) + arena_padded((int64_t)sizeof(uint16_t) * var_count(v));
}

static int64_t forward_scratch(const Var *v) {
    return buffers_bytes(v) + probe_scratch(v->probe);
}

static void forward(Tape *t, Var *v) {
    const Geometry g = {v->attr, v->in[0]->value.shape, v->value.shape};
    saved_make(t, v);
    const Saved *saved = v->saved;
    ArenaMark mark = arena_mark(t->arena);
    const Operand x = read_input(v);
    int64_t image = image_size(g.in), pooled = image_size(g.out);
    isa_active(); /* chosen before threads ask */
    float *buffers = tape_alloc(t, (size_t)buffers_bytes(v));
    ProbeRun probe = probe_begin(v->probe, t->arena);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < g.out.dim[0]; n++) {
        float *buffer = buffers + parallel_self() * (image + pooled);
        const float *from = operand_at(&x, n * image, image, buffer);
        bool is_f32 = v->value.dtype == DTYPE_F32;
        float *to = is_f32 ? (float *)v->value.data + n * pooled : buffer + image;
        pool_image(&g, from, to, saved->winner + n * pooled);
        probe_add(&probe, to, pooled);
        if (!is_f32) operand_write(to, n * pooled, pooled, &v->value);
    }
    v->is_seen = probe_end(&probe);
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    const Saved *saved = v->saved;
    const Geometry g = {v->attr, v->in[0]->value.shape, v->value.shape};
    int64_t image = image_size(g.in), pooled = image_size(g.out);
    const Tensor dy = v->grad;
    float beta;
    const Tensor dx = tape_grad_tensor(t, v->in[0], &beta);
    if (!dx.data) return;
    bool is_f32 = dx.dtype == DTYPE_F32;
    isa_active(); /* chosen before threads ask */
    ArenaMark mark = arena_mark(t->arena);
    float *buffers = tape_alloc(t, (size_t)buffers_bytes(v));
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t n = 0; n < g.in.dim[0]; n++) {
        float *buffer = buffers + parallel_self() * (image + pooled);
        const float *from = operand_part(&dy, n * pooled, pooled, buffer + image);
        float *to = is_f32 ? (float *)dx.data + n * image : buffer;
        if (beta == 0)
            memset(to, 0, sizeof *to * (size_t)image);
        else if (!is_f32)
            operand_read(&dx, n * image, image, to);
        spread_image(&g, from, saved->winner + n * pooled, true, to);
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
}

/* The rows of a block as an image of their own. */
static Geometry block_geometry(const Var *v, int64_t count) {
    const Pool2dAttr *attr = v->attr;
    Geometry g = {attr, v->in[0]->value.shape, v->value.shape};
    g.in.dim[1] = count / (g.in.dim[2] * g.in.dim[3]);
    g.out.dim[1] = g.in.dim[1] / attr->kernel;
    return g;
}

static uint16_t *block_winners(const Var *v, int64_t first) {
    return ((const Saved *)v->saved)->winner + first / tail_ratio(v);
}

static void tail_forward(const Var *v, int64_t first, int64_t count, const float *x, float *y) {
    const Geometry g = block_geometry(v, count);
    pool_image(&g, x, y, block_winners(v, first));
}

static void tail_backward(const Var *v, int64_t first, int64_t count, const float *dy, float *dx) {
    const Geometry g = block_geometry(v, count);
    spread_image(&g, dy, block_winners(v, first), false, dx); /* windows leave out no pixel */
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
    .flags = OP_IS_HOMOGENEOUS | OP_READS_LEVELS | OP_READS_HALF | OP_KEEPS_SIGN |
             OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .describe = describe,
    .tail = &tail,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
    .backward_scratch = buffers_bytes,
    .half_grads = 1,
};
