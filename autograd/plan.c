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
    hash = mix_int(hash, record->mode.keeps_residuals);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        hash = mix(hash, &v->op, sizeof v->op);
        hash = mix(hash, &v->probe, sizeof v->probe);
        hash = mix_int(hash, v->needs_grad + 2 * v->is_probed + 4 * v->is_parameter);
        hash = mix_int(hash, map_fits_tail(v));
        if (map_fits(v)) hash = mix_int(hash, map_flow(v));
        hash = mix_int(hash, takes_moments(v));
        hash = mix_int(hash, v->value.shape.rank);
        hash = mix_int(hash, v->value.scales ? v->value.scales->grid.bits : 0);
        for (int d = 0; d < v->value.shape.rank; d++) hash = mix_int(hash, v->value.shape.dim[d]);
        for (int j = 0; j < v->in_count; j++) hash = mix_int(hash, v->in[j] ? v->in[j]->index : -1);
    }
    return hash;
}

/* ---- Lifetimes. ---- */

static size_t padded_bytes(size_t bytes) {
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

/* Whose memory v's value is. */
static const Var *memory_of(const Var *v) {
    while (v->op && (v->op->flags & OP_ALIASES)) v = v->in[0];
    return v;
}

static void reach(PlanBuffer *buffer, int time) {
    if (buffer->end < time) buffer->end = time;
}

/* A group runs when its last op is recorded, and on the way back when that one is met. */
static int forward_time(const Plan *plan, int index) {
    const PlanGroup *group = plan_group_of(plan, index, true);
    return group ? group->last : index;
}

static int backward_time(const Plan *plan, int index) {
    const PlanGroup *group = plan_group_of(plan, index, false);
    return 2 * plan->count - 1 - (group ? group->last : index);
}

/* Within a group values and gradients are passed along. */
static bool are_together(const Plan *plan, const Var *a, const Var *b, bool is_forward) {
    const PlanGroup *group = plan_group_of(plan, a->index, is_forward);
    return group && group == plan_group_of(plan, b->index, is_forward);
}

/* What v reads as input j is there until `time`. */
static void read_at(Plan *plan, const Var *v, int j, int time) {
    PlanBuffer *value = &plan->slots[memory_of(v->in[j])->index].value;
    value->bytes = 1; /* kept; the size comes later */
    reach(value, time);
}

static void read_forward(Plan *plan, const Var *v) {
    for (int j = 0; j < v->in_count; j++)
        if (v->in[j] && !are_together(plan, v->in[j], v, true))
            read_at(plan, v, j, forward_time(plan, v->index));
}

/* `is_map`: what its group makes again is not read. */
static void read_backward(Plan *plan, const Var *v, int j, bool is_map) {
    const Var *in = v->in[j];
    bool is_made = is_map && in && are_together(plan, in, v, false);
    if (in && !is_made) read_at(plan, v, j, backward_time(plan, v->index));
}

static void op_reads_back(Plan *plan, const Var *v) {
    for (int j = 0; j < v->in_count && !(v->op->flags & OP_SPARES_INPUTS); j++)
        read_backward(plan, v, j, false);
    if (v->op->flags & OP_SPARES_OUTPUT) return;
    reach(&plan->slots[memory_of(v)->index].value, backward_time(plan, v->index));
}

static void keep_mask(Plan *plan, const Var *v) {
    PlanBuffer *mask = &plan->slots[v->index].mask;
    *mask =
        (PlanBuffer){.begin = forward_time(plan, v->index), .end = backward_time(plan, v->index)};
    mask->bytes = padded_bytes(map_mask_bytes(v));
}

static void group_reads_back(Plan *plan, const Tape *record, const PlanGroup *own) {
    const MapGroup group = plan_group(plan, record, record->vars[own->last], false);
    Var *const *ops = group.ops;
    int count = group.count;
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    bool has_masks = !record->mode.keeps_residuals && map_takes_masks(ops, count);
    map_needs(ops, count, has_masks, is_made, reads);
    for (int i = 0; has_masks && i < count; i++)
        if (ops[i]->needs_grad && map_flow(ops[i]) == MAP_FLOW_MASK) keep_mask(plan, ops[i]);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ops[i]->in_count; j++)
            if (j < ops[i]->op->map->input_count ? reads[i][j] : ops[i]->needs_grad)
                read_backward(plan, ops[i], j, true);
}

