/* The search for values and gradients that are not finite, to name where they first were. */
#include <math.h>
#include <string.h>

#include "autograd/tape.h"

/* By the bits, in integers, so that the loop vectorises; NaNs are beyond everything. */
static bool all_below(const float *x, int64_t count, float limit) {
    uint32_t largest = 0, bound;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&bound, &limit, sizeof bound);
    return largest < bound;
}

static bool var_is_below(const Var *v, float limit) {
    bool is_float = v->value.data && v->value.dtype == DTYPE_F32;
    return !is_float || all_below(v->value.data, var_count(v), limit);
}

bool var_is_finite(const Var *v) {
    return var_is_below(v, INFINITY);
}

bool var_has_finite_grad(const Var *v) {
    if (!v->grad.data || !*v->has_grad) return true;
    if (v->grad.dtype == DTYPE_F32) return all_below(v->grad.data, var_count(v), INFINITY);
    uint16_t exponent = v->grad.dtype == DTYPE_F16 ? 0x7c00 : 0x7f80, bad = 0;
    const uint16_t *codes = v->grad.data;
    for (int64_t i = 0; i < var_count(v); i++) bad |= (codes[i] & exponent) == exponent;
    return !bad;
}

const Var *tape_find_beyond(const Tape *t, float limit) {
    for (int i = 0; i < t->count; i++) {
        if (!var_is_below(t->vars[i], limit)) return t->vars[i];
    }
    return NULL;
}

const Var *tape_find_nan(const Tape *t) {
    for (int i = 0; i < t->count; i++)
        if (t->vars[i]->met_nan) return t->vars[i];
    return NULL;
}

const Var *tape_find_nonfinite(const Tape *t) {
    return tape_find_beyond(t, INFINITY);
}
