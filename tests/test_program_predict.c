/* nibble predict: every kind of file gives what the IDX file gives, which is what evaluation
 * counted; its lines, and what it refuses. */
#include "tests/program.h"

#include <math.h>
#include <png.h>
#include <zlib.h>

#include "core/settings/field.h"
#include "data/h5.h"

enum { COUNT = 24, SIDE = 8, PIXELS = SIDE * SIDE };

#define CONFIG                                                                                     \
    "model: {kind: cnn, widths: [4], hidden: 8}\n"                                                 \
    "data: {kind: idx, path: set, batch: 8, validation: 16, class_names: [dark, half, bright]}\n"  \
    "train: {epochs: 2}\nquant: {bits: 4}\n" PROGRAM_OPTIMIZER
#define IDX "set/t10k-images-idx3-ubyte"

static unsigned char pixels[COUNT][PIXELS];

static int set_up(void **state) {
    if (program_folder_enter(state)) return 1;
    idx_folder("set");
    text_file("config.yaml", CONFIG);
    run(0, "train config.yaml --out run");
    run(0, "convert run");
    size_t bytes;
    memcpy(pixels, file_read(IDX, &bytes) + 16, sizeof pixels);
    return 0;
}

/* ---- Lines ---- */

/* The next line of `*rest`; NULL: none. */
static char *next_line(char **rest) {
    char *line = *rest, *end = strchr(line, '\n');
    if (!end) return NULL;
    *end = 0;
    *rest = end + 1;
    return line;
}

/* What a JSON line says, without where its image lies. */
static const char *answer_of(const char *line) {
    const char *answer = strstr(line, "\"class\":");
    if (!answer) fail_msg("no class in: %s", line);
    return answer;
}

/* Lines `first` and on of what is printed for all images. */
static void assert_answers(const char *out, int first, int count) {
    char *rest = arena_strdup(program_arena, out);
    char *all = arena_strdup(program_arena, run(0, "predict run " IDX " --json --top 3").out);
    for (int i = 0; i < first; i++) assert_non_null(next_line(&all));
    for (int i = 0; i < count; i++) {
        const char *line = next_line(&rest), *expected = next_line(&all);
        assert_non_null(line);
        assert_string_equal(answer_of(line), answer_of(expected));
    }
    assert_null(next_line(&rest));
}

/* JSON lines `out` of all images, whose labels are 0, 1, 2, 0, ..., against that run's accuracy. */
static void assert_accuracy(const char *out, const char *directory) {
    char *rest = arena_strdup(program_arena, out);
    int correct = 0, count = 0;
    for (const char *line; (line = next_line(&rest)); count++) {
        Json *json = json_of(line);
        correct += number_of(json, "class") == count % 3;
        json_free(json);
    }
    assert_int_equal(count, COUNT);
    Error err = {0};
    Json *summary = json_read_file(format("%s/summary.json", directory), &err);
    assert_true(fabs(number_of(summary, "quantized.accuracy") - correct / (double)COUNT) < 1e-9);
    assert_true(correct > COUNT / 2); /* so that more than one class is predicted */
    json_free(summary);
}

static void test_predictions_are_those_of_the_evaluation(void **state) {
    (void)state;
    assert_accuracy(run(0, "predict run " IDX " --json").out, "run");
}

static void test_lines(void **state) {
    (void)state;
    char *rest = arena_strdup(program_arena, run(0, "predict run " IDX " --json --top 2").out);
    char *texts = arena_strdup(program_arena, run(0, "predict run " IDX " --top 2").out);
    static const char *const names[] = {"dark", "half", "bright"};
    for (int i = 0; i < COUNT; i++) {
        const char *line = next_line(&rest);
        Json *json = json_of(line);
        int first = (int)number_of(json, "top.0.class"),
            second = (int)number_of(json, "top.1.class");
        double p = fraction_of(json, "top.0.probability"),
               q = fraction_of(json, "top.1.probability");
        assert_true(p >= q && p + q <= 1 + 1e-12 && first != second);
        assert_int_equal(json_count(json, "top"), 2);
        char a[32], b[32];
        number_print(p, a);
        number_print(q, b);
        const char *expected =
            format("{\"file\": \"" IDX "\", \"index\": %d, \"class\": %d, \"label\": \"%s\", "
                   "\"probability\": %s, \"top\": [{\"class\": %d, \"label\": \"%s\", "
                   "\"probability\": %s}, "
                   "{\"class\": %d, \"label\": \"%s\", \"probability\": %s}]}",
                   i, first, names[first], a, first, names[first], a, second, names[second], b);
        assert_string_equal(line, expected);
        assert_string_equal(next_line(&texts),
                            format(IDX "[%d]: class %d (%s) %.4f, class %d (%s) %.4f", i, first,
                                   names[first], p, second, names[second], q));
        json_free(json);
    }
}

