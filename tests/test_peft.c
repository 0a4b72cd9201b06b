/* Adapters of PEFT in and out: directories that PEFT wrote (tests/golden/adapter) become settings
 * and weights that compute what it computed; what is written back is the same; and files that are
 * broken, ask for what is not implemented, or are for another base. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/peft.h"
#include "experiments/adapter/import.h"
#include "experiments/export/exporter.h"
#include "experiments/train/task.h"
#include "qat/adapters/lora.h"
#include "tests/golden.h"
#include "tests/model_source.h"

#define GOLDEN "tests/golden/adapter"

static Tape *tape;
static char folder[] = "/tmp/nibble-peft-XXXXXX";
static const char *const names[] = {"lora", "rslora", "dora"};

static const char network_text[] =
    "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 7}, relu, "
    "{kind: linear, name: fc2, units: 6, bias: false}, relu, "
    "{kind: linear, name: classes, units: 3}]}";

/* ---- In ---- */

static ExperimentConfig config_from(const char *directory) {
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->from = directory;
    return (ExperimentConfig){.adapter = {&adapter_lora.kind, lora}};
}

static Model *network(void) {
    ModelSource source = model_source(network_text);
    return model_of(&source, SHAPE(5), 3, 11);
}

static bool open_import(const char *directory, Experiment *e, Error *err) {
    *e = (Experiment){.config = config_from(directory), .arena = arena, .model = network()};
    return import_settings(&e->config, arena, err) &&
           adapter_install(e->model, &e->config.adapter, arena, &e->adapter, err) &&
           import_weights(e, err);
}

static Experiment import(const char *directory) {
    Experiment e;
    Error err = {0};
    if (!open_import(directory, &e, &err)) fail_msg("%s", err.message);
    return e;
}

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
    PeftPatterns patterns = {items, 3};
    static const struct {
        const char *module;
        double value;
    } cases[] = {{"model.layers.12.q", 3}, {"layers.1.q", 3},   {"q", 4},
                 {"model.up", 4},          {"model.group", 8},  {"x.self_attn.v", 5},
                 {"self_attn.v.x", 8},     {"myself_attn.v", 8}};
    double value;
    Error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(peft_pattern(&patterns, cases[i].module, 8, &value, &err));
        if (value != cases[i].value) fail_msg("%s: %g", cases[i].module, value);
    }
    patterns.count = 4;
    assert_false(peft_pattern(&patterns, "other", 8, &value, &err));
    assert_non_null(strstr(err.message, "adapter_config.json: '(': "));
    peft_patterns_close(&patterns);
}

/* A pattern that would try for ever is an error, and soon. */
static void test_costly_pattern(void **state) {
    (void)state;
    PeftPattern item = {.key = "(a+)+[bd]", .value = 3};
    PeftPatterns patterns = {&item, 1};
    double value;
    Error err = {0};
    assert_false(
        peft_pattern(&patterns, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 8, &value, &err));
    assert_non_null(strstr(err.message,
                           "adapter_config.json: '(a+)+[bd]': a regular expression fails "
                           "at byte 0 of a text: match limit exceeded"));
    peft_patterns_close(&patterns);
}

