/* The mean over each image: [N, H, W, C] -> [N, C], summed in double in the order of the pixels. */
#include "autograd/ops.h"

enum { PANEL = 256 }; /* channels at a time */

static bool infer(Var *v, Error *err) {
    Shape x = v->in[0]->value.shape;
    char a[SHAPE_TEXT_BYTES];
    if (x.rank != 4 || x.dim[1] * x.dim[2] < 1)
        return FAIL(err, ERROR_INPUT, "input %s is not a batch of images [n, h, w, channels]",
                    shape_text(x, a));
    v->value.shape = SHAPE(x.dim[0], x.dim[3]);
    return true;
}

static void mean_panel(const float *restrict x, int64_t pixels, int64_t stride, int64_t count,
                       float *restrict y) {
    double sum[PANEL];
    for (int64_t c = 0; c < count; c++) sum[c] = 0;
    for (int64_t p = 0; p < pixels; p++, x += stride)
        for (int64_t c = 0; c < count; c++) sum[c] += (double)x[c];
    for (int64_t c = 0; c < count; c++) y[c] = (float)(sum[c] / (double)pixels);
}

static void forward(Tape *t, Var *v) {
    Shape x = v->in[0]->value.shape;
    int64_t pixels = x.dim[1] * x.dim[2], channels = x.dim[3];
    const float *in = var_f32(v->in[0]);
    float *out = var_f32(v);
    ArenaMark mark = arena_mark(t->arena);
    ProbeRun probe = probe_begin(v->probe, t->arena);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < x.dim[0]; n++) {
        for (int64_t c = 0; c < channels; c += PANEL)
            mean_panel(in + n * pixels * channels + c, pixels, channels,
                       channels - c < PANEL ? channels - c : PANEL, out + n * channels + c);
        probe_add(&probe, out + n * channels, channels);
    }
    v->is_seen = probe_end(&probe);
    arena_rewind(t->arena, mark);
}

static void spread(const float *restrict dy, float share, int64_t pixels, int64_t channels,
                   float beta, float *restrict dx) {
    for (int64_t p = 0; p < pixels; p++, dx += channels) {
        if (beta == 0) {
            for (int64_t c = 0; c < channels; c++) dx[c] = dy[c] * share;
        } else {
            for (int64_t c = 0; c < channels; c++) dx[c] += dy[c] * share;
        }
    }
}

static void backward(Tape *t, Var *v) {
    Shape x = v->in[0]->value.shape;
    int64_t pixels = x.dim[1] * x.dim[2], channels = x.dim[3];
    float beta, *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < x.dim[0]; n++)
        spread(var_grad_f32(v) + n * channels, 1.0f / (float)pixels, pixels, channels, beta,
               dx + n * pixels * channels);
}

static Var *sample(Tape *t, int which) {
    if (which >= 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(2, 3, 4, 3), -1, 1);
    return op_global_avg_pool(t, x);
}

Var *op_global_avg_pool(Tape *t, Var *x) {
    return tape_record(t, &op_row_global_avg_pool, 1, &x, NULL, 0);
}

static int64_t forward_scratch(const Var *v) {
    return probe_scratch(v->probe);
}

const Op op_row_global_avg_pool = {
    .name = "global_avg_pool",
    .flags = OP_IS_HOMOGENEOUS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .forward_scratch = forward_scratch,
};
