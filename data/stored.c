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
                          Error *err) {
    enum { SOME = 4096 };
    float values[SOME];
    int64_t count = tensor->scales ? 0 : tensor_count(tensor);
    for (int64_t first = 0; first < count; first += SOME) {
        int64_t some = count - first < SOME ? count - first : SOME;
        tensor_decode_part(tensor, first, some, values);
        TRY(check_floats(reader, name, values, some, -FLT_MAX, err));
    }
    return true;
}

bool stored_read(const H5Reader *reader, const char *name, const Tensor *tensor, Error *err) {
    H5Info info;
    if (operand_is_plain(tensor))
        return stored_read_floats(reader, name, tensor->shape, -FLT_MAX, tensor->data, err);
    TRY(h5_read_info(reader, name, &info, err));
    if (info.what != H5_GROUP) return is_other(reader, name, "f32", tensor, err);
    char part[NAME_BYTES];
    TRY(check(reader, name, tensor, err));
    TRY(h5_read_tensor(reader, inside(part, name, "codes"), H5_U8, codes_shape(tensor),
                       tensor->data, err));
    TRY(check_numbers(reader, name, tensor, err));
    if (!tensor->scales) return true;
    double offset;
    Scales *scales = (Scales *)(uintptr_t)tensor->scales; /* the tensor's own, in its arena */
    TRY(h5_read_float(reader, name, "offset", &offset, err));
    scales->offset = (float)offset;
    if (!isfinite(scales->offset))
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": its offset is %g, expected a finite number",
                    h5_read_path(reader), name, offset);
    return stored_read(reader, inside(part, name, "scales"), scales->stored, err);
}
