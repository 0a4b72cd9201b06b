#include "data/stored.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

#include "core/floats.h"
#include "core/kernels/operand.h"

enum { NAME_BYTES = 512, ATTRIBUTES_MAX = SHAPE_RANK_MAX + 4, ATTRIBUTE_BYTES = 16 };

static Shape codes_shape(const Tensor *tensor) {
    return SHAPE((int64_t)dtype_bytes(tensor->dtype, tensor_count(tensor)));
}

/* What a group says of its tensor beside the dtype; memory that is read into must agree. */
typedef struct Attribute {
    char name[ATTRIBUTE_BYTES];
    int64_t value;
} Attribute;

static int attributes_of(const Tensor *tensor, Attribute attributes[ATTRIBUTES_MAX]) {
    int count = 0;
    attributes[count++] = (Attribute){"rank", tensor->shape.rank};
    for (int i = 0; i < tensor->shape.rank; i++) {
        Attribute *dim = &attributes[count++];
        snprintf(dim->name, sizeof dim->name, "dim%d", i);
        dim->value = tensor->shape.dim[i];
    }
    if (!tensor->scales) return count;
    attributes[count++] = (Attribute){"row_length", tensor->scales->row_length};
    attributes[count++] = (Attribute){"run_length", tensor->scales->run_length};
    return count;
}

static const char *inside(char buffer[NAME_BYTES], const char *name, const char *part) {
    snprintf(buffer, NAME_BYTES, "%s/%s", name, part);
    return buffer;
}

void stored_write(H5Writer *writer, const char *name, const Tensor *tensor) {
    assert(!tensor_holds_levels(tensor));
    if (operand_is_plain(tensor)) {
        h5_write_tensor(writer, name, H5_F32, tensor->shape, tensor->data);
        return;
    }
    char part[NAME_BYTES];
    Attribute attributes[ATTRIBUTES_MAX];
    h5_write_tensor(writer, inside(part, name, "codes"), H5_U8, codes_shape(tensor), tensor->data);
    h5_write_int(writer, name, "dtype", tensor->dtype);
    int count = attributes_of(tensor, attributes);
    for (int i = 0; i < count; i++)
        h5_write_int(writer, name, attributes[i].name, attributes[i].value);
    if (!tensor->scales) return;
    h5_write_float(writer, name, "offset", (double)tensor->scales->offset);
    stored_write(writer, inside(part, name, "scales"), tensor->scales->stored);
}

static bool is_other(const H5Reader *reader, const char *name, const char *found,
                     const Tensor *tensor, Error *err) {
    return FAIL(err, ERROR_INPUT, "%s: \"%s\" is stored as %s, expected %s", h5_read_path(reader),
                name, found, dtype_name(tensor->dtype));
}

/* Of a group: that it holds such a tensor. */
static bool check(const H5Reader *reader, const char *name, const Tensor *tensor, Error *err) {
    int64_t dtype;
    Attribute expected[ATTRIBUTES_MAX];
    TRY(h5_read_int(reader, name, "dtype", &dtype, err));
    bool is_known = dtype >= 0 && dtype < DTYPE_COUNT;
    if (dtype != (int64_t)tensor->dtype)
        return is_other(reader, name, is_known ? dtype_name((Dtype)dtype) : "an unknown format",
                        tensor, err);
    int count = attributes_of(tensor, expected);
    for (int i = 0; i < count; i++) {
        int64_t value;
        TRY(h5_read_int(reader, name, expected[i].name, &value, err));
        if (value != expected[i].value)
            return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %s %ld, expected %ld",
                        h5_read_path(reader), name, expected[i].name, (long)value,
                        (long)expected[i].value);
    }
    return true;
}

static bool check_floats(const H5Reader *reader, const char *name, const float *values,
                         int64_t count, float least, Error *err) {
    int64_t bad = floats_find_unfit(values, count, least);
    if (bad < 0) return true;
    const char *expected = least < 0    ? "one that is finite"
                           : least == 0 ? "one that is finite and at least 0"
                                        : "one that is finite and above 0";
    return FAIL(err, ERROR_INPUT, "%s: \"%s\": number %ld is %g, expected %s", h5_read_path(reader),
                name, (long)bad, (double)values[bad], expected);
}

bool stored_read_floats(const H5Reader *reader, const char *name, Shape shape, float least,
                        float *values, Error *err) {
    return h5_read_tensor(reader, name, H5_F32, shape, values, err) &&
           check_floats(reader, name, values, shape_count(shape), least, err);
}

/* Codes that are numbers themselves can say infinity; those of a codebook's entries cannot. */
static bool check_numbers(const H5Reader *reader, const char *name, const Tensor *tensor,
                          float least, Error *err) {
    enum { SOME = 4096 };
    float values[SOME];
    int64_t count = tensor->scales ? 0 : tensor_count(tensor);
    for (int64_t first = 0; first < count; first += SOME) {
        int64_t some = count - first < SOME ? count - first : SOME;
        tensor_decode_part(tensor, first, some, values);
        TRY(check_floats(reader, name, values, some, least, err));
    }
    return true;
}

