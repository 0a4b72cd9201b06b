#include "experiments/compare/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/settings/yaml.h"

static const Kind *const kinds[] = {
#define COMPARE_METHOD(name) &compare_method_##name.kind,
#include "experiments/compare/methods.def"
#undef COMPARE_METHOD
};
const KindTable compare_method_kinds = {"method", kinds, sizeof kinds / sizeof *kinds};

bool method_is_baseline(const CompareMethod *method) {
    return method == &compare_method_fp32;
}

/* The bits at the start of `*text`, which then stands behind them; NULL: there are none. */
static const char *take_bits(const char **text, Arena *arena) {
    static const char *const widths[] = {"auto", "1.58", "32", "1", "2", "3",
                                         "4",    "5",    "6",  "7", "8"};
    size_t length = strspn(*text, "0123456789.");
    if (!strncmp(*text, "auto", 4)) length = 4;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        if (strlen(widths[i]) != length || strncmp(*text, widths[i], length) != 0) continue;
        *text += length;
        return arena_strdup(arena, widths[i]);
    }
    return NULL;
}

bool row_bits_parse(const char *text, RowBits *out, Arena *arena) {
    bool is_both = *text != 'w';
    text += !is_both;
    out->weights = out->activations = take_bits(&text, arena);
    if (!is_both && *text == 'a') {
        text++;
        out->activations = take_bits(&text, arena);
    } else if (!is_both) {
        out->activations = "32";
    }
    if (!out->weights || !out->activations || *text) return false;
    return is_both || strcmp(out->activations, "auto") != 0;
}

bool row_bits_are_chosen(RowBits bits) {
    return !strcmp(bits.weights, "auto");
}

double row_bits_number(const char *bits) {
    return strcmp(bits, "auto") != 0 ? strtod(bits, NULL) : (double)NAN;
}

const char *row_bits_name(RowBits bits, Arena *arena) {
    if (!strcmp(bits.activations, "auto")) return bits.weights;
    if (!strcmp(bits.activations, "32")) return arena_format(arena, "w%s", bits.weights);
    return arena_format(arena, "w%sa%s", bits.weights, bits.activations);
}

/* {name: over} over the experiment. */
Node *method_overlay(const Node *base, const char *name, const Node *over, Arena *arena) {
    Node *above = node_new(arena, NODE_MAP, NULL, NULL, base->mark);
    if (over) {
        Node *section = node_copy(arena, over);
        section->key = name;
        node_append(above, section);
    }
    return fields_overlay(experiment_fields, base, above, arena);
}

Node *method_experiment(const Node *base, const MethodConfig *config, Arena *arena) {
    const struct {
        const char *name;
        const Node *settings;
    } sections[] = {{"quant", config->quant},
                    {"optimizer", config->optimizer},
                    {"schedule", config->schedule},
                    {"train", config->train}};
    Node *tree = node_copy(arena, base);
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        tree = method_overlay(tree, sections[i].name, sections[i].settings, arena);
    return tree;
}

Node *method_set_bits(const Node *base, RowBits bits, Arena *arena) {
    const char *text = arena_format(
        arena, "{bits: %s, weights: {bits: %s}, activations: {bits: inherit}, budget_bytes: 0}",
        bits.activations, bits.weights);
    if (row_bits_are_chosen(bits)) {
        bool is_both = !strcmp(bits.activations, "auto");
        text =
            arena_format(arena, "{bits: auto, weights: {bits: inherit}, activations: {bits: %s}}",
                         is_both ? "inherit" : bits.activations);
    }
    return method_overlay(base, "quant", yaml_read_own(text, base->mark, arena), arena);
}
