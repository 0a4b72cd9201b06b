#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "data/envelope.h"
#include "data/h5_door.h"

struct H5Writer {
    Arena *arena;
    const char *path, *temporary;
    hid_t file, group_options, dataset_options;
    Error error; /* the first failure */
};

static hid_t space_new(Shape shape) {
    if (shape.rank == 0) return H5Screate(H5S_SCALAR);
    hsize_t dims[SHAPE_RANK_MAX];
    for (int i = 0; i < shape.rank; i++) dims[i] = (hsize_t)shape.dim[i];
    return H5Screate_simple(shape.rank, dims, NULL);
}

static bool shape_is_empty(Shape shape) {
    for (int i = 0; i < shape.rank; i++)
        if (shape.dim[i] == 0) return true;
    return false;
}

/* Room is taken now, beyond the end of the file, so that a full disk is found before HDF5 starts.
 * File systems that cannot reserve are left alone. */
static void reserve(const H5Writer *writer, uint64_t bytes) {
    int *fd = NULL;
    if (bytes > 0 && bytes < INT64_MAX &&
        H5Fget_vfd_handle(writer->file, H5P_DEFAULT, (void **)&fd) >= 0 && fd)
        (void)!fallocate(*fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
}

/* Objects carry no times, so that the same content gives the same bytes. */
static bool writer_open(H5Writer *writer) {
    hid_t file_options = H5Pcreate(H5P_FILE_CREATE);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    writer->group_options = H5Pcreate(H5P_GROUP_CREATE);
    writer->dataset_options = H5Pcreate(H5P_DATASET_CREATE);
    bool is_set = H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
                  H5Pset_file_locking(access, false, true) >= 0 &&
                  H5Pset_obj_track_times(file_options, false) >= 0 &&
                  H5Pset_obj_track_times(writer->group_options, false) >= 0 &&
                  H5Pset_obj_track_times(writer->dataset_options, false) >= 0 &&
                  H5Pset_fill_time(writer->dataset_options, H5D_FILL_TIME_NEVER) >= 0;
    writer->file =
        is_set ? H5Fcreate(writer->temporary, H5F_ACC_EXCL, file_options, access) : H5I_INVALID_HID;
    if (writer->file < 0)
        h5_fail(&writer->error, ERROR_SYSTEM, writer->path, "cannot create the file");
    H5Pclose(file_options);
    H5Pclose(access);
    return writer->file >= 0;
}

/* Closes what is open; false when the file did not get to the disk. */
static bool writer_close(H5Writer *writer) {
    H5Pclose(writer->group_options);
    H5Pclose(writer->dataset_options);
    bool is_closed = writer->file < 0 || H5Fclose(writer->file) >= 0;
    writer->file = H5I_INVALID_HID;
    return is_closed;
}

H5Writer *h5_write_begin(const char *path, uint64_t expected_bytes, Arena *arena, Error *err) {
    h5_start();
    h5_failures_forget(false);
    if (!envelope_check_room(path, expected_bytes, err)) return NULL;
    H5Writer *writer = arena_zalloc(arena, sizeof *writer);
    writer->arena = arena;
    writer->path = arena_strdup(arena, path);
    writer->temporary = envelope_begin(path, arena);
    if (!writer_open(writer)) {
        *err = writer->error;
        h5_write_abandon(writer);
        return NULL;
    }
    reserve(writer, expected_bytes);
    return writer;
}

static void group_make(H5Writer *writer, const char *name) {
    htri_t exists = H5Lexists(writer->file, name, H5P_DEFAULT);
    if (exists > 0) return;
    hid_t group = exists < 0 ? H5I_INVALID_HID
                             : H5Gcreate2(writer->file, name, H5P_DEFAULT, writer->group_options,
                                          H5P_DEFAULT);
    if (group < 0 || H5Gclose(group) < 0) h5_fail(&writer->error, ERROR_SYSTEM, writer->path, name);
}

/* Makes the groups above `name`. */
static void parents_make(H5Writer *writer, const char *name) {
    char prefix[H5_NAME_BYTES_MAX];
    size_t used = 0;
    if (!h5_name_check(writer->path, name, &writer->error)) return;
    while (!writer->error.code && h5_next_component(name, &used, prefix) && name[used] != '\0')
        group_make(writer, prefix);
}

void h5_write_group(H5Writer *writer, const char *name) {
    parents_make(writer, name);
    if (!writer->error.code && name[0] != '\0') group_make(writer, name);
}

static void dataset_write(H5Writer *writer, const char *name, hid_t file_type, hid_t type,
                          Shape shape, const void *data) {
    parents_make(writer, name);
    if (writer->error.code) return;
    hid_t space = space_new(shape);
    hid_t dataset = H5Dcreate2(writer->file, name, file_type, space, H5P_DEFAULT,
                               writer->dataset_options, H5P_DEFAULT);
    bool is_done =
        dataset >= 0 && (shape_is_empty(shape) ||
                         H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    if (!is_done) h5_fail(&writer->error, ERROR_SYSTEM, writer->path, name);
    if (dataset >= 0 && H5Dclose(dataset) < 0)
        h5_fail(&writer->error, ERROR_SYSTEM, writer->path, name);
    H5Sclose(space);
}

void h5_write_tensor(H5Writer *writer, const char *name, H5Element element, Shape shape,
                     const void *data) {
    if (writer->error.code) return;
    dataset_write(writer, name, h5_stored_type(element), h5_memory_type(element), shape, data);
}

void h5_write_text(H5Writer *writer, const char *name, const char *text) {
    if (writer->error.code) return;
    hid_t type = h5_text_type(strlen(text) + 1);
    dataset_write(writer, name, type, type, SHAPE_SCALAR, text);
    H5Tclose(type);
}

static void attribute_write(H5Writer *writer, const char *object, const char *attribute,
                            hid_t file_type, hid_t type, const void *value) {
    if (writer->error.code) return;
    h5_write_group(writer, object);
    if (writer->error.code) return;
    hid_t owner = H5Oopen(writer->file, object[0] ? object : "/", H5P_DEFAULT);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t id = H5Acreate2(owner, attribute, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (id < 0 || H5Awrite(id, type, value) < 0 || H5Aclose(id) < 0)
        h5_fail(&writer->error, ERROR_SYSTEM, writer->path, attribute);
    H5Sclose(space);
    H5Oclose(owner);
}

void h5_write_int(H5Writer *writer, const char *object, const char *attribute, int64_t value) {
    attribute_write(writer, object, attribute, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void h5_write_float(H5Writer *writer, const char *object, const char *attribute, double value) {
    attribute_write(writer, object, attribute, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

static bool finish(H5Writer *writer, bool is_sealed, const char *previous_path, Error *err) {
    Error *first = &writer->error;
    if (!writer_close(writer)) h5_fail(first, ERROR_SYSTEM, writer->path, "cannot write the file");
    bool is_done = !first->code && (!is_sealed || envelope_seal(writer->temporary, first)) &&
                   envelope_publish(writer->temporary, writer->path, previous_path, first);
    if (is_done) return true;
    unlink(writer->temporary);
    return FAIL(err, first->code, "%s (nothing was replaced)", first->message);
}

bool h5_write_commit(H5Writer *writer, const char *previous_path, Error *err) {
    return finish(writer, true, previous_path, err);
}

bool h5_write_export(H5Writer *writer, Error *err) {
    return finish(writer, false, NULL, err);
}

void h5_write_abandon(H5Writer *writer) {
    writer_close(writer);
    unlink(writer->temporary);
}
