/* The kernels on the shapes of the four models: three products of each convolution and linear
 * layer, on values and on levels, and linear layers of few rows on packed codes; and on those of a
 * language model of 10^9 parameters, whose weights are stored. OpenBLAS is measured beside them: a
 * mark to reach, which training does not call. */
#include <stdio.h>
#include <string.h>

#include "core/blas.h"
#include "core/conv.h"
#include "core/counts.h"
#include "core/gemm.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "core/print.h"
#include "core/random.h"
#include "core/storage.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/bench_worker.h"
#include "experiments/train/environment.h"
#include "qat/quantizer.h"

enum { RUNS_MIN = 3, NAME_BYTES = 80 };
#define KERNEL_SHARE 0.03 /* of the time that a model's variant gets */

enum { FORWARD = 1, FROZEN, ALL }; /* passes: FROZEN has no gradient of the weight */

typedef struct Operands {
    const char *name;
    int bits;               /* of levels or codes; 0: values */
    bool keeps_activations; /* as values: the weight alone is quantized */
    bool is_packed;         /* the weight: codes, else levels in floats */
    int backward;           /* FROZEN or ALL; 0: forward alone */
    bool by_openblas;
    const Storage *stored; /* the weight */
} Operands;

static const Operands values = {"f32", .backward = ALL};
static const Operands openblas = {"f32 by OpenBLAS", .backward = ALL, .by_openblas = true};
static const Operands w8a8 = {"w8a8", .bits = 8};
static const Operands w4a4 = {"w4a4", .bits = 4, .backward = ALL};
static const Operands w8_codes = {"w8 codes", 8, .keeps_activations = true, .is_packed = true};
static const Operands w4_codes = {"w4 codes", 4, .keeps_activations = true, .is_packed = true};
static const Operands w2_codes = {"w2 codes", 2, .keeps_activations = true, .is_packed = true};
static const Operands ternary_codes = {"ternary codes", BITS_TERNARY, .keeps_activations = true,
                                       .is_packed = true};
static const Operands binary_codes = {"binary codes", 1, .keeps_activations = true,
                                      .is_packed = true};

static const Operands nf4 = {"nf4", .backward = FROZEN,
                             .stored =
                                 &(const Storage){.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}};
static const Operands nf4_double = {
    "nf4 double", .backward = FROZEN,
    .stored = &(const Storage){.dtype = DTYPE_NF4, .scale_dtype = DTYPE_DYNAMIC8}};
static const Operands int4_groups = {
    "int4 groups", .backward = FROZEN,
    .stored = &(const Storage){.dtype = DTYPE_INT4, .block = 64, .scale_dtype = DTYPE_F32}};
static const Operands f16 = {"f16", .backward = FROZEN,
                             .stored = &(const Storage){.dtype = DTYPE_F16}};

static const Operands *const conv_operands[] = {&values, &w8a8, &w4a4, NULL};
static const Operands *const linear_operands[] = {
    &values,   &openblas, &w8a8,          &w4a4,         &w8_codes,
    &w4_codes, &w2_codes, &ternary_codes, &binary_codes, NULL};
static const Operands *const stored_operands[] = {&values,      &openblas, &nf4, &nf4_double,
                                                  &int4_groups, &f16,      NULL};

/* size x size images of in_c channels, padded so that stride 1 keeps the size. */
typedef struct ConvCase {
    int64_t size, in_c, out_c, kernel, stride, groups;
} ConvCase;