static void test_probabilities_sum_to_one(void **state) {
    (void)state;
    Json *json = json_of(strtok(
        arena_strdup(program_arena, run(0, "predict run " IDX " --json --top 4294967297").out),
        "\n"));
    double sum = 0;
    assert_int_equal(json_count(json, "top"), 3);
    for (int i = 0; i < 3; i++) sum += number_of(json, format("top.%d.probability", i));
    assert_true(fabs(sum - 1) < 1e-12);
    json_free(json);
}

/* ---- Kinds of files ---- */

static void write_gzip(const char *path, const char *from) {
    size_t bytes;
    const unsigned char *content = file_read(from, &bytes);
    gzFile file = gzopen(path, "wb");
    assert_int_equal(gzwrite(file, content, (unsigned)bytes), bytes);
    assert_int_equal(gzclose(file), Z_OK);
}

static void write_h5(const char *path, H5Element element, const char *name, const void *values) {
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_tensor(w, name, element, SHAPE(COUNT, SIDE, SIDE), values);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
}

static void write_pgm(const char *path, const unsigned char *image) {
    unsigned char content[11 + PIXELS] = "P5 8 8 255\n";
    memcpy(content + 11, image, PIXELS);
    file_write(path, content, sizeof content);
}

static void write_png(const char *path, const unsigned char *image) {
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_GRAY};
    assert_true(png_image_write_to_file(&png, path, 0, image, 0, NULL));
}

static void test_every_kind_of_file_gives_the_same(void **state) {
    (void)state;
    assert_answers(run(0, "predict run/quantized.h5 " IDX " --json --top 3 --threads 2").out, 0,
                   COUNT);
    write_gzip("images.gz", IDX);
    assert_answers(run(0, "predict run images.gz --json --top 3").out, 0, COUNT);
    write_h5("images.h5", H5_U8, "test_images", pixels);
    assert_answers(run(0, "predict run images.h5 --json --top 3").out, 0, COUNT);
    write_h5("images.h5", H5_U8, "others", pixels);
    assert_answers(run(0, "predict run images.h5 --images others --json --top 3").out, 0, COUNT);
    file_write("images.raw", pixels, sizeof pixels);
    assert_answers(run(0, "predict run images.raw --shape 8,8,1 --json --top 3").out, 0, COUNT);
    for (int i = 0; i < 3; i++) {
        write_pgm(format("image%d.pgm", i), pixels[i + 4]);
        write_png(format("image%d.png", i), pixels[i + 4]);
    }
    assert_answers(run(0, "predict run image0.pgm image1.png image2.pgm --json --top 3").out, 4, 3);
    assert_answers(run(0, "predict run image0.png image1.pgm image2.png --json --top 3").out, 4, 3);
    assert_has(run(0, "predict run image0.png").out, "image0.png: class ");
}

/* More images than a batch holds, over several files. */
static void test_files_fill_batches(void **state) {
    (void)state;
    enum { FILES = 12 };
    char *command = arena_strdup(program_arena, "predict run --json");
    for (int i = 0; i < FILES; i++) command = (char *)(uintptr_t)format("%s " IDX, command);
    char *rest = arena_strdup(program_arena, run(0, "%s", command).out);
    char *all = arena_strdup(program_arena, run(0, "predict run " IDX " --json").out);
    const char *lines[COUNT];
    for (int i = 0; i < COUNT; i++) lines[i] = next_line(&all);
    for (int i = 0; i < FILES * COUNT; i++) assert_string_equal(next_line(&rest), lines[i % COUNT]);
    assert_null(next_line(&rest));
}

