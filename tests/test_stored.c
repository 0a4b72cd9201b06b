/* Numbers stored in any way the rows of core/dtype.def have, with scales in any way: in products,
 * as frozen parameters of a network, in files and in checkpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/conv.h"
#include "core/gemm.h"
#include "core/kernels.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "data/stored.h"
#include "experiments/train/checkpoint.h"
#include "tests/model_source.h"
#include "tests/storages.h"

static Tape *tape;
static char folder[] = "/tmp/nibble-stored-XXXXXX";
static const char *const isas[] = {"baseline", "avx2", "avx512"};

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

static const char *in_folder(const char *name) {
    return arena_format(arena, "%s/%s", folder, name);
}

static Tensor drawn(Shape shape, uint64_t seed, const Storage *storage) {
    return tensor_encode(arena, storages_values(arena, shape_count(shape), seed), shape, storage);
}

/* The same values in f32. */
static Tensor plain_of(const Tensor *stored) {
    Tensor plain = tensor_new(arena, DTYPE_F32, stored->shape);
    tensor_decode(stored, plain.data);
    return plain;
}

static bool is_plain_dtype(const Storage *storage) {
    return storage->dtype == DTYPE_F32;
}

/* ---- Products ---- */

typedef struct Sizes {
    int64_t m, n, k;
} Sizes;

/* As `a`, as `b` and as both (of_which 1, 2, 3), either way round: near the reference, and the bits
 * of the decoded values. */
static void check_gemm(Sizes s, const Storage *storage, int turned, int of_which) {
    Shape a_shape = turned & 1 ? SHAPE(s.k, s.m) : SHAPE(s.m, s.k);
    Shape b_shape = turned & 2 ? SHAPE(s.n, s.k) : SHAPE(s.k, s.n);
    const Storage f32 = {.dtype = DTYPE_F32};
    Tensor t[2] = {drawn(a_shape, 1, of_which & 1 ? storage : &f32),
                   drawn(b_shape, 2, of_which & 2 ? storage : &f32)};
    Matrix a[2], b[2];
    for (int is_decoded = 0; is_decoded < 2; is_decoded++) {
        a[is_decoded] = matrix_of(is_decoded ? plain_of(&t[0]) : t[0]);
        b[is_decoded] = matrix_of(is_decoded ? plain_of(&t[1]) : t[1]);
        a[is_decoded].is_transposed = turned & 1, b[is_decoded].is_transposed = turned & 2;
    }
    int64_t count = s.m * s.n;
    float *y[3];
    for (int i = 0; i < 3; i++) y[i] = arena_new_array(arena, float, count);
    gemm(a[0], b[0], 0, y[0], s.n, NULL, arena);
    gemm(a[1], b[1], 0, y[1], s.n, NULL, arena);
    gemm_reference(a[0], b[0], 0, y[2], s.n, NULL);
    assert_memory_equal(y[0], y[1], sizeof(float) * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(y[0][i] - y[2][i]) <= 1e-4f * (float)s.k))
            fail_msg("%s: %g instead of %g", dtype_name(storage->dtype), (double)y[0][i],
                     (double)y[2][i]);
}

static void products_read_any_storage(void **state) {
    (void)state;
    static const Sizes sizes[] = {{3, 4, 5}, {40, 33, 70}, {7, 130, 61}, {150, 9, 129}};
    const Storages storages = storages_make();
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        Error err = {0};
        setenv("NIBBLE_ISA", isas[i], 1);
        if (!kernels_init(&err)) continue;
        for (int j = 0; j < storages.count; j++)
            for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
                for (int turned = 0; turned < 4; turned++)
                    for (int of_which = 1; of_which < 4; of_which++)
                        check_gemm(sizes[k], &storages.all[j], turned, of_which);
    }
    unsetenv("NIBBLE_ISA");
    Error err = {0};
    assert_true(kernels_init(&err));
}

/* Levels of 4 bits, under one scale. */
static Tensor levels_drawn(Shape shape) {
    Tensor t = drawn(shape, 5, &(Storage){.dtype = DTYPE_F32});
    float *scale = arena_new_array(arena, float, 1);
    Scales *scales = arena_new_array(arena, Scales, 1);
    *scale = 0.25f;
    int64_t count = shape_count(shape);
    *scales = (Scales){count, count, 1, DTYPE_F32, grid_signed(4), scale};
    quantize_levels(t.data, scales, 0, count, t.data);
    t.scales = scales;
    return t;
}

