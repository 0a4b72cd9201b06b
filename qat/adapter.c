#include "qat/adapter.h"

#include <fnmatch.h>
#include <string.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "core/log.h"

static const Kind *const kinds[] = {
#define ADAPTER(name) &adapter_##name.kind,
#include "qat/adapters.def"
#undef ADAPTER
};
const KindTable adapter_kinds = {"adapter", kinds, sizeof kinds / sizeof *kinds};

static const char all_linear[] = "all-linear";

/* ---- The base ---- */

static bool freeze_norm(void *context, Module *module) {
    (void)context;
    if (module->layer->flags & LAYER_FOLDS) batch_norm_freeze(module, true);
    return true;
}

static void freeze(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        p->is_base = p->is_frozen = true;
        p->grad = NULL;
    }
    model->is_frozen = false; /* what comes next learns */
    model_visit(model, freeze_norm, NULL);
}

/* ---- Layers ---- */

typedef struct Layers {
    Arena *arena;
    Module **linear;
    int count;
    const Module *last; /* of all that compute more than an activation */
} Layers;

static bool count_linear(void *context, Module *module) {
    ((Layers *)context)->count += module->layer == &layer_linear;
    return true;
}

static bool add_linear(void *context, Module *module) {
    Layers *layers = context;
    bool computes = !(module->layer->flags & (LAYER_IS_ACTIVATION | LAYER_DROPS));
    if (module->layer == &layer_linear) layers->linear[layers->count++] = module;
    if (!module->child_count && computes) layers->last = module;
    return true;
}

static Layers find_layers(Model *model, Arena *arena) {
    Layers layers = {.arena = arena};
    model_visit(model, count_linear, &layers);
    layers.linear = arena_new_array(arena, Module *, layers.count);
    layers.count = 0;
    model_visit(model, add_linear, &layers);
    return layers;
}

bool adapter_matches(const char *pattern, const char *layer) {
    for (const char *at = layer; at; at = strchr(at, '.')) {
        at += *at == '.';
        if (!fnmatch(pattern, at, 0)) return true;
    }
    return false;
}

static bool is_meant(const Layers *layers, const char *pattern, const Module *module) {
    if (!strcmp(pattern, all_linear)) return module != layers->last; /* the head */
    return adapter_matches(pattern, module->name);
}

static const char *last_name(const Module *module) {
    const char *dot = strrchr(module->name, '.');
    return dot ? dot + 1 : module->name;
}

/* "fc1, fc2": what the names end with, each once. */
static const char *names_of(const Layers *layers) {
    const char *text = "";
    for (int i = 0; i < layers->count; i++) {
        bool is_new = true;
        for (int j = 0; j < i && is_new; j++)
            is_new = strcmp(last_name(layers->linear[i]), last_name(layers->linear[j])) != 0;
        if (!is_new) continue;
        text = arena_format(layers->arena, "%s%s%s", text, *text ? ", " : "",
                            last_name(layers->linear[i]));
    }
    return *text ? text : "none";
}

static bool fail_unmatched(const Layers *layers, const char *pattern, Error *err) {
    if (!strcmp(pattern, all_linear))
        return FAIL(err, ERROR_INPUT,
                    "adapter.target: the model has no linear layer but its head (%s); name it, or "
                    "adapt another model",
                    names_of(layers)) ||
               error_blame(err, "adapter.target");
    return FAIL(err, ERROR_INPUT,
                "adapter.target: '%s' is the name of no linear layer; there are: %s", pattern,
                names_of(layers)) ||
           error_blame(err, "adapter.target");
}

/* Which of them get an adapter. */
static bool choose(const Layers *layers, const List *target, bool *chosen, Error *err) {
    if (!target->count)
        return FAIL(err, ERROR_INPUT, "adapter.target: name the layers, or write all-linear") ||
               error_blame(err, "adapter.target");
    for (int i = 0; i < target->count; i++) {
        const char *pattern = ((const char *const *)target->items)[i];
        bool is_found = false;
        for (int j = 0; j < layers->count; j++) {
            bool is_one = is_meant(layers, pattern, layers->linear[j]);
            chosen[j] |= is_one;
            is_found |= is_one;
        }
        if (!is_found) return fail_unmatched(layers, pattern, err);
    }
    return true;
}

/* ---- Installing ---- */

static bool add_site(Adapter *a, Module *module, Error *err) {
    AdapterSite *site = &a->sites[a->site_count++];
    *site = (AdapterSite){.module = module,
                          .weight = module_find_param(module, "weight"),
                          .bias = module_find_param(module, "bias")};
    if (!a->row->make(a, site, err)) {
        error_prefix(err, "%s", module->name);
        return error_blame(err, "adapter");
    }
    module->output = (View){a->row->apply, site};
    return true;
}

bool adapter_install(Model *model, const Variant *choice, Arena *arena, Adapter **out, Error *err) {
    *out = NULL;
    if (!choice->kind) return true;
    Adapter *a = *out = arena_new_array(arena, Adapter, 1);
    *a = (Adapter){.row = (const AdapterRow *)choice->kind,
                   .config = choice->config,
                   .model = model,
                   .arena = arena};
    Layers layers = find_layers(model, arena);
    bool *chosen = arena_new_array(arena, bool, layers.count + 1);
    TRY(choose(&layers, &((const AdapterConfig *)choice->config)->target, chosen, err));
    a->sites = arena_new_array(arena, AdapterSite, layers.count);
    freeze(model);
    for (int i = 0; i < layers.count; i++)
        if (chosen[i]) TRY(add_site(a, layers.linear[i], err));
    return true;
}

bool adapter_start(const Adapter *a, const AdapterSource *source, Error *err) {
    for (int i = 0; i < a->site_count; i++) {
        if (!a->row->start || a->row->start(a, &a->sites[i], source, err)) continue;
        error_prefix(err, "%s", a->sites[i].module->name);
        return error_blame(err, "adapter");
    }
    return true;
}

const AdapterSite *adapter_find_site(const Adapter *a, const Module *module) {
    for (int i = 0; i < a->site_count; i++)
        if (a->sites[i].module == module) return &a->sites[i];
    return NULL;
}

void adapter_describe(const Adapter *a) {
    int64_t trained = 0, all = 0;
    for (int i = 0; i < a->model->param_count; i++) {
        const Param *p = a->model->params[i];
        all += tensor_count(&p->value);
        if (!p->is_base) trained += tensor_count(&p->value);
    }
    log_info("adapter %s on %d layer%s: %ld parameters are trained, and %ld are frozen",
             a->row->kind.name, a->site_count, a->site_count == 1 ? "" : "s", (long)trained,
             (long)(all - trained));
}
