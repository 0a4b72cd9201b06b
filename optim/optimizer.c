#include "optim/optimizer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernels/isa.h"
#include "core/parallel.h"
#include "optim/state.h"

static const Kind *const kinds[] = {
#define OPTIMIZER(name) &optimizer_##name.kind,
#include "optim/optimizers.def"
#undef OPTIMIZER
};
const KindTable optimizer_kinds = {"optimizer", kinds, sizeof kinds / sizeof *kinds};

const char *const optimizer_state_bits[] = {"32", "8", NULL};

/* Counts are saved as f32, exact up to here. Nothing changes from there on: bias corrections became
 * exactly 1 long before (0.99999^(2^24) is 1e-73). */
#define STEPS_MAX 16777216.0f

enum { CHUNK_ELEMENTS = 16384, BLOCK_ELEMENTS = 1024 };

/* A Param with its state. */
typedef struct Slot {
    Param *param;
    Tensor state[OPTIMIZER_STATES_MAX];
    const char *state_name[OPTIMIZER_STATES_MAX];
    float *average; /* NULL: no EMA */
    const char *average_name;
    bool is_active; /* in this step */
    UpdateTerms terms;
} Slot;

/* The unit of parallel work: a fixed range of one Param, and what was found in it. */
typedef struct Chunk {
    int slot;
    int64_t first, count;
    double square_sum;
    const char *bad; /* what an update left non-finite: "value" or a state's name */
} Chunk;

struct Optimizer {
    const UpdateRule *rule;
    const void *config;
    const OptimizerConfig *shared;
    int state_count, slot_count, chunk_count;
    const StateMap *maps[OPTIMIZER_STATES_MAX]; /* of states in 8 bits */
    Slot *slots;
    Chunk *chunks;
    int *order;         /* [chunk_count]: chunks as threads share them */
    float *steps;       /* [slot_count] */
    double grad_factor; /* gradients count times this */
    double norm;        /* of all, with the factor */
    bool is_measured;   /* both, for the step to come */
    bool is_swapped;
};

/* ---- Making ---- */

bool optimizer_check(const Variant *settings, Error *err) {
    const UpdateRule *rule = (const UpdateRule *)settings->kind;
    return !rule->check || rule->check(settings->config, err);
}

static int count_states(const UpdateRule *rule, const void *config) {
    if (rule->state_count) return rule->state_count(config);
    int count = 0;
    while (count < OPTIMIZER_STATES_MAX && rule->states[count]) count++;
    return count;
}

double optimizer_bytes_each(const Variant *settings) {
    const OptimizerConfig *shared = settings->config;
    int states = count_states((const UpdateRule *)settings->kind, settings->config);
    double each = shared->state_bits == OPTIMIZER_STATE_8 ? state_coded_bytes_each() : 4;
    return states * each + (shared->ema > 0 ? 4 : 0);
}

/* What is learned of quantizers is small, and steers much. */
static bool is_coded(const Optimizer *o, const Param *param) {
    return o->shared->state_bits == OPTIMIZER_STATE_8 && !param->is_positive &&
           param->role != PARAM_SCALE && tensor_count(&param->value) >= STATE_CODED_MIN;
}

static void add_slot(Optimizer *o, Param *param, Arena *arena) {
    Slot *slot = &o->slots[o->slot_count++];
    slot->param = param;
    for (int i = 0; i < o->state_count; i++) {
        slot->state[i] =
            state_new(arena, param->value.shape, is_coded(o, param) ? o->maps[i] : NULL);
        slot->state_name[i] = arena_format(arena, "%s/%s", o->rule->states[i], param->name);
    }
    if (o->shared->ema > 0) {
        slot->average = arena_new_array(arena, float, tensor_count(&param->value));
        slot->average_name = arena_format(arena, "ema/%s", param->name);
    }
}

