/* Rules of the configuration: words that name layers, and the bits that follow. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "qat/search.h"

enum { WORD_BYTES = 256 };

/* One group per input channel; a convolution that reads a single channel is an ordinary one. */
static bool is_depthwise(const WeightSite *site) {
    Shape w = site->weight->value.shape;
    return w.rank == 4 && w.dim[3] == 1 && shape_last(site->module->last_in[0]->value.shape) > 1;
}

/* The first and the last layer with all their weights; a layer's name means all of them too. */
static bool word_matches(const Qat *qat, const WeightSite *site, const char *word) {
    const Module *module = site->module;
    if (!strcmp(word, "first")) return module == qat->sites[0].module;
    if (!strcmp(word, "last")) return module == qat->sites[qat->site_count - 1].module;
    if (!strcmp(word, "depthwise")) return is_depthwise(site);
    return !strcmp(module->layer->kind.name, word) || !fnmatch(word, module->name, 0) ||
           !fnmatch(word, site->name, 0);
}

/* The next of the comma-separated words at *rest, without the spaces around it, cut to what fits;
 * false past the last. */
static bool next_word(const char **rest, char word[WORD_BYTES]) {
    const char *from = *rest + strspn(*rest, " ,");
    size_t length = strcspn(from, ",");
    *rest = from + length;
    while (length && from[length - 1] == ' ') length--;
    snprintf(word, WORD_BYTES, "%.*s", (int)length, from);
    return length > 0;
}

static bool rule_matches(const Qat *qat, const WeightSite *site, const char *layers) {
    char word[WORD_BYTES];
    while (next_word(&layers, word))
        if (word_matches(qat, site, word)) return true;
    return false;
}

static int first_set(int a, int b) {
    int bits = bits_value(a);
    return bits ? bits : bits_value(b);
}

void rules_bits(const Qat *qat, const WeightSite *site, int *weight, int *activation) {
    const QatConfig *c = &qat->config;
    *weight = first_set(c->weights.bits, c->bits);
    *activation = first_set(c->activations.bits, c->bits);
    const QuantRule *rules = c->rules.items;
    for (int i = 0; i < c->rules.count; i++) {
        if (!rule_matches(qat, site, rules[i].layers)) continue;
        int w = first_set(rules[i].weight_bits, rules[i].bits);
        int a = first_set(rules[i].activation_bits, rules[i].bits);
        if (w) *weight = w;
        if (a) *activation = a;
    }
}

bool qat_leaves_bits(const Qat *qat, const WeightSite *site) {
    Qat as_auto = *qat;
    int weight, activation;
    as_auto.config.bits = bits_choice(BITS_AUTO);
    rules_bits(&as_auto, site, &weight, &activation);
    return weight == BITS_AUTO;
}

/* A layer may be called like a word of rules: as a glob, "[f]irst" is nothing but that name. */
const char *qat_rule_word(const char *layer, Arena *arena) {
    static const char *const words[] = {"first", "last", "depthwise"};
    bool is_word = kind_find(&layer_kinds, layer);
    for (int i = 0; i < 3; i++) is_word |= !strcmp(layer, words[i]);
    return is_word ? arena_format(arena, "[%c]%s", *layer, layer + 1) : arena_strdup(arena, layer);
}

int rules_residual_bits(const Qat *qat) {
    return first_set(qat->config.residual_bits, qat->config.bits);
}

static bool word_is_used(const Qat *qat, const char *word) {
    for (int i = 0; i < qat->site_count; i++)
        if (word_matches(qat, &qat->sites[i], word)) return true;
    return false;
}

static bool fail_word(const Qat *qat, int rule, const char *word, Error *err) {
    const char **names = arena_new_array(qat->arena, const char *, qat->site_count);
    for (int i = 0; i < qat->site_count; i++) names[i] = qat->sites[i].name;
    const char *near = nearest_name(word, names, qat->site_count);
    if (near)
        return FAIL(err, ERROR_INPUT,
                    "quant.rules.%d: no layer with weights matches '%s'; did you mean '%s'?", rule,
                    word, near) ||
               error_blame(err, "quant.rules.%d.layers", rule);
    return FAIL(err, ERROR_INPUT,
                "quant.rules.%d: no layer with weights matches '%s'; the first is '%s'", rule, word,
                qat->site_count ? names[0] : "(none)") ||
           error_blame(err, "quant.rules.%d.layers", rule);
}

static bool check_rule(const Qat *qat, int rule, const char *layers, Error *err) {
    char word[WORD_BYTES];
    int words = 0;
    for (; next_word(&layers, word); words++)
        if (!word_is_used(qat, word)) return fail_word(qat, rule, word, err);
    return words || FAIL(err, ERROR_INPUT, "quant.rules.%d: layers names nothing", rule) ||
           error_blame(err, "quant.rules.%d.layers", rule);
}

bool rules_check(const Qat *qat, Error *err) {
    const QuantRule *rules = qat->config.rules.items;
    if (bits_value(qat->config.bits) == BITS_AUTO)
        return FAIL(err, ERROR_INPUT,
                    "quant.bits: auto is chosen by 'nibble train' and 'nibble quantize'; a run has "
                    "the bits that were chosen") ||
               error_blame(err, "quant.bits");
    if (!bits_value(qat->config.bits))
        return FAIL(err, ERROR_INPUT,
                    "quant.bits has nothing to inherit from; give 1 to 8, or 32") ||
               error_blame(err, "quant.bits");
    for (int i = 0; i < qat->config.rules.count; i++) TRY(check_rule(qat, i, rules[i].layers, err));
    return true;
}
