#include "experiments/compare/comparison.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/file.h"
#include "core/settings/yaml.h"
#include "experiments/settings/override.h"
#include "experiments/train/run.h"

const Field comparison_fields[] = {
    FIELD_STRING(ComparisonConfig, config, "",
                 "the file of the experiment, from where this one lies", .is_path = true),
    FIELD_TREE(ComparisonConfig, experiment, "the experiment's settings, or those over `config`",
               .fields = experiment_fields),
    FIELD_NUMBERS(ComparisonConfig, seeds, "[1]", FIELD_TYPE_INT, 0, 9007199254740991,
                  "each row is trained once with each"),
    FIELD_VARIANTS(ComparisonConfig, methods, REQUIRED, &compare_method_kinds,
                   "what is compared with FP32, which is always there"),
    FIELD_END,
};

/* What is being read: mistakes, and where they stand. */
typedef struct Reading {
    const char *path;
    const Node *root;
    Arena *arena;
    Faults faults;
} Reading;

static bool fault(Reading *r, const char *setting, const char *message) {
    faults_add(&r->faults, config_mark(r->root, setting, r->arena), "%s", message);
    return false;
}

/* ---- The experiment ---- */

static const char *beside(const char *path, const char *other, Arena *arena) {
    const char *slash = strrchr(path, '/');
    if (*other == '/' || !slash) return other;
    return arena_format(arena, "%.*s/%s", (int)(slash - path), path, other);
}

static bool read_experiment(Reading *r, Comparison *out, Error *err) {
    const ComparisonConfig *c = &out->config;
    Node *below = node_new(r->arena, NODE_MAP, NULL, NULL, r->root->mark);
    if (!c->config && !c->experiment)
        return FAIL(err, ERROR_INPUT, "%s: give `experiment`, its settings, or `config`, its file",
                    r->path);
    const char *name = c->config ? beside(r->path, c->config, r->arena) : r->path;
    if (c->config) TRY(yaml_read_file(name, r->arena, &below, &r->faults, err));
    TRY(config_report(&r->faults, name, "config", err));
    Node *tree =
        c->experiment ? fields_overlay(experiment_fields, below, c->experiment, r->arena) : below;
    return config_read_tree(tree, name, r->arena, &out->experiment, err) &&
           config_check_trains(&out->experiment, err);
}

/* ---- Rows ---- */

static bool is_name(const char *text) {
    size_t length = strlen(text);
    return length <= 40 && isalnum((unsigned char)*text) &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ._+-") ==
               length;
}

/* Small letters, digits, and dashes: a folder's name. */
static const char *slug(const char *label, Arena *arena) {
    char *text = arena_strdup(arena, label);
    for (char *c = text; *c; c++) *c = *c == ' ' ? '-' : (char)tolower((unsigned char)*c);
    return text;
}

static const char *upper(const char *text, Arena *arena) {
    char *copy = arena_strdup(arena, text);
    for (char *c = copy; *c; c++) *c = (char)toupper((unsigned char)*c);
    return copy;
}

static const CompareRow *row_named(const Comparison *c, const char *name) {
    for (int i = 0; i < c->row_count; i++)
        if (!strcmp(c->rows[i].name, name)) return &c->rows[i];
    return NULL;
}

/* The row that one of `init` begins from: of that name, or of that method at the same bits. */
static bool find_source(Reading *r, const Comparison *c, const char *init, const char *width,
                        const char *setting, const CompareRow **out) {
    const char *name = slug(init, r->arena);
    *out = row_named(c, name);
    if (!*out) *out = row_named(c, arena_format(r->arena, "%s-%s", name, width));
    return *out || fault(r, arena_format(r->arena, "%s.init", setting),
                         arena_format(r->arena,
                                      "no row '%.40s', nor '%.40s-%s', is listed before this one; "
                                      "'%s' always is there",
                                      name, name, width, c->rows[0].name));
}

