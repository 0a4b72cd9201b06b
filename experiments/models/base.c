#include "experiments/models/base.h"

#include <string.h>

#include "data/bitsandbytes.h"

/* ---- Rows ---- */

typedef struct CodebookConfig {
    int64_t block;
    bool double_quantization;
} CodebookConfig;

static const Field codebook_fields[] = {
    FIELD_INT(CodebookConfig, block, "64", 2, 65536, "weights under one scale, an even number"),
    FIELD_BOOL(CodebookConfig, double_quantization, "false",
               "scales are quantized again, to 8 bits in blocks of 256"),
    FIELD_END,
};

typedef struct GroupConfig {
    int64_t group;
    bool affine;
} GroupConfig;

#define GROUP_FIELDS(group_)                                                                       \
    FIELD_INT(GroupConfig, group, group_, 0, 1 << 24,                                              \
              "weights of a row under one scale; 0: the row"),                                     \
        FIELD_BOOL(GroupConfig, affine, "false",                                                   \
                   "from the least to the largest weight, with a zero point; else up to the "      \
                   "largest magnitude"),                                                           \
        FIELD_END
static const Field i4_fields[] = {GROUP_FIELDS("32")};
static const Field i8_fields[] = {GROUP_FIELDS("0")};

static Storage numbers(const BaseFormat *row, const void *config) {
    (void)config;
    return (Storage){.dtype = row->dtype};
}

static Storage codebook(const BaseFormat *row, const void *config) {
    const CodebookConfig *c = config;
    return (Storage){.dtype = row->dtype,
                     .block = c->block,
                     .scale_dtype = c->double_quantization ? DTYPE_DYNAMIC8 : DTYPE_F32};
}

static Storage groups(const BaseFormat *row, const void *config) {
    const GroupConfig *c = config;
    return (Storage){
        .dtype = row->dtype, .block = c->group, .scale_dtype = DTYPE_F16, .is_affine = c->affine};
}

const BaseFormat base_stored = {.kind = {"stored", "as the directory has them, 4 bits of "
                                                   "bitsandbytes included"}};
const BaseFormat base_f32 = {{"f32", "32-bit numbers"}, DTYPE_F32, numbers};
const BaseFormat base_f16 = {{"f16", "16-bit numbers"}, DTYPE_F16, numbers};
const BaseFormat base_bf16 = {{"bf16", "the upper half of 32-bit numbers"}, DTYPE_BF16, numbers};
const BaseFormat base_nf4 = {
    {"nf4", "4 bits: quantiles of a normal distribution (QLoRA)", sizeof(CodebookConfig),
     codebook_fields},
    DTYPE_NF4,
    codebook,
};
const BaseFormat base_fp4 = {
    {"fp4", "4 bits: floating-point numbers", sizeof(CodebookConfig), codebook_fields},
    DTYPE_FP4,
    codebook,
};
const BaseFormat base_i4 = {
    {"i4", "4 bits: integers under scales of groups", sizeof(GroupConfig), i4_fields},
    DTYPE_INT4,
    groups,
};
const BaseFormat base_i8 = {
    {"i8", "8 bits: integers under scales of rows", sizeof(GroupConfig), i8_fields},
    DTYPE_INT8,
    groups,
};

static const Kind *const kinds[] = {
#define BASE(name) &base_##name.kind,
#include "experiments/models/bases.def"
#undef BASE
};
const KindTable base_kinds = {"base", kinds, sizeof kinds / sizeof *kinds};

/* ---- Reading ---- */

typedef struct Source {
    const SafeTensors *files;
    const SafeTensor *tensor;
} Source;

static bool read_values(void *context, int64_t first, int64_t count, float *values, Error *err) {
    const Source *s = context;
    return safetensors_read(s->files, s->tensor, first, count, values, err);
}

static const BaseFormat *row_of(const Variant *base) {
    return base->kind ? (const BaseFormat *)base->kind : &base_stored;
}

static bool check_shape(const SafeTensors *files, const SafeTensor *tensor, Shape shape,
                        Error *err) {
    char found[SHAPE_TEXT_BYTES], expected[SHAPE_TEXT_BYTES];
    if (shape_equal(tensor->shape, shape)) return true;
    return FAIL(err, ERROR_INPUT, "%s: tensor '%s' is %s, but config.json makes it %s",
                files->files[tensor->file], tensor->name, shape_text(tensor->shape, found),
                shape_text(shape, expected));
}

static bool find(const SafeTensors *files, const char *name, Shape shape, const SafeTensor **out,
                 Error *err) {
    *out = safetensors_find(files, name);
    if (!*out) return FAIL(err, ERROR_INPUT, "%s: there is no tensor '%s'", files->files[0], name);
    TRY(check_shape(files, *out, shape, err));
    if ((*out)->dtype != DTYPE_COUNT) return true;
    return FAIL(err, ERROR_INPUT, "%s: tensor '%s' is of %s, of which nibble reads no numbers",
                files->files[(*out)->file], name, (*out)->type);
}

static bool check_not_twice(const BaseFormat *row, const SafeTensors *files, const char *name,
                            Error *err) {
    if (row == &base_stored) return true;
    return FAIL(err, ERROR_INPUT,
                "%s: '%s' is stored in 4 bits already; it would be quantized twice: leave out "
                "model.base, or take a directory with 16-bit weights",
                files->files[0], name) ||
           error_blame(err, "model.base");
}

Storage base_storage(const Variant *base, Dtype dtype) {
    const BaseFormat *row = row_of(base);
    return row->storage ? row->storage(row, base->config) : (Storage){.dtype = dtype};
}

static bool read_quantized(const BaseFormat *row, const SafeTensors *files, const char *name,
                           Shape shape, Arena *arena, Tensor *out, Error *err) {
    TRY(check_not_twice(row, files, name, err));
    TRY(bitsandbytes_read(files, name, arena, out, err));
    SafeTensor as_saved = *safetensors_find(files, name);
    as_saved.shape = out->shape;
    return check_shape(files, &as_saved, shape, err);
}

bool base_read(const Variant *base, const SafeTensors *files, const char *name, Shape shape,
               Arena *arena, Tensor *out, Error *err) {
    const BaseFormat *row = row_of(base);
    if (bitsandbytes_has(files, name))
        return read_quantized(row, files, name, shape, arena, out, err);
    const SafeTensor *tensor;
    TRY(find(files, name, shape, &tensor, err));
    Source source = {files, tensor};
    Storage storage = base_storage(base, tensor->dtype);
    if (tensor_encode_from(arena, &(ValueSource){read_values, &source}, shape, &storage, out, err))
        return true;
    if (err->code == ERROR_NUMERIC) err->code = ERROR_INPUT;
    error_prefix(err, "%s: tensor '%s'", files->files[tensor->file], name);
    return false;
}

bool base_bytes(const Variant *base, const SafeTensors *files, const char *name, Shape shape,
                size_t *bytes, Error *err) {
    if (bitsandbytes_has(files, name)) {
        Tensor t;
        Arena *scratch = arena_new("weight");
        bool ok = read_quantized(row_of(base), files, name, shape, scratch, &t, err);
        if (ok) *bytes = tensor_bytes(&t);
        arena_free(scratch);
        return ok;
    }
    const SafeTensor *tensor;
    TRY(find(files, name, shape, &tensor, err));
    Storage storage = base_storage(base, tensor->dtype);
    *bytes = storage_bytes(&storage, shape);
    return true;
}
