#include "core/conv_scratch.h"

#include "core/conv_slab.h"
#include "core/kernels/isa.h"
#include "core/parallel.h"
#include "core/shares.h"

static int64_t floats_bytes(int64_t count) {
    return arena_padded((int64_t)sizeof(float) * count);
}

static int64_t offsets_bytes(int64_t count) {
    return arena_padded((int64_t)sizeof(int64_t) * count);
}

static int64_t taps_of(const ConvGeometry *g) {
    return g->kernel_h * g->kernel_w;
}

/* The copies of an image, or of several, one per thread; none where it is read in place. */
static int64_t plane_bytes(int64_t images, int64_t size, bool is_in_place) {
    if (is_in_place) return 0;
    return floats_bytes(parallel_threads() * (lanes_up(images * size) + LANES));
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

/* A phase whose pixels are reached by `taps` of all taps. */
static int64_t phase_bytes(const ConvGeometry *g, int64_t pixels, int64_t taps) {
    return 2 * offsets_bytes(pixels) + 2 * offsets_bytes(taps_of(g)) +
           arena_padded((taps + 1) * (int64_t)sizeof(Run));
}

static int64_t forward_layout(const ConvGeometry *g, const Tensor *x, int64_t images) {
    const Operand operand = {*x, tensor_has_one_scale(x)};
    return forward_plane(g, operand_lies(&operand), images) + arena_padded(sizeof(Phase)) +
           phase_bytes(g, g->out_h * g->out_w, taps_of(g));
}

/* As conv_plan_forward and conv_plan_backward lay it out. */
static int64_t weight_bytes(const ConvGeometry *g, const Tensor *w, bool as_levels,
                            bool is_backward) {
    int64_t in = g->in_c / g->groups, out = g->out_c / g->groups;
    const ConvPlan plan = {.out_c = is_backward ? g->in_c : g->out_c,
                           .groups = g->groups,
                           .group_in = is_backward ? out : in,
                           .group_out = is_backward ? in : out,
                           .taps = taps_of(g),
                           .is_backward = is_backward,
                           .is_depthwise = conv_is_depthwise(g)};
    const Operand weights = {*w, as_levels};
    return conv_slabs_scratch(&plan, &weights);
}

/* Images of a result before they are rounded, or of dy decoded: `count` per thread. */
static int64_t images_bytes(const Tensor *images, int64_t count) {
    if (images->dtype == DTYPE_F32) return 0;
    return floats_bytes(parallel_threads() * count * (tensor_count(images) / images->shape.dim[0]));
}

int64_t conv_forward_scratch(const ConvGeometry *g, const Tensor *x, const Tensor *w,
                             const Tensor *y) {
    bool x_levels = tensor_has_one_scale(x);
    bool on_levels = x_levels && conv_scales_fit(g, w);
    return forward_layout(g, x, 1) + images_bytes(y, 1) + weight_bytes(g, w, on_levels, false) +
           (x_levels ? floats_bytes(g->out_c) : 0) + shares_bytes();
}

/* Taps of one side that reach the inputs of a phase. */
static int64_t taps_reaching(int64_t phase, int64_t kernel, int64_t stride, int64_t dilation) {
    int64_t count = 0;
    for (int64_t k = 0; k < kernel; k++) count += k * dilation % stride == phase;
    return count;
}

static int64_t backward_phases(const ConvGeometry *g) {
    int64_t count = g->stride_h * g->stride_w;
    int64_t bytes = arena_padded(count * (int64_t)sizeof(Phase));
    for (int64_t i = 0; i < count; i++) {
        int64_t taps = taps_reaching(i / g->stride_w, g->kernel_h, g->stride_h, g->dilation_h) *
                       taps_reaching(i % g->stride_w, g->kernel_w, g->stride_w, g->dilation_w);
        bytes += phase_bytes(g, g->in_h * g->in_w, taps);
    }
    return bytes;
}

int64_t conv_backward_input_scratch(const ConvGeometry *g, const Tensor *dy, const Tensor *w,
                                    const Tensor *dx) {
    int64_t reach_h = (g->kernel_h - 1) * g->dilation_h / g->stride_h;
    int64_t reach_w = (g->kernel_w - 1) * g->dilation_w / g->stride_w;
    int64_t plane_h = (g->in_h - 1 + g->pad_top) / g->stride_h + reach_h + 1;
    int64_t plane_w = (g->in_w - 1 + g->pad_left) / g->stride_w + reach_w + 1;
    bool is_padded = reach_h > 0 || reach_w > 0 || plane_h > g->out_h || plane_w > g->out_w;
    bool is_whole = !conv_is_depthwise(g) || g->out_c % LANES == 0;
    if (!is_padded) plane_h = g->out_h, plane_w = g->out_w;
    bool is_in_place = dy->dtype == DTYPE_F32 && !is_padded && is_whole;
    return weight_bytes(g, w, false, true) + images_bytes(dx, 1) +
           plane_bytes(1, plane_h * plane_w * g->out_c, is_in_place) + backward_phases(g) +
           shares_bytes();
}

int64_t conv_backward_weight_scratch(const ConvGeometry *g, const Tensor *x, const Tensor *dy) {
    WeightCut cut = weight_cut(g);
    int64_t pixels = cut.images > 1 ? offsets_bytes(cut.images * g->out_h * g->out_w) : 0;
    return forward_layout(g, x, cut.images) + images_bytes(dy, cut.images) + pixels +
           offsets_bytes(cut.filter) + floats_bytes(cut.pixels * cut.row * parallel_threads()) +
           floats_bytes(cut.chunks * cut.sum_size) + shares_bytes();
}
