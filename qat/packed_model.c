#include "qat/packed_model.h"

#include <math.h>
#include <string.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "core/counts.h"
#include "core/floats.h"
#include "qat/quantizer.h"

enum { RUN_IMAGES = 64 };

/* ---- The architecture as settings ---- */

static const Field place_fields[] = {
    FIELD_STRING(PackedPlace, module, REQUIRED, "dotted name"),
    FIELD_STRING(PackedPlace, input, "", "edge that quantizes its input"),
    FIELD_STRING(PackedPlace, input2, "", "edge that quantizes its second input"),
    FIELD_NUMBERS(PackedPlace, outputs, "[]", FIELD_TYPE_STRING, 0, 0,
                  "edges that quantize what it gives"),
    FIELD_END,
};

static const Field fold_fields[] = {
    FIELD_STRING(PackedFold, norm, REQUIRED, "dotted name of a batch norm"),
    FIELD_STRING(PackedFold, layer, REQUIRED, "dotted name of the layer that it is folded into"),
    FIELD_END,
};

const Field packed_graph_fields[] = {
    FIELD_VARIANTS(PackedGraph, layers, REQUIRED, &layer_kinds, "the network"),
    FIELD_STRUCTS(PackedGraph, places, "[]", PackedPlace, place_fields, "what is quantized where"),
    FIELD_STRUCTS(PackedGraph, folds, "[]", PackedFold, fold_fields, "batch norms without work"),
    FIELD_END,
};

/* ---- Checks ---- */

enum { WEIGHT_BITS_MIN = 1, EDGE_BITS_MIN = 2, BITS_MAX = 8 };

static bool floats_check(const char *what, const float *x, int64_t count, Error *err) {
    int64_t bad = floats_find_unfit(x, count, -FLT_MAX);
    if (bad < 0) return true;
    return FAIL(err, ERROR_INPUT, "%s: number %ld is %g, expected one that is finite", what,
                (long)bad, (double)x[bad]);
}

/* Of a tensor of any dtype. */
static bool values_check(const char *what, const Tensor *tensor, Error *err) {
    enum { SOME = 4096 };
    float values[SOME];
    int64_t count = tensor_count(tensor), bad = -1, at = 0;
    for (int64_t first = 0; bad < 0 && first < count; first += SOME) {
        int64_t some = count_least(SOME, count - first);
        tensor_decode_part(tensor, first, some, values);
        bad = floats_find_unfit(values, some, -FLT_MAX);
        at = first;
    }
    return bad < 0 || FAIL(err, ERROR_INPUT, "%s: number %ld is %g, expected one that is finite",
                           what, (long)(at + bad), (double)values[bad]);
}

static bool scale_check(const char *what, int64_t i, float scale, Error *err) {
    if (isfinite(scale) && scale > 0) return true;
    return FAIL(err, ERROR_INPUT, "%s: scale %ld is %g, expected one above 0", what, (long)i,
                (double)scale);
}

/* Zero is a level, and a whole one. */
static bool zero_check(const char *what, int64_t i, float zero, Grid grid, Error *err) {
    float low = (float)grid_low(grid), high = (float)grid_high(grid);
    if (zero >= low && zero <= high && zero == rintf(zero)) return true;
    return FAIL(err, ERROR_INPUT, "%s: zero point %ld is %g, expected a whole one from %g to %g",
                what, (long)i, (double)zero, (double)low, (double)high);
}

static bool grid_equal(Grid a, Grid b) {
    return a.bits == b.bits && a.base == b.base && a.step == b.step && a.unused == b.unused;
}

/* Levels of one bit are -1 and 1. */
static bool grid_check(const char *what, Grid grid, int least_bits, Error *err) {
    if (grid.bits < least_bits || grid.bits > BITS_MAX)
        return FAIL(err, ERROR_INPUT, "%s: %d bits, expected %d to %d", what, grid.bits, least_bits,
                    BITS_MAX);
    bool has_more = grid.bits > 1;
    if (grid_equal(grid, grid_odd(grid.bits)) || grid_equal(grid, grid_ternary()) ||
        (has_more && grid_equal(grid, grid_signed(grid.bits))) ||
        (has_more && grid_equal(grid, grid_unsigned(grid.bits))))
        return true;
    return FAIL(err, ERROR_INPUT, "%s: levels of base %d and step %d are of no grid of %d bits",
                what, grid.base, grid.step, grid.bits);
}

