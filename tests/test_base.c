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
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
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
        size_t bytes = 0;
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
        {"\"nested_offset\"", "\"nested_0ffset\"", "no nested_offset, a finite number"},
        {"0.6862506866455078", "6.8625068664550e99", "no nested_offset, a finite number"},
        {"\"nested_blocksize\": 256", "\"nested_blocksize\": 255", "no nested_blocksize"},
        {"up_proj.weight.absmax", "up_proj.weight.absmin", "absmax' is missing"},
        {"up_proj.weight.quant_map", "up_proj.weight.quant_mop", "quant_map' is missing"},
        {"\xb1\x39\x32\xbf", "\xb1\x39\x32\xbe", "quant_map' is another codebook than nf4"},
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

/* ---- The cache ---- */

typedef struct Cached {
    char directory[32];
    const char *path;
    int warnings; /* since it was last looked at */
    char last[512];
} Cached;

static Cached cached;

static void keep_warning(void *context, LogLevel level, const char *message) {
    (void)context;
    if (level != LOG_WARNING) return;
    cached.warnings++;
    snprintf(cached.last, sizeof cached.last, "%s", message);
}

static void expect_warning(const char *text) {
    if (!text) {
        if (cached.warnings) fail_msg("it says: %s", cached.last);
        return;
    }
    if (cached.warnings != 1 || !strstr(cached.last, text))
        fail_msg("%d warnings, the last: %s", cached.warnings, cached.last);
    cached.warnings = 0;
}

static const char *const cached_names[] = {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"};
enum { CACHED = 3 };

/* The weights by way of the cache. */
static void load(const Variant *base, const SafeTensors *files, bool is_whole, Tensor out[CACHED]) {
    Base *b;
    Error err = {0};
    if (!base_open(base, cached.path, files, arena, &b, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < CACHED; i++) {
        const char *name = arena_format(arena, "model.layers.0.%s.weight", cached_names[i]);
        Shape shape = safetensors_find(files, name)->shape;
        if (!base_weight(b, name, shape, arena, &out[i], &err)) fail_msg("%s", err.message);
    }
    if (!base_close(b, is_whole, &err)) fail_msg("%s", err.message);
}

static void expect_tensor(const Tensor *a, const Tensor *b) {
    expect_plane(a, b);
    if (!a->scales) return;
    assert_true(a->scales->offset == b->scales->offset);
    assert_int_equal(a->scales->zero != NULL, b->scales->zero != NULL);
    if (a->scales->zero)
        assert_memory_equal(a->scales->zero, b->scales->zero,
                            sizeof(float) * (size_t)a->scales->count);
    expect_tensor(a->scales->stored, b->scales->stored);
}

static void expect_all(const Tensor a[CACHED], const Tensor b[CACHED]) {
    for (int i = 0; i < CACHED; i++) expect_tensor(&a[i], &b[i]);
}

static uint64_t cache_inode(void) {
    struct stat status = {0};
    stat(cached.path, &status);
    return status.st_ino;
}

static void flip_byte(long from_end) {
    FILE *f = fopen(cached.path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -from_end, SEEK_END), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, -from_end, SEEK_END), 0);
    fputc(c ^ 1, f);
    fclose(f);
}

static int cache_set_up(void **state) {
    set_up(state);
    cached = (Cached){.directory = "/tmp/nibble-base-XXXXXX"};
    assert_non_null(mkdtemp(cached.directory));
    cached.path = arena_format(arena, "%s/cache", cached.directory);
    log_set_sink(keep_warning, NULL);
    return 0;
}

static int cache_tear_down(void **state) {
    log_set_sink(NULL, NULL);
    unlink(cached.path);
    assert_int_equal(rmdir(cached.directory), 0);
    return tear_down(state);
}

static void a_second_start_reads_the_cache(void **state) {
    (void)state;
    SafeTensors files = files_of("llama");
    for (int i = 0; i < base_kinds.count; i++) {
        const BaseFormat *row = (const BaseFormat *)base_kinds.kinds[i];
        if (!row->storage || dtype_codec(row->dtype)->stores == CODE_NUMBER) continue;
        for (int is_set = 0; is_set < 2; is_set++) { /* its switch: double quantization, affine */
            Variant base = base_of(row);
            ((bool *)base.config)[sizeof(int64_t)] = is_set;
            Tensor first[CACHED], second[CACHED];
            unlink(cached.path);
            load(&base, &files, false, first);
            assert_int_not_equal(access(cached.path, F_OK), 0); /* not of a part of the weights */
            load(&base, &files, true, first);
            uint64_t inode = cache_inode();
            load(&base, &files, true, second);
            assert_true(inode && inode == cache_inode());
            expect_all(first, second);
            expect_warning(NULL);
        }
    }
    safetensors_close(&files);
}

/* Whatever befell it, what comes out is right, and the next start has a cache again. */
static void a_cache_that_does_not_serve_is_made_anew(void **state) {
    (void)state;
    SafeTensors files = files_of("llama"), others = files_of("qwen2");
    Variant nf4 = base_of(&base_nf4), fp4 = base_of(&base_fp4);
    Tensor expected[CACHED], found[CACHED];
    load(&nf4, &files, true, expected);
    load(&fp4, &files, true, found);
    expect_warning("made of other weights, or for another base; it is made anew");
    load(&nf4, &files, true, found);
    expect_warning("made of other weights");
    expect_all(expected, found);
    struct stat status;
    assert_int_equal(stat(cached.path, &status), 0);
    for (long from_end = 1; from_end < status.st_size; from_end += 97) {
        cached.warnings = 0;
        flip_byte(from_end);
        load(&nf4, &files, true, found);
        assert_true(cached.warnings <= 1); /* 0: of spaces in the header */
        expect_all(expected, found);
        cached.warnings = 0;
        load(&nf4, &files, true, found);
        expect_warning(NULL);
        expect_all(expected, found);
    }
    assert_int_equal(truncate(cached.path, status.st_size / 2), 0);
    load(&nf4, &files, true, found);
    expect_warning("is no cache that can be read");
    expect_all(expected, found);
    flip_byte(status.st_size / 2);
    cached.warnings = 0;
    load(&nf4, &files, true, found);
    expect_warning("is damaged; it is made anew");
    load(&nf4, &others, false, found);
    expect_warning("made of other weights");
    safetensors_close(&files);
    safetensors_close(&others);
}

static void numbers_need_no_cache(void **state) {
    (void)state;
    SafeTensors files = files_of("llama");
    const BaseFormat *const rows[] = {&base_stored, &base_f32, &base_f16, &base_bf16};
    for (int i = 0; i < 4; i++) {
        Variant base = base_of(rows[i]);
        Base *b;
        Error err = {0};
        assert_false(base_open(&base, cached.path, &files, arena, &b, &err));
        assert_non_null(strstr(err.message, "needs none: leave it out"));
        assert_string_equal(err.setting, "model.cache");
    }
    safetensors_close(&files);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_bitsandbytes_saved_is_what_we_make, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_keep_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stored_weights_come_as_they_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_second_start_reads_the_cache, cache_set_up,
                                        cache_tear_down),
        cmocka_unit_test_setup_teardown(a_cache_that_does_not_serve_is_made_anew, cache_set_up,
                                        cache_tear_down),
        cmocka_unit_test_setup_teardown(numbers_need_no_cache, cache_set_up, cache_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
