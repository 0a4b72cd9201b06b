/* Adapters of linear layers: values, gradients and merged weights beside PEFT's (golden file),
 * gradients beside finite differences over bases of any dtype, which layers get one, what is
 * frozen, and first values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/gradcheck.h"
#include "core/storage.h"
#include "optim/optimizer.h"
#include "qat/adapters/lora.h"
#include "qat/loftq.h"
#include "tests/golden.h"
#include "tests/model_adapter.h"

static Tape *tape;

#define NETWORK(activation)                                                                        \
    "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 7}, " activation          \
    ", {kind: linear, name: fc2, units: 6, bias: false}, " activation                              \
    ", {kind: linear, name: classes, units: 3}]}"

static const char network_text[] = NETWORK("relu"), smooth_text[] = NETWORK("tanh");

static Model *network_of(const char *text) {
    ModelSource source = model_source(text);
    return model_of(&source, SHAPE(5), 3, 11);
}

static Model *network(void) {
    return network_of(network_text);
}

static void start(const Adapter *adapter, const AdapterSource *source) {
    Error err = {0};
    if (!adapter_start(adapter, source, &err)) fail_msg("%s", err.message);
}

/* ---- PEFT ---- */

static void set_params(Model *model, const GoldenCase *from) {
    for (int i = 0; i < from->count; i++) {
        Param *p = model_find_param(model, from->tensors[i].name);
        if (!p) continue;
        assert_true(shape_equal(p->value.shape, from->tensors[i].shape));
        memcpy(p->value.data, from->tensors[i].values, tensor_bytes(&p->value));
    }
}

static void compare_gradients(const Model *model, const GoldenCase *expected) {
    int compared = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        const char *name = arena_format(arena, "%s.grad", p->name);
        assert_int_equal(p->has_grad, !p->is_base);
        if (p->is_base) continue;
        golden_compare(expected, name, p->grad, 2e-5f);
        compared++;
    }
    assert_int_equal(compared, strcmp(expected->name, "dora") ? 4 : 6);
}

static void compare_merged(const Adapter *adapter, const GoldenCase *expected) {
    for (int i = 0; i < adapter->site_count; i++) {
        const AdapterSite *site = &adapter->sites[i];
        float w[64];
        tensor_decode(&site->weight->value, w);
        adapter->row->merge(site, w);
        golden_compare(expected, arena_format(arena, "%s.merged", site->module->name), w, 1e-6f);
    }
}

static void test_as_peft(void **state) {
    (void)state;
    static const char *const texts[] = {
        "adapter: {kind: lora, rank: 2, alpha: 3}",
        ("adapter: {kind: lora, rank: 3, alpha: 2, rslora: true, rules: [{layers: fc2, rank: 2, "
         "alpha: 5}]}"),
        "adapter: {kind: lora, rank: 2, alpha: 4, dora: true, target: [fc1, fc2]}",
    };
    Golden golden = golden_open("tests/golden/adapter.txt", arena);
    GoldenCase given, expected;
    assert_true(golden_next(&golden, &given));
    for (int i = 0; i < 3; i++) {
        assert_true(golden_next(&golden, &expected));
        Model *model = network();
        Adapter *adapter = install(model, texts[i]);
        set_params(model, &given);
        set_params(model, &expected);
        static const int32_t labels[] = {0, 1, 2, 0, 1, 2};
        model_clear_grads(model);
        tape_begin(tape, TAPE_TRAINING);
        const GoldenTensor *input = golden_tensor(&given, "x");
        Tensor x = {.dtype = DTYPE_F32, .shape = input->shape, .data = input->values};
        Var *leaf = tape_constant(tape, x);
        Var *logits = model_forward(model, tape, leaf);
        Var *loss = op_cross_entropy(tape, logits, labels, 0);
        tape_backward(tape, loss, 1);
        golden_compare(&expected, "logits", var_f32(logits), 1e-6f);
        compare_gradients(model, &expected);
        compare_merged(adapter, &expected);
    }
    assert_false(golden_next(&golden, &expected));
    golden_close(&golden);
}

