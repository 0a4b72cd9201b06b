/* Adapters of PEFT in and out: directories that PEFT wrote (tests/golden/adapter) become settings
 * and weights that compute what it computed, and what is written back is the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "experiments/export/exporter.h"
#include "experiments/train/task.h"
#include "tests/folder.h"
#include "tests/golden.h"
#include "tests/peft_network.h"

#define GOLDEN "tests/golden/adapter"

static Tape *tape;
static const char *const names[] = {"lora", "rslora", "dora"};

/* ---- In ---- */

static void set_params(Model *model, const GoldenCase *from) {
    for (int i = 0; i < from->count; i++) {
        Param *p = model_find_param(model, from->tensors[i].name);
        if (p) memcpy(p->value.data, from->tensors[i].values, tensor_bytes(&p->value));
    }
}

static void test_computes_the_same(void **state) {
    (void)state;
    Golden golden = golden_open(GOLDEN ".txt", arena);
    GoldenCase given, expected;
    assert_true(golden_next(&golden, &given));
    for (int i = 0; i < 3; i++) {
        assert_true(golden_next(&golden, &expected));
        assert_string_equal(expected.name, names[i]);
        Experiment e = import(arena_format(arena, GOLDEN "/%s", names[i]));
        set_params(e.model, &given);
        const GoldenTensor *input = golden_tensor(&given, "x");
        Tensor x = {.dtype = DTYPE_F32, .shape = input->shape, .data = input->values};
        Tensor logits = logits_of(e.model, tape, x);
        golden_compare(&expected, "logits", logits.data, 1e-6f);
    }
    golden_close(&golden);
}

static void test_settings(void **state) {
    (void)state;
    Experiment e = import(GOLDEN "/rslora");
    const LoraConfig *c = e.config.adapter.config;
    assert_int_equal(c->rank, 3);
    assert_true(c->alpha == 2 && c->rslora && !c->dora);
    assert_int_equal(c->adapter.target.count, 2);
    assert_string_equal(((const char *const *)c->adapter.target.items)[1], "fc2");
    assert_int_equal(c->rules.count, 1);
    const LoraRule *rule = c->rules.items;
    assert_string_equal(rule->layers, "fc2");
    assert_true(rule->rank == 2 && rule->alpha == 5);
    e = import(GOLDEN "/dora");
    c = e.config.adapter.config;
    assert_true(c->dora && !c->rslora && c->rules.count == 0);
}

/* ---- Out ---- */

static const char *path_of(const char *directory, const char *file) {
    return arena_format(arena, "%s/%s", directory, file);
}

static void assert_same_tensors(const char *a, const char *b) {
    SafeTensors left, right;
    Error err = {0};
    assert_true(safetensors_open(path_of(a, PEFT_MODEL), arena, &left, &err));
    assert_true(safetensors_open(path_of(b, PEFT_MODEL), arena, &right, &err));
    assert_int_equal(left.count, right.count);
    for (int i = 0; i < left.count; i++) {
        const SafeTensor *x = &left.items[i], *y = &right.items[i];
        assert_string_equal(x->name, y->name);
        assert_string_equal(x->type, y->type);
        assert_true(shape_equal(x->shape, y->shape));
        unsigned char *of_x = arena_alloc(arena, (size_t)x->bytes);
        unsigned char *of_y = arena_alloc(arena, (size_t)y->bytes);
        assert_true(safetensors_read_bytes(&left, x, of_x, &err));
        assert_true(safetensors_read_bytes(&right, y, of_y, &err));
        assert_memory_equal(of_x, of_y, x->bytes);
    }
    safetensors_close(&left);
    safetensors_close(&right);
}

/* What PEFT wrote and we write, key by key; it knows more keys. */
static void assert_same_config(const char *ours, const char *theirs) {
    static const char *const keys[] = {"r", "lora_alpha", "lora_dropout"};
    static const char *const flags[] = {"use_rslora", "use_dora", "fan_in_fan_out",
                                        "inference_mode"};
    Error err = {0};
    Json *a = json_read_file(path_of(ours, PEFT_CONFIG), &err);
    Json *b = json_read_file(path_of(theirs, PEFT_CONFIG), &err);
    assert_true(a && b);
    for (int i = 0; i < 3; i++) assert_true(json_number(a, keys[i]) == json_number(b, keys[i]));
    for (int i = 0; i < 4; i++) {
        bool x, y;
        assert_true(json_get_bool(a, flags[i], &x) && json_get_bool(b, flags[i], &y) && x == y);
    }
    assert_string_equal(json_get_text(a, "peft_type"), "LORA");
    assert_string_equal(json_get_text(a, "bias"), "none");
    assert_string_equal(json_get_text(a, "task_type"), "CAUSAL_LM");
    assert_string_equal(json_get_text(a, "base_model_name_or_path"), "bases/one");
    assert_int_equal(json_count(a, "target_modules"), 2);
    assert_int_equal(json_type_at(a, "rank_pattern"), JSON_MEMBERS);
    assert_true(json_type_at(a, "rank_pattern.fc2") == json_type_at(b, "rank_pattern.fc2"));
    assert_true(json_type_at(a, "alpha_pattern.fc2") == json_type_at(b, "alpha_pattern.fc2"));
    json_free(a);
    json_free(b);
}