/* Activations on a grid, and a weight that is none: values are multiplied. */
static void products_of_levels_and_stored_values(void **state) {
    (void)state;
    const Storages storages = storages_make();
    const Tensor x = levels_drawn(SHAPE(5, 8)), plain_x = plain_of(&x);
    for (int j = 0; j < storages.count; j++) {
        const Tensor w = drawn(SHAPE(3, 8), 2, &storages.all[j]), plain_w = plain_of(&w);
        float y[15], expected[15];
        gemm(matrix_of(x), matrix_transposed(matrix_of(w)), 0, y, 3, NULL, arena);
        gemm_reference(matrix_of(plain_x), matrix_transposed(matrix_of(plain_w)), 0, expected, 3,
                       NULL);
        for (int i = 0; i < 15; i++) assert_true(fabsf(y[i] - expected[i]) < 1e-4f);
    }
}

/* Both ways of a linear layer, for a weight of 1024 x 2048. */
static void products_decode_tiles(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        if (is_plain_dtype(&storages.all[j])) continue;
        enum { OUT = 1024, IN = 2048, BATCH = 4 };
        Scales scales = {.row_length = OUT * IN, .run_length = 64, .count = OUT * IN / 64};
        bool has_scales = dtype_codec(storages.all[j].dtype)->stores == CODE_ENTRY;
        Matrix w = matrix_of((Tensor){.dtype = storages.all[j].dtype,
                                      .shape = SHAPE(OUT, IN),
                                      .scales = has_scales ? &scales : NULL});
        Matrix x = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = SHAPE(BATCH, IN)});
        Matrix dy = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = SHAPE(BATCH, OUT)});
        int64_t whole = (int64_t)sizeof(float) * OUT * IN, threads = parallel_threads();
        assert_true(gemm_scratch(x, matrix_transposed(w), 0) < threads * whole / 4);
        assert_true(gemm_scratch(dy, w, 0) < threads * whole / 4);
    }
}

static void check_conv(const ConvGeometry *g, const Tensor *x, const Tensor *w) {
    const Tensor plain_x = plain_of(x), plain_w = plain_of(w);
    const Tensor *xs[] = {x, &plain_x}, *ws[] = {w, &plain_w};
    int64_t y_count = g->batch * g->out_h * g->out_w * g->out_c;
    float *y[2], *dx[2], *dw[2], *dy = storages_values(arena, y_count, 7);
    float *expected = arena_new_array(arena, float, y_count);
    for (int i = 0; i < 2; i++) {
        y[i] = arena_new_array(arena, float, y_count);
        dx[i] = arena_new_array(arena, float, tensor_count(x));
        dw[i] = arena_new_array(arena, float, tensor_count(w));
        conv_forward(g, xs[i], ws[i], NULL, TENSOR_F32(y[i]), (ConvWritten){0}, arena);
        conv_backward_input(g, TENSOR_F32(dy), ws[i], 0, TENSOR_F32(dx[i]), arena);
        conv_backward_weight(g, xs[i], TENSOR_F32(dy), 0, dw[i], arena);
    }
    conv_forward_reference(g, x, w, NULL, expected);
    for (int64_t i = 0; i < y_count; i++) assert_true(fabsf(y[0][i] - expected[i]) < 1e-2f);
    if (!x->scales || !tensor_holds_levels(x)) /* else it is scaled at the end */
        assert_memory_equal(y[0], y[1], sizeof(float) * (size_t)y_count);
    assert_memory_equal(dx[0], dx[1], sizeof(float) * (size_t)tensor_count(x));
    for (int64_t i = 0; i < tensor_count(w); i++) assert_true(fabsf(dw[0][i] - dw[1][i]) < 1e-2f);
}

static void convolutions_read_any_storage(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++)
        for (int64_t channels = 1; channels < 8; channels += 4) { /* one scale, and several */
            const ConvGeometry g = {.batch = 2,
                                    .in_h = 5,
                                    .in_w = 4,
                                    .in_c = channels,
                                    .out_h = 5,
                                    .out_w = 4,
                                    .out_c = 3,
                                    .kernel_h = 3,
                                    .kernel_w = 3,
                                    .stride_h = 1,
                                    .stride_w = 1,
                                    .dilation_h = 1,
                                    .dilation_w = 1,
                                    .pad_top = 1,
                                    .pad_left = 1,
                                    .groups = 1};
            const Tensor x = drawn(SHAPE(2, 5, 4, channels), 3, &storages.all[j]);
            const Tensor w = drawn(SHAPE(3, 3, 3, channels), 4, &storages.all[j]);
            const Tensor levels = levels_drawn(x.shape);
            check_conv(&g, &x, &w);
            check_conv(&g, &levels, &w);
        }
}