static bool read_values(const H5Reader *reader, const char *name, const Tensor *tensor, float least,
                        Error *err) {
    H5Info info;
    if (operand_is_plain(tensor))
        return stored_read_floats(reader, name, tensor->shape, least, tensor->data, err);
    TRY(h5_read_info(reader, name, &info, err));
    if (info.what != H5_GROUP) return is_other(reader, name, "f32", tensor, err);
    char part[NAME_BYTES];
    TRY(check(reader, name, tensor, err));
    TRY(h5_read_tensor(reader, inside(part, name, "codes"), H5_U8, codes_shape(tensor),
                       tensor->data, err));
    TRY(check_numbers(reader, name, tensor, least, err));
    if (!tensor->scales) return true;
    double offset;
    Scales *scales = (Scales *)(uintptr_t)tensor->scales; /* the tensor's own, in its arena */
    TRY(h5_read_float(reader, name, "offset", &offset, err));
    scales->offset = (float)offset;
    if (!isfinite(scales->offset))
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": its offset is %g, expected a finite number",
                    h5_read_path(reader), name, offset);
    return read_values(reader, inside(part, name, "scales"), scales->stored, 0, err);
}

bool stored_read(const H5Reader *reader, const char *name, const Tensor *tensor, Error *err) {
    return read_values(reader, name, tensor, -FLT_MAX, err);
}

/* ---- A tensor like the one in a file ---- */

static bool read_small(const H5Reader *reader, const char *name, const char *attribute, int64_t low,
                       int64_t high, int64_t *value, Error *err) {
    TRY(h5_read_int(reader, name, attribute, value, err));
    return (*value >= low && *value <= high) ||
           FAIL(err, ERROR_INPUT, "%s: \"%s\" has %s %lld, expected %lld to %lld",
                h5_read_path(reader), name, attribute, (long long)*value, (long long)low,
                (long long)high);
}

static bool read_shape(const H5Reader *reader, const char *name, Shape *shape, Error *err) {
    int64_t value, count;
    TRY(read_small(reader, name, "rank", 0, SHAPE_RANK_MAX, &value, err));
    *shape = (Shape){.rank = (int)value};
    for (int i = 0; i < shape->rank; i++) {
        char dim[ATTRIBUTE_BYTES];
        snprintf(dim, sizeof dim, "dim%d", i);
        TRY(read_small(reader, name, dim, 1, INT64_MAX, &shape->dim[i], err));
    }
    if (shape_check(*shape, &count, err)) return true;
    error_prefix(err, "%s: \"%s\"", h5_read_path(reader), name);
    return false;
}

static bool tensor_like(const H5Reader *reader, const char *name, Arena *arena, Tensor *out,
                        Error *err);

/* Those of flat blocks. */
static bool scales_like(const H5Reader *reader, const char *name, int64_t count, Arena *arena,
                        const Scales **out, Error *err) {
    char part[NAME_BYTES];
    Scales *scales = arena_new_array(arena, Scales, 1);
    Tensor *stored = arena_new_array(arena, Tensor, 1);
    TRY(read_small(reader, name, "run_length", 1, INT64_MAX, &scales->run_length, err));
    TRY(tensor_like(reader, inside(part, name, "scales"), arena, stored, err));
    scales->row_length = count;
    scales->count = scales_count(count, count, scales->run_length);
    if (stored->shape.rank != 1 || stored->shape.dim[0] != scales->count)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %lld scales, expected %lld",
                    h5_read_path(reader), name, (long long)tensor_count(stored),
                    (long long)scales->count);
    scales->dtype = stored->dtype;
    scales->stored = stored;
    scales->scale = stored->dtype == DTYPE_F32 ? stored->data : NULL;
    *out = scales;
    return true;
}

/* Made once the file is known to have as many codes. */
static bool tensor_like(const H5Reader *reader, const char *name, Arena *arena, Tensor *out,
                        Error *err) {
    char part[NAME_BYTES];
    H5Info info;
    Shape shape;
    int64_t dtype;
    TRY(h5_read_info(reader, name, &info, err));
    if (info.what != H5_GROUP) {
        *out = tensor_zeros(arena, DTYPE_F32, info.what == H5_TENSOR ? info.shape : SHAPE_SCALAR);
        return true;
    }
    TRY(read_small(reader, name, "dtype", 0, DTYPE_COUNT - 1, &dtype, err));
    TRY(read_shape(reader, name, &shape, err));
    const Codec *codec = dtype_codec((Dtype)dtype);
    if (codec->stores == CODE_LEVEL)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is stored as %s, which are levels of no grid",
                    h5_read_path(reader), name, codec->name);
    TRY(h5_read_info(reader, inside(part, name, "codes"), &info, err));
    if (info.bytes != (int64_t)dtype_bytes((Dtype)dtype, shape_count(shape)))
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %lld bytes, expected %lld",
                    h5_read_path(reader), part, (long long)info.bytes,
                    (long long)dtype_bytes((Dtype)dtype, shape_count(shape)));
    *out = tensor_zeros(arena, (Dtype)dtype, shape);
    return codec->stores == CODE_NUMBER ||
           scales_like(reader, name, shape_count(shape), arena, &out->scales, err);
}

bool stored_read_new(const H5Reader *reader, const char *name, Arena *arena, Tensor *out,
                     Error *err) {
    return tensor_like(reader, name, arena, out, err) && stored_read(reader, name, out, err);
}
