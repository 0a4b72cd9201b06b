#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "data/h5_door.h"

struct H5Foreign {
    const char *path;
    const void *bytes;
    size_t count;
    hid_t id;
};

/* ---- The library ---- */

/* What the library said about its last failure, or about the first of the system since
 * h5_failures_forget. */
static struct {
    char reason[256];
    bool is_system;
} failure;

typedef struct Stack {
    char text[256]; /* of the innermost entry, or of that of the system */
    bool is_system; /* no memory, or a system call that failed */
} Stack;

static herr_t stack_add(unsigned depth, const H5E_error2_t *entry, void *context) {
    Stack *stack = context;
    const char *text = entry->desc ? entry->desc : "unknown failure";
    bool is_memory = entry->maj_num == H5E_RESOURCE || entry->min_num == H5E_CANTALLOC ||
                     entry->min_num == H5E_NOSPACE ||
                     entry->maj_num == H5E_PLIST; /* its own lists, which want nothing else */
    bool is_system = is_memory || strstr(text, "error message = '");
    if (depth == 0 || (is_system && !stack->is_system))
        snprintf(stack->text, sizeof stack->text, "%s", text);
    stack->is_system |= is_system;
    return 0;
}

/* Called by the library whenever one of its functions fails. */
static herr_t failure_keep(hid_t id, void *unused) {
    (void)unused;
    Stack stack = {0};
    H5Ewalk2(id, H5E_WALK_UPWARD, stack_add, &stack);
    if (failure.is_system) return 0;
    failure.is_system = stack.is_system;
    const char *text = stack.text;
    char *words = strstr(stack.text, "error message = '"); /* the system's own */
    if (words) {
        words += strlen("error message = '");
        words[strcspn(words, "'")] = '\0';
        text = words;
    }
    snprintf(failure.reason, sizeof failure.reason, "%s", text);
    return 0;
}

static void start(void) {
    static bool is_started;
    if (is_started) return;
    is_started = true;
    H5open();
    H5Eset_auto2(H5E_DEFAULT, failure_keep, NULL);
    H5PLset_loading_state(0);
}

void h5_failures_forget(void) {
    failure.is_system = false;
    failure.reason[0] = '\0';
}

bool h5_has_failed(void) {
    return failure.is_system;
}

bool h5_fail(Error *err, ErrorCode code, const char *path, const char *what) {
    bool is_explained = failure.reason[0]; /* what fails without a word has no memory for it */
    const char *reason = is_explained ? failure.reason : "unknown failure";
    if (code == ERROR_INPUT && (failure.is_system || !is_explained))
        return FAIL(err, ERROR_SYSTEM, "%s: cannot read: %s", path, reason);
    return FAIL(err, code, "%s: %s: %s", path, what, reason);
}

