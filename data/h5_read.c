#include <stdio.h>
#include <string.h>

#include "data/envelope.h"
#include "data/h5_door.h"

struct H5Reader {
    const char *path;
    hid_t file;
    bool is_ours;      /* or another program's, without a digest */
    Envelope envelope; /* the file's bytes, and its digest */
};

/* ---- Opening ---- */

/* libhdf5 would copy the image twice; these hand it our own buffer each time. */
static void *image_malloc(size_t size, H5FD_file_image_op_t operation, void *reader) {
    (void)size;
    (void)operation;
    return (void *)(uintptr_t)((H5Reader *)reader)->envelope.body;
}

static void *image_memcpy(void *to, const void *from, size_t size, H5FD_file_image_op_t operation,
                          void *reader) {
    (void)size;
    (void)operation;
    (void)reader;
    return to == from ? to : NULL;
}

static void *image_realloc(void *image, size_t size, H5FD_file_image_op_t operation, void *reader) {
    (void)image;
    (void)size;
    (void)operation;
    (void)reader;
    return NULL; /* read-only */
}

static herr_t image_free(void *image, H5FD_file_image_op_t operation, void *reader) {
    (void)image;
    (void)operation;
    (void)reader;
    return 0;
}

static void *image_owner(void *reader) {
    return reader;
}

static herr_t image_owner_free(void *reader) {
    (void)reader;
    return 0;
}

static bool image_open(H5Reader *reader, Error *err) {
    H5FD_file_image_callbacks_t callbacks = {image_malloc, image_memcpy, image_realloc,
                                             image_free,   image_owner,  image_owner_free,
                                             reader};
    h5_failures_forget(reader->is_ours);
    char name[64]; /* must be unique, and must not exist */
    snprintf(name, sizeof name, "/dev/null/image-%p", (void *)reader);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    reader->file = H5I_INVALID_HID;
    if (H5Pset_fapl_core(access, 1 << 16, false) >= 0 &&
        H5Pset_file_image_callbacks(access, &callbacks) >= 0 &&
        H5Pset_file_image(access, (void *)(uintptr_t)reader->envelope.body,
                          reader->envelope.bytes) >= 0)
        reader->file = H5Fopen(name, H5F_ACC_RDONLY, access);
    if (reader->file < 0) h5_fail(err, ERROR_INPUT, reader->path, "cannot open as HDF5");
    H5Pclose(access);
    return reader->file >= 0;
}

static bool signature_check(const H5Reader *reader, Error *err) {
    static const unsigned char signature[] = "\x89HDF\r\n\x1a\n";
    size_t length = sizeof signature - 1;
    if (reader->envelope.bytes < length || memcmp(reader->envelope.body, signature, length))
        return FAIL(err, ERROR_INPUT, "%s: not an HDF5 file", reader->path);
    return true;
}

static H5Reader *reader_new(const char *path, Arena *arena) {
    h5_start();
    h5_failures_forget(false);
    H5Reader *reader = arena_zalloc(arena, sizeof *reader);
    reader->path = arena_strdup(arena, path);
    return reader;
}

H5Reader *h5_read_open(const char *path, Arena *arena, Error *err) {
    H5Reader *reader = reader_new(path, arena);
    reader->is_ours = true;
    bool is_open = envelope_open(path, arena, &reader->envelope, err) &&
                   signature_check(reader, err) && image_open(reader, err);
    return is_open ? reader : NULL;
}

H5Reader *h5_read_foreign(const char *path, const void *bytes, size_t count, Arena *arena,
                          Error *err) {
    H5Reader *reader = reader_new(path, arena);
    reader->envelope = (Envelope){.body = bytes, .bytes = count};
    return image_open(reader, err) ? reader : NULL;
}

void h5_read_close(H5Reader *reader) {
    if (reader) H5Fclose(reader->file);
}

