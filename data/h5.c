#include "data/h5.h"

#include <stdio.h>
#include <string.h>

#include "data/h5_door.h"

/* ---- The library ---- */

/* Without H5dont_atexit, libhdf5 crashes at exit after a failed write. */
void h5_start(void) {
    static bool is_started;
    if (is_started) return;
    is_started = true;
    H5dont_atexit();
    H5open();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static herr_t innermost(unsigned depth, const H5E_error2_t *entry, void *text) {
    if (depth == 0) snprintf(text, 256, "%s", entry->desc ? entry->desc : "unknown failure");
    return 0;
}

/* What libhdf5 says about its last failure; of a failed system call, only the system's words. */
static const char *library_reason(char text[256]) {
    text[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, text);
    char *quoted = strstr(text, "error message = '");
    if (quoted) {
        quoted += strlen("error message = '");
        quoted[strcspn(quoted, "'")] = '\0';
        return quoted;
    }
    return text[0] ? text : "unknown failure";
}

bool h5_fail(Error *err, ErrorCode code, const char *path, const char *what) {
    char text[256];
    return FAIL(err, code, "%s: %s: %s", path, what, library_reason(text));
}

/* ---- Elements ---- */

size_t h5_element_bytes(H5Element element) {
    static const size_t bytes[H5_ELEMENT_COUNT] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8};
    return bytes[element];
}

const char *h5_element_name(H5Element element) {
    static const char *const names[H5_ELEMENT_COUNT] = {"u8",  "i8",  "i16", "u16", "i32",
                                                        "u32", "i64", "u64", "f32", "f64"};
    return names[element];
}

hid_t h5_stored_type(H5Element element) { /* type ids are variables of the library */
    const hid_t types[H5_ELEMENT_COUNT] = {
        H5T_STD_U8LE,  H5T_STD_I8LE,  H5T_STD_I16LE, H5T_STD_U16LE,  H5T_STD_I32LE,
        H5T_STD_U32LE, H5T_STD_I64LE, H5T_STD_U64LE, H5T_IEEE_F32LE, H5T_IEEE_F64LE};
    return types[element];
}

hid_t h5_memory_type(H5Element element) {
    const hid_t types[H5_ELEMENT_COUNT] = {H5T_NATIVE_UINT8,  H5T_NATIVE_INT8,   H5T_NATIVE_INT16,
                                           H5T_NATIVE_UINT16, H5T_NATIVE_INT32,  H5T_NATIVE_UINT32,
                                           H5T_NATIVE_INT64,  H5T_NATIVE_UINT64, H5T_NATIVE_FLOAT,
                                           H5T_NATIVE_DOUBLE};
    return types[element];
}

hid_t h5_text_type(size_t bytes) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, bytes);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

/* ---- Paths within a file ---- */

bool h5_next_component(const char *name, size_t *used, char prefix[H5_NAME_BYTES_MAX]) {
    size_t start = *used + (name[*used] == '/');
    size_t length = strcspn(name + start, "/");
    if (length == 0) return false;
    *used = start + length;
    memcpy(prefix, name, *used);
    prefix[*used] = '\0';
    return true;
}

bool h5_name_check(const char *path, const char *name, Error *err) {
    size_t length = strlen(name);
    bool is_valid = length < H5_NAME_BYTES_MAX && name[0] != '/';
    for (const char *part = name; is_valid && length > 0; part++) {
        size_t bytes = strcspn(part, "/");
        is_valid = bytes > 0 && !(bytes == 1 && part[0] == '.');
        part += bytes;
        if (*part == '\0') break;
    }
    if (!is_valid) return FAIL(err, ERROR_INPUT, "%s: \"%.100s\" cannot be a name", path, name);
    return true;
}