static const ConvCase conv_cases[] = {
    {28, 1, 32, 3, 1, 1},  /* CNN and MobileNet, first */
    {14, 32, 64, 3, 1, 1}, /* CNN, second */
    {28, 1, 16, 3, 1, 1},  /* ResNet-20, first, then stage by stage */
    {28, 16, 16, 3, 1, 1},     {28, 16, 32, 3, 2, 1},    {28, 16, 32, 1, 2, 1},
    {14, 32, 32, 3, 1, 1},     {14, 32, 64, 3, 2, 1},    {14, 32, 64, 1, 2, 1},
    {7, 64, 64, 3, 1, 1},      {28, 32, 32, 3, 1, 32}, /* MobileNet, block by block */
    {28, 32, 64, 1, 1, 1},     {28, 64, 64, 3, 2, 64},   {14, 64, 128, 1, 1, 1},
    {14, 128, 128, 3, 1, 128}, {14, 128, 128, 1, 1, 1},  {14, 128, 128, 3, 2, 128},
    {7, 128, 256, 1, 1, 1},    {7, 256, 256, 3, 1, 256}, {7, 256, 256, 1, 1, 1},
};

typedef struct LinearCase {
    int64_t rows, in, out; /* rows 0: the batch */
    int passes;            /* at most */
    const Operands *const *operands;
} LinearCase;

static const LinearCase linear_cases[] = {
    {0, 784, 512, ALL, linear_operands}, /* MLP */
    {0, 512, 512, ALL, linear_operands},
    {0, 512, 10, ALL, linear_operands},
    {0, 3136, 128, ALL, linear_operands}, /* CNN */
    {0, 128, 10, ALL, linear_operands},
    {0, 64, 10, ALL, linear_operands}, /* the classes of the others */
    {0, 256, 10, ALL, linear_operands},
    {16, 512, 512, FORWARD, linear_operands},
    {16, 3136, 128, FORWARD, linear_operands},
    {1, 512, 512, FORWARD, linear_operands},
    {1, 3136, 128, FORWARD, linear_operands},
    {1, 2048, 5632, FROZEN, stored_operands},
    {16, 2048, 5632, FROZEN, stored_operands},
    {0, 2048, 5632, FROZEN, stored_operands},
};

typedef struct Result { /* of one kernel, as it comes from the worker */
    char name[NAME_BYTES];
    double flops, bytes; /* bytes: of operands and result, once each */
    BenchFigure seconds;
} Result;

/* What a kernel works on; each product has its own result, so that none feeds another. */
typedef struct Kernel {
    Arena *arena, *scratch;
    bool is_conv, by_openblas;
    ConvGeometry geometry;
    Tensor x, w, dy;
    float *y, *dx, *dw;
} Kernel;

typedef struct Pass {
    const char *name;
    void (*conv)(const Kernel *k);
    void (*linear)(const Kernel *k);
} Pass;

static void conv_y(const Kernel *k) {
    conv_forward(&k->geometry, &k->x, &k->w, NULL, TENSOR_F32(k->y), (ConvWritten){0}, k->scratch);
}

static void conv_dx(const Kernel *k) {
    conv_backward_input(&k->geometry, TENSOR_F32(k->dy.data), &k->w, 0, TENSOR_F32(k->dx),
                        k->scratch);
}

static void conv_dw(const Kernel *k) {
    conv_backward_weight(&k->geometry, &k->x, TENSOR_F32(k->dy.data), 0, k->dw, k->scratch);
}

/* c [m, n] = op(a) op(b), n in as many parts as there are threads. */
static void product_by_openblas(Matrix a, Matrix b, float *c) {
    int64_t m = a.is_transposed ? a.cols : a.rows, k = a.is_transposed ? a.rows : a.cols;
    int64_t n = b.is_transposed ? b.rows : b.cols, parts = parallel_threads();
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < parts; i++) {
        int64_t first = i * n / parts, end = (i + 1) * n / parts;
        const float *columns = tensor_f32(&b.tensor) + first * (b.is_transposed ? b.row_stride : 1);
        blas_sgemm(a.is_transposed, b.is_transposed, m, end - first, k, 1, tensor_f32(&a.tensor),
                   a.row_stride, columns, b.row_stride, 0, c + first, n);
    }
}

static void product(const Kernel *k, Matrix a, Matrix b, float *c) {
    if (k->by_openblas)
        product_by_openblas(a, b, c);
    else
        gemm(a, b, 0, c, b.is_transposed ? b.rows : b.cols, NULL, k->scratch);
}

