#include "autograd/plan.h"

#include <assert.h>
#include <string.h>

#include "core/log.h"

/* ---- Signature: FNV-1a (Fowler, Noll, Vo) over all that decides lifetimes. ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t mix_int(uint64_t hash, int64_t value) {
    return mix(hash, &value, sizeof value);
}

uint64_t plan_signature(const Tape *record, const Var *root) {
    uint64_t hash = mix_int(0xcbf29ce484222325u, record->count);
    hash = mix_int(hash, root->index);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        hash = mix(hash, &v->op, sizeof v->op);
        hash = mix_int(hash, v->needs_grad);
        hash = mix_int(hash, v->value.shape.rank);
        for (int d = 0; d < v->value.shape.rank; d++) hash = mix_int(hash, v->value.shape.dim[d]);
        for (int j = 0; j < v->in_count; j++) hash = mix_int(hash, v->in[j] ? v->in[j]->index : -1);
    }
    return hash;
}

/* ---- Lifetimes. ---- */

/* Whose memory v's value is. */
static const Var *memory_of(const Var *v) {
    while (v->op && (v->op->flags & OP_ALIASES)) v = v->in[0];
    return v;
}

static void reach(PlanBuffer *buffer, int time) {
    if (buffer->end < time) buffer->end = time;
}

static int backward_time(const Tape *record, const Var *v) {
    return 2 * record->count - 1 - v->index;
}

static void values_live(const Tape *record, const Var *root, PlanSlot *slots) {
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op) continue;
        bool runs_back = v->needs_grad;
        PlanBuffer *own = &slots[memory_of(v)->index].value;
        reach(own, i);
        if (runs_back && !(v->op->flags & OP_SPARES_OUTPUT)) reach(own, backward_time(record, v));
        for (int j = 0; j < v->in_count; j++) {
            if (!v->in[j]) continue;
            PlanBuffer *read = &slots[memory_of(v->in[j])->index].value;
            reach(read, i);
            if (runs_back && !(v->op->flags & OP_SPARES_INPUTS))
                reach(read, backward_time(record, v));
        }
    }
    reach(&slots[memory_of(root)->index].value, 2 * record->count);
}

/* A gradient is there from the backward of its last reader to its own. */
static void gradients_live(const Tape *record, const Var *root, PlanSlot *slots) {
    if (root->needs_grad && root->op) slots[root->index].grad.begin = record->count;
    for (int i = record->count - 1; i >= 0; i--) {
        const Var *v = record->vars[i];
        if (!v->op || !v->needs_grad) continue;
        for (int j = 0; j < v->in_count; j++) {
            if (!v->in[j] || !v->in[j]->needs_grad || !v->in[j]->op) continue;
            PlanBuffer *grad = &slots[v->in[j]->index].grad;
            if (!grad->begin) grad->begin = backward_time(record, v);
        }
        if (slots[i].grad.begin) slots[i].grad.end = backward_time(record, v);
    }
}

static size_t value_bytes(const Var *v) {
    size_t bytes = checked_mul(sizeof(float), (size_t)var_count(v));
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

/* ---- Packing: the largest first, each at the lowest place that is free while it lives. ---- */

enum { BUFFERS_PER_VAR = 2 };

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
        PlanBuffer *buffers[BUFFERS_PER_VAR] = {&plan->slots[i].value, &plan->slots[i].grad};
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

Plan *plan_new(const Tape *record, const Var *root, Arena *arena) {
    assert(record->error.code == ERROR_NONE);
    Plan *plan = arena_new_array(arena, Plan, 1);
    plan->count = record->count;
    plan->signature = plan_signature(record, root);
    plan->slots = arena_new_array(arena, PlanSlot, record->count);
    values_live(record, root, plan->slots);
    gradients_live(record, root, plan->slots);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        PlanSlot *slot = &plan->slots[i];
        slot->op = v->op;
        slot->shape = v->value.shape;
        slot->value.begin = i;
        if (v->op && memory_of(v) == v) slot->value.bytes = value_bytes(v);
        if (slot->grad.begin) slot->grad.bytes = value_bytes(v);
        if (slot->value.bytes && slot->value.end >= record->count)
            plan->value_bytes_kept += slot->value.bytes;
    }
    pack(plan, arena);
    return plan;
}