/* ---- Finite differences ---- */

static void store(Param *p, Dtype dtype) {
    Storage storage = {.dtype = dtype, .block = 16};
    Tensor stored;
    Error err = {0};
    if (!tensor_encode(arena, tensor_f32(&p->value), p->value.shape, &storage, &stored, &err))
        fail_msg("%s", err.message);
    param_store(p, stored);
}

static void store_weights(Model *model, Dtype dtype) {
    store(model_find_param(model, "fc1.weight"), dtype);
    store(model_find_param(model, "fc2.weight"), dtype);
}

static void fill(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (p->is_base) continue;
        bool is_length = strstr(p->name, "magnitude");
        RandomKey key = {.seed = 3, .stream = RANDOM_TEST, .step = (uint64_t)i};
        random_fill_uniform(key, is_length ? 0.5f : -0.5f, is_length ? 1.5f : 0.5f,
                            tensor_count(&p->value), tensor_f32(&p->value));
    }
}

static void test_gradients(void **state) {
    (void)state;
    static const char *const more[] = {"", ", dropout: 0.4", ", dora: true",
                                       ", dora: true, dropout: 0.4"};
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_NF4};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++) {
            Model *model = network_of(smooth_text); /* no kinks */
            if (j) store_weights(model, dtypes[j]);
            install(model, arena_format(arena, "adapter: {kind: lora, rank: 2%s}", more[i]));
            fill(model);
            Tensor x = batch_of(model, 4, 7);
            TapeMode way = TAPE_TRAINING;
            way.keeps_residuals = true;
            tape_begin(tape, way);
            Var *leaf = tape_leaf(tape, x, arena_new_array(arena, float, tensor_count(&x)), NULL);
            Var *y = model_forward(model, tape, leaf);
            Error err = {0};
            assert_int_equal(tape->error.code, ERROR_NONE);
            if (!gradcheck(tape, y, &err)) fail_msg("%s, dtype %d: %s", more[i], j, err.message);
        }
}

/* A dropped part of the input changes training alone, and other steps drop others. */
static void test_dropout(void **state) {
    (void)state;
    static const char *const texts[] = {"adapter: {kind: lora, rank: 2}",
                                        "adapter: {kind: lora, rank: 2, dropout: 0.5}"};
    Tensor trained[2], tested[2], later;
    for (int i = 0; i < 2; i++) {
        Model *model = network();
        install(model, texts[i]);
        fill(model);
        Tensor x = batch_of(model, 4, 7);
        tape->step = 1;
        trained[i] = logits_in(TAPE_TRAINING, model, tape, x);
        tape->step = 2;
        later = logits_in(TAPE_TRAINING, model, tape, x);
        tested[i] = logits_of(model, tape, x);
    }
    assert_same_bits(tested[0], tested[1]);
    assert_same_bits(tested[0], trained[0]);
    assert_memory_not_equal(trained[1].data, tested[1].data, tensor_bytes(&tested[1]));
    assert_memory_not_equal(trained[1].data, later.data, tensor_bytes(&later));
}

/* ---- Which layers ---- */

static const char *chosen_by(const char *target) {
    Model *model = network();
    Adapter *a = install(model, arena_format(arena, "adapter: {kind: lora, target: %s}", target));
    const char *text = "";
    for (int i = 0; i < a->site_count; i++)
        text = arena_format(arena, "%s %s", text, a->sites[i].module->name);
    return text;
}

static void test_target(void **state) {
    (void)state;
    assert_string_equal(chosen_by("all-linear"), " fc1 fc2");
    assert_string_equal(chosen_by("[all-linear]"), " fc1 fc2");
    assert_string_equal(chosen_by("fc2"), " fc2");
    assert_string_equal(chosen_by("[fc2, classes]"), " fc2 classes");
    assert_string_equal(chosen_by("'fc?'"), " fc1 fc2");
    assert_string_equal(chosen_by("[all-linear, classes]"), " fc1 fc2 classes");
}

