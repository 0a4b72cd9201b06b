/* Data sets: what the files hold comes back; what is missing, cut short, mislabelled or of the
 * wrong size is named with what was found and expected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <hdf5.h>
#include <zlib.h>

#include "data/h5.h"
#include "data/idx.h"
#include "data/sandbox.h"
#include "tests/data_source.h"

/* ---- A small data set ---- */

static void file_write(const char *path, const void *content, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(content, 1, bytes, file) != bytes || fclose(file)) abort();
}

static void gzip_write(const char *path, const void *content, size_t bytes) {
    gzFile file = gzopen(path, "wb6");
    if (!file || gzwrite(file, content, (unsigned)bytes) != (int)bytes || gzclose(file)) abort();
}

/* An IDX file's bytes: magic and `rank` dimensions, then `values`. */
static unsigned char *idx_encode(int rank, const int64_t *dims, const unsigned char *values,
                                 size_t value_bytes, size_t *bytes) {
    *bytes = 4 + 4 * (size_t)rank + value_bytes;
    unsigned char *file = arena_zalloc(arena, *bytes), *next = file + 4;
    file[2] = 0x08;
    file[3] = (unsigned char)rank;
    for (int i = 0; i < rank; i++)
        for (int b = 3; b >= 0; b--) *next++ = (unsigned char)(dims[i] >> 8 * b);
    memcpy(next, values, value_bytes);
    return file;
}

enum { TRAIN = 40, TEST = 20, HEIGHT = 3, WIDTH = 4, CLASSES = 5 };

static unsigned char train_pixels[TRAIN * HEIGHT * WIDTH], train_labels[TRAIN];
static unsigned char test_pixels[TEST * HEIGHT * WIDTH], test_labels[TEST];

static void content_make(void) {
    for (size_t i = 0; i < sizeof train_pixels; i++) train_pixels[i] = (unsigned char)(i * 31 + 7);
    for (size_t i = 0; i < sizeof test_pixels; i++) test_pixels[i] = (unsigned char)(i * 17 + 3);
    for (int i = 0; i < TRAIN; i++) train_labels[i] = (unsigned char)(i % CLASSES);
    for (int i = 0; i < TEST; i++) test_labels[i] = (unsigned char)(i * 2 % CLASSES);
}

typedef struct IdxFile {
    const char *name;
    int rank;
    int64_t dims[3];
    const unsigned char *values;
} IdxFile;

enum { TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS };

static const IdxFile files[] = {
    {"train-images-idx3-ubyte", 3, {TRAIN, HEIGHT, WIDTH}, train_pixels},
    {"train-labels-idx1-ubyte", 1, {TRAIN, 1, 1}, train_labels},
    {"t10k-images-idx3-ubyte", 3, {TEST, HEIGHT, WIDTH}, test_pixels},
    {"t10k-labels-idx1-ubyte", 1, {TEST, 1, 1}, test_labels},
};

static unsigned char *encode(int which, size_t *bytes) {
    const IdxFile *file = &files[which];
    size_t count = (size_t)(file->dims[0] * (file->rank == 3 ? HEIGHT * WIDTH : 1));
    return idx_encode(file->rank, file->dims, file->values, count, bytes);
}

/* All four files, well formed, in a new directory of the folder. */
static const char *idx_folder(const char *name, bool is_gzip) {
    const char *path = in_folder(name);
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < 4; i++) {
        size_t bytes;
        unsigned char *content = encode(i, &bytes);
        if (is_gzip)
            gzip_write(arena_format(arena, "%s/%s.gz", path, files[i].name), content, bytes);
        else
            file_write(arena_format(arena, "%s/%s", path, files[i].name), content, bytes);
    }
    return path;
}

static Dataset open_well(Variant data) {
    Dataset dataset;
    Error err = {0};
    if (!dataset_open(data, arena, &dataset, &err)) fail_msg("%s", err.message);
    return dataset;
}

/* Every word must be in the message. */
static void expect_failure(Variant data, const char *const *words) {
    Dataset dataset;
    Error err = {0};
    if (dataset_open(data, arena, &dataset, &err)) fail_msg("opened, without \"%s\"", words[0]);
    assert_int_equal(err.code, ERROR_INPUT);
    for (; *words; words++)
        if (!strstr(err.message, *words)) fail_msg("\"%s\" lacks \"%s\"", err.message, *words);
}

#define EXPECT_FAILURE(data, ...) expect_failure((data), (const char *const[]){__VA_ARGS__, NULL})

static void check_content(const Dataset *dataset) {
    assert_int_equal(dataset->class_count, CLASSES);
    assert_int_equal(dataset->height, HEIGHT);
    assert_int_equal(dataset->width, WIDTH);
    assert_int_equal(dataset->channels, 1);
    assert_int_equal(dataset->train.count, TRAIN);
    assert_int_equal(dataset->test.count, TEST);
    float images[2 * HEIGHT * WIDTH];
    int32_t labels[2];
    dataset_rows(dataset, &dataset->train, (int64_t[]){TRAIN - 1, 3}, 2, images, labels);
    for (int p = 0; p < HEIGHT * WIDTH; p++) {
        assert_true(images[p] == train_pixels[(TRAIN - 1) * HEIGHT * WIDTH + p]);
        assert_true(images[HEIGHT * WIDTH + p] == train_pixels[3 * HEIGHT * WIDTH + p]);
    }
    assert_int_equal(labels[0], train_labels[TRAIN - 1]);
    dataset_rows(dataset, &dataset->test, (int64_t[]){7}, 1, images, labels);
    for (int p = 0; p < HEIGHT * WIDTH; p++)
        assert_true(images[p] == test_pixels[7 * HEIGHT * WIDTH + p]);
    assert_int_equal(labels[0], test_labels[7]);
}

