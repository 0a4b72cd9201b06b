#include "experiments/train/bits.h"

#include <string.h>

#include "core/log.h"
#include "experiments/models/models.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/saved.h"
#include "experiments/train/sensitivity.h"
#include "qat/allocation.h"
#include "qat/calibration.h"
#include "qat/convert.h"

static const int candidates[] = {BITS_AUTO_LEAST, 3, 4, 5, 6, 7, 8};
enum {
    CANDIDATES = sizeof candidates / sizeof *candidates,
    ROWS = 512 /* looked at, of either split */
};

/* A layer whose bits are to be chosen: all its weights but those that a rule gives bits. */
typedef struct BitsLayer {
    const char *name;
    int site; /* the first */
} BitsLayer;

typedef struct Allocation {
    Experiment *e;
    const Checkpoint *network;
    Arena *arena;
    BitsLayer *layers;
    int count;
    bool has_activations; /* the layers' inputs have the bits that are chosen */
    double *cost;         /* [count][CANDIDATES] */
    int64_t *bytes;       /* [count][CANDIDATES] */
    int64_t rest;         /* of the packed network: what bits do not change */
    int *chosen;
} Allocation;

/* ---- Networks to look at ---- */

static QuantRule layer_rule(const Allocation *a, int layer, int bits, Arena *arena) {
    QuantRule rule = {.layers = qat_rule_word(a->layers[layer].name, arena)};
    *(a->has_activations ? &rule.bits : &rule.weight_bits) = bits_choice(bits);
    return rule;
}

/* The network quantized as `quant` says, in memory of its own, on the data of `e`. */
static bool probe_open(const Allocation *a, const QatConfig *quant, Experiment *probe, Error *err) {
    const Experiment *e = a->e;
    *probe = *e;
    probe->arena = arena_new("network to look at");
    probe->config.quant = *quant;
    const DataFacts *facts = loader_facts(e->loader);
    Shape input = SHAPE(facts->height, facts->width, facts->channels);
    TRY(models_build(&e->config.model, input, facts->class_count, (uint64_t)e->config.seed,
                     probe->arena, &probe->model, err));
    TRY(qat_prepare(probe->model, &probe->config.quant, probe->arena, &probe->qat, err));
    probe->tape = tape_new(probe->arena);
    qat_set_evaluation(probe->qat);
    return checkpoint_init(a->network, "", probe->model, err);
}

static void probe_close(Experiment *probe) {
    tape_free(probe->tape);
    arena_free(probe->arena);
}

/* To the nearest value of the best range, whatever quantizers will train. A scale per token is made
 * of each row. */
static QatConfig rounding(const Allocation *a) {
    QatConfig quant = a->e->config.quant;
    Variant mse = {&quantizer_mse.kind, kind_defaults(&quantizer_mse.kind, a->arena)};
    quant.weights.quantizer = mse;
    if (qat_activation_granularities[quant.activations.granularity] != GRANULARITY_TOKEN)
        quant.activations.quantizer = mse;
    return quant;
}

/* All layers that are to be chosen for at `bits`. */
static QatConfig uniform(const Allocation *a, int bits) {
    QatConfig quant = rounding(a);
    quant.bits = bits_choice(bits);
    return quant;
}

/* Ranges of activations are those of the float network; of weights, those of the folded ones. */
static bool calibrate(Experiment *probe, Error *err) {
    Evaluation rows = {.limit = ROWS}, one = {.limit = 1};
    Qat *qat = probe->qat;
    calibration_begin(qat);
    qat->phase.is_faking = false;
    bool ok = evaluate(probe, LOADER_CALIBRATION, NETWORK_ACTIVATIONS, &rows, err);
    qat_set_evaluation(qat);
    ok = ok && evaluate(probe, LOADER_CALIBRATION, NETWORK_WEIGHTS, &one, err);
    calibration_end(qat);
    TRY(ok);
    const Quant *missing = calibration_find_missing(qat);
    return !missing || FAIL(err, ERROR_INPUT,
                            "quant.bits: auto: '%s' saw nothing but zeros, since the layers before "
                            "it give nothing else; name another train.init",
                            missing->name);
}