/* ---- Frozen parameters ---- */

static const char network[] =
    "model: {kind: sequential, layers: [conv: {filters: 6}, batch_norm, relu, max_pool, flatten, "
    "linear: {units: 20}, relu, linear: {units: 4}]}\n";

static const char *const kept[] = {"conv1.weight", "linear1.weight", "linear1.bias",
                                   "batch_norm1.gamma"};
enum { KEPT = sizeof kept / sizeof *kept };

/* The network with four parameters stored so; `as_f32`: with the same values in f32, frozen. */
static Model *network_of(const Storage *storage, bool as_f32) {
    ModelSource source = model_source(network);
    Model *model = model_of(&source, SHAPE(6, 6, 2), 4, 1);
    for (int i = 0; i < KEPT; i++) {
        Param *p = model_find_param(model, kept[i]);
        Tensor stored = tensor_encode(arena, tensor_f32(&p->value), p->value.shape, storage);
        param_store(p, as_f32 ? plain_of(&stored) : stored);
    }
    return model;
}

typedef struct Holder {
    Variant optimizer;
} Holder;

static Optimizer *optimizer_of(Model *model) {
    static const Field fields[] = {
        FIELD_VARIANT(Holder, optimizer, REQUIRED, &optimizer_kinds, "of the test"), FIELD_END};
    Faults faults = {.arena = arena};
    Holder *holder = arena_new_array(arena, Holder, 1);
    Mark mark = {"test", 1, 1};
    Node *map = yaml_read_own("{optimizer: {kind: adamw, lr: 0.01}}", mark, arena);
    fields_read(fields, map, mark, holder, arena, &faults);
    assert_int_equal(faults.count, 0);
    Optimizer *optimizer = NULL;
    Error err = {0};
    if (!optimizer_new(&holder->optimizer, model, arena, &optimizer, &err))
        fail_msg("%s", err.message);
    return optimizer;
}

static void steps_run(Model *model, Optimizer *optimizer, int first, int count) {
    Error err = {0};
    for (int i = 0; i < count; i++) {
        train_step(model, tape, batch_of(model, 8, (uint64_t)(first + i)), 0);
        if (!optimizer_step(optimizer, 1, &err)) fail_msg("%s", err.message);
    }
}

static void assert_same_params(const Model *a, const Model *b) {
    assert_int_equal(a->param_count, b->param_count);
    for (int i = 0; i < a->param_count; i++) {
        const Param *p = a->params[i], *q = b->params[i];
        assert_same_bits(plain_of(&p->value), plain_of(&q->value));
        assert_true(p->has_grad == q->has_grad);
        if (p->has_grad)
            assert_memory_equal(p->grad, q->grad, sizeof(float) * (size_t)tensor_count(&p->value));
    }
}

/* Three steps of the network with stored parameters and of its twin in f32: the same bits, and what
 * is stored stays and has no gradient. */
static void a_stored_param_is_a_frozen_one(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        Model *model = network_of(&storages.all[j], false);
        Model *twin = network_of(&storages.all[j], true);
        Tensor before[KEPT];
        for (int i = 0; i < KEPT; i++) {
            const Param *p = model_find_param(model, kept[i]);
            before[i] = plain_of(&p->value);
            assert_int_equal(p->value.dtype, storages.all[j].dtype);
        }
        steps_run(model, optimizer_of(model), 0, 3);
        steps_run(twin, optimizer_of(twin), 0, 3);
        assert_same_params(model, twin);
        for (int i = 0; i < KEPT; i++) {
            const Param *p = model_find_param(model, kept[i]);
            assert_null(p->grad);
            assert_false(p->has_grad);
            assert_same_bits(plain_of(&p->value), before[i]);
        }
        assert_true(model_find_param(model, "conv1.bias")->has_grad);
        int64_t trainable = 6 + 6 + (20 * 4 + 4); /* conv1.bias, beta, linear2 */
        assert_int_equal(model_trainable_count(model), trainable);
    }
}

static bool count_state(void *context, const char *name, Tensor value) {
    (void)value;
    for (int i = 0; i < KEPT; i++) assert_null(strstr(name, kept[i]));
    ++*(int *)context;
    return true;
}

static void a_stored_param_has_no_state(void **state) {
    (void)state;
    const Storage storage = {.dtype = DTYPE_DYNAMIC8, .scale_dtype = DTYPE_BF16};
    int visited = 0;
    optimizer_visit(optimizer_of(network_of(&storage, false)), count_state, &visited);
    assert_int_equal(visited, 1 + 2 * 4); /* steps, and two of four Params */
}

