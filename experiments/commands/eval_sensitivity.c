#include "experiments/commands/eval_sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/print.h"
#include "experiments/commands/eval_text.h"
#include "experiments/train/sensitivity.h"

/* Of an FP32 network; ranked by the second. */
static const int weight_bits[] = {8, 4, 3, 2};
enum { WEIGHT_BITS = sizeof weight_bits / sizeof *weight_bits, RANKING_BITS = 1 };

typedef struct Ranked {
    const WeightSite *site;
    SensitivityCost costs[WEIGHT_BITS]; /* by part, or by bits */
    double rank;
} Ranked;

/* The most costly first, else in the order of the network. */
static int compare(const void *left, const void *right) {
    const Ranked *a = left, *b = right;
    if (a->rank != b->rank) return a->rank < b->rank ? 1 : -1;
    return (a->site > b->site) - (a->site < b->site);
}

static bool measure(Sensitivity *s, bool is_quantized, Ranked *ranked, Error *err) {
    const Qat *qat = s->e->qat;
    for (int i = 0; i < qat->site_count; i++) {
        SensitivityCost *costs = ranked[i].costs;
        ranked[i].site = &qat->sites[i];
        for (int part = 0; is_quantized && part < SENSITIVITY_PARTS; part++)
            TRY(sensitivity_layer(s, i, (SensitivityPart)part, &costs[part], err));
        for (int j = 0; !is_quantized && j < WEIGHT_BITS; j++)
            TRY(sensitivity_weight(s, i, weight_bits[j], &costs[j], err));
        ranked[i].rank = costs[is_quantized ? SENSITIVITY_BOTH : RANKING_BITS].kl;
    }
    qsort(ranked, (size_t)qat->site_count, sizeof *ranked, compare);
    return true;
}

static void add_cost(Json *layer, const char *part, const Score *score, const SensitivityCost *cost,
                     Arena *arena) {
    json_set_number(layer, arena_format(arena, "%skl", part), cost->kl);
    json_set_number(layer, arena_format(arena, "%sloss", part), cost->loss);
    json_set_number(layer, arena_format(arena, "%s%s", part, score->key), cost->score);
    json_set_int(layer, arena_format(arena, "%schanged", part), cost->changed);
}

static void add_layer(Json *json, const Ranked *r, bool is_quantized, const Score *score,
                      Arena *arena) {
    static const char *const parts[SENSITIVITY_PARTS] = {"", "weights.", "input."};
    Json *layer = json_append(json, "sensitivity");
    const WeightSite *site = r->site;
    json_set_text(layer, "name", site->name);
    json_set_int(layer, "parameters", tensor_count(&site->weight->value));
    if (!is_quantized) {
        for (int i = 0; i < WEIGHT_BITS; i++)
            add_cost(layer, arena_format(arena, "bits_%d.", weight_bits[i]), score, &r->costs[i],
                     arena);
        return;
    }
    json_set_shortest(layer, "bits",
                      bits_number(site->quant ? site->quant->spec.bits : BITS_FLOAT));
    json_set_shortest(layer, "activation_bits",
                      bits_number(site->input ? site->input->spec.bits : BITS_FLOAT));
    for (int i = 0; i < SENSITIVITY_PARTS; i++)
        add_cost(layer, parts[i], score, &r->costs[i], arena);
}

bool eval_sensitivity(Experiment *e, int64_t rows, Json **out, Error *err) {
    Arena *arena = arena_new("sensitivity");
    Sensitivity s;
    int sites = e->qat->site_count;
    bool is_quantized = qat_is_active(e->qat);
    Ranked *ranked = arena_new_array(arena, Ranked, sites);
    bool ok = sensitivity_begin(e, rows, arena, &s, err) && measure(&s, is_quantized, ranked, err);
    *out = ok ? json_new() : NULL;
    if (ok) json_set_int(*out, "rows", s.exact.rows);
    for (int i = 0; ok && i < sites; i++)
        add_layer(*out, &ranked[i], is_quantized, &e->task->scores[0], arena);
    arena_free(arena);
    return ok;
}

/* ---- Text ---- */

static void print_quantized(const Json *json, const Score *score, int width, Arena *arena) {
    print_out("%-*s %12s %10s %10s %12s %23s\n", width, "", "bits", "KL", "loss", score->name,
              "KL of one alone");
    print_out("%-*s %6s %5s %10s %10s %12s %11s %11s\n", width, "layer", "weight", "input", "nats",
              "more", "lost", "weights", "input");
    for (int i = 0; i < json_count(json, "sensitivity"); i++) {
        const Json *layer = json_element(json, "sensitivity", i);
        print_out("%-*s", width, json_get_text(layer, "name"));
        eval_text_cell(layer, "bits", 6, "%.4g", "-");
        eval_text_cell(layer, "activation_bits", 5, "%.4g", "-");
        eval_text_cell(layer, "kl", 10, "%.6f", "-");
        eval_text_cell(layer, "loss", 10, "%+.5f", "-");
        double lost = json_number(layer, score->key) * score->factor;
        print_out(" %12s",
                  arena_format(arena, "%+.*f %s", score->decimals, lost, score->points_unit));
        eval_text_cell(layer, "weights.kl", 11, "%.6f", "-");
        eval_text_cell(layer, "input.kl", 11, "%.6f", "-");
        putchar('\n');
    }
}

static void print_float(const Json *json, int width, Arena *arena) {
    print_out("%-*s %12s  KL in nats, its weight alone at so many bits\n", width, "", "");
    print_out("%-*s %12s", width, "layer", "parameters");
    for (int j = 0; j < WEIGHT_BITS; j++) print_out(" %11d", weight_bits[j]);
    putchar('\n');
    for (int i = 0; i < json_count(json, "sensitivity"); i++) {
        const Json *layer = json_element(json, "sensitivity", i);
        print_out("%-*s", width, json_get_text(layer, "name"));
        eval_text_cell(layer, "parameters", 12, "%.0f", "-");
        for (int j = 0; j < WEIGHT_BITS; j++)
            eval_text_cell(layer, arena_format(arena, "bits_%d.kl", weight_bits[j]), 11, "%.6f",
                           "-");
        putchar('\n');
    }
}

void eval_sensitivity_print(const Json *json, const Task *task, Arena *arena) {
    int width = eval_text_width(json, "sensitivity");
    const Json *first = json_element(json, "sensitivity", 0);
    bool is_quantized = first && isfinite(json_number(first, "bits"));
    print_out("What each layer costs when it alone is quantized, on %.0f validation %s\n",
              json_number(json, "rows"), task->rows);
    if (is_quantized)
        print_quantized(json, &task->scores[0], width, arena);
    else
        print_float(json, width, arena);
}
