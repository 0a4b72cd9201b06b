#include "experiments/train/layers.h"

#include <string.h>

#include "core/parallel.h"
#include "experiments/train/code_use.h"

/* Of one site, over all rows. */
typedef struct SiteSums {
    DeviationSums whole, causes[LAYER_CAUSES];
    CodeUse weight, input;
} SiteSums;

typedef struct Comparison {
    Experiment *e;
    Arena *arena;
    bool has_causes;
    SiteSums *sums; /* [sites] */
    Tensor *exact;  /* [sites]: outputs of the shadow, of this part */
    Tensor *inputs; /* [sites]: what it gives the layer */
} Comparison;

/* Where a site's result can be compared: after the batch norm that was folded into it. */
static const Var *site_output(const WeightSite *site) {
    return site->norm ? site->norm->last_out : site->module->last_out;
}

static Tensor copy_values(const Var *v, Arena *arena) {
    Tensor copy = tensor_new(arena, DTYPE_F32, v->value.shape);
    memcpy(copy.data, var_f32(v), sizeof(float) * (size_t)var_count(v));
    return copy;
}

static void add(const Comparison *c, int site, const Var *given, DeviationSums *sums) {
    const float *exact = tensor_f32(&c->exact[site]);
    deviation_add(sums, exact, var_f32(given), var_count(given), c->arena);
}

static bool run_shadow(Comparison *c, TaskStep *step, Error *err) {
    const Qat *qat = c->e->qat;
    TRY(evaluate_kept(step, evaluate_mode(NETWORK_SHADOW), err));
    for (int i = 0; i < qat->site_count; i++) {
        c->exact[i] = copy_values(site_output(&qat->sites[i]), c->arena);
        if (c->has_causes) c->inputs[i] = copy_values(qat->sites[i].module->last_in[0], c->arena);
    }
    return true;
}

/* Weights are the same in every part: they are counted in the first. */
static bool run_trained(Comparison *c, TaskStep *step, Error *err) {
    const Qat *qat = c->e->qat;
    TRY(evaluate_kept(step, evaluate_mode(NETWORK_TRAINED), err));
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        SiteSums *sums = &c->sums[i];
        add(c, i, site_output(site), &sums->whole);
        if (!sums->weight.count) code_use_add(&sums->weight, site->quant, c->e->tape);
        code_use_add(&sums->input, site->input, c->e->tape);
    }
    return true;
}

static bool run_network(Comparison *c, TaskStep *step, Network network, LayerCause cause,
                        Error *err) {
    const Qat *qat = c->e->qat;
    TRY(evaluate_kept(step, evaluate_mode(network), err));
    for (int i = 0; i < qat->site_count; i++)
        add(c, i, site_output(&qat->sites[i]), &c->sums[i].causes[cause]);
    return true;
}

/* The layer and its norm on the shadow's input, on a record of their own. */
static bool run_alone(Comparison *c, int i, Network network, LayerCause cause, Error *err) {
    const WeightSite *site = &c->e->qat->sites[i];
    Tape *t = c->e->tape;
    bool is_quantized = network == NETWORK_WEIGHTS ? site->quant : site->input;
    if (!is_quantized) return true;
    tape_begin(t, evaluate_mode(network));
    Var *x = tape_constant(t, c->inputs[i]);
    if (site->input && site->input_at != site->module) x = quant_apply(site->input, t, x);
    Var *y = module_apply_one(site->module, t, x);
    if (site->norm) y = module_apply_one(site->norm, t, y);
    TRY(evaluate_check(t, y, err));
    add(c, i, y, &c->sums[i].causes[cause]);
    return true;
}

static bool run_causes(Comparison *c, TaskStep *step, Error *err) {
    TRY(run_network(c, step, NETWORK_WEIGHTS, LAYER_WEIGHTS_CUMULATIVE, err));
    TRY(run_network(c, step, NETWORK_ACTIVATIONS, LAYER_INPUT_CUMULATIVE, err));
    for (int i = 0; i < c->e->qat->site_count; i++) {
        TRY(run_alone(c, i, NETWORK_WEIGHTS, LAYER_WEIGHTS_LOCAL, err));
        TRY(run_alone(c, i, NETWORK_ACTIVATIONS, LAYER_INPUT_LOCAL, err));
    }
    return true;
}

static bool compare_part(Comparison *c, TaskStep *step, Error *err) {
    ArenaMark mark = arena_mark(c->arena);
    parallel_adapt();
    TRY(run_shadow(c, step, err) && run_trained(c, step, err));
    if (c->has_causes) TRY(run_causes(c, step, err));
    arena_rewind(c->arena, mark);
    return true;
}

static bool compare_batch(Comparison *c, const Batch *batch, Error *err) {
    for (int64_t first = 0; first < batch->count; first += LAYERS_PART_ROWS) {
        int64_t left = batch->count - first;
        int64_t count = left < LAYERS_PART_ROWS ? left : LAYERS_PART_ROWS;
        TaskStep step = {.e = c->e, .batch = batch_part(batch, first, count)};
        TRY(compare_part(c, &step, err));
    }
    return true;
}

static void report(const WeightSite *site, const SiteSums *sums, LayerReport *out) {
    *out = (LayerReport){
        .name = site->name,
        .weight_bits = site->quant ? site->quant->spec.bits : BITS_FLOAT,
        .activation_bits = site->input ? site->input->spec.bits : BITS_FLOAT,
        .whole = deviation_of(&sums->whole),
        .clipped_weight = code_use_clipped(&sums->weight),
        .clipped_input = code_use_clipped(&sums->input),
        .unused_weight = code_use_unused(&sums->weight),
        .unused_input = code_use_unused(&sums->input),
    };
    for (int i = 0; i < LAYER_CAUSES; i++) out->causes[i] = deviation_of(&sums->causes[i]);
}

bool layers_compare(Experiment *e, LoaderSplit split, int64_t rows, bool has_causes,
                    LayerReport *reports, Error *err) {
    int sites = e->qat->site_count;
    Arena *arena = arena_new("layers");
    Comparison c = {.e = e,
                    .arena = arena,
                    .has_causes = has_causes,
                    .sums = arena_new_array(arena, SiteSums, sites),
                    .exact = arena_new_array(arena, Tensor, sites),
                    .inputs = arena_new_array(arena, Tensor, sites)};
    bool ok = true;
    for (int64_t i = 0, seen = 0; ok; i++) {
        Batch batch = evaluate_rows(e, split, i, seen, rows);
        if (!batch.count) break;
        ok = compare_batch(&c, &batch, err);
        seen += batch.count;
    }
    for (int i = 0; i < sites; i++) report(&e->qat->sites[i], &c.sums[i], &reports[i]);
    arena_free(arena);
    return ok;
}
