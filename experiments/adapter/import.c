#include "experiments/adapter/import.h"

#include <math.h>
#include <string.h>

#include "autograd/layers.h"
#include "core/log.h"
#include "data/peft.h"
#include "qat/adapters/lora.h"

static LoraConfig *lora_of(const ExperimentConfig *config) {
    return config->adapter.kind == &adapter_lora.kind ? config->adapter.config : NULL;
}

const char *import_directory(const ExperimentConfig *config) {
    const LoraConfig *lora = lora_of(config);
    return lora ? lora->from : NULL;
}

/* ---- Settings ---- */

static const Node *section(const Node *root) {
    const Node *node = root ? node_find(root, "adapter") : NULL;
    bool is_inner = node && node->type == NODE_MAP && !node_find(node, "kind") && node->count == 1;
    return is_inner ? node->first : node;
}

static bool check_given(const ExperimentConfig *config, const char *directory, Error *err) {
    static const char *const settings[] = {"target", "rank", "alpha", "rslora",
                                           "dora",   "init", "rules"};
    const Node *node = section(config->places);
    for (int i = 0; node && node->type == NODE_MAP && i < 7; i++) {
        if (!node_find(node, settings[i])) continue;
        (void)FAIL(err, ERROR_INPUT,
                   "adapter.%s: %s says what the adapter is (adapter.from); leave this out",
                   settings[i], directory);
        return error_blame(err, "adapter.%s", settings[i]);
    }
    return true;
}

/* A rule for each layer that differs. */
static bool set_rules(const Peft *p, LoraConfig *c, Arena *arena, Error *err) {
    LoraRule *rules = arena_new_array(arena, LoraRule, p->module_count);
    c->rules = (List){0, rules};
    for (int i = 0; i < p->module_count; i++) {
        double rank, alpha;
        TRY(peft_pattern(p, &p->config.ranks, p->modules[i], (double)c->rank, &rank, err) &&
            peft_pattern(p, &p->config.alphas, p->modules[i], c->alpha, &alpha, err));
        LoraRule rule = {.layers = p->modules[i]};
        if ((int64_t)rank != c->rank) rule.rank = (int64_t)rank;
        if (alpha < c->alpha || alpha > c->alpha) rule.alpha = alpha;
        if (rule.rank || rule.alpha > 0) rules[c->rules.count++] = rule;
    }
    return true;
}

/* The configuration's own list where it means all modules of the file and has no exceptions, else
 * the modules. */
static List targets_of(const Peft *p) {
    bool fits = p->config.target_count > 0 && !p->config.is_partial;
    for (int i = 0; fits && i < p->module_count; i++) {
        bool is_meant = false;
        for (int j = 0; j < p->config.target_count; j++)
            is_meant |= adapter_matches(p->config.targets[j], p->modules[i]);
        fits = is_meant;
    }
    return fits ? (List){p->config.target_count, p->config.targets}
                : (List){p->module_count, p->modules};
}

static bool take_settings(const Peft *p, LoraConfig *c, Arena *arena, Error *err) {
    c->rank = p->config.rank;
    c->alpha = p->config.alpha;
    c->rslora = p->config.rslora;
    c->dora = p->config.dora;
    c->adapter.target = targets_of(p);
    return set_rules(p, c, arena, err);
}

bool import_settings(ExperimentConfig *config, Arena *arena, Error *err) {
    const char *directory = import_directory(config);
    Peft peft;
    if (!directory) return true;
    TRY(check_given(config, directory, err));
    bool ok = peft_open(directory, arena, &peft, err) && peft_check(&peft, err) &&
              take_settings(&peft, lora_of(config), arena, err);
    peft_close(&peft);
    return ok || error_blame(err, "adapter.from");
}

/* ---- Weights ---- */

static bool check_finite(const Peft *p, const SafeTensor *tensor, const float *values, Error *err) {
    for (int64_t i = 0; i < shape_count(tensor->shape); i++)
        if (!isfinite(values[i]))
            return FAIL(err, ERROR_INPUT, "%s/" PEFT_MODEL ": '%s' holds %g at element %ld",
                        p->directory, tensor->name, (double)values[i], (long)i);
    return true;
}