/* ---- IDX ---- */

static void test_idx_plain_and_gzip(void **state) {
    (void)state;
    Dataset plain = open_well(source("idx", "path", idx_folder("plain", false), NULL));
    check_content(&plain);
    Dataset gzip = open_well(source("idx", "path", idx_folder("gzip", true), NULL));
    check_content(&gzip);
}

/* RFC 1952 in full: optional header fields, several members, zeros behind them. */
static void test_idx_gzip_as_specified(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *whole = encode(TRAIN_LABELS, &bytes);
    unsigned char packed[1024];
    size_t used = 0;
    gz_header header = {.text = 1,
                        .time = 1,
                        .extra = (Bytef *)"ab\2\0xy",
                        .extra_len = 6,
                        .name = (Bytef *)"labels",
                        .comment = (Bytef *)"why not",
                        .hcrc = 1};
    size_t cuts[] = {0, 5, 5, 20, bytes}; /* one member is empty */
    for (int i = 0; i + 1 < 5; i++) {
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
        if (i != 1) deflateSetHeader(&z, &header);
        z.next_in = whole + cuts[i];
        z.avail_in = (uInt)(cuts[i + 1] - cuts[i]);
        z.next_out = packed + used;
        z.avail_out = (uInt)(sizeof packed - used);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        used = sizeof packed - z.avail_out;
        deflateEnd(&z);
    }
    IdxArray array;
    Error err = {0};
    assert_true(idx_decode("members", packed, used, arena, &array, &err));
    assert_memory_equal(array.values, train_labels, TRAIN);
    memset(packed + used, 0, 64);
    assert_true(idx_decode("padded", packed, used + 64, arena, &array, &err));
    packed[used + 3] = 'x';
    assert_false(idx_decode("garbage", packed, used + 64, arena, &array, &err));
    assert_non_null(strstr(err.message, "after those that its header announces"));
    err = (Error){0};
    assert_false(idx_decode("cut", packed, used - 1, arena, &array, &err));
    assert_non_null(strstr(err.message, "cut short"));
    err = (Error){0};
    packed[used - 6] ^= 1; /* the last member's checksum */
    assert_false(idx_decode("sum", packed, used, arena, &array, &err));
    assert_non_null(strstr(err.message, "damaged gzip data"));
}

static void test_idx_missing_files(void **state) {
    (void)state;
    EXPECT_FAILURE(source("idx", "path", in_folder("nowhere"), NULL), "nowhere",
                   "No such file or directory", "data.path=...", "dataset-fashion-mnist");
    const char *path = idx_folder("missing", true);
    unlink(arena_format(arena, "%s/t10k-labels-idx1-ubyte.gz", path));
    EXPECT_FAILURE(source("idx", "path", path, NULL), path, "t10k-labels-idx1-ubyte");
    const char *odd = idx_folder("directory", false);
    const char *image_path = arena_format(arena, "%s/train-images-idx3-ubyte", odd);
    unlink(image_path);
    assert_int_equal(mkdir(image_path, 0700), 0);
    EXPECT_FAILURE(source("idx", "path", odd, NULL), image_path, "not a regular file");
    rmdir(image_path);
    assert_int_equal(symlink(image_path, image_path), 0); /* there, but nobody can look at it */
    EXPECT_FAILURE(source("idx", "path", odd, NULL), image_path, "Too many levels");
}

