/* Cross-layer equalization (Nagel et al. 2019, Data-Free Quantization, section 4.1). Between two
 * layers that an op f with f(s x) = s f(x) joins, channel i of the first may be divided by any s_i
 * above 0, if what the second multiplies it with is multiplied by s_i. With r1_i and r2_i the
 * largest magnitudes of the two,
 *
 *     s_i = sqrt(r1_i / r2_i)       = sqrt(r1_i r2_i) / r2_i
 *
 * makes both sqrt(r1_i r2_i): no channel needs much of a range that all of them share. Pairs take
 * turns until factors settle. Ranges are those of folded weights; what is divided behind a batch
 * norm is its gamma and beta, else the first layer's weight and bias. */
#include <math.h>

#include "autograd/layers/batch_norm.h"
#include "core/log.h"
#include "qat/ptq/pairs.h"

static const double settled = 1e-3;   /* of a factor's logarithm, in a turn */
static const double gamma_min = 1e-4; /* well above what a fold keeps of a smaller one (1e-5) */

typedef struct EqualizeConfig {
    int64_t iterations;
} EqualizeConfig;

static const Field fields[] = {
    FIELD_INT(EqualizeConfig, iterations, "100", 1, 100000,
              "turns of all pairs, at most; they end when factors settle"),
    FIELD_END,
};

/* A pair, and the magnitudes of its folded weights as they have become, which it shares with the
 * pairs before and behind it. */
typedef struct Balance {
    Pair pair;
    float *first, *second;
    double *range1, *range2, *factors; /* [channels]; factors: of all turns */
} Balance;

typedef struct Equalize {
    Ptq *p;
    float **magnitudes; /* by site */
    Balance *items;
    int count;
} Equalize;

static int64_t count_of(const WeightSite *site) {
    return tensor_count(&site->weight->value);
}

/* ---- Finding ---- */

static float *magnitudes_of(const Qat *qat, const WeightSite *site, Arena *arena) {
    int64_t count = count_of(site), rows = ptq_channels(site);
    float *values = arena_new_array(arena, float, count);
    float *gains = arena_new_array(arena, float, rows);
    Module *norm = pair_norm(qat, site);
    tensor_decode(&site->weight->value, values);
    if (norm) batch_norm_gains(norm, gains);
    for (int64_t i = 0; i < count; i++)
        values[i] = fabsf(values[i]) * (norm ? gains[i / (count / rows)] : 1);
    return values;
}

static void add_pair(Equalize *e, const Pair *pair) {
    Arena *arena = e->p->scratch;
    const WeightSite *sites = e->p->qat->sites;
    Balance *b = &e->items[e->count++];
    *b = (Balance){.pair = *pair,
                   .first = e->magnitudes[pair->first - sites],
                   .second = e->magnitudes[pair->second - sites],
                   .range1 = arena_new_array(arena, double, pair->channels),
                   .range2 = arena_new_array(arena, double, pair->channels),
                   .factors = arena_new_array(arena, double, pair->channels)};
    for (int64_t c = 0; c < pair->channels; c++) b->factors[c] = 1;
}

static bool find_pairs(Equalize *e, Error *err) {
    const Qat *qat = e->p->qat;
    Arena *arena = e->p->scratch;
    TRY(pairs_begin(e->p, err));
    e->magnitudes = arena_new_array(arena, float *, qat->site_count);
    e->items = arena_new_array(arena, Balance, qat->site_count);
    for (int i = 0; i < qat->site_count; i++)
        e->magnitudes[i] = magnitudes_of(qat, &qat->sites[i], arena);
    for (int i = 0; i < qat->site_count; i++) {
        Pair pair;
        PairReason reason;
        if (pair_find(qat, &qat->sites[i], &pair, &reason))
            add_pair(e, &pair);
        else if (*reason.text)
            ptq_skip(e->p, qat->sites[i].name, "its input channels are not equalized: %s",
                     reason.text);
    }
    return true;
}

/* ---- Balancing ---- */

static void find_ranges(const Balance *b) {
    const Pair *pair = &b->pair;
    int64_t row = count_of(pair->first) / pair->channels;
    for (int64_t c = 0; c < pair->channels; c++) b->range1[c] = b->range2[c] = 0;
    for (int64_t i = 0; i < count_of(pair->first); i++)
        b->range1[i / row] = fmax(b->range1[i / row], (double)b->first[i]);
    for (int64_t i = 0; i < count_of(pair->second); i++) {
        double *range = &b->range2[pair_channel(pair, i)];
        *range = fmax(*range, (double)b->second[i]);
    }
}

