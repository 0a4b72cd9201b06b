#include "experiments/plan/record.h"

#include "autograd/channel.h"
#include "autograd/map.h"
#include "autograd/ops.h"
#include "core/conv_scratch.h"
#include "core/gemm.h"
#include "core/parallel.h"

enum { FLOAT_BYTES = sizeof(float) };

typedef struct Reading {
    const Tape *record;
    const Plan *plan;
} Reading;

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t padded(int64_t bytes) {
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

/* ---- Half precision: ops that know only f32 get copies (autograd/tape.c). ---- */

static bool is_half(Dtype dtype) {
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

static const Var *memory_of(const Var *v) {
    while (v->op && (v->op->flags & OP_ALIASES)) v = v->in[0];
    return v;
}

static Dtype kept_as(const Reading *r, const Var *v) {
    v = memory_of(v);
    return r->plan && v->op ? r->plan->slots[v->index].dtype : v->value.dtype;
}

static Dtype grad_kept_as(const Reading *r, const Var *v) {
    return r->plan && v->op ? r->plan->slots[v->index].grad_dtype : DTYPE_F32;
}

static bool is_staged(const Var *v) {
    return !map_fits(v) && !(v->op->flags & (OP_READS_HALF | OP_ALIASES));
}

static int64_t staged_inputs(const Reading *r, const Var *v) {
    int64_t bytes = 0;
    for (int j = 0; j < v->in_count; j++)
        if (v->in[j] && is_half(kept_as(r, v->in[j]))) bytes += FLOAT_BYTES * var_count(v->in[j]);
    return bytes;
}

static int64_t staged_forward(const Reading *r, const Var *v) {
    if (!is_staged(v)) return 0;
    return staged_inputs(r, v) + (is_half(kept_as(r, v)) ? FLOAT_BYTES * var_count(v) : 0);
}

/* What an op takes as f32 (tape_grad), be it all or, of those that know half, its bias. */
static int64_t staged_backward(const Reading *r, const Var *v) {
    if (map_fits(v)) return 0;
    bool is_whole = !(v->op->flags & OP_READS_HALF);
    int64_t bytes = is_whole ? staged_inputs(r, v) : 0;
    if (is_whole && is_half(grad_kept_as(r, v))) bytes += FLOAT_BYTES * var_count(v);
    int first = v->op == &op_row_linear ? 2 : !is_whole ? 1 : 0;
    for (int j = first; j < v->in_count; j++) {
        const Var *in = v->in[j];
        if (in && in->needs_grad && is_half(grad_kept_as(r, in)))
            bytes += FLOAT_BYTES * var_count(in);
    }
    return bytes;
}

/* ---- Operands: what decoding them takes (core/kernels/operand.h). ---- */

static int64_t values_bytes(const Reading *r, const Var *v) {
    bool is_plain = !v->value.scales && kept_as(r, v) == DTYPE_F32;
    return is_plain ? 0 : FLOAT_BYTES * var_count(v);
}

static int64_t levels_bytes(const Reading *r, const Var *v) {
    return kept_as(r, v) == DTYPE_F32 ? 0 : FLOAT_BYTES * var_count(v);
}

static bool has_one_scale(const Var *v) {
    return v->value.scales && v->value.scales->count == 1;
}

/* One scale for all, or one per row of `row` elements. */
static bool has_scales_by(const Var *v, int64_t row) {
    const Scales *s = v->value.scales;
    return s && (s->count == 1 || (s->row_length == row && s->run_length == row));
}

/* ---- Convolutions ---- */

/* Images are read as they are kept, unless their scales are several. */
static int64_t images_bytes(const Var *x) {
    return !x->value.scales || has_one_scale(x) ? 0 : FLOAT_BYTES * var_count(x);
}

static ConvOperands conv_operands(const Reading *r, const Var *v) {
    const Var *x = v->in[0];
    return (ConvOperands){
        .x_is_f32 = images_bytes(x) > 0 || kept_as(r, x) == DTYPE_F32,
        .y_is_f32 = kept_as(r, v) == DTYPE_F32,
        .dx_is_f32 = grad_kept_as(r, x) == DTYPE_F32,
        .dy_is_f32 = grad_kept_as(r, v) == DTYPE_F32,
    };
}

/* Sums by image and channel, and where rows are decoded (autograd/channel.h). */
static int64_t moments_bytes(const Reading *r, const Var *v) {
    if (!r->plan || !r->plan->slots[v->index].wants_moments) return 0;
    int64_t channels = shape_last(v->value.shape), decoded = 0;
    if (kept_as(r, v) != DTYPE_F32)
        decoded = parallel_threads() * CHANNEL_ROWS * channels * FLOAT_BYTES;
    return 2 * (int64_t)sizeof(double) * v->value.shape.dim[0] * channels + decoded;
}

static int64_t conv_forward_bytes(const Reading *r, const Var *v) {
    const Var *x = v->in[0], *w = v->in[1];
    ConvGeometry g = conv2d_geometry(v);
    bool on_levels = has_one_scale(x) && has_scales_by(w, var_count(w) / g.out_c);
    return conv_forward_scratch(&g, conv_operands(r, v)) + images_bytes(x) + moments_bytes(r, v) +
           (on_levels ? levels_bytes(r, w) : values_bytes(r, w));
}

static int64_t conv_backward_bytes(const Reading *r, const Var *v) {
    const Var *x = v->in[0], *w = v->in[1];
    ConvGeometry g = conv2d_geometry(v);
    ConvOperands operands = conv_operands(r, v);
    int64_t bytes = 0;
    if (x->needs_grad) bytes = conv_backward_input_scratch(&g, operands) + values_bytes(r, w);
    if (w->needs_grad)
        bytes = most(bytes, conv_backward_weight_scratch(&g, operands) + images_bytes(x));
    if (v->in[2] && v->in[2]->needs_grad && !operands.dy_is_f32)
        bytes = most(bytes, FLOAT_BYTES * var_count(v));
    return bytes;
}

/* ---- Linear layers ---- */

static Matrix matrix_kept(const Reading *r, const Var *v) {
    Tensor tensor = v->value;
    tensor.dtype = kept_as(r, v);
    return matrix_of(tensor);
}

static int64_t linear_forward_bytes(const Reading *r, const Var *v) {
    Matrix x = matrix_kept(r, v->in[0]), w = matrix_kept(r, v->in[1]);
    return gemm_scratch(x, matrix_transposed(w), 0);
}

static int64_t linear_backward_bytes(const Reading *r, const Var *v) {
    Matrix x = matrix_kept(r, v->in[0]), w = matrix_kept(r, v->in[1]);
    Matrix dy = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = v->value.shape});
    int64_t bytes = 0;
    if (v->in[0]->needs_grad) bytes = gemm_scratch(dy, w, 0);
    if (v->in[1]->needs_grad) bytes = most(bytes, gemm_scratch(matrix_transposed(dy), x, 0));
    return bytes + (grad_kept_as(r, v) == DTYPE_F32 ? 0 : FLOAT_BYTES * var_count(v));
}