/* ---- Refused ---- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *directory_with(const char *config) {
    static int number;
    const char *directory = arena_format(arena, "%s/bad%d", folder, number++);
    assert_int_equal(mkdir(directory, 0777), 0);
    write_text(path_of(directory, PEFT_CONFIG), config);
    return directory;
}

static const char *refusal(const char *directory) {
    Experiment e;
    Error *err = arena_new_array(arena, Error, 1);
    if (open_import(directory, &e, err)) fail_msg("accepted");
    assert_int_equal(err->code, ERROR_INPUT);
    return err->message;
}

static const char *many_patterns(int count) {
    char *text = arena_alloc(arena, 20 * ((size_t)count + 8)), *at = text;
    at += sprintf(at, "\"peft_type\": \"LORA\", \"alpha_pattern\": {\"0\": 1");
    for (int i = 1; i < count; i++) at += sprintf(at, ", \"%d\": 1", i);
    strcpy(at, "}");
    return text;
}

static void test_config_refused(void **state) {
    (void)state;
    const struct {
        const char *keys, *message;
    } cases[] = {
        {"", "'peft_type' is missing; only LORA is read"},
        {"\"peft_type\": \"IA3\"", "'peft_type' is IA3; only LORA is read"},
        {"\"peft_type\": \"LORA\", \"bias\": \"all\"", "'bias' is all; only none is read"},
        {"\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]",
         "'modules_to_save' is set, and asks for something that is not implemented: adapters are "
         "plain LoRA, rsLoRA and DoRA on linear layers"},
        {"\"peft_type\": \"LORA\", \"fan_in_fan_out\": true", "'fan_in_fan_out' is set"},
        {"\"peft_type\": \"LORA\", \"lora_bias\": true", "'lora_bias' is set"},
        {"\"peft_type\": \"LORA\", \"layer_replication\": [[0, 4]]", "'layer_replication' is set"},
        {"\"peft_type\": \"LORA\", \"of_tomorrow\": 1", "'of_tomorrow' is set"},
        {"\"peft_type\": \"LORA\", \"eva_config\": {\"rho\": 2}", "'eva_config' is set"},
        {"\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_4\"",
         "'init_lora_weights' is pissa_niter_4, which changes the base's own weights: save the "
         "adapter with PEFT's path_initial_model_for_weight_conversion first"},
        {"\"peft_type\": \"LORA\", \"r\": 0", "'r' must be a number from 1 to 65536"},
        {"\"peft_type\": \"LORA\", \"r\": 2.5", "'r' must be an integer"},
        {"\"peft_type\": \"LORA\", \"r\": \"8\"", "'r' must be a number from 1 to 65536"},
        {"\"peft_type\": \"LORA\", \"lora_alpha\": -1", "'lora_alpha' must be a number from 1e-06"},
        {"\"peft_type\": \"LORA\", \"lora_dropout\": 1", "'lora_dropout' must be a number from 0"},
        {"\"peft_type\": \"LORA\", \"use_dora\": 1", "'use_dora' must be true or false"},
        {"\"peft_type\": \"LORA\", \"rank_pattern\": [1]",
         "'rank_pattern' must be an object of names with whole numbers above 0"},
        {"\"peft_type\": \"LORA\", \"alpha_pattern\": {\"q\": \"1\"}",
         "'alpha_pattern' must be an object of names with numbers above 0"},
        {"\"peft_type\": \"LORA\", \"rank_pattern\": {\"q\": 0.5}",
         "'rank_pattern' must be an object of names with whole numbers above 0"},
        {many_patterns(PEFT_PATTERNS_MAX + 1),
         "'alpha_pattern' has 4097 patterns; at most 4096 are read"},
        {"\"peft_type\": \"LORA\", \"target_modules\": [1]",
         "'target_modules' must be a list of names, or a text"},
        {"\"peft_type\": \"LORA\", \"modules_to_save\": null, \"lora_bias\": false, "
         "\"loftq_config\": {}",
         "adapter_model.safetensors"}, /* which there is none of */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *directory = directory_with(arena_format(arena, "{%s}", cases[i].keys));
        const char *message = refusal(directory);
        if (!strstr(message, cases[i].message)) fail_msg("%s: %s", cases[i].keys, message);
        assert_non_null(strstr(message, directory));
    }
    assert_non_null(strstr(refusal(directory_with("{")), PEFT_CONFIG));
    assert_non_null(strstr(refusal(path_of(folder, "nowhere")), "nowhere/adapter_config.json"));
}

typedef struct Given {
    const char *name;
    int64_t rows, columns;
    float value;
    Dtype dtype;
} Given;

static const char *directory_of(const Given *given, int count) {
    const char *directory =
        directory_with("{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"fc1\"]}");
    SafeTensorData data[8];
    for (int i = 0; i < count; i++) {
        Tensor tensor = tensor_zeros(arena, given[i].dtype, SHAPE(given[i].rows, given[i].columns));
        if (given[i].dtype == DTYPE_F32) *tensor_f32(&tensor) = given[i].value;
        data[i] = (SafeTensorData){given[i].name, tensor};
    }
    Error err = {0};
    assert_true(safetensors_write(path_of(directory, PEFT_MODEL), data, count, NULL, &err));
    return directory;
}

#define A1 PEFT_PREFIX "fc1.lora_A.weight"
#define B1 PEFT_PREFIX "fc1.lora_B.weight"

