/* Merging by its three routes: what each keeps of a small update on a base in few bits, what it
 * makes, what is refused, and the files of a merged network. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "core/storage.h"
#include "data/safetensors.h"
#include "experiments/adapter/merge.h"
#include "qat/adapters/lora.h"
#include "tests/folder.h"
#include "tests/model_source.h"

static const char network_text[] =
    "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 48}, relu, "
    "{kind: linear, name: fc2, units: 40}, relu, {kind: linear, name: classes, units: 3}]}";

static const Storage f32 = {.dtype = DTYPE_F32}, nf4 = {.dtype = DTYPE_NF4};

static Model *network(void) {
    ModelSource source = model_source(network_text);
    return model_of(&source, SHAPE(32), 3, 11);
}

static void store(Model *model, const char *name, Storage storage) {
    Param *p = model_find_param(model, name);
    Tensor stored;
    Error err = {0};
    if (!tensor_encode(arena, tensor_f32(&p->value), p->value.shape, &storage, &stored, &err))
        fail_msg("%s", err.message);
    param_store(p, stored);
}

static bool read_original(void *context, const Param *weight, float *values, Error *err) {
    (void)err;
    tensor_decode(&model_find_param(context, weight->name)->value, values);
    return true;
}

/* An adapter whose update is `size` of the weights' own spread, about. */
static Experiment adapted(Storage storage, bool dora, float size) {
    Experiment e = {.arena = arena, .model = network()};
    if (storage.dtype != DTYPE_F32) {
        store(e.model, "fc1.weight", storage);
        store(e.model, "fc2.weight", storage);
    }
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->dora = dora;
    e.config.adapter = (Variant){&adapter_lora.kind, lora};
    Error err = {0};
    if (!adapter_install(e.model, &e.config.adapter, arena, &e.adapter, &err) ||
        !adapter_start(e.adapter, NULL, &err))
        fail_msg("%s", err.message);
    for (int i = 0; i < e.adapter->site_count; i++) {
        const LoraLayer *l = e.adapter->sites[i].state;
        RandomKey key = {.seed = 5, .stream = RANDOM_TEST, .step = (uint64_t)i};
        random_fill_normal(key, size, tensor_count(&l->b->value), tensor_f32(&l->b->value));
    }
    return e;
}

static Merge merged(Experiment *e, MergeRoute route, bool force) {
    Merge merge;
    Error err = {0};
    if (!merge_measure(e, route, force, arena, &merge, &err)) fail_msg("%s", err.message);
    return merge;
}

/* ---- What is kept ---- */

static void test_what_routes_keep(void **state) {
    (void)state;
    Model *original = network();
    static const Storage storages[] = {
        {.dtype = DTYPE_NF4},
        {.dtype = DTYPE_NF4, .scale_dtype = DTYPE_DYNAMIC8},
        {.dtype = DTYPE_INT4, .block = 16},
        {.dtype = DTYPE_INT4, .block = 16, .scale_dtype = DTYPE_F16, .is_affine = true},
    };
    for (int i = 0; i < 4; i++) {
        Experiment e = adapted(storages[i], false, 0.01f);
        e.base_source = (AdapterSource){read_original, original};
        Merge merge = merged(&e, MERGE_F16, false);
        assert_int_equal(merge.count, 2);
        assert_string_equal(merge.layers[1].name, "fc2");
        for (int route = 0; route < MERGE_ROUTES; route++) {
            const MergeKept *all = &merge.all[route];
            double gain = merge_gain(all), sqnr = deviation_of(&all->sums).sqnr_db;
            assert_true(all->is_possible && all->sums.count == 48 * 32 + 40 * 48);
            if (route == MERGE_REQUANTIZED)
                assert_true(gain < 0.3);
            else
                assert_true(fabs(gain - 1) < 0.01 && sqnr > 20);
        }
        double exact = merge.layers[0].kept[0].sums.exact + merge.layers[1].kept[0].sums.exact;
        assert_float_equal(merge.all[0].sums.exact, exact, 1e-12);
    }
}

