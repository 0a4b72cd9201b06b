/* Batches: columns by name, of their type and shape; parts of a batch are rows of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "data/batch.h"

static const float images[3][2][2] = {{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}, {{9, 10}, {11, 12}}};
static const int32_t labels[3] = {7, 8, 9};

static Batch three_rows(void) {
    const Column columns[] = {{"labels", ELEMENT_I32, SHAPE_SCALAR},
                              {"images", ELEMENT_F32, SHAPE(2, 2)}};
    Batch batch = batch_sketch(columns, 2, 3);
    batch.data[0] = labels;
    batch.data[1] = images;
    return batch;
}

static void columns_are_found_by_name(void **state) {
    (void)state;
    Batch batch = three_rows();
    Tensor x = batch_f32(&batch, "images");
    assert_true(shape_equal(x.shape, SHAPE(3, 2, 2)) && x.dtype == DTYPE_F32 && !x.scales);
    assert_ptr_equal(x.data, images);
    assert_ptr_equal(batch_i32(&batch, "labels"), labels);
    assert_int_equal(column_bytes(&batch.columns[0]), 4);
    assert_int_equal(column_bytes(&batch.columns[1]), 16);
}

static void a_part_is_rows_of_it(void **state) {
    (void)state;
    Batch batch = three_rows(), part = batch_part(&batch, 1, 2);
    assert_int_equal(part.count, 2);
    Tensor x = batch_f32(&part, "images");
    assert_true(shape_equal(x.shape, SHAPE(2, 2, 2)));
    assert_memory_equal(x.data, images[1], 2 * sizeof images[0]);
    assert_int_equal(batch_i32(&part, "labels")[0], 8);
    part = batch_part(&part, 1, 1);
    assert_int_equal(batch_i32(&part, "labels")[0], 9);
}

static void a_sketch_has_shapes_and_no_data(void **state) {
    (void)state;
    Batch batch = three_rows(), sketch = batch_sketch(batch.columns, 2, 100);
    assert_true(shape_equal(batch_f32(&sketch, "images").shape, SHAPE(100, 2, 2)));
    assert_null(batch_f32(&sketch, "images").data);
    sketch = batch_part(&sketch, 50, 10);
    assert_int_equal(sketch.count, 10);
    assert_null(batch_i32(&sketch, "labels"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_found_by_name),
        cmocka_unit_test(a_part_is_rows_of_it),
        cmocka_unit_test(a_sketch_has_shapes_and_no_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