static void linear_y(const Kernel *k) {
    product(k, matrix_of(k->x), matrix_transposed(matrix_of(k->w)), k->y);
}

static void linear_dx(const Kernel *k) {
    product(k, matrix_of(k->dy), matrix_of(k->w), k->dx);
}

static void linear_dw(const Kernel *k) {
    product(k, matrix_transposed(matrix_of(k->dy)), matrix_of(k->x), k->dw);
}

static const Pass passes[] = {
    {"forward", conv_y, linear_y},
    {"input gradient", conv_dx, linear_dx},
    {"weight gradient", conv_dw, linear_dw},
};

/* ---- Operands ---- */

/* Numbers that repeat, after so many that no two rows are alike: drawing all takes longer than the
 * products. */
static Tensor tensor_random(Arena *arena, Shape shape, float low) {
    enum { PERIOD = 65521 /* prime */ };
    Tensor tensor = tensor_new(arena, DTYPE_F32, shape);
    int64_t count = shape_count(shape), drawn = count_least(count, PERIOD);
    RandomKey key = {.seed = 1, .stream = RANDOM_TEST, .step = (uint64_t)count};
    float *numbers = tensor.data;
    random_fill_uniform(key, low, 1, drawn, numbers);
    for (int64_t i = drawn; i < count; i += drawn)
        memcpy(numbers + i, numbers, sizeof *numbers * (size_t)count_least(drawn, count - i));
    return tensor;
}

/* Levels of a tensor of values up to 1; `run` elements share a scale. */
static Tensor tensor_levels(Arena *arena, Tensor tensor, Grid grid, int64_t run) {
    int64_t count = tensor_count(&tensor), scale_count = scales_count(count, run, run);
    float *scale = arena_new_array(arena, float, scale_count);
    for (int64_t i = 0; i < scale_count; i++) scale[i] = 1.0f / (float)grid_high(grid);
    Scales *scales = arena_new_array(arena, Scales, 1);
    *scales = (Scales){.row_length = run,
                       .run_length = run,
                       .count = scale_count,
                       .dtype = DTYPE_F32,
                       .grid = grid,
                       .scale = scale};
    Tensor levels = tensor_new(arena, DTYPE_F32, tensor.shape);
    quantize_levels(tensor.data, scales, 0, count, levels.data);
    levels.scales = scales;
    return levels;
}

static Tensor tensor_codes(Arena *arena, Tensor levels) {
    Tensor codes = tensor_new(arena, dtype_packed(levels.scales->grid), levels.shape);
    codes.scales = levels.scales;
    operand_write(levels.data, 0, tensor_count(&levels), &codes);
    return codes;
}

static Tensor tensor_stored(Arena *arena, const Tensor *plain, const Storage *storage) {
    Error none = {0};
    Tensor stored = *plain; /* finite, so nothing can fail */
    tensor_encode(arena, plain->data, plain->shape, storage, &stored, &none);
    return stored;
}

static Grid weight_grid(int bits) {
    return bits == BITS_TERNARY ? grid_ternary() : bits == 1 ? grid_odd(1) : grid_signed(bits);
}

/* Activations above 0, as behind a ReLU, under one scale; weights of both signs, a scale per output
 * channel. */
static void kernel_fill(Kernel *k, Shape x, Shape w, Shape y, const Operands *operands) {
    k->x = tensor_random(k->arena, x, 0);
    k->w = tensor_random(k->arena, w, -1);
    k->dy = tensor_random(k->arena, y, -1);
    k->y = tensor_new(k->arena, DTYPE_F32, y).data;
    k->dx = tensor_new(k->arena, DTYPE_F32, x).data;
    k->dw = tensor_new(k->arena, DTYPE_F32, w).data;
    if (operands->stored) k->w = tensor_stored(k->arena, &k->w, operands->stored);
    if (!operands->bits) return;
    k->w = tensor_levels(k->arena, k->w, weight_grid(operands->bits), shape_count(w) / w.dim[0]);
    if (operands->is_packed) k->w = tensor_codes(k->arena, k->w);
    if (!operands->keeps_activations)
        k->x = tensor_levels(k->arena, k->x, grid_unsigned(operands->bits), shape_count(x));
}

