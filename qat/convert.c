#include "qat/convert.h"

#include <assert.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "core/kernels/operand.h"

static Tensor pack(Tensor levels, Arena *arena) {
    int64_t count = tensor_count(&levels);
    Tensor codes = tensor_zeros(arena, dtype_packed(levels.scales->grid), levels.shape);
    codes.scales = levels.scales;
    operand_write(tensor_f32(&levels), 0, count, &codes);
    return codes;
}

PackedWeight packed_weight(const WeightSite *site, Arena *arena) {
    assert(site->quant);
    const Tensor *w = &site->weight->value;
    PackedWeight packed = {.layer = site->name};
    float *values = arena_new_array(arena, float, tensor_count(w));
    if (site->norm)
        batch_norm_folded_weight(site->norm, values);
    else
        tensor_decode(w, values);
    packed.codes = pack(quant_levels(site->quant, values, arena), arena);
    const Param *bias = site->is_only ? module_find_param(site->module, "bias") : NULL;
    if (site->norm) {
        packed.bias_count = w->shape.dim[0];
        float *deployed = arena_new_array(arena, float, packed.bias_count);
        batch_norm_deployed_bias(site->norm, deployed);
        packed.bias = deployed;
    } else if (bias) {
        packed.bias_count = tensor_count(&bias->value);
        float *values_of_bias = arena_new_array(arena, float, packed.bias_count);
        tensor_decode(&bias->value, values_of_bias);
        packed.bias = values_of_bias;
    }
    return packed;
}

static const WeightSite *site_of_norm(const Qat *qat, const Module *norm) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].norm == norm) return &qat->sites[i];
    return NULL;
}

bool convert_ships_param(const Qat *qat, const Param *param) {
    if (!param->owner) return false; /* a quantizer's */
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        bool is_its = site->is_only ? site->module == param->owner : site->weight == param;
        if (site->quant && is_its) return false; /* a weight, and its bias, travel packed */
    }
    return !site_of_norm(qat, param->owner);
}

/* ---- The parts of a packed model ---- */

static PackedEdge packed_edge(const Quant *q, Arena *arena) {
    const Scales *scales = quant_freeze(q, arena);
    PackedEdge edge = {.name = q->name,
                       .grid = q->grid,
                       .scale_dtype = q->spec.scale_dtype,
                       .is_affine = q->spec.is_affine,
                       .is_per_token = !scales};
    if (scales) edge.scale = scales->scale[0];
    if (scales && scales->zero) edge.zero = scales->zero[0];
    return edge;
}

static const char *edge_of(const View *view) {
    return view->apply == quant_view ? ((const Quant *)view->self)->name : NULL;
}

typedef struct Places {
    Arena *arena;
    PackedPlace *items;
    int count;
} Places;

static bool add_place(void *context, Module *module) {
    Places *places = context;
    PackedPlace place = {.module = module->name,
                         .input = edge_of(&module->inputs[0]),
                         .input2 = edge_of(&module->inputs[1])};
    const char **outputs = arena_new_array(places->arena, const char *, module->output_count + 1);
    for (int i = 0; i < module->output_count; i++) outputs[i] = edge_of(&module->outputs[i]);
    place.outputs = (List){module->output_count, outputs};
    if (place.input || place.input2 || place.outputs.count) places->items[places->count++] = place;
    return true;
}

static PackedGraph packed_graph(const Qat *qat, Arena *arena) {
    const SequentialConfig *root = qat->model->root->config;
    Places places = {.arena = arena};
    places.items = arena_new_array(arena, PackedPlace, qat->model->module_count);
    model_visit(qat->model, add_place, &places);
    PackedFold *folds = arena_new_array(arena, PackedFold, qat->site_count + 1);
    int fold_count = 0;
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        if (site->norm) folds[fold_count++] = (PackedFold){site->norm->name, site->module->name};
    }
    return (PackedGraph){.layers = root->layers,
                         .places = {places.count, places.items},
                         .folds = {fold_count, folds}};
}

PackedModel packed_model_of(const Qat *qat, Arena *arena) {
    const Model *model = qat->model;
    PackedModel m = {.arena = arena, .graph = packed_graph(qat, arena), .input = model->input};
    m.class_count = shape_last(model->output);
    m.weights = arena_new_array(arena, PackedWeight, qat->site_count + 1);
    m.edges = arena_new_array(arena, PackedEdge, qat->edge_count + 1);
    m.params = arena_new_array(arena, PackedParam, model->param_count + 1);
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].quant) m.weights[m.weight_count++] = packed_weight(&qat->sites[i], arena);
    for (int i = 0; i < qat->edge_count; i++)
        m.edges[m.edge_count++] = packed_edge(qat->edges[i].quant, arena);
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (convert_ships_param(qat, p))
            m.params[m.param_count++] = (PackedParam){p->name, p->value};
    }
    return m;
}

/* ---- Sizes ---- */

static int64_t scales_bytes(const Scales *s) {
    if (!s) return 0;
    int64_t zero_bytes = s->zero ? (int64_t)sizeof(int32_t) * s->count : 0;
    return (int64_t)dtype_bytes(s->dtype, s->count) + zero_bytes;
}

/* Without the bias. */
static int64_t weight_bytes(const WeightSite *site, Arena *arena) {
    const Tensor *w = &site->weight->value;
    if (!site->quant) return (int64_t)tensor_bytes(w);
    return (int64_t)dtype_bytes(dtype_packed(site->quant->grid), tensor_count(w)) +
           scales_bytes(quant_layout(site->quant, arena));
}

static int64_t bias_bytes(const WeightSite *site) {
    const Param *bias = module_find_param(site->module, "bias");
    int64_t biases = site->norm ? site->weight->value.shape.dim[0]
                     : bias     ? tensor_count(&bias->value)
                                : 0;
    return (int64_t)sizeof(float) * biases;
}

int64_t convert_weight_bytes(const WeightSite *site) {
    Arena *arena = arena_new("size of a weight");
    int64_t bytes = weight_bytes(site, arena);
    arena_free(arena);
    return bytes;
}

ModelBytes convert_bytes(const Qat *qat) {
    ModelBytes bytes = {0};
    Arena *arena = arena_new("size of the packed model");
    int64_t weights = 0, of_weights = 0;
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        int64_t own = weight_bytes(site, arena);
        weights += tensor_count(&site->weight->value);
        of_weights += own;
        if (site->quant) bytes.quantized += own + bias_bytes(site);
    }
    if (weights) bytes.bits_per_weight = 8 * (double)of_weights / (double)weights;
    for (int i = 0; i < qat->edge_count; i++)
        bytes.quantized += scales_bytes(quant_layout(qat->edges[i].quant, arena));
    for (int i = 0; i < qat->model->param_count; i++) {
        const Param *p = qat->model->params[i];
        if (p->owner) bytes.f32 += (int64_t)sizeof(float) * tensor_count(&p->value);
        if (convert_ships_param(qat, p)) bytes.quantized += (int64_t)tensor_bytes(&p->value);
    }
    arena_free(arena);
    return bytes;
}
