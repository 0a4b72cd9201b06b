#include "core/conv_slab.h"

#include <string.h>

#include "core/parallel.h"

enum { SLAB_FLOATS = 1 << 18 /* packed at once, where a block is not more */ };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t group_channels(const ConvPlan *plan) {
    return plan->is_depthwise ? plan->out_c : plan->group_out;
}

static int64_t group_blocks(const ConvPlan *plan) {
    return lanes_up(group_channels(plan)) / LANES;
}

static int64_t blocks_count(const ConvPlan *plan) {
    return (plan->is_depthwise ? 1 : plan->groups) * group_blocks(plan);
}

static int64_t block_floats(const ConvPlan *plan) {
    return plan->taps * plan->group_in * LANES;
}

static int64_t blocks_per_slab(const ConvPlan *plan) {
    int64_t fit = SLAB_FLOATS / block_floats(plan);
    return fit < 1 ? 1 : least(fit, blocks_count(plan));
}

/* Of one of the filters as they are stored. */
static int64_t filter_size(const ConvPlan *plan) {
    return plan->taps * (plan->is_backward ? plan->group_out : plan->group_in);
}

/* Backward, a filter is read at a time; else those of a block. */
static int64_t decoded_size(const ConvPlan *plan) {
    bool by_filter = plan->is_backward && !plan->is_depthwise;
    return by_filter ? filter_size(plan) : block_floats(plan);
}

void conv_slabs_init(ConvSlabs *slabs, ConvPlan *plan, Operand weights, Arena *scratch) {
    *slabs = (ConvSlabs){.plan = plan,
                         .weights = weights,
                         .blocks = blocks_count(plan),
                         .per_slab = blocks_per_slab(plan),
                         .decoded_size = decoded_size(plan)};
    int64_t floats = slabs->per_slab * block_floats(plan);
    float *packed = arena_alloc(scratch, checked_mul(sizeof *packed, (size_t)floats));
    for (int64_t i = 0; i < plan->phase_count; i++) {
        plan->phases[i].weights = packed;
        packed += slabs->per_slab * plan->phases[i].tap_count * plan->group_in * LANES;
    }
    if (operand_lies(&weights)) return;
    size_t decoded = checked_mul((size_t)slabs->decoded_size, (size_t)parallel_threads());
    slabs->decoded = arena_alloc(scratch, checked_mul(sizeof(float), decoded));
}

static int64_t floats_bytes(int64_t count) {
    return arena_padded((int64_t)sizeof(float) * count);
}

int64_t conv_slabs_scratch(const ConvPlan *plan, const Operand *weights) {
    int64_t packed = floats_bytes(blocks_per_slab(plan) * block_floats(plan));
    if (operand_lies(weights)) return packed;
    return packed + floats_bytes(decoded_size(plan) * parallel_threads());
}

static const float *weights_at(const ConvSlabs *slabs, int64_t first, int64_t count) {
    float *buffer = slabs->decoded ? slabs->decoded + parallel_self() * slabs->decoded_size : NULL;
    return operand_at(&slabs->weights, first, count, buffer);
}

/* The filters of a block lie side by side. */
static void block_pack(const ConvSlabs *slabs, const Slab *slab, int64_t block) {
    const ConvPlan *plan = slabs->plan;
    int64_t per_group = group_blocks(plan), in_group = block % per_group * LANES;
    int64_t depth = filter_size(plan), lanes = least(LANES, plan->group_out - in_group);
    int64_t filter = block / per_group * plan->group_out + in_group;
    const float *from = weights_at(slabs, filter * depth, lanes * depth);
    float *to = plan->phases->weights + (block - slab->first) * depth * LANES;
    isa_active()->transpose(from, depth, lanes, depth, to, LANES);
}