/* ---- Measuring, in the worker ---- */

static BenchFigure kernel_time(const Kernel *k, const Pass *pass, double seconds) {
    static BenchSamples samples; /* too large for a stack */
    void (*run)(const Kernel *) = k->is_conv ? pass->conv : pass->linear;
    run(k);
    samples.count = 0;
    double began = environment_seconds(), now = began;
    while (samples.count < RUNS_MIN ||
           (now - began < seconds && !bench_samples_is_full(&samples))) {
        double before = now;
        run(k);
        now = environment_seconds();
        bench_samples_add(&samples, now - before);
    }
    return bench_samples_figure(&samples);
}

/* A product reads two of x, w and y's gradient or writes them: three tensors in all. */
static double kernel_bytes(const Kernel *k, const Pass *pass) {
    size_t x = tensor_bytes(&k->x), w = tensor_bytes(&k->w), y = tensor_bytes(&k->dy);
    if (pass->conv == conv_dx) x = sizeof(float) * (size_t)tensor_count(&k->x);
    if (pass->conv == conv_dw) w = sizeof(float) * (size_t)tensor_count(&k->w);
    return (double)x + (double)w + (double)y;
}

static bool run_passes(int fd, const Kernel *k, const char *shape, const Operands *operands,
                       int passes_most, double seconds) {
    double sum_length = (double)(tensor_count(&k->w) / k->w.shape.dim[0]);
    int wanted = operands->backward ? operands->backward : FORWARD;
    for (int i = 0; i < wanted && i < passes_most; i++) {
        Result result = {.flops = 2.0 * (double)tensor_count(&k->dy) * sum_length,
                         .bytes = kernel_bytes(k, &passes[i]),
                         .seconds = kernel_time(k, &passes[i], seconds)};
        snprintf(result.name, sizeof result.name, "%s %s %s", shape, passes[i].name,
                 operands->name);
        TRY(bench_worker_write(fd, &result, sizeof result));
    }
    return true;
}

static ConvGeometry geometry_of(const ConvCase *c, int64_t batch) {
    int64_t pad = c->kernel / 2, out = (c->size + 2 * pad - c->kernel) / c->stride + 1;
    return (ConvGeometry){.batch = batch,
                          .in_h = c->size,
                          .in_w = c->size,
                          .in_c = c->in_c,
                          .out_h = out,
                          .out_w = out,
                          .out_c = c->out_c,
                          .kernel_h = c->kernel,
                          .kernel_w = c->kernel,
                          .stride_h = c->stride,
                          .stride_w = c->stride,
                          .dilation_h = 1,
                          .dilation_w = 1,
                          .pad_top = pad,
                          .pad_left = pad,
                          .groups = c->groups};
}

static bool run_conv(int fd, Kernel *k, const ConvCase *c, const BenchOptions *options) {
    char shape[NAME_BYTES];
    snprintf(shape, sizeof shape, "%s %ldx%ld %ldx%ld %ld->%ld%s",
             c->groups > 1 ? "depthwise" : "conv", (long)c->kernel, (long)c->kernel, (long)c->size,
             (long)c->size, (long)c->in_c, (long)c->out_c, c->stride == 2 ? " stride 2" : "");
    k->is_conv = true;
    k->geometry = geometry_of(c, options->batch);
    const ConvGeometry *g = &k->geometry;
    for (int i = 0; conv_operands[i]; i++) {
        arena_reset(k->arena);
        kernel_fill(k, SHAPE(g->batch, g->in_h, g->in_w, g->in_c),
                    SHAPE(g->out_c, g->kernel_h, g->kernel_w, g->in_c / g->groups),
                    SHAPE(g->batch, g->out_h, g->out_w, g->out_c), conv_operands[i]);
        TRY(run_passes(fd, k, shape, conv_operands[i], ALL, KERNEL_SHARE * options->seconds));
    }
    return true;
}

