/* The plain references: every pixel, every tap, nothing clever. */
#include <assert.h>

#include "core/conv.h"
#include "core/kernels/operand.h"

/* One multiplication of a convolution: which elements of y, x and w meet. */
typedef struct Meeting {
    int64_t x, w; /* offsets; x < 0: padding */
} Meeting;

static Meeting meet(const ConvGeometry *g, int64_t image, int64_t oy, int64_t ox, int64_t oc,
                    int64_t ky, int64_t kx, int64_t ic) {
    int64_t group_in = g->in_c / g->groups, group = oc / (g->out_c / g->groups);
    int64_t iy = oy * g->stride_h - g->pad_top + ky * g->dilation_h;
    int64_t ix = ox * g->stride_w - g->pad_left + kx * g->dilation_w;
    bool is_inside = iy >= 0 && iy < g->in_h && ix >= 0 && ix < g->in_w;
    int64_t x = ((image * g->in_h + iy) * g->in_w + ix) * g->in_c + group * group_in + ic;
    int64_t w = ((oc * g->kernel_h + ky) * g->kernel_w + kx) * group_in + ic;
    return (Meeting){is_inside ? x : -1, w};
}

#define FOR_EACH_OUTPUT(g)                                                                         \
    for (int64_t image = 0; image < (g)->batch; image++)                                           \
        for (int64_t oy = 0; oy < (g)->out_h; oy++)                                                \
            for (int64_t ox = 0; ox < (g)->out_w; ox++)                                            \
                for (int64_t oc = 0; oc < (g)->out_c; oc++)

#define FOR_EACH_TAP(g)                                                                            \
    for (int64_t ky = 0; ky < (g)->kernel_h; ky++)                                                 \
        for (int64_t kx = 0; kx < (g)->kernel_w; kx++)                                             \
            for (int64_t ic = 0; ic < (g)->in_c / (g)->groups; ic++)

static double value_at(const Tensor *tensor, int64_t offset) {
    if (operand_is_plain(tensor)) return (double)tensor_f32(tensor)[offset];
    float value;
    tensor_decode_part(tensor, offset, 1, &value);
    return (double)value;
}

static int64_t level_at(const Tensor *tensor, int64_t offset) {
    if (tensor->dtype == DTYPE_F32) return (int64_t)tensor_f32(tensor)[offset];
    float levels[8];
    int64_t first = offset & ~(int64_t)7;
    operand_read(tensor, first, offset - first + 1, levels);
    return (int64_t)levels[offset - first];
}

static float scale_at(const Tensor *tensor, int64_t offset) {
    int64_t scale;
    scales_run(tensor->scales, offset, &scale);
    return tensor->scales->scale[scale];
}

static int64_t y_offset(const ConvGeometry *g, int64_t image, int64_t oy, int64_t ox, int64_t oc) {
    return ((image * g->out_h + oy) * g->out_w + ox) * g->out_c + oc;
}

void conv_forward_reference(const ConvGeometry *geometry, const Tensor *x, const Tensor *w,
                            const float *bias, float *y) {
    FOR_EACH_OUTPUT(geometry) {
        double sum = bias ? (double)bias[oc] : 0;
        FOR_EACH_TAP(geometry) {
            Meeting at = meet(geometry, image, oy, ox, oc, ky, kx, ic);
            if (at.x >= 0) sum += value_at(x, at.x) * value_at(w, at.w);
        }
        y[y_offset(geometry, image, oy, ox, oc)] = (float)sum;
    }
}

void conv_forward_integer_reference(const ConvGeometry *geometry, const Tensor *x, const Tensor *w,
                                    const float *bias, float *y) {
    assert(tensor_has_one_scale(x) && tensor_holds_levels(w));
    int64_t filter = shape_count(w->shape) / geometry->out_c;
    FOR_EACH_OUTPUT(geometry) {
        int32_t sum = 0;
        FOR_EACH_TAP(geometry) {
            Meeting at = meet(geometry, image, oy, ox, oc, ky, kx, ic);
            if (at.x < 0) continue;
            int64_t wide = sum + level_at(x, at.x) * level_at(w, at.w);
            assert(wide >= INT32_MIN && wide <= INT32_MAX);
            sum = (int32_t)wide;
        }
        float out = (float)sum * (x->scales->scale[0] * scale_at(w, oc * filter));
        if (bias) out += bias[oc];
        y[y_offset(geometry, image, oy, ox, oc)] = out;
    }
}

/* Elements of the gradient one by one: slow, and each is one double sum rounded once. */
void conv_backward_input_reference(const ConvGeometry *g, const float *dy, const Tensor *w,
                                   float beta, float *dx) {
    int64_t group_in = g->in_c / g->groups, group_out = g->out_c / g->groups;
    for (int64_t i = 0; i < g->batch * g->in_h * g->in_w * g->in_c; i++) {
        int64_t channel = i % g->in_c, ix = i / g->in_c % g->in_w;
        int64_t iy = i / g->in_c / g->in_w % g->in_h, image = i / g->in_c / g->in_w / g->in_h;
        int64_t group = channel / group_in, ic = channel % group_in;
        double sum = beta != 0 ? (double)beta * (double)dx[i] : 0;
        for (int64_t ky = 0; ky < g->kernel_h; ky++)
            for (int64_t kx = 0; kx < g->kernel_w; kx++) {
                int64_t ty = iy + g->pad_top - ky * g->dilation_h;
                int64_t tx = ix + g->pad_left - kx * g->dilation_w;
                if (ty < 0 || tx < 0 || ty % g->stride_h || tx % g->stride_w) continue;
                int64_t oy = ty / g->stride_h, ox = tx / g->stride_w;
                if (oy >= g->out_h || ox >= g->out_w) continue;
                for (int64_t oc = group * group_out; oc < (group + 1) * group_out; oc++)
                    sum += (double)dy[y_offset(g, image, oy, ox, oc)] *
                           value_at(w, meet(g, image, oy, ox, oc, ky, kx, ic).w);
            }
        dx[i] = (float)sum;
    }
}

void conv_backward_weight_reference(const ConvGeometry *g, const Tensor *x, const float *dy,
                                    float beta, float *dw) {
    int64_t filter = g->kernel_h * g->kernel_w * (g->in_c / g->groups);
    for (int64_t i = 0; i < g->out_c * filter; i++) {
        int64_t oc = i / filter, ic = i % (g->in_c / g->groups);
        int64_t tap = i % filter / (g->in_c / g->groups);
        double sum = beta != 0 ? (double)beta * (double)dw[i] : 0;
        for (int64_t image = 0; image < g->batch; image++)
            for (int64_t oy = 0; oy < g->out_h; oy++)
                for (int64_t ox = 0; ox < g->out_w; ox++) {
                    Meeting at =
                        meet(g, image, oy, ox, oc, tap / g->kernel_w, tap % g->kernel_w, ic);
                    if (at.x < 0) continue;
                    sum += (double)dy[y_offset(g, image, oy, ox, oc)] * value_at(x, at.x);
                }
        dw[i] = (float)sum;
    }
}
