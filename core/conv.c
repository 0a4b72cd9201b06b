#include "core/conv.h"

#include <assert.h>

#include "core/conv_plan.h"
#include "core/kernels.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "core/shares.h"

enum { UNITS_WANTED = 16 /* pieces of work, so that few images keep several threads busy too */ };

static void geometry_check(const ConvGeometry *g) {
    assert(g->groups > 0 && g->in_c % g->groups == 0 && g->out_c % g->groups == 0);
    assert(g->pad_top >= 0 && g->pad_left >= 0 && g->out_h > 0 && g->out_w > 0);
    (void)g;
}

/* Pixels first .. first + count - 1 of a phase, all output channels; `ahead` is read next. */
static void phase_run(const ConvPlan *plan, const Phase *phase, const float *plane, Finish finish,
                      bool is_chunked, int64_t first, int64_t count, Ahead ahead, float *out) {
    int64_t depth = phase->tap_count * plan->group_in, rows = depth * lanes_up(plan->group_out);
    for (int64_t group = 0; group < plan->groups; group++) {
        int64_t channel = group * plan->group_out;
        DirectJob job = {
            .plane = plane + group * plan->group_in,
            .pixel_in = phase->pixel_in + first,
            .pixel_out = phase->pixel_out + first,
            .pixel_count = count,
            .runs = phase->runs,
            .run_count = phase->run_count,
            .is_chunked = is_chunked,
            .weights = phase->weights + group * rows,
            .depth = depth,
            .channels = plan->group_out,
            .finish = {finish.scale ? finish.scale + channel : NULL,
                       finish.bias ? finish.bias + channel : NULL, finish.beta},
            .out = out + channel,
            .ahead = ahead,
        };
        isa_active()->direct(&job);
        ahead = (Ahead){0};
    }
}

static void phase_run_depthwise(const ConvPlan *plan, const Phase *phase, const float *plane,
                                Finish finish, int64_t first, int64_t count, float *out) {
    DepthwiseJob job = {
        .plane = plane,
        .pixel_in = phase->pixel_in + first,
        .pixel_out = phase->pixel_out + first,
        .pixel_count = count,
        .tap_offset = phase->tap_offset,
        .tap_count = phase->tap_count,
        .weights = phase->weights,
        .channels = plan->out_c,
        .finish = finish,
        .out = out,
    };
    isa_active()->depthwise(&job);
}

/* Where a thread leaves an image before it is rounded; NULL: f32 goes straight to its place. */
static float *staging_new(const ConvPlan *plan, const Tensor *out, Arena *scratch) {
    if (out->dtype == DTYPE_F32) return NULL;
    size_t count = checked_mul((size_t)plan->image_out, (size_t)parallel_threads());
    return arena_alloc(scratch, checked_mul(sizeof(float), count));
}

/* The image that the calling thread will probably ask for after `image`. */
static Ahead plan_ahead(const ConvPlan *plan, const Tensor *images, int64_t image, int64_t batch) {
    const Plane *plane = &plan->plane;
    return images_ahead(images, plane->image_h * plane->image_w * plane->c, image + 1, 1, batch);
}

static void plan_run(const ConvPlan *plan, int64_t batch, const Tensor *images, Finish finish,
                     bool is_chunked, bool is_depthwise, const Tensor *out, ConvWritten written,
                     Arena *scratch) {
    float *staging = staging_new(plan, out, scratch);
    bool is_whole = batch >= UNITS_WANTED || staging || written.call;
    int64_t parts = is_whole ? 1 : (UNITS_WANTED + batch - 1) / batch;
    isa_active(); /* chosen before threads ask */
    Shares shares = shares_new(batch * parts, scratch);
#pragma omp parallel
    for (int64_t unit; (unit = shares_take(&shares)) >= 0;) {
        int64_t image = unit / parts, part = unit % parts, at = image * plan->image_out;
        const float *plane = plane_fill(&plan->plane, images, image, 1);
        Ahead ahead = plan_ahead(plan, images, image, batch);
        float *image_out =
            staging ? staging + parallel_self() * plan->image_out : (float *)out->data + at;
        if (staging && finish.beta != 0.0f) operand_read(out, at, plan->image_out, image_out);
        for (int64_t i = 0; i < plan->phase_count; i++) {
            const Phase *phase = plan->phases + i;
            int64_t first = part * phase->pixel_count / parts;
            int64_t count = (part + 1) * phase->pixel_count / parts - first;
            if (is_depthwise)
                phase_run_depthwise(plan, phase, plane, finish, first, count, image_out);
            else
                phase_run(plan, phase, plane, finish, is_chunked, first, count,
                          i ? (Ahead){0} : ahead, image_out);
        }
        if (staging) operand_write(image_out, at, plan->image_out, out);
        if (written.call) written.call(written.context, image);
    }
}

