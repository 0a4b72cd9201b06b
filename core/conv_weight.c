/* The gradient to the weights: outer products of input and dy, summed over pixels.
 *
 * The batch is cut into at most CHUNKS runs of images; each is summed in order by one thread, then
 * the chunks are added in order. Threads therefore do not change a bit. */
#include <assert.h>
#include <string.h>

#include "core/conv_plan.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "core/shares.h"

enum {
    CHUNKS = 16,
    CHUNKS_MIN = 4,
    SUM_FLOATS_MAX = 1 << 19, /* of all chunks; larger weights are summed in fewer */
    CACHE_FLOATS = 32768,     /* inputs and gradients of a block of pixels: half a second cache */
    PIXELS_MIN = 32,
    PIXELS_WANTED = 256, /* between a read and a write of the sums */
    ADD_ROWS = 64,
};

typedef struct WeightPass {
    const ConvGeometry *geometry;
    WeightCut cut;
    ConvPlan plan; /* of the forward pass: the same pixels and taps */
    Operand images;
    Tensor dy;
    float *dy_images; /* decoded, cut.images of them per thread; NULL: dy is f32 */
    bool is_depthwise;
    const int64_t *pixel_in;   /* of cut.images planes */
    const int64_t *row_offset; /* of each row of a filter in the plane */
    float *packed;             /* dy of a block of pixels, one buffer per thread */
    float *sums;               /* [chunk][block][row][LANES]; depthwise: [chunk][tap][channels] */
} WeightPass;

static int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

WeightCut weight_cut(const ConvGeometry *g) {
    bool is_depthwise = conv_is_depthwise(g);
    int64_t row = lanes_up(is_depthwise ? g->out_c : g->out_c / g->groups);
    int64_t filter = g->kernel_h * g->kernel_w * (g->in_c / g->groups);
    int64_t sum_size = filter * row * (is_depthwise ? 1 : g->groups);
    int64_t chunks = CHUNKS;
    while (chunks > CHUNKS_MIN && chunks * sum_size > SUM_FLOATS_MAX) chunks /= 2;
    chunks = clamp(chunks, 1, g->batch);
    int64_t per_pixel = g->stride_h * g->stride_w * g->in_c + g->out_c;
    int64_t pixels = clamp(CACHE_FLOATS / per_pixel, PIXELS_MIN, CACHE_FLOATS);
    int64_t wanted = pixels < PIXELS_WANTED ? pixels : PIXELS_WANTED;
    int64_t images = clamp(wanted / (g->out_h * g->out_w), 1, (g->batch + chunks - 1) / chunks);
    pixels = clamp(pixels, 1, images * g->out_h * g->out_w);
    return (WeightCut){filter, row, sum_size, chunks, images, pixels};
}

/* `channels` of the `stride` channels of `count` pixels, in rows of a multiple of LANES. */
static void dy_pack(const float *dy, int64_t stride, int64_t count, int64_t channels,
                    float *packed) {
    int64_t row = lanes_up(channels);
    for (int64_t i = 0; i < count; i++, dy += stride, packed += row) {
        memcpy(packed, dy, (size_t)channels * sizeof *dy);
        memset(packed + channels, 0, (size_t)(row - channels) * sizeof *dy);
    }
}

/* Pixels first .. first + count - 1 of the images in `plane` and `dy`. */
static void pixels_sum(const WeightPass *pass, const float *plane, const float *dy, int64_t first,
                       int64_t count, bool is_first, const Ahead ahead[2], float *packed,
                       float *sums) {
    const ConvPlan *plan = &pass->plan;
    int64_t row = pass->cut.row;
    bool is_whole = plan->group_out == row; /* as it lies */
    for (int64_t group = 0; group < plan->groups; group++) {
        const float *from = dy + first * plan->out_c + group * plan->group_out;
        if (!is_whole) dy_pack(from, plan->out_c, count, plan->group_out, packed);
        OuterJob job = {
            .plane = plane + group * plan->group_in,
            .pixel_in = pass->pixel_in + first,
            .pixel_count = count,
            .row_offset = pass->row_offset,
            .row_count = pass->cut.filter,
            .dy = is_whole ? from : packed,
            .dy_stride = is_whole ? plan->out_c : row,
            .channels = row,
            .is_first = is_first,
            .sum = sums + group * row * pass->cut.filter,
        };
        if (group == 0) memcpy(job.ahead, ahead, sizeof job.ahead);
        isa_active()->outer(&job);
    }
}

