#include "experiments/ship/packed.h"

#include <stdio.h>
#include <string.h>

#include "data/h5.h"

enum { FORMAT_VERSION = 1, NAME_BYTES = 512 };

static const char *join(char *buffer, const char *group, const char *object, const char *part) {
    snprintf(buffer, NAME_BYTES, "%s/%s%s%s", group, object, part ? "/" : "", part ? part : "");
    return buffer;
}

/* ---- Saving ---- */

/* Scales in the precision they are stored in; zero points as 32-bit integers. */
static void write_scales(H5Writer *w, const char *group, const char *object, const Scales *s,
                         Arena *arena) {
    char name[NAME_BYTES];
    void *stored = arena_alloc(arena, dtype_bytes(s->dtype, s->count));
    dtype_codec(s->dtype)->encode(s->scale, s->count, NULL, stored);
    join(name, group, object, "scales");
    h5_write_tensor(w, name, s->dtype == DTYPE_F32 ? H5_F32 : H5_U16, SHAPE(s->count), stored);
    join(name, group, object, NULL);
    h5_write_int(w, name, "bits", s->grid.bits);
    h5_write_int(w, name, "base", s->grid.base);
    h5_write_int(w, name, "step", s->grid.step);
    h5_write_int(w, name, "row_length", s->row_length);
    h5_write_int(w, name, "run_length", s->run_length);
    h5_write_int(w, name, "scale_dtype", s->dtype);
    if (!s->zero) return;
    int32_t *zeros = arena_new_array(arena, int32_t, s->count);
    for (int64_t i = 0; i < s->count; i++) zeros[i] = (int32_t)s->zero[i];
    join(name, group, object, "zeros");
    h5_write_tensor(w, name, H5_I32, SHAPE(s->count), zeros);
}

static void write_weight(H5Writer *w, const PackedWeight *packed, Arena *arena) {
    char name[NAME_BYTES];
    const Tensor *codes = &packed->codes;
    int64_t bytes = (int64_t)dtype_bytes(codes->dtype, tensor_count(codes));
    join(name, "weights", packed->layer, "codes");
    h5_write_tensor(w, name, H5_U8, SHAPE(bytes), codes->data);
    write_scales(w, "weights", packed->layer, codes->scales, arena);
    for (int i = 0; i < codes->shape.rank; i++) {
        char attribute[16];
        snprintf(attribute, sizeof attribute, "dim%d", i);
        h5_write_int(w, join(name, "weights", packed->layer, NULL), attribute, codes->shape.dim[i]);
    }
    if (packed->bias)
        h5_write_tensor(w, join(name, "weights", packed->layer, "bias"), H5_F32,
                        SHAPE(packed->bias_count), packed->bias);
}

/* What a network is fed and gives: shape, classes, and how pixels are normalised. */
static void write_input(H5Writer *w, const Experiment *e) {
    const Dataset *data = loader_dataset(e->loader);
    h5_write_int(w, "", "format_version", FORMAT_VERSION);
    h5_write_text(w, "config", e->config_text);
    h5_write_int(w, "input", "height", data->height);
    h5_write_int(w, "input", "width", data->width);
    h5_write_int(w, "input", "channels", data->channels);
    h5_write_int(w, "input", "classes", data->class_count);
    Shape channels = SHAPE(data->channels);
    h5_write_tensor(w, "input/mean", H5_F32, channels, loader_mean(e->loader));
    h5_write_tensor(w, "input/deviation", H5_F32, channels, loader_deviation(e->loader));
}

static void write_weights(H5Writer *w, const Qat *qat, Arena *arena) {
    for (int i = 0; i < qat->site_count; i++) {
        if (!qat->sites[i].quant) continue;
        PackedWeight packed = packed_weight(&qat->sites[i], arena);
        write_weight(w, &packed, arena);
    }
    for (int i = 0; i < qat->edge_count; i++) {
        const Quant *q = qat->edges[i].quant;
        const Scales *scales = quant_freeze(q, arena);
        if (scales) write_scales(w, "edges", q->name, scales, arena);
    }
    char name[NAME_BYTES];
    for (int i = 0; i < qat->model->param_count; i++) {
        const Param *p = qat->model->params[i];
        if (convert_ships_param(qat, p))
            h5_write_tensor(w, join(name, "params", p->name, NULL), H5_F32, p->value.shape,
                            p->value.data);
    }
}

bool packed_save(const char *path, const Experiment *e, Error *err) {
    Arena *arena = arena_new("packed model");
    uint64_t expected = (uint64_t)convert_bytes(e->qat).quantized + (1 << 16);
    H5Writer *w = h5_write_begin(path, expected, arena, err);
    bool ok = w != NULL;
    if (ok) {
        write_input(w, e);
        write_weights(w, e->qat, arena);
        ok = h5_write_commit(w, NULL, err);
    }
    arena_free(arena);
    return ok;
}

/* ---- Loading ---- */

static bool read_version(const H5Reader *r, const char *path, Error *err) {
    int64_t version;
    TRY(h5_read_int(r, "", "format_version", &version, err));
    if (version == FORMAT_VERSION) return true;
    return FAIL(err, ERROR_INPUT, "%s: format version %ld; this nibble reads version %d", path,
                (long)version, FORMAT_VERSION);
}

/* An integer attribute that must have the value the model asks for. */
static bool expect_int(const H5Reader *r, const char *object, const char *attribute,
                       int64_t expected, Error *err) {
    int64_t found;
    TRY(h5_read_int(r, object, attribute, &found, err));
    if (found == expected) return true;
    return FAIL(err, ERROR_INPUT, "%s: %s is %ld, but the configuration asks for %ld", object,
                attribute, (long)found, (long)expected);
}

