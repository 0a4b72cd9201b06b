/* Calibration data: the first rows of the training split, in parts, both networks the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "experiments/ptq/stream.h"

static Arena *arena;
static Experiment experiment;

enum { SIDE = 6, PIXELS = SIDE * SIDE, BATCH = 10, AVAILABLE = 43 };

static void open_with(int rows, int batch) {
    const char *text = arena_format(
        arena,
        "model: {kind: mlp, widths: [4]}\n"
        "data: {kind: synthetic, classes: 3, height: 6, width: 6, train: 60, test: 9, batch: %d, "
        "validation: 17, augment: {flip: true, crop_padding: 2}}\n"
        "quant: {bits: 4}\ncalibration: {rows: %d, batch: %d}\n",
        BATCH, rows, batch);
    ExperimentConfig config;
    Error err = {0};
    if (!config_read_text(text, "test", 0, NULL, arena, &config, &err)) fail_msg("%s", err.message);
    if (!experiment_open(&config, arena, &experiment, &err)) fail_msg("%s", err.message);
}

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

/* Row `row` of the calibration split. */
static const float *row_of(int64_t row) {
    Batch batch = loader_batch(experiment.loader, LOADER_CALIBRATION, 0, row / BATCH);
    return tensor_f32(&(Tensor){.dtype = DTYPE_F32, .data = batch_f32(&batch, "images").data}) +
           row % BATCH * PIXELS;
}

/* All rows come once, in order, at most `batch` at a time. */
static void check_rows(int rows, int batch) {
    open_with(rows, batch);
    Error err = {0};
    assert_true(stream_check(&experiment, &err));
    PtqData data = stream_open(&experiment);
    assert_int_equal(data.row_count, rows);
    float *all = arena_new_array(arena, float, (int64_t)rows *PIXELS);
    int64_t done = 0;
    for (int64_t i = 0; i < data.batch_count; i++)
        for (int again = 0; again < 2; again++) {
            int64_t count;
            tape_begin(experiment.tape, TAPE_EVALUATION);
            Var *output = data.record(data.context, i, experiment.tape, &count);
            assert_true(count >= 1 && count <= batch && done + count <= rows);
            assert_int_equal(shape_rows(output->value.shape), count);
            const Var *input = experiment.model->root->last_in[0];
            float *to = all + done * PIXELS;
            size_t bytes = sizeof(float) * (size_t)(count * PIXELS);
            if (again) assert_memory_equal(to, var_f32(input), bytes);
            memcpy(to, var_f32(input), bytes);
            done += again ? count : 0;
        }
    assert_int_equal(done, rows);
    for (int64_t i = 0; i < rows; i++)
        assert_memory_equal(all + i * PIXELS, row_of(i), sizeof(float) * PIXELS);
    experiment_close(&experiment);
}

static void test_rows(void **state) {
    (void)state;
    for (int rows = 1; rows <= AVAILABLE; rows += 3)
        for (int batch = 1; batch <= 13; batch += 3) check_rows(rows, batch);
    check_rows(AVAILABLE, 1000);
}

static void test_too_many(void **state) {
    (void)state;
    open_with(AVAILABLE + 1, 10);
    Error err = {0};
    assert_false(stream_check(&experiment, &err));
    assert_string_equal(err.message,
                        "test:4:21: calibration.rows is 44, but there are 43 training images");
    experiment_close(&experiment);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