bool conv_scales_fit(const ConvGeometry *g, const Tensor *w) {
    int64_t filter = tensor_count(w) / g->out_c;
    const Scales *s = w->scales;
    return tensor_holds_levels(w) &&
           (s->count == 1 || (s->row_length == filter && s->run_length == filter));
}

/* One factor per output channel: scale_x * scale_w. */
static const float *output_scales(const ConvGeometry *g, const Scales *x, const Scales *w,
                                  Arena *scratch) {
    float *scale = arena_alloc(scratch, (size_t)g->out_c * sizeof *scale);
    for (int64_t c = 0; c < g->out_c; c++)
        scale[c] = w ? x->scale[0] * w->scale[w->count > 1 ? c : 0] : x->scale[0];
    return scale;
}

static void tell_all(ConvWritten written, int64_t batch) {
    for (int64_t image = 0; written.call && image < batch; image++)
        written.call(written.context, image);
}

void conv_forward(const ConvGeometry *geometry, const Tensor *x, const Tensor *w, const float *bias,
                  const Tensor *y, ConvWritten written, Arena *scratch) {
    geometry_check(geometry);
    bool x_levels = tensor_has_one_scale(x), on_levels = x_levels && conv_scales_fit(geometry, w);
    if (on_levels && kernels_reference()) {
        assert(y->dtype == DTYPE_F32); /* verification is of evaluation, which is in f32 */
        conv_forward_integer_reference(geometry, x, w, bias, y->data);
        tell_all(written, geometry->batch);
        return;
    }
    ArenaMark mark = arena_mark(scratch);
    int64_t depth = tensor_count(w) / geometry->out_c;
    int64_t exact_k = on_levels ? exact_products(x->scales, w->scales) : depth;
    bool is_chunked = exact_k < depth;
    bool is_depthwise = conv_is_depthwise(geometry) && !is_chunked;
    /* One scale of x is a factor of the whole sum, whatever w is. */
    Tensor images = operand_numbers(x, x_levels, scratch);
    const float *weights = on_levels ? operand_levels(w, scratch) : operand_values(w, scratch);
    Finish finish = {.bias = bias};
    if (x_levels)
        finish.scale = output_scales(geometry, x->scales, on_levels ? w->scales : NULL, scratch);
    ConvPlan plan;
    conv_plan_forward(&plan, geometry, images.dtype == DTYPE_F32, 1, is_chunked ? exact_k : 0,
                      scratch);
    conv_plan_pack(&plan, weights, is_depthwise, scratch);
    plan_run(&plan, geometry->batch, &images, finish, is_chunked, is_depthwise, y, written,
             scratch);
    arena_rewind(scratch, mark);
}

void conv_backward_input(const ConvGeometry *geometry, const Tensor *dy, const Tensor *w,
                         float beta, const Tensor *dx, Arena *scratch) {
    geometry_check(geometry);
    ArenaMark mark = arena_mark(scratch);
    bool is_depthwise = conv_is_depthwise(geometry);
    const float *weights = operand_values(w, scratch);
    ConvPlan plan;
    conv_plan_backward(&plan, geometry, dy->dtype == DTYPE_F32, scratch);
    conv_plan_pack(&plan, weights, is_depthwise, scratch);
    plan_run(&plan, geometry->batch, dy, (Finish){.beta = beta}, false, is_depthwise, dx,
             (ConvWritten){0}, scratch);
    arena_rewind(scratch, mark);
}