/* ---- What is to be chosen, and what it costs ---- */

static void find_layers(Allocation *a, const Qat *qat) {
    a->layers = arena_new_array(a->arena, BitsLayer, qat->site_count);
    for (int i = 0; i < qat->site_count; i++) {
        const char *name = qat->sites[i].module->name;
        if (!qat_leaves_bits(qat, &qat->sites[i])) continue;
        if (a->count && !strcmp(a->layers[a->count - 1].name, name)) continue;
        a->layers[a->count++] = (BitsLayer){arena_strdup(a->arena, name), i};
    }
    a->cost = arena_new_array(a->arena, double, a->count *CANDIDATES);
    a->bytes = arena_new_array(a->arena, int64_t, a->count * CANDIDATES);
    a->chosen = arena_new_array(a->arena, int, a->count);
}

static int64_t layer_bytes(const Qat *qat, int site) {
    const Module *module = qat->sites[site].module;
    int64_t bytes = 0;
    for (int i = site; i < qat->site_count && qat->sites[i].module == module; i++)
        if (qat_leaves_bits(qat, &qat->sites[i])) bytes += convert_weight_bytes(&qat->sites[i]);
    return bytes;
}

bool bits_check_budget(int64_t budget, Qat *smallest, Error *err) {
    int64_t total = convert_bytes(smallest).quantized;
    if (budget >= total) return true;
    return FAIL(err, ERROR_INPUT,
                "quant.budget_bytes: no choice of bits meets %ld bytes: with %d bits everywhere "
                "but where rules say otherwise the packed network takes %ld; give that, a smaller "
                "model, or in place of auto 1 or 1.58 bits (weights: {quantizer: paretoq})",
                (long)budget, BITS_AUTO_LEAST, (long)total) ||
           error_blame(err, "quant.budget_bytes");
}

/* The smallest network says what there is to choose, and whether it can be small enough. */
static bool begin(Allocation *a, Error *err) {
    const QatConfig smallest = uniform(a, candidates[0]);
    Experiment probe;
    bool ok = probe_open(a, &smallest, &probe, err);
    if (ok) {
        find_layers(a, probe.qat);
        a->rest = convert_bytes(probe.qat).quantized;
        for (int i = 0; i < a->count; i++) a->rest -= layer_bytes(probe.qat, a->layers[i].site);
        if (!a->count)
            ok = FAIL(err, ERROR_INPUT,
                      "quant.bits: auto has nothing to choose: rules give every layer its bits") ||
                 error_blame(err, "quant.bits");
        ok = ok && bits_check_budget(a->e->config.quant.budget_bytes, probe.qat, err) &&
             saved_warn_quantized(a->network, probe.model, err);
    }
    probe_close(&probe);
    return ok;
}

/* Each layer alone at one width, in the network where all have it. */
static bool measure_layers(Allocation *a, int width, Experiment *probe, Error *err) {
    SensitivityPart part = a->has_activations ? SENSITIVITY_BOTH : SENSITIVITY_WEIGHTS;
    Sensitivity s;
    TRY(sensitivity_begin(probe, ROWS, probe->arena, &s, err));
    for (int i = 0; i < a->count; i++) {
        SensitivityCost cost;
        TRY(sensitivity_layer(&s, a->layers[i].site, part, &cost, err));
        a->cost[i * CANDIDATES + width] = cost.kl;
        a->bytes[i * CANDIDATES + width] = layer_bytes(probe->qat, a->layers[i].site);
    }
    return true;
}