static void test_writes_the_same(void **state) {
    (void)state;
    static const Task task = {.peft_task = "CAUSAL_LM"};
    for (int i = 0; i < 3; i++) {
        const char *golden = arena_format(arena, GOLDEN "/%s", names[i]);
        const char *out = arena_format(arena, "%s/%s", folder, names[i]);
        Experiment e = import(golden);
        e.task = &task;
        e.config.train.init = "bases/one";
        Error err = {0};
        mkdir(out, 0777);
        if (!exporter_peft.write(&e, out, &err)) fail_msg("%s", err.message);
        assert_same_tensors(out, golden);
        assert_same_config(out, golden);
        Experiment again = import(out);
        assert_int_equal(again.adapter->site_count, e.adapter->site_count);
    }
}

/* A last name that means other layers too is written whole; keys with dots are no paths. */
static void test_names(void **state) {
    (void)state;
    ModelSource source = model_source(
        "model: {kind: sequential, layers: [{kind: sequential, name: one, layers: [{kind: linear, "
        "name: fc, units: 5}, {kind: linear, name: up, units: 5}]}, {kind: sequential, name: two, "
        "layers: [{kind: linear, name: fc, units: 5}]}, {kind: linear, name: classes, units: 3}]}");
    static const Task task = {.peft_task = NULL};
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    static const char *targets[] = {"one.*"};
    static LoraRule rules[] = {{"one.up", 3, 0}};
    lora->adapter.target = (List){1, targets};
    lora->rules = (List){1, rules};
    Experiment e = {.task = &task, .model = model_of(&source, SHAPE(5), 3, 11)};
    e.config.adapter = (Variant){&adapter_lora.kind, lora};
    Error err = {0};
    assert_true(adapter_install(e.model, &e.config.adapter, arena, &e.adapter, &err));
    assert_true(exporter_peft.write(&e, folder, &err));
    Peft peft;
    if (!peft_open(folder, arena, &peft, &err)) fail_msg("%s", err.message);
    assert_int_equal(peft.config.target_count, 2);
    assert_string_equal(peft.config.targets[0], "one.fc");
    assert_string_equal(peft.config.targets[1], "up");
    assert_int_equal(peft.config.ranks.count, 1);
    assert_string_equal(peft.config.ranks.items[0].key, "one.up");
    assert_null(peft.config.task);
    peft_close(&peft);
}

static void test_patterns(void **state) {
    (void)state;
    PeftPattern items[] = {{.key = "layers\\.\\d+\\.q", .value = 3},
                           {.key = "q|up", .value = 4},
                           {.key = "self_attn.v", .value = 5},
                           {.key = "(", .value = 6}};
    PeftPatterns patterns = {"rank_pattern", items, 3};
    const Peft peft = {.directory = "some/where"};
    static const struct {
        const char *module;
        double value;
    } cases[] = {{"model.layers.12.q", 3}, {"layers.1.q", 3},   {"q", 4},
                 {"model.up", 4},          {"model.group", 8},  {"x.self_attn.v", 5},
                 {"self_attn.v.x", 8},     {"myself_attn.v", 8}};
    double value;
    Error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(peft_pattern(&peft, &patterns, cases[i].module, 8, &value, &err));
        if (value != cases[i].value) fail_msg("%s: %g", cases[i].module, value);
    }
    patterns.count = 4;
    assert_false(peft_pattern(&peft, &patterns, "other", 8, &value, &err));
    static const char prefix[] = "some/where/adapter_config.json: rank_pattern '(': ";
    assert_memory_equal(err.message, prefix, strlen(prefix));
    peft_patterns_close(&patterns);
}

/* A pattern that would try for ever is an error, and soon. */
static void test_costly_pattern(void **state) {
    (void)state;
    PeftPattern item = {.key = "(a+)+[bd]", .value = 3};
    PeftPatterns patterns = {"alpha_pattern", &item, 1};
    const Peft peft = {.directory = "some/where"};
    double value;
    Error err = {0};
    assert_false(peft_pattern(&peft, &patterns, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 8,
                              &value, &err));
    assert_non_null(strstr(err.message,
                           "some/where/adapter_config.json: alpha_pattern '(a+)+[bd]': a regular "
                           "expression fails at byte 0 of a text: match limit exceeded"));
    peft_patterns_close(&patterns);
}

static void test_run_without_adapter(void **state) {
    (void)state;
    Experiment e = {.model = network()};
    Error err = {0};
    assert_false(exporter_peft.write(&e, folder, &err));
    assert_string_equal(err.message, "the run has no adapter: all of its weights were trained; "
                                     "PEFT's format is for adapters");
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
        TEST(test_computes_the_same),
        TEST(test_settings),
        TEST(test_writes_the_same),
        TEST(test_names),
        TEST(test_patterns),
        TEST(test_costly_pattern),
        TEST(test_run_without_adapter),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
