/* A weight of bitsandbytes: four bytes (which tensors there are and of what type; how many codes,
 * scales and scales of scales), the quant_state up to a zero, and the bytes of which scales are
 * made. What is read decodes. */
#include "data/bitsandbytes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/safetensors_part.h"

enum {
    FILE_MAX = 64 << 10,
    HEADER_MAX = 8192,
    IS_FP4 = 1,
    IS_NESTED = 2,
    HAS_BYTES = 4,
    HAS_OTHER_MAP = 8
};

typedef struct File {
    uint8_t data[FILE_MAX];
    char header[HEADER_MAX];
    size_t data_bytes, header_bytes;
} File;

static void add(File *f, const char *name, const char *type, size_t count, const void *bytes,
                size_t byte_count) {
    int width = strcmp(type, "U8") ? 4 : 1;
    size_t begin = f->data_bytes, end = begin + count * (size_t)width;
    FUZZ_CHECK(end <= FILE_MAX);
    memset(f->data + begin, 0, end - begin);
    if (byte_count > end - begin) byte_count = end - begin;
    if (byte_count) memcpy(f->data + begin, bytes, byte_count);
    f->data_bytes = end;
    f->header_bytes += (size_t)snprintf(
        f->header + f->header_bytes, HEADER_MAX - f->header_bytes,
        "%s\"w%s\": {\"dtype\": \"%s\", \"shape\": [%zu], \"data_offsets\": [%zu, %zu]}",
        f->header_bytes ? ", " : "{", name, type, count, begin, end);
}

/* As the library stores them; or with one number more than it should be. */
static void add_map(File *f, const char *name, Dtype dtype, bool is_other) {
    const float one = 1;
    const Scales scales = {.row_length = 256, .run_length = 256, .count = 1, .scale = &one};
    float map[256];
    uint8_t codes[256];
    int count = dtype == DTYPE_DYNAMIC8 ? 256 : 16;
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    for (int i = 0; i < count; i++) {
        uint8_t pair = (uint8_t)(i | i << 4);
        dtype_decode(dtype, count == 16 ? &pair : codes + i, &scales, 0, 1, map + i);
    }
    map[count - 1] += is_other;
    add(f, name, "F32", (size_t)count, map, sizeof *map * (size_t)count);
}

static void fill(File *f, FuzzPart *input) {
    uint8_t form = fuzz_take_byte(input), codes = fuzz_take_byte(input);
    uint8_t scales = fuzz_take_byte(input), outer = fuzz_take_byte(input);
    FuzzPart state = fuzz_take_text(input);
    Dtype dtype = form & IS_FP4 ? DTYPE_FP4 : DTYPE_NF4;
    if (state.bytes > FILE_MAX / 2) state.bytes = FILE_MAX / 2;
    add(f, "", "U8", codes, input->data, input->bytes);
    add(f, form & IS_FP4 ? ".quant_state.bitsandbytes__fp4" : ".quant_state.bitsandbytes__nf4",
        "U8", state.bytes, state.data, state.bytes);
    add(f, ".absmax", form & HAS_BYTES ? "U8" : "F32", scales, input->data, input->bytes);
    add_map(f, ".quant_map", dtype, form & HAS_OTHER_MAP);
    if (form & IS_NESTED) {
        add(f, ".nested_absmax", "F32", outer, input->data, input->bytes);
        add_map(f, ".nested_quant_map", DTYPE_DYNAMIC8, false);
    }
    f->header[f->header_bytes++] = '}';
}

static const char *write_file(const File *f, Arena *arena) {
    uint8_t *all = arena_alloc(arena, f->header_bytes + 1 + f->data_bytes);
    memcpy(all, f->header, f->header_bytes);
    all[f->header_bytes] = 0;
    if (f->data_bytes) memcpy(all + f->header_bytes + 1, f->data, f->data_bytes);
    FuzzPart part = {all, f->header_bytes + 1 + f->data_bytes};
    return safetensors_part("model.safetensors", &part, arena);
}

static void check(const Tensor *t, Arena *arena) {
    int64_t count = tensor_count(t);
    float *values = arena_new_array(arena, float, count);
    tensor_decode_part(t, 0, count, values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static File file;
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("file");
    FuzzPart input = {data, bytes};
    file.data_bytes = file.header_bytes = 0;
    fill(&file, &input);
    SafeTensors st;
    Tensor tensor;
    Error err = {0};
    FUZZ_CHECK(safetensors_open(write_file(&file, scratch), arena, &st, &err));
    FUZZ_CHECK(bitsandbytes_has(&st, "w"));
    if (bitsandbytes_read(&st, "w", arena, &tensor, &err))
        check(&tensor, scratch);
    else
        fuzz_check_refusal(&err);
    safetensors_close(&st);
    fuzz_check_memory(arena, bytes, 256);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
