#include "autograd/flops.h"

#include "autograd/ops.h"

static bool is_product(const Var *v) {
    return v->op == &op_row_linear || v->op == &op_row_conv2d;
}

/* Whether a product is among the inputs or lies before them. */
static bool follows_product(const Var *v, const bool *follows) {
    for (int i = 0; i < v->in_count; i++)
        if (v->in[i] && (is_product(v->in[i]) || follows[v->in[i]->index])) return true;
    return false;
}

/* Weights are [out, ...]: an output is a sum over all other dimensions. */
static Flops flops_of_product(const Var *v, bool needs_input_grad) {
    const Var *w = v->in[1];
    double each = 2.0 * (double)var_count(v) * (double)(var_count(w) / w->value.shape.dim[0]);
    return (Flops){.forward = each,
                   .input_grad = needs_input_grad ? each : 0,
                   .weight_grad = w->needs_grad ? each : 0};
}

Flops *flops_by_var(const Tape *t, Arena *arena) {
    Flops *flops = arena_new_array(arena, Flops, t->count);
    bool *follows = arena_new_array(arena, bool, t->count);
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        follows[i] = follows_product(v, follows);
        if (!is_product(v)) continue;
        const Var *x = v->in[0];
        bool has_before = is_product(x) || follows[x->index];
        flops[i] = flops_of_product(v, t->mode.needs_grad && has_before);
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