static void test_pattern(void **state) {
    (void)state;
    const char *layer = "model.layers.10.self_attn.q_proj";
    assert_true(adapter_matches("q_proj", layer));
    assert_true(adapter_matches("self_attn.q_proj", layer));
    assert_true(adapter_matches("layers.*.q_proj", layer));
    assert_true(adapter_matches("model.layers.10.self_attn.q_proj", layer));
    assert_false(adapter_matches("proj", layer));
    assert_false(adapter_matches("attn.q_proj", layer));
    assert_false(adapter_matches("layers.10", layer));
    assert_false(adapter_matches("layers.1.*", layer));
}

static const char *refusal(const char *model_text, const char *text) {
    Model *model = network_of(model_text);
    Variant choice = adapter_of(text);
    Adapter *adapter;
    Error *err = arena_new_array(arena, Error, 1);
    if (adapter_install(model, &choice, arena, &adapter, err)) fail_msg("accepted: %s", text);
    assert_string_equal(err->setting, "adapter.target");
    for (int i = 0; i < model->param_count; i++) assert_false(model->params[i]->is_base);
    return err->message;
}

static void test_refused_targets(void **state) {
    (void)state;
    assert_string_equal(refusal(network_text, "adapter: {kind: lora, target: [fc1, q_proj]}"),
                        "adapter.target: 'q_proj' is the name of no linear layer; there are: fc1, "
                        "fc2, classes");
    assert_string_equal(refusal(network_text, "adapter: {kind: lora, target: []}"),
                        "adapter.target: name the layers, or write all-linear");
    assert_string_equal(
        refusal("model: {kind: sequential, layers: [{kind: linear, name: out, units: 3}]}",
                "adapter: lora"),
        "adapter.target: the model has no linear layer but its head (out); name it, or adapt "
        "another model");
}

/* ---- What is frozen ---- */

/* A network that is built to be frozen takes no memory for gradients; what is added has some. */
static void test_frozen_takes_less(void **state) {
    (void)state;
    ModelSource source = model_source(network_text);
    Arena *own[2] = {arena_new("plain"), arena_new("frozen")};
    Model *models[2];
    Error err = {0};
    assert_true(models_build(&source.model, SHAPE(5), 3, 11, own[0], &models[0], &err));
    assert_true(models_build_frozen(&source.model, SHAPE(5), 3, 11, own[1], &models[1], &err));
    size_t gradients = 0;
    for (int i = 0; i < models[0]->param_count; i++) {
        const Param *p = models[1]->params[i];
        gradients += (size_t)arena_padded((int64_t)tensor_bytes(&p->value));
        assert_null(p->grad);
        assert_memory_equal(p->value.data, models[0]->params[i]->value.data,
                            tensor_bytes(&p->value));
    }
    assert_int_equal(arena_used(own[0]) - arena_used(own[1]), gradients);
    install(models[1], "adapter: lora");
    assert_non_null(model_find_param(models[1], "fc1.lora_A.weight")->grad);
    arena_free(own[0]);
    arena_free(own[1]);
}

static void test_base_is_frozen(void **state) {
    (void)state;
    Model *model = network_of(
        "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 8}, batch_norm, relu, "
        "{kind: linear, name: classes, units: 3}]}");
    install(model, "adapter: {kind: lora, rank: 2}");
    Optimizer *optimizer;
    Error err = {0};
    Variant adamw = {.kind = kind_find(&optimizer_kinds, "adamw")};
    adamw.config = kind_defaults(adamw.kind, arena);
    assert_true(optimizer_new(&adamw, model, arena, &optimizer, &err));
    Tensor before[16];
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        before[i] = tensor_new(arena, DTYPE_F32, p->value.shape);
        memcpy(before[i].data, p->value.data, tensor_bytes(&p->value));
        assert_int_equal(p->is_base, !strstr(p->name, "lora_"));
        if (p->is_base) assert_null(p->grad);
    }
    for (int i = 0; i < 3; i++) {
        train_step(model, tape, batch_of(model, 6, (uint64_t)i), 0);
        assert_true(optimizer_step(optimizer, 1, &err));
    }
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i]; /* running statistics among them */
        bool is_same = !memcmp(before[i].data, p->value.data, tensor_bytes(&p->value));
        assert_int_equal(is_same, p->is_base);
    }
    assert_int_equal(model_trainable_count(model), 2 * 5 + 8 * 2);
}

