/* MNIST's four files: images [n, height, width] or [n, height, width, channels] and labels [n]. */
#include "data/idx.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "data/dataset.h"
#include "data/loader.h"

typedef struct IdxConfig {
    LoaderConfig loader;
    const char *path;
    int64_t classes;
} IdxConfig;

static const Field idx_fields[] = {
    LOADER_FIELDS(IdxConfig),
    FIELD_STRING(IdxConfig, path, "/usr/share/datasets/fashion-mnist",
                 "directory of train-images-idx3-ubyte, train-labels-idx1-ubyte, "
                 "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each plain or .gz",
                 .may_change = true, .is_path = true),
    FIELD_INT(IdxConfig, classes, "0", 0, 65536, "number of classes; 0: as the labels say"),
    FIELD_END,
};

typedef struct PartFiles {
    const char *images, *labels;
} PartFiles;

static bool file_find(const char *folder, const char *name, Arena *arena, const char **path,
                      Error *err) {
    static const char *const endings[] = {"", ".gz"};
    for (int i = 0; i < 2; i++) {
        *path = arena_format(arena, "%s/%s%s", folder, name, endings[i]);
        if (access(*path, F_OK) == 0) return true;
        if (errno != ENOENT) return FAIL(err, ERROR_INPUT, "%s: %s", *path, strerror(errno));
    }
    return FAIL(err, ERROR_INPUT,
                "%s: has no %s, plain or .gz; set data.path to a directory with the four files, or "
                "install Debian's dataset-fashion-mnist",
                folder, name);
}

static bool rank_check(const char *path, const IdxArray *array, bool are_labels, Error *err) {
    if (are_labels ? array->rank == 1 : array->rank >= 3) return true;
    return FAIL(err, ERROR_INPUT, "%s: holds %d dimensions, expected %s", path, array->rank,
                are_labels ? "1 (labels)" : "3 or 4 (images)");
}

static bool part_read(PartFiles files, Arena *arena, IdxArray *images, DatasetPart *out,
                      Error *err) {
    IdxArray labels;
    TRY(idx_read(files.images, arena, images, err));
    TRY(rank_check(files.images, images, false, err));
    TRY(idx_read(files.labels, arena, &labels, err));
    TRY(rank_check(files.labels, &labels, true, err));
    if (labels.dim[0] != images->dim[0])
        return FAIL(err, ERROR_INPUT, "%s: %lld labels, expected %lld as in %s", files.labels,
                    (long long)labels.dim[0], (long long)images->dim[0], files.images);
    int32_t *wide = arena_new_array(arena, int32_t, labels.dim[0]);
    for (int64_t i = 0; i < labels.dim[0]; i++) wide[i] = labels.values[i];
    *out = (DatasetPart){labels.dim[0], images->values, wide};
    return true;
}

static void size_set(const IdxArray *images, Dataset *out) {
    out->height = images->dim[1];
    out->width = images->dim[2];
    out->channels = images->rank == 4 ? images->dim[3] : 1;
}

static bool test_read(const IdxConfig *config, PartFiles test, Arena *arena, Dataset *out,
                      Error *err) {
    IdxArray images;
    TRY(part_read(test, arena, &images, &out->test, err));
    size_set(&images, out);
    return dataset_test_classes(test.labels, &out->test, config->classes, &out->class_count, err);
}

static bool parts_read(const IdxConfig *config, PartFiles train, PartFiles test, Arena *arena,
                       Dataset *out, Error *err) {
    IdxArray images, test_images;
    TRY(part_read(train, arena, &images, &out->train, err));
    TRY(part_read(test, arena, &test_images, &out->test, err));
    size_set(&images, out);
    int64_t test_channels = test_images.rank == 4 ? test_images.dim[3] : 1;
    if (test_images.dim[1] != out->height || test_images.dim[2] != out->width ||
        test_channels != out->channels)
        return FAIL(err, ERROR_INPUT,
                    "%s: images of %lldx%lldx%lld, expected %lldx%lldx%lld as in %s", test.images,
                    (long long)test_images.dim[1], (long long)test_images.dim[2],
                    (long long)test_channels, (long long)out->height, (long long)out->width,
                    (long long)out->channels, train.images);
    TRY(dataset_classes(train.labels, &out->train, config->classes, &out->class_count, err));
    return dataset_check_labels(test.labels, &out->test, out->class_count, err);
}

static bool idx_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                     Error *err) {
    const IdxConfig *config = settings;
    PartFiles train = {0}, test;
    out->pixel_type = PIXEL_U8;
    if (parts == DATASET_BOTH) {
        TRY(file_find(config->path, "train-images-idx3-ubyte", arena, &train.images, err));
        TRY(file_find(config->path, "train-labels-idx1-ubyte", arena, &train.labels, err));
    }
    TRY(file_find(config->path, "t10k-images-idx3-ubyte", arena, &test.images, err));
    TRY(file_find(config->path, "t10k-labels-idx1-ubyte", arena, &test.labels, err));
    if (parts == DATASET_TEST) return test_read(config, test, arena, out, err);
    return parts_read(config, train, test, arena, out, err);
}

const DatasetKind dataset_idx = {
    .kind = {"idx", "MNIST's files: train-images-idx3-ubyte and so on, plain or .gz",
             sizeof(IdxConfig), idx_fields},
    .open = idx_open,
    .has_folder = true,
    .hint = "install Debian's dataset-fashion-mnist",
};
