#include "core/conv_plan.h"

#include <assert.h>
#include <string.h>

#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { AHEAD_BYTES_MAX = 1 << 17 /* what a second cache has room for beside its work */ };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t *offsets_new(Arena *scratch, int64_t count) {
    return arena_alloc(scratch, checked_mul(sizeof(int64_t), (size_t)count));
}

/* For `count` images at once. `needs_whole_vectors`: readers load past the last channel, so that an
 * image whose channels are no multiple of LANES cannot be used where it lies. */
static void plane_init(Plane *plane, bool is_f32, bool needs_whole_vectors, int64_t count,
                       Arena *scratch) {
    bool is_padded =
        plane->top > 0 || plane->left > 0 || plane->h > plane->image_h || plane->w > plane->image_w;
    plane->is_in_place = is_f32 && !is_padded && !(needs_whole_vectors && plane->c % LANES);
    if (!is_padded) {
        plane->h = plane->image_h;
        plane->w = plane->image_w;
    }
    plane->size = plane->h * plane->w * plane->c;
    if (plane->is_in_place) return;
    plane->buffer_size = lanes_up(count * plane->size) + LANES;
    size_t floats = checked_mul((size_t)plane->buffer_size, (size_t)parallel_threads());
    plane->buffers = arena_zalloc(scratch, checked_mul(sizeof(float), floats));
}

static void image_read(const Plane *plane, const Operand *images, int64_t image, float *to) {
    int64_t from = image * plane->image_h * plane->image_w * plane->c;
    int64_t columns = least(plane->image_w, plane->w - plane->left);
    int64_t rows = least(plane->image_h, plane->h - plane->top);
    if (columns <= 0) return;
    for (int64_t y = 0; y < rows; y++)
        operand_copy(images, from + y * plane->image_w * plane->c, columns * plane->c,
                     to + ((plane->top + y) * plane->w + plane->left) * plane->c);
}

const float *plane_fill(const Plane *plane, const Operand *images, int64_t first, int64_t count) {
    if (plane->is_in_place) return tensor_f32(&images->tensor) + first * plane->size;
    float *to = plane->buffers + parallel_self() * plane->buffer_size;
    for (int64_t i = 0; i < count; i++) image_read(plane, images, first + i, to + i * plane->size);
    return to;
}

Ahead images_ahead(const Tensor *images, int64_t size, int64_t first, int64_t count,
                   int64_t batch) {
    if (first >= batch) return (Ahead){0};
    int64_t bytes = (int64_t)dtype_bytes(images->dtype, least(count, batch - first) * size);
    if (bytes > AHEAD_BYTES_MAX) return (Ahead){0};
    return (Ahead){(const char *)images->data + dtype_bytes(images->dtype, first * size), bytes};
}

bool conv_is_depthwise(const ConvGeometry *g) {
    return g->groups > 1 && g->groups == g->in_c && g->groups == g->out_c;
}

/* Taps become runs of adjoining inputs, cut where an f32 sum is full. */
static void phase_runs(Phase *phase, int64_t channels, bool may_merge, int64_t exact_k,
                       Arena *scratch) {
    int64_t total = phase->tap_count * channels;
    int64_t cuts = exact_k ? total / exact_k + 1 : 0;
    phase->runs = arena_alloc(scratch, (size_t)(phase->tap_count + cuts + 1) * sizeof(Run));
    phase->run_count = 0;
    int64_t room = exact_k ? exact_k : INT64_MAX;
    for (int64_t t = 0; t < phase->tap_count; t++) {
        int64_t at = phase->tap_offset[t], left = channels;
        while (left > 0) {
            Run *last = phase->run_count ? phase->runs + phase->run_count - 1 : NULL;
            int64_t some = least(left, room);
            if (may_merge && last && !last->ends_chunk && last->offset + last->length == at)
                last->length += some;
            else
                phase->runs[phase->run_count++] = (Run){at, some, false};
            at += some, left -= some, room -= some;
            if (room == 0) {
                phase->runs[phase->run_count - 1].ends_chunk = true;
                room = exact_k;
            }
        }
    }
    if (exact_k && phase->run_count) phase->runs[phase->run_count - 1].ends_chunk = true;
}

