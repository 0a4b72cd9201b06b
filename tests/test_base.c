/* Weights of pretrained networks as they are kept in memory: every row of bases.def, and what
 * bitsandbytes saved in 4 bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/bitsandbytes.h"
#include "experiments/models/base.h"
#include "tests/llm_golden.h"

static Arena *arena;
static const char up[] = "model.layers.1.mlp.up_proj.weight";

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

static SafeTensors files_of(const char *model) {
    SafeTensors files;
    Error err = {0};
    const char *path = arena_format(arena, LLM_GOLDEN "%s", model);
    if (!safetensors_open(path, arena, &files, &err)) fail_msg("%s", err.message);
    return files;
}

static Variant base_of(const BaseFormat *row) {
    return (Variant){&row->kind, kind_defaults(&row->kind, arena)};
}

static void expect_plane(const Tensor *ours, const Tensor *theirs) {
    assert_int_equal(ours->dtype, theirs->dtype);
    assert_memory_equal(ours->data, theirs->data, dtype_bytes(ours->dtype, tensor_count(ours)));
}

/* Every weight of the projections: what we make of 32-bit weights is what bitsandbytes saved of
 * them; of double quantization the mean is summed in another order. */
static int compare_with_saved(const SafeTensors *plain, const SafeTensors *saved,
                              const Variant *base) {
    int compared = 0;
    for (int i = 0; i < plain->count; i++) {
        const SafeTensor *t = &plain->items[i];
        if (!bitsandbytes_has(saved, t->name)) continue;
        Tensor ours, theirs;
        Error err = {0};
        if (!base_read(base, plain, t->name, t->shape, arena, &ours, &err) ||
            !bitsandbytes_read(saved, t->name, arena, &theirs, &err))
            fail_msg("%s", err.message);
        assert_true(shape_equal(ours.shape, theirs.shape));
        expect_plane(&ours, &theirs);
        if (ours.scales->stored->scales) {
            float offset = theirs.scales->offset;
            assert_true(fabsf(ours.scales->offset - offset) <= 1e-6f * offset);
        } else {
            expect_plane(ours.scales->stored, theirs.scales->stored);
        }
        for (int64_t k = 0; k < ours.scales->count; k++) {
            float a = scales_read(ours.scales, k), b = scales_read(theirs.scales, k);
            assert_true(fabsf(a - b) <= 2e-6f * b);
        }
        compared++;
    }
    return compared;
}

static void what_bitsandbytes_saved_is_what_we_make(void **state) {
    (void)state;
    SafeTensors plain = files_of("llama");
    static const char *const saved_names[] = {"llama_fp4", "llama_nf4"};
    for (int is_double = 0; is_double < 2; is_double++) {
        SafeTensors saved = files_of(saved_names[is_double]);
        Variant base = base_of(is_double ? &base_nf4 : &base_fp4);
        if (is_double) ((bool *)base.config)[sizeof(int64_t)] = true; /* double_quantization */
        assert_int_equal(compare_with_saved(&plain, &saved, &base), 2 * 7);
        safetensors_close(&saved);
    }
    safetensors_close(&plain);
}

/* Every row keeps the values as well as its bits allow, in the bytes that it foretold. */
static void rows_keep_values(void **state) {
    (void)state;
    SafeTensors plain = files_of("llama");
    const SafeTensor *tensor = safetensors_find(&plain, up);
    enum { COUNT = 48 * 32 };
    float x[COUNT], kept[COUNT];
    Error err = {0};
    assert_int_equal(shape_count(tensor->shape), COUNT);
    assert_true(safetensors_read(&plain, tensor, 0, COUNT, x, &err));
    for (int i = 0; i < base_kinds.count; i++) {
        const BaseFormat *row = (const BaseFormat *)base_kinds.kinds[i];
        Variant base = base_of(row);
        Tensor t;
        size_t bytes;
        if (!base_read(&base, &plain, up, tensor->shape, arena, &t, &err) ||
            !base_bytes(&base, &plain, up, tensor->shape, &bytes, &err))
            fail_msg("%s: %s", row->kind.name, err.message);
        assert_int_equal(bytes, tensor_bytes(&t));
        tensor_decode(&t, kept);
        double noise = 0, signal = 0;
        for (int k = 0; k < COUNT; k++) {
            noise += ((double)kept[k] - (double)x[k]) * ((double)kept[k] - (double)x[k]);
            signal += (double)x[k] * (double)x[k];
        }
        double bits = 8.0 * (double)bytes / COUNT, decibels = 10 * log10(signal / noise);
        if (!(bits <= 32 && decibels > 17 + (bits > 7 ? 20 : 0)))
            fail_msg("%s: %.2f bits, %.1f dB", row->kind.name, bits, decibels);
    }
    safetensors_close(&plain);
}

