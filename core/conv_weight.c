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

enum {
    CHUNKS = 16,
    CHUNKS_MIN = 4,
    SUM_FLOATS_MAX = 1 << 22, /* of all chunks; larger weights are summed in fewer */
    CACHE_FLOATS = 5120, /* inputs and gradients of a block of pixels: most of a 32 KiB cache */
    PIXELS_MIN = 32,
};

typedef struct WeightPass {
    const ConvGeometry *geometry;
    Plan plan; /* of the forward pass: the same pixels and taps */
    Tensor images, dy;
    float *dy_images; /* decoded, one per thread; NULL: dy is f32 */
    bool is_depthwise;
    int64_t chunks, pixel_block;
    int64_t group_rows;        /* kernel_h * kernel_w * channels of a group */
    const int64_t *row_offset; /* of each of them in the plane */
    float *packed;             /* dy of a pixel block, one buffer per thread */
    int64_t packed_size;
    float *sums;      /* [chunk][block][row][LANES]; depthwise: [chunk][tap][channels] */
    int64_t sum_size; /* per chunk */
} WeightPass;

/* `channels` channels of `count` pixels, in rows of LANES. */
static void dy_pack(const float *dy, int64_t stride, int64_t count, int64_t channels,
                    float *packed) {
    for (int64_t i = 0; i < count; i++, dy += stride, packed += LANES) {
        if (channels == LANES) {
            memcpy(packed, dy, LANES * sizeof *dy);
            continue;
        }
        for (int64_t c = 0; c < LANES; c++) packed[c] = c < channels ? dy[c] : 0;
    }
}

/* All channels, in rows of a multiple of LANES. */
static void dy_pad(const float *dy, int64_t count, int64_t channels, float *packed) {
    int64_t row = lanes_up(channels);
    for (int64_t i = 0; i < count; i++, dy += channels, packed += row) {
        memcpy(packed, dy, (size_t)channels * sizeof *dy);
        memset(packed + channels, 0, (size_t)(row - channels) * sizeof *dy);
    }
}

static void pixels_sum(const WeightPass *pass, const float *plane, const float *dy, int64_t first,
                       int64_t count, bool is_first, float *packed, float *sums) {
    const Plan *plan = &pass->plan;
    int64_t per_group = lanes_up(plan->group_out) / LANES;
    for (int64_t block = 0; block < plan_blocks(plan); block++) {
        int64_t group = block / per_group, in_group = block % per_group * LANES;
        int64_t left = plan->group_out - in_group;
        const float *from = dy + first * plan->out_c + group * plan->group_out + in_group;
        bool is_packed = plan->out_c == LANES; /* as it lies */
        if (!is_packed) dy_pack(from, plan->out_c, count, left < LANES ? left : LANES, packed);
        OuterJob job = {
            .plane = plane + group * plan->group_in,
            .pixel_in = plan->phases->pixel_in + first,
            .pixel_count = count,
            .row_offset = pass->row_offset,
            .row_count = pass->group_rows,
            .dy = is_packed ? from : packed,
            .is_first = is_first,
            .sum = sums + block * pass->group_rows * LANES,
        };
        isa_active()->outer(&job);
    }
}