typedef struct Record {
    Model *model;
    Tensor x;
} Record;

static Var *record_loss(void *context, Tape *t) {
    static const int32_t labels[] = {0, 1, 2, 3, 0, 1, 2, 3};
    const Record *record = context;
    Var *x = tape_constant(t, record->x);
    return op_cross_entropy(t, model_forward(record->model, t, x), labels, 0);
}

/* Products read what is stored, without the cast that masters get. */
static void half_precision_reads_stored_params(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        Model *model = network_of(&storages.all[j], false);
        Record record = {model, batch_of(model, 8, 1)};
        float exact = 0;
        for (int h = 0; h < 3; h++) {
            TapeMode mode = TAPE_TRAINING;
            mode.half = halves[h];
            model_clear_grads(model);
            Var *loss = tape_run(tape, mode, record_loss, &record);
            if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
            tape_backward(tape, loss, 1);
            if (!h) exact = *var_f32(loss);
            assert_true(fabsf(*var_f32(loss) - exact) < 0.02f);
            assert_true(model_find_param(model, "conv1.bias")->has_grad);
        }
    }
}

/* One that is done element by element, one that is not, and one that takes levels as they are. What
 * is only reshaped is not yet read. */
static void any_op_reads_stored_leaves(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        const Tensor x = drawn(SHAPE(4, 30), 1, &storages.all[j]), plain = plain_of(&x);
        const Var *y[2][3];
        tape_begin(tape, TAPE_EVALUATION);
        for (int i = 0; i < 2; i++) {
            Var *leaf = tape_constant(tape, i ? plain : x);
            Var *rows = op_reshape(tape, leaf, SHAPE(30, 4));
            y[i][0] = op_relu(tape, rows);
            y[i][1] = op_softmax(tape, rows);
            Var *image = op_reshape(tape, leaf, SHAPE(1, 6, 10, 2));
            y[i][2] = op_max_pool2d(tape, image, (Pool2dAttr){.kernel = 2, .stride = 2});
        }
        if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
        for (int k = 0; k < 3; k++) assert_same_bits(plain_of(&y[0][k]->value), y[1][k]->value);
    }
}

/* ---- Files ---- */

static const char *file_of(const Tensor *tensor, const char *name) {
    const char *path = in_folder(name);
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 1 << 20, arena, &err);
    assert_non_null(w);
    stored_write(w, "a/b", tensor);
    if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
    return path;
}

static bool read_into(const char *path, const Tensor *tensor, Error *err) {
    H5Reader *reader = h5_read_open(path, arena, err);
    assert_non_null(reader);
    bool ok = stored_read(reader, "a/b", tensor, err);
    h5_read_close(reader);
    return ok;
}

static void files_keep_what_is_stored(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        const Tensor written = drawn(SHAPE(7, 3, 19), 1, &storages.all[j]);
        const Tensor read = drawn(SHAPE(7, 3, 19), 2, &storages.all[j]);
        const char *path = file_of(&written, "tensor.h5");
        Error err = {0};
        if (!read_into(path, &read, &err)) fail_msg("%s", err.message);
        assert_same_bits(plain_of(&read), plain_of(&written));
        assert_memory_equal(read.data, written.data, dtype_bytes(read.dtype, 7 * 3 * 19));
    }
}

