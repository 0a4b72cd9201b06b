/* How a convolution, or its gradient, is laid out for the inner loops (core/kernels/isa.h).
 *
 * An image is copied into a plane with its padding around it (or used where it lies, when there is
 * none), so that every output pixel is a base offset and every tap a constant distance from it. The
 * gradient to the input is the same loop over dy: where strides are above 1, input pixels fall into
 * stride_h x stride_w phases, each reached by its own taps. */
#ifndef NIBBLE_CORE_CONV_PLAN_H
#define NIBBLE_CORE_CONV_PLAN_H

#include "core/conv.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"

typedef struct Plane {
    int64_t h, w, c;
    int64_t top, left; /* where the image begins */
    int64_t image_h, image_w;
    bool is_in_place; /* an f32 image is used where it lies */
    float *buffers;   /* one per thread */
    int64_t buffer_size;
    int64_t size; /* from one image's plane to the next */
} Plane;

/* The planes of `count` images, plane->size apart, valid until the calling thread asks for others.
 */
const float *plane_fill(const Plane *plane, const Operand *images, int64_t first, int64_t count);

/* Images first .. first + count - 1 of `batch` images of `size` elements, as what is read next;
 * nothing where they are past the last, or more than the caches keep. */
Ahead images_ahead(const Tensor *images, int64_t size, int64_t first, int64_t count, int64_t batch);

typedef struct Phase {
    int64_t pixel_count;
    int64_t *pixel_in, *pixel_out; /* offsets into the plane and into the result's image */
    int64_t tap_count;
    int64_t *tap_offset; /* into the plane */
    int64_t *tap_index;  /* ky * kernel_w + kx */
    Run *runs;           /* taps times channels of a group, merged where they adjoin */
    int64_t run_count;
    float *weights; /* of a slab, packed (core/conv_slab.h) */
} Phase;

typedef struct ConvPlan {
    Plane plane;
    Phase *phases;
    int64_t phase_count;
    int64_t image_out;                   /* elements of one image of the result */
    int64_t out_c;                       /* its channels */
    int64_t groups, group_in, group_out; /* channels read and written per group */
    int64_t taps;                        /* of all phases */
    bool is_backward;                    /* what is written are the filters' input channels */
    bool is_depthwise;                   /* with a kernel of its own */
} ConvPlan;

bool conv_is_depthwise(const ConvGeometry *geometry);
/* Whether w's scales are one for all, or one per output channel. */
bool conv_scales_fit(const ConvGeometry *geometry, const Tensor *w);

/* Forward reads x (`is_f32`: where it lies, if possible), at most `images` images at once; exact_k
 * (0: none) bounds how many products one f32 sum may hold. */
void conv_plan_forward(ConvPlan *plan, const ConvGeometry *geometry, bool is_f32, int64_t images,
                       int64_t exact_k, Arena *scratch);
/* The gradient to the input reads dy. */
void conv_plan_backward(ConvPlan *plan, const ConvGeometry *geometry, bool is_f32, Arena *scratch);

/* How the gradient to the weights is cut into pieces, by shapes alone. */
typedef struct WeightCut {
    int64_t filter;   /* rows: kernel_h * kernel_w * channels of a group */
    int64_t row;      /* channels of a group, or of all for depthwise, in whole vectors */
    int64_t sum_size; /* floats of one sum of all weights */
    int64_t chunks;   /* of images, with a sum each */
    int64_t images;   /* in planes at once */
    int64_t pixels;   /* of those images, at once */
} WeightCut;

WeightCut weight_cut(const ConvGeometry *geometry);

#endif
