/* The weights of a convolution as the inner loops read them: decoded and packed a slab of output
 * channels at a time, so that codes are never in f32 as a whole, and what is packed stays in a
 * second cache while all images pass. Which slab a channel is in changes no bit. */
#ifndef NIBBLE_CORE_CONV_SLAB_H
#define NIBBLE_CORE_CONV_SLAB_H

#include "core/conv_plan.h"

/* Blocks of LANES output channels, first .. end - 1 of those of all groups, and what they hold. */
typedef struct Slab {
    int64_t first, end;
    int64_t channel, channels; /* of the result */
} Slab;

/* What of a slab is in one group; depthwise, all channels are one. */
typedef struct SlabPart {
    int64_t group;
    int64_t block;             /* of the slab, its first */
    int64_t channel, channels; /* of the group */
} SlabPart;

typedef struct ConvSlabs {
    ConvPlan *plan;
    Operand weights;
    int64_t blocks, per_slab;
    float *decoded; /* `decoded_size` weights per thread; NULL: they lie in f32 */
    int64_t decoded_size;
} ConvSlabs;

/* Takes room from `scratch` for the packed weights of a slab (Phase.weights) and for what each
 * thread decodes at a time. `plan` is kept. */
void conv_slabs_init(ConvSlabs *slabs, ConvPlan *plan, Operand weights, Arena *scratch);
/* The bytes of that room; of the plan, only what does not depend on phases is read. */
int64_t conv_slabs_scratch(const ConvPlan *plan, const Operand *weights);

/* Packs the slab that begins with block `first`: of each phase [block][tap, channel][LANES] or,
 * depthwise, [tap][channels of the slab rounded up to LANES]; zeros past the last channel. */
Slab conv_slab_pack(const ConvSlabs *slabs, int64_t first);

int64_t conv_slab_parts(const ConvSlabs *slabs, const Slab *slab);
SlabPart conv_slab_part(const ConvSlabs *slabs, const Slab *slab, int64_t index);

#endif
