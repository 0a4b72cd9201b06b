/* A directory of CIFAR: two bytes (variant and images per file; how many bytes are missing or too
 * many), the file of names up to a zero, and the bytes of which all records are made. */
#include "core/settings/yaml.h"
#include "data/dataset.h"
#include "tests/fuzz/fuzz.h"

enum { RECORD_BYTES = 3074, IMAGES_MAX = 3, FILES = 6 };

static FuzzPart repeat(FuzzPart pattern, int64_t bytes, Arena *arena) {
    uint8_t *data = arena_zalloc(arena, (size_t)bytes);
    size_t whole = (size_t)bytes, done = pattern.bytes < whole ? pattern.bytes : whole;
    if (done) memcpy(data, pattern.data, done);
    for (size_t more; done && done < whole; done += more) { /* twice as many, each time */
        more = done < whole - done ? done : whole - done;
        memcpy(data + done, data, more);
    }
    return (FuzzPart){data, (size_t)bytes};
}

static Variant source(int variant, int images, Arena *arena) {
    const char *text = arena_format(arena, "path: %s\nvariant: %s\nimages_per_file: %d\n",
                                    fuzz_folder(), variant ? "100" : "10", images);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    Variant out = {.kind = kind_find(&dataset_kinds, "cifar")};
    out.config = kind_defaults(out.kind, arena);
    FUZZ_CHECK(yaml_read_text(text, strlen(text), "settings", arena, &root, &faults, &err));
    fields_read(out.kind->fields, root, root->mark, out.config, arena, &faults);
    FUZZ_CHECK(!faults.count);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const files[2][FILES] = {{"data_batch_1.bin", "data_batch_2.bin",
                                                 "data_batch_3.bin", "data_batch_4.bin",
                                                 "data_batch_5.bin", "test_batch.bin"},
                                                {"train.bin", "test.bin"}};
    FuzzPart input = {data, bytes};
    uint8_t form = fuzz_take_byte(&input), change = fuzz_take_byte(&input);
    int variant = form & 1, images = 1 + (form >> 1) % IMAGES_MAX;
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("files");
    fuzz_file(variant ? "fine_label_names.txt" : "batches.meta.txt", fuzz_take_text(&input));
    FuzzPart records = repeat(
        input, images * (RECORD_BYTES - !variant) + (change > 250 ? change - 253 : 0), scratch);
    for (int i = 0; i < FILES; i++) {
        if (files[variant][i]) fuzz_file(files[variant][i], records);
        if (files[!variant][i]) fuzz_no_file(files[!variant][i]);
    }
    Dataset dataset;
    Error err = {0};
    if (!dataset_open(source(variant, images, scratch), arena, &dataset, &err))
        fuzz_check_refusal(&err);
    fuzz_check_memory(arena, 12 * records.bytes + bytes, 64);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