/* ---- First values ---- */

static void test_first_values(void **state) {
    (void)state;
    Model *model = network(), *plain = network();
    Adapter *adapter = install(model, "adapter: {kind: lora, rank: 4, dora: true}");
    start(adapter, NULL);
    const Param *a = model_find_param(model, "fc1.lora_A.weight");
    const Param *b = model_find_param(model, "fc1.lora_B.weight");
    const Param *magnitude = model_find_param(model, "fc1.lora_magnitude_vector");
    double largest = 0, sum = 0;
    for (int i = 0; i < 20; i++) {
        largest = fmax(largest, fabs((double)tensor_f32(&a->value)[i]));
        sum += (double)tensor_f32(&a->value)[i];
    }
    assert_true(largest > 0.8 / sqrt(5) && largest <= 1 / sqrt(5) && fabs(sum) < 4);
    for (int i = 0; i < 28; i++) assert_true(tensor_f32(&b->value)[i] == 0);
    const float *w = tensor_f32(&model_find_param(plain, "fc1.weight")->value);
    for (int i = 0; i < 7; i++) {
        double length = 0;
        for (int j = 0; j < 5; j++) length += (double)w[i * 5 + j] * (double)w[i * 5 + j];
        assert_float_equal(tensor_f32(&magnitude->value)[i], sqrt(length), 1e-6);
    }
    Tensor x = batch_of(model, 4, 7), with = logits_of(model, tape, x);
    Tensor without = logits_of(plain, tape, x);
    for (int i = 0; i < 12; i++)
        assert_float_equal(tensor_f32(&with)[i], tensor_f32(&without)[i], 1e-5);
}

/* ---- LoftQ ---- */

static double error_of(const float *e, const float *a, const float *b, int64_t out, int64_t in,
                       int64_t rank, double factor) {
    double sum = 0;
    for (int64_t i = 0; i < out; i++)
        for (int64_t j = 0; j < in; j++) {
            double left = (double)e[i * in + j];
            for (int64_t k = 0; k < rank; k++)
                left -= factor * (double)b[i * rank + k] * (double)a[k * in + j];
            sum += left * left;
        }
    return sum;
}

/* Singular values 4, 2, 1, between columns of two rotations: the nearest matrix of rank r leaves
 * the squares of the others (Eckart and Young 1936). */
static void test_nearest_of_rank(void **state) {
    (void)state;
    static const double left_over[] = {21, 5, 1, 0, 0};
    enum { OUT = 4, IN = 3 };
    static const float u[OUT][3] = {
        {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0.5f, 0.5f, -0.5f}, {0.5f, -0.5f, -0.5f}};
    static const float v[IN][3] = {{0.6f, 0.8f, 0}, {-0.8f, 0.6f, 0}, {0, 0, 1}};
    static const float singular[] = {4, 2, 1};
    for (int turned = 0; turned < 2; turned++)
        for (int rank = 1; rank <= 4; rank++) {
            float e[OUT * IN] = {0}, a[4 * OUT] = {0}, b[4 * OUT] = {0};
            int64_t out = turned ? IN : OUT, in = turned ? OUT : IN;
            for (int i = 0; i < OUT; i++)
                for (int j = 0; j < IN; j++)
                    for (int k = 0; k < 3; k++)
                        e[turned ? j * OUT + i : i * IN + j] += singular[k] * u[i][k] * v[j][k];
            Error err = {0};
            for (int i = 0; i < 4 * OUT; i++) a[i] = b[i] = 9; /* of before */
            assert_true(loftq_factor(e, out, in, rank, 0.25f, a, b, arena, &err));
            assert_float_equal(error_of(e, a, b, out, in, rank, 0.25), left_over[rank], 1e-5);
            for (int i = 0; i < out && rank == 4; i++) assert_true(b[i * 4 + 3] == 0);
            if (rank == 4) assert_true(a[3 * in] == 9);
            /* both factors have the same length */
            double to_a = 0, to_b = 0;
            for (int j = 0; j < in; j++) to_a += (double)a[j] * (double)a[j];
            for (int i = 0; i < out; i++) to_b += (double)b[i * rank] * (double)b[i * rank];
            assert_float_equal(to_a, 16, 1e-4);
            assert_float_equal(to_b, 16, 1e-4);
        }
}