void h5_read_digest(const H5Reader *reader, char text[33]) {
    text[0] = '\0';
    for (int i = 0; reader->is_ours && i < ENVELOPE_DIGEST_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", reader->envelope.digest[i]);
}

/* ---- Finding ---- */

static bool link_check(const H5Reader *reader, const char *name, Error *err) {
    H5L_info_t link;
    if (H5Lexists(reader->file, name, H5P_DEFAULT) <= 0)
        return h5_refuse(err, reader->path, "has no \"%s\"", name);
    if (H5Lget_info(reader->file, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return h5_refuse(err, reader->path, "\"%s\" is a link to elsewhere; not accepted", name);
    return true;
}

hid_t h5_object_open(const H5Reader *reader, const char *name, Error *err) {
    h5_failures_forget(reader->is_ours);
    if (!h5_name_check(reader->path, name, err)) return H5I_INVALID_HID;
    char prefix[H5_NAME_BYTES_MAX];
    size_t used = 0;
    while (h5_next_component(name, &used, prefix))
        if (!link_check(reader, prefix, err)) return H5I_INVALID_HID;
    hid_t object = H5Oopen(reader->file, name[0] ? name : "/", H5P_DEFAULT);
    if (object < 0) h5_fail(err, ERROR_INPUT, reader->path, name);
    return object;
}

const char *h5_read_path(const H5Reader *reader) {
    return reader->path;
}

/* Not there, or not known: the machine failed. */
static bool is_certain(const Error *found, Error *err) {
    if (found->code == ERROR_SYSTEM) *err = *found;
    return found->code != ERROR_SYSTEM;
}

bool h5_read_exists(const H5Reader *reader, const char *name, bool *exists, Error *err) {
    Error found = {0};
    hid_t object = h5_object_open(reader, name, &found);
    *exists = object >= 0;
    if (object >= 0) H5Oclose(object);
    return is_certain(&found, err);
}

static bool is_float(H5Element element) {
    return element == H5_F32 || element == H5_F64;
}

static bool is_signed(H5Element element) {
    return element == H5_I8 || element == H5_I16 || element == H5_I32 || element == H5_I64;
}

/* What a number becomes in memory, in whatever order its bytes lie; -1: it is none. */
static int element_of(hid_t type) {
    H5T_class_t kind = H5Tget_class(type);
    size_t bytes = H5Tget_size(type);
    if ((kind != H5T_INTEGER && kind != H5T_FLOAT) || H5Tget_precision(type) != 8 * bytes)
        return -1;
    if (kind == H5T_FLOAT && bytes == 2) return H5_F32;
    for (int i = 0; i < H5_ELEMENT_COUNT; i++) {
        H5Element element = (H5Element)i;
        if (h5_element_bytes(element) != bytes || is_float(element) != (kind == H5T_FLOAT))
            continue;
        if (kind == H5T_FLOAT || is_signed(element) == (H5Tget_sign(type) == H5T_SGN_2)) return i;
    }
    return -1;
}

static const char *type_name(hid_t type) {
    static const struct {
        H5T_class_t kind;
        const char *name;
    } names[] = {{H5T_INTEGER, "integer of an unusual width"},
                 {H5T_FLOAT, "float of an unusual width"},
                 {H5T_STRING, "text"},
                 {H5T_BITFIELD, "bit field"},
                 {H5T_OPAQUE, "opaque"},
                 {H5T_COMPOUND, "compound"},
                 {H5T_REFERENCE, "reference"},
                 {H5T_ENUM, "enumeration (as booleans are stored)"},
                 {H5T_VLEN, "of variable length"},
                 {H5T_ARRAY, "array"}};
    H5T_class_t kind = H5Tget_class(type);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].kind == kind) return names[i].name;
    return "unknown";
}

bool h5_storage_is_plain(hid_t dataset) {
    hid_t options = H5Dget_create_plist(dataset);
    H5D_layout_t layout = H5Pget_layout(options);
    bool is_plain = (layout == H5D_CONTIGUOUS || layout == H5D_COMPACT || layout == H5D_CHUNKED) &&
                    H5Pget_external_count(options) == 0;
    int filters = H5Pget_nfilters(options);
    for (int i = 0; i < filters; i++) {
        unsigned flags, settings;
        size_t value_count = 0;
        H5Z_filter_t filter =
            H5Pget_filter2(options, (unsigned)i, &flags, &value_count, NULL, 0, NULL, &settings);
        is_plain &= filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE ||
                    filter == H5Z_FILTER_FLETCHER32;
    }
    H5Pclose(options);
    return is_plain && filters >= 0;
}

static bool shape_read(hid_t dataset, Shape *shape) {
    hid_t space = H5Dget_space(dataset);
    hsize_t dims[H5S_MAX_RANK];
    H5S_class_t kind = H5Sget_simple_extent_type(space);
    int rank = H5Sget_simple_extent_dims(space, dims, NULL);
    H5Sclose(space);
    bool is_fit = (kind == H5S_SCALAR || kind == H5S_SIMPLE) && rank >= 0 && rank <= SHAPE_RANK_MAX;
    if (!is_fit) return false;
    *shape = (Shape){.rank = rank};
    for (int i = 0; i < rank; i++) {
        if (dims[i] > INT64_MAX) return false;
        shape->dim[i] = (int64_t)dims[i];
    }
    return true;
}

static bool bytes_of(H5Info *info) {
    info->bytes = (int64_t)h5_element_bytes(info->element);
    for (int i = 0; i < info->shape.rank; i++)
        if (__builtin_mul_overflow(info->bytes, info->shape.dim[i], &info->bytes)) return false;
    return true;
}

static bool dataset_info(const H5Reader *reader, hid_t dataset, const char *name, H5Info *info,
                         Error *err) {
    const char *path = reader->path;
    if (!h5_storage_is_plain(dataset))
        return h5_refuse(
            err, path,
            "\"%s\" is stored outside, or through a filter that is not accepted (deflate, "
            "shuffle, fletcher32 are)",
            name);
    if (!shape_read(dataset, &info->shape))
        return h5_refuse(err, path, "\"%s\" has more than %d dimensions", name, SHAPE_RANK_MAX);
    hid_t type = H5Dget_type(dataset);
    bool is_text = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    size_t text_bytes = H5Tget_size(type);
    int element = element_of(type);
    const char *found = type_name(type);
    H5Tclose(type);
    if (is_text && info->shape.rank == 0 && text_bytes > 0 && text_bytes < SIZE_MAX / 2) {
        info->what = H5_TEXT;
        info->bytes = (int64_t)text_bytes - 1;
        return true;
    }
    if (element < 0)
        return h5_refuse(
            err, path,
            "\"%s\" has the element type %s; accepted are integers of 8, 16, 32 and 64 "
            "bits, and floats of 16, 32 and 64",
            name, found);
    info->what = H5_TENSOR;
    info->element = (H5Element)element;
    if (!bytes_of(info))
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": its dimensions multiply to too many bytes", path,
                    name);
    return true;
}