static int chunks_of(const Slot *slot) {
    return (int)((tensor_count(&slot->param->value) + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS);
}

static void add_chunks(Optimizer *o, int slot) {
    int64_t total = tensor_count(&o->slots[slot].param->value);
    for (int64_t first = 0; first < total; first += CHUNK_ELEMENTS) {
        int64_t count = total - first < CHUNK_ELEMENTS ? total - first : CHUNK_ELEMENTS;
        o->chunks[o->chunk_count++] = (Chunk){.slot = slot, .first = first, .count = count};
    }
}

/* Of every Param each thread gets the part that it met before: rows of a weight are made, and their
 * gradients are, in shares too (core/shares.h). */
static void set_order(Optimizer *o, Arena *arena) {
    int count = 0, threads = parallel_threads();
    o->order = arena_new_array(arena, int, o->chunk_count);
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < o->chunk_count; i++) {
            const Chunk *c = &o->chunks[i];
            int64_t number = c->first / CHUNK_ELEMENTS;
            if (number * threads / chunks_of(&o->slots[c->slot]) == t) o->order[count++] = i;
        }
    assert(count == o->chunk_count);
}

bool optimizer_new(const Variant *settings, Model *model, Arena *arena, Optimizer **out,
                   Error *err) {
    TRY(optimizer_check(settings, err));
    Optimizer *o = arena_new_array(arena, Optimizer, 1);
    o->rule = (const UpdateRule *)settings->kind;
    o->config = o->shared = settings->config;
    o->state_count = count_states(o->rule, o->config);
    for (int i = 0; i < o->state_count; i++)
        o->maps[i] = state_map_new(arena, o->rule->is_unsigned[i]);
    o->slots = arena_new_array(arena, Slot, model->param_count);
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->grad) add_slot(o, model->params[i], arena);
    o->steps = arena_new_array(arena, float, o->slot_count);
    int chunk_count = 0;
    for (int i = 0; i < o->slot_count; i++) chunk_count += chunks_of(&o->slots[i]);
    o->chunks = arena_new_array(arena, Chunk, chunk_count);
    for (int i = 0; i < o->slot_count; i++) add_chunks(o, i);
    set_order(o, arena);
    *out = o;
    return true;
}

/* On the bits, because the compiler may vectorise integer sums in any order. */
static bool is_finite_range(const float *x, int64_t count) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

/* ---- The norm of all gradients ---- */

static void set_active(Optimizer *o) {
    for (int i = 0; i < o->slot_count; i++) {
        const Param *param = o->slots[i].param;
        o->slots[i].is_active = param->has_grad && !param->is_frozen;
    }
}

/* Squares of f32 cannot overflow a double: a sum is finite if and only if every element is. NULL,
 * or the Param whose gradient is not. */
static const Param *find_norm(Optimizer *o, double factor) {
    set_active(o);
    isa_active(); /* chosen before threads ask */
#pragma omp parallel for schedule(static)
    for (int i = 0; i < o->chunk_count; i++) {
        Chunk *c = &o->chunks[o->order[i]];
        const Slot *slot = &o->slots[c->slot];
        c->square_sum = 0;
        if (slot->is_active)
            isa_active()->squares(slot->param->grad + c->first, c->count, &c->square_sum);
    }
    double sum = 0;
    for (int i = 0; i < o->chunk_count; i++) {
        const Chunk *c = &o->chunks[i];
        if (!isfinite(c->square_sum)) return o->slots[c->slot].param;
        sum += c->square_sum;
    }
    o->grad_factor = factor;
    o->norm = factor * sqrt(sum);
    return NULL;
}

bool optimizer_unscale(Optimizer *o, double factor) {
    return o->is_measured = !find_norm(o, factor);
}

static bool measure(Optimizer *o, Error *err) {
    const Param *bad = o->is_measured ? NULL : find_norm(o, 1);
    o->is_measured = false;
    if (!bad) return true;
    return FAIL(err, ERROR_NUMERIC,
                "the gradient of '%s' is not finite; try a lower optimizer.lr, or "
                "optimizer.clip_norm",
                bad->name);
}

