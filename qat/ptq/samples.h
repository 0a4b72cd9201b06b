/* A layer's reconstruction as data: samples of what it reads in the quantized network, with what
 * the exact network gives there.
 *
 * A sample of a convolution is what one output pixel reads, an image of the kernel's size; of a
 * linear layer a row. So the layer itself, without padding, computes its outputs from them. */
#ifndef NIBBLE_QAT_PTQ_SAMPLES_H
#define NIBBLE_QAT_PTQ_SAMPLES_H

#include "autograd/ops.h"
#include "qat/ptq.h"

typedef struct Samples {
    int64_t count;
    Shape shape; /* of an input, without its batch: [kernel, kernel, channels], or [features] */
    int64_t channels;   /* of an output */
    float *inputs;      /* [count, ...shape] */
    float *targets;     /* [count, channels]: the exact network's, behind the joined norm */
    bool is_image;      /* then: */
    Conv2dAttr attr;    /* of the layer on a sample */
    Module *activation; /* that alone reads the output, or NULL */
} Samples;

/* Up to `most` of the site's, drawn from all calibration rows alike: at most `most`, at least one a
 * row. Memory of `arena`. A layer that is no product of its input and its weight has none:
 * count 0. */
bool samples_draw(Ptq *p, const WeightSite *site, int64_t most, Arena *arena, Samples *out,
                  Error *err);

/* The layer's product of samples [n, ...shape] with a weight: [n, channels]. */
Var *samples_product(const Samples *s, Tape *t, Var *inputs, Var *weight);

#endif