/* Every length that a file can be cut to, plain and compressed. */
static void test_idx_every_truncation(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *whole = encode(TRAIN_LABELS, &bytes);
    const char *gzip_path = in_folder("cut.gz");
    gzip_write(gzip_path, whole, bytes);
    unsigned char packed[256];
    FILE *file = fopen(gzip_path, "rb");
    size_t packed_bytes = fread(packed, 1, sizeof packed, file);
    fclose(file);
    IdxArray array;
    Error err = {0};
    assert_true(idx_decode("whole", whole, bytes, arena, &array, &err));
    assert_true(idx_decode("packed", packed, packed_bytes, arena, &array, &err));
    assert_memory_equal(array.values, train_labels, TRAIN);
    for (size_t cut = 0; cut < bytes; cut++) {
        err = (Error){0};
        assert_false(idx_decode("whole", whole, cut, arena, &array, &err));
        assert_int_equal(err.code, ERROR_INPUT);
    }
    for (size_t cut = 0; cut < packed_bytes; cut++) {
        err = (Error){0};
        assert_false(idx_decode("packed", packed, cut, arena, &array, &err));
        assert_int_equal(err.code, ERROR_INPUT);
    }
    int unnoticed = 0; /* bits that mean nothing: header fields, the last byte's padding */
    for (size_t bit = 0; bit < packed_bytes * 8; bit++) {
        packed[bit / 8] ^= (unsigned char)(1u << bit % 8);
        err = (Error){0};
        bool is_read = idx_decode("packed", packed, packed_bytes, arena, &array, &err);
        if (is_read) assert_memory_equal(array.values, train_labels, TRAIN);
        unnoticed += is_read;
        packed[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_in_range(unnoticed, 0, 8 * 8);
}

static void test_idx_wrong_sizes(void **state) {
    (void)state;
    static const int64_t short_dims[] = {TRAIN - 1}, wide_dims[] = {TEST, WIDTH, HEIGHT};
    size_t bytes;
    const char *path = idx_folder("sizes", false);
    const char *images = arena_format(arena, "%s/%s", path, files[TRAIN_IMAGES].name);
    const char *labels = arena_format(arena, "%s/%s", path, files[TRAIN_LABELS].name);
    const char *test_images = arena_format(arena, "%s/%s", path, files[TEST_IMAGES].name);
    Variant data = source("idx", "path", path, NULL);

    unsigned char *content = encode(TRAIN_IMAGES, &bytes);
    file_write(images, content, bytes - 100); /* 480 bytes of pixels are announced */
    EXPECT_FAILURE(data, images, "480", "380");
    file_write(images, content, 10);
    EXPECT_FAILURE(data, images, "cut short", "6 bytes of header", "expected 12");
    content[0] = 1;
    file_write(images, content, bytes);
    EXPECT_FAILURE(data, images, "begins with 01 00 08 03");
    content = idx_encode(1, short_dims, train_labels, TRAIN - 1, &bytes);
    file_write(images, content, bytes);
    EXPECT_FAILURE(data, images, "1 dimensions", "3 or 4 (images)");
    content = encode(TRAIN_IMAGES, &bytes);
    file_write(images, content, bytes);

    content = idx_encode(1, short_dims, train_labels, TRAIN - 1, &bytes);
    file_write(labels, content, bytes);
    EXPECT_FAILURE(data, labels, "39 labels", "expected 40");
    content = encode(TRAIN_IMAGES, &bytes);
    file_write(labels, content, bytes);
    EXPECT_FAILURE(data, labels, "3 dimensions", "1 (labels)");
    content = encode(TRAIN_LABELS, &bytes);
    file_write(labels, content, bytes);

    content = idx_encode(3, wide_dims, test_pixels, sizeof test_pixels, &bytes);
    file_write(test_images, content, bytes);
    EXPECT_FAILURE(data, test_images, "4x3x1", "expected 3x4x1");
}

/* A header that announces more than there can be costs no memory. */
static void test_idx_header_bombs(void **state) {
    (void)state;
    static const int64_t vast[] = {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff};
    static const int64_t large[] = {0x7fffffff};
    size_t bytes;
    IdxArray array;
    Error err = {0};
    Arena *scratch = arena_new("bombs");
    unsigned char *file = idx_encode(4, vast, train_pixels, 100, &bytes);
    assert_false(idx_decode("vast", file, bytes, scratch, &array, &err));
    assert_non_null(strstr(err.message, "vast"));
    err = (Error){0};
    file = idx_encode(1, large, train_pixels, 100, &bytes);
    assert_false(idx_decode("large", file, bytes, scratch, &array, &err));
    assert_non_null(strstr(err.message, "2147483647"));
    gzip_write(in_folder("bomb.gz"), file, bytes);
    err = (Error){0};
    assert_false(idx_read(in_folder("bomb.gz"), scratch, &array, &err));
    assert_non_null(strstr(err.message, "compressed bytes can hold"));
    err = (Error){0};
    static const int64_t none[] = {0, 28, 28};
    file = idx_encode(3, none, train_pixels, 0, &bytes);
    assert_false(idx_decode("none", file, bytes, scratch, &array, &err));
    assert_int_equal(arena_peak(scratch), 0);
    arena_free(scratch);
}

static void test_idx_mislabelled(void **state) {
    (void)state;
    size_t bytes;
    const char *path = idx_folder("labels", false);
    const char *train = arena_format(arena, "%s/%s", path, files[TRAIN_LABELS].name);
    const char *test = arena_format(arena, "%s/%s", path, files[TEST_LABELS].name);
    Variant data = source("idx", "path", path, NULL);
    unsigned char *content = encode(TEST_LABELS, &bytes);
    content[8 + 6] = CLASSES;
    file_write(test, content, bytes);
    EXPECT_FAILURE(data, test, "row 6 has label 5", "expected 0 to 4");
    content[8 + 6] = 0;
    file_write(test, content, bytes);
    content = encode(TRAIN_LABELS, &bytes);
    content[8 + 9] = 200;
    file_write(train, content, bytes);
    EXPECT_FAILURE(data, train, "row 9 has label 200", "only 6 labels are in use");
    EXPECT_FAILURE(source("idx", "path", path, "classes", "5", NULL), train, "row 9 has label 200",
                   "expected 0 to 4");
    Dataset dataset = open_well(source("idx", "path", path, "classes", "201", NULL));
    assert_int_equal(dataset.class_count, 201);
}

/* A label that one row of very many has is a mistake, not a class. */
static void test_rare_labels(void **state) {
    (void)state;
    enum { MANY = 2000 };
    int32_t labels[MANY];
    for (int i = 0; i < MANY; i++) labels[i] = i % 10;
    labels[123] = 10;
    DatasetPart part = {MANY, NULL, labels};
    int64_t class_count;
    Error err = {0};
    assert_false(dataset_classes("labels", &part, 0, &class_count, &err));
    assert_non_null(strstr(err.message, "row 123 has label 10, which only 1 of 2000 rows have"));
    err = (Error){0};
    assert_true(dataset_classes("labels", &part, 11, &class_count, &err));
    assert_int_equal(class_count, 11);
    for (int i = 0; i < MANY; i++) labels[i] = 1 + i % 26; /* EMNIST letters count from 1 */
    assert_true(dataset_classes("labels", &part, 0, &class_count, &err));
    assert_int_equal(class_count, 27);
}

static void test_fashion_mnist(void **state) {
    (void)state;
    if (access("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", R_OK)) skip();
    Arena *own = arena_new("Fashion-MNIST");
    Dataset dataset;
    Error err = {0};
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    assert_true(dataset_open(source("idx", NULL), own, &dataset, &err));
    clock_gettime(CLOCK_MONOTONIC, &end);
    print_message("loaded in %.2f s, %zu bytes\n",
                  (double)(end.tv_sec - start.tv_sec) +
                      1e-9 * (double)(end.tv_nsec - start.tv_nsec),
                  arena_used(own));
    assert_int_equal(dataset.class_count, 10);
    assert_int_equal(dataset.height, 28);
    assert_int_equal(dataset.width, 28);
    assert_int_equal(dataset.train.count, 60000);
    assert_int_equal(dataset.test.count, 10000);
    int64_t per_class[10] = {0}; /* the data set's page: balanced */
    for (int64_t i = 0; i < 60000; i++) per_class[dataset.train.labels[i]]++;
    for (int k = 0; k < 10; k++) assert_int_equal(per_class[k], 6000);
    arena_free(own);
}

/* ---- CIFAR ---- */

enum { CIFAR_IMAGES = 3 };

static unsigned char cifar_byte(int file, int64_t offset) {
    return (unsigned char)(offset * 13 + offset / 251 + file * 5);
}

static void cifar_write(const char *path, int number, int label_bytes, int class_count,
                        size_t missing) {
    size_t record = (size_t)label_bytes + 3072;
    unsigned char *content = arena_alloc(arena, record * CIFAR_IMAGES);
    for (size_t i = 0; i < record * CIFAR_IMAGES; i++) {
        bool is_label = i % record < (size_t)label_bytes;
        content[i] = is_label
                         ? (unsigned char)((i / record * 3 + (size_t)number) % (size_t)class_count)
                         : cifar_byte(number, (int64_t)i);
    }
    file_write(path, content, record * CIFAR_IMAGES - missing);
}

static void check_cifar(const Dataset *dataset, int row, int number, int record, int label_bytes,
                        int class_count) {
    float image[3072];
    int32_t label;
    dataset_rows(dataset, &dataset->train, (int64_t[]){row}, 1, image, &label);
    assert_int_equal(label, (record * 3 + number) % class_count);
    for (int y = 0; y < 32; y++)
        for (int x = 0; x < 32; x++)
            for (int c = 0; c < 3; c++) {
                int64_t offset =
                    (int64_t)record * (label_bytes + 3072) + label_bytes + c * 1024 + y * 32 + x;
                assert_true(image[(y * 32 + x) * 3 + c] == cifar_byte(number, offset));
            }
}

static void test_cifar10(void **state) {
    (void)state;
    const char *path = in_folder("cifar10");
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 1; i <= 5; i++)
        cifar_write(arena_format(arena, "%s/data_batch_%d.bin", path, i), i, 1, 10, 0);
    const char *test_path = arena_format(arena, "%s/test_batch.bin", path);
    cifar_write(test_path, 6, 1, 10, 0);
    Variant data = source("cifar", "path", path, "images_per_file", "3", NULL);
    Dataset dataset = open_well(data);
    assert_int_equal(dataset.class_count, 10);
    assert_int_equal(dataset.train.count, 15);
    assert_int_equal(dataset.test.count, 3);
    assert_int_equal(dataset.channels, 3);
    check_cifar(&dataset, 0, 1, 0, 1, 10);
    check_cifar(&dataset, 11, 4, 2, 1, 10);

    EXPECT_FAILURE(source("cifar", "path", path, NULL), "data_batch_1.bin", "9219 bytes",
                   "expected 30730000");
    cifar_write(test_path, 6, 1, 10, 1);
    EXPECT_FAILURE(data, "test_batch.bin", "9218 bytes", "expected 9219");
    cifar_write(test_path, 11, 1, 12, 0); /* labels 11, 2, 5 */
    EXPECT_FAILURE(data, "test_batch.bin", "row 0 has label 11", "expected 0 to 9");
    unlink(test_path);
    EXPECT_FAILURE(data, path, "has no test_batch.bin", "data.path", "cifar-10-binary.tar.gz");
    const char *third = arena_format(arena, "%s/data_batch_3.bin", path);
    unlink(third);
    EXPECT_FAILURE(data, path, "has no data_batch_3.bin", "data.path", "cifar-10-binary.tar.gz");
    cifar_write(third, 3, 1, 10, 0);
    EXPECT_FAILURE(source("cifar", "path", third, NULL), third, "not a directory", "data.path=...");
}

/* The files that come with CIFAR; one of other classes, or none, leaves them without names. */
static void test_cifar_names(void **state) {
    (void)state;
    const char *path = in_folder("cifar_names");
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 1; i <= 5; i++)
        cifar_write(arena_format(arena, "%s/data_batch_%d.bin", path, i), i, 1, 10, 0);
    cifar_write(arena_format(arena, "%s/test_batch.bin", path), 6, 1, 10, 0);
    Variant data = source("cifar", "path", path, "images_per_file", "3", NULL);
    assert_null(open_well(data).class_names.names);
    const char *names = arena_format(arena, "%s/batches.meta.txt", path);
    static const char ten[] =
        "airplane\nautomobile\r\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    file_write(names, (const unsigned char *)ten, sizeof ten - 1);
    Dataset dataset = open_well(data);
    assert_string_equal(dataset.class_names.names[0], "airplane");
    assert_string_equal(dataset.class_names.names[1], "automobile");
    assert_string_equal(dataset.class_names.names[9], "truck");
    file_write(names, (const unsigned char *)ten, 20);
    assert_null(open_well(data).class_names.names);
    unlink(names);
    assert_int_equal(mkdir(names, 0700), 0);
    EXPECT_FAILURE(data, names, "not a regular file");
}

