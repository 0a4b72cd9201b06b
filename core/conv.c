#include "core/conv.h"

#include <assert.h>

#include "core/conv_slab.h"
#include "core/kernels.h"
#include "core/kernels/isa.h"
#include "core/parallel.h"
#include "core/shares.h"

enum { UNITS_WANTED = 16 /* pieces of work, so that few images keep several threads busy too */ };

static void geometry_check(const ConvGeometry *g) {
    assert(g->groups > 0 && g->in_c % g->groups == 0 && g->out_c % g->groups == 0);
    assert(g->pad_top >= 0 && g->pad_left >= 0 && g->out_h > 0 && g->out_w > 0);
    (void)g;
}

/* A convolution under way. */
typedef struct Pass {
    ConvPlan plan;
    ConvSlabs slabs;
    int64_t batch;
    Operand images;
    Finish finish;
    bool is_chunked;
    const Tensor *out;
    ConvWritten written;
    float *staging; /* an image per thread before it is rounded; NULL: f32 goes to its place */
} Pass;

/* One unit of work: of an image, pixels of a share, all channels of a slab. */
typedef struct Unit {
    int64_t image, part, parts;
    Slab slab;
    const float *plane;
    float *out; /* the image */
    Ahead ahead;
} Unit;

static Finish finish_at(Finish finish, int64_t channel) {
    if (finish.scale) finish.scale += channel;
    if (finish.bias) finish.bias += channel;
    return finish;
}

/* Pixels first .. first + count - 1 of a phase. */
static void phase_run(const Pass *pass, const Phase *phase, const Unit *unit, int64_t first,
                      int64_t count, Ahead ahead) {
    const ConvPlan *plan = &pass->plan;
    int64_t depth = phase->tap_count * plan->group_in;
    int64_t parts = conv_slab_parts(&pass->slabs, &unit->slab);
    for (int64_t i = 0; i < parts; i++) {
        const SlabPart part = conv_slab_part(&pass->slabs, &unit->slab, i);
        int64_t channel = part.group * plan->group_out + part.channel;
        DirectJob job = {
            .plane = unit->plane + part.group * plan->group_in,
            .pixel_in = phase->pixel_in + first,
            .pixel_out = phase->pixel_out + first,
            .pixel_count = count,
            .runs = phase->runs,
            .run_count = phase->run_count,
            .is_chunked = pass->is_chunked,
            .weights = phase->weights + part.block * depth * LANES,
            .depth = depth,
            .channels = part.channels,
            .finish = finish_at(pass->finish, channel),
            .out = unit->out + channel,
            .ahead = ahead,
        };
        isa_active()->direct(&job);
        ahead = (Ahead){0};
    }
}

static void phase_run_depthwise(const Pass *pass, const Phase *phase, const Unit *unit,
                                int64_t first, int64_t count) {
    const Slab *slab = &unit->slab;
    DepthwiseJob job = {
        .plane = unit->plane + slab->channel,
        .pixel_in = phase->pixel_in + first,
        .pixel_out = phase->pixel_out + first,
        .pixel_count = count,
        .tap_offset = phase->tap_offset,
        .tap_count = phase->tap_count,
        .weights = phase->weights,
        .channels = slab->channels,
        .finish = finish_at(pass->finish, slab->channel),
        .out = unit->out + slab->channel,
    };
    isa_active()->depthwise(&job);
}

static void unit_run(const Pass *pass, const Unit *unit) {
    for (int64_t i = 0; i < pass->plan.phase_count; i++) {
        const Phase *phase = pass->plan.phases + i;
        int64_t first = unit->part * phase->pixel_count / unit->parts;
        int64_t count = (unit->part + 1) * phase->pixel_count / unit->parts - first;
        if (pass->plan.is_depthwise)
            phase_run_depthwise(pass, phase, unit, first, count);
        else
            phase_run(pass, phase, unit, first, count, i ? (Ahead){0} : unit->ahead);
    }
}

static float *staging_new(const ConvPlan *plan, const Tensor *out, Arena *scratch) {
    if (out->dtype == DTYPE_F32) return NULL;
    size_t count = checked_mul((size_t)plan->image_out, (size_t)parallel_threads());
    return arena_alloc(scratch, checked_mul(sizeof(float), count));
}