static void files_of_another_storage_are_refused(void **state) {
    (void)state;
    static const struct {
        Storage written, read;
        Shape shape;
        const char *message;
    } cases[] = {
        {{.dtype = DTYPE_F16},
         {.dtype = DTYPE_DYNAMIC8},
         {2, {6, 5}},
         "\"a/b\" is stored as f16, expected dynamic8"},
        {{.dtype = DTYPE_F32},
         {.dtype = DTYPE_BF16},
         {2, {6, 5}},
         "\"a/b\" is stored as f32, expected bf16"},
        {{.dtype = DTYPE_F16}, {.dtype = DTYPE_F32}, {2, {6, 5}}, "\"a/b\" is not a tensor"},
        {{.dtype = DTYPE_F16}, {.dtype = DTYPE_F16}, {2, {5, 6}}, "\"a/b\" has dim0 6, expected 5"},
        {{.dtype = DTYPE_DYNAMIC8, .block = 16},
         {.dtype = DTYPE_DYNAMIC8},
         {2, {6, 5}},
         "\"a/b\" has run_length 16, expected 256"},
        {{.dtype = DTYPE_DYNAMIC8, .scale_dtype = DTYPE_F16},
         {.dtype = DTYPE_DYNAMIC8, .scale_dtype = DTYPE_DYNAMIC8},
         {2, {6, 5}},
         "\"a/b/scales\" is stored as f16, expected dynamic8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Tensor written = drawn(SHAPE(6, 5), 1, &cases[i].written);
        const Tensor read = drawn(cases[i].shape, 1, &cases[i].read);
        const char *path = file_of(&written, "other.h5");
        Error err = {0};
        assert_false(read_into(path, &read, &err));
        assert_string_equal(err.message, arena_format(arena, "%s: %s", path, cases[i].message));
    }
}

/* The last number, scale or scale of scales, and the offset. */
static void numbers_that_are_not_finite_are_refused(void **state) {
    (void)state;
    const Storages storages = storages_make();
    int refused = 0;
    for (int j = 0; j < storages.count; j++) {
        const Tensor written = drawn(SHAPE(6, 100), 1, &storages.all[j]);
        const Tensor read = drawn(SHAPE(6, 100), 1, &storages.all[j]);
        const Tensor *plane = &written;
        while (plane->scales && plane->scales->stored) plane = plane->scales->stored;
        assert_null(plane->scales);
        Error err = {0};
        int64_t count = tensor_count(plane), last = count - 1;
        float *values = arena_new_array(arena, float, count);
        tensor_decode(plane, values);
        values[last] = INFINITY;
        dtype_codec(plane->dtype)->encode(values, count, NULL, plane->data);
        assert_false(read_into(file_of(&written, "other.h5"), &read, &err));
        assert_non_null(strstr(err.message, arena_format(arena, "number %ld is inf", (long)last)));
        assert_non_null(strstr(err.message, "\"a/b"));
        refused++;
        if (!written.scales) continue;
        const Tensor again = drawn(SHAPE(6, 100), 1, &storages.all[j]);
        ((Scales *)(uintptr_t)again.scales)->offset = NAN;
        err = (Error){0};
        assert_false(read_into(file_of(&again, "other.h5"), &read, &err));
        assert_non_null(strstr(err.message, "\"a/b\": its offset is nan"));
    }
    assert_int_equal(refused, storages.count);
}

/* Four steps at once, or two, a checkpoint, and two from there in a model that was something else.
 */
static void a_checkpoint_resumes_over_stored_params(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        Model *whole = network_of(&storages.all[j], false), *first, *second;
        steps_run(whole, optimizer_of(whole), 0, 4);
        first = network_of(&storages.all[j], false);
        second = network_of(&storages.all[j], false);
        Optimizer *o = optimizer_of(first);
        const char *path = in_folder("checkpoint.h5");
        Error err = {0};
        Cursor cursor = {.step = 2, .loss_scale = loss_scale_new(false)};
        float mean = 0, deviation = 1;
        DataFacts facts = {.images = 1,
                           .height = 6,
                           .width = 6,
                           .channels = 1,
                           .class_count = 4,
                           .mean = &mean,
                           .deviation = &deviation,
                           .images_digest = "0123456789abcdef0123456789abcdef",
                           .labels_digest = "0123456789abcdef0123456789abcdef"};
        steps_run(first, o, 0, 2);
        if (!checkpoint_save(path, NULL, "x: 1\n", &facts, &cursor, first, o, &err))
            fail_msg("%s", err.message);
        for (int i = 0; i < KEPT; i++) {
            const Tensor *plane = &model_find_param(second, kept[i])->value;
            for (; plane; plane = plane->scales ? plane->scales->stored : NULL)
                memset(plane->data, 0, dtype_bytes(plane->dtype, tensor_count(plane)));
        }
        o = optimizer_of(second);
        if (!checkpoint_load(path, "x: 1\n", second, o, &cursor, &err)) fail_msg("%s", err.message);
        steps_run(second, o, 2, 2);
        assert_same_params(second, whole);
    }
}

static int folder_make(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int folder_remove(void **state) {
    (void)state;
    static const char *const files[] = {"tensor.h5", "other.h5", "checkpoint.h5"};
    char path[64];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(products_read_any_storage),
        TEST(products_of_levels_and_stored_values),
        TEST(products_decode_tiles),
        TEST(convolutions_read_any_storage),
        TEST(a_stored_param_is_a_frozen_one),
        TEST(a_stored_param_has_no_state),
        TEST(half_precision_reads_stored_params),
        TEST(any_op_reads_stored_leaves),
        TEST(files_keep_what_is_stored),
        TEST(files_of_another_storage_are_refused),
        TEST(numbers_that_are_not_finite_are_refused),
        TEST(a_checkpoint_resumes_over_stored_params),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
