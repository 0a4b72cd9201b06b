#include "autograd/plan.h"

#include <assert.h>
#include <string.h>

#include "autograd/channel.h"

/* ---- Signature: FNV-1a (Fowler, Noll, Vo) over all that decides lifetimes. ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t mix_int(uint64_t hash, int64_t value) {
    return mix(hash, &value, sizeof value);
}

static bool takes_moments(const Var *v) {
    return map_fits(v) && v->op->map->takes_moments && v->op->map->takes_moments(v);
}

uint64_t plan_signature(const Tape *record, const Var *root) {
    uint64_t hash = mix_int(0xcbf29ce484222325u, record->count);
    hash = mix_int(hash, root->index);
    hash = mix_int(hash, record->mode.half + 64 * record->mode.keeps_f32_grads);
    hash = mix_int(hash, record->mode.keeps_residuals + 2 * (int)record->mode.recompute);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        hash = mix(hash, &v->op, sizeof v->op);
        hash = mix(hash, &v->probe, sizeof v->probe);
        hash = mix_int(hash, v->needs_grad + 2 * v->is_probed + 4 * v->is_parameter);
        hash = mix_int(hash, map_fits_tail(v));
        hash = mix_int(hash, v->segment);
        if (map_fits(v)) hash = mix_int(hash, map_flow(v));
        hash = mix_int(hash, takes_moments(v));
        hash = mix_int(hash, v->value.shape.rank);
        hash = mix_int(hash, v->value.scales ? v->value.scales->grid.bits : 0);
        for (int d = 0; d < v->value.shape.rank; d++) hash = mix_int(hash, v->value.shape.dim[d]);
        for (int j = 0; j < v->in_count; j++) hash = mix_int(hash, v->in[j] ? v->in[j]->index : -1);
    }
    return hash;
}

/* ---- What buffers are kept as. ---- */

const Var *plan_owner(const Var *v) {
    while (v->op && (v->op->flags & OP_ALIASES)) v = v->in[0];
    return v;
}

static size_t padded_bytes(size_t bytes) {
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

static bool has_flag(const Var *v, unsigned flag) {
    return v->op && v->op->flags & flag;
}

/* Tensors of half precision: not scalars, vectors, or what somebody reads as f32. */
static bool may_be_half(const Tape *record, const Var *v, const Var *root) {
    return record->mode.half != DTYPE_F32 && v->op && v->value.shape.rank > 1 && !v->is_probed &&
           plan_owner(v) != plan_owner(root);
}

/* Maps write pieces (autograd/piece.h), several threads at a time: where a row could begin within a
 * byte, each code has one of its own. */
static Dtype codes_dtype(const Var *v) {
    bool is_nibble =
        map_fits(v) && v->value.scales->grid.bits <= 4 && shape_last(v->value.shape) % 2 == 0;
    return is_nibble ? DTYPE_NIBBLE : DTYPE_BYTE;
}

/* What a quantizer leaves under a scale is at most 256 different numbers. Weights on their way
 * stay f32 until they are what products read. */
static Dtype kept_dtype(const Tape *record, const Var *v, const Var *root) {
    bool is_codes = has_flag(v, OP_QUANTIZES) && v->value.scales;
    if (is_codes && !record->mode.keeps_residuals) return codes_dtype(v);
    bool is_activation = !v->is_parameter || has_flag(v, OP_CASTS);
    bool is_half = is_activation && !v->value.scales && may_be_half(record, v, root);
    return is_half ? record->mode.half : DTYPE_F32;
}

static Dtype grad_dtype(const Tape *record, const Var *v, const Var *root) {
    bool is_weight = has_flag(v, OP_CASTS | OP_QUANTIZES);
    bool is_kind = !v->is_parameter || (is_weight && !record->mode.keeps_f32_grads);
    return is_kind && may_be_half(record, v, root) ? record->mode.half : DTYPE_F32;
}

static size_t kept_bytes(const Var *v, Dtype dtype) {
    return padded_bytes(dtype == DTYPE_F32 ? checked_mul(sizeof(float), (size_t)var_count(v))
                                           : dtype_bytes(dtype, var_count(v)));
}

/* ---- Packing: the largest first, each at the lowest place that is free while it lives. ---- */

enum { BUFFERS_PER_VAR = 4 };

static bool live_together(const PlanBuffer *a, const PlanBuffer *b) {
    return a->begin <= b->end && b->begin <= a->end;
}

/* `placed` is sorted by offset. */
static size_t lowest_free(PlanBuffer *const *placed, int count, const PlanBuffer *buffer) {
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        if (!live_together(placed[i], buffer)) continue;
        if (placed[i]->offset >= at + buffer->bytes) break;
        size_t end = placed[i]->offset + placed[i]->bytes;
        if (end > at) at = end;
    }
    return at;
}