/* Trained on floats: bytes would be another scale. */
static void test_pixels_are_of_the_type_trained_on(void **state) {
    (void)state;
    float floats[COUNT][PIXELS];
    int32_t labels[COUNT];
    for (int i = 0; i < COUNT; i++) {
        labels[i] = i % 3;
        for (int p = 0; p < PIXELS; p++) floats[i][p] = (float)pixels[i][p] / 255;
    }
    Error err = {0};
    H5Writer *w = h5_write_begin("floats.h5", 0, program_arena, &err);
    Shape shape = SHAPE(COUNT, SIDE, SIDE);
    h5_write_tensor(w, "train_images", H5_F32, shape, floats);
    h5_write_tensor(w, "train_labels", H5_I32, SHAPE(COUNT), labels);
    h5_write_tensor(w, "test_images", H5_F32, shape, floats);
    h5_write_tensor(w, "test_labels", H5_I32, SHAPE(COUNT), labels);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
    text_file("floats.yaml", "model: {kind: mlp, widths: [8]}\n"
                             "data: {kind: hdf5, path: floats.h5, batch: 4, validation: 4}\n"
                             "train: {epochs: 2}\nquant: {bits: 8}\n" PROGRAM_OPTIMIZER);
    run(0, "train floats.yaml --out floats");
    run(0, "convert floats");
    run(0, "verify floats");
    file_write("floats.raw", floats, sizeof floats);
    const char *from_h5 = run(0, "predict floats floats.h5 --json").out;
    char *a = arena_strdup(program_arena, from_h5);
    char *b =
        arena_strdup(program_arena, run(0, "predict floats floats.raw --shape 8,8,1 --json").out);
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(answer_of(next_line(&a)), answer_of(next_line(&b)));
    assert_has(from_h5, "\"label\": null");
    assert_accuracy(from_h5, "floats");
    assert_has(run(2, "predict floats " IDX).err,
               IDX ": its pixels are bytes, but the model was trained on f32");
    assert_has(run(2, "predict run floats.h5").err, "its pixels are f32, but the model was trained "
                                                    "on bytes");
}

/* ---- What is refused ---- */

static void test_refusals(void **state) {
    (void)state;
    assert_has(run(2, "predict run").err, "usage: nibble predict MODEL FILE...");
    assert_has(run(2, "predict nowhere " IDX).err, "nowhere");
    assert_has(run(2, "predict set " IDX).err,
               "set/quantized.h5 is missing; run 'nibble convert set' first");
    assert_has(run(2, "predict run " IDX " --top 0").err,
               "--top must be a number from 1 on, not '0'");
    assert_has(run(2, "predict run " IDX " --top 2x").err, "--top must be a number");
    assert_has(run(2, "predict run " IDX " --shape 8,8").err,
               "--shape must be H,W,C such as 28,28,1, not '8,8'");
    assert_has(run(2, "predict run " IDX " --shape 8,8,1x").err, "--shape must be H,W,C");
    assert_has(run(2, "predict run " IDX " --shape 8,8,3").err,
               "--shape 8,8,3: the model takes images of 8,8,1");
    assert_has(run(2, "predict run " IDX " --shape 4,8,1").err, "--shape 4,8,1: the model takes");
    assert_has(run(2, "predict run config.yaml").err, "config.yaml: not a PNG");
    assert_has(run(2, "predict run missing.png").err, "missing.png: No such file");
    /* what came before is answered */
    write_pgm("good.pgm", pixels[0]);
    Result result = run(2, "predict run good.pgm config.yaml");
    assert_has(result.out, "good.pgm: class ");
    assert_has(result.err, "config.yaml: not a PNG");
}

static void test_class_names_fit_the_classes(void **state) {
    (void)state;
    assert_has(run(2, "train config.yaml --out two data.class_names=[dark,bright]").err,
               "data.class_names has 2 names, but there are 3 classes");
    assert_has(run(2, "train config.yaml --out two data.class_names=[dark,\"a\\nb\",bright]").err,
               "data.class_names: name 1 must be one line of 1 to 256 bytes");
    run(0, "train --resume run data.class_names=[a,b,c]"); /* no part of what is trained */
    assert_has(run(2, "convert run data.class_names=[a,b]").err,
               "data.class_names has 2 names, but there are 3 classes");
    run(0, "convert run data.class_names=[x,y,z]");
    assert_has(run(0, "predict run " IDX).out, "(x)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predictions_are_those_of_the_evaluation),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_probabilities_sum_to_one),
        cmocka_unit_test(test_every_kind_of_file_gives_the_same),
        cmocka_unit_test(test_files_fill_batches),
        cmocka_unit_test(test_pixels_are_of_the_type_trained_on),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_class_names_fit_the_classes),
    };
    return cmocka_run_group_tests(tests, set_up, program_folder_leave);
}