static void test_nothing_is_lost(void **state) {
    (void)state;
    float e[6] = {0}, a[3] = {7, 7, 7}, b[2] = {7, 7};
    Error err = {0};
    assert_true(loftq_factor(e, 2, 3, 1, 1, a, b, arena, &err));
    assert_true(b[0] == 0 && b[1] == 0 && a[0] == 7);
    e[4] = NAN;
    assert_false(loftq_factor(e, 2, 3, 1, 1, a, b, arena, &err));
    assert_string_equal(err.message, "loftq: the weight holds numbers that are not finite");
}

static bool read_original(void *context, const Param *weight, float *values, Error *err) {
    (void)err;
    const Param *original = model_find_param(context, weight->name);
    memcpy(values, original->value.data, sizeof(float) * (size_t)tensor_count(&original->value));
    return true;
}

static double distance(Tensor a, Tensor b) {
    double sum = 0;
    for (int64_t i = 0; i < tensor_count(&a); i++) {
        double d = (double)tensor_f32(&a)[i] - (double)tensor_f32(&b)[i];
        sum += d * d;
    }
    return sum;
}

/* Of full rank it gives back all that was lost, whatever alpha is; the base stays as it is stored.
 */
static void test_loftq(void **state) {
    (void)state;
    Model *plain = network();
    Tensor x = batch_of(plain, 4, 7), exact = logits_of(plain, tape, x), given[3];
    static const char *const texts[] = {
        "adapter: {kind: lora, rank: 6, alpha: 3}",
        "adapter: {kind: lora, rank: 2, alpha: 3, init: loftq}",
        "adapter: {kind: lora, rank: 6, alpha: 3, dora: true, init: loftq}"};
    for (int i = 0; i < 3; i++) {
        Model *model = network();
        store_weights(model, DTYPE_NF4);
        AdapterSource source = {read_original, plain};
        start(install(model, texts[i]), &source);
        assert_int_equal(model_find_param(model, "fc1.weight")->value.dtype, DTYPE_NF4);
        given[i] = logits_of(model, tape, x);
    }
    assert_true(distance(given[2], exact) < 1e-8);
    assert_true(distance(given[1], exact) < 0.5 * distance(given[0], exact));
}

static void test_loftq_needs_few_bits(void **state) {
    (void)state;
    Model *model = network();
    Adapter *adapter = install(model, "adapter: {kind: lora, init: loftq}");
    AdapterSource source = {read_original, model};
    Error err = {0};
    assert_false(adapter_start(adapter, &source, &err));
    assert_string_equal(
        err.message, "fc1: adapter.init: loftq takes what storing the base in few bits lost, and "
                     "this base is kept whole (f32); choose adapter.init: default");
    model = network();
    store_weights(model, DTYPE_NF4);
    adapter = install(model, "adapter: {kind: lora, init: loftq}");
    err = (Error){0};
    assert_false(adapter_start(adapter, &(AdapterSource){0}, &err));
    assert_string_equal(err.message,
                        "fc1: adapter.init: loftq needs the weights as they were before they were "
                        "stored in nf4, and these are not at hand; choose adapter.init: default");
}

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

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_frozen_takes_less),
        TEST(test_as_peft),
        TEST(test_gradients),
        TEST(test_dropout),
        TEST(test_target),
        TEST(test_pattern),
        TEST(test_refused_targets),
        TEST(test_base_is_frozen),
        TEST(test_first_values),
        TEST(test_nearest_of_rank),
        TEST(test_nothing_is_lost),
        TEST(test_loftq),
        TEST(test_loftq_needs_few_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