static void insert_by_offset(PlanBuffer **placed, int count, PlanBuffer *buffer) {
    int i = count;
    for (; i > 0 && placed[i - 1]->offset > buffer->offset; i--) placed[i] = placed[i - 1];
    placed[i] = buffer;
}

static void insert_by_size(PlanBuffer **sorted, int count, PlanBuffer *buffer) {
    int i = count;
    for (; i > 0 && sorted[i - 1]->bytes < buffer->bytes; i--) sorted[i] = sorted[i - 1];
    sorted[i] = buffer;
}

static void pack(Plan *plan, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    int most = BUFFERS_PER_VAR * plan->count, count = 0;
    PlanBuffer **sorted = arena_new_array(scratch, PlanBuffer *, most);
    PlanBuffer **placed = arena_new_array(scratch, PlanBuffer *, most);
    for (int i = 0; i < plan->count; i++) {
        PlanSlot *slot = &plan->slots[i];
        PlanBuffer *buffers[BUFFERS_PER_VAR] = {&slot->value, &slot->grad, &slot->mask,
                                                &slot->again};
        for (int j = 0; j < BUFFERS_PER_VAR; j++)
            if (buffers[j]->bytes) insert_by_size(sorted, count++, buffers[j]);
    }
    for (int i = 0; i < count; i++) {
        sorted[i]->offset = lowest_free(placed, i, sorted[i]);
        insert_by_offset(placed, i, sorted[i]);
        size_t end = sorted[i]->offset + sorted[i]->bytes;
        if (end > plan->bytes) plan->bytes = end;
    }
    arena_rewind(scratch, mark);
}

static void find_moments(Plan *plan, const Tape *record) {
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        const Var *in = v->in[0];
        bool gives = in && in->op && (in->op->flags & OP_GIVES_MOMENTS);
        if (gives && takes_moments(v) && channel_has_images(in->value.shape))
            plan->slots[in->index].wants_moments = true;
    }
}

static bool is_kept(const Plan *plan, const PlanBuffer *value) {
    return value->bytes && value->end >= plan->count;
}

size_t plan_kept_bytes(const Plan *plan, int index) {
    const PlanSlot *slot = &plan->slots[index];
    size_t mask = plan->segment_of[index] < 0 ? slot->mask.bytes : 0;
    return (is_kept(plan, &slot->value) ? slot->value.bytes : 0) + mask;
}

/* Of what waits for its backward, that which is there at `time`. */
static size_t kept_at(const Plan *plan, int time) {
    size_t bytes = 0;
    for (int i = 0; i < plan->count; i++) {
        const PlanSlot *slot = &plan->slots[i];
        const PlanBuffer *buffers[] = {&slot->value, &slot->mask, &slot->again};
        for (int j = 0; j < 3; j++) {
            bool is_there = buffers[j]->begin <= time && buffers[j]->end >= time;
            if (is_there && is_kept(plan, buffers[j])) bytes += buffers[j]->bytes;
        }
    }
    return bytes;
}

/* The most is there when backward begins, or when that of a segment does. */
static void count_kept(Plan *plan) {
    plan->value_bytes_kept = kept_at(plan, plan->count);
    for (int i = 0; i < plan->segment_count; i++) {
        size_t bytes = kept_at(plan, plan->back_at[plan->segments[i].last]);
        if (bytes > plan->value_bytes_kept) plan->value_bytes_kept = bytes;
    }
}

/* Once lives are known. */
static void set_slot(PlanSlot *slot, const Tape *record, const Var *v, const Var *root) {
    bool is_owner = v->op && plan_owner(v) == v;
    slot->op = v->op;
    slot->shape = v->value.shape;
    slot->probe = v->op ? v->probe : NULL;
    slot->dtype = kept_dtype(record, v, root);
    slot->grad_dtype = grad_dtype(record, v, root);
    slot->value.bytes = is_owner && slot->value.bytes ? kept_bytes(v, slot->dtype) : 0;
    slot->again.bytes = is_owner && slot->again.bytes ? kept_bytes(v, slot->dtype) : 0;
    if (slot->grad.begin) slot->grad.bytes = kept_bytes(v, slot->grad_dtype);
    if (slot->mask.bytes)
        slot->mask.bytes =
            padded_bytes(v->op->map->note_bytes ? map_note_bytes(v) : map_mask_bytes(v));
}

Plan *plan_new(const Tape *record, const Var *root, Arena *arena) {
    assert(record->error.code == ERROR_NONE);
    Plan *plan = arena_new_array(arena, Plan, 1);
    plan->count = record->count;
    plan->signature = plan_signature(record, root);
    plan->slots = arena_new_array(arena, PlanSlot, record->count);
    find_moments(plan, record);
    plan_find_groups(plan, record, root, arena);
    plan_find_segments(plan, record, arena);
    plan_find_lives(plan, record, root);
    for (int i = 0; i < record->count; i++)
        set_slot(&plan->slots[i], record, record->vars[i], root);
    count_kept(plan);
    pack(plan, arena);
    return plan;
}
