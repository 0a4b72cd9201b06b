#include "data/peft.h"

#include <string.h>

#include "core/file.h"
#include "data/text/regex.h"

enum {
    RANK_MAX = 65536,
    PATTERN_STEPS_MAX = 10000, /* of one name */
    MATCHES_MAX = 2000000,     /* of patterns with modules: half a second */
};

/* ---- adapter_config.json ---- */

static bool stop(void *context, const JsonMember *member) {
    (void)context, (void)member;
    return false;
}

/* What an unknown or refused key may hold without meaning anything. */
static bool is_unset(const JsonMember *m) {
    bool is_empty = m->inside && json_each_member(m->inside, "", stop, NULL) &&
                    json_each_element(m->inside, "", stop, NULL);
    return m->type == JSON_NOTHING || (m->type == JSON_BOOL && !m->is_true) || is_empty;
}

/* Keys that say what is read elsewhere, or nothing of what is computed. */
static const char *const known_keys[] = {"alpha_pattern",
                                         "auto_mapping",
                                         "base_model_name_or_path",
                                         "bias",
                                         "exclude_modules",
                                         "inference_mode",
                                         "init_lora_weights",
                                         "layers_pattern",
                                         "layers_to_transform",
                                         "lora_alpha",
                                         "lora_dropout",
                                         "megatron_core",
                                         "peft_type",
                                         "peft_version",
                                         "qalora_group_size",
                                         "r",
                                         "rank_pattern",
                                         "revision",
                                         "target_modules",
                                         "task_type",
                                         "use_dora",
                                         "use_rslora"};

static bool is_known(const char *name) {
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
        if (!strcmp(known_keys[i], name)) return true;
    return false;
}

typedef struct Reading {
    const char *path; /* of the file */
    Arena *arena;
    PeftConfig *config;
    const char *key; /* of the patterns that are read */
    PeftPatterns *patterns;
    Error *err;
} Reading;

static bool check_key(void *context, const JsonMember *m) {
    const Reading *r = context;
    if (is_known(m->name) || is_unset(m)) return true;
    return FAIL(r->err, ERROR_INPUT,
                "%s: '%s' is set, and asks for something that is not implemented: adapters are "
                "plain LoRA, rsLoRA and DoRA on linear layers",
                r->path, m->name);
}

static bool fail_value(const Reading *r, const char *key, const char *what) {
    return FAIL(r->err, ERROR_INPUT, "%s: '%s' must be %s", r->path, key, what);
}

