/* Any bytes as what a sandboxed reader of an HDF5 file sends: names of classes, headers of arrays,
 * their elements. The child that would send them is not started. */
#include "tests/fuzz/fuzz.h"

#include "data/sandbox.h"

static FuzzPart sent;

static bool fuzz_start(const char *name, Sandbox *out) {
    *out = (Sandbox){.name = name};
    return true;
}

static bool fuzz_receive(void *bytes, size_t count, Error *err) {
    if (count > sent.bytes) return FAIL(err, ERROR_INPUT, "nothing more was sent");
    if (count) memcpy(bytes, sent.data, count);
    sent.data += count;
    sent.bytes -= count;
    return true;
}

#define sandbox_start(work, context, limits, name, out, err)                                       \
    ((void)(work), (void)(context), (void)(limits), (void)(err), fuzz_start(name, out))
#define sandbox_read(sandbox, limits, bytes, count, err)                                           \
    ((void)(sandbox), (void)(limits), fuzz_receive(bytes, count, err))
#define sandbox_allow_time(sandbox, seconds) ((void)(sandbox), (void)(seconds))
#define sandbox_stop(sandbox)                ((void)(sandbox))
#include "data/datasets/hdf5.c" /* in the library's place */

enum { FILE_BYTES = 64 }; /* of the file that the arrays are said to be in */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const uint8_t file[FILE_BYTES];
    sent = (FuzzPart){data, bytes};
    uint8_t form = fuzz_take_byte(&sent);
    Arena *arena = arena_new("fuzz");
    Hdf5Config *config = kind_defaults(&dataset_hdf5.kind, arena);
    Dataset dataset;
    Error err = {0};
    config->path = fuzz_file("data.h5", (FuzzPart){file, FILE_BYTES});
    Variant source = {&dataset_hdf5.kind, config};
    bool is_read = form & 1 ? dataset_open_test(source, arena, &dataset, &err)
                            : dataset_open(source, arena, &dataset, &err);
    if (!is_read) fuzz_check_refusal(&err);
    fuzz_check_memory(arena, bytes + FILE_BYTES, 1 << 14);
    arena_free(arena);
    return 0;
}