static const float *merged_values(const Experiment *e, MergeRoute route, const char *name) {
    const Param *p = model_find_param(e->model, name);
    float *values = arena_new_array(arena, float, tensor_count(&p->value));
    Error err = {0};
    if (!merge_values(e, route, p, values, &err)) fail_msg("%s", err.message);
    return values;
}

static void assert_weights(const Experiment *e, MergeRoute route, const float *expected) {
    const float *values = merged_values(e, route, "fc2.weight");
    for (int64_t i = 0; i < 40 * 48; i++)
        assert_true(values[i] == dtype_round(DTYPE_F16, expected[i]));
}

/* Each begins with its own weights; DoRA's rows have their lengths. */
static void test_what_routes_make(void **state) {
    (void)state;
    Model *original = network();
    for (int dora = 0; dora < 2; dora++) {
        Experiment e = adapted(nf4, dora, 0.02f);
        e.base_source = (AdapterSource){read_original, original};
        const AdapterSite *site = &e.adapter->sites[1];
        int64_t count = tensor_count(&site->weight->value);
        float *stored = arena_new_array(arena, float, count);
        float *trained = arena_new_array(arena, float, count);
        float *other = arena_new_array(arena, float, count);
        tensor_decode(&site->weight->value, stored);
        memcpy(trained, stored, sizeof(float) * (size_t)count);
        e.adapter->row->merge(site, trained);
        const float *w = tensor_f32(&model_find_param(original, "fc2.weight")->value);
        for (int64_t i = 0; i < count; i++) other[i] = w[i] + (trained[i] - stored[i]);
        assert_weights(&e, MERGE_F16, other);
        for (int64_t i = 0; i < count; i++) trained[i] = stored[i] + (trained[i] - stored[i]);
        assert_weights(&e, MERGE_DEQUANTIZED, trained);
        Storage storage = {.dtype = DTYPE_NF4};
        Tensor again;
        Error err = {0};
        assert_true(
            tensor_encode(arena, trained, site->weight->value.shape, &storage, &again, &err));
        tensor_decode(&again, other);
        assert_weights(&e, MERGE_REQUANTIZED, other);
    }
}

/* What stands on no adapter is as it was before it was stored, by route f16 alone. */
static void test_weights_without_adapters(void **state) {
    (void)state;
    Experiment e = adapted(nf4, false, 0.02f);
    Model *original = network();
    e.base_source = (AdapterSource){read_original, original};
    e.adapter->site_count = 1; /* that of fc1 */
    const Param *stored = model_find_param(e.model, "fc2.weight");
    const Param *bias = model_find_param(e.model, "fc2.bias");
    float *values = arena_new_array(arena, float, 40 * 48);
    tensor_decode(&stored->value, values);
    assert_weights(&e, MERGE_DEQUANTIZED, values);
    assert_weights(&e, MERGE_F16, tensor_f32(&model_find_param(original, "fc2.weight")->value));
    assert_true(merge_changes(&e, MERGE_F16, stored));
    assert_false(merge_changes(&e, MERGE_DEQUANTIZED, stored));
    assert_false(merge_changes(&e, MERGE_F16, bias));
}

static void test_no_update(void **state) {
    (void)state;
    Experiment e = adapted(nf4, false, 0);
    Merge merge = merged(&e, MERGE_REQUANTIZED, false);
    assert_true(merge_gain(&merge.all[MERGE_REQUANTIZED]) == 1);
}

static void test_base_of_numbers(void **state) {
    (void)state;
    Experiment e = adapted(f32, false, 0.05f);
    Merge merge = merged(&e, MERGE_F16, false);
    assert_true(merge.all[MERGE_F16].is_possible && merge.all[MERGE_DEQUANTIZED].is_possible);
    assert_false(merge.all[MERGE_REQUANTIZED].is_possible);
    assert_true(merge_gain(&merge.all[MERGE_F16]) == merge_gain(&merge.all[MERGE_DEQUANTIZED]));
}

/* ---- Refused ---- */

static const char *refusal(Experiment *e, MergeRoute route) {
    Merge merge;
    Error *err = arena_new_array(arena, Error, 1);
    assert_false(merge_measure(e, route, false, arena, &merge, err));
    return err->message;
}