static void pixels_sum_depthwise(const WeightPass *pass, const float *plane, const float *dy,
                                 int64_t first, int64_t count, bool is_first, float *packed,
                                 float *sums) {
    const Phase *phase = pass->plan.phases;
    int64_t channels = pass->plan.out_c;
    const float *rows = dy + first * channels;
    if (pass->cut.row != channels) {
        dy_pack(rows, channels, count, channels, packed);
        rows = packed;
    }
    DepthwiseOuterJob job = {
        .plane = plane,
        .pixel_in = pass->pixel_in + first,
        .pixel_count = count,
        .tap_offset = phase->tap_offset,
        .tap_count = phase->tap_count,
        .dy = rows,
        .channels = channels,
        .is_first = is_first,
        .sum = sums,
    };
    isa_active()->depthwise_outer(&job);
}

/* Images of dy in f32. */
static const float *dy_fill(const WeightPass *pass, int64_t first, int64_t count) {
    int64_t size = pass->plan.image_out;
    if (!pass->dy_images) return (const float *)pass->dy.data + first * size;
    float *to = pass->dy_images + parallel_self() * pass->cut.images * size;
    operand_read(&pass->dy, first * size, count * size, to);
    return to;
}

static void chunk_sum(const WeightPass *pass, int64_t chunk) {
    const WeightCut *cut = &pass->cut;
    const ConvPlan *plan = &pass->plan;
    int64_t batch = pass->geometry->batch;
    int64_t image_size = plan->plane.image_h * plan->plane.image_w * plan->plane.c;
    int64_t begin = chunk * batch / cut->chunks, end = (chunk + 1) * batch / cut->chunks;
    float *packed = pass->packed + parallel_self() * cut->pixels * cut->row;
    float *sums = pass->sums + chunk * cut->sum_size;
    for (int64_t image = begin; image < end; image += cut->images) {
        int64_t images = clamp(end - image, 1, cut->images);
        int64_t pixels = images * plan->phases->pixel_count;
        const float *plane = plane_fill(&plan->plane, &pass->images, image, images);
        const float *dy = dy_fill(pass, image, images);
        int64_t next = image + images, some = clamp(end - next, 0, cut->images);
        Ahead ahead[2] = {images_ahead(&pass->images.tensor, image_size, next, some, end),
                          images_ahead(&pass->dy, plan->image_out, next, some, end)};
        for (int64_t first = 0; first < pixels; first += cut->pixels) {
            int64_t count = clamp(pixels - first, 1, cut->pixels);
            bool is_first = image == begin && first == 0;
            if (pass->is_depthwise)
                pixels_sum_depthwise(pass, plane, dy, first, count, is_first, packed, sums);
            else
                pixels_sum(pass, plane, dy, first, count, is_first, ahead, packed, sums);
            ahead[0].bytes = 0; /* done */
        }
    }
}

static void lanes_add(const float *restrict from, float *restrict total) {
    for (int64_t lane = 0; lane < LANES; lane++) total[lane] += from[lane];
}

/* Adds the chunks' sums of one block of channels, rows first .. first + count - 1, and turns them
 * over into dw. */
