#include "autograd/channel.h"

#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum {
    CHUNKS_MAX = 64, /* partial sums kept: enough work for that many threads */
    IMAGES_MIN = 16, /* fewer keep too few threads busy */
};

typedef struct Chunks {
    int64_t count, rows; /* of chunks; of rows in each but the last */
} Chunks;

static Chunks chunks_of(int64_t rows) {
    int64_t blocks = (rows + CHANNEL_ROWS - 1) / CHANNEL_ROWS;
    int64_t per_chunk = (blocks + CHUNKS_MAX - 1) / CHUNKS_MAX * CHANNEL_ROWS;
    if (per_chunk == 0) per_chunk = CHANNEL_ROWS;
    return (Chunks){(rows + per_chunk - 1) / per_chunk, per_chunk};
}

void channel_reduce(int64_t rows, int64_t width, ChannelBlock *block, const void *self,
                    double *sums, Arena *scratch) {
    Chunks chunks = chunks_of(rows);
    ArenaMark mark = arena_mark(scratch);
    double *partial = arena_new_array(scratch, double, chunks.count *width);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunks.count; i++) {
        int64_t end = count_least(rows, (i + 1) * chunks.rows);
        for (int64_t first = i * chunks.rows; first < end; first += CHANNEL_ROWS)
            block(self, first, count_least(CHANNEL_ROWS, end - first), partial + i * width);
    }
    memset(sums, 0, sizeof *sums * (size_t)width);
    for (int64_t i = 0; i < chunks.count; i++)
        for (int64_t c = 0; c < width; c++) sums[c] += partial[i * width + c];
    arena_rewind(scratch, mark);
}

int64_t channel_reduce_scratch(int64_t rows, int64_t width) {
    return arena_padded((int64_t)sizeof(double) * chunks_of(rows).count * width);
}

void channel_add(float *grad, float beta, const float *factor, const double *sums,
                 int64_t channels) {
    if (!grad) return;
    for (int64_t c = 0; c < channels; c++) {
        double term = factor ? (double)factor[c] * sums[c] : sums[c];
        grad[c] = (float)(beta != 0 ? (double)beta * (double)grad[c] + term : term);
    }
}

void channel_sums(const float *x, int64_t rows, int64_t channels, double *sums) {
    float sum[CHANNEL_PANEL];
    for (int64_t first = 0; first < rows; first += CHANNEL_ROWS)
        for (int64_t c = 0; c < channels; c += CHANNEL_PANEL) {
            int64_t width = count_least(CHANNEL_PANEL, channels - c);
            isa_active()->sums(x + first * channels + c, channels,
                               count_least(CHANNEL_ROWS, rows - first), width, sum);
            for (int64_t j = 0; j < width; j++) sums[c + j] += (double)sum[j];
        }
}

/* What is summed over rows. */
typedef struct Rows {
    const float *x;
    int64_t channels;
} Rows;

static void sum_block(const void *self, int64_t first, int64_t count, double *sums) {
    const Rows *m = self;
    channel_sums(m->x + first * m->channels, count, m->channels, sums);
}

void channel_sum(const float *x, int64_t rows, int64_t channels, float beta, float *out,
                 Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    double *sums = arena_new_array(scratch, double, channels);
    channel_reduce(rows, channels, sum_block, &(Rows){x, channels}, sums, scratch);
    channel_add(out, beta, NULL, sums, channels);
    arena_rewind(scratch, mark);
}

int64_t channel_sum_scratch(int64_t rows, int64_t channels) {
    return arena_padded((int64_t)sizeof(double) * channels) +
           channel_reduce_scratch(rows, channels);
}

void channel_products(const float *dy, const float *x, const float *mean, int64_t rows,
                      int64_t channels, double *sums, double *products) {
    float sum[CHANNEL_PANEL], product[CHANNEL_PANEL];
    for (int64_t first = 0; first < rows; first += CHANNEL_ROWS)
        for (int64_t c = 0; c < channels; c += CHANNEL_PANEL) {
            int64_t width = count_least(CHANNEL_PANEL, channels - c), at = first * channels + c;
            isa_active()->products(dy + at, x + at, mean + c, channels,
                                   count_least(CHANNEL_ROWS, rows - first), width, sum, product);
            for (int64_t j = 0; j < width; j++) {
                sums[c + j] += (double)sum[j];
                products[c + j] += (double)product[j];
            }
        }
}

/* Merges `count` values of mean `mean` and squared deviations `squares` into (n, m[0], q[0]). */
static void merge_moments(double n, double *m, double *q, double count, double mean,
                          double squares) {
    double delta = mean - *m, total = n + count;
    *m += delta * (count / total);
    *q += squares + delta * delta * (n * count / total);
}

/* Moments of `rows` rows (at most CHANNEL_ROWS), merged into the n rows in m and q. The float mean
 * is only where deviations are measured from; their sum says how far off it is. */
