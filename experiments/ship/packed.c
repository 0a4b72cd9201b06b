#include "experiments/ship/packed.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/settings/yaml.h"
#include "data/stored.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"

enum { FORMAT_VERSION = 2, NAME_BYTES = 512 };

static const char *join(char *buffer, const char *group, const char *object, const char *part) {
    snprintf(buffer, NAME_BYTES, "%s/%s%s%s", group, object, part ? "/" : "", part ? part : "");
    return buffer;
}

static H5Element scale_element(Dtype dtype) {
    return dtype == DTYPE_F32 ? H5_F32 : H5_U16;
}

/* ---- Saving ---- */

static void write_grid(H5Writer *w, const char *object, Grid grid, Dtype scale_dtype) {
    h5_write_int(w, object, "bits", grid.bits);
    h5_write_int(w, object, "base", grid.base);
    h5_write_int(w, object, "step", grid.step);
    h5_write_int(w, object, "scale_dtype", scale_dtype);
}

/* Scales in the precision they are stored in; zero points (NULL: all 0) as 32-bit integers. */
static void write_scales(H5Writer *w, const char *group, const char *object, const float *scale,
                         const float *zero, int64_t count, Dtype dtype, Arena *arena) {
    char name[NAME_BYTES];
    void *stored = arena_alloc(arena, dtype_bytes(dtype, count));
    dtype_encode(dtype, scale, count, NULL, stored);
    join(name, group, object, "scales");
    h5_write_tensor(w, name, scale_element(dtype), SHAPE(count), stored);
    if (!zero) return;
    int32_t *zeros = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++) zeros[i] = (int32_t)zero[i];
    h5_write_tensor(w, join(name, group, object, "zeros"), H5_I32, SHAPE(count), zeros);
}

static void write_weight(H5Writer *w, const PackedWeight *packed, Arena *arena) {
    char name[NAME_BYTES];
    const Tensor *codes = &packed->codes;
    const Scales *s = codes->scales;
    int64_t bytes = (int64_t)dtype_bytes(codes->dtype, tensor_count(codes));
    join(name, "weights", packed->layer, "codes");
    h5_write_tensor(w, name, H5_U8, SHAPE(bytes), codes->data);
    write_scales(w, "weights", packed->layer, s->scale, s->zero, s->count, s->dtype, arena);
    join(name, "weights", packed->layer, NULL);
    write_grid(w, name, s->grid, s->dtype);
    h5_write_int(w, name, "row_length", s->row_length);
    h5_write_int(w, name, "run_length", s->run_length);
    for (int i = 0; i < codes->shape.rank; i++) {
        char attribute[16];
        snprintf(attribute, sizeof attribute, "dim%d", i);
        h5_write_int(w, name, attribute, codes->shape.dim[i]);
    }
    if (packed->bias)
        h5_write_tensor(w, join(name, "weights", packed->layer, "bias"), H5_F32,
                        SHAPE(packed->bias_count), packed->bias);
}

static void write_edge(H5Writer *w, const PackedEdge *edge, Arena *arena) {
    char name[NAME_BYTES];
    join(name, "edges", edge->name, NULL);
    if (!edge->is_per_token)
        write_scales(w, "edges", edge->name, &edge->scale, edge->is_affine ? &edge->zero : NULL, 1,
                     edge->scale_dtype, arena);
    write_grid(w, name, edge->grid, edge->scale_dtype);
    h5_write_int(w, name, "affine", edge->is_affine);
    h5_write_int(w, name, "per_token", edge->is_per_token);
}

/* A name a line. */
static const char *join_names(const PackedModel *m, Arena *arena) {
    size_t bytes = 1;
    for (int64_t i = 0; i < m->class_count; i++) bytes += strlen(m->class_names[i]) + 1;
    char *text = arena_alloc(arena, bytes), *at = text;
    *at = 0;
    for (int64_t i = 0; i < m->class_count; i++) at += sprintf(at, "%s\n", m->class_names[i]);
    return text;
}

