#include "core/conv_scratch.h"

#include "core/conv_plan.h"
#include "core/kernels/isa.h"
#include "core/parallel.h"

/* As in conv_weight.c; tests/test_conv_scratch.c compares with what it takes. */
enum {
    CHUNKS = 16,
    CHUNKS_MIN = 4,
    SUM_FLOATS_MAX = 1 << 22,
    CACHE_FLOATS = 5120,
    PIXELS_MIN = 32,
};

enum { OFFSET_BYTES = sizeof(int64_t), FLOAT_BYTES = sizeof(float) };

static int64_t taps_of(const ConvGeometry *g) {
    return g->kernel_h * g->kernel_w;
}

/* The copies of an image, one per thread; none where it is read in place. */
static int64_t plane_bytes(int64_t h, int64_t w, int64_t c, bool is_in_place) {
    if (is_in_place) return 0;
    return (int64_t)parallel_threads() * (lanes_up(h * w * c) + LANES) * FLOAT_BYTES;
}

/* Of one side of an image: what the outputs reach. */
static int64_t reached(int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
    return (out - 1) * stride + (kernel - 1) * dilation + 1;
}

static int64_t forward_plane(const ConvGeometry *g, bool is_f32) {
    int64_t h = reached(g->out_h, g->stride_h, g->kernel_h, g->dilation_h);
    int64_t w = reached(g->out_w, g->stride_w, g->kernel_w, g->dilation_w);
    bool is_padded = g->pad_top > 0 || g->pad_left > 0 || h > g->in_h || w > g->in_w;
    bool is_whole = !conv_is_depthwise(g) || g->in_c % LANES == 0;
    if (!is_padded) h = g->in_h, w = g->in_w;
    return plane_bytes(h, w, g->in_c, is_f32 && !is_padded && is_whole);
}

/* Of `group_out` channels per group, rounded up to whole blocks, over `depth` taps and channels. */
static int64_t weight_bytes(const ConvGeometry *g, int64_t group_out, int64_t depth) {
    int64_t row = conv_is_depthwise(g) ? lanes_up(g->out_c) : g->groups * lanes_up(group_out);
    return depth * row * FLOAT_BYTES;
}

static int64_t forward_layout(const ConvGeometry *g, bool is_f32) {
    int64_t pixels = 2 * g->out_h * g->out_w * OFFSET_BYTES;
    int64_t taps = taps_of(g) * (int64_t)(2 * OFFSET_BYTES + sizeof(Run));
    return forward_plane(g, is_f32) + pixels + taps + (int64_t)sizeof(Phase);
}

/* Images of a result before they are rounded, or of dy decoded: one per thread. */
static int64_t image_bytes(int64_t h, int64_t w, int64_t c, bool is_f32) {
    return is_f32 ? 0 : (int64_t)parallel_threads() * h * w * c * FLOAT_BYTES;
}

int64_t conv_forward_scratch(const ConvGeometry *g, ConvOperands operands) {
    int64_t depth = taps_of(g) * (g->in_c / g->groups);
    return forward_layout(g, operands.x_is_f32) +
           image_bytes(g->out_h, g->out_w, g->out_c, operands.y_is_f32) +
           weight_bytes(g, g->out_c / g->groups, depth) + g->out_c * FLOAT_BYTES;
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
    return plane_bytes(h, w, g->out_c, operands.dy_is_f32 && !is_padded && is_whole) +
           image_bytes(g->in_h, g->in_w, g->in_c, operands.dx_is_f32) +
           phases * (pixels + taps + (int64_t)sizeof(Phase)) +
           weight_bytes(g, g->in_c / g->groups, depth);
}

static int64_t weight_chunks(const ConvGeometry *g, int64_t sum_size) {
    int64_t chunks = CHUNKS;
    while (chunks > CHUNKS_MIN && chunks * sum_size > SUM_FLOATS_MAX) chunks /= 2;
    return chunks < g->batch ? chunks : g->batch;
}

int64_t conv_backward_weight_scratch(const ConvGeometry *g, ConvOperands operands) {
    bool is_depthwise = conv_is_depthwise(g);
    int64_t group_in = g->in_c / g->groups, rows = taps_of(g) * group_in;
    int64_t per_pixel = g->stride_h * g->stride_w * g->in_c + (is_depthwise ? g->out_c : LANES);
    int64_t pixels = CACHE_FLOATS / per_pixel;
    if (pixels < PIXELS_MIN) pixels = PIXELS_MIN;
    int64_t packed = pixels * (is_depthwise ? lanes_up(g->out_c) : LANES) * FLOAT_BYTES;
    int64_t sum_size = weight_bytes(g, g->out_c / g->groups, rows) / FLOAT_BYTES;
    return forward_layout(g, operands.x_is_f32) +
           image_bytes(g->out_h, g->out_w, g->out_c, operands.dy_is_f32) + rows * OFFSET_BYTES +
           packed * parallel_threads() + weight_chunks(g, sum_size) * sum_size * FLOAT_BYTES;
}
