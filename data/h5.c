#include "data/h5.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "data/h5_door.h"

/* ---- The library ---- */

/* What the library said about its last failure, or about the first of the system since
 * h5_failures_forget. */
static struct {
    char reason[256];
    bool is_system, is_file_good;
} failure;

typedef struct Stack {
    char text[256]; /* of the innermost entry, or of that of the system */
    bool is_system; /* no memory, or a system call that failed */
} Stack;

static herr_t stack_add(unsigned depth, const H5E_error2_t *entry, void *context) {
    Stack *stack = context;
    const char *text = entry->desc ? entry->desc : "unknown failure";
    bool is_memory = entry->maj_num == H5E_RESOURCE || entry->min_num == H5E_CANTALLOC ||
                     entry->min_num == H5E_NOSPACE;
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
    failure.is_system = stack.is_system || failure.is_file_good;
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

/* Without H5dont_atexit, libhdf5 crashes at exit after a failed write. */
void h5_start(void) {
    static bool is_started;
    if (is_started) return;
    is_started = true;
    H5dont_atexit();
    H5open();
    H5Eset_auto2(H5E_DEFAULT, failure_keep, NULL);
    H5PLset_loading_state(0);
}

void h5_failures_forget(bool is_file_good) {
    failure.is_system = false;
    failure.is_file_good = is_file_good;
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