static void values_live(Plan *plan, const Tape *record, const Var *root) {
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        const PlanGroup *group = plan_group_of(plan, i, true);
        PlanSlot *slot = &plan->slots[i];
        slot->value.begin = group ? group->first : i;
        reach(&slot->value, forward_time(plan, i));
        if (!v->op) continue;
        slot->probe = v->probe;
        bool is_passed_on = group && group->tail != i;
        if (v->is_probed || !is_passed_on) slot->value.bytes = 1;
        read_forward(plan, v);
        group = plan_group_of(plan, i, false);
        bool has_own_backward = !group || group->feed == i;
        if (has_own_backward && v->needs_grad) op_reads_back(plan, v);
    }
    for (int i = 0; i < plan->backward.count; i++)
        group_reads_back(plan, record, &plan->backward.groups[i]);
    PlanBuffer *result = &plan->slots[memory_of(root)->index].value;
    result->bytes = 1;
    reach(result, 2 * record->count);
}

/* A gradient is there from the backward of its last reader to its own; within a group it is not
 * kept. */
static void gradients_live(Plan *plan, const Tape *record, const Var *root) {
    if (root->needs_grad && root->op) plan->slots[root->index].grad.begin = record->count;
    for (int i = record->count - 1; i >= 0; i--) {
        const Var *v = record->vars[i];
        if (!v->op || !v->needs_grad) continue;
        for (int j = 0; j < v->in_count; j++) {
            const Var *in = v->in[j];
            if (!in || !in->needs_grad || !in->op) continue;
            if (are_together(plan, in, v, false)) continue;
            PlanBuffer *grad = &plan->slots[in->index].grad;
            int time = backward_time(plan, i); /* of a fed group earlier than its place says */
            if (!grad->begin || time < grad->begin) grad->begin = time;
        }
        /* The group of maps walks first to last, and reads till its own end. */
        if (plan->slots[i].grad.begin) plan->slots[i].grad.end = backward_time(plan, i);
    }
}

static bool has_flag(const Var *v, unsigned flag) {
    return v->op && v->op->flags & flag;
}

/* Tensors of half precision: not scalars, vectors, or what somebody reads as f32. */
static bool may_be_half(const Tape *record, const Var *v, const Var *root) {
    return record->mode.half != DTYPE_F32 && v->op && v->value.shape.rank > 1 && !v->is_probed &&
           memory_of(v) != memory_of(root);
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

enum { BUFFERS_PER_VAR = 3 };

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
        PlanBuffer *buffers[BUFFERS_PER_VAR] = {&plan->slots[i].value, &plan->slots[i].grad,
                                                &plan->slots[i].mask};
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

size_t plan_kept_bytes(const Plan *plan, int index) {
    const PlanSlot *slot = &plan->slots[index];
    bool is_kept = slot->value.bytes && slot->value.end >= plan->count;
    return (is_kept ? slot->value.bytes : 0) + slot->mask.bytes;
}

Plan *plan_new(const Tape *record, const Var *root, Arena *arena) {
    assert(record->error.code == ERROR_NONE);
    Plan *plan = arena_new_array(arena, Plan, 1);
    plan->count = record->count;
    plan->signature = plan_signature(record, root);
    plan->slots = arena_new_array(arena, PlanSlot, record->count);
    find_moments(plan, record);
    plan_find_groups(plan, record, root, arena);
    values_live(plan, record, root);
    gradients_live(plan, record, root);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        PlanSlot *slot = &plan->slots[i];
        bool is_owner = v->op && memory_of(v) == v;
        slot->op = v->op;
        slot->shape = v->value.shape;
        slot->dtype = kept_dtype(record, v, root);
        slot->grad_dtype = grad_dtype(record, v, root);
        slot->value.bytes = is_owner && slot->value.bytes ? kept_bytes(v, slot->dtype) : 0;
        if (slot->grad.begin) slot->grad.bytes = kept_bytes(v, slot->grad_dtype);
        plan->value_bytes_kept += plan_kept_bytes(plan, i);
    }
    pack(plan, arena);
    return plan;
}