/* A channel that one side does not use has no ranges to balance; nor is gamma made so small that it
 * would be folded as another. */
static double factor_of(const Balance *b, int64_t c) {
    if (b->range1[c] == 0 || b->range2[c] == 0) return 1;
    double s = sqrt(b->range1[c] / b->range2[c]);
    if (!b->pair.norm) return s;
    const Param *gamma = module_find_param(b->pair.norm, "gamma");
    double most = fabs((double)tensor_f32(&gamma->value)[c]) / gamma_min / b->factors[c];
    return most < 1 ? 1 : fmin(s, most);
}

/* How much the factors have moved. */
static double balance(const Balance *b) {
    const Pair *pair = &b->pair;
    int64_t row = count_of(pair->first) / pair->channels;
    double moved = 0;
    double *s = b->range1; /* in the place of the ranges that made it */
    find_ranges(b);
    for (int64_t c = 0; c < pair->channels; c++) {
        s[c] = factor_of(b, c);
        b->factors[c] *= s[c];
        moved = fmax(moved, fabs(log(s[c])));
    }
    for (int64_t i = 0; i < count_of(pair->first); i++)
        b->first[i] = (float)((double)b->first[i] / s[i / row]);
    for (int64_t i = 0; i < count_of(pair->second); i++)
        b->second[i] = (float)((double)b->second[i] * s[pair_channel(pair, i)]);
    return moved;
}

/* ---- Applying ---- */

static void divide_rows(Param *param, const double *factors, int64_t channels) {
    if (!param) return;
    float *x = tensor_f32(&param->value);
    int64_t count = tensor_count(&param->value), row = count / channels;
    for (int64_t i = 0; i < count; i++) x[i] = (float)((double)x[i] / factors[i / row]);
}

static void move_factors(const Balance *b) {
    const Pair *pair = &b->pair;
    const Module *holder = pair->norm ? pair->norm : pair->first->module;
    Param *slope = pair->norm ? module_find_param(holder, "gamma") : pair->first->weight;
    Param *shift = module_find_param(holder, pair->norm ? "beta" : "bias");
    divide_rows(slope, b->factors, pair->channels);
    divide_rows(shift, b->factors, pair->channels);
    float *w = tensor_f32(&pair->second->weight->value);
    for (int64_t i = 0; i < count_of(pair->second); i++)
        w[i] = (float)((double)w[i] * b->factors[pair_channel(pair, i)]);
}

static void report(Ptq *p, const Balance *b) {
    double smallest = INFINITY, largest = 0;
    for (int64_t c = 0; c < b->pair.channels; c++) {
        smallest = fmin(smallest, b->factors[c]);
        largest = fmax(largest, b->factors[c]);
    }
    ptq_note(p, b->pair.second->name, "smallest_factor", smallest);
    ptq_note(p, b->pair.second->name, "largest_factor", largest);
}

static bool apply(Ptq *p, const void *config, Error *err) {
    Equalize e = {.p = p};
    int64_t iterations = ((const EqualizeConfig *)config)->iterations, turns = 0;
    TRY(find_pairs(&e, err));
    double moved = e.count ? INFINITY : 0;
    for (; turns < iterations && moved > settled; turns++) {
        moved = 0;
        for (int i = 0; i < e.count; i++) moved = fmax(moved, balance(&e.items[i]));
    }
    for (int i = 0; i < e.count; i++) {
        move_factors(&e.items[i]);
        report(p, &e.items[i]);
    }
    if (!e.count)
        log_warning("equalize changes nothing: no two layers are joined by ops that pass a "
                    "channel's factor on, such as relu, pooling and flatten");
    if (moved > settled)
        log_warning("equalize: factors still move by %.3g %% after %ld iterations: raise "
                    "iterations",
                    100 * expm1(moved), (long)turns);
    ptq_note(p, NULL, "pairs", e.count);
    ptq_note(p, NULL, "iterations", (double)turns);
    return true;
}

const PtqMethod ptq_method_equalize = {
    .kind = {.name = "equalize",
             .help = "channels of neighbouring layers get equal ranges; the function stays",
             .config_bytes = sizeof(EqualizeConfig),
             .fields = fields},
    .flags = PTQ_KEEPS_FUNCTION,
    .apply = apply,
};