bool h5_read_info(const H5Reader *reader, const char *name, H5Info *info, Error *err) {
    *info = (H5Info){.what = H5_GROUP};
    hid_t object = h5_object_open(reader, name, err);
    if (object < 0) return false;
    H5I_type_t type = H5Iget_type(object);
    bool is_known = type == H5I_GROUP;
    if (type == H5I_DATASET) is_known = dataset_info(reader, object, name, info, err);
    if (!is_known) h5_refuse(err, reader->path, "\"%s\" is neither group nor tensor", name);
    H5Oclose(object);
    return is_known;
}

typedef struct Names {
    Arena *arena;
    const char **names;
    int count, capacity;
} Names;

static herr_t names_add(hid_t group, const char *name, const H5L_info_t *link, void *context) {
    (void)group;
    (void)link;
    Names *list = context;
    if (list->count == list->capacity) return -1;
    list->names[list->count++] = arena_strdup(list->arena, name);
    return 0;
}

bool h5_read_names(const H5Reader *reader, const char *name, Arena *arena, const char ***names,
                   int *count, Error *err) {
    hid_t group = h5_object_open(reader, name, err);
    if (group < 0) return false;
    H5G_info_t info = {0};
    bool is_group =
        H5Iget_type(group) == H5I_GROUP && H5Gget_info(group, &info) >= 0 && info.nlinks < 1 << 24;
    Names list = {.arena = arena, .capacity = is_group ? (int)info.nlinks : 0};
    list.names = arena_new_array(arena, const char *, list.capacity + 1);
    hsize_t next = 0;
    bool is_read =
        is_group && H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &next, names_add, &list) >= 0;
    H5Oclose(group);
    *names = list.names;
    *count = list.count;
    return is_read || h5_refuse(err, reader->path, "\"%s\" is not a group", name);
}