/* What the network is, is fed and gives. */
static void write_model(H5Writer *w, const PackedModel *m, Arena *arena) {
    h5_write_int(w, "", "format_version", FORMAT_VERSION);
    h5_write_text(w, "model",
                  node_to_yaml(fields_write(packed_graph_fields, &m->graph, arena), arena));
    h5_write_int(w, "input", "height", m->input.dim[0]);
    h5_write_int(w, "input", "width", m->input.dim[1]);
    h5_write_int(w, "input", "channels", m->input.dim[2]);
    h5_write_int(w, "input", "is_float", m->has_float_pixels);
    h5_write_int(w, "input", "classes", m->class_count);
    if (m->class_names) h5_write_text(w, "class_names", join_names(m, arena));
    Shape channels = SHAPE(m->input.dim[2]);
    h5_write_tensor(w, "input/mean", H5_F32, channels, m->mean);
    h5_write_tensor(w, "input/deviation", H5_F32, channels, m->deviation);
}

static void write_parts(H5Writer *w, const PackedModel *m, Arena *arena) {
    char name[NAME_BYTES];
    for (int i = 0; i < m->weight_count; i++) write_weight(w, &m->weights[i], arena);
    for (int i = 0; i < m->edge_count; i++) write_edge(w, &m->edges[i], arena);
    for (int i = 0; i < m->param_count; i++) {
        const PackedParam *p = &m->params[i];
        stored_write(w, join(name, "params", p->name, NULL), &p->value);
    }
}

static const char network_name[] = "network_digest"; /* what it was made of */

bool packed_save(const char *path, const Experiment *e, Error *err) {
    Arena *arena = arena_new("packed model");
    PackedModel m = packed_model_of(e->qat, arena);
    m.mean = loader_facts(e->loader)->mean;
    m.deviation = loader_facts(e->loader)->deviation;
    m.has_float_pixels = loader_dataset(e->loader)->pixel_type == PIXEL_F32;
    m.class_names = loader_dataset(e->loader)->class_names.names;
    uint64_t expected = (uint64_t)convert_bytes(e->qat).quantized + (1 << 16);
    H5Writer *w = h5_write_begin(path, expected, arena, err);
    bool ok = w != NULL;
    if (ok) {
        write_model(w, &m, arena);
        write_parts(w, &m, arena);
        h5_write_text(w, network_name, e->network_digest);
        ok = h5_write_commit(w, NULL, err);
    }
    arena_free(arena);
    return ok;
}

/* ---- Loading: shapes and types here, what the numbers must be in packed_model_build ---- */

typedef struct Reading {
    const H5Reader *r;
    Arena *arena; /* the model's */
    PackedModel *m;
    Error *err;
} Reading;

/* A small integer attribute; what it may be is checked where it is used. */
static bool read_small(const Reading *in, const char *object, const char *attribute, int64_t low,
                       int64_t high, int64_t *out) {
    TRY(h5_read_int(in->r, object, attribute, out, in->err));
    if (*out >= low && *out <= high) return true;
    return FAIL(in->err, ERROR_INPUT, "%s: %s is %ld, expected %ld to %ld", object, attribute,
                (long)*out, (long)low, (long)high);
}

static bool read_grid(const Reading *in, const char *object, Grid *grid, Dtype *scale_dtype) {
    int64_t bits, base, step, dtype;
    TRY(read_small(in, object, "bits", 1, 8, &bits));
    TRY(read_small(in, object, "base", -255, 255, &base));
    TRY(read_small(in, object, "step", 1, 2, &step));
    TRY(read_small(in, object, "scale_dtype", 0, 2, &dtype));
    *grid = grid_of((int)bits, (int)base, (int)step);
    *scale_dtype = (Dtype)dtype;
    return true;
}