/* What a method begins from where it does not say: what is made of FP32, and bits that are chosen
 * by what FP32 shows. */
static bool set_source(Reading *r, const Comparison *c, const MethodConfig *config,
                       const char *width, const char *setting, CompareRow *row) {
    bool is_made = !row->method->is_trained;
    if (config->init) return find_source(r, c, config->init, width, setting, &row->source);
    if (is_made || row->has_chosen_bits) row->source = &c->rows[0];
    return true;
}

static bool add_row(Reading *r, Comparison *c, const Node *base, const Variant *given,
                    const char *setting, RowBits bits, Error *err) {
    const CompareMethod *method = (const CompareMethod *)given->kind;
    const MethodConfig *config = given->config;
    const char *name = config->name ? config->name : method->label;
    const char *width = method->has_bits ? row_bits_name(bits, r->arena) : NULL;
    const char *label =
        width ? arena_format(r->arena, "%s %s", name, upper(width, r->arena)) : name;
    CompareRow row = {.name = slug(label, r->arena),
                      .label = label,
                      .method = method,
                      .is_taught = config->distill,
                      .has_chosen_bits = row_bits_are_chosen(bits),
                      .weight_bits = row_bits_number(bits.weights),
                      .activation_bits = row_bits_number(bits.activations)};
    if (row_named(c, row.name))
        return fault(r, setting,
                     arena_format(r->arena,
                                  "there are two rows '%s': give one of them "
                                  "another name",
                                  row.name));
    TRY(set_source(r, c, config, width, setting, &row));
    RowPlan plan = {.bits = bits, .init = row.source ? row.source->name : NULL};
    row.text = method->write(base, config, plan, r->path, r->arena, err);
    if (!row.text) return false;
    c->rows[c->row_count++] = row;
    return true;
}

static bool is_fp32(const Variant *given) {
    return method_is_baseline((const CompareMethod *)given->kind);
}

static bool check_name(Reading *r, const Variant *given, const char *setting) {
    const char *name = ((const MethodConfig *)given->config)->name;
    setting = arena_format(r->arena, "%s.name", setting);
    if (name && !is_name(name))
        return fault(r, setting,
                     "a name has at most 40 letters, digits, and . _ + -, a letter or digit first");
    bool is_baseline = name && !strcasecmp(name, compare_method_fp32.label) && !is_fp32(given);
    return !is_baseline || fault(r, setting,
                                 "FP32 is what the network trained with nothing quantized is "
                                 "called: give another name");
}

/* Bits of a row. */
static bool read_bits(Reading *r, const char *text, const char *setting, RowBits *out) {
    if (!row_bits_parse(text, out, r->arena))
        return fault(r, setting,
                     arena_format(r->arena,
                                  "'%.20s' are no bits: w4a8 (weights, activations), 4 (both) or "
                                  "w4 (weights alone), of 1, 1.58, 2 to 8, 32 and auto",
                                  text));
    double weights = row_bits_number(out->weights), activations = row_bits_number(out->activations);
    if (activations < 2)
        return fault(r, setting,
                     arena_format(r->arena,
                                  "activations have 2 bits or more: give w%sa8, or w%s for weights "
                                  "alone",
                                  out->weights, out->weights));
    bool is_float = weights == BITS_FLOAT && activations == BITS_FLOAT;
    return !is_float ||
           fault(r, setting, "32 bits quantize nothing: that is FP32, which is always there");
}

static bool add_method(Reading *r, Comparison *c, const Node *base, int index, Error *err) {
    const Variant *given = (const Variant *)c->config.methods.items + index;
    const CompareMethod *method = (const CompareMethod *)given->kind;
    const List *widths = &((const MethodConfig *)given->config)->bits;
    const char *setting = arena_format(r->arena, "methods.%d", index);
    TRY(check_name(r, given, setting));
    if (method->has_bits && !widths->count) return fault(r, setting, "no row: 'bits' is empty");
    if (!method->has_bits) return add_row(r, c, base, given, setting, (RowBits){"32", "32"}, err);
    for (int i = 0; i < widths->count; i++) {
        RowBits bits;
        const char *text = ((const char *const *)widths->items)[i];
        TRY(read_bits(r, text, arena_format(r->arena, "%s.bits.%d", setting, i), &bits));
        TRY(add_row(r, c, base, given, setting, bits, err));
    }
    return true;
}