/* Only levels that follow each other are shifted by zero points. */
static bool affine_check(const char *what, Grid grid, bool is_affine, Error *err) {
    if (!is_affine || grid.step == 1) return true;
    return FAIL(err, ERROR_INPUT, "%s: zero points on levels of step %d, expected step 1", what,
                grid.step);
}

static bool scale_dtype_check(const char *what, Dtype dtype, Error *err) {
    if (dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16) return true;
    return FAIL(err, ERROR_INPUT, "%s: its scales are stored as format %d, expected 0 to 2", what,
                (int)dtype);
}

/* One for all, or row by row, or by runs of a row. */
static bool geometry_check(const char *what, const Scales *s, Shape shape, Error *err) {
    int64_t count = shape_count(shape), row = count / shape.dim[0];
    bool is_sound = (s->row_length == count || s->row_length == row) && s->run_length >= 1 &&
                    s->run_length <= s->row_length &&
                    s->count == scales_count(count, s->row_length, s->run_length);
    if (is_sound) return true;
    char text[SHAPE_TEXT_BYTES];
    return FAIL(err, ERROR_INPUT, "%s: %ld scales for rows of %ld and runs of %ld do not fit %s",
                what, (long)s->count, (long)s->row_length, (long)s->run_length,
                shape_text(shape, text));
}

static bool bytes_check(const char *what, const Tensor *codes, Error *err) {
    int64_t bad = dtype_find_unfit(codes->dtype, codes->data, tensor_count(codes));
    return bad < 0 ||
           FAIL(err, ERROR_INPUT, "%s: byte %ld of its codes is %d, which no %s codes make", what,
                (long)bad, ((const uint8_t *)codes->data)[bad], dtype_name(codes->dtype));
}

static bool scales_check(const char *what, const Tensor *codes, Error *err) {
    const Scales *s = codes->scales;
    TRY(grid_check(what, s->grid, WEIGHT_BITS_MIN, err));
    TRY(affine_check(what, s->grid, s->zero != NULL, err));
    TRY(scale_dtype_check(what, s->dtype, err));
    TRY(geometry_check(what, s, codes->shape, err));
    for (int64_t i = 0; i < s->count; i++) {
        TRY(scale_check(what, i, s->scale[i], err));
        if (s->zero) TRY(zero_check(what, i, s->zero[i], s->grid, err));
    }
    return bytes_check(what, codes, err);
}

static bool input_check(const PackedModel *m, Error *err) {
    int64_t channels = m->input.dim[2], count;
    if (!shape_check(m->input, &count, err)) {
        error_prefix(err, "input");
        return false;
    }
    TRY(floats_check("input/mean", m->mean, channels, err));
    for (int64_t c = 0; c < channels; c++)
        if (!isfinite(m->deviation[c]) || m->deviation[c] <= 0)
            return FAIL(err, ERROR_INPUT, "input/deviation: number %ld is %g, expected one above 0",
                        (long)c, (double)m->deviation[c]);
    return true;
}

/* ---- Edges ---- */

/* Quantizers that observe and learn nothing: a scale is what it is. */
static const Quantizer stored = {.kind = {.name = "stored", .help = "a scale from a file"}};
static const QuantPhase always = {.is_faking = true};

static Param *fixed_param(Arena *arena, float number) {
    Param *p = arena_new_array(arena, Param, 1);
    Tensor value = tensor_new(arena, DTYPE_F32, SHAPE(1));
    *tensor_f32(&value) = number;
    *p = (Param){.name = "", .role = PARAM_BUFFER, .value = value};
    return p;
}

static Quant *edge_quant(const PackedModel *m, const PackedEdge *edge) {
    Quant *q = arena_new_array(m->arena, Quant, 1);
    *q = (Quant){
        .row = &stored,
        .spec = {.bits = edge->grid.bits,
                 .is_affine = edge->is_affine,
                 .granularity = edge->is_per_token ? GRANULARITY_TOKEN : GRANULARITY_TENSOR,
                 .scale_dtype = edge->scale_dtype},
        .name = edge->name,
        .phase = &always,
        .model = m->model,
        .grid = edge->grid,
        .grad_scale = 1,
    };
    if (edge->is_per_token) return q;
    q->scale_count = 1;
    q->scale = fixed_param(m->arena, edge->scale);
    /* The zero point is -round(offset / scale). */
    if (edge->is_affine) q->offset = fixed_param(m->arena, -edge->zero * edge->scale);
    return q;
}