/* A tensor of exactly this type and shape, into memory that is made once the file has it. */
static bool read_tensor(const Reading *in, const char *name, H5Element element, Shape shape,
                        void **out) {
    H5Info info;
    TRY(h5_read_info(in->r, name, &info, in->err));
    bool is_same =
        info.what == H5_TENSOR && info.element == element && shape_equal(info.shape, shape);
    size_t bytes = is_same ? (size_t)info.bytes : 1;
    *out = arena_alloc(in->arena, bytes ? bytes : 1);
    return h5_read_tensor(in->r, name, element, shape, *out, in->err);
}

static bool read_scales(const Reading *in, const char *group, const char *object, int64_t count,
                        Dtype dtype, const float **scale, const float **zero) {
    char name[NAME_BYTES];
    void *stored;
    bool exists;
    join(name, group, object, "scales");
    TRY(read_tensor(in, name, scale_element(dtype), SHAPE(count), &stored));
    float *scales = arena_new_array(in->arena, float, count);
    dtype_decode(dtype, stored, NULL, 0, count, scales);
    *scale = scales;
    *zero = NULL;
    join(name, group, object, "zeros");
    TRY(h5_read_exists(in->r, name, &exists, in->err));
    if (!exists) return true;
    TRY(read_tensor(in, name, H5_I32, SHAPE(count), &stored));
    float *zeros = arena_new_array(in->arena, float, count);
    for (int64_t i = 0; i < count; i++) zeros[i] = (float)((const int32_t *)stored)[i];
    *zero = zeros;
    return true;
}

static bool read_shape(const Reading *in, const char *object, Shape *shape, int64_t *count) {
    *shape = (Shape){0};
    char attribute[16];
    for (; shape->rank < SHAPE_RANK_MAX; shape->rank++) {
        snprintf(attribute, sizeof attribute, "dim%d", shape->rank);
        bool has_dim;
        TRY(h5_read_has_number(in->r, object, attribute, &has_dim, in->err));
        if (!has_dim) break;
        TRY(read_small(in, object, attribute, 1, INT64_MAX, &shape->dim[shape->rank]));
    }
    if (shape->rank == 0) return FAIL(in->err, ERROR_INPUT, "%s: has no dim0", object);
    if (shape_check(*shape, count, in->err)) return true;
    error_prefix(in->err, "%s", object);
    return false;
}

static bool read_weight(const Reading *in, const char *layer, PackedWeight *out) {
    char name[NAME_BYTES];
    int64_t count;
    void *codes, *bias;
    bool exists;
    Scales *s = arena_new_array(in->arena, Scales, 1);
    *s = (Scales){0};
    *out = (PackedWeight){.layer = layer};
    join(name, "weights", layer, NULL);
    TRY(read_grid(in, name, &s->grid, &s->dtype));
    TRY(read_shape(in, name, &out->codes.shape, &count));
    TRY(read_small(in, name, "row_length", 1, count, &s->row_length));
    TRY(read_small(in, name, "run_length", 1, s->row_length, &s->run_length));
    s->count = scales_count(count, s->row_length, s->run_length);
    out->codes.dtype = dtype_packed(s->grid);
    out->codes.scales = s;
    Shape bytes = SHAPE((int64_t)dtype_bytes(out->codes.dtype, count));
    TRY(read_tensor(in, join(name, "weights", layer, "codes"), H5_U8, bytes, &codes));
    out->codes.data = codes;
    TRY(read_scales(in, "weights", layer, s->count, s->dtype, &s->scale, &s->zero));
    join(name, "weights", layer, "bias");
    TRY(h5_read_exists(in->r, name, &exists, in->err));
    if (!exists) return true;
    out->bias_count = out->codes.shape.dim[0];
    TRY(read_tensor(in, name, H5_F32, SHAPE(out->bias_count), &bias));
    out->bias = bias;
    return true;
}