static void test_tensors_refused(void **state) {
    (void)state;
    static const Given good[] = {{A1, 2, 5, 1, DTYPE_F32}, {B1, 7, 2, 1, DTYPE_F32}};
    static const Given half[] = {{A1, 2, 5, 1, DTYPE_F16}, {B1, 7, 2, 1, DTYPE_BF16}};
    static const Given wide[] = {{A1, 2, 6, 1, DTYPE_F32}, {B1, 7, 2, 1, DTYPE_F32}};
    static const Given other_rank[] = {{A1, 3, 5, 1, DTYPE_F32}, {B1, 7, 3, 1, DTYPE_F32}};
    static const Given nan[] = {{A1, 2, 5, 1, DTYPE_F32}, {B1, 7, 2, 0.0f / 0.0f, DTYPE_F32}};
    static const Given more[] = {{A1, 2, 5, 1, DTYPE_F32},
                                 {B1, 7, 2, 1, DTYPE_F32},
                                 {PEFT_PREFIX "fc9.lora_A.weight", 2, 5, 1, DTYPE_F32}};
    static const Given embedding[] = {{PEFT_PREFIX "fc1.lora_embedding_A", 2, 5, 1, DTYPE_F32}};
    Experiment e;
    Error err = {0};
    assert_true(open_import(directory_of(good, 2), &e, &err));
    assert_true(open_import(directory_of(half, 2), &e, &err));
    assert_non_null(
        strstr(refusal(directory_of(good, 1)),
               "has no 'base_model.model.fc1.lora_B.weight': it is for another base, or "
               "not whole"));
    assert_non_null(strstr(refusal(directory_of(wide, 2)),
                           "is for another base: 'base_model.model.fc1.lora_A.weight' is [2, 6], "
                           "and for fc1 it must be [2, 5]"));
    assert_non_null(strstr(refusal(directory_of(other_rank, 2)), "it must be [2, 5]"));
    assert_non_null(strstr(refusal(directory_of(nan, 2)),
                           "'base_model.model.fc1.lora_B.weight' holds nan at element 0"));
    assert_non_null(strstr(refusal(directory_of(more, 3)), "'fc9' is the name of no linear layer"));
    assert_non_null(
        strstr(refusal(directory_of(embedding, 1)),
               "'base_model.model.fc1.lora_embedding_A' is no part of a LoRA adapter of "
               "a linear layer (base_model.model.MODULE.lora_A.weight, .lora_B.weight)"));
    assert_non_null(strstr(refusal(directory_of(NULL, 0)), "holds no tensors"));
}

/* Thousands of patterns for as many modules would take minutes. */
static void test_too_many_patterns(void **state) {
    (void)state;
    enum { MODULES = 600 };
    SafeTensorData *data = arena_new_array(arena, SafeTensorData, MODULES);
    Error err = {0};
    Peft peft;
    for (int i = 0; i < MODULES; i++)
        data[i] = (SafeTensorData){arena_format(arena, PEFT_PREFIX "m%d.lora_A.weight", i),
                                   tensor_zeros(arena, DTYPE_F32, SHAPE(1, 1))};
    const char *directory = directory_with(arena_format(arena, "{%s}", many_patterns(4000)));
    assert_true(safetensors_write(path_of(directory, PEFT_MODEL), data, MODULES, NULL, &err));
    assert_false(peft_open(directory, arena, &peft, &err));
    assert_non_null(strstr(err.message,
                           "adapter_config.json: 4000 patterns for 600 modules are too "
                           "many"));
    peft_close(&peft);
}

static void test_run_without_adapter(void **state) {
    (void)state;
    Experiment e = {.model = network()};
    Error err = {0};
    assert_false(exporter_peft.write(&e, folder, &err));
    assert_string_equal(err.message, "the run has no adapter: all of its weights were trained; "
                                     "PEFT's format is for adapters");
}

static int group_set_up(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int group_tear_down(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
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
        TEST(test_computes_the_same), TEST(test_settings),
        TEST(test_writes_the_same),   TEST(test_names),
        TEST(test_patterns),          TEST(test_costly_pattern),
        TEST(test_too_many_patterns), TEST(test_config_refused),
        TEST(test_tensors_refused),   TEST(test_run_without_adapter),
    };
    return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