/* ---- Reading data ---- */

static bool tensor_expect(const H5Reader *reader, const char *name, H5Info *info, Error *err) {
    TRY(h5_read_info(reader, name, info, err));
    if (info->what != H5_TENSOR)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a tensor", reader->path, name);
    return true;
}

/* All of it where `first` is negative, else these rows. */
static bool dataset_read(const H5Reader *reader, const char *name, const H5Info *info,
                         int64_t first, int64_t count, void *data, Error *err) {
    if (info->bytes == 0 || (first >= 0 && count == 0)) return true;
    hsize_t start[SHAPE_RANK_MAX] = {(hsize_t)first}, extent[SHAPE_RANK_MAX];
    for (int i = 0; i < info->shape.rank; i++) extent[i] = (hsize_t)info->shape.dim[i];
    hid_t dataset = H5Dopen2(reader->file, name, H5P_DEFAULT);
    hid_t stored = H5S_ALL, wanted = H5S_ALL;
    if (first >= 0) {
        extent[0] = (hsize_t)count;
        wanted = H5Screate_simple(info->shape.rank, extent, NULL);
        stored = H5Dget_space(dataset);
        H5Sselect_hyperslab(stored, H5S_SELECT_SET, start, NULL, extent, NULL);
    }
    bool is_read =
        H5Dread(dataset, h5_memory_type(info->element), wanted, stored, H5P_DEFAULT, data) >= 0;
    if (!is_read) h5_fail(err, ERROR_INPUT, reader->path, name);
    if (stored != H5S_ALL) H5Sclose(stored);
    if (wanted != H5S_ALL) H5Sclose(wanted);
    if (dataset >= 0) H5Dclose(dataset);
    return is_read;
}

bool h5_read_tensor(const H5Reader *reader, const char *name, H5Element element, Shape shape,
                    void *data, Error *err) {
    H5Info info;
    TRY(tensor_expect(reader, name, &info, err));
    if (info.element != element || !shape_equal(info.shape, shape)) {
        char found[SHAPE_TEXT_BYTES], expected[SHAPE_TEXT_BYTES];
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is %s %s, expected %s %s", reader->path, name,
                    h5_element_name(info.element), shape_text(info.shape, found),
                    h5_element_name(element), shape_text(shape, expected));
    }
    return dataset_read(reader, name, &info, -1, 0, data, err);
}

bool h5_read_rows(const H5Reader *reader, const char *name, int64_t first, int64_t count,
                  void *data, Error *err) {
    H5Info info;
    TRY(tensor_expect(reader, name, &info, err));
    int64_t rows = info.shape.rank > 0 ? info.shape.dim[0] : 0;
    if (first < 0 || count < 0 || first > rows || count > rows - first)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %lld rows; %lld from %lld on are not there",
                    reader->path, name, (long long)rows, (long long)count, (long long)first);
    return dataset_read(reader, name, &info, first, count, data, err);
}

const char *h5_read_text(const H5Reader *reader, const char *name, Arena *arena, Error *err) {
    H5Info info;
    if (!h5_read_info(reader, name, &info, err)) return NULL;
    if (info.what != H5_TEXT) {
        (void)FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a text", reader->path, name);
        return NULL;
    }
    char *text = arena_zalloc(arena, (size_t)info.bytes + 2);
    hid_t type = h5_text_type((size_t)info.bytes + 1);
    hid_t dataset = H5Dopen2(reader->file, name, H5P_DEFAULT);
    bool is_read = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    if (!is_read) h5_fail(err, ERROR_INPUT, reader->path, name);
    H5Dclose(dataset);
    H5Tclose(type);
    return is_read ? text : NULL;
}

