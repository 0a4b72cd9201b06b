/* What methods of post-training quantization read and change of a layer. */
#include <assert.h>
#include <string.h>

#include "autograd/layers/batch_norm.h"
#include "qat/ptq.h"

bool ptq_is_product(const WeightSite *site) {
    const Var *y = site->module->last_out;
    return site->is_only && y->op && y->op->geometry && y->in[0] == site->module->last_seen[0] &&
           (y->in[1] == site->weight->read || y->in[1] == site->weight->leaf);
}

int64_t ptq_channels(const WeightSite *site) {
    return site->weight->value.shape.dim[0];
}

void ptq_weight(const WeightSite *site, float *values) {
    if (site->norm)
        batch_norm_folded_weight(site->norm, values);
    else
        tensor_decode(&site->weight->value, values);
}

/* ---- Levels ---- */

Tensor ptq_levels(const WeightSite *site, Arena *arena) {
    float *values = arena_new_array(arena, float, tensor_count(&site->weight->value));
    ptq_weight(site, values);
    return quant_levels(site->quant, values, arena);
}

bool ptq_takes_levels(const WeightSite *site) {
    return site->quant && !site->quant->row->fake && site->weight->value.dtype == DTYPE_F32;
}

/* By the fold factor of each row, which is never 0. */
static void unfold(const WeightSite *site, float *weight, Arena *arena) {
    int64_t rows = ptq_channels(site), row = tensor_count(&site->weight->value) / rows;
    float *factors = arena_new_array(arena, float, rows);
    batch_norm_factors(site->norm, factors);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < row; i++) weight[r * row + i] /= factors[r];
}

static bool has_levels(const WeightSite *site, const float *levels, Arena *arena) {
    Tensor now = ptq_levels(site, arena);
    const float *found = tensor_f32(&now);
    for (int64_t i = 0, count = tensor_count(&now); i < count; i++)
        if (found[i] != levels[i]) return false;
    return true;
}

void ptq_set_levels(const WeightSite *site, const float *levels) {
    assert(ptq_takes_levels(site));
    Arena *arena = arena_new("levels");
    float *master = tensor_f32(&site->weight->value);
    int64_t count = tensor_count(&site->weight->value);
    levels_decode(levels, quant_freeze(site->quant, arena), 0, count, master);
    if (site->norm) unfold(site, master, arena);
    bool is_same = has_levels(site, levels, arena);
    assert(is_same && "levels lie on the grid");
    (void)is_same;
    arena_free(arena);
}

bool ptq_refit(const WeightSite *site, const float *values, Error *err) {
    Arena *scratch = arena_new("range of a weight");
    Quant *q = site->quant;
    bool ok = !q->row->observe || quant_fit(q,
                                            (Observed){.x = values,
                                                       .count = tensor_count(&site->weight->value),
                                                       .scratch = scratch},
                                            err);
    arena_free(scratch);
    return ok;
}

/* ---- Bias ---- */

/* What is added to every output: the norm's shift, else the layer's bias; NULL: there is none that
 * can change. A bias belongs to the layer: where it has several weights, to none of them. */
static Param *bias_of(const WeightSite *site) {
    Param *p = NULL;
    if (site->norm)
        p = module_find_param(site->norm, "beta");
    else if (site->is_only)
        p = module_find_param(site->module, "bias");
    return p && p->value.dtype == DTYPE_F32 ? p : NULL;
}

bool ptq_has_bias(const WeightSite *site) {
    return bias_of(site) != NULL;
}

void ptq_bias(const WeightSite *site, float *bias) {
    memset(bias, 0, sizeof *bias * (size_t)ptq_channels(site));
    const Param *p = site->is_only ? module_find_param(site->module, "bias") : NULL;
    if (site->norm)
        batch_norm_deployed_bias(site->norm, bias);
    else if (p)
        tensor_decode(&p->value, bias);
}

void ptq_add_bias(const WeightSite *site, const float *correction) {
    float *bias = tensor_f32(&bias_of(site)->value);
    for (int64_t c = 0; c < ptq_channels(site); c++) bias[c] += correction[c];
}
