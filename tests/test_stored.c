/* Numbers stored in any way the rows of core/dtype.def have, with scales in any way: as frozen
 * parameters of a network, in files and in checkpoints. (Products: test_stored_products.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/stored.h"
#include "experiments/train/checkpoint.h"
#include "tests/model_source.h"
#include "tests/storages.h"

static Tape *tape;
static char folder[] = "/tmp/nibble-stored-XXXXXX";

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
    return storages_draw(arena, shape, seed, storage);
}

static Tensor plain_of(const Tensor *stored) {
    return storages_plain(arena, stored);
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
        Tensor stored = storages_encode(arena, tensor_f32(&p->value), p->value.shape, storage);
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
            assert_true(p->is_frozen && !p->has_grad);
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
            for (int i = 0; i < KEPT && storages.all[j].dtype != DTYPE_F32; i++)
                assert_null(model_find_param(model, kept[i])->read);
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
    return ok;
}

static bool read_anew(const char *path, Tensor *tensor, Error *err) {
    H5Reader *reader = h5_read_open(path, arena, err);
    assert_non_null(reader);
    bool ok = stored_read_new(reader, "a/b", arena, tensor, err);
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
        Tensor anew;
        if (!read_anew(path, &anew, &err)) fail_msg("%s", err.message);
        assert_int_equal(anew.dtype, written.dtype);
        assert_true(shape_equal(anew.shape, written.shape));
        assert_same_bits(plain_of(&anew), plain_of(&written));
        assert_int_equal(tensor_bytes(&anew), tensor_bytes(&written));
    }
}

/* A group that says so of its codes. */
static const char *file_of_dtype(int64_t dtype, const char *name) {
    const char *path = in_folder(name);
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 1 << 20, arena, &err);
    assert_non_null(w);
    h5_write_tensor(w, "a/b/codes", H5_U8, SHAPE(1), "");
    h5_write_int(w, "a/b", "dtype", dtype);
    if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
    return path;
}

static void assert_refused(const char *path, const Tensor *read, const char *message) {
    Error err = {0};
    assert_false(read_into(path, read, &err));
    assert_string_equal(err.message, arena_format(arena, "%s: %s", path, message));
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
        {{.dtype = DTYPE_F16}, {.dtype = DTYPE_F16}, {2, {6, 4}}, "\"a/b\" has dim1 5, expected 4"},
        {{.dtype = DTYPE_F16}, {.dtype = DTYPE_F16}, {1, {30}}, "\"a/b\" has rank 2, expected 1"},
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
        assert_refused(path, &read, cases[i].message);
    }
    const Tensor t = drawn(SHAPE(6, 5), 1, &(Storage){.dtype = DTYPE_DYNAMIC8}), by_rows = t;
    const char *whole = file_of(&t, "other.h5");
    ((Scales *)(uintptr_t)by_rows.scales)->row_length = 5;
    assert_refused(whole, &by_rows, "\"a/b\" has row_length 30, expected 5");
    Tensor strange = drawn(SHAPE(6, 5), 1, &(Storage){.dtype = DTYPE_F16});
    assert_refused(file_of_dtype(DTYPE_COUNT, "other.h5"), &strange,
                   "\"a/b\" is stored as an unknown format, expected f16");
    assert_refused(file_of_dtype(-1, "other.h5"), &strange,
                   "\"a/b\" is stored as an unknown format, expected f16");
}

/* A group of 30 codes of nf4 in blocks of 16, with one thing in it wrong. */
static void faults_of_unknown_tensors_are_named(void **state) {
    (void)state;
    static const struct {
        const char *attribute; /* NULL: one of the lengths */
        int64_t value, codes, scales;
        const char *message;
    } cases[] = {
        {"dtype", 1000, 15, 2, "\"a/b\" has dtype 1000, expected 0 to "},
        {"dtype", DTYPE_INT4, 15, 2, "\"a/b\" is stored as int4, which are levels of no grid"},
        {"rank", 5, 15, 2, "\"a/b\" has rank 5, expected 0 to 4"},
        {"dim1", 0, 15, 2, "\"a/b\" has dim1 0, expected 1 to "},
        {"dim1", INT64_MAX, 15, 2,
         "other.h5: \"a/b\": shape [6, 9223372036854775807] is too large"},
        {"run_length", 0, 15, 2, "\"a/b\" has run_length 0, expected 1 to "},
        {NULL, 0, 14, 2, "\"a/b/codes\" has 14 bytes, expected 15"},
        {NULL, 0, 15, 3, "\"a/b\" has 3 scales, expected 2"},
    };
    static const uint8_t codes[15];
    static const float scales[3];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct {
            const char *name;
            int64_t value;
        } attributes[] = {{"dtype", DTYPE_NF4}, {"rank", 2},        {"dim0", 6},
                          {"dim1", 5},          {"row_length", 30}, {"run_length", 16}};
        const char *path = in_folder("other.h5");
        Error err = {0};
        H5Writer *w = h5_write_begin(path, 1 << 16, arena, &err);
        assert_non_null(w);
        h5_write_tensor(w, "a/b/codes", H5_U8, SHAPE(cases[i].codes), codes);
        h5_write_tensor(w, "a/b/scales", H5_F32, SHAPE(cases[i].scales), scales);
        for (size_t j = 0; j < sizeof attributes / sizeof *attributes; j++) {
            bool is_it = cases[i].attribute && !strcmp(cases[i].attribute, attributes[j].name);
            h5_write_int(w, "a/b", attributes[j].name,
                         is_it ? cases[i].value : attributes[j].value);
        }
        h5_write_float(w, "a/b", "offset", 0);
        if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
        Tensor tensor;
        assert_false(read_anew(path, &tensor, &err));
        if (!strstr(err.message, cases[i].message)) fail_msg("%s", err.message);
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
        dtype_encode(plane->dtype, values, count, NULL, plane->data);
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
        values[last] = -1; /* all that is left: the scales of something */
        dtype_encode(plane->dtype, values, count, NULL, plane->data);
        err = (Error){0};
        assert_false(read_into(file_of(&written, "other.h5"), &read, &err));
        assert_non_null(strstr(err.message, arena_format(arena, "number %ld is -1", (long)last)));
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
        Checkpoint saved;
        if (!checkpoint_open(path, arena, &saved, &err) ||
            !checkpoint_load(&saved, "x: 1\n", second, o, &err))
            fail_msg("%s", err.message);
        assert_int_equal(saved.cursor.step, 2);
        checkpoint_close(&saved);
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
        TEST(a_stored_param_is_a_frozen_one),
        TEST(a_stored_param_has_no_state),
        TEST(half_precision_reads_stored_params),
        TEST(any_op_reads_stored_leaves),
        TEST(files_keep_what_is_stored),
        TEST(files_of_another_storage_are_refused),
        TEST(faults_of_unknown_tensors_are_named),
        TEST(numbers_that_are_not_finite_are_refused),
        TEST(a_checkpoint_resumes_over_stored_params),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