/* ---- Attributes ---- */

static bool number_read(hid_t id, H5Number *number) {
    hid_t type = H5Aget_type(id), space = H5Aget_space(id);
    bool is_scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    bool is_integer = H5Tequal(type, H5T_STD_I64LE) > 0;
    number->is_float = H5Tequal(type, H5T_IEEE_F64LE) > 0;
    H5Sclose(space);
    H5Tclose(type);
    if (!is_scalar || (!is_integer && !number->is_float)) return false;
    if (is_integer) return H5Aread(id, H5T_NATIVE_INT64, &number->integer) >= 0;
    return H5Aread(id, H5T_NATIVE_DOUBLE, &number->real) >= 0;
}

static bool number_find(const H5Reader *reader, const char *object, const char *attribute,
                        H5Number *number, Error *err) {
    hid_t owner = h5_object_open(reader, object, err);
    if (owner < 0) return false;
    bool exists = H5Aexists(owner, attribute) > 0;
    hid_t id = exists ? H5Aopen(owner, attribute, H5P_DEFAULT) : H5I_INVALID_HID;
    bool is_number = id >= 0 && number_read(id, number);
    if (id >= 0) H5Aclose(id);
    H5Oclose(owner);
    return is_number ||
           h5_refuse(err, reader->path, "\"%s\" %s \"%s\"", object,
                     exists ? "has something else than one number in" : "has no attribute",
                     attribute);
}

bool h5_read_int(const H5Reader *reader, const char *object, const char *attribute, int64_t *value,
                 Error *err) {
    H5Number number = {0};
    TRY(number_find(reader, object, attribute, &number, err));
    if (number.is_float)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": attribute \"%s\" is no integer", reader->path,
                    object, attribute);
    *value = number.integer;
    return true;
}

bool h5_read_float(const H5Reader *reader, const char *object, const char *attribute, double *value,
                   Error *err) {
    H5Number number = {0};
    TRY(number_find(reader, object, attribute, &number, err));
    if (!number.is_float)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": attribute \"%s\" is no floating-point number",
                    reader->path, object, attribute);
    *value = number.real;
    return true;
}

bool h5_read_has_number(const H5Reader *reader, const char *object, const char *attribute,
                        bool *has, Error *err) {
    H5Number number = {0};
    Error found = {0};
    *has = number_find(reader, object, attribute, &number, &found);
    return is_certain(&found, err);
}

typedef struct Numbers {
    Arena *arena;
    H5Number *items;
    int count, capacity;
} Numbers;

static herr_t numbers_add(hid_t owner, const char *name, const H5A_info_t *info, void *context) {
    (void)info;
    Numbers *list = context;
    hid_t id = H5Aopen(owner, name, H5P_DEFAULT);
    H5Number number = {.name = arena_strdup(list->arena, name)};
    if (id >= 0 && number_read(id, &number) && list->count < list->capacity)
        list->items[list->count++] = number;
    if (id >= 0) H5Aclose(id);
    return id >= 0 ? 0 : -1;
}

bool h5_read_numbers(const H5Reader *reader, const char *object, Arena *arena, H5Number **numbers,
                     int *count, Error *err) {
    hid_t owner = h5_object_open(reader, object, err);
    if (owner < 0) return false;
    H5O_info_t info;
    bool is_read = H5Oget_info2(owner, &info, H5O_INFO_NUM_ATTRS) >= 0 && info.num_attrs < 1 << 16;
    Numbers list = {.arena = arena, .capacity = is_read ? (int)info.num_attrs : 0};
    list.items = arena_new_array(arena, H5Number, list.capacity + 1);
    hsize_t next = 0;
    is_read = is_read &&
              H5Aiterate2(owner, H5_INDEX_NAME, H5_ITER_INC, &next, numbers_add, &list) >= 0 &&
              !h5_has_failed();
    if (!is_read) h5_fail(err, ERROR_INPUT, reader->path, object);
    H5Oclose(owner);
    *numbers = list.items;
    *count = list.count;
    return is_read;
}