void conv_plan_forward(ConvPlan *plan, const ConvGeometry *g, bool is_f32, int64_t images,
                       int64_t exact_k, Arena *scratch) {
    int64_t taps = g->kernel_h * g->kernel_w, group_in = g->in_c / g->groups;
    int64_t group_out = g->out_c / g->groups;
    *plan = (ConvPlan){
        .plane = {.h = (g->out_h - 1) * g->stride_h + (g->kernel_h - 1) * g->dilation_h + 1,
                  .w = (g->out_w - 1) * g->stride_w + (g->kernel_w - 1) * g->dilation_w + 1,
                  .c = g->in_c,
                  .top = g->pad_top,
                  .left = g->pad_left,
                  .image_h = g->in_h,
                  .image_w = g->in_w},
        .phases = arena_zalloc(scratch, sizeof(Phase)),
        .phase_count = 1,
        .image_out = g->out_h * g->out_w * g->out_c,
        .out_c = g->out_c,
        .groups = g->groups,
        .group_in = group_in,
        .group_out = group_out,
        .taps = taps,
        .is_depthwise = conv_is_depthwise(g) && !exact_k};
    plane_init(&plan->plane, is_f32, plan->is_depthwise, images, scratch);
    Phase *phase = plan->phases;
    phase->pixel_count = g->out_h * g->out_w;
    phase->pixel_in = offsets_new(scratch, phase->pixel_count);
    phase->pixel_out = offsets_new(scratch, phase->pixel_count);
    for (int64_t i = 0; i < phase->pixel_count; i++) {
        int64_t y = i / g->out_w * g->stride_h, x = i % g->out_w * g->stride_w;
        phase->pixel_in[i] = (y * plan->plane.w + x) * g->in_c;
        phase->pixel_out[i] = i * g->out_c;
    }
    phase->tap_count = taps;
    phase->tap_offset = offsets_new(scratch, taps);
    phase->tap_index = offsets_new(scratch, taps);
    for (int64_t t = 0; t < taps; t++) {
        int64_t y = t / g->kernel_w * g->dilation_h, x = t % g->kernel_w * g->dilation_w;
        phase->tap_offset[t] = (y * plan->plane.w + x) * g->in_c;
        phase->tap_index[t] = t;
    }
    phase_runs(phase, group_in, g->groups == 1, exact_k, scratch);
}

/* Input row i is met by output row o through tap k where i + pad = o stride + k dilation. With
 * i + pad = q stride + phase, the taps of the phase have k dilation = e stride + phase, and o = q -
 * e: row q of the plane (dy under `reach` rows of padding, the largest e) minus e. */
typedef struct Axis {
    int64_t in, out, kernel, stride, dilation, pad, reach;
} Axis;

static Axis axis_of(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation,
                    int64_t pad) {
    return (Axis){in, out, kernel, stride, dilation, pad, (kernel - 1) * dilation / stride};
}

static int64_t axis_plane(const Axis *a) {
    return (a->in - 1 + a->pad) / a->stride + a->reach + 1;
}

static bool axis_tap(const Axis *a, int64_t k, int64_t phase, int64_t *back) {
    if (k * a->dilation % a->stride != phase) return false;
    *back = a->reach - (k * a->dilation - phase) / a->stride;
    return true;
}

static void phase_backward(Phase *phase, const ConvPlan *plan, Axis ay, Axis ax, int64_t py,
                           int64_t px, int64_t out_c, Arena *scratch) {
    int64_t in_c = plan->out_c, taps = ay.kernel * ax.kernel; /* the result is the input */
    phase->pixel_in = offsets_new(scratch, ay.in * ax.in);
    phase->pixel_out = offsets_new(scratch, ay.in * ax.in);
    for (int64_t i = 0; i < ay.in * ax.in; i++) {
        int64_t y = i / ax.in + ay.pad, x = i % ax.in + ax.pad;
        if (y % ay.stride != py || x % ax.stride != px) continue;
        int64_t at = y / ay.stride * plan->plane.w + x / ax.stride;
        phase->pixel_in[phase->pixel_count] = at * out_c;
        phase->pixel_out[phase->pixel_count++] = i * in_c;
    }
    phase->tap_offset = offsets_new(scratch, taps);
    phase->tap_index = offsets_new(scratch, taps);
    for (int64_t t = taps - 1; t >= 0; t--) { /* descending taps are ascending offsets */
        int64_t y, x;
        if (!axis_tap(&ay, t / ax.kernel, py, &y) || !axis_tap(&ax, t % ax.kernel, px, &x))
            continue;
        phase->tap_offset[phase->tap_count] = (y * plan->plane.w + x) * out_c;
        phase->tap_index[phase->tap_count++] = t;
    }
    phase_runs(phase, out_c / plan->groups, plan->groups == 1, 0, scratch);
}

void conv_plan_backward(ConvPlan *plan, const ConvGeometry *g, bool is_f32, Arena *scratch) {
    int64_t taps = g->kernel_h * g->kernel_w, group_in = g->in_c / g->groups;
    int64_t group_out = g->out_c / g->groups;
    Axis ay = axis_of(g->in_h, g->out_h, g->kernel_h, g->stride_h, g->dilation_h, g->pad_top);
    Axis ax = axis_of(g->in_w, g->out_w, g->kernel_w, g->stride_w, g->dilation_w, g->pad_left);
    *plan = (ConvPlan){.plane = {.h = axis_plane(&ay),
                                 .w = axis_plane(&ax),
                                 .c = g->out_c,
                                 .top = ay.reach,
                                 .left = ax.reach,
                                 .image_h = g->out_h,
                                 .image_w = g->out_w},
                       .phase_count = g->stride_h * g->stride_w,
                       .image_out = g->in_h * g->in_w * g->in_c,
                       .out_c = g->in_c,
                       .groups = g->groups,
                       .group_in = group_out,
                       .group_out = group_in,
                       .taps = taps,
                       .is_backward = true,
                       .is_depthwise = conv_is_depthwise(g)};
    plane_init(&plan->plane, is_f32, plan->is_depthwise, 1, scratch);
    plan->phases = arena_new_array(scratch, Phase, plan->phase_count);
    for (int64_t i = 0; i < plan->phase_count; i++)
        phase_backward(plan->phases + i, plan, ay, ax, i / g->stride_w, i % g->stride_w, g->out_c,
                       scratch);
}