/* FP32 first, whether it is listed or not. */
static bool add_rows(Reading *r, Comparison *c, Error *err) {
    const Variant *methods = c->config.methods.items;
    Node *base = config_tree(&c->experiment, r->arena);
    int most = 1, listed = -1;
    for (int i = 0; i < c->config.methods.count; i++) {
        most += 1 + ((const MethodConfig *)methods[i].config)->bits.count;
        if (is_fp32(&methods[i]) && listed < 0) listed = i;
    }
    c->rows = arena_new_array(r->arena, CompareRow, most);
    Variant usual = {&compare_method_fp32.kind, kind_defaults(&compare_method_fp32.kind, r->arena)};
    TRY(listed >= 0 ? add_method(r, c, base, listed, err)
                    : add_row(r, c, base, &usual, "methods", (RowBits){"32", "32"}, err));
    for (int i = 0; i < c->config.methods.count; i++)
        if (i != listed) TRY(add_method(r, c, base, i, err));
    return c->row_count > 1 || fault(r, "methods",
                                     "nothing is compared with FP32: list a method, such as "
                                     "{kind: qat, bits: [4]}");
}

static bool check_seeds(Reading *r, Comparison *c) {
    c->seeds = c->config.seeds.items;
    c->seed_count = c->config.seeds.count;
    if (!c->seed_count) return fault(r, "seeds", "no seed: there is nothing to train");
    for (int i = 0; i < c->seed_count; i++)
        for (int j = 0; j < i; j++)
            if (c->seeds[i] == c->seeds[j])
                return fault(r, arena_format(r->arena, "seeds.%d", i),
                             arena_format(r->arena, "seed %ld is there twice", (long)c->seeds[i]));
    return true;
}

static bool resolve(Reading *r, Comparison *out, Error *err) {
    fields_read(comparison_fields, r->root, r->root->mark, &out->config, r->arena, &r->faults);
    TRY(config_report(&r->faults, r->path, "comparison", err));
    check_seeds(r, out);
    TRY(config_report(&r->faults, r->path, "comparison", err));
    TRY(read_experiment(r, out, err));
    if (!add_rows(r, out, err)) {
        config_report(&r->faults, r->path, "comparison", err);
        return false;
    }
    if ((int64_t)out->row_count * out->seed_count > COMPARISON_RUNS_MAX)
        return FAIL(err, ERROR_INPUT, "%s: %d rows with %d seeds are more than %d runs", r->path,
                    out->row_count, out->seed_count, COMPARISON_RUNS_MAX);
    return true;
}

bool comparison_read(const char *path, int override_count, char *const *overrides, Arena *arena,
                     Comparison *out, Error *err) {
    *out = (Comparison){0};
    Reading r = {.path = path, .arena = arena, .faults = {.arena = arena}};
    Node *root = NULL;
    if (!yaml_read_file(path, arena, &root, &r.faults, err)) {
        Error ignored = {0};
        config_report(&r.faults, path, "comparison", &ignored);
        return false;
    }
    for (int i = 0; i < override_count; i++)
        override_apply(comparison_fields, root, overrides[i], i + 1, arena, &r.faults);
    r.root = root;
    return resolve(&r, out, err);
}

