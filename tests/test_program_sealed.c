/* Files of a run that somebody changed and sealed again: every command that reads one refuses it
 * with a reason, at once. */
#include "tests/program.h"

#include "data/envelope.h"
#include "data/h5_format.h"

#define SMALL                                                                                      \
    "model: {kind: mlp, widths: [8]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER                             \
    "quant: {bits: 4}\ntrain: {epochs: 1, checkpoint_every: 5}\n"

static int enter(void **state) {
    if (program_folder_enter(state)) return -1;
    text_file("small.yaml", SMALL);
    run(0, "train small.yaml --out whole");
    run(0, "convert whole");
    return 0;
}

/* The place of the last header, which is the root's, in a file of ours. */
static size_t root_of(const unsigned char *bytes) {
    return (size_t)h5_get(bytes + 36, 8);
}

static void seal(const char *path, const unsigned char *bytes, size_t count) {
    Error err = {0};
    file_write(path, bytes, count - ENVELOPE_TRAILER_BYTES);
    if (!envelope_seal(path, &err)) fail_msg("%s", err.message);
}

/* One byte of the root's header. */
static void damage(const char *path) {
    size_t count;
    unsigned char *bytes = file_read(path, &count);
    bytes[root_of(bytes) + 40] ^= 1;
    seal(path, bytes, count);
}

/* A group named "params" that is the root itself. */
static void close_circle(const char *path) {
    size_t count, at;
    unsigned char *bytes = file_read(path, &count);
    size_t root = root_of(bytes), end = (size_t)h5_get(bytes + root + 6, 4) + root + 10;
    for (at = root; memcmp(bytes + at, "params", 6) != 0; at++) assert_true(at < end);
    h5_put(bytes + at + 6, root, 8);
    h5_put(bytes + end, h5_checksum(bytes + root, end - root), H5_CHECKSUM_BYTES);
    seal(path, bytes, count);
}

static void copy_run(const char *file, void (*change)(const char *)) {
    static const char *const files[] = {"checkpoint.h5", "best.h5",      "quantized.h5",
                                        "logits.h5",     "config.yaml",  "summary.json",
                                        "env.json",      "metrics.jsonl"};
    remove_tree("run");
    assert_int_equal(mkdir("run", 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (file_exists(format("whole/%s", files[i])))
            file_copy(format("whole/%s", files[i]), format("run/%s", files[i]));
    change(format("run/%s", file));
}

/* Commands that want the file. */
static const struct {
    const char *file, *command;
} readers[] = {
    {"checkpoint.h5", "inspect run/checkpoint.h5"},
    {"checkpoint.h5", "eval run"},
    {"checkpoint.h5", "convert run"},
    {"checkpoint.h5", "train --resume run"},
    {"best.h5", "inspect run/best.h5"},
    {"quantized.h5", "inspect run/quantized.h5"},
    {"quantized.h5", "verify run"},
    {"quantized.h5", "predict run images.pgm"},
    {"logits.h5", "inspect run/logits.h5"},
    {"logits.h5", "verify run"},
};

static void test_damage_is_refused_everywhere(void **state) {
    (void)state;
    text_file("images.pgm", "P2 1 1 255 7\n");
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        copy_run(readers[i].file, damage);
        Result result = run(2, "%s", readers[i].command);
        assert_has(result.err,
                   format("run/%s: damaged: its root: a checksum is wrong", readers[i].file));
        assert_lacks(result.err, "crash");
    }
}

static void test_circles_are_refused_at_once(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        copy_run("checkpoint.h5", close_circle);
        assert_has(run(2, "%s", readers[i].command).err,
                   "the same bytes belong to two objects, or to a cycle");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_damage_is_refused_everywhere),
                                       cmocka_unit_test(test_circles_are_refused_at_once)};
    return cmocka_run_group_tests(tests, enter, program_folder_leave);
}
