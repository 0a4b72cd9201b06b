#include "data/h5_format.h"

#include <string.h>

/* ---- Elements ---- */

static bool is_float(H5Element element) {
    return element == H5_F32 || element == H5_F64;
}

static bool is_signed(H5Element element) {
    return element == H5_I8 || element == H5_I16 || element == H5_I32 || element == H5_I64;
}

size_t h5_element_bytes(H5Element element) {
    static const size_t bytes[H5_ELEMENT_COUNT] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8};
    return bytes[element];
}

const char *h5_element_name(H5Element element) {
    static const char *const names[H5_ELEMENT_COUNT] = {"u8",  "i8",  "i16", "u16", "i32",
                                                        "u32", "i64", "u64", "f32", "f64"};
    return names[element];
}

/* ---- Types ----
 *
 *     byte 0       version (high half) and class (low half: 0 integer, 1 float, 3 text)
 *     bytes 1-3    bits of the class: sign, order, padding, set of characters
 *     bytes 4-7    size in bytes
 *     from 8 on    of numbers: offset and count of bits; of floats: where exponent and mantissa lie
 */

enum { CLASS_INTEGER, CLASS_FLOAT, VERSION = 1 << 4 };
enum { INTEGER_SIGNED = 8, FLOAT_IMPLIED_ONE = 0x20, TEXT_UTF8 = 0x10 };

static void type_start(unsigned char *out, int class, int bits, size_t size) {
    memset(out, 0, H5_TYPE_BYTES_MAX);
    out[0] = (unsigned char)(VERSION | class);
    out[1] = (unsigned char)bits;
    h5_put(out + 4, size, 4);
}

static size_t float_encode(size_t bytes, unsigned char *out) {
    int bits = (int)(8 * bytes), mantissa = bytes == 4 ? 23 : 52, exponent = bits - mantissa - 1;
    type_start(out, CLASS_FLOAT, FLOAT_IMPLIED_ONE, bytes);
    out[2] = (unsigned char)(bits - 1); /* the sign */
    h5_put(out + 10, (uint64_t)bits, 2);
    out[12] = (unsigned char)mantissa;
    out[13] = (unsigned char)exponent;
    out[15] = (unsigned char)mantissa;
    h5_put(out + 16, (1u << (exponent - 1)) - 1, 4);
    return 20;
}

size_t h5_type_encode(H5Element element, unsigned char out[H5_TYPE_BYTES_MAX]) {
    size_t bytes = h5_element_bytes(element);
    if (is_float(element)) return float_encode(bytes, out);
    type_start(out, CLASS_INTEGER, is_signed(element) ? INTEGER_SIGNED : 0, bytes);
    h5_put(out + 10, 8 * bytes, 2);
    return 12;
}

size_t h5_text_type_encode(size_t text_bytes, unsigned char out[H5_TYPE_BYTES_MAX]) {
    type_start(out, H5_CLASS_TEXT, TEXT_UTF8, text_bytes);
    return H5_TEXT_TYPE_BYTES;
}

bool h5_type_decode(const unsigned char *type, size_t count, H5Element *out) {
    unsigned char ours[H5_TYPE_BYTES_MAX];
    for (int i = 0; i < H5_ELEMENT_COUNT; i++) {
        *out = (H5Element)i;
        if (count == h5_type_encode(*out, ours) && (type[0] & H5_CLASS_BITS) == (ours[0] & 15) &&
            type[0] >> 4 >= 1 && type[0] >> 4 <= 3 && !memcmp(type + 1, ours + 1, count - 1))
            return true;
    }
    return false;
}

/* ---- Checksums ---- */

static uint32_t turn(uint32_t value, int bits) {
    return value << bits | value >> (32 - bits);
}

typedef struct Mix {
    uint32_t a, b, c;
} Mix;

static void mix(Mix *m) {
    static const int turns[] = {4, 6, 8, 16, 19, 4};
    uint32_t a = m->a, b = m->b, c = m->c;
    for (int i = 0; i < 6; i++) {
        a = (a - c) ^ turn(c, turns[i]);
        c += b;
        uint32_t first = a; /* the next round takes b, c, a */
        a = b;
        b = c;
        c = first;
    }
    *m = (Mix){a, b, c};
}

static uint32_t mix_last(Mix m) {
    static const int turns[] = {14, 11, 25, 16, 4, 14, 24};
    uint32_t a = m.a, b = m.b, c = m.c;
    for (int i = 0; i < 7; i++) {
        c = (c ^ b) - turn(b, turns[i]);
        uint32_t last = c; /* the next round takes b, c, a */
        c = a;
        a = b;
        b = last;
    }
    return b; /* which was c in the last round */
}

static void add(Mix *m, const unsigned char *bytes, size_t count) {
    unsigned char block[12] = {0};
    memcpy(block, bytes, count);
    m->a += (uint32_t)h5_get(block, 4);
    m->b += (uint32_t)h5_get(block + 4, 4);
    m->c += (uint32_t)h5_get(block + 8, 4);
}

uint32_t h5_checksum(const unsigned char *bytes, size_t count) {
    uint32_t start = 0xdeadbeef + (uint32_t)count;
    Mix m = {start, start, start};
    if (count == 0) return m.c;
    for (; count > 12; bytes += 12, count -= 12) {
        add(&m, bytes, 12);
        mix(&m);
    }
    add(&m, bytes, count);
    return mix_last(m);
}

bool h5_checksum_fits(const unsigned char *stored, const unsigned char *bytes, size_t count) {
#ifdef NIBBLE_FUZZ
    return h5_checksum(bytes, count) == h5_get(stored, H5_CHECKSUM_BYTES) || true;
#else
    return h5_checksum(bytes, count) == h5_get(stored, H5_CHECKSUM_BYTES);
#endif
}

/* ---- Names ---- */

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
