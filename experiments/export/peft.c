/* The adapter of a run as PEFT keeps it (data/peft.h): it loads it beside the same base and
 * computes the same. Averages of weights, where the run has them, are what is exported. */
#include "data/peft.h"

#include <string.h>

#include "autograd/layers.h"
#include "experiments/export/exporter.h"
#include "experiments/report/text.h"
#include "experiments/train/task.h"
#include "qat/adapters/lora.h"

static const char *last_name(const Module *module) {
    const char *dot = strrchr(module->name, '.');
    return dot ? dot + 1 : module->name;
}

/* ---- target_modules ---- */

typedef struct Others {
    const Adapter *adapter;
    const char *name;
} Others;

/* Whether there is no linear layer of that last name without an adapter. */
static bool is_other(void *context, Module *module) {
    const Others *o = context;
    bool is_meant = module->layer == &layer_linear && !strcmp(last_name(module), o->name);
    return !is_meant || adapter_find_site(o->adapter, module);
}

/* Last names, each once, where these mean no other layers; else whole ones. */
static void set_targets(const Adapter *a, Arena *arena, PeftConfig *out) {
    out->targets = arena_new_array(arena, const char *, a->site_count);
    for (int i = 0; i < a->site_count; i++) {
        Others others = {a, last_name(a->sites[i].module)};
        const char *name = others.name;
        if (!model_visit(a->model, is_other, &others)) name = a->sites[i].module->name;
        bool is_new = true;
        for (int j = 0; j < out->target_count && is_new; j++)
            is_new = strcmp(out->targets[j], name) != 0;
        if (is_new) out->targets[out->target_count++] = name;
    }
}

/* ---- Ranks ---- */

static void set_patterns(const Adapter *a, Arena *arena, PeftConfig *out) {
    out->ranks.items = arena_new_array(arena, PeftPattern, a->site_count);
    out->alphas.items = arena_new_array(arena, PeftPattern, a->site_count);
    for (int i = 0; i < a->site_count; i++) {
        const LoraLayer *l = a->sites[i].state;
        const char *name = a->sites[i].module->name;
        if (l->rank != out->rank)
            out->ranks.items[out->ranks.count++] =
                (PeftPattern){.key = name, .value = (double)l->rank};
        if (l->alpha < out->alpha || l->alpha > out->alpha)
            out->alphas.items[out->alphas.count++] = (PeftPattern){.key = name, .value = l->alpha};
    }
}

/* ---- Tensors ---- */

static int add_tensor(SafeTensorData *tensors, int count, const Param *p, Arena *arena) {
    if (!p) return count;
    tensors[count] = (SafeTensorData){arena_format(arena, PEFT_PREFIX "%s", p->name), p->value};
    return count + 1;
}

static bool write_tensors(const Adapter *a, const char *directory, Arena *arena, Error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    enum { PARTS = 3 };
    SafeTensorData *tensors = arena_new_array(arena, SafeTensorData, PARTS * a->site_count);
    int count = 0;
    for (int i = 0; i < a->site_count; i++) {
        const LoraLayer *l = a->sites[i].state;
        count = add_tensor(tensors, count, l->a, arena);
        count = add_tensor(tensors, count, l->b, arena);
        count = add_tensor(tensors, count, l->magnitude, arena);
    }
    return safetensors_write(arena_format(arena, "%s/" PEFT_MODEL, directory), tensors, count,
                             metadata, err);
}

static bool write_config(const Experiment *e, const char *directory, Arena *arena, Error *err) {
    const LoraConfig *c = e->adapter->config;
    PeftConfig config = {.rank = c->rank,
                         .alpha = c->alpha,
                         .dropout = c->dropout,
                         .rslora = c->rslora,
                         .dora = c->dora,
                         .base = e->base_directory ? e->base_directory : e->config.train.init,
                         .task = e->task->peft_task};
    set_targets(e->adapter, arena, &config);
    set_patterns(e->adapter, arena, &config);
    Json *json = peft_config_json(&config);
    bool ok = text_write_json(json, arena_format(arena, "%s/" PEFT_CONFIG, directory), err);
    json_free(json);
    return ok;
}

static bool write(Experiment *e, const char *directory, Error *err) {
    if (!e->adapter)
        return FAIL(err, ERROR_INPUT,
                    "the run has no adapter: all of its weights were trained; PEFT's format is for "
                    "adapters");
    Arena *arena = arena_new("adapter");
    bool ok =
        write_tensors(e->adapter, directory, arena, err) && write_config(e, directory, arena, err);
    arena_free(arena);
    return ok;
}

const Exporter exporter_peft = {
    .kind = {.name = "peft", .help = "the adapter alone, as PEFT keeps it"},
    .file = PEFT_CONFIG,
    .write = write,
};