/* First values that change the base, which is then not the one that is named. */
static bool check_init(const Reading *r, const Json *json) {
    static const char *const changing[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    const char *init = json_get_text(json, "init_lora_weights");
    for (int i = 0; init && i < 5; i++)
        if (!strncmp(init, changing[i], strlen(changing[i])))
            return FAIL(r->err, ERROR_INPUT,
                        "%s: 'init_lora_weights' is %s, which changes the base's own weights: save "
                        "the adapter with PEFT's path_initial_model_for_weight_conversion first",
                        r->path, init);
    return true;
}

static bool check_kind(const Reading *r, const Json *json) {
    const char *type = json_get_text(json, "peft_type"), *bias = json_get_text(json, "bias");
    if (!type || strcmp(type, "LORA") != 0)
        return FAIL(r->err, ERROR_INPUT, "%s: 'peft_type' is %s; only LORA is read", r->path,
                    type ? type : "missing");
    if (bias && strcmp(bias, "none") != 0)
        return FAIL(r->err, ERROR_INPUT, "%s: 'bias' is %s; only none is read", r->path, bias);
    return check_init(r, json) && json_each_member(json, "", check_key, (void *)(uintptr_t)r);
}

static bool read_number(const Reading *r, const Json *json, const char *key, double usual,
                        double low, double high, double *out) {
    *out = usual;
    if (!json_has(json, key)) return true;
    if (json_get_number(json, key, out) && *out >= low && *out <= high) return true;
    return FAIL(r->err, ERROR_INPUT, "%s: '%s' must be a number from %g to %g", r->path, key, low,
                high);
}

static bool read_flag(const Reading *r, const Json *json, const char *key, bool *out) {
    *out = false;
    if (!json_has(json, key)) return true;
    return json_get_bool(json, key, out) || fail_value(r, key, "true or false");
}

static const char *pattern_values(bool is_rank) {
    return is_rank ? "an object of names with whole numbers above 0"
                   : "an object of names with numbers above 0";
}

static bool add_pattern(void *context, const JsonMember *m) {
    Reading *r = context;
    bool is_rank = r->patterns == &r->config->ranks;
    bool is_number = m->type == JSON_INT || (m->type == JSON_NUMBER && !is_rank);
    if (!m->name || !is_number || !(m->number > 0 && m->number <= RANK_MAX))
        return fail_value(r, r->key, pattern_values(is_rank));
    r->patterns->items[r->patterns->count++] =
        (PeftPattern){.key = arena_strdup(r->arena, m->name), .value = m->number};
    return true;
}

static bool count_member(void *context, const JsonMember *m) {
    (void)m;
    ++*(int *)context;
    return true;
}

static bool read_patterns(Reading *r, const Json *json, const char *key, PeftPatterns *out) {
    int count = 0;
    *out = (PeftPatterns){.field = key};
    if (!json_has(json, key)) return true;
    if (json_type_at(json, key) != JSON_MEMBERS)
        return fail_value(r, key, pattern_values(out == &r->config->ranks));
    json_each_member(json, key, count_member, &count);
    if (count > PEFT_PATTERNS_MAX)
        return FAIL(r->err, ERROR_INPUT, "%s: '%s' has %d patterns; at most %d are read", r->path,
                    key, count, PEFT_PATTERNS_MAX);
    out->items = arena_new_array(r->arena, PeftPattern, count);
    r->key = key;
    r->patterns = out;
    return json_each_member(json, key, add_pattern, r);
}

static bool add_target(void *context, const JsonMember *m) {
    Reading *r = context;
    if (m->type != JSON_TEXT) return fail_value(r, "target_modules", "a list of names, or a text");
    r->config->targets[r->config->target_count++] = arena_strdup(r->arena, m->text);
    return true;
}

static const char *text_at(const Json *json, const char *key, Arena *arena) {
    const char *text = json_get_text(json, key);
    return text ? arena_strdup(arena, text) : NULL;
}

static bool read_targets(Reading *r, const Json *json) {
    static const char key[] = "target_modules";
    PeftConfig *c = r->config;
    const char *pattern = text_at(json, key, r->arena);
    int count = json_count(json, key);
    if (count > PEFT_PATTERNS_MAX)
        return FAIL(r->err, ERROR_INPUT, "%s: '%s' has %d names; at most %d are read", r->path, key,
                    count, PEFT_PATTERNS_MAX);
    if (pattern) {
        c->target_pattern = arena_new_array(r->arena, PeftPattern, 1);
        *c->target_pattern = (PeftPattern){.key = pattern, .is_whole = true};
    }
    c->targets = arena_new_array(r->arena, const char *, count + 1);
    return json_type_at(json, key) != JSON_LIST || json_each_element(json, key, add_target, r);
}

static bool read_config(Reading *r, const Json *json) {
    PeftConfig *c = r->config;
    double rank;
    *c = (PeftConfig){.base = text_at(json, "base_model_name_or_path", r->arena),
                      .task = text_at(json, "task_type", r->arena)};
    TRY(check_kind(r, json));
    TRY(read_number(r, json, "r", 8, 1, RANK_MAX, &rank) &&
        read_number(r, json, "lora_alpha", 8, 1e-6, 1e6, &c->alpha) &&
        read_number(r, json, "lora_dropout", 0, 0, 0.99, &c->dropout));
    c->rank = (int64_t)rank;
    if ((double)c->rank < rank) return fail_value(r, "r", "an integer");
    TRY(read_flag(r, json, "use_rslora", &c->rslora) && read_flag(r, json, "use_dora", &c->dora));
    TRY(read_patterns(r, json, "rank_pattern", &c->ranks) &&
        read_patterns(r, json, "alpha_pattern", &c->alphas));
    c->is_partial = json_has(json, "layers_to_transform") || json_has(json, "exclude_modules");
    return read_targets(r, json);
}

/* ---- adapter_model.safetensors ---- */

static const char *const parts[] = {".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"};
enum { PARTS = 3 };

/* The module that a tensor is of, in `arena`; NULL: of none. */
static const char *module_of(const char *name, Arena *arena) {
    size_t skip = strlen(PEFT_PREFIX), length = strlen(name);
    if (strncmp(name, PEFT_PREFIX, skip) != 0) return NULL;
    for (int i = 0; i < PARTS; i++) {
        size_t end = strlen(parts[i]);
        if (length > skip + end && !strcmp(name + length - end, parts[i]))
            return arena_format(arena, "%.*s", (int)(length - skip - end), name + skip);
    }
    return NULL;
}

static bool read_modules(Peft *p, const char *path, Arena *arena, Error *err) {
    p->modules = arena_new_array(arena, const char *, p->tensors.count + 1);
    for (int i = 0; i < p->tensors.count; i++) {
        const SafeTensor *tensor = &p->tensors.items[i];
        const char *module = module_of(tensor->name, arena);
        if (!module)
            return FAIL(err, ERROR_INPUT,
                        "%s: '%s' is no part of a LoRA adapter of a linear layer "
                        "(" PEFT_PREFIX "MODULE.lora_A.weight, .lora_B.weight)",
                        path, tensor->name);
        bool is_new = !p->module_count || strcmp(p->modules[p->module_count - 1], module) != 0;
        if (is_new) p->modules[p->module_count++] = module; /* tensors are sorted by name */
    }
    return p->module_count ||
           FAIL(err, ERROR_INPUT, "%s holds no tensors, so there is no adapter", path);
}

/* Each pattern may be tried with each module. */
static bool check_work(const Peft *p, const char *path, Error *err) {
    int64_t patterns = p->config.ranks.count + p->config.alphas.count;
    return patterns * p->module_count <= MATCHES_MAX ||
           FAIL(err, ERROR_INPUT, "%s: %ld patterns for %d modules are too many", path,
                (long)patterns, p->module_count);
}

bool peft_open(const char *directory, Arena *arena, Peft *out, Error *err) {
    *out = (Peft){.directory = arena_strdup(arena, directory)};
    const char *path = arena_format(arena, "%s/" PEFT_CONFIG, directory);
    Json *json = json_read_small(file_resolve(path, arena), JSON_SETTINGS_MAX, err);
    if (!json) return false;
    Reading reading = {.path = path, .arena = arena, .config = &out->config, .err = err};
    bool ok = read_config(&reading, json);
    json_free(json);
    const char *tensors = arena_format(arena, "%s/" PEFT_MODEL, directory);
    return ok && safetensors_open(tensors, arena, &out->tensors, err) &&
           read_modules(out, tensors, arena, err) && check_work(out, path, err);
}

void peft_close(Peft *p) {
    safetensors_close(&p->tensors);
    peft_patterns_close(&p->config.ranks);
    peft_patterns_close(&p->config.alphas);
    if (p->config.target_pattern) regex_free(p->config.target_pattern->regex);
}

const SafeTensor *peft_find(const Peft *p, const char *module, const char *part, Arena *arena) {
    return safetensors_find(&p->tensors, arena_format(arena, PEFT_PREFIX "%s.%s", module, part));
}

/* ---- Patterns ---- */

static bool make_regex(PeftPattern *pattern, Error *err) {
    if (pattern->regex) return true;
    const char *begin = pattern->is_whole ? "" : "(?:.*\\.)?";
    Arena *arena = arena_new("pattern");
    pattern->regex = regex_new(arena_format(arena, "^%s(?:%s)$", begin, pattern->key), err);
    arena_free(arena);
    if (pattern->regex) regex_limit(pattern->regex, PATTERN_STEPS_MAX);
    return pattern->regex != NULL;
}

static bool matches(const Peft *p, const char *field, PeftPattern *pattern, const char *module,
                    bool *out, Error *err) {
    int64_t start = -1, end;
    Span name = {module, (int64_t)strlen(module)};
    bool ok = make_regex(pattern, err) && regex_find(pattern->regex, name, 0, &start, &end, err);
    *out = start >= 0;
    if (!ok) error_prefix(err, "%s/" PEFT_CONFIG ": %s '%s'", p->directory, field, pattern->key);
    return ok;
}

bool peft_pattern(const Peft *p, const PeftPatterns *patterns, const char *module, double usual,
                  double *out, Error *err) {
    *out = usual;
    for (int i = 0; i < patterns->count; i++) {
        bool is_match;
        TRY(matches(p, patterns->field, &patterns->items[i], module, &is_match, err));
        if (!is_match) continue;
        *out = patterns->items[i].value;
        break;
    }
    return true;
}

void peft_patterns_close(PeftPatterns *patterns) {
    for (int i = 0; i < patterns->count; i++) regex_free(patterns->items[i].regex);
    patterns->count = 0;
}

/* As PEFT has it: a whole name, or the end of one behind a dot. */
static bool is_named(const char *target, const char *module) {
    size_t length = strlen(target), whole = strlen(module);
    if (whole < length || strcmp(module + whole - length, target) != 0) return false;
    return whole == length || module[whole - length - 1] == '.';
}

bool peft_targets(const Peft *p, const char *module, bool *out, Error *err) {
    const PeftConfig *c = &p->config;
    PeftPattern *pattern = c->target_pattern;
    bool is_all = pattern && !strcmp(pattern->key, "all-linear");
    *out = false;
    if (pattern && !is_all) return matches(p, "target_modules", pattern, module, out, err);
    for (int i = 0; i < c->target_count && !*out; i++) *out = is_named(c->targets[i], module);
    for (int i = 0; i < p->module_count && !c->target_count && !*out; i++)
        *out = !strcmp(p->modules[i], module);
    return true;
}

/* ---- Whether both files say the same ---- */

static bool check_targets(const Peft *p, Error *err) {
    const PeftConfig *c = &p->config;
    for (int i = 0; i < p->module_count; i++) {
        bool is_meant;
        TRY(peft_targets(p, p->modules[i], &is_meant, err));
        if (!is_meant)
            return FAIL(err, ERROR_INPUT,
                        "%s/" PEFT_CONFIG
                        ": target_modules does not mean '%s', of which " PEFT_MODEL " has tensors",
                        p->directory, p->modules[i]);
    }
    for (int i = 0; i < c->target_count; i++) {
        bool is_used = false;
        for (int j = 0; j < p->module_count; j++) is_used |= is_named(c->targets[i], p->modules[j]);
        if (!is_used)
            return FAIL(err, ERROR_INPUT,
                        "%s/" PEFT_CONFIG ": target_modules names '%s', of which " PEFT_MODEL
                        " has no tensors; take the name out, if the adapter is whole",
                        p->directory, c->targets[i]);
    }
    return true;
}

static bool check_keys(const Peft *p, const PeftPatterns *patterns, Error *err) {
    for (int i = 0; i < patterns->count; i++) {
        bool is_used = false;
        for (int j = 0; j < p->module_count && !is_used; j++)
            TRY(matches(p, patterns->field, &patterns->items[i], p->modules[j], &is_used, err));
        if (!is_used)
            return FAIL(err, ERROR_INPUT,
                        "%s/" PEFT_CONFIG ": %s names '%s', of which " PEFT_MODEL " has no tensors",
                        p->directory, patterns->field, patterns->items[i].key);
    }
    return true;
}

static bool check_rank(const Peft *p, const char *module, Arena *arena, Error *err) {
    double rank;
    const SafeTensor *a = peft_find(p, module, "lora_A.weight", arena);
    TRY(peft_pattern(p, &p->config.ranks, module, (double)p->config.rank, &rank, err));
    if (!a || a->shape.rank != 2 || (double)a->shape.dim[0] == rank) return true;
    return FAIL(err, ERROR_INPUT,
                "%s/" PEFT_CONFIG ": by r and rank_pattern '%s' has rank %g, and by its "
                "lora_A.weight in " PEFT_MODEL " %ld",
                p->directory, module, rank, (long)a->shape.dim[0]);
}

bool peft_check(const Peft *p, Error *err) {
    Arena *arena = arena_new("names");
    bool ok = check_targets(p, err) && check_keys(p, &p->config.ranks, err) &&
              check_keys(p, &p->config.alphas, err);
    for (int i = 0; ok && i < p->module_count; i++) ok = check_rank(p, p->modules[i], arena, err);
    arena_free(arena);
    return ok;
}

/* ---- Writing ---- */

static void set_patterns(Json *json, const char *key, const PeftPatterns *patterns) {
    json_set_member(json, key, NULL, 0);
    for (int i = 0; i < patterns->count; i++)
        json_set_member(json, key, patterns->items[i].key, patterns->items[i].value);
}

Json *peft_config_json(const PeftConfig *c) {
    Json *json = json_new();
    set_patterns(json, "alpha_pattern", &c->alphas);
    json_set_text(json, "base_model_name_or_path", c->base);
    json_set_text(json, "bias", "none");
    json_set_text(json, "exclude_modules", NULL);
    json_set_bool(json, "fan_in_fan_out", false);
    json_set_bool(json, "inference_mode", true);
    json_set_bool(json, "init_lora_weights", true);
    json_set_text(json, "layers_pattern", NULL);
    json_set_text(json, "layers_to_transform", NULL);
    json_set_shortest(json, "lora_alpha", c->alpha);
    json_set_number(json, "lora_dropout", c->dropout);
    json_set_text(json, "modules_to_save", NULL);
    json_set_text(json, "peft_type", "LORA");
    json_set_int(json, "r", c->rank);
    set_patterns(json, "rank_pattern", &c->ranks);
    json_set_text(json, "revision", NULL);
    for (int i = 0; i < c->target_count; i++)
        json_append_text(json, "target_modules", c->targets[i]);
    json_set_text(json, "task_type", c->task);
    json_set_bool(json, "use_dora", c->dora);
    json_set_bool(json, "use_rslora", c->rslora);
    return json;
}