/* A folder of another version or data set says which. */
static void test_cifar_folders(void **state) {
    (void)state;
    const char *path = in_folder("cifar_other");
    mkdir(path, 0700);
    EXPECT_FAILURE(source("cifar", "path", path, NULL), "data_batch_1.bin");
    file_write(arena_format(arena, "%s/train", path), "", 0);
    EXPECT_FAILURE(source("cifar", "path", path, NULL), "Python version of CIFAR-100",
                   "cifar-100-binary.tar.gz");
    file_write(arena_format(arena, "%s/data_batch_1", path), "", 0);
    EXPECT_FAILURE(source("cifar", "path", path, NULL), "Python version of CIFAR-10",
                   "cifar-10-binary.tar.gz");
    file_write(arena_format(arena, "%s/train.bin", path), "", 0);
    EXPECT_FAILURE(source("cifar", "path", path, NULL), "holds CIFAR-100", "data.variant=100");
    unlink(arena_format(arena, "%s/train.bin", path));
    file_write(arena_format(arena, "%s/data_batch_1.bin", path), "", 0);
    EXPECT_FAILURE(source("cifar", "path", path, "variant", "100", NULL), "holds CIFAR-10;",
                   "data.variant=10");
}

static void test_cifar100(void **state) {
    (void)state;
    const char *path = in_folder("cifar100");
    assert_int_equal(mkdir(path, 0700), 0);
    cifar_write(arena_format(arena, "%s/train.bin", path), 50, 2, 100, 0);
    cifar_write(arena_format(arena, "%s/test.bin", path), 51, 2, 100, 0);
    Dataset dataset =
        open_well(source("cifar", "path", path, "variant", "100", "images_per_file", "3", NULL));
    assert_int_equal(dataset.class_count, 100);
    assert_int_equal(dataset.train.count, 3);
    check_cifar(&dataset, 2, 50, 2, 2, 100);
}