static bool read_edge(const Reading *in, const char *edge, PackedEdge *out) {
    char name[NAME_BYTES];
    int64_t is_affine, is_per_token;
    const float *scale, *zero;
    *out = (PackedEdge){.name = edge};
    join(name, "edges", edge, NULL);
    TRY(read_grid(in, name, &out->grid, &out->scale_dtype));
    TRY(read_small(in, name, "affine", 0, 1, &is_affine));
    TRY(read_small(in, name, "per_token", 0, 1, &is_per_token));
    out->is_affine = is_affine != 0;
    out->is_per_token = is_per_token != 0;
    if (out->is_per_token) return true;
    TRY(read_scales(in, "edges", edge, 1, out->scale_dtype, &scale, &zero));
    if (out->is_affine != (zero != NULL))
        return FAIL(in->err, ERROR_INPUT, "%s: affine is %d, but zeros are %s", name,
                    out->is_affine, zero ? "there" : "missing");
    out->scale = *scale;
    if (zero) out->zero = *zero;
    return true;
}

static bool read_param(const Reading *in, const char *param, PackedParam *out) {
    char name[NAME_BYTES];
    out->name = param;
    return stored_read_new(in->r, join(name, "params", param, NULL), in->arena, &out->value,
                           in->err);
}

/* The names in a group, which may be missing where it would be empty. */
static bool read_names(const Reading *in, const char *group, const char ***names, int *count) {
    bool exists;
    *count = 0;
    TRY(h5_read_exists(in->r, group, &exists, in->err));
    if (!exists) return true;
    TRY(h5_read_names(in->r, group, in->arena, names, count, in->err));
    enum { SUFFIX = 32 };
    for (int i = 0; i < *count; i++)
        if (strlen((*names)[i]) + SUFFIX > NAME_BYTES)
            return FAIL(in->err, ERROR_INPUT, "%s: the name of object %d is too long", group, i);
    return true;
}

static bool read_parts(const Reading *in) {
    PackedModel *m = in->m;
    const char **names = NULL;
    TRY(read_names(in, "weights", &names, &m->weight_count));
    m->weights = arena_new_array(in->arena, PackedWeight, m->weight_count + 1);
    for (int i = 0; i < m->weight_count; i++) TRY(read_weight(in, names[i], &m->weights[i]));
    TRY(read_names(in, "edges", &names, &m->edge_count));
    m->edges = arena_new_array(in->arena, PackedEdge, m->edge_count + 1);
    for (int i = 0; i < m->edge_count; i++) TRY(read_edge(in, names[i], &m->edges[i]));
    TRY(read_names(in, "params", &names, &m->param_count));
    m->params = arena_new_array(in->arena, PackedParam, m->param_count + 1);
    for (int i = 0; i < m->param_count; i++) TRY(read_param(in, names[i], &m->params[i]));
    return true;
}

static bool read_version(const Reading *in) {
    int64_t version;
    TRY(h5_read_int(in->r, "", "format_version", &version, in->err));
    if (version == FORMAT_VERSION) return true;
    return FAIL(in->err, ERROR_INPUT,
                "format version %ld; this nibble reads packed models of version %d: run 'nibble "
                "convert' again",
                (long)version, FORMAT_VERSION);
}

static bool read_graph(const Reading *in) {
    const char *text = h5_read_text(in->r, "model", in->arena, in->err);
    if (!text) return false;
    Faults faults = {.arena = in->arena};
    Node *root = NULL;
    TRY(yaml_read_text(text, strlen(text), "model", in->arena, &root, &faults, in->err));
    fields_read(packed_graph_fields, root, root->mark, &in->m->graph, in->arena, &faults);
    if (!faults.count) return true;
    return FAIL(in->err, ERROR_INPUT, "model:%d:%d: %s", faults.first->mark.line,
                faults.first->mark.column, faults.first->message);
}

/* As many lines as there are classes. */
static bool read_class_names(const Reading *in) {
    PackedModel *m = in->m;
    bool exists;
    TRY(h5_read_exists(in->r, "class_names", &exists, in->err));
    if (!exists) return true;
    const char *text = h5_read_text(in->r, "class_names", in->arena, in->err);
    if (!text) return false;
    int64_t lines = 0;
    for (const char *c = text; *c; c++) lines += *c == '\n';
    if (lines != m->class_count)
        return FAIL(in->err, ERROR_INPUT, "class_names: %ld lines for %ld classes", (long)lines,
                    (long)m->class_count);
    const char **names = arena_new_array(in->arena, const char *, lines);
    for (int64_t i = 0; i < lines; i++) {
        size_t length = strcspn(text, "\n");
        names[i] = arena_format(in->arena, "%.*s", (int)length, text);
        text += length + 1;
    }
    m->class_names = names;
    return true;
}