static void block_pack_depthwise(const ConvSlabs *slabs, const Slab *slab, int64_t block) {
    const ConvPlan *plan = slabs->plan;
    int64_t taps = plan->taps, row = (slab->end - slab->first) * LANES;
    int64_t lanes = least(LANES, plan->out_c - block * LANES);
    const float *from = weights_at(slabs, block * LANES * taps, lanes * taps);
    for (int64_t i = 0; i < plan->phase_count; i++) {
        const Phase *phase = plan->phases + i;
        float *to = phase->weights + (block - slab->first) * LANES;
        for (int64_t t = 0; t < phase->tap_count; t++, to += row)
            for (int64_t lane = 0; lane < LANES; lane++)
                to[lane] = lane < lanes ? from[lane * taps + phase->tap_index[t]] : 0;
    }
}

/* `channels` floats to blocks that are `stride` apart. */
static void lanes_spread(const float *from, int64_t channels, float *to, int64_t stride) {
    for (; channels >= LANES; channels -= LANES, from += LANES, to += stride)
        memcpy(to, from, LANES * sizeof *to);
    if (channels == 0) return;
    memcpy(to, from, (size_t)channels * sizeof *to);
    memset(to + channels, 0, (size_t)(LANES - channels) * sizeof *to);
}

/* Filter `index` of a group, whose input channels are what is written. */
static void filter_pack(const ConvSlabs *slabs, const SlabPart *part, int64_t index) {
    const ConvPlan *plan = slabs->plan;
    int64_t size = filter_size(plan), first = (part->group * plan->group_in + index) * size;
    bool is_whole = part->channels == plan->group_out;
    const float *filter = is_whole ? weights_at(slabs, first, size) : NULL;
    for (int64_t i = 0; i < plan->phase_count; i++) {
        const Phase *phase = plan->phases + i;
        int64_t block = phase->tap_count * plan->group_in * LANES;
        float *to = phase->weights + part->block * block + index * LANES;
        for (int64_t t = 0; t < phase->tap_count; t++, to += plan->group_in * LANES) {
            int64_t at = phase->tap_index[t] * plan->group_out + part->channel;
            const float *from =
                is_whole ? filter + at : weights_at(slabs, first + at, part->channels);
            lanes_spread(from, part->channels, to, block);
        }
    }
}

static int64_t block_channel(const ConvPlan *plan, int64_t block) {
    int64_t per_group = group_blocks(plan);
    return block / per_group * group_channels(plan) + block % per_group * LANES;
}

Slab conv_slab_pack(const ConvSlabs *slabs, int64_t first) {
    const ConvPlan *plan = slabs->plan;
    int64_t end = least(first + slabs->per_slab, slabs->blocks);
    int64_t channel = block_channel(plan, first);
    Slab slab = {first, end, channel, block_channel(plan, end) - channel};
    bool by_filter = plan->is_backward && !plan->is_depthwise;
    int64_t count = by_filter ? conv_slab_parts(slabs, &slab) * plan->group_in : end - first;
    isa_active(); /* chosen before threads ask */
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        if (by_filter) {
            SlabPart part = conv_slab_part(slabs, &slab, i / plan->group_in);
            filter_pack(slabs, &part, i % plan->group_in);
        } else if (plan->is_depthwise) {
            block_pack_depthwise(slabs, &slab, first + i);
        } else {
            block_pack(slabs, &slab, first + i);
        }
    }
    return slab;
}

int64_t conv_slab_parts(const ConvSlabs *slabs, const Slab *slab) {
    int64_t per_group = group_blocks(slabs->plan);
    return (slab->end - 1) / per_group - slab->first / per_group + 1;
}

SlabPart conv_slab_part(const ConvSlabs *slabs, const Slab *slab, int64_t index) {
    int64_t per_group = group_blocks(slabs->plan), group = slab->first / per_group + index;
    int64_t first = index ? group * per_group : slab->first;
    int64_t end = least(slab->end, (group + 1) * per_group);
    int64_t channel = first % per_group * LANES;
    int64_t channel_end = least((end - group * per_group) * LANES, group_channels(slabs->plan));
    return (SlabPart){group, first - slab->first, channel, channel_end - channel};
}