const PackedEdge *packed_model_edge(const PackedModel *m, const char *name) {
    for (int i = 0; i < m->edge_count; i++)
        if (!strcmp(m->edges[i].name, name)) return &m->edges[i];
    return NULL;
}

static bool edge_check(const PackedModel *m, const PackedEdge *edge, Error *err) {
    const char *what = arena_format(m->arena, "edges/%s", edge->name);
    TRY(grid_check(what, edge->grid, EDGE_BITS_MIN, err));
    TRY(affine_check(what, edge->grid, edge->is_affine, err));
    TRY(scale_dtype_check(what, edge->scale_dtype, err));
    if (edge->is_per_token) return true;
    TRY(scale_check(what, 0, edge->scale, err));
    return zero_check(what, 0, edge->zero, edge->grid, err);
}

/* The view that quantizes as the edge `name` says, one for all its readers; NULL: none. */
static bool edge_view(const PackedModel *m, Quant *const *quants, const PackedPlace *place,
                      const char *name, View *view, Error *err) {
    if (!name) return true;
    const PackedEdge *edge = packed_model_edge(m, name);
    if (!edge)
        return FAIL(err, ERROR_INPUT, "model: %s names the edge '%s', of which nothing is stored",
                    place->module, name);
    *view = (View){quant_view, quants[edge - m->edges]};
    return true;
}

static bool place_install(const PackedModel *m, Quant *const *quants, const PackedPlace *place,
                          Error *err) {
    Module *module = model_find_module(m->model, place->module);
    if (!module)
        return FAIL(err, ERROR_INPUT, "model: a place names the layer '%s', which does not exist",
                    place->module);
    if (place->input2 && module->layer->input_count < 2)
        return FAIL(err, ERROR_INPUT, "model: %s has one input, not two", place->module);
    TRY(edge_view(m, quants, place, place->input, &module->inputs[0], err));
    TRY(edge_view(m, quants, place, place->input2, &module->inputs[1], err));
    for (int i = 0; i < place->outputs.count; i++) {
        View view = {0};
        const char *name = ((const char *const *)place->outputs.items)[i];
        TRY(edge_view(m, quants, place, name, &view, err));
        if (view.apply) module_add_output(module, view);
    }
    return true;
}

static bool edges_install(const PackedModel *m, Error *err) {
    Quant **quants = arena_new_array(m->arena, Quant *, m->edge_count + 1);
    for (int i = 0; i < m->edge_count; i++) {
        TRY(edge_check(m, &m->edges[i], err));
        quants[i] = edge_quant(m, &m->edges[i]);
    }
    const PackedPlace *places = m->graph.places.items;
    for (int i = 0; i < m->graph.places.count; i++) TRY(place_install(m, quants, &places[i], err));
    return true;
}

/* ---- Weights ---- */

/* Views that give what is stored instead of a master, and nothing instead of a bias that went into
 * the norm's. */
static Var *read_stored(void *self, Tape *t, Var *master) {
    (void)master;
    return tape_constant(t, *(const Tensor *)self);
}

static Var *read_nothing(void *self, Tape *t, Var *master) {
    (void)self, (void)t, (void)master;
    return NULL;
}

static Param *weight_named(const Model *model, const char *name) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (p->role == PARAM_WEIGHT && !strcmp(param_weight_name(p), name)) return p;
    }
    return NULL;
}

static const PackedFold *fold_of(const PackedModel *m, const char *layer) {
    const PackedFold *folds = m->graph.folds.items;
    for (int i = 0; i < m->graph.folds.count; i++)
        if (!strcmp(folds[i].layer, layer)) return &folds[i];
    return NULL;
}

