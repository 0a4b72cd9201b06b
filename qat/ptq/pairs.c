#include "qat/ptq/pairs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static bool no_pair(PairReason *reason, const char *format,
                                                          ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason->text, sizeof reason->text, format, arguments);
    va_end(arguments);
    return false;
}

bool pairs_begin(Ptq *p, Error *err) {
    const Model *model = p->qat->model;
    Tape *t = p->exact;
    tape_begin(t, (TapeMode){.is_dry = true, .is_float = true, .loss_scale = 1});
    Shape batch = {.rank = model->input.rank + 1, .dim = {2}};
    memcpy(batch.dim + 1, model->input.dim, sizeof(int64_t) * (size_t)model->input.rank);
    model_forward(p->qat->model, t, tape_constant(t, (Tensor){.dtype = DTYPE_F32, .shape = batch}));
    if (t->error.code != ERROR_NONE) *err = t->error;
    return t->error.code == ERROR_NONE;
}

/* ---- Who gives a value ---- */

typedef struct NormSearch {
    const Var *read, *given; /* the norm that reads the one, or gives the other */
    Module *found;
} NormSearch;

static bool look_for_norm(void *context, Module *module) {
    NormSearch *s = context;
    bool is_norm = module->layer->flags & LAYER_FOLDS;
    if (is_norm && (s->read ? module->last_in[0] == s->read : module->last_out == s->given))
        s->found = module;
    return !s->found;
}

Module *pair_norm(const Qat *qat, const WeightSite *site) {
    const Var *y = site->module->last_out;
    NormSearch s = {.read = y};
    if (y->readers == 1) model_visit(qat->model, look_for_norm, &s);
    return s.found;
}

static Module *norm_of(const Qat *qat, const Var *x) {
    NormSearch s = {.given = x};
    model_visit(qat->model, look_for_norm, &s);
    return s.found;
}

static const WeightSite *site_of(const Qat *qat, const Var *x) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].module->last_out == x) return &qat->sites[i];
    return NULL;
}

/* ---- Whether factors can move ---- */

static bool can_change(const Module *module) {
    for (int i = 0; i < module->param_count; i++)
        if (module->params[i]->value.dtype != DTYPE_F32) return false;
    return true;
}

static bool check_layer(const WeightSite *site, PairReason *reason) {
    if (!ptq_is_product(site))
        return no_pair(reason, "%s is not a product with one weight", site->module->name);
    if (!can_change(site->module))
        return no_pair(reason, "%s is stored, and cannot change", site->module->name);
    return true;
}

/* Back over ops that pass factors on, to the value that a layer or a norm gives; NULL: there is
 * none. */
static const Var *producer_of(const Qat *qat, const WeightSite *second, PairReason *reason) {
    const Var *x = second->module->last_in[0];
    for (;;) {
        if (x->readers != 1) {
            no_pair(reason, "what it reads has %d readers", x->readers);
            return NULL;
        }
        if (!x->op) return NULL;
        if (site_of(qat, x) || norm_of(qat, x)) return x;
        bool passes = x->op->flags & OP_IS_HOMOGENEOUS && x->in_count == 1;
        if (!passes || shape_last(x->value.shape) % shape_last(x->in[0]->value.shape)) {
            no_pair(reason, "%s (%s), before it, does not pass a channel's factor on", x->scope,
                    x->op->name);
            return NULL;
        }
        x = x->in[0];
    }
}

bool pair_find(const Qat *qat, const WeightSite *second, Pair *out, PairReason *reason) {
    reason->text[0] = 0;
    const Var *x = producer_of(qat, second, reason);
    if (!x) return false;
    Module *norm = norm_of(qat, x);
    const WeightSite *first = site_of(qat, norm ? norm->last_in[0] : x);
    if (!first || (norm && norm->last_in[0]->readers != 1))
        return no_pair(reason, "no layer with weights is alone before %s", norm->name);
    TRY(check_layer(first, reason) && check_layer(second, reason));
    if (norm && !can_change(norm))
        return no_pair(reason, "%s is stored, and cannot change", norm->name);
    *out = (Pair){.first = first,
                  .second = second,
                  .norm = norm,
                  .channels = first->weight->value.shape.dim[0],
                  .depth = shape_last(second->weight->value.shape)};
    return true;
}

int64_t pair_channel(const Pair *pair, int64_t i) {
    const Shape *w = &pair->second->weight->value.shape;
    int64_t inputs = shape_last(pair->second->module->last_in[0]->value.shape);
    int64_t groups = inputs / pair->depth, rows = w->dim[0];
    int64_t row = i / (shape_count(*w) / rows);
    return (row / (rows / groups) * pair->depth + i % pair->depth) % pair->channels;
}