/* The slab's channels of an image from the result to staging, or back. */
static void staging_move(const Pass *pass, const Unit *unit, bool is_back) {
    int64_t channels = pass->plan.out_c, pixels = pass->plan.image_out / channels;
    int64_t first = unit->image * pass->plan.image_out + unit->slab.channel;
    bool is_whole = unit->slab.channels == channels;
    int64_t rows = is_whole ? 1 : pixels,
            count = is_whole ? pass->plan.image_out : unit->slab.channels;
    for (int64_t i = 0; i < rows; i++) {
        float *at = unit->out + i * channels + unit->slab.channel;
        if (is_back)
            operand_write(at, first + i * channels, count, pass->out);
        else
            operand_read(pass->out, first + i * channels, count, at);
    }
}

/* The image that the calling thread will probably ask for after `image`. */
static Ahead pass_ahead(const Pass *pass, int64_t image) {
    const Plane *plane = &pass->plan.plane;
    return images_ahead(&pass->images.tensor, plane->image_h * plane->image_w * plane->c, image + 1,
                        1, pass->batch);
}

static void slab_run(const Pass *pass, Slab slab, Arena *scratch) {
    int64_t batch = pass->batch, image_out = pass->plan.image_out;
    bool is_whole = batch >= UNITS_WANTED || pass->staging || pass->written.call;
    int64_t parts = is_whole ? 1 : (UNITS_WANTED + batch - 1) / batch;
    bool is_last = slab.end == pass->slabs.blocks;
    ArenaMark mark = arena_mark(scratch);
    Shares shares = shares_new(batch * parts, scratch);
#pragma omp parallel
    for (int64_t index; (index = shares_take(&shares)) >= 0;) {
        int64_t image = index / parts;
        const Unit unit = {.image = image,
                           .part = index % parts,
                           .parts = parts,
                           .slab = slab,
                           .plane = plane_fill(&pass->plan.plane, &pass->images, image, 1),
                           .out = pass->staging ? pass->staging + parallel_self() * image_out
                                                : (float *)pass->out->data + image * image_out,
                           .ahead = pass_ahead(pass, image)};
        if (pass->staging && pass->finish.beta != 0.0f) staging_move(pass, &unit, false);
        unit_run(pass, &unit);
        if (pass->staging) staging_move(pass, &unit, true);
        if (pass->written.call && is_last) pass->written.call(pass->written.context, image);
    }
    arena_rewind(scratch, mark);
}

/* Of a pass whose plan is made. */
static void pass_run(Pass *pass, const Operand *weights, Arena *scratch) {
    conv_slabs_init(&pass->slabs, &pass->plan, *weights, scratch);
    pass->staging = staging_new(&pass->plan, pass->out, scratch);
    for (int64_t first = 0; first < pass->slabs.blocks; first += pass->slabs.per_slab)
        slab_run(pass, conv_slab_pack(&pass->slabs, first), scratch);
}

bool conv_scales_fit(const ConvGeometry *g, const Tensor *w) {
    int64_t filter = tensor_count(w) / g->out_c;
    const Scales *s = w->scales;
    return tensor_holds_levels(w) && s->scale &&
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
    /* One scale of x is a factor of the whole sum, whatever w is. */
    Pass pass = {.batch = geometry->batch,
                 .images = {*x, x_levels},
                 .finish = {.bias = bias},
                 .is_chunked = exact_k < depth,
                 .out = y,
                 .written = written};
    const Operand weights = {*w, on_levels};
    if (x_levels)
        pass.finish.scale =
            output_scales(geometry, x->scales, on_levels ? w->scales : NULL, scratch);
    conv_plan_forward(&pass.plan, geometry, operand_lies(&pass.images), 1,
                      pass.is_chunked ? exact_k : 0, scratch);
    pass_run(&pass, &weights, scratch);
    arena_rewind(scratch, mark);
}

void conv_backward_input(const ConvGeometry *geometry, const Tensor *dy, const Tensor *w,
                         float beta, const Tensor *dx, Arena *scratch) {
    geometry_check(geometry);
    ArenaMark mark = arena_mark(scratch);
    Pass pass = {.batch = geometry->batch, .images = {*dy, false}, .finish.beta = beta, .out = dx};
    const Operand weights = {*w, false};
    conv_plan_backward(&pass.plan, geometry, operand_lies(&pass.images), scratch);
    pass_run(&pass, &weights, scratch);
    arena_rewind(scratch, mark);
}
