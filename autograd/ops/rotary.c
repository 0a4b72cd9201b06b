/* Rotary positions (Su et al. 2021), in halves as Hugging Face has them: of each head's dim
 * numbers, j and j + dim / 2 are turned by the angle position x frequency[j], y_j = x_j cos - x_(j
 * + dim/2) sin        y_(j + dim/2) = x_(j + dim/2) cos + x_j sin Angles are products in f32; their
 * cosines and sines are rounded from double. */
#include <math.h>

#include "autograd/ops.h"
#include "core/parallel.h"

static int64_t dim_of(const Var *v) {
    const RotaryAttr *attr = v->attr;
    return shape_last(v->in[0]->value.shape) / attr->heads;
}

static bool infer(Var *v, Error *err) {
    const RotaryAttr *attr = v->attr;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape x = v->in[0]->value.shape;
    if (x.rank != 3 || attr->heads < 1 || x.dim[2] % (2 * attr->heads))
        return FAIL(err, ERROR_INPUT,
                    "%s does not fall into %ld heads of an even number of dimensions",
                    shape_text(x, a), (long)attr->heads);
    if (v->in[1] && !shape_equal(v->in[1]->value.shape, SHAPE(x.dim[0], x.dim[1])))
        return FAIL(err, ERROR_INPUT, "starts %s do not fit %s: one a position",
                    shape_text(v->in[1]->value.shape, a), shape_text(x, b));
    v->value.shape = x;
    return true;
}

/* [2][dim / 2]: cosines, then sines. */
static void make_turn(const RotaryAttr *attr, int64_t position, int64_t half, float *turn) {
    for (int64_t j = 0; j < half; j++) {
        float angle = (float)position * attr->frequencies[j];
        turn[j] = (float)cos((double)angle);
        turn[half + j] = (float)sin((double)angle);
    }
}

/* Of [length] positions from attr->position on. */
static float *make_turns(Tape *t, const Var *v) {
    enum { EACH = 64 /* operations in a cosine and a sine */ };
    const RotaryAttr *attr = v->attr;
    int64_t length = v->in[0]->value.shape.dim[1], half = dim_of(v) / 2;
    float *turns = arena_alloc(t->arena, sizeof(float) * (size_t)(2 * length * half));
    PARALLEL_FOR(i, length, EACH * length * half,
                 make_turn(attr, attr->position + i, half, turns + 2 * i * half));
    return turns;
}

/* Positions are counted from where the row's document starts. */
static int64_t turn_of(const Var *v, int64_t row) {
    int64_t length = v->in[0]->value.shape.dim[1], i = row % length;
    int64_t start = v->in[1] ? (int64_t)var_f32(v->in[1])[row] : 0;
    return start < 0 || start > i ? i : i - start;
}

static float joined(float beta, float there, float value) {
    return beta == 0 ? value : beta * there + value;
}

/* `sign` -1: the other way round. */
static void turn_row(const Var *v, const float *turns, float sign, const float *x, float beta,
                     int64_t row, float *y) {
    const RotaryAttr *attr = v->attr;
    int64_t half = dim_of(v) / 2;
    const float *cosine = turns + 2 * turn_of(v, row) * half, *sine = cosine + half;
    for (int64_t h = 0; h < attr->heads; h++) {
        int64_t at = (row * attr->heads + h) * 2 * half;
        const float *low = x + at, *high = low + half;
        float *y_low = y + at, *y_high = y_low + half;
        for (int64_t j = 0; j < half; j++) {
            float s = sign * sine[j];
            y_low[j] = joined(beta, y_low[j], low[j] * cosine[j] - high[j] * s);
            y_high[j] = joined(beta, y_high[j], high[j] * cosine[j] + low[j] * s);
        }
    }
}

static void turn(const Var *v, const float *turns, float sign, const float *x, float beta,
                 float *y) {
    int64_t rows = shape_rows(v->in[0]->value.shape);
    PARALLEL_FOR(row, rows, 4 * tensor_count(&v->value), turn_row(v, turns, sign, x, beta, row, y));
}

static void forward(Tape *t, Var *v) {
    ArenaMark mark = arena_mark(t->arena);
    turn(v, make_turns(t, v), 1, var_f32(v->in[0]), 0, var_f32(v));
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    ArenaMark mark = arena_mark(t->arena);
    turn(v, make_turns(t, v), -1, var_grad_f32(v), beta, dx);
    arena_rewind(t->arena, mark);
}

static int64_t scratch(const Var *v) {
    int64_t length = v->in[0]->value.shape.dim[1];
    return arena_padded((int64_t)sizeof(float) * length * (dim_of(v) / 2 * 2));
}

static Var *sample(Tape *t, int which) {
    static const float frequencies[] = {1, 0.3f, 0.01f};
    if (which >= 2) return NULL;
    RotaryAttr attr = {.heads = 2, .frequencies = frequencies, .position = which ? 0 : 5};
    Var *x = tape_sample_leaf(t, SHAPE(2, 4, which ? 4 : 12), -1, 1), *starts = NULL;
    if (which == 1) {
        float *at = tape_alloc(t, sizeof(float) * 8);
        for (int i = 0; i < 8; i++) at[i] = i % 4 < 3 ? 0 : 3;
        starts = tape_constant(t, (Tensor){.dtype = DTYPE_F32, .shape = SHAPE(2, 4), .data = at});
    }
    return op_rotary(t, x, starts, attr);
}

Var *op_rotary(Tape *t, Var *x, Var *starts, RotaryAttr attr) {
    Var *in[] = {x, starts};
    return tape_record(t, &op_row_rotary, 2, in, &attr, sizeof attr);
}

const Op op_row_rotary = {
    .name = "rotary",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .forward_scratch = scratch,
    .backward_scratch = scratch,
};
