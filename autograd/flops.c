#include "autograd/flops.h"

#include <assert.h>

Flops flops_of_product(const Var *v) {
    const Var *w = v->in[1];
    double each = 2.0 * (double)var_count(v) * (double)(var_count(w) / w->value.shape.dim[0]);
    return (Flops){.forward = each, .input_grad = each, .weight_grad = w->needs_grad ? each : 0};
}

/* Whether a product made v or lies before it; `follows`: the same of what was recorded before. */
static bool comes_from_product(const Var *v, const bool *follows) {
    bool any = v->op && v->op->flops;
    for (int i = 0; i < v->in_count; i++) any = any || (v->in[i] && follows[v->in[i]->index]);
    return any;
}

Flops *flops_by_var(const Tape *t, Arena *arena) {
    Flops *flops = arena_new_array(arena, Flops, t->count);
    bool *follows = arena_new_array(arena, bool, t->count);
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        follows[i] = comes_from_product(v, follows);
        if (!v->op || (v->op->flags & OP_NO_FLOPS)) continue;
        assert(v->op->flops);
        flops[i] = v->op->flops(v);
        if (!t->mode.needs_grad || !follows[v->in[0]->index]) flops[i].input_grad = 0;
    }
    return flops;
}

double flops_of_step(const Tape *t) {
    Arena *arena = arena_new("flops");
    const Flops *flops = flops_by_var(t, arena);
    double sum = 0;
    for (int i = 0; i < t->count; i++)
        sum += flops[i].forward + flops[i].input_grad + flops[i].weight_grad;
    arena_free(arena);
    return sum;
}