/* Its norm adds the bias, and does nothing else. */
static bool fold_install(const PackedModel *m, const PackedWeight *w, const PackedFold *fold,
                         Error *err) {
    Module *norm = model_find_module(m->model, fold->norm);
    if (!norm || norm->layer != &layer_batch_norm)
        return FAIL(err, ERROR_INPUT, "model: %s is folded into %s, but is no batch norm",
                    fold->norm, fold->layer);
    if (!w->bias || tensor_count(&module_find_param(norm, "gamma")->value) != w->bias_count)
        return FAIL(err, ERROR_INPUT, "weights/%s: the bias does not fit the folded %s", w->layer,
                    fold->norm);
    batch_norm_deploy(norm, (Tensor){.dtype = DTYPE_F32,
                                     .shape = SHAPE(w->bias_count),
                                     .data = (void *)(uintptr_t)w->bias});
    return true;
}

/* Where a layer has several weights, its biases belong to none. */
static bool bias_install(const PackedModel *m, const Module *module, const PackedWeight *w,
                         Error *err) {
    bool is_only = module_weight_count(module) == 1;
    Param *bias = is_only ? module_find_param(module, "bias") : NULL;
    const PackedFold *fold = fold_of(m, w->layer);
    if (w->bias && w->bias_count != w->codes.shape.dim[0])
        return FAIL(err, ERROR_INPUT, "weights/%s: %ld biases for %ld outputs", w->layer,
                    (long)w->bias_count, (long)w->codes.shape.dim[0]);
    const char *what = arena_format(m->arena, "weights/%s/bias", w->layer);
    if (w->bias) TRY(floats_check(what, w->bias, w->bias_count, err));
    if (fold) {
        if (bias) bias->view = (View){read_nothing, NULL};
        return fold_install(m, w, fold, err);
    }
    if ((bias == NULL) != (w->bias == NULL))
        return FAIL(err, ERROR_INPUT, "weights/%s: %s a bias, but the layer %s", w->layer,
                    w->bias ? "has" : "lacks", bias ? "adds one" : "has none");
    if (bias) bias->value.data = (void *)(uintptr_t)w->bias; /* the file's memory */
    return true;
}

static bool weight_install(const PackedModel *m, PackedWeight *w, Error *err) {
    Param *weight = weight_named(m->model, w->layer);
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (!weight)
        return FAIL(err, ERROR_INPUT,
                    "weights/%s: the model has no layer with weights of that name", w->layer);
    if (!shape_equal(weight->value.shape, w->codes.shape))
        return FAIL(err, ERROR_INPUT, "weights/%s: shape %s, but the layer's weight is %s",
                    w->layer, shape_text(w->codes.shape, a), shape_text(weight->value.shape, b));
    TRY(scales_check(arena_format(m->arena, "weights/%s", w->layer), &w->codes, err));
    weight->view = (View){read_stored, &w->codes};
    return bias_install(m, weight->owner, w, err);
}

/* ---- What travels as it is stored ---- */

static const PackedWeight *find_weight(const PackedModel *m, const char *layer) {
    for (int i = 0; i < m->weight_count; i++)
        if (!strcmp(m->weights[i].layer, layer)) return &m->weights[i];
    return NULL;
}

static bool is_packed(const PackedModel *m, const Param *param) {
    const char *owner = param->owner->name;
    bool is_only = module_weight_count(param->owner) == 1;
    if (find_weight(m, is_only ? owner : param->name)) return true;
    const PackedFold *folds = m->graph.folds.items;
    for (int i = 0; i < m->graph.folds.count; i++)
        if (!strcmp(folds[i].norm, owner)) return true;
    return false;
}

static const PackedParam *find_param(const PackedModel *m, const char *name) {
    for (int i = 0; i < m->param_count; i++)
        if (!strcmp(m->params[i].name, name)) return &m->params[i];
    return NULL;
}

static bool param_install(const PackedModel *m, Param *param, Error *err) {
    const PackedParam *p = find_param(m, param->name);
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (!p)
        return FAIL(err, ERROR_INPUT, "params/%s is missing, and the layer has no packed weight",
                    param->name);
    if (!shape_equal(p->value.shape, param->value.shape))
        return FAIL(err, ERROR_INPUT, "params/%s: shape %s, expected %s", p->name,
                    shape_text(p->value.shape, a), shape_text(param->value.shape, b));
    if (param->role == PARAM_BUFFER && p->value.dtype != DTYPE_F32)
        return FAIL(err, ERROR_INPUT, "params/%s: stored as %s, but statistics are f32", p->name,
                    dtype_name(p->value.dtype));
    TRY(values_check(arena_format(m->arena, "params/%s", p->name), &p->value, err));
    param_store(param, p->value);
    return true;
}

