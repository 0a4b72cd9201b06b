#include <string.h>

#include "data/h5_door.h"

enum { STRINGS_MAX = 1 << 16, STRING_BYTES_MAX = 1 << 12 };

/* A data set or an attribute, opened, with what it holds. */
typedef struct Strings {
    const char *path, *name;
    bool is_attribute;
    hid_t id, type, space;
    int64_t count;
} Strings;

static void strings_close(const Strings *s) {
    if (s->space >= 0) H5Sclose(s->space);
    if (s->type >= 0) H5Tclose(s->type);
    if (s->id < 0) return;
    if (s->is_attribute)
        H5Aclose(s->id);
    else
        H5Oclose(s->id);
}

/* False without an error: there is none of that name. */
static bool strings_open(const H5Foreign *file, const char *name, Strings *s, Error *err) {
    hid_t root = h5_object_open(file, "", err);
    *s = (Strings){h5_foreign_path(file), name, false, -1, -1, -1, -1};
    if (root < 0) return false;
    if (H5Lexists(root, name, H5P_DEFAULT) > 0) {
        s->id = h5_object_open(file, name, err);
    } else if (H5Aexists(root, name) > 0) {
        s->is_attribute = true;
        s->id = H5Aopen(root, name, H5P_DEFAULT);
        if (s->id < 0) h5_fail(err, ERROR_INPUT, s->path, name);
    } else if (h5_has_failed()) {
        h5_fail(err, ERROR_INPUT, s->path, name);
    }
    H5Oclose(root);
    return s->id >= 0;
}

static bool strings_check(Strings *s, Error *err) {
    hsize_t dims[H5S_MAX_RANK] = {0};
    if (!s->is_attribute && H5Iget_type(s->id) != H5I_DATASET)
        return h5_refuse(err, s->path, "\"%s\" is no data set, expected text, [classes]", s->name);
    if (!s->is_attribute && !h5_storage_is_plain(s->id))
        return h5_refuse(err, s->path, "\"%s\" is stored outside, or through a filter", s->name);
    s->type = s->is_attribute ? H5Aget_type(s->id) : H5Dget_type(s->id);
    s->space = s->is_attribute ? H5Aget_space(s->id) : H5Dget_space(s->id);
    H5T_class_t kind = H5Tget_class(s->type);
    if (kind != H5T_STRING)
        return h5_refuse(err, s->path, "\"%s\" holds %s, expected text, [classes]", s->name,
                         kind == H5T_INTEGER ? "integers"
                         : kind == H5T_FLOAT ? "floats"
                                             : "neither text nor numbers");
    int rank = H5Sget_simple_extent_dims(s->space, dims, NULL);
    if (rank != 1 || dims[0] > STRINGS_MAX || H5Tget_size(s->type) > STRING_BYTES_MAX)
        return h5_refuse(err, s->path, "\"%s\" is text with %d dimensions, expected [classes]",
                         s->name, rank);
    s->count = (int64_t)dims[0];
    return true;
}

static bool strings_take(const Strings *s, hid_t type, void *to, Error *err) {
    herr_t status = s->is_attribute ? H5Aread(s->id, type, to)
                                    : H5Dread(s->id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to);
    return status >= 0 || h5_fail(err, ERROR_INPUT, s->path, s->name);
}

static bool fixed_read(const Strings *s, hid_t type, Arena *arena, const char **strings,
                       Error *err) {
    size_t bytes = H5Tget_size(s->type) + 1;
    H5Tset_size(type, bytes);
    H5Tset_strpad(type, H5T_STR_NULLTERM);
    char *text = arena_zalloc(arena, bytes * (size_t)s->count + 1);
    for (int64_t i = 0; i < s->count; i++) strings[i] = text + bytes * (size_t)i;
    return strings_take(s, type, text, err);
}

static bool variable_read(const Strings *s, hid_t type, Arena *arena, const char **strings,
                          Error *err) {
    char **texts = arena_new_array(arena, char *, s->count + 1);
    TRY(strings_take(s, type, texts, err));
    for (int64_t i = 0; i < s->count; i++)
        strings[i] = arena_strdup(arena, texts[i] ? texts[i] : "");
    H5Dvlen_reclaim(type, s->space, H5P_DEFAULT, texts);
    return true;
}

bool h5_foreign_strings(const H5Foreign *file, const char *name, Arena *arena,
                        const char ***strings, int64_t *count, Error *err) {
    Strings s;
    *strings = NULL;
    *count = -1;
    if (!strings_open(file, name, &s, err)) return err->code == ERROR_NONE;
    bool is_read = strings_check(&s, err);
    if (is_read) {
        hid_t type = H5Tcopy(s.type); /* its set of characters too: libhdf5 converts none */
        *count = s.count;
        *strings = arena_new_array(arena, const char *, s.count + 1);
        is_read = (H5Tis_variable_str(type) > 0 ? variable_read : fixed_read)(&s, type, arena,
                                                                              *strings, err);
        H5Tclose(type);
    }
    strings_close(&s);
    return is_read;
}