static bool run_linear(int fd, Kernel *k, const LinearCase *c, const BenchOptions *options) {
    char shape[NAME_BYTES];
    int64_t rows = c->rows ? c->rows : options->batch;
    snprintf(shape, sizeof shape, "linear %ld->%ld", (long)c->in, (long)c->out);
    size_t length = strlen(shape);
    if (c->rows)
        snprintf(shape + length, sizeof shape - length, " %ld row%s", (long)c->rows,
                 c->rows == 1 ? "" : "s");
    k->is_conv = false;
    for (int i = 0; c->operands[i]; i++) {
        const Operands *operands = c->operands[i];
        k->by_openblas = operands->by_openblas;
        if (k->by_openblas && !blas_may_be_shared()) continue;
        arena_reset(k->arena);
        kernel_fill(k, SHAPE(rows, c->in), SHAPE(c->out, c->in), SHAPE(rows, c->out), operands);
        TRY(run_passes(fd, k, shape, operands, c->passes, KERNEL_SHARE * options->seconds));
    }
    return true;
}

/* Ends early when nobody listens any more. */
static void work(int fd, const void *context) {
    const BenchOptions *options = context;
    Kernel k = {.arena = arena_new("operands"), .scratch = arena_new("scratch")};
    bool goes_on = true;
    for (size_t i = 0; goes_on && i < sizeof conv_cases / sizeof *conv_cases; i++)
        goes_on = run_conv(fd, &k, &conv_cases[i], options);
    for (size_t i = 0; goes_on && i < sizeof linear_cases / sizeof *linear_cases; i++)
        goes_on = run_linear(fd, &k, &linear_cases[i], options);
    Result last = {.name = ""};
    if (goes_on) bench_worker_write(fd, &last, sizeof last);
    arena_free(k.arena);
    arena_free(k.scratch);
}

/* ---- Reporting ---- */

static void report(const Result *result, const BenchOptions *options, const BenchMachine *machine,
                   Json *json) {
    double seconds = result->seconds.median, rate = result->flops / seconds;
    double share = rate / machine->fma_flops.median;
    double bandwidth = result->bytes / seconds;
    Json *row = json_append(json, "kernels");
    json_set_text(row, "name", result->name);
    json_set_number(row, "gflops", rate * 1e-9);
    json_set_number(row, "share_of_peak", share);
    json_set_number(row, "gbs", bandwidth * 1e-9);
    json_set_number(row, "share_of_bandwidth", bandwidth / machine->bandwidth.median);
    json_set_number(row, "microseconds", seconds * 1e6);
    json_set_number(row, "spread", result->seconds.spread);
    if (!options->is_printed) return;
    print_out("%-56s %9.1f %8.1f%% %8.1f %10.1f %7.1f%%\n", result->name, rate * 1e-9, 100 * share,
              bandwidth * 1e-9, seconds * 1e6, 100 * result->seconds.spread);
    fflush(stdout);
}

bool bench_kernels(const BenchOptions *options, const BenchMachine *machine, Json *json,
                   Error *err) {
    BenchWorker worker;
    TRY(bench_worker_start(&worker, work, options, err));
    if (options->is_printed)
        print_out("\n%-56s %9s %9s %8s %10s %8s\n", "kernel", "GFLOP/s", "of peak", "GB/s",
                  "microsec.", "spread");
    Result result;
    bool is_read;
    while ((is_read = bench_worker_read(worker.fd, &result, sizeof result)) && *result.name)
        report(&result, options, machine, json);
    if (bench_worker_end(&worker) && is_read) return true;
    return FAIL(err, ERROR_SYSTEM, "the measurement of the kernels ended early");
}