static float factor_with_clip(const Optimizer *o) {
    double limit = o->shared->clip_norm;
    if (limit <= 0) return (float)o->grad_factor;
    return (float)(o->grad_factor * fmin(1, limit / (o->norm + 1e-6))); /* torch's constant */
}

/* ---- The update ---- */

static double decay_of(const OptimizerConfig *config, ParamRole role) {
    switch (role) {
    case PARAM_WEIGHT:
    case PARAM_TABLE:
        return config->weight_decay;
    case PARAM_NORM:
        return config->decay_norms ? config->weight_decay : 0;
    case PARAM_BIAS:
        return config->decay_biases ? config->weight_decay : 0;
    case PARAM_SCALE:
    case PARAM_BUFFER:
        break;
    }
    return 0;
}

static void set_terms(Optimizer *o, int i, double lr_factor) {
    const OptimizerConfig *config = o->shared;
    Slot *slot = &o->slots[i];
    if (o->steps[i] < STEPS_MAX) o->steps[i]++;
    double lr = config->lr * lr_factor;
    ParamRole role = slot->param->role;
    slot->terms = (UpdateTerms){.lr = role == PARAM_SCALE ? lr * config->scale_lr : lr,
                                .weight_decay = decay_of(config, role),
                                .step = o->steps[i]};
}

/* A learned scale must neither cross 0 nor leave its tensor behind, where its gradient loses its
 * meaning: an update at most halves or doubles it, and what drove it further (momentum) ends. */
static void update_positive(const Optimizer *o, const Slot *slot, int64_t count, float *value,
                            const float *grad, float *const *state) {
    for (int64_t i = 0; i < count; i++) {
        float least = 0.5f * value[i], most = 2 * value[i];
        float *own[OPTIMIZER_STATES_MAX] = {0};
        for (int j = 0; j < o->state_count; j++) own[j] = state[j] + i;
        o->rule->update(o->config, &slot->terms, 1, value + i, grad + i, own);
        bool is_low = value[i]<least, is_high = value[i]> most;
        if (!isfinite(value[i]) || (!is_low && !is_high)) continue; /* reported, not hidden */
        value[i] = is_low ? least : most;
        for (int j = 0; j < o->state_count; j++) *own[j] = 0;
    }
}

/* A part of a chunk that stays in the first cache, `first` elements from the chunk's own first. */
static void update_block(const Optimizer *o, const Slot *slot, Chunk *c, int64_t first,
                         int64_t count, float factor) {
    float scaled[BLOCK_ELEMENTS], decoded[OPTIMIZER_STATES_MAX][BLOCK_ELEMENTS];
    float *state[OPTIMIZER_STATES_MAX] = {0};
    float *value = tensor_f32(&slot->param->value) + c->first + first;
    const float *grad = slot->param->grad + c->first + first;
    for (int i = 0; i < o->state_count; i++)
        state[i] = state_read(&slot->state[i], c->first + first, count, decoded[i]);
    if (factor != 1) {
        isa_active()->multiply(grad, factor, count, scaled);
        grad = scaled;
    }
    if (slot->param->is_positive)
        update_positive(o, slot, count, value, grad, state);
    else
        o->rule->update(o->config, &slot->terms, count, value, grad, state);
    for (int i = 0; i < o->state_count; i++)
        if (!c->bad && !is_finite_range(state[i], count)) c->bad = o->rule->states[i];
    for (int i = 0; i < o->state_count; i++)
        state_write(&slot->state[i], o->maps[i], c->first + first, count, state[i]);
    if (!c->bad && !is_finite_range(value, count)) c->bad = "value";
}

static void update_chunk(const Optimizer *o, const Slot *slot, Chunk *c, float factor) {
    for (int64_t first = 0; first < c->count; first += BLOCK_ELEMENTS) {
        int64_t left = c->count - first;
        update_block(o, slot, c, first, left < BLOCK_ELEMENTS ? left : BLOCK_ELEMENTS, factor);
    }
}

