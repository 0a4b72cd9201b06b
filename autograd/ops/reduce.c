#include "autograd/ops/reduce.h"

#include "autograd/ops/axis.h"
#include "autograd/ops/elementwise.h"

enum {
    REDUCE_RUN = 4096, /* elements of one partial sum */
    REDUCE_BLOCK = 64, /* columns summed together by one thread */
};

static int axis_of(const Var *v) {
    return *(const int *)v->attr;
}

bool reduce_infer(Var *v, Error *err) {
    Shape in = v->in[0]->value.shape, out = SHAPE_SCALAR;
    int axis = axis_of(v);
    if (axis != -1) {
        TRY(axis_check(in, axis, err));
        for (int i = 0; i < in.rank; i++)
            if (i != axis) out.dim[out.rank++] = in.dim[i];
    }
    v->value.shape = out;
    return true;
}

static int64_t runs_of(int64_t count) {
    return (count + REDUCE_RUN - 1) / REDUCE_RUN;
}

int64_t reduce_runs_scratch(int64_t count) {
    return arena_padded((int64_t)sizeof(double) * runs_of(count));
}

double reduce_runs(Tape *t, ReduceRun *sum_run, const float *x, const float *y, int64_t count) {
    int64_t runs = runs_of(count);
    ArenaMark mark = arena_mark(t->arena);
    double *partial = arena_new_array(t->arena, double, runs);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < runs; r++) {
        int64_t first = r * REDUCE_RUN;
        int64_t length = count - first < REDUCE_RUN ? count - first : REDUCE_RUN;
        partial[r] = sum_run(x + first, y ? y + first : NULL, length);
    }
    double sum = 0;
    for (int64_t r = 0; r < runs; r++) sum += partial[r];
    arena_rewind(t->arena, mark);
    return sum;
}

static double sum_plain(const float *x, const float *y, int64_t count) {
    (void)y;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i];
    return sum;
}

/* y[0..width) = factor * the sums of `length` rows that lie `stride` apart. */
static void sum_block(const float *x, int64_t length, int64_t stride, int width, double factor,
                      float *y) {
    double sum[REDUCE_BLOCK] = {0};
    for (int64_t k = 0; k < length; k++)
        for (int j = 0; j < width; j++) sum[j] += x[k * stride + j];
    for (int j = 0; j < width; j++) y[j] = (float)(factor * sum[j]);
}

void reduce_forward(Tape *t, Var *v, bool is_mean) {
    const Var *in = v->in[0];
    const float *x = var_f32(in);
    float *y = var_f32(v);
    int64_t count = var_count(in);
    if (axis_of(v) == -1) {
        double sum = reduce_runs(t, sum_plain, x, NULL, count);
        *y = (float)(is_mean ? sum / (double)count : sum);
        return;
    }
    AxisView view = axis_view(in->value.shape, axis_of(v));
    double factor = is_mean ? 1.0 / (double)view.length : 1.0;
    int64_t blocks = (view.inner + REDUCE_BLOCK - 1) / REDUCE_BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < view.outer * blocks; b++) {
        int64_t row = b / blocks, first = b % blocks * REDUCE_BLOCK;
        int64_t width = view.inner - first < REDUCE_BLOCK ? view.inner - first : REDUCE_BLOCK;
        sum_block(x + row * view.length * view.inner + first, view.length, view.inner, (int)width,
                  factor, y + row * view.inner + first);
    }
}

int64_t reduce_forward_scratch(const Var *v) {
    return axis_of(v) == -1 ? reduce_runs_scratch(var_count(v->in[0])) : 0;
}

void reduce_backward(Tape *t, Var *v, bool is_mean) {
    Var *in = v->in[0];
    float beta;
    float *dx = tape_grad(t, in, &beta);
    if (!dx) return;
    int64_t count = var_count(in);
    AxisView view = {1, count, 1};
    if (axis_of(v) != -1) view = axis_view(in->value.shape, axis_of(v));
    float factor = is_mean ? (float)(1.0 / (double)view.length) : 1;
    const float *dy = var_grad_f32(v);
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t row = 0; row < view.outer * view.length; row++) {
        const float *from = dy + row / view.length * view.inner;
        float *to = dx + row * view.inner;
        for (int64_t j = 0; j < view.inner; j++)
            to[j] = gradient_join(beta, to[j], factor * from[j]);
    }
}