/* Scales whose geometry is `like`'s (from the quantizer) with numbers from the file. */
static bool read_scales(const H5Reader *r, const char *group, const char *object,
                        const Scales *like, Arena *arena, const Scales **out, Error *err) {
    char name[NAME_BYTES];
    join(name, group, object, NULL);
    TRY(expect_int(r, name, "bits", like->grid.bits, err));
    TRY(expect_int(r, name, "base", like->grid.base, err));
    TRY(expect_int(r, name, "step", like->grid.step, err));
    TRY(expect_int(r, name, "row_length", like->row_length, err));
    TRY(expect_int(r, name, "run_length", like->run_length, err));
    TRY(expect_int(r, name, "scale_dtype", (int64_t)like->dtype, err));
    void *stored = arena_alloc(arena, dtype_bytes(like->dtype, like->count));
    join(name, group, object, "scales");
    TRY(h5_read_tensor(r, name, like->dtype == DTYPE_F32 ? H5_F32 : H5_U16, SHAPE(like->count),
                       stored, err));
    float *scale = arena_new_array(arena, float, like->count);
    dtype_codec(like->dtype)->decode(stored, NULL, 0, like->count, scale);
    Scales *scales = arena_new_array(arena, Scales, 1);
    *scales = *like;
    scales->scale = scale;
    scales->zero = NULL;
    join(name, group, object, "zeros");
    if (h5_read_exists(r, name)) {
        int32_t *zeros = arena_new_array(arena, int32_t, like->count);
        TRY(h5_read_tensor(r, name, H5_I32, SHAPE(like->count), zeros, err));
        float *zero = arena_new_array(arena, float, like->count);
        for (int64_t i = 0; i < like->count; i++) zero[i] = (float)zeros[i];
        scales->zero = zero;
    }
    *out = scales;
    return true;
}

static bool read_weight(const H5Reader *r, const WeightSite *site, Arena *arena, Error *err) {
    char name[NAME_BYTES];
    const char *layer = site->module->name;
    PackedWeight packed = packed_weight(site, arena); /* the shapes; its numbers are replaced */
    Tensor *codes = &packed.codes;
    int64_t bytes = (int64_t)dtype_bytes(codes->dtype, tensor_count(codes));
    for (int i = 0; i < codes->shape.rank; i++) {
        char attribute[16];
        snprintf(attribute, sizeof attribute, "dim%d", i);
        TRY(expect_int(r, join(name, "weights", layer, NULL), attribute, codes->shape.dim[i], err));
    }
    TRY(h5_read_tensor(r, join(name, "weights", layer, "codes"), H5_U8, SHAPE(bytes), codes->data,
                       err));
    TRY(read_scales(r, "weights", layer, codes->scales, arena, &codes->scales, err));
    if (packed.bias) {
        float *bias = arena_new_array(arena, float, packed.bias_count);
        TRY(h5_read_tensor(r, join(name, "weights", layer, "bias"), H5_F32,
                           SHAPE(packed.bias_count), bias, err));
        packed.bias = bias;
    }
    packed_install(site, &packed, arena);
    return true;
}

static bool read_edge(const H5Reader *r, const Edge *edge, Arena *arena, Error *err) {
    const Scales *like = quant_freeze(edge->quant, arena);
    if (!like) return true;
    const Scales *scales;
    TRY(read_scales(r, "edges", edge->quant->name, like, arena, &scales, err));
    packed_install_edge(edge->quant, scales);
    return true;
}

static bool read_all(const H5Reader *r, const Qat *qat, Arena *arena, Error *err) {
    char name[NAME_BYTES];
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].quant) TRY(read_weight(r, &qat->sites[i], arena, err));
    for (int i = 0; i < qat->edge_count; i++) TRY(read_edge(r, &qat->edges[i], arena, err));
    for (int i = 0; i < qat->model->param_count; i++) {
        Param *p = qat->model->params[i];
        if (!convert_ships_param(qat, p)) continue;
        join(name, "params", p->name, NULL);
        TRY(h5_read_tensor(r, name, H5_F32, p->value.shape, p->value.data, err));
    }
    return true;
}

static const char *read_config(const char *path, Arena *arena, Error *err) {
    Arena *file = arena_new("packed file");
    H5Reader *r = h5_read_open(path, file, err);
    const char *text = NULL;
    if (r && read_version(r, path, err)) text = h5_read_text(r, "config", arena, err);
    h5_read_close(r);
    arena_free(file);
    return text;
}

static bool read_model(const char *path, const Experiment *e, Error *err) {
    const Dataset *data = loader_dataset(e->loader);
    Arena *file = arena_new("packed file");
    H5Reader *r = h5_read_open(path, file, err);
    bool ok = r && expect_int(r, "input", "height", data->height, err) &&
              expect_int(r, "input", "width", data->width, err) &&
              expect_int(r, "input", "channels", data->channels, err) &&
              expect_int(r, "input", "classes", data->class_count, err) &&
              read_all(r, e->qat, e->arena, err);
    h5_read_close(r);
    arena_free(file);
    if (!ok) error_prefix(err, "%s", path);
    return ok;
}

bool packed_open(const char *path, Arena *config_arena, Experiment *e, Error *err) {
    *e = (Experiment){0};
    const char *text = read_config(path, config_arena, err);
    if (!text) return false;
    ExperimentConfig config;
    TRY(config_read_text(text, path, 0, NULL, config_arena, &config, err));
    TRY(experiment_open(&config, config_arena, e, err));
    TRY(read_model(path, e, err));
    qat_set_evaluation(e->qat);
    return true;
}