static void pixels_sum_depthwise(const WeightPass *pass, const float *plane, const float *dy,
                                 int64_t first, int64_t count, bool is_first, float *packed,
                                 float *sums) {
    const Phase *phase = pass->plan.phases;
    int64_t channels = pass->plan.out_c, row = lanes_up(channels);
    const float *rows = dy + first * channels;
    if (row != channels) {
        dy_pad(rows, count, channels, packed);
        rows = packed;
    }
    DepthwiseOuterJob job = {
        .plane = plane,
        .pixel_in = phase->pixel_in + first,
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

/* One image of dy in f32. */
static const float *dy_image(const WeightPass *pass, int64_t image) {
    int64_t size = pass->plan.image_out;
    if (!pass->dy_images) return (const float *)pass->dy.data + image * size;
    float *to = pass->dy_images + parallel_self() * size;
    operand_read(&pass->dy, image * size, size, to);
    return to;
}

static void chunk_sum(const WeightPass *pass, int64_t chunk) {
    const Plan *plan = &pass->plan;
    int64_t batch = pass->geometry->batch, pixels = plan->phases->pixel_count;
    int64_t begin = chunk * batch / pass->chunks, end = (chunk + 1) * batch / pass->chunks;
    float *packed = pass->packed + parallel_self() * pass->packed_size;
    float *sums = pass->sums + chunk * pass->sum_size;
    for (int64_t image = begin; image < end; image++) {
        const float *plane = plane_fill(&plan->plane, &pass->images, image);
        const float *dy = dy_image(pass, image);
        for (int64_t first = 0; first < pixels; first += pass->pixel_block) {
            int64_t left = pixels - first,
                    count = left < pass->pixel_block ? left : pass->pixel_block;
            bool is_first = image == begin && first == 0;
            if (pass->is_depthwise)
                pixels_sum_depthwise(pass, plane, dy, first, count, is_first, packed, sums);
            else
                pixels_sum(pass, plane, dy, first, count, is_first, packed, sums);
        }
    }
}

/* Where output channel oc's element `row` of its filter lies within a chunk's sums. */
static int64_t sum_index(const WeightPass *pass, int64_t oc, int64_t row) {
    if (pass->is_depthwise) return row * lanes_up(pass->plan.out_c) + oc;
    int64_t per_group = lanes_up(pass->plan.group_out) / LANES;
    int64_t in_group = oc % pass->plan.group_out;
    int64_t block = oc / pass->plan.group_out * per_group + in_group / LANES;
    return (block * pass->group_rows + row) * LANES + in_group % LANES;
}

static void chunks_add(const WeightPass *pass, float scale, float beta, float *dw) {
    int64_t filter = pass->is_depthwise ? pass->plan.phases->tap_count : pass->group_rows;
#pragma omp parallel for schedule(static)
    for (int64_t oc = 0; oc < pass->plan.out_c; oc++)
        for (int64_t row = 0; row < filter; row++) {
            const float *sums = pass->sums + sum_index(pass, oc, row);
            float sum = sums[0];
            for (int64_t chunk = 1; chunk < pass->chunks; chunk++)
                sum += sums[chunk * pass->sum_size];
            float *to = dw + oc * filter + row;
            *to = beta != 0.0f ? beta * *to + scale * sum : scale * sum;
        }
}

static void pass_init(WeightPass *pass, Arena *scratch) {
    const ConvGeometry *g = pass->geometry;
    pass->is_depthwise = conv_is_depthwise(g);
    plan_forward(&pass->plan, g, pass->images.dtype == DTYPE_F32, 0, scratch);
    const Plan *plan = &pass->plan;
    const Phase *phase = plan->phases;
    pass->group_rows = phase->tap_count * plan->group_in;
    int64_t *row_offset = arena_alloc(scratch, (size_t)pass->group_rows * sizeof *row_offset);
    for (int64_t i = 0; i < pass->group_rows; i++)
        row_offset[i] = phase->tap_offset[i / plan->group_in] + i % plan->group_in;
    pass->row_offset = row_offset;

    int64_t per_pixel =
        g->stride_h * g->stride_w * g->in_c + (pass->is_depthwise ? g->out_c : LANES);
    pass->pixel_block = CACHE_FLOATS / per_pixel;
    if (pass->pixel_block < PIXELS_MIN) pass->pixel_block = PIXELS_MIN;
    int64_t row = pass->is_depthwise ? lanes_up(g->out_c) : LANES, threads = parallel_threads();
    pass->packed_size = pass->pixel_block * row;
    pass->packed = arena_alloc(scratch, (size_t)(pass->packed_size * threads) * sizeof(float));

    pass->sum_size =
        pass->is_depthwise ? phase->tap_count * row : plan_blocks(plan) * pass->group_rows * LANES;
    pass->chunks = CHUNKS;
    while (pass->chunks > CHUNKS_MIN && pass->chunks * pass->sum_size > SUM_FLOATS_MAX)
        pass->chunks /= 2;
    if (pass->chunks > g->batch) pass->chunks = g->batch;
    pass->sums =
        arena_alloc(scratch, checked_mul((size_t)(pass->chunks * pass->sum_size), sizeof(float)));
}

void conv_backward_weight(const ConvGeometry *geometry, const Tensor *x, const Tensor *dy,
                          float beta, float *dw, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    bool x_levels = x->scales && x->scales->count == 1; /* one factor, applied at the end */
    WeightPass pass = {
        .geometry = geometry,
        .images = operand_numbers(x, x_levels, scratch),
        .dy = *dy,
    };
    pass_init(&pass, scratch);
    if (dy->dtype != DTYPE_F32) {
        size_t count = checked_mul((size_t)pass.plan.image_out, (size_t)parallel_threads());
        pass.dy_images = arena_alloc(scratch, checked_mul(sizeof(float), count));
    }
    isa_active();
#pragma omp parallel for schedule(dynamic)
    for (int64_t chunk = 0; chunk < pass.chunks; chunk++) chunk_sum(&pass, chunk);
    chunks_add(&pass, x_levels ? x->scales->scale[0] : 1.0f, beta, dw);
    arena_rewind(scratch, mark);
}