/* ---- Pools: an image and its result per thread. ---- */

static int64_t pool_bytes(const Var *v) {
    int64_t images = v->value.shape.dim[0], both = var_count(v->in[0]) + var_count(v);
    return (int64_t)parallel_threads() * FLOAT_BYTES * (both / images);
}

/* ---- Maps ---- */

/* With the product that feeds it. */
static int64_t map_bytes(const Reading *r, const Var *v, bool is_backward) {
    MapGroup group = plan_group(r->plan, r->record, v, !is_backward);
    if (!group.count) return 0;
    int64_t bytes = map_scratch(&group, is_backward);
    if (group.feed)
        bytes += is_backward ? linear_backward_bytes(r, group.feed)
                             : linear_forward_bytes(r, group.feed);
    return bytes;
}

/* ---- Ops ---- */

/* What stays until the record ends. */
static int64_t saved_bytes(const Var *v) {
    int64_t rows = shape_rows(v->in[0]->value.shape), columns = shape_last(v->in[0]->value.shape);
    if (v->op == &op_row_max_pool2d) return (int64_t)sizeof(uint16_t) * var_count(v);
    if (v->op == &op_row_dropout) return var_count(v);
    if (v->op == &op_row_layer_norm) return 2 * FLOAT_BYTES * rows;
    if (v->op == &op_row_cross_entropy)
        return rows * (int64_t)sizeof(double) + rows * columns * FLOAT_BYTES;
    if (v->op == &op_row_batch_norm || v->op == &op_row_batch_norm_folded)
        return 8 * FLOAT_BYTES * columns;
    return 0;
}

/* With maps, but none itself. */
static bool is_in_group(const Reading *r, const Var *v, bool is_backward) {
    const PlanSlot *slot = r->plan ? &r->plan->slots[v->index] : NULL;
    if (!slot) return false;
    return is_backward ? slot->is_back_tail || slot->is_back_feed : slot->is_tail || slot->is_feed;
}

static int64_t forward_bytes(const Reading *r, const Var *v) {
    if (map_fits(v) || is_in_group(r, v, false)) return map_bytes(r, v, false);
    if (v->op == &op_row_conv2d) return conv_forward_bytes(r, v);
    if (v->op == &op_row_linear) return linear_forward_bytes(r, v);
    return v->op == &op_row_max_pool2d ? pool_bytes(v) + images_bytes(v->in[0]) : 0;
}

static int64_t backward_bytes(const Reading *r, const Var *v) {
    if (map_fits(v) || is_in_group(r, v, true)) return map_bytes(r, v, true);
    if (v->op == &op_row_conv2d) return conv_backward_bytes(r, v);
    if (v->op == &op_row_linear) return linear_backward_bytes(r, v);
    return v->op == &op_row_max_pool2d ? pool_bytes(v) : 0;
}

static int64_t values_apart(const Tape *record) {
    int64_t bytes = 0;
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        bool is_owner = v->op && !(v->op->flags & OP_ALIASES);
        if (is_owner) bytes += padded(FLOAT_BYTES * var_count(v));
    }
    return bytes;
}

RecordBytes record_bytes(const Tape *record, const Plan *plan) {
    Reading r = {record, plan};
    RecordBytes out = {.vars = (int64_t)arena_used(record->arena)};
    out.block = plan ? (int64_t)plan->bytes : values_apart(record);
    out.kept = plan && record->mode.needs_grad ? (int64_t)plan->value_bytes_kept : 0;
    int64_t saved = 0;
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op) continue;
        saved += padded(saved_bytes(v));
        out.staged = most(out.staged, staged_forward(&r, v));
        out.scratch = most(out.scratch, saved + forward_bytes(&r, v));
    }
    for (int i = 0; plan && i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op || !v->needs_grad) continue;
        out.staged = most(out.staged, staged_backward(&r, v));
        out.scratch = most(out.scratch, saved + backward_bytes(&r, v));
    }
    return out;
}

int64_t record_arena(const RecordBytes *bytes) {
    return bytes->vars + bytes->block + bytes->scratch;
}