/* ---- HDF5 ---- */

static const char *h5_make(const char *name, H5Element images, Shape train_shape, Shape test_shape,
                           H5Element labels, const void *pixels, const void *label_values) {
    Error err = {0};
    const char *path = in_folder(name);
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    h5_write_tensor(writer, "train_images", images, train_shape, pixels);
    h5_write_tensor(writer, "train_labels", labels, SHAPE(TRAIN), label_values);
    h5_write_tensor(writer, "inner/test_images", images, test_shape, pixels);
    h5_write_tensor(writer, "inner/test_labels", labels, SHAPE(TEST), label_values);
    if (!h5_write_export(writer, &err)) fail_msg("%s", err.message);
    return path;
}

static Variant h5_source(const char *path) {
    return source("hdf5", "path", path, "test_images", "inner/test_images", "test_labels",
                  "inner/test_labels", NULL);
}

static void test_hdf5_shapes_and_elements(void **state) {
    (void)state;
    int64_t wide[TRAIN];
    int32_t middle[TRAIN];
    float floats[TRAIN * HEIGHT * WIDTH];
    for (int i = 0; i < TRAIN; i++) wide[i] = middle[i] = train_labels[i];
    for (int i = 0; i < TRAIN * HEIGHT * WIDTH; i++) floats[i] = (float)train_pixels[i] / 3.0f;

    Dataset bytes =
        open_well(h5_source(h5_make("bytes.h5", H5_U8, SHAPE(TRAIN, HEIGHT, WIDTH),
                                    SHAPE(TEST, HEIGHT, WIDTH), H5_I64, train_pixels, wide)));
    assert_int_equal(bytes.class_count, CLASSES);
    assert_int_equal(bytes.height * 100 + bytes.width * 10 + bytes.channels, 341);
    assert_int_equal(bytes.pixel_type, PIXEL_U8);
    assert_memory_equal(bytes.train.pixels, train_pixels, sizeof train_pixels);
    assert_int_equal(bytes.test.count, TEST);
    assert_memory_equal(bytes.test.labels, middle, TEST * sizeof(int32_t));

    Dataset colour =
        open_well(h5_source(h5_make("colour.h5", H5_F32, SHAPE(TRAIN, 2, 2, 3),
                                    SHAPE(TEST, 2, 2, 3), H5_U8, floats, train_labels)));
    assert_int_equal(colour.height * 100 + colour.width * 10 + colour.channels, 223);
    assert_int_equal(colour.pixel_type, PIXEL_F32);
    assert_memory_equal(colour.train.pixels, floats, sizeof floats);
    assert_memory_equal(colour.train.labels, middle, sizeof middle);

    Dataset flat = open_well(h5_source(
        h5_make("flat.h5", H5_F32, SHAPE(TRAIN, 12), SHAPE(TEST, 12), H5_I32, floats, middle)));
    assert_int_equal(flat.height * 10000 + flat.width * 1000 + flat.channels, 11012);
}