bool comparison_read_saved(const char *directory, Arena *arena, Comparison *out, Error *err) {
    *out = (Comparison){0};
    const char *path = run_path(arena, directory, COMPARISON_CONFIG);
    Reading r = {.path = path, .arena = arena, .faults = {.arena = arena}};
    size_t bytes;
    const char *text = file_read(path, YAML_BYTES_MAX, arena, &bytes, err);
    Node *root = NULL;
    TRY(text && yaml_read_text(text, bytes, path, arena, &root, &r.faults, err));
    if (!node_find(root, "methods"))
        return FAIL(err, ERROR_INPUT,
                    "%s is not the directory of a comparison: its %s lists no "
                    "methods",
                    directory, COMPARISON_CONFIG);
    r.root = root;
    return resolve(&r, out, err);
}

/* ---- Writing ---- */

const char *comparison_write(const Comparison *comparison, Arena *arena) {
    char buffer[PATH_MAX];
    ComparisonConfig config = comparison->config;
    config.config = NULL;
    config.experiment = config_tree(&comparison->experiment, arena);
    const char *directory = getcwd(buffer, sizeof buffer);
    return node_to_yaml(fields_write_in(comparison_fields, &config, directory, arena), arena);
}

const char *comparison_run_name(const CompareRow *row, int64_t seed, Arena *arena) {
    return arena_format(arena, "%s-s%ld", row->name, (long)seed);
}

/* ---- Going on ---- */

/* The first line of a text, with those behind it that are its value: up to one that does not end in
 * a colon. At most 60 characters. */
static const char *setting_of(const char *text, Arena *arena) {
    char out[61] = "";
    size_t used = 0;
    for (bool has_value = false; *text && !has_value;) {
        text += strspn(text, " ");
        size_t length = strcspn(text, "\n");
        has_value = !length || text[length - 1] != ':';
        used += (size_t)snprintf(out + used, sizeof out - used, "%s%.*s", used ? " " : "",
                                 (int)length, text);
        if (used >= sizeof out) break;
        text += length + (text[length] == '\n');
    }
    return arena_strdup(arena, out);
}

/* In the first line in which they differ. */
static void first_difference(const char *a, const char *b, Arena *arena, const char **was,
                             const char **is) {
    for (;;) {
        size_t m = strcspn(a, "\n"), n = strcspn(b, "\n");
        if (m != n || strncmp(a, b, m) != 0 || !a[m] || !b[n]) break;
        a += m + 1;
        b += n + 1;
    }
    *was = setting_of(a, arena);
    *is = setting_of(b, arena);
}

static bool same_row(const CompareRow *then, const CompareRow *now, const char *directory,
                     Error *err) {
    if (!strcmp(then->text, now->text)) return true;
    const char *was, *is;
    Arena *arena = arena_new("difference");
    first_difference(then->text, now->text, arena, &was, &is);
    (void)FAIL(err, ERROR_INPUT,
               "%s holds a comparison in which %s was '%s', and now it is '%s'. Go on with the old "
               "one ('nibble compare --resume %s'), or give another --out",
               directory, then->label, was, is, directory);
    arena_free(arena);
    return false;
}

bool comparison_continues(const Comparison *then, const Comparison *now, const char *directory,
                          Error *err) {
    for (int i = 0; i < then->row_count; i++) {
        const CompareRow *row = row_named(now, then->rows[i].name);
        if (!row)
            return FAIL(err, ERROR_INPUT,
                        "%s holds a comparison with the row %s, which is not there any more; rows "
                        "can be added but not taken away: give another --out",
                        directory, then->rows[i].label);
        TRY(same_row(&then->rows[i], row, directory, err));
    }
    for (int i = 0; i < then->seed_count; i++) {
        bool is_there = false;
        for (int j = 0; j < now->seed_count; j++) is_there |= now->seeds[j] == then->seeds[i];
        if (!is_there)
            return FAIL(err, ERROR_INPUT,
                        "%s holds a comparison with seed %ld, which is not there any more; seeds "
                        "can be added but not taken away: give another --out",
                        directory, (long)then->seeds[i]);
    }
    return true;
}