static bool take_part(const Peft *p, const AdapterSite *site, const char *part, Param *to,
                      Arena *arena, Error *err) {
    const char *module = site->module->name;
    char given[SHAPE_TEXT_BYTES], own[SHAPE_TEXT_BYTES];
    const SafeTensor *tensor = peft_find(p, module, part, arena);
    if (!tensor)
        return FAIL(err, ERROR_INPUT,
                    "%s/" PEFT_MODEL " has no '" PEFT_PREFIX "%s.%s': it is for another base, or "
                    "not whole",
                    p->directory, module, part);
    if (!shape_equal(tensor->shape, to->value.shape))
        return FAIL(err, ERROR_INPUT,
                    "%s/" PEFT_MODEL " is for another base: '%s' is %s, and for %s it must be %s",
                    p->directory, tensor->name, shape_text(tensor->shape, given), module,
                    shape_text(to->value.shape, own));
    if (tensor->dtype == DTYPE_COUNT)
        return FAIL(err, ERROR_INPUT, "%s/" PEFT_MODEL ": '%s' is of type %s, not F32, F16 or BF16",
                    p->directory, tensor->name, tensor->type);
    float *values = tensor_f32(&to->value);
    return safetensors_read(&p->tensors, tensor, 0, shape_count(tensor->shape), values, err) &&
           check_finite(p, tensor, values, err);
}

static bool take_layer(const Peft *p, const AdapterSite *site, Arena *arena, Error *err) {
    const LoraLayer *l = site->state;
    return take_part(p, site, "lora_A.weight", l->a, arena, err) &&
           take_part(p, site, "lora_B.weight", l->b, arena, err) &&
           (!l->magnitude || take_part(p, site, "lora_magnitude_vector", l->magnitude, arena, err));
}

/* Nothing in the file is left over. */
static bool check_modules(const Peft *p, const Adapter *adapter, Error *err) {
    for (int i = 0; i < p->module_count; i++) {
        const Module *module = model_find_module(adapter->model, p->modules[i]);
        if (module && adapter_find_site(adapter, module)) continue;
        return FAIL(err, ERROR_INPUT,
                    "%s/" PEFT_MODEL " is for another base: it adapts '%s', which is no linear "
                    "layer of this model",
                    p->directory, p->modules[i]);
    }
    return true;
}

typedef struct Targets {
    const Peft *peft;
    const Adapter *adapter;
    Error *err;
} Targets;

/* A linear layer that is meant has an adapter. */
static bool check_target(void *context, Module *module) {
    const Targets *t = context;
    bool is_meant;
    if (module->layer != &layer_linear || adapter_find_site(t->adapter, module)) return true;
    TRY(peft_targets(t->peft, module->name, &is_meant, t->err));
    return !is_meant ||
           FAIL(t->err, ERROR_INPUT,
                "%s/" PEFT_CONFIG ": target_modules means '%s', of which " PEFT_MODEL " has no "
                "tensors: it is for another base, or not whole",
                t->peft->directory, module->name);
}

static bool check_targets(const Peft *p, const Adapter *adapter, Error *err) {
    Targets targets = {p, adapter, err};
    return p->config.is_partial || model_visit(adapter->model, check_target, &targets);
}

static const char *last_part(const char *path, Arena *arena) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    const char *text = arena_format(arena, "%.*s", (int)length, path), *slash = strrchr(text, '/');
    return slash && slash[1] ? slash + 1 : text;
}

/* Directories are renamed, and what is computed shows in the tensors' names and shapes: a warning.
 */
static void warn_base(const Peft *p, const Experiment *e, Arena *arena) {
    const char *named = p->config.base;
    const char *base = e->base_directory ? e->base_directory : e->config.train.init;
    if (!named || !*named || !base) return;
    if (strcmp(last_part(named, arena), last_part(base, arena)) != 0)
        log_warning("%s/" PEFT_CONFIG ": base_model_name_or_path is '%s', and this base '%s'; its "
                    "shapes fit, but of another base the adapter is of no use",
                    p->directory, named, base);
}

bool import_weights(Experiment *e, Error *err) {
    const char *directory = import_directory(&e->config);
    Peft peft;
    if (!directory) return true;
    Arena *arena = arena_new("adapter");
    bool ok = peft_open(directory, arena, &peft, err) && check_modules(&peft, e->adapter, err) &&
              check_targets(&peft, e->adapter, err);
    for (int i = 0; ok && i < e->adapter->site_count; i++)
        ok = take_layer(&peft, &e->adapter->sites[i], arena, err);
    if (ok) warn_base(&peft, e, arena);
    peft_close(&peft);
    arena_free(arena);
    return ok || error_blame(err, "adapter.from");
}