/* A Param's average starts at its first update: a learned scale means nothing before that. */
static void average_chunk(const Optimizer *o, const Slot *slot, const Chunk *c, bool is_first) {
    const float *value = tensor_f32(&slot->param->value) + c->first;
    float *average = slot->average + c->first;
    float rest = (float)(1 - o->shared->ema);
    if (is_first) {
        memcpy(average, value, sizeof *value * (size_t)c->count);
        return;
    }
    for (int64_t i = 0; i < c->count; i++) average[i] += rest * (value[i] - average[i]);
}

static void update_all(Optimizer *o, float factor) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < o->chunk_count; i++) {
        Chunk *c = &o->chunks[o->order[i]];
        const Slot *slot = &o->slots[c->slot];
        c->bad = NULL;
        if (slot->is_active) update_chunk(o, slot, c, factor);
        if (slot->average && o->steps[c->slot] > 0)
            average_chunk(o, slot, c, slot->is_active && o->steps[c->slot] == 1);
    }
}

static bool check_updated(const Optimizer *o, Error *err) {
    for (int i = 0; i < o->chunk_count; i++) {
        const Chunk *c = &o->chunks[i];
        if (c->bad)
            return FAIL(err, ERROR_NUMERIC,
                        "the update of '%s' left its %s not finite; try a lower optimizer.lr, or "
                        "optimizer.clip_norm",
                        o->slots[c->slot].param->name, c->bad);
    }
    return true;
}

bool optimizer_step(Optimizer *o, double lr_factor, Error *err) {
    assert(!o->is_swapped && "averages are swapped back before a step");
    TRY(measure(o, err));
    for (int i = 0; i < o->slot_count; i++)
        if (o->slots[i].is_active) set_terms(o, i, lr_factor);
    update_all(o, factor_with_clip(o));
    return check_updated(o, err);
}

double optimizer_norm(const Optimizer *o) {
    return o->norm;
}

/* ---- State ---- */

static Tensor like_value(const Slot *slot, float *data) {
    return (Tensor){.dtype = DTYPE_F32, .shape = slot->param->value.shape, .data = data};
}

bool optimizer_visit(Optimizer *o, bool (*visit)(void *context, const char *name, Tensor value),
                     void *context) {
    assert(!o->is_swapped && "averages are swapped back before state is saved or loaded");
    Tensor steps = {.dtype = DTYPE_F32, .shape = SHAPE(o->slot_count), .data = o->steps};
    TRY(visit(context, "steps", steps));
    for (int i = 0; i < o->slot_count; i++) {
        const Slot *slot = &o->slots[i];
        for (int j = 0; j < o->state_count; j++)
            TRY(visit(context, slot->state_name[j], slot->state[j]));
        if (slot->average) TRY(visit(context, slot->average_name, like_value(slot, slot->average)));
    }
    return true;
}

bool optimizer_is_unsigned(const Optimizer *o, const char *name) {
    for (int i = 0; i < o->state_count; i++) {
        const char *state = o->rule->states[i];
        size_t length = strlen(state);
        if (!strncmp(name, state, length) && name[length] == '/') return o->rule->is_unsigned[i];
    }
    return !strcmp(name, "steps");
}

bool optimizer_has_ema(const Optimizer *o) {
    return o->shared->ema > 0;
}

void optimizer_swap_ema(Optimizer *o) {
    if (!optimizer_has_ema(o)) return;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < o->chunk_count; i++) {
        const Chunk *c = &o->chunks[i];
        const Slot *slot = &o->slots[c->slot];
        if (!(o->steps[c->slot] > 0)) continue;
        float *value = tensor_f32(&slot->param->value) + c->first;
        float *average = slot->average + c->first;
        for (int64_t k = 0; k < c->count; k++) {
            float kept = value[k];
            value[k] = average[k];
            average[k] = kept;
        }
    }
    o->is_swapped = !o->is_swapped;
}
