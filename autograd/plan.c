#include "autograd/plan.h"

#include <assert.h>
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"

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
        hash = mix_int(hash, v->needs_grad + 2 * v->is_looked_at);
        hash = mix_int(hash, v->value.shape.rank);
        for (int d = 0; d < v->value.shape.rank; d++) hash = mix_int(hash, v->value.shape.dim[d]);
        for (int j = 0; j < v->in_count; j++) hash = mix_int(hash, v->in[j] ? v->in[j]->index : -1);
    }
    return hash;
}

/* ---- Groups. ---- */

static bool is_same_matrix(const Var *a, const Var *b) {
    return shape_rows(a->value.shape) == shape_rows(b->value.shape) &&
           shape_last(a->value.shape) == shape_last(b->value.shape);
}

/* The group that grows while the tape is walked. */
typedef struct Growth {
    int members[MAP_GROUP_MAX], count;
} Growth;

static bool holds(const Growth *g, const Var *v) {
    for (int i = 0; i < g->count; i++)
        if (g->members[i] == v->index) return true;
    return false;
}

/* Whether v can go with those before it: what it needs beforehand must not be among them. */
static bool may_join(const Tape *record, const Growth *g, const Var *v) {
    if (!g->count || g->count == MAP_GROUP_MAX) return false;
    const Var *last = record->vars[g->members[g->count - 1]];
    if (last->is_looked_at || !is_same_matrix(last, v)) return false;
    int mapped = v->op->map->input_count;
    for (int j = v->op->map->is_whole ? 0 : mapped; j < v->in_count; j++)
        if (v->in[j] && holds(g, v->in[j])) return false;
    return true;
}

static void close_group(Plan *plan, Growth *g) {
    for (int i = 0; i < g->count; i++) {
        plan->slots[g->members[i]].first = g->members[0];
        plan->slots[g->members[i]].last = g->members[g->count - 1];
    }
    g->count = 0;
}

static void find_groups(Plan *plan, const Tape *record) {
    Growth g = {0};
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        plan->slots[i].first = plan->slots[i].last = i;
        if (!v->op) continue; /* a leaf is no hindrance */
        bool is_map = map_fits(v);
        if (!is_map || !may_join(record, &g, v)) close_group(plan, &g);
        if (is_map) g.members[g.count++] = i;
    }
    close_group(plan, &g);
}

static int group_vars(const Tape *record, const PlanSlot *slot, Var **ops) {
    int count = 0;
    for (int i = slot->first; i <= slot->last; i++)
        if (record->vars[i]->op) ops[count++] = record->vars[i];
    return count;
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

/* A group runs when its last op is recorded, and on the way back when that one is met. */
static int forward_time(const Plan *plan, int index) {
    return plan->slots[index].last;
}

static int backward_time(const Plan *plan, int index) {
    return 2 * plan->count - 1 - plan->slots[index].last;
}

/* v reads its input j, at `time` and (`again`) in backward. Within a group nothing is kept. */
static void read_value(Plan *plan, const Var *v, int j, bool again) {
    const Var *in = memory_of(v->in[j]);
    const PlanSlot *group = &plan->slots[v->index];
    if (in == v->in[j] && in->op && in->index >= group->first) return;
    PlanBuffer *value = &plan->slots[in->index].value;
    value->bytes = 1; /* kept; the size comes later */
    reach(value, forward_time(plan, v->index));
    if (again) reach(value, backward_time(plan, v->index));
}

static void op_reads(Plan *plan, const Var *v) {
    bool again = v->needs_grad && !(v->op->flags & OP_SPARES_INPUTS);
    for (int j = 0; j < v->in_count; j++)
        if (v->in[j]) read_value(plan, v, j, again);
    if (!v->needs_grad || (v->op->flags & OP_SPARES_OUTPUT)) return;
    PlanBuffer *own = &plan->slots[memory_of(v)->index].value;
    own->bytes = 1;
    reach(own, backward_time(plan, v->index));
}

static void group_reads(Plan *plan, const Tape *record, const PlanSlot *slot) {
    Var *ops[MAP_GROUP_MAX] = {0};
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    int count = group_vars(record, slot, ops);
    map_needs(ops, count, is_made, reads);
    for (int i = 0; i < count; i++) {
        int mapped = ops[i]->op->map->input_count;
        for (int j = 0; j < ops[i]->in_count; j++) {
            if (!ops[i]->in[j]) continue;
            bool again = j < mapped ? reads[i][j] : ops[i]->needs_grad;
            read_value(plan, ops[i], j, again);
        }
    }
}

static void values_live(Plan *plan, const Tape *record, const Var *root) {
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        PlanSlot *slot = &plan->slots[i];
        slot->value.begin = slot->first;
        reach(&slot->value, slot->last);
        if (!v->op) continue;
        if (v->is_looked_at || !map_fits(v)) slot->value.bytes = 1;
        if (!map_fits(v))
            op_reads(plan, v);
        else if (i == slot->last)
            group_reads(plan, record, slot);
    }
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
        bool is_map = map_fits(v);
        for (int j = 0; j < v->in_count; j++) {
            const Var *in = v->in[j];
            if (!in || !in->needs_grad || !in->op) continue;
            if (is_map && in->index >= plan->slots[i].first) continue;
            PlanBuffer *grad = &plan->slots[in->index].grad;
            if (!grad->begin) grad->begin = backward_time(plan, i);
        }
        /* The group of maps walks first to last, and reads till its own end. */
        if (plan->slots[i].grad.begin) plan->slots[i].grad.end = backward_time(plan, i);
    }
}

/* What a quantizer leaves under one scale is at most 256 different numbers. */
static Dtype kept_dtype(const Tape *record, const Var *v) {
    bool is_codes = v->op == &op_row_fake_quant && map_fits(v) && v->value.scales;
    return is_codes && !record->keeps_residuals ? DTYPE_BYTE : DTYPE_F32;
}

static size_t padded_bytes(const Var *v, Dtype dtype) {
    size_t bytes = dtype == DTYPE_F32 ? checked_mul(sizeof(float), (size_t)var_count(v))
                                      : dtype_bytes(dtype, var_count(v));
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
    find_groups(plan, record);
    values_live(plan, record, root);
    gradients_live(plan, record, root);
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        PlanSlot *slot = &plan->slots[i];
        bool is_owner = v->op && memory_of(v) == v;
        slot->op = v->op;
        slot->shape = v->value.shape;
        slot->dtype = kept_dtype(record, v);
        slot->value.bytes = is_owner && slot->value.bytes ? padded_bytes(v, slot->dtype) : 0;
        if (slot->grad.begin) slot->grad.bytes = padded_bytes(v, DTYPE_F32);
        if (slot->value.bytes && slot->value.end >= record->count)
            plan->value_bytes_kept += slot->value.bytes;
    }
    pack(plan, arena);
    return plan;
}