static bool measure(Allocation *a, Error *err) {
    int64_t rows = loader_rows(a->e->loader, LOADER_VALIDATION);
    log_info("quant.bits: auto: %d layers are measured at %d to %d bits on %ld validation %s",
             a->count, candidates[0], candidates[CANDIDATES - 1], (long)(rows < ROWS ? rows : ROWS),
             a->e->task->rows);
    for (int i = 0; i < CANDIDATES; i++) {
        const QatConfig quant = uniform(a, candidates[i]);
        Experiment probe;
        bool ok = probe_open(a, &quant, &probe, err) && calibrate(&probe, err) &&
                  measure_layers(a, i, &probe, err);
        probe_close(&probe);
        TRY(ok);
    }
    return true;
}

/* ---- What is chosen ---- */

/* A rule for each layer, and behind them the user's own. */
static QatConfig resolved(const Allocation *a, Arena *arena) {
    QatConfig quant = a->e->config.quant;
    int own = quant.rules.count, most = 0;
    QuantRule *rules = arena_new_array(arena, QuantRule, a->count + own);
    for (int i = 0; i < a->count; i++) {
        int bits = candidates[a->chosen[i]];
        rules[i] = layer_rule(a, i, bits, arena);
        if (bits > most) most = bits;
    }
    if (own) memcpy(rules + a->count, quant.rules.items, sizeof *rules * (size_t)own);
    quant.rules = (List){a->count + own, rules};
    quant.bits = bits_choice(most);
    quant.budget_bytes = 0;
    return quant;
}

/* Readers of one value at several bits take a scale more, which no layer alone accounts for: where
 * that is too much, less is given to the layers. */
static bool choose(Allocation *a, Arena *config_arena, QatConfig *out, int64_t *total, Error *err) {
    int64_t budget = a->e->config.quant.budget_bytes;
    AllocationProblem p = {.layers = a->count,
                           .choices = CANDIDATES,
                           .cost = a->cost,
                           .bytes = a->bytes,
                           .budget = budget - a->rest};
    for (*total = INT64_MAX; *total > budget; p.budget -= *total - budget) {
        if (!allocation_solve(&p, a->chosen)) memset(a->chosen, 0, sizeof(int) * (size_t)a->count);
        *out = resolved(a, config_arena);
        Experiment probe;
        bool ok = probe_open(a, out, &probe, err);
        if (ok) *total = convert_bytes(probe.qat).quantized;
        probe_close(&probe);
        TRY(ok);
    }
    return true;
}

static void log_table(const Allocation *a, int64_t total) {
    double sum = 0;
    for (int i = 0; i < a->count; i++) {
        int at = i * CANDIDATES + a->chosen[i];
        log_info("bits   %-28s %d bits %10ld bytes  KL %.6f", a->layers[i].name,
                 candidates[a->chosen[i]], (long)a->bytes[at], a->cost[at]);
        sum += a->cost[at];
    }
    log_info("bits   %-28s %17ld bytes  KL %.6f, of %ld bytes", "the packed network", (long)total,
             sum, (long)a->e->config.quant.budget_bytes);
}

static bool resolve(Experiment *e, const Checkpoint *network, Arena *arena, Arena *config_arena,
                    Error *err) {
    Allocation a = {.e = e, .network = network, .arena = arena};
    QatConfig chosen;
    int64_t total;
    a.has_activations = !bits_value(e->config.quant.activations.bits);
    TRY(begin(&a, err) && measure(&a, err));
    TRY(choose(&a, config_arena, &chosen, &total, err));
    log_table(&a, total);
    e->config.quant = chosen;
    return true;
}

bool bits_resolve(Experiment *e, const char *from, Arena *config_arena, Error *err) {
    if (bits_value(e->config.quant.bits) != BITS_AUTO) return true;
    if (!from)
        return FAIL(err, ERROR_INPUT,
                    "quant.bits: auto measures a trained network: name a run that was trained in "
                    "FP32 as train.init") ||
               error_blame(err, "quant.bits");
    Checkpoint network;
    Arena *arena = arena_new("allocation of bits");
    bool is_open = saved_open_weights(from, arena, &network, err);
    bool ok = is_open && resolve(e, &network, arena, config_arena, err);
    if (is_open) checkpoint_close(&network);
    arena_free(arena);
    return ok;
}