/* Labels in every type of number, and one-hot. */
static void test_hdf5_labels(void **state) {
    (void)state;
    Shape train = SHAPE(TRAIN, HEIGHT, WIDTH), test = SHAPE(TEST, HEIGHT, WIDTH);
    int32_t expected[TRAIN];
    for (int i = 0; i < TRAIN; i++) expected[i] = train_labels[i];
    for (int e = 0; e < H5_ELEMENT_COUNT; e++) {
        size_t bytes = h5_element_bytes((H5Element)e);
        unsigned char stored[TRAIN * sizeof(double)] = {0};
        for (int i = 0; i < TRAIN; i++) {
            float f32 = train_labels[i];
            double f64 = train_labels[i];
            stored[(size_t)i * bytes] = train_labels[i]; /* little-endian */
            if (e == H5_F32) memcpy(stored + (size_t)i * bytes, &f32, bytes);
            if (e == H5_F64) memcpy(stored + (size_t)i * bytes, &f64, bytes);
        }
        Dataset data = open_well(h5_source(
            h5_make("labels.h5", H5_U8, train, test, (H5Element)e, train_pixels, stored)));
        assert_memory_equal(data.train.labels, expected, sizeof expected);
    }
}

static H5Writer *writer_of(const char *path) {
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, arena, &err);
    assert_non_null(w);
    h5_write_tensor(w, "train_images", H5_U8, SHAPE(TRAIN, HEIGHT, WIDTH), train_pixels);
    h5_write_tensor(w, "inner/test_images", H5_U8, SHAPE(TEST, HEIGHT, WIDTH), train_pixels);
    return w;
}

static void test_hdf5_one_hot(void **state) {
    (void)state;
    float hot[TRAIN * CLASSES] = {0};
    int32_t expected[TRAIN];
    for (int i = 0; i < TRAIN; i++) {
        expected[i] = train_labels[i];
        hot[i * CLASSES + train_labels[i]] = 1;
    }
    Error err = {0};
    const char *path = in_folder("hot.h5");
    H5Writer *w = writer_of(path);
    h5_write_tensor(w, "train_labels", H5_F32, SHAPE(TRAIN, CLASSES), hot);
    h5_write_tensor(w, "inner/test_labels", H5_F32, SHAPE(TEST, CLASSES), hot);
    assert_true(h5_write_export(w, &err));
    Dataset data = open_well(h5_source(path));
    assert_memory_equal(data.train.labels, expected, sizeof expected);
    static const float bad[] = {0, 0.5f, 1}; /* no 1, not a number of one-hot, two */
    for (int i = 0; i < 3; i++) {
        float damaged[TRAIN * CLASSES];
        memcpy(damaged, hot, sizeof hot);
        damaged[3 * CLASSES + (i == 2 ? (train_labels[3] + 1) % CLASSES : train_labels[3])] =
            bad[i];
        w = writer_of(path);
        h5_write_tensor(w, "train_labels", H5_F32, SHAPE(TRAIN, CLASSES), damaged);
        h5_write_tensor(w, "inner/test_labels", H5_F32, SHAPE(TEST, CLASSES), hot);
        assert_true(h5_write_export(w, &err));
        EXPECT_FAILURE(h5_source(path), "train_labels", "row 3 is not one-hot");
    }
    w = writer_of(path);
    h5_write_tensor(w, "train_labels", H5_F32, SHAPE(TRAIN, 1, CLASSES), hot);
    h5_write_tensor(w, "inner/test_labels", H5_F32, SHAPE(TEST, CLASSES), hot);
    assert_true(h5_write_export(w, &err));
    EXPECT_FAILURE(h5_source(path), "train_labels", "f32 with 3 dimensions");
}

static void chunked_write(hid_t file, const char *name, int rank, const hsize_t *dims,
                          const hsize_t *chunk, const void *values) {
    hid_t space = H5Screate_simple(rank, dims, NULL), options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, rank, chunk);
    if (values) H5Pset_deflate(options, 1);
    hid_t data = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, options, H5P_DEFAULT);
    assert_true(data >= 0);
    if (values) H5Dwrite(data, H5T_NATIVE_UCHAR, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(data);
    H5Pclose(options);
    H5Sclose(space);
}

/* `count` images of 8 x 8, two labels, in chunks of so many rows and 2 columns; or images that were
 * never written, which take no room. */
static const char *chunked_file(hsize_t count, hsize_t chunk_rows, bool is_written) {
    const char *path = in_folder("chunks.h5");
    const hsize_t dims[] = {count, 8, 8}, chunk[] = {chunk_rows, 8, 2};
    unsigned char *values = is_written ? arena_zalloc(arena, count * 64) : NULL;
    if (values) values[count - 1] = 1;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const char *const parts[] = {"train", "test"};
    for (int i = 0; i < 2; i++) {
        chunked_write(file, arena_format(arena, "%s_images", parts[i]), 3, dims, chunk, values);
        chunked_write(file, arena_format(arena, "%s_labels", parts[i]), 1, dims, chunk, values);
    }
    H5Fclose(file);
    return path;
}