static void moments_block(const float *x, int64_t stride, int64_t rows, int64_t count, double n,
                          double *m, double *q) {
    float mean[CHANNEL_PANEL], sum[CHANNEL_PANEL], square[CHANNEL_PANEL];
    isa_active()->sums(x, stride, rows, count, mean);
    for (int64_t c = 0; c < count; c++) mean[c] /= (float)rows;
    isa_active()->deviations(x, mean, stride, rows, count, sum, square);
    for (int64_t c = 0; c < count; c++) {
        double off = (double)sum[c] / (double)rows;
        merge_moments(n, m + c, q + c, (double)rows, (double)mean[c] + off,
                      (double)square[c] - off * (double)sum[c]);
    }
}

bool channel_has_images(Shape shape) {
    return shape.rank == 4 && shape.dim[0] >= IMAGES_MIN;
}

/* Rows of a part: an image's, so that whoever writes images can add them up one by one. */
static int64_t part_rows(Shape shape) {
    if (channel_has_images(shape)) return shape.dim[1] * shape.dim[2];
    return chunks_of(shape_rows(shape)).rows;
}

static int64_t part_count(Shape shape) {
    int64_t rows = part_rows(shape);
    return (shape_rows(shape) + rows - 1) / rows;
}

static int64_t sums_count(const Tensor *x) {
    return part_count(x->shape) * shape_last(x->shape);
}

/* Where blocks are decoded. */
static int64_t decoded_count(const Tensor *x) {
    if (x->dtype == DTYPE_F32) return 0;
    return parallel_threads() * CHANNEL_ROWS * shape_last(x->shape);
}

MomentParts moment_parts_new(const Tensor *x, Arena *scratch) {
    isa_active(); /* chosen before threads ask */
    return (MomentParts){.x = x,
                         .mean = arena_new_array(scratch, double, sums_count(x)),
                         .squares = arena_new_array(scratch, double, sums_count(x)),
                         .decoded = arena_alloc(scratch, sizeof(float) * (size_t)decoded_count(x))};
}

int64_t moment_parts_scratch(const Tensor *x) {
    return 2 * arena_padded((int64_t)sizeof(double) * sums_count(x)) +
           arena_padded((int64_t)sizeof(float) * decoded_count(x));
}

void moment_parts_add(const MomentParts *parts, int64_t part) {
    const Tensor *x = parts->x;
    int64_t channels = shape_last(x->shape), first = part * part_rows(x->shape);
    int64_t end = count_least(shape_rows(x->shape), first + part_rows(x->shape));
    float *decoded = parts->decoded + parallel_self() * CHANNEL_ROWS * channels;
    double n = 0, *m = parts->mean + part * channels, *q = parts->squares + part * channels;
    memset(m, 0, sizeof *m * (size_t)channels);
    memset(q, 0, sizeof *q * (size_t)channels);
    for (int64_t row = first; row < end; row += CHANNEL_ROWS) {
        int64_t rows = count_least(CHANNEL_ROWS, end - row);
        const float *block = operand_part(x, row * channels, rows * channels, decoded);
        for (int64_t c = 0; c < channels; c += CHANNEL_PANEL)
            moments_block(block + c, channels, rows, count_least(CHANNEL_PANEL, channels - c), n,
                          m + c, q + c);
        n += (double)rows;
    }
}

void moment_parts_finish(const MomentParts *parts, float *mean, float *variance) {
    Shape shape = parts->x->shape;
    int64_t rows = shape_rows(shape), channels = shape_last(shape), each = part_rows(shape);
    double *m = parts->mean, *q = parts->squares;
    for (int64_t i = 1; i < part_count(shape); i++) {
        double n = (double)(i * each),
               count = (double)(count_least(rows, (i + 1) * each) - i * each);
        for (int64_t c = 0; c < channels; c++)
            merge_moments(n, m + c, q + c, count, m[i * channels + c], q[i * channels + c]);
    }
    for (int64_t c = 0; c < channels; c++) {
        mean[c] = (float)m[c];
        variance[c] = q[c] < 0 ? 0 : (float)(q[c] / (double)rows);
    }
}

void channel_moments(const Tensor *x, float *mean, float *variance, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    MomentParts parts = moment_parts_new(x, scratch);
    int64_t count = part_count(x->shape);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) moment_parts_add(&parts, i);
    moment_parts_finish(&parts, mean, variance);
    arena_rewind(scratch, mark);
}

void channel_moments_of(Tape *t, const Var *x, float *mean, float *variance) {
    int64_t channels = shape_last(x->value.shape);
    if (!x->moments) {
        channel_moments(&x->value, mean, variance, t->arena);
        return;
    }
    memcpy(mean, x->moments, sizeof *mean * (size_t)channels);
    memcpy(variance, x->moments + channels, sizeof *variance * (size_t)channels);
}

int64_t channel_moments_scratch(const Var *x) {
    return x->moments || x->wants_moments ? 0 : moment_parts_scratch(&x->value);
}

void channel_affine(const float *x, const float *mean, const float *scale, const float *shift,
                    int64_t rows, int64_t channels, float *y) {
    isa_active()->affine(x, mean, scale, shift, rows, channels, y);
}

void channel_affine_backward(const float *dy, const float *x, const float *mean, const float *a,
                             const float *b, const float *k, int64_t rows, int64_t channels,
                             float *dx) {
    isa_active()->affine_backward(dy, x, mean, a, b, k, rows, channels, dx);
}
