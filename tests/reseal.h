/* Files of ours with a right digest and another content: copies in which one thing is changed. */
#ifndef NIBBLE_TESTS_RESEAL_H
#define NIBBLE_TESTS_RESEAL_H

#include "tests/program.h"

#include "data/h5.h"

/* Where and what to flip while a file is copied. */
typedef struct Flip {
    const char *object; /* "weights/conv1/codes" */
    int64_t byte;
    int bit;
    bool is_done;
} Flip;

static inline void copy_tensor(const H5Reader *r, H5Writer *w, const char *name, const H5Info *info,
                               Flip *flip) {
    Error err = {0};
    unsigned char *data = arena_zalloc(program_arena, (size_t)info->bytes + 1);
    if (!h5_read_tensor(r, name, info->element, info->shape, data, &err))
        fail_msg("%s", err.message);
    if (!strcmp(name, flip->object)) {
        assert_true(flip->byte < info->bytes);
        data[flip->byte] ^= (unsigned char)(1 << flip->bit);
        flip->is_done = true;
    }
    h5_write_tensor(w, name, info->element, info->shape, data);
}

/* A change of another kind: an attribute's value, a text, an object left out. */
typedef struct Edit {
    const char *object, *attribute, *text;
    int64_t value;
    bool is_done;
} Edit;

static Edit *edit; /* of the copy at work, or NULL */

static inline bool is_edited(const char *name) {
    return edit && !strcmp(edit->object, name);
}

static inline void copy_numbers(const H5Reader *r, H5Writer *w, const char *name) {
    Error err = {0};
    H5Number *numbers;
    int count;
    assert_true(h5_read_numbers(r, name, program_arena, &numbers, &count, &err));
    for (int i = 0; i < count; i++) {
        if (is_edited(name) && edit->attribute && !strcmp(edit->attribute, numbers[i].name)) {
            numbers[i].integer = edit->value;
            edit->is_done = true;
        }
        if (numbers[i].is_float)
            h5_write_float(w, name, numbers[i].name, numbers[i].real);
        else
            h5_write_int(w, name, numbers[i].name, numbers[i].integer);
    }
}

static inline void copy_object(const H5Reader *r, H5Writer *w, const char *name, Flip *flip) {
    Error err = {0};
    H5Info info;
    if (!h5_read_info(r, name, &info, &err)) fail_msg("%s", err.message);
    if (is_edited(name) && !edit->attribute) {
        if (edit->text) h5_write_text(w, name, edit->text);
        edit->is_done = true;
        return;
    }
    if (info.what == H5_TEXT) {
        h5_write_text(w, name, h5_read_text(r, name, program_arena, &err));
        return;
    }
    if (info.what == H5_TENSOR) copy_tensor(r, w, name, &info, flip);
    copy_numbers(r, w, name);
    if (info.what == H5_TENSOR) return;
    const char **names;
    int count;
    assert_true(h5_read_names(r, name, program_arena, &names, &count, &err));
    for (int i = 0; i < count; i++)
        copy_object(r, w, *name ? format("%s/%s", name, names[i]) : names[i], flip);
}

/* A well-formed file with a right digest, one bit of its content changed. */
static inline void reseal_flipped(const char *from, const char *to, Flip flip) {
    Error err = {0};
    H5Reader *r = h5_read_open(from, program_arena, &err);
    if (!r) fail_msg("%s", err.message);
    H5Writer *w = h5_write_begin(to, 0, program_arena, &err);
    assert_non_null(w);
    copy_object(r, w, "", &flip);
    if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
    assert_true(edit ? edit->is_done : flip.is_done);
}

static inline void reseal_edited(const char *from, const char *to, Edit change) {
    edit = &change;
    reseal_flipped(from, to, (Flip){.object = ""});
    edit = NULL;
}

static inline const char *digest_of(const char *path) {
    Error err = {0};
    char *digest = arena_zalloc(program_arena, 33);
    H5Reader *r = h5_read_open(path, program_arena, &err);
    if (!r) fail_msg("%s", err.message);
    h5_read_digest(r, digest);
    return digest;
}

#endif