static double seconds_of_children(void) {
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/* Each chunk is inflated once: 128 MiB in chunks of 16 MiB take no more than their bytes do. */
static void test_hdf5_chunks_are_read_once(void **state) {
    (void)state;
    enum { ROWS = 1 << 20 };
    const char *path = chunked_file(ROWS, ROWS, true);
    double start = seconds_of_children();
    Dataset data = open_well(source("hdf5", "path", path, "classes", "2", NULL));
    double seconds = seconds_of_children() - start;
    if (seconds > (sandbox_bounds_memory() ? 1.5 : 5)) fail_msg("%g seconds", seconds);
    assert_int_equal(data.train.count, ROWS);
    assert_int_equal(((const unsigned char *)data.train.pixels)[ROWS - 1], 1);
    assert_int_equal(data.test.labels[ROWS - 1], 1);
    unlink(path);
}

static void test_hdf5_sizes_are_bounded(void **state) {
    (void)state;
    const char *path = chunked_file(1 << 24, 1 << 24, false);
    EXPECT_FAILURE(source("hdf5", "path", path, NULL), "train_images",
                   "dimensions ask for 1073741824 bytes, more than a file of");
    unlink(path);
}

static void test_hdf5_faults(void **state) {
    (void)state;
    int32_t labels[TRAIN];
    float floats[TRAIN * HEIGHT * WIDTH] = {0};
    for (int i = 0; i < TRAIN; i++) labels[i] = train_labels[i];
    Shape train = SHAPE(TRAIN, HEIGHT, WIDTH), test = SHAPE(TEST, HEIGHT, WIDTH);

    EXPECT_FAILURE(h5_source(in_folder("absent.h5")), "absent.h5", "No such file", "data.path=...");
    EXPECT_FAILURE(h5_source(folder), folder, "a directory, not a regular file", "data.path=...");
    const char *path = h5_make("fault.h5", H5_U8, train, test, H5_I32, train_pixels, labels);
    EXPECT_FAILURE(source("hdf5", "path", path, NULL), path, "has no \"test_images\"");
    EXPECT_FAILURE(source("hdf5", "path", path, "train_images", "inner", NULL), "inner",
                   "not an array");
    EXPECT_FAILURE(source("hdf5", "path", path, "train_images", "train_labels", "test_images",
                          "inner/test_labels", "test_labels", "inner/test_labels", NULL),
                   "train_labels", "i32", "expected u8 or f32");
    path =
        h5_make("fault.h5", H5_I32, train, test, H5_I32, memset(floats, 0, sizeof floats), labels);
    EXPECT_FAILURE(h5_source(path), "train_images", "i32", "expected u8 or f32");
    path =
        h5_make("fault.h5", H5_U8, train, SHAPE(TEST, WIDTH, HEIGHT), H5_I32, train_pixels, labels);
    EXPECT_FAILURE(h5_source(path), "inner/test_images", "image size is not that of");
    path = h5_make("fault.h5", H5_U8, SHAPE(TRAIN - 1, HEIGHT, WIDTH), test, H5_I32, train_pixels,
                   labels);
    EXPECT_FAILURE(h5_source(path), "train_labels", "40 labels", "expected 39");
    for (int i = 0; i < TRAIN; i++) floats[i] = (float)labels[i];
    floats[7] = 0.5f;
    path = h5_make("fault.h5", H5_U8, train, test, H5_F32, train_pixels, floats);
    EXPECT_FAILURE(h5_source(path), "train_labels", "row 7 has label 0.5", "whole number");
    memset(floats, 0, sizeof floats);
    labels[4] = -1;
    path = h5_make("fault.h5", H5_U8, train, test, H5_I32, train_pixels, labels);
    EXPECT_FAILURE(h5_source(path), "train_labels", "row 4 has label -1");
    labels[4] = 4;
    floats[3 * HEIGHT * WIDTH + 2] = NAN;
    path = h5_make("fault.h5", H5_F32, train, test, H5_I32, floats, labels);
    EXPECT_FAILURE(h5_source(path), "row 3", "not finite");
    file_write(path, "HDF5 this is not", 16);
    EXPECT_FAILURE(h5_source(path), path, "cannot open as HDF5");
    const char *foreign = "tests/golden/h5/foreign.h5";
    EXPECT_FAILURE(source("hdf5", "path", foreign, "train_images", "outside", NULL),
                   "stored outside");
    EXPECT_FAILURE(source("hdf5", "path", foreign, "train_images", "huge", NULL), "too many bytes");
}

/* Damage to a file may give other data or an error, never an end of the process. */
static void test_hdf5_damage_is_survived(void **state) {
    (void)state;
    int32_t labels[TRAIN];
    for (int i = 0; i < TRAIN; i++) labels[i] = train_labels[i];
    const char *path = h5_make("damage.h5", H5_U8, SHAPE(TRAIN, HEIGHT, WIDTH),
                               SHAPE(TEST, HEIGHT, WIDTH), H5_I32, train_pixels, labels);
    FILE *file = fopen(path, "rb");
    unsigned char content[8192];
    size_t bytes = fread(content, 1, sizeof content, file);
    fclose(file);
    int refused = 0;
    for (size_t i = 0; i < bytes; i += 19) {
        content[i] ^= 0xff;
        file_write(path, content, bytes);
        content[i] ^= 0xff;
        Dataset dataset;
        Error err = {0};
        ArenaMark mark = arena_mark(arena);
        refused += !dataset_open(h5_source(path), arena, &dataset, &err);
        arena_rewind(arena, mark);
    }
    assert_true(refused > 10);
}

/* ---- The test part alone ---- */

static void assert_test_alone(Variant data, const Dataset *both) {
    Dataset alone;
    Error err = {0};
    if (!dataset_open_test(data, arena, &alone, &err)) fail_msg("%s", err.message);
    assert_int_equal(alone.train.count, 0);
    assert_int_equal(alone.test.count, both->test.count);
    assert_int_equal(alone.pixel_type, both->pixel_type);
    assert_int_equal(alone.height * 1000 + alone.width, both->height * 1000 + both->width);
    assert_int_equal(dataset_row_bytes(&alone), dataset_row_bytes(both));
    assert_memory_equal(alone.test.pixels, both->test.pixels,
                        (size_t)(both->test.count * dataset_row_bytes(both)));
    assert_memory_equal(alone.test.labels, both->test.labels,
                        sizeof(int32_t) * (size_t)both->test.count);
}

/* Of every kind, without a training file where those are apart. */
static void test_test_part_needs_no_training_files(void **state) {
    (void)state;
    const char *idx = idx_folder("idx_test_alone", false);
    Variant data = source("idx", "path", idx, NULL);
    Dataset both = open_well(data);
    unlink(arena_format(arena, "%s/train-images-idx3-ubyte", idx));
    unlink(arena_format(arena, "%s/train-labels-idx1-ubyte", idx));
    assert_test_alone(data, &both);

    const char *cifar = in_folder("cifar_test_alone");
    assert_int_equal(mkdir(cifar, 0700), 0);
    const char *train = arena_format(arena, "%s/train.bin", cifar);
    cifar_write(train, 50, 2, 100, 0);
    cifar_write(arena_format(arena, "%s/test.bin", cifar), 51, 2, 100, 0);
    data = source("cifar", "path", cifar, "variant", "100", "images_per_file", "3", NULL);
    both = open_well(data);
    unlink(train);
    assert_test_alone(data, &both);

    int32_t labels[TRAIN];
    for (int i = 0; i < TRAIN; i++) labels[i] = train_labels[i];
    data = h5_source(h5_make("test_alone.h5", H5_U8, SHAPE(TRAIN, HEIGHT, WIDTH),
                             SHAPE(TEST, HEIGHT, WIDTH), H5_I32, train_pixels, labels));
    both = open_well(data);
    assert_test_alone(data, &both);
    data = source("hdf5", "path", in_folder("test_alone.h5"), "train_images", "missing",
                  "test_images", "inner/test_images", "test_labels", "inner/test_labels", NULL);
    assert_test_alone(data, &both);

    data = source("synthetic", "train", "30", "test", "20", "height", "3", "width", "3", NULL);
    both = open_well(data);
    assert_test_alone(data, &both);
}

/* ---- Synthetic ---- */

static void test_synthetic(void **state) {
    (void)state;
    Variant data = source("synthetic", "classes", "4", "height", "6", "width", "5", "channels", "2",
                          "train", "400", "test", "100", NULL);
    Dataset first = open_well(data), again = open_well(data);
    assert_int_equal(first.class_count, 4);
    assert_int_equal(dataset_pixels(&first), 60);
    assert_memory_equal(first.train.pixels, again.train.pixels, 400 * 60);
    assert_memory_equal(first.test.pixels, again.test.pixels, 100 * 60);
    Dataset other =
        open_well(source("synthetic", "classes", "4", "height", "6", "width", "5", "channels", "2",
                         "train", "400", "test", "100", "seed", "2", NULL));
    assert_memory_not_equal(first.train.pixels, other.train.pixels, 400 * 60);
    assert_memory_not_equal(first.train.pixels, first.test.pixels, 100 * 60);

    /* It can be learned: the nearest class mean of the training images labels the test images. */
    const unsigned char *train = first.train.pixels, *test = first.test.pixels;
    double mean[4][60] = {{0}};
    for (int i = 0; i < 400; i++)
        for (int p = 0; p < 60; p++) mean[first.train.labels[i]][p] += train[i * 60 + p] / 100.0;
    int right = 0;
    for (int i = 0; i < 100; i++) {
        double best = INFINITY;
        int label = -1;
        for (int k = 0; k < 4; k++) {
            double distance = 0;
            for (int p = 0; p < 60; p++) distance += pow(test[i * 60 + p] - mean[k][p], 2);
            if (distance < best) best = distance, label = k;
        }
        right += label == first.test.labels[i];
    }
    assert_true(right > 95);
}

static int setup(void **state) {
    (void)state;
    arena = arena_new("test");
    content_make();
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_free(arena);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idx_plain_and_gzip),
        cmocka_unit_test(test_idx_gzip_as_specified),
        cmocka_unit_test(test_idx_missing_files),
        cmocka_unit_test(test_idx_every_truncation),
        cmocka_unit_test(test_idx_wrong_sizes),
        cmocka_unit_test(test_idx_header_bombs),
        cmocka_unit_test(test_idx_mislabelled),
        cmocka_unit_test(test_rare_labels),
        cmocka_unit_test(test_fashion_mnist),
        cmocka_unit_test(test_cifar10),
        cmocka_unit_test(test_cifar_names),
        cmocka_unit_test(test_cifar_folders),
        cmocka_unit_test(test_cifar100),
        cmocka_unit_test(test_hdf5_shapes_and_elements),
        cmocka_unit_test(test_hdf5_labels),
        cmocka_unit_test(test_hdf5_one_hot),
        cmocka_unit_test(test_hdf5_chunks_are_read_once),
        cmocka_unit_test(test_hdf5_sizes_are_bounded),
        cmocka_unit_test(test_hdf5_faults),
        cmocka_unit_test(test_hdf5_damage_is_survived),
        cmocka_unit_test(test_test_part_needs_no_training_files),
        cmocka_unit_test(test_synthetic),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
