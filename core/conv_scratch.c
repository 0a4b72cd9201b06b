#include "core/conv_scratch.h"

#include "core/conv_plan.h"
#include "core/kernels/isa.h"
#include "core/parallel.h"
#include "core/shares.h"

enum { OFFSET_BYTES = sizeof(int64_t), FLOAT_BYTES = sizeof(float) };

static int64_t taps_of(const ConvGeometry *g) {
    return g->kernel_h * g->kernel_w;
}

/* The copies of an image, or of several, one per thread; none where it is read in place. */
static int64_t plane_bytes(int64_t images, int64_t size, bool is_in_place) {
    if (is_in_place) return 0;
    return (int64_t)parallel_threads() * (lanes_up(images * size) + LANES) * FLOAT_BYTES;
}

/* Of one side of an image: what the outputs reach. */
static int64_t reached(int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
    return (out - 1) * stride + (kernel - 1) * dilation + 1;
}

static int64_t forward_plane(const ConvGeometry *g, bool is_f32, int64_t images) {
    int64_t h = reached(g->out_h, g->stride_h, g->kernel_h, g->dilation_h);
    int64_t w = reached(g->out_w, g->stride_w, g->kernel_w, g->dilation_w);
    bool is_padded = g->pad_top > 0 || g->pad_left > 0 || h > g->in_h || w > g->in_w;
    bool is_whole = !conv_is_depthwise(g) || g->in_c % LANES == 0;
    if (!is_padded) h = g->in_h, w = g->in_w;
    return plane_bytes(images, h * w * g->in_c, is_f32 && !is_padded && is_whole);
}

/* Of `group_out` channels per group, rounded up to whole blocks, over `depth` taps and channels. */
static int64_t weight_bytes(const ConvGeometry *g, int64_t group_out, int64_t depth) {
    int64_t row = conv_is_depthwise(g) ? lanes_up(g->out_c) : g->groups * lanes_up(group_out);
    return depth * row * FLOAT_BYTES;
}

static int64_t forward_layout(const ConvGeometry *g, bool is_f32, int64_t images) {
    int64_t pixels = 2 * g->out_h * g->out_w * OFFSET_BYTES;
    int64_t taps = taps_of(g) * (int64_t)(2 * OFFSET_BYTES + sizeof(Run));
    return forward_plane(g, is_f32, images) + pixels + taps + (int64_t)sizeof(Phase);
}

/* Images of a result before they are rounded, or of dy decoded: one per thread. */
static int64_t image_bytes(int64_t h, int64_t w, int64_t c, bool is_f32) {
    return is_f32 ? 0 : (int64_t)parallel_threads() * h * w * c * FLOAT_BYTES;
}

int64_t conv_forward_scratch(const ConvGeometry *g, ConvOperands operands) {
    int64_t depth = taps_of(g) * (g->in_c / g->groups);
    return forward_layout(g, operands.x_is_f32, 1) +
           image_bytes(g->out_h, g->out_w, g->out_c, operands.y_is_f32) +
           weight_bytes(g, g->out_c / g->groups, depth) + g->out_c * FLOAT_BYTES + shares_bytes();
}

int64_t conv_backward_input_scratch(const ConvGeometry *g, ConvOperands operands) {
    int64_t phases = g->stride_h * g->stride_w;
    int64_t reach_h = (g->kernel_h - 1) * g->dilation_h / g->stride_h;
    int64_t reach_w = (g->kernel_w - 1) * g->dilation_w / g->stride_w;
    int64_t h = (g->in_h - 1 + g->pad_top) / g->stride_h + reach_h + 1;
    int64_t w = (g->in_w - 1 + g->pad_left) / g->stride_w + reach_w + 1;
    bool is_padded = reach_h > 0 || reach_w > 0 || h > g->out_h || w > g->out_w;
    bool is_whole = !conv_is_depthwise(g) || g->out_c % LANES == 0;
    if (!is_padded) h = g->out_h, w = g->out_w;
    int64_t pixels = 2 * g->in_h * g->in_w * OFFSET_BYTES;
    int64_t taps = taps_of(g) * (int64_t)(2 * OFFSET_BYTES + sizeof(Run));
    int64_t depth = taps_of(g) * (g->out_c / g->groups);
    return plane_bytes(1, h * w * g->out_c, operands.dy_is_f32 && !is_padded && is_whole) +
           image_bytes(g->in_h, g->in_w, g->in_c, operands.dx_is_f32) +
           phases * (pixels + taps + (int64_t)sizeof(Phase)) +
           weight_bytes(g, g->in_c / g->groups, depth) + shares_bytes();
}

int64_t conv_backward_weight_scratch(const ConvGeometry *g, ConvOperands operands) {
    WeightCut cut = weight_cut(g);
    int64_t offsets = cut.filter + (cut.images > 1 ? cut.images * g->out_h * g->out_w : 0);
    return forward_layout(g, operands.x_is_f32, cut.images) +
           cut.images * image_bytes(g->out_h, g->out_w, g->out_c, operands.dy_is_f32) +
           offsets * OFFSET_BYTES + cut.pixels * cut.row * FLOAT_BYTES * parallel_threads() +
           cut.chunks * cut.sum_size * FLOAT_BYTES + shares_bytes();
}