static bool params_install(const PackedModel *m, Error *err) {
    int used = 0;
    for (int i = 0; i < m->model->param_count; i++) {
        if (is_packed(m, m->model->params[i])) continue;
        TRY(param_install(m, m->model->params[i], err));
        used++;
    }
    if (used == m->param_count) return true;
    return FAIL(err, ERROR_INPUT, "params: %d parameters, but the model reads %d", m->param_count,
                used);
}

/* ---- Building and running ---- */

static bool graph_build(PackedModel *m, Error *err) {
    if (!model_sketch(&m->graph.layers, m->input, m->arena, &m->model, err)) {
        error_prefix(err, "model");
        return false;
    }
    Shape out = m->model->output;
    char text[SHAPE_TEXT_BYTES];
    if (out.rank == 2 && out.dim[1] == m->class_count) return true;
    return FAIL(err, ERROR_INPUT, "model: gives %s for one image, but there are %ld classes",
                shape_text(out, text), (long)m->class_count);
}

static bool folds_check(const PackedModel *m, Error *err) {
    const PackedFold *folds = m->graph.folds.items;
    for (int i = 0; i < m->graph.folds.count; i++)
        if (!find_weight(m, folds[i].layer))
            return FAIL(err, ERROR_INPUT, "model: %s is folded into %s, which is not packed",
                        folds[i].norm, folds[i].layer);
    return true;
}

bool packed_model_build(PackedModel *m, Error *err) {
    TRY(input_check(m, err));
    TRY(graph_build(m, err));
    TRY(edges_install(m, err));
    TRY(folds_check(m, err));
    for (int i = 0; i < m->weight_count; i++) TRY(weight_install(m, &m->weights[i], err));
    TRY(params_install(m, err));
    m->tape = tape_new(m->arena);
    return true;
}

void packed_model_close(PackedModel *m) {
    tape_free(m->tape);
    m->tape = NULL;
}

typedef struct Run {
    Model *model;
    Tensor images;
} Run;

static Var *record(void *context, Tape *t) {
    const Run *run = context;
    Var *x = tape_constant(t, run->images);
    return model_forward(run->model, t, x);
}

/* The very operations of the loader: their bits count. */
static void normalize(const PackedModel *m, const float *stored_pixels, int64_t count, float *out) {
    int64_t channels = m->input.dim[2];
#pragma omp parallel for
    for (int64_t i = 0; i < count; i += channels)
        for (int64_t c = 0; c < channels; c++)
            out[i + c] = (stored_pixels[i + c] - m->mean[c]) / m->deviation[c];
}

static bool run_some(PackedModel *m, Tensor images, float *logits, Error *err) {
    Run run = {m->model, images};
    Var *out = tape_run(m->tape, TAPE_EVALUATION, record, &run);
    if (m->tape->error.code != ERROR_NONE) {
        *err = m->tape->error;
        return false;
    }
    const Var *bad = tape_find_nan(m->tape);
    if (bad || !var_is_finite(out))
        return FAIL(err, ERROR_NUMERIC,
                    "the packed model gives %s that are not finite: images hold numbers far beyond "
                    "those that it was trained on",
                    bad ? arena_format(m->arena, "values in %s", bad->scope) : "logits");
    memcpy(logits, var_f32(out), sizeof *logits * (size_t)var_count(out));
    return true;
}

bool packed_model_run(PackedModel *m, const float *images, int64_t count, float *logits,
                      Error *err) {
    int64_t pixels = shape_count(m->input);
    ArenaMark mark = arena_mark(m->arena);
    float *fed = arena_new_array(m->arena, float, RUN_IMAGES *pixels);
    bool ok = true;
    for (int64_t first = 0; ok && first < count; first += RUN_IMAGES) {
        int64_t some = count - first < RUN_IMAGES ? count - first : RUN_IMAGES;
        normalize(m, images + first * pixels, some * pixels, fed);
        Shape shape = SHAPE(some, m->input.dim[0], m->input.dim[1], m->input.dim[2]);
        Tensor batch = {.dtype = DTYPE_F32, .shape = shape, .data = fed};
        ok = run_some(m, batch, logits + first * m->class_count, err);
    }
    arena_rewind(m->arena, mark);
    return ok;
}
