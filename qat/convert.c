#include "qat/convert.h"

#include <assert.h>
#include <string.h>

static Tensor pack(Tensor levels, Arena *arena) {
    int64_t count = tensor_count(&levels);
    Tensor codes = tensor_zeros(arena, dtype_integer(levels.scales->grid.bits), levels.shape);
    codes.scales = levels.scales;
    levels_pack(tensor_f32(&levels), levels.scales, 0, count, codes.data);
    return codes;
}

PackedWeight packed_weight(const WeightSite *site, Arena *arena) {
    assert(site->quant);
    const Tensor *w = &site->weight->value;
    PackedWeight packed = {.layer = site->module->name};
    const float *values = tensor_f32(w);
    if (site->norm) {
        float *folded = arena_new_array(arena, float, tensor_count(w));
        batch_norm_folded_weight(site->norm, folded);
        values = folded;
    }
    packed.codes = pack(quant_levels(site->quant, values, arena), arena);
    const Param *bias = module_find_param(site->module, "bias");
    if (site->norm) {
        packed.bias_count = w->shape.dim[0];
        float *deployed = arena_new_array(arena, float, packed.bias_count);
        batch_norm_deployed_bias(site->norm, deployed);
        packed.bias = deployed;
    } else if (bias) {
        packed.bias_count = tensor_count(&bias->value);
        packed.bias = tensor_f32(&bias->value);
    }
    return packed;
}

/* A view that gives the same tensor whatever the master holds. */
static Var *read_stored(void *self, Tape *t, Var *master) {
    (void)master;
    return tape_constant(t, *(const Tensor *)self);
}

void packed_install(const WeightSite *site, const PackedWeight *packed, Arena *arena) {
    Tensor *levels = arena_new_array(arena, Tensor, 1);
    *levels = tensor_new(arena, DTYPE_F32, packed->codes.shape);
    levels->scales = packed->codes.scales;
    levels_unpack(packed->codes.data, levels->scales, 0, tensor_count(levels), levels->data);
    site->weight->view = (View){read_stored, levels};
    if (site->norm) {
        Tensor bias = {
            .dtype = DTYPE_F32, .shape = SHAPE(packed->bias_count), .data = (void *)packed->bias};
        batch_norm_deploy(site->norm, bias);
    } else if (packed->bias) {
        const Param *own = module_find_param(site->module, "bias");
        memcpy(own->value.data, packed->bias, sizeof(float) * (size_t)packed->bias_count);
    }
}

void packed_install_edge(Quant *quant, const Scales *scales) {
    assert(scales->count == quant->scale_count);
    float *scale = tensor_f32(&quant->scale->value);
    for (int64_t i = 0; i < scales->count; i++) {
        scale[i] = scales->scale[i];
        /* The zero point is -round(offset / scale). */
        if (quant->offset)
            tensor_f32(&quant->offset->value)[i] = scales->zero ? -scales->zero[i] * scale[i] : 0;
    }
    if (quant->count) *tensor_f32(&quant->count->value) = 1;
}

static const WeightSite *site_of_norm(const Qat *qat, const Module *norm) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].norm == norm) return &qat->sites[i];
    return NULL;
}

bool convert_ships_param(const Qat *qat, const Param *param) {
    if (!param->owner) return false; /* a quantizer's */
    const WeightSite *site = qat_find_site(qat, param->owner);
    if (site && site->quant) return false; /* the weight and its bias travel packed */
    return !site_of_norm(qat, param->owner);
}

static int64_t scales_bytes(const Scales *s) {
    if (!s) return 0;
    int64_t zero_bytes = s->zero ? (int64_t)sizeof(int32_t) * s->count : 0;
    return (int64_t)dtype_bytes(s->dtype, s->count) + zero_bytes;
}

ModelBytes convert_bytes(const Qat *qat) {
    ModelBytes bytes = {0};
    Arena *arena = arena_new("size of the packed model");
    for (int i = 0; i < qat->site_count; i++) {
        if (!qat->sites[i].quant) continue;
        PackedWeight packed = packed_weight(&qat->sites[i], arena);
        bytes.quantized += (int64_t)dtype_bytes(packed.codes.dtype, tensor_count(&packed.codes));
        bytes.quantized += scales_bytes(packed.codes.scales);
        bytes.quantized += (int64_t)sizeof(float) * packed.bias_count;
    }
    for (int i = 0; i < qat->edge_count; i++)
        bytes.quantized += scales_bytes(quant_freeze(qat->edges[i].quant, arena));
    for (int i = 0; i < qat->model->param_count; i++) {
        const Param *p = qat->model->params[i];
        int64_t size = (int64_t)sizeof(float) * tensor_count(&p->value);
        if (p->owner) bytes.f32 += size;
        if (convert_ships_param(qat, p)) bytes.quantized += size;
    }
    arena_free(arena);
    return bytes;
}
