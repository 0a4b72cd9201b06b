/* CIFAR-10 and CIFAR-100, "binary version" (https://www.cs.toronto.edu/~kriz/cifar.html).
 *
 * A record is one label byte (CIFAR-100: the coarse label, then the fine one, which is used) and
 * 3072 pixels: the red plane, the green, the blue, each 32 rows of 32. */
#include <unistd.h>

#include "data/bytes.h"
#include "data/dataset.h"
#include "data/loader.h"

typedef struct CifarConfig {
    LoaderConfig loader;
    const char *path;
    int variant;
    int64_t images_per_file;
} CifarConfig;

enum { SIDE = 32, PLANE = SIDE * SIDE, CHANNELS = 3, IMAGE = PLANE * CHANNELS, FILES_MAX = 5 };

/* One row per variant, in the order of the choices. */
typedef struct CifarLayout {
    const char *train[FILES_MAX + 1], *test, *names;
    int64_t train_images, test_images; /* per file */
    int label_bytes, class_count;
} CifarLayout;

static const CifarLayout layouts[] = {
    {{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
      "data_batch_5.bin"},
     "test_batch.bin",
     "batches.meta.txt",
     10000,
     10000,
     1,
     10},
    {{"train.bin"}, "test.bin", "fine_label_names.txt", 50000, 10000, 2, 100},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const char *const cifar_variants[] = {"10", "100", NULL};

static const Field cifar_fields[] = {
    LOADER_FIELDS(CifarConfig),
    FIELD_STRING(CifarConfig, path, REQUIRED,
                 "directory of data_batch_1.bin to data_batch_5.bin and test_batch.bin, or of "
                 "train.bin and test.bin",
                 .may_change = true, .is_path = true),
    FIELD_CHOICE(CifarConfig, variant, "10", cifar_variants, "CIFAR-10 or CIFAR-100"),
    FIELD_INT(CifarConfig, images_per_file, "0", 0, 1e7,
              "images in every file, for excerpts; 0: as published"),
    FIELD_END,
};

static void record_unpack(const unsigned char *record, int label_bytes, unsigned char *image,
                          int32_t *label) {
    *label = record[label_bytes - 1];
    const unsigned char *planes = record + label_bytes;
    for (int p = 0; p < PLANE; p++)
        for (int c = 0; c < CHANNELS; c++) image[p * CHANNELS + c] = planes[c * PLANE + p];
}

static bool file_unpack(const char *path, const CifarLayout *layout, int64_t images,
                        unsigned char *pixels, int32_t *labels, Error *err) {
    Arena *arena = arena_new("data file");
    Bytes file;
    int64_t record = layout->label_bytes + IMAGE;
    bool is_read = bytes_read(path, arena, &file, err);
    if (is_read && file.count != (size_t)(images * record))
        is_read = FAIL(
            err, ERROR_INPUT, "%s: has %zu bytes, expected %lld (%lld images of %lld bytes)", path,
            file.count, (long long)(images * record), (long long)images, (long long)record);
    for (int64_t i = 0; is_read && i < images; i++)
        record_unpack(file.data + i * record, layout->label_bytes, pixels + i * IMAGE, labels + i);
    const DatasetPart part = {images, pixels, labels};
    is_read = is_read && dataset_check_labels(path, &part, layout->class_count, err);
    arena_free(arena);
    return is_read;
}

static bool part_read(const char *folder, const CifarLayout *layout, const char *const *names,
                      int file_count, int64_t images, Arena *arena, DatasetPart *out, Error *err) {
    int64_t count = images * file_count, bytes;
    TRY(dataset_bytes(folder, (int64_t[]){count, IMAGE}, 2, 1, &bytes, err));
    unsigned char *pixels = arena_alloc(arena, (size_t)bytes);
    int32_t *labels = arena_new_array(arena, int32_t, count);
    for (int f = 0; f < file_count; f++)
        TRY(file_unpack(arena_format(arena, "%s/%s", folder, names[f]), layout, images,
                        pixels + f * images * IMAGE, labels + f * images, err));
    *out = (DatasetPart){count, pixels, labels};
    return true;
}

static bool has_file(const char *folder, const char *name, Arena *arena) {
    return access(arena_format(arena, "%s/%s", folder, name), F_OK) == 0;
}

static bool check_file(const char *folder, const char *name, const char *variant, Arena *arena,
                       Error *err) {
    if (has_file(folder, name, arena)) return true;
    return FAIL(err, ERROR_INPUT,
                "%s: has no %s; set data.path to a directory with all files of CIFAR-%s's binary "
                "version, cifar-%s-binary.tar.gz",
                folder, name, variant, variant);
}

/* What the folder holds instead of the files that `layout` wants: another version, or the other
 * data set. */
static bool check_version(const char *folder, const CifarLayout *layout, Arena *arena, Error *err) {
    if (has_file(folder, layout->train[0], arena)) return true;
    for (int v = 0; v < LAYOUTS; v++)
        if (has_file(folder, layouts[v].train[0], arena))
            return FAIL(err, ERROR_INPUT, "%s holds CIFAR-%s; set data.variant=%s", folder,
                        cifar_variants[v], cifar_variants[v]) ||
                   error_blame(err, "data.variant");
    static const char *const pickles[][2] = {{"data_batch_1", "10"}, {"train", "100"}};
    for (int v = 0; v < LAYOUTS; v++)
        if (has_file(folder, pickles[v][0], arena))
            return FAIL(err, ERROR_INPUT,
                        "%s holds the Python version of CIFAR-%s (pickles); unpack the binary "
                        "version, cifar-%s-binary.tar.gz, and set data.path to it",
                        folder, pickles[v][1], pickles[v][1]) ||
                   error_blame(err, "data.path");
    return true;
}

static bool check_folder(const CifarConfig *config, DatasetParts parts, Arena *arena, Error *err) {
    const CifarLayout *layout = &layouts[config->variant];
    const char *variant = cifar_variants[config->variant];
    TRY(check_version(config->path, layout, arena, err));
    for (int f = 0; parts == DATASET_BOTH && f < FILES_MAX && layout->train[f]; f++)
        TRY(check_file(config->path, layout->train[f], variant, arena, err));
    return check_file(config->path, layout->test, variant, arena, err);
}

static bool cifar_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                       Error *err) {
    const CifarConfig *config = settings;
    const CifarLayout *layout = &layouts[config->variant];
    int64_t given = config->images_per_file;
    TRY(check_folder(config, parts, arena, err));
    *out = (Dataset){.class_count = layout->class_count,
                     .height = SIDE,
                     .width = SIDE,
                     .channels = CHANNELS,
                     .pixel_type = PIXEL_U8};
    const char *names = arena_format(arena, "%s/%s", config->path, layout->names);
    TRY(dataset_read_names(names, arena, out, err));
    int file_count = 0;
    while (file_count < FILES_MAX && layout->train[file_count]) file_count++;
    return (parts == DATASET_TEST ||
            part_read(config->path, layout, layout->train, file_count,
                      given ? given : layout->train_images, arena, &out->train, err)) &&
           part_read(config->path, layout, &layout->test, 1, given ? given : layout->test_images,
                     arena, &out->test, err);
}

const DatasetKind dataset_cifar = {
    .kind = {"cifar", "CIFAR-10 or CIFAR-100, binary version", sizeof(CifarConfig), cifar_fields},
    .open = cifar_open,
    .has_folder = true,
};
