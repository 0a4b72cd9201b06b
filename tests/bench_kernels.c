/* GFLOP/s of convolution and matrix products on the shapes that training uses.
 *
 *     bench_kernels [threads]
 *
 * Each figure is the best of several runs; a machine shared with others shows lower ones. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/blas.h"
#include "core/conv.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/random.h"

enum { BATCH = 128, REPEATS = 7 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *values(Arena *arena, int64_t count) {
    float *x = arena_alloc(arena, (size_t)count * sizeof *x);
    random_fill_uniform((RandomKey){1, RANDOM_TEST, 0}, -1, 1, count, x);
    return x;
}

static ConvGeometry square(int64_t size, int64_t in_c, int64_t out_c, int64_t kernel,
                           int64_t stride, int64_t groups) {
    int64_t pad = kernel / 2, out = (size + 2 * pad - kernel) / stride + 1;
    return (ConvGeometry){.batch = BATCH,
                          .in_h = size,
                          .in_w = size,
                          .in_c = in_c,
                          .out_h = out,
                          .out_w = out,
                          .out_c = out_c,
                          .kernel_h = kernel,
                          .kernel_w = kernel,
                          .stride_h = stride,
                          .stride_w = stride,
                          .dilation_h = 1,
                          .dilation_w = 1,
                          .pad_top = pad,
                          .pad_left = pad,
                          .groups = groups};
}

#define BEST(seconds, call)                                                                        \
    do {                                                                                           \
        seconds = 1e9;                                                                             \
        for (int repeat = 0; repeat < REPEATS; repeat++) {                                         \
            double start = now();                                                                  \
            call;                                                                                  \
            double took = now() - start;                                                           \
            if (took < seconds) seconds = took;                                                    \
        }                                                                                          \
    } while (0)

static void bench_conv(const char *name, ConvGeometry g) {
    Arena *arena = arena_new("bench"), *scratch = arena_new("scratch");
    int64_t x_count = g.batch * g.in_h * g.in_w * g.in_c;
    int64_t y_count = g.batch * g.out_h * g.out_w * g.out_c;
    int64_t filter = g.kernel_h * g.kernel_w * g.in_c / g.groups;
    Tensor x = {DTYPE_F32, SHAPE(g.batch, g.in_h, g.in_w, g.in_c), values(arena, x_count), NULL};
    Tensor w = {DTYPE_F32, SHAPE(g.out_c, g.kernel_h, g.kernel_w, g.in_c / g.groups),
                values(arena, g.out_c * filter), NULL};
    float *y = values(arena, y_count), *dx = values(arena, x_count);
    float *dw = values(arena, g.out_c * filter);
    double forward, input, weight, work = 2e-9 * (double)(y_count * filter);
    BEST(forward, conv_forward(&g, &x, &w, NULL, y, scratch));
    BEST(input, conv_backward_input(&g, y, &w, 0, dx, scratch));
    BEST(weight, conv_backward_weight(&g, &x, y, 0, dw, scratch));
    printf("%-34s %8.1f %8.1f %8.1f   GFLOP/s   %7.2f %7.2f %7.2f ms\n", name, work / forward,
           work / input, work / weight, forward * 1e3, input * 1e3, weight * 1e3);
    arena_free(arena);
    arena_free(scratch);
}

static void bench_linear(const char *name, int64_t batch, int64_t in, int64_t out) {
    Arena *arena = arena_new("bench"), *scratch = arena_new("scratch");
    Matrix x = matrix_of((Tensor){DTYPE_F32, SHAPE(batch, in), values(arena, batch * in), NULL});
    Matrix w = matrix_of((Tensor){DTYPE_F32, SHAPE(out, in), values(arena, out * in), NULL});
    Matrix dy = matrix_of((Tensor){DTYPE_F32, SHAPE(batch, out), values(arena, batch * out), NULL});
    float *y = values(arena, batch * out), *dx = values(arena, batch * in);
    float *dw = values(arena, out * in);
    double forward, input, weight, work = 2e-9 * (double)(batch * in * out);
    BEST(forward, gemm(x, matrix_transposed(w), 0, y, out, NULL, scratch));
    BEST(input, gemm(dy, w, 0, dx, in, NULL, scratch));
    BEST(weight, gemm(matrix_transposed(dy), x, 0, dw, in, NULL, scratch));
    printf("%-34s %8.1f %8.1f %8.1f   GFLOP/s   %7.2f %7.2f %7.2f ms\n", name, work / forward,
           work / input, work / weight, forward * 1e3, input * 1e3, weight * 1e3);
    arena_free(arena);
    arena_free(scratch);
}

int main(int count, char **arguments) {
    Error err = {0};
    if (!parallel_init(count > 1 ? atoi(arguments[1]) : 0, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    printf("%d threads, %s, %s, batch %d\n", parallel_threads(), kernels_description(),
           blas_description(), BATCH);
    printf("%-34s %8s %8s %8s\n", "", "forward", "d input", "d weight");
    bench_conv("3x3 28x28 1 -> 32", square(28, 1, 32, 3, 1, 1));
    bench_conv("3x3 14x14 32 -> 64", square(14, 32, 64, 3, 1, 1));
    bench_conv("3x3 28x28 16 -> 16", square(28, 16, 16, 3, 1, 1));
    bench_conv("3x3 14x14 32 -> 32", square(14, 32, 32, 3, 1, 1));
    bench_conv("3x3 7x7 64 -> 64", square(7, 64, 64, 3, 1, 1));
    bench_conv("3x3 28x28 16 -> 32 stride 2", square(28, 16, 32, 3, 2, 1));
    bench_conv("3x3 14x14 32 -> 64 stride 2", square(14, 32, 64, 3, 2, 1));
    bench_conv("1x1 28x28 16 -> 32 stride 2", square(28, 16, 32, 1, 2, 1));
    bench_conv("1x1 28x28 32 -> 64", square(28, 32, 64, 1, 1, 1));
    bench_conv("1x1 14x14 64 -> 128", square(14, 64, 128, 1, 1, 1));
    bench_conv("1x1 14x14 128 -> 128", square(14, 128, 128, 1, 1, 1));
    bench_conv("1x1 7x7 128 -> 256", square(7, 128, 256, 1, 1, 1));
    bench_conv("1x1 7x7 256 -> 256", square(7, 256, 256, 1, 1, 1));
    bench_conv("depthwise 3x3 28x28 32", square(28, 32, 32, 3, 1, 32));
    bench_conv("depthwise 3x3 28x28 64 stride 2", square(28, 64, 64, 3, 2, 64));
    bench_conv("depthwise 3x3 14x14 128", square(14, 128, 128, 3, 1, 128));
    bench_linear("linear 3136 -> 128", BATCH, 3136, 128);
    bench_linear("linear 784 -> 512", BATCH, 784, 512);
    bench_linear("linear 512 -> 512", BATCH, 512, 512);
    bench_linear("linear 128 -> 10", BATCH, 128, 10);
    return 0;
}