static void stored_weights_come_as_they_are(void **state) {
    (void)state;
    SafeTensors saved = files_of("llama_nf4");
    Variant stored = base_of(&base_stored), left_out = {0}, nf4 = base_of(&base_nf4);
    Tensor a, b;
    Error err = {0};
    assert_true(base_read(&stored, &saved, up, SHAPE(48, 32), arena, &a, &err));
    assert_true(base_read(&left_out, &saved, up, SHAPE(48, 32), arena, &b, &err));
    expect_plane(&a, &b);
    assert_int_equal(a.dtype, DTYPE_NF4);
    assert_false(base_read(&nf4, &saved, up, SHAPE(48, 32), arena, &a, &err));
    assert_non_null(strstr(err.message, "stored in 4 bits already"));
    assert_string_equal(err.setting, "model.base");
    static const char norm[] = "model.layers.0.input_layernorm.weight";
    assert_true(base_read(&left_out, &saved, norm, SHAPE(32), arena, &a, &err));
    assert_int_equal(a.dtype, DTYPE_F32);
    safetensors_close(&saved);
}

static void expect_refused(const SafeTensors *files, const char *name, Shape shape,
                           const char *reason) {
    Tensor t;
    size_t bytes;
    Variant base = {0};
    for (int i = 0; i < 2; i++) {
        Error err = {0};
        assert_false(i ? base_bytes(&base, files, name, shape, &bytes, &err)
                       : base_read(&base, files, name, shape, arena, &t, &err));
        assert_int_equal(err.code, ERROR_INPUT);
        if (!strstr(err.message, reason)) fail_msg("it says: %s", err.message);
    }
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    SafeTensors plain = files_of("llama"), saved = files_of("llama_nf4");
    expect_refused(&plain, "model.layers.9.mlp.up_proj.weight", SHAPE(48, 32),
                   "there is no tensor");
    expect_refused(&plain, up, SHAPE(32, 48), "is [48, 32], but config.json makes it [32, 48]");
    expect_refused(&saved, up, SHAPE(32, 48), "is [48, 32], but config.json makes it [32, 48]");
    safetensors_close(&plain);
    safetensors_close(&saved);
}

/* ---- A file of bitsandbytes with one thing in it wrong ---- */

typedef struct Damage {
    const char *from, *to; /* bytes of the file, of one length */
    const char *reason;
} Damage;

static void replace(char *bytes, size_t count, const char *from, const char *to) {
    size_t length = strlen(from);
    int found = 0;
    assert_int_equal(length, strlen(to));
    for (size_t i = 0; i + length <= count; i++)
        if (memcmp(bytes + i, from, length) == 0) memcpy(bytes + i, to, length), found++;
    assert_true(found > 0);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    static const Damage damages[] = {
        {"\"quant_type\": \"nf4\"", "\"quant_type\": \"fp4\"", "quant_type is not the one"},
        {"\"blocksize\": 64", "\"blocksize\": -4", "no blocksize"},
        {"\"blocksize\": 64", "\"blocksize\": 32", "'model.layers.1.mlp.up_proj.weight' needs"},
        {"\"shape\": [48, 32]", "\"shape\": [48, 99]", "needs"},
        {"\"shape\": [48, 32]", "\"shape\": [48, -2]", "at least 1"},
        {"\"shape\": [48, 32]", "\"shape\": \"48, 32\"", "no shape"},
        {"\"nested_offset\"", "\"nested_0ffset\"", "no nested_offset"},
        {"\"nested_blocksize\": 256", "\"nested_blocksize\": 255", "no nested_blocksize"},
        {"up_proj.weight.absmax", "up_proj.weight.absmin", "absmax' is missing"},
        {"up_proj.weight.quant_map", "up_proj.weight.quant_mop", "quant_map' is missing"},
    };
    enum { SIZE = 1 << 20 };
    char *bytes = arena_alloc(arena, SIZE), path[] = "/tmp/nibble-base-XXXXXX";
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        FILE *in = fopen(LLM_GOLDEN "llama_nf4/model.safetensors", "rb"), *out = fopen(path, "wb");
        assert_non_null(in);
        size_t count = fread(bytes, 1, SIZE, in);
        assert_in_range(count, 1, SIZE - 1);
        replace(bytes, count, damages[i].from, damages[i].to);
        assert_int_equal(fwrite(bytes, 1, count, out), count);
        fclose(in), fclose(out);
        SafeTensors files;
        Error err = {0};
        Tensor t;
        if (!safetensors_open(path, arena, &files, &err)) fail_msg("%s", err.message);
        if (bitsandbytes_read(&files, up, arena, &t, &err)) fail_msg("fault %zu is read", i);
        if (!strstr(err.message, damages[i].reason)) fail_msg("fault %zu: %s", i, err.message);
        assert_int_equal(err.code, ERROR_INPUT);
        safetensors_close(&files);
    }
    unlink(path);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_bitsandbytes_saved_is_what_we_make, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_keep_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stored_weights_come_as_they_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