static void rows_add(const WeightPass *pass, int64_t block, int64_t first, int64_t count,
                     float scale, float beta, float *dw) {
    const ConvPlan *plan = &pass->plan;
    bool is_depthwise = pass->is_depthwise;
    int64_t group_out = is_depthwise ? plan->out_c : plan->group_out;
    int64_t per_group = lanes_up(group_out) / LANES, in_group = block % per_group * LANES;
    int64_t left = group_out - in_group, channels = left < LANES ? left : LANES;
    int64_t stride = is_depthwise ? per_group * LANES : LANES;
    const float *sums = pass->sums + first * stride +
                        (is_depthwise ? block * LANES : block * pass->cut.filter * LANES);
    float total[ADD_ROWS * LANES] = {0};
    for (int64_t chunk = 0; chunk < pass->cut.chunks; chunk++, sums += pass->cut.sum_size)
        for (int64_t i = 0; i < count; i++) lanes_add(sums + i * stride, total + i * LANES);
    float *to = dw + (block / per_group * group_out + in_group) * pass->cut.filter + first;
    for (int64_t lane = 0; lane < channels; lane++, to += pass->cut.filter)
        for (int64_t i = 0; i < count; i++)
            to[i] = beta != 0.0f ? beta * to[i] + scale * total[i * LANES + lane]
                                 : scale * total[i * LANES + lane];
}

static void chunks_add(const WeightPass *pass, float scale, float beta, float *dw) {
    int64_t parts = (pass->cut.filter + ADD_ROWS - 1) / ADD_ROWS;
    int64_t blocks = pass->cut.sum_size / (pass->cut.filter * LANES);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < blocks * parts; part++) {
        int64_t first = part % parts * ADD_ROWS, left = pass->cut.filter - first;
        rows_add(pass, part / parts, first, left < ADD_ROWS ? left : ADD_ROWS, scale, beta, dw);
    }
}

/* Where the pixels of several images lie in their planes. */
static const int64_t *pixels_of(const WeightPass *pass, Arena *scratch) {
    const Phase *phase = pass->plan.phases;
    int64_t images = pass->cut.images, count = phase->pixel_count;
    if (images == 1) return phase->pixel_in;
    int64_t *pixel_in = arena_alloc(scratch, (size_t)(images * count) * sizeof *pixel_in);
    for (int64_t i = 0; i < images * count; i++)
        pixel_in[i] = i / count * pass->plan.plane.size + phase->pixel_in[i % count];
    return pixel_in;
}

static void pass_init(WeightPass *pass, Arena *scratch) {
    const ConvGeometry *g = pass->geometry;
    const WeightCut *cut = &pass->cut;
    size_t threads = (size_t)parallel_threads();
    pass->is_depthwise = conv_is_depthwise(g);
    conv_plan_forward(&pass->plan, g, operand_lies(&pass->images), cut->images, 0, scratch);
    const ConvPlan *plan = &pass->plan;
    pass->pixel_in = pixels_of(pass, scratch);
    int64_t *row_offset = arena_alloc(scratch, (size_t)cut->filter * sizeof *row_offset);
    for (int64_t i = 0; i < cut->filter; i++)
        row_offset[i] = plan->phases->tap_offset[i / plan->group_in] + i % plan->group_in;
    pass->row_offset = row_offset;
    pass->packed = arena_alloc(
        scratch, checked_mul((size_t)(cut->pixels * cut->row) * sizeof(float), threads));
    pass->sums =
        arena_alloc(scratch, checked_mul((size_t)(cut->chunks * cut->sum_size), sizeof(float)));
    if (pass->dy.dtype == DTYPE_F32) return;
    size_t decoded = checked_mul((size_t)(cut->images * plan->image_out), threads);
    pass->dy_images = arena_alloc(scratch, checked_mul(sizeof(float), decoded));
}

void conv_backward_weight(const ConvGeometry *geometry, const Tensor *x, const Tensor *dy,
                          float beta, float *dw, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    bool x_levels = tensor_has_one_scale(x); /* one factor, applied at the end */
    WeightPass pass = {
        .geometry = geometry,
        .cut = weight_cut(geometry),
        .images = {*x, x_levels},
        .dy = *dy,
    };
    pass_init(&pass, scratch);
    isa_active();
    Shares shares = shares_new(pass.cut.chunks, scratch);
#pragma omp parallel
    for (int64_t chunk; (chunk = shares_take(&shares)) >= 0;) chunk_sum(&pass, chunk);
    chunks_add(&pass, x_levels ? x->scales->scale[0] : 1.0f, beta, dw);
    arena_rewind(scratch, mark);
}