static void test_refused(void **state) {
    (void)state;
    Experiment e = adapted(nf4, false, 0.01f);
    assert_string_equal(refusal(&e, MERGE_F16),
                        "--route f16: the weights as they were before they were stored in nf4 are "
                        "not at hand; take --route dequantized");
    const char *message = refusal(&e, MERGE_REQUANTIZED);
    assert_non_null(strstr(message, "--route requantized keeps "));
    assert_non_null(strstr(message, "% of the update (gain 0."));
    assert_non_null(strstr(message, " dB; route dequantized keeps 100.0%); take that, or insist "
                                    "with --force"));
    merged(&e, MERGE_REQUANTIZED, true);
    e = adapted(f32, false, 0.01f);
    tensor_f32(&e.adapter->sites[1].weight->value)[7] = 70000;
    assert_string_equal(refusal(&e, MERGE_DEQUANTIZED),
                        "fc2, route f16: element 7 is beyond f16's 65,504");
}

/* ---- Files ---- */

static const char *path_of(const char *name) {
    return arena_format(arena, "%s/%s", folder, name);
}

static void test_files(void **state) {
    (void)state;
    Experiment e = adapted(nf4, true, 0.01f);
    Merge merge = merged(&e, MERGE_DEQUANTIZED, false);
    Error err = {0};
    e.base_directory = "tests/golden/llm/llama"; /* for its other files */
    if (!merge_write(&e, &merge, folder, &err)) fail_msg("%s", err.message);
    SafeTensors st;
    assert_true(safetensors_open(folder, arena, &st, &err));
    assert_int_equal(st.count, 6);
    for (int i = 0; i < st.count; i++) assert_string_equal(st.items[i].type, "F16");
    const SafeTensor *tensor = safetensors_find(&st, "fc1.weight");
    float *values = arena_new_array(arena, float, 48 * 32);
    assert_true(safetensors_read(&st, tensor, 0, 48 * 32, values, &err));
    const float *expected = merged_values(&e, MERGE_DEQUANTIZED, "fc1.weight");
    assert_memory_equal(values, expected, sizeof(float) * 48 * 32);
    tensor = safetensors_find(&st, "classes.weight");
    assert_true(safetensors_read(&st, tensor, 0, 120, values, &err));
    const float *head = tensor_f32(&model_find_param(e.model, "classes.weight")->value);
    for (int i = 0; i < 120; i++) assert_true(values[i] == dtype_round(DTYPE_F16, head[i]));
    safetensors_close(&st);
    Json *json = json_read_file(path_of("config.json"), &err);
    assert_string_equal(json_get_text(json, "dtype"), "float16");
    assert_string_equal(json_get_text(json, "model_type"), "llama");
    json_free(json);
    assert_int_equal(access(path_of("tokenizer.json"), F_OK), 0);
    assert_int_equal(access(path_of("tokenizer_config.json"), F_OK), 0);
    assert_int_not_equal(access(path_of("merges.txt"), F_OK), 0);
}

static void test_missing_config(void **state) {
    (void)state;
    Experiment e = adapted(f32, false, 0.01f);
    Merge merge = merged(&e, MERGE_DEQUANTIZED, false);
    Error err = {0};
    e.base_directory = "tests/golden/llm/lora";
    assert_false(merge_write(&e, &merge, folder, &err));
    assert_non_null(strstr(err.message, "tests/golden/llm/lora/config.json"));
    tensor_f32(&model_find_param(e.model, "classes.bias")->value)[1] = 1e6f;
    err = (Error){0};
    assert_false(merge_write(&e, &merge, folder, &err));
    assert_string_equal(err.message, "classes.bias: element 1 is beyond f16's 65,504");
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
        TEST(test_what_routes_keep),
        TEST(test_what_routes_make),
        TEST(test_weights_without_adapters),
        TEST(test_no_update),
        TEST(test_base_of_numbers),
        TEST(test_refused),
        TEST(test_files),
        TEST(test_missing_config),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
