/* Adapters of PEFT that are refused: broken, asking for what is not implemented, for another base,
 * or with two files that do not say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "core/log.h"
#include "tests/folder.h"
#include "tests/peft_network.h"

static const char *path_of(const char *directory, const char *file) {
    return arena_format(arena, "%s/%s", directory, file);
}

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

static const char *many_targets(void) {
    char *text = arena_alloc(arena, 20 * (PEFT_PATTERNS_MAX + 8)), *at = text;
    at += sprintf(at, "\"peft_type\": \"LORA\", \"target_modules\": [\"0\"");
    for (int i = 1; i <= PEFT_PATTERNS_MAX; i++) at += sprintf(at, ", \"%d\"", i);
    strcpy(at, "]");
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
        {many_targets(), "'target_modules' has 4097 names; at most 4096 are read"},
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

static const char *directory_as(const char *config, const Given *given, int count) {
    const char *directory = directory_with(config);
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

static const char *directory_of(const Given *given, int count) {
    return directory_as("{\"peft_type\": \"LORA\", \"r\": 2}", given, count); /* of any layers */
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
    assert_non_null(strstr(refusal(directory_of(other_rank, 2)),
                           "/adapter_config.json: by r and rank_pattern 'fc1' has rank 2, and by "
                           "its lora_A.weight in adapter_model.safetensors 3"));
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

/* Both files, and the base, which has linear layers fc1, fc2 and classes. */
static void test_disagreements_refused(void **state) {
    (void)state;
    static const Given one[] = {{A1, 2, 5, 1, DTYPE_F32}, {B1, 7, 2, 1, DTYPE_F32}};
    static const struct {
        const char *keys, *message; /* NULL: it is read */
    } cases[] = {
        {"\"target_modules\": null", NULL},
        {"\"target_modules\": \"all-linear\"", NULL},
        {"\"target_modules\": [\"fc1\"]", NULL},
        {"\"target_modules\": \"fc1\"", NULL},
        {"\"target_modules\": \"(.*\\\\.)?fc[1]\"", NULL},
        {"\"target_modules\": [\"fc2\"]",
         ": target_modules does not mean 'fc1', of which adapter_model.safetensors has tensors"},
        {"\"target_modules\": [\"c1\"]", ": target_modules does not mean 'fc1', of which "},
        {"\"target_modules\": \"fc\"", ": target_modules does not mean 'fc1', of which "},
        {"\"target_modules\": [\"fc1\", \"fc2\"]",
         ": target_modules names 'fc2', of which adapter_model.safetensors has no tensors; take "
         "the "
         "name out, if the adapter is whole"},
        {"\"target_modules\": \"fc.\"", ": target_modules means 'fc2', of which "
                                        "adapter_model.safetensors has no tensors: it is for "
                                        "another base, or not whole"},
        {"\"target_modules\": \"fc.\", \"exclude_modules\": [\"fc2\"]", NULL},
        {"\"target_modules\": \"fc(\"", ": target_modules 'fc(': "},
        {"\"target_modules\": [\"fc1\"], \"rank_pattern\": {\"fc1\": 2}, \"r\": 8", NULL},
        {"\"target_modules\": [\"fc1\"], \"rank_pattern\": {\"fc1\": 3}",
         ": by r and rank_pattern 'fc1' has rank 3, and by its lora_A.weight in "
         "adapter_model.safetensors 2"},
        {"\"target_modules\": [\"fc1\"], \"r\": 4", ": by r and rank_pattern 'fc1' has rank 4, "},
        {"\"target_modules\": [\"fc1\"], \"rank_pattern\": {\"fc2\": 2}",
         ": rank_pattern names 'fc2', of which adapter_model.safetensors has no tensors"},
        {"\"target_modules\": [\"fc1\"], \"alpha_pattern\": {\"fc3\": 2}",
         ": alpha_pattern names 'fc3', of which adapter_model.safetensors has no tensors"},
        {"\"target_modules\": [\"fc1\"], \"alpha_pattern\": {\"[\": 2}", ": alpha_pattern '[': "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *rank = strstr(cases[i].keys, "\"r\"") ? "" : ", \"r\": 2";
        const char *config =
            arena_format(arena, "{\"peft_type\": \"LORA\", %s%s}", cases[i].keys, rank);
        const char *directory = directory_as(config, one, 2);
        Experiment e;
        Error err = {0};
        if (!cases[i].message) {
            if (!open_import(directory, &e, &err)) fail_msg("%s: %s", config, err.message);
            continue;
        }
        const char *message = refusal(directory);
        const char *start =
            arena_format(arena, "%s/adapter_config.json%s", directory, cases[i].message);
        if (strncmp(message, start, strlen(start)) != 0) fail_msg("%s: %s", config, message);
    }
}

static int warnings;
static const char *last_warning;

static void keep_warning(void *context, LogLevel level, const char *message) {
    (void)context;
    if (level != LOG_WARNING) return;
    warnings++;
    last_warning = arena_strdup(arena, message);
}

/* Of another base's name, whatever the directories above it: a warning. */
static void test_base_of_another_name(void **state) {
    (void)state;
    static const Given one[] = {{A1, 2, 5, 1, DTYPE_F32}, {B1, 7, 2, 1, DTYPE_F32}};
    static const struct {
        const char *named, *base;
        bool warns;
    } cases[] = {
        {"maker/Model-1B", "/models/Model-1B/", false},
        {"maker/Model-1B", "Model-1B", false},
        {"maker/Model-1B", "maker/Model-3B", true},
        {"Model-1B/", "other", true},
        {"", "other", false},
    };
    log_set_sink(keep_warning, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *directory = directory_as(arena_format(arena,
                                                          "{\"peft_type\": \"LORA\", \"r\": 2, "
                                                          "\"base_model_name_or_path\": \"%s\"}",
                                                          cases[i].named),
                                             one, 2);
        Experiment e = import(directory);
        e.base_directory = cases[i].base;
        Error err = {0};
        warnings = 0;
        assert_true(import_weights(&e, &err));
        assert_int_equal(warnings, cases[i].warns);
        if (cases[i].warns)
            assert_non_null(
                strstr(last_warning, arena_format(arena,
                                                  "/adapter_config.json: "
                                                  "base_model_name_or_path is '%s', and "
                                                  "this base '%s'; ",
                                                  cases[i].named, cases[i].base)));
    }
    log_set_sink(NULL, NULL);
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

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_config_refused),       TEST(test_tensors_refused),
        TEST(test_too_many_patterns),    TEST(test_disagreements_refused),
        TEST(test_base_of_another_name),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
