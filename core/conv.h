/* 2-D convolution on NHWC images, with weights [out, kernel_h, kernel_w, in / groups].
 *
 * Same bits for any number of threads. Direct (no im2col): an image is copied once with zeros
 * around it (or read where it lies), so that every tap is a constant distance from an output
 * pixel's base. The inner loops, one per instruction set, are in core/kernels. */
#ifndef NIBBLE_CORE_CONV_H
#define NIBBLE_CORE_CONV_H

#include "core/tensor.h"

typedef struct ConvGeometry {
    int64_t batch, in_h, in_w, in_c;
    int64_t out_h, out_w, out_c;
    int64_t kernel_h, kernel_w;
    int64_t stride_h, stride_w, dilation_h, dilation_w;
    int64_t pad_top, pad_left; /* the bottom and right follow from out_h and out_w */
    int64_t groups;            /* in_c and out_c are multiples; groups == in_c is depthwise */
} ConvGeometry;

/* A linear layer as a convolution: its rows are images of one pixel. */
static inline ConvGeometry conv_of_rows(int64_t rows, int64_t inputs, int64_t outputs) {
    return (ConvGeometry){.batch = rows,
                          .in_h = 1,
                          .in_w = 1,
                          .in_c = inputs,
                          .out_h = 1,
                          .out_w = 1,
                          .out_c = outputs,
                          .kernel_h = 1,
                          .kernel_w = 1,
                          .stride_h = 1,
                          .stride_w = 1,
                          .dilation_h = 1,
                          .dilation_w = 1,
                          .groups = 1};
}

/* Called on the thread that wrote an image, once it is there in y, to read it while it is in cache;
 * for each image once, in any order. */
typedef struct ConvWritten {
    void (*call)(const void *context, int64_t image); /* NULL: nobody is told */
    const void *context;
} ConvWritten;

/* y [batch, out_h, out_w, out_c] = x * w + bias (NULL: none), overwriting y. When x holds levels
 * under one scale and w levels under one scale per tensor or per output channel, the sum runs on
 * the levels and is exact, as in gemm.h: y = float(sum) * (scale_x * scale_w) + bias. Operands of
 * any other kind are decoded, part by part. y, dy and dx are f32 or half precision: sums are in
 * f32, and only their result is rounded. `scratch` is left as it was found. */
void conv_forward(const ConvGeometry *geometry, const Tensor *x, const Tensor *w, const float *bias,
                  const Tensor *y, ConvWritten written, Arena *scratch);

/* dx = beta dx + the gradient to x; `w` may hold levels (its values are used). */
void conv_backward_input(const ConvGeometry *geometry, const Tensor *dy, const Tensor *w,
                         float beta, const Tensor *dx, Arena *scratch);

/* dw = beta dw + the gradient to w; `x` may hold levels (its values are used). Summed over pixels
 * in a fixed number of chunks, then in a fixed order. */
void conv_backward_weight(const ConvGeometry *geometry, const Tensor *x, const Tensor *dy,
                          float beta, float *dw, Arena *scratch);

/* Plain references, in double; the integer one in int32_t, with the epilogue above. */
void conv_forward_reference(const ConvGeometry *geometry, const Tensor *x, const Tensor *w,
                            const float *bias, float *y);
void conv_forward_integer_reference(const ConvGeometry *geometry, const Tensor *x, const Tensor *w,
                                    const float *bias, float *y);
void conv_backward_input_reference(const ConvGeometry *geometry, const float *dy, const Tensor *w,
                                   float beta, float *dx);
void conv_backward_weight_reference(const ConvGeometry *geometry, const Tensor *x, const float *dy,
                                    float beta, float *dw);

#endif