static bool read_input(const Reading *in) {
    static const char *const sides[] = {"height", "width", "channels"};
    PackedModel *m = in->m;
    m->input.rank = 3;
    for (int i = 0; i < 3; i++)
        TRY(read_small(in, "input", sides[i], 1, DATASET_SIDE_MAX, &m->input.dim[i]));
    TRY(read_small(in, "input", "classes", 2, DATASET_CLASSES_MAX, &m->class_count));
    int64_t has_floats;
    TRY(read_small(in, "input", "is_float", 0, 1, &has_floats));
    m->has_float_pixels = has_floats != 0;
    TRY(read_class_names(in));
    void *mean, *deviation;
    Shape channels = SHAPE(m->input.dim[2]);
    TRY(read_tensor(in, "input/mean", H5_F32, channels, &mean));
    TRY(read_tensor(in, "input/deviation", H5_F32, channels, &deviation));
    m->mean = mean;
    m->deviation = deviation;
    return true;
}

bool packed_open(const char *path, Arena *arena, PackedModel *out, Error *err) {
    *out = (PackedModel){.arena = arena};
    Arena *file = arena_new("packed file");
    H5Reader *r = h5_read_open(path, file, err);
    Reading in = {r, arena, out, err};
    bool ok = r != NULL;
    if (ok) {
        ok = read_version(&in) && read_graph(&in) && read_input(&in) && read_parts(&in) &&
             packed_model_build(out, err);
        bool is_named = !strncmp(err->message, path, strlen(path)); /* by what reads the file */
        if (!ok && !is_named) error_prefix(err, "%s", path);
    }
    arena_free(file);
    return ok;
}

/* ---- What it was made of ---- */

bool packed_is_of(const char *path, const char *network_digest, bool *out, Error *err) {
    Arena *arena = arena_new("packed file");
    H5Reader *r = h5_read_open(path, arena, err);
    bool is_named = false; /* not in files of before */
    const char *found = "";
    *out = false;
    bool ok = r && h5_read_exists(r, network_name, &is_named, err);
    if (ok && is_named) ok = (found = h5_read_text(r, network_name, arena, err)) != NULL;
    if (ok) *out = *found && !strcmp(found, network_digest);
    arena_free(arena);
    return ok;
}

static bool find_any_network(const char *directory, Arena *arena) {
    static const char *const files[] = {RUN_CHECKPOINT, RUN_PREVIOUS, RUN_BEST};
    Error ignored = {0};
    bool is_there = false;
    for (int i = 0; i < 3; i++)
        is_there |= file_find(run_path(arena, directory, files[i]), &ignored) != FILE_ABSENT;
    return is_there;
}

static bool check_run(const char *directory, Arena *arena, Error *err) {
    const char *path = run_path(arena, directory, RUN_QUANTIZED);
    Checkpoint network;
    Error reason = {0};
    bool is_of;
    if (!find_any_network(directory, arena)) return true;
    if (!saved_open_network(directory, arena, &network, &reason)) {
        log_warning("%s. Whether %s is of the run's network is not known", reason.message, path);
        return true;
    }
    checkpoint_close(&network);
    TRY(packed_is_of(path, network.digest, &is_of, err));
    if (is_of) return true;
    return FAIL(err, ERROR_MISMATCH,
                "%s was not made of the network that %s reports now, of step %ld; run 'nibble "
                "convert %s' again",
                path, directory, (long)network.cursor.step, directory);
}

bool packed_check_run(const char *directory, Error *err) {
    Arena *arena = arena_new("packed file");
    bool ok = check_run(directory, arena, err);
    arena_free(arena);
    return ok;
}