bool h5_refuse(Error *err, const char *path, const char *format, ...) {
    if (failure.is_system) return h5_fail(err, ERROR_INPUT, path, "");
    char text[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return FAIL(err, ERROR_INPUT, "%s: %s", path, text);
}

/* ---- Opening ---- */

/* libhdf5 would copy the image twice; these hand it our own buffer each time. */
static void *image_malloc(size_t size, H5FD_file_image_op_t operation, void *file) {
    (void)size;
    (void)operation;
    return (void *)(uintptr_t)((H5Foreign *)file)->bytes;
}

static void *image_memcpy(void *to, const void *from, size_t size, H5FD_file_image_op_t operation,
                          void *file) {
    (void)size;
    (void)operation;
    (void)file;
    return to == from ? to : NULL;
}

static void *image_realloc(void *image, size_t size, H5FD_file_image_op_t operation, void *file) {
    (void)image;
    (void)size;
    (void)operation;
    (void)file;
    return NULL; /* read-only */
}

static herr_t image_free(void *image, H5FD_file_image_op_t operation, void *file) {
    (void)image;
    (void)operation;
    (void)file;
    return 0;
}

static void *image_owner(void *file) {
    return file;
}

static herr_t image_owner_free(void *file) {
    (void)file;
    return 0;
}

static bool image_open(H5Foreign *file, Error *err) {
    H5FD_file_image_callbacks_t callbacks = {
        image_malloc, image_memcpy, image_realloc, image_free, image_owner, image_owner_free, file};
    char name[64]; /* must be unique, and must not exist */
    snprintf(name, sizeof name, "/dev/null/image-%p", (void *)file);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    file->id = H5I_INVALID_HID;
    if (H5Pset_fapl_core(access, 1 << 16, false) >= 0 &&
        H5Pset_file_image_callbacks(access, &callbacks) >= 0 &&
        H5Pset_file_image(access, (void *)(uintptr_t)file->bytes, file->count) >= 0)
        file->id = H5Fopen(name, H5F_ACC_RDONLY, access);
    if (file->id < 0) h5_fail(err, ERROR_INPUT, file->path, "cannot open as HDF5");
    H5Pclose(access);
    return file->id >= 0;
}

H5Foreign *h5_foreign_open(const char *path, const void *bytes, size_t count, Arena *arena,
                           Error *err) {
    if (count == 0) {
        (void)FAIL(err, ERROR_INPUT, "%s: cannot open as HDF5: the file is empty", path);
        return NULL;
    }
    start();
    h5_failures_forget();
    H5Foreign *file = arena_new_array(arena, H5Foreign, 1);
    *file = (H5Foreign){.path = path, .bytes = bytes, .count = count};
    return image_open(file, err) ? file : NULL;
}

void h5_foreign_close(H5Foreign *file) {
    if (file) H5Fclose(file->id);
}

const char *h5_foreign_path(const H5Foreign *file) {
    return file->path;
}

/* ---- Finding ---- */

static bool link_check(const H5Foreign *file, const char *name, Error *err) {
    H5L_info_t link;
    if (H5Lexists(file->id, name, H5P_DEFAULT) <= 0)
        return h5_refuse(err, file->path, "has no \"%s\"", name);
    if (H5Lget_info(file->id, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return h5_refuse(err, file->path, "\"%s\" is a link to elsewhere; not accepted", name);
    return true;
}

hid_t h5_object_open(const H5Foreign *file, const char *name, Error *err) {
    h5_failures_forget();
    if (!h5_name_check(file->path, name, err)) return H5I_INVALID_HID;
    char prefix[H5_NAME_BYTES_MAX];
    size_t used = 0;
    while (h5_next_component(name, &used, prefix))
        if (!link_check(file, prefix, err)) return H5I_INVALID_HID;
    hid_t object = H5Oopen(file->id, name[0] ? name : "/", H5P_DEFAULT);
    if (object < 0) h5_fail(err, ERROR_INPUT, file->path, name);
    return object;
}

static hid_t memory_type(H5Element element) {
    const hid_t types[H5_ELEMENT_COUNT] = {H5T_NATIVE_UINT8,  H5T_NATIVE_INT8,   H5T_NATIVE_INT16,
                                           H5T_NATIVE_UINT16, H5T_NATIVE_INT32,  H5T_NATIVE_UINT32,
                                           H5T_NATIVE_INT64,  H5T_NATIVE_UINT64, H5T_NATIVE_FLOAT,
                                           H5T_NATIVE_DOUBLE};
    return types[element];
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

static bool dataset_info(const H5Foreign *file, hid_t dataset, const char *name, H5Info *info,
                         Error *err) {
    const char *path = file->path;
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

bool h5_foreign_info(const H5Foreign *file, const char *name, H5Info *info, Error *err) {
    *info = (H5Info){.what = H5_GROUP};
    hid_t object = h5_object_open(file, name, err);
    if (object < 0) return false;
    H5I_type_t type = H5Iget_type(object);
    bool is_known = type == H5I_GROUP;
    if (type == H5I_DATASET) is_known = dataset_info(file, object, name, info, err);
    if (!is_known) h5_refuse(err, file->path, "\"%s\" is neither group nor tensor", name);
    H5Oclose(object);
    return is_known;
}

/* ---- Reading data ---- */

static bool tensor_expect(const H5Foreign *file, const char *name, H5Info *info, Error *err) {
    TRY(h5_foreign_info(file, name, info, err));
    if (info->what != H5_TENSOR)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a tensor", file->path, name);
    return true;
}

static bool rows_read(const H5Foreign *file, const char *name, const H5Info *info, int64_t first,
                      int64_t count, void *data, Error *err) {
    if (info->bytes == 0 || count == 0) return true;
    hsize_t start[SHAPE_RANK_MAX] = {(hsize_t)first}, extent[SHAPE_RANK_MAX] = {(hsize_t)count};
    for (int i = 1; i < info->shape.rank; i++) extent[i] = (hsize_t)info->shape.dim[i];
    hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    hid_t wanted = H5Screate_simple(info->shape.rank, extent, NULL);
    hid_t stored = H5Dget_space(dataset);
    H5Sselect_hyperslab(stored, H5S_SELECT_SET, start, NULL, extent, NULL);
    bool is_read =
        H5Dread(dataset, memory_type(info->element), wanted, stored, H5P_DEFAULT, data) >= 0;
    if (!is_read) h5_fail(err, ERROR_INPUT, file->path, name);
    H5Sclose(stored);
    H5Sclose(wanted);
    if (dataset >= 0) H5Dclose(dataset);
    return is_read;
}

/* 0: it has no chunks. */
static int chunk_dims(const H5Foreign *file, const char *name, hsize_t dims[H5S_MAX_RANK]) {
    hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    hid_t options = H5Dget_create_plist(dataset);
    int rank =
        H5Pget_layout(options) == H5D_CHUNKED ? H5Pget_chunk(options, H5S_MAX_RANK, dims) : 0;
    H5Pclose(options);
    H5Dclose(dataset);
    return rank;
}

/* Products saturate: what is too large is refused anyway. */
static int64_t times(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

bool h5_foreign_chunk_rows(const H5Foreign *file, const char *name, int64_t *rows, Error *err) {
    enum { PIECE_MAX = 1 << 29, WASTE_MAX = 8, WASTE_FREE = 1 << 26 };
    H5Info info;
    hsize_t dims[H5S_MAX_RANK];
    TRY(tensor_expect(file, name, &info, err));
    *rows = 1;
    int rank = chunk_dims(file, name, dims);
    if (rank < 1 || info.bytes == 0) return true;
    if (rank != info.shape.rank) return h5_refuse(err, file->path, "\"%s\": its chunks", name);
    int64_t element = (int64_t)h5_element_bytes(info.element), piece = element, all = element;
    for (int i = 0; i < rank; i++) {
        int64_t chunk = (int64_t)dims[i], dim = info.shape.dim[i], count = (dim - 1) / chunk + 1;
        all = times(all, times(chunk, count));
        piece = times(piece, i == 0 || chunk > dim ? chunk : times(chunk, count));
    }
    if (piece > PIECE_MAX)
        return h5_refuse(
            err, file->path,
            "\"%s\": a row of its chunks takes %lld bytes, accepted are %d; store it in "
            "chunks of fewer rows",
            name, (long long)piece, PIECE_MAX);
    if (all - WASTE_FREE > times(info.bytes, WASTE_MAX))
        return h5_refuse(
            err, file->path,
            "\"%s\": its chunks take %lld bytes, itself %lld; store it in smaller chunks", name,
            (long long)all, (long long)info.bytes);
    *rows = (int64_t)dims[0];
    return true;
}

bool h5_foreign_rows(const H5Foreign *file, const char *name, int64_t first, int64_t count,
                     void *data, Error *err) {
    H5Info info;
    TRY(tensor_expect(file, name, &info, err));
    int64_t rows = info.shape.rank > 0 ? info.shape.dim[0] : 0;
    if (first < 0 || count < 0 || first > rows || count > rows - first)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %lld rows; %lld from %lld on are not there",
                    file->path, name, (long long)rows, (long long)count, (long long)first);
    return rows_read(file, name, &info, first, count, data, err);
}
