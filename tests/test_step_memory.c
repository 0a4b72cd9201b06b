/* A training step asks the system for no memory once the first steps have shown what is needed:
 * every call of the allocator, from any thread, is counted. */
#include "tests/program.h"

#include <malloc.h>
#include <stdatomic.h>

#include "core/parallel.h"
#include "experiments/train/trainer.h"

static atomic_long calls;

/* ---- Counting ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif

#ifdef HAS_SANITIZER

int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void on_malloc(const volatile void *pointer, size_t bytes) {
    (void)pointer, (void)bytes;
    atomic_fetch_add(&calls, 1);
}

static void on_free(const volatile void *pointer) {
    (void)pointer;
}

static void counting_begin(void) {
    assert_true(__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0);
}

#else /* the C library's own entries, behind ours */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *pointer, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED void *malloc(size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(bytes);
}

EXPORTED void *calloc(size_t count, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(count, bytes);
}

EXPORTED void *realloc(void *pointer, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(pointer, bytes);
}

EXPORTED void *memalign(size_t alignment, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_memalign(alignment, bytes);
}

EXPORTED void *aligned_alloc(size_t alignment, size_t bytes) {
    return memalign(alignment, bytes);
}

EXPORTED int posix_memalign(void **out, size_t alignment, size_t bytes) {
    *out = memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

static void counting_begin(void) {}

#endif

static void test_calls_are_counted(void **state) {
    (void)state;
    long before = atomic_load(&calls);
    Arena *arena = arena_new("counted");
    arena_alloc(arena, 1 << 20);
    arena_free(arena);
    assert_true(atomic_load(&calls) > before);
}

/* ---- Networks ---- */

/* Four steps in an epoch, so that the steps that count include two starts of an epoch. */
#define IMAGES                                                                                     \
    "data: {kind: synthetic, height: 12, width: 12, channels: 3, classes: 4, train: 160, "         \
    "test: 20, validation: 32, batch: 16, augment: {crop_padding: 1, flip: true}}\n"
#define LENGTH "train: {epochs: 20, accumulate: 2}\n"

enum { WARM_UP_STEPS = 3, LAST_STEP = 12 };

static void train(Experiment *e) {
    Error err = {0};
    double loss;
    long counted = 0;
    for (int64_t step = 0; step < LAST_STEP; step++) {
        long before = atomic_load(&calls);
        if (!trainer_step(e, step, &loss, &err)) fail_msg("%s", err.message);
        long more = atomic_load(&calls) - before;
        if (step < WARM_UP_STEPS) continue;
        if (more) print_error("step %ld: %ld calls\n", (long)step, more);
        counted += more;
    }
    assert_int_equal(counted, 0);
}

static void check(const char *config_text) {
    Error err = {0};
    Arena *arena = arena_new("configuration");
    ExperimentConfig config;
    Experiment e;
    if (!config_read_text(config_text, "config", 0, NULL, arena, &config, &err) ||
        !experiment_open(&config, arena, &e, &err))
        fail_msg("%s", err.message);
    assert_int_equal(trainer_epoch_steps(&e), 4);
    train(&e);
    experiment_close(&e);
    arena_free(arena);
}

static void test_mlp(void **state) {
    (void)state;
    check("model: {kind: mlp, widths: [40, 30], dropout: 0.2}\n" IMAGES
          "optimizer: {kind: adam, ema: 0.9, clip_norm: 1}\n" LENGTH);
}

static void test_cnn(void **state) {
    (void)state;
    check("model: {kind: cnn, widths: [8, 12], hidden: 24, dropout: 0.2}\n" IMAGES
          "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}]}\n" LENGTH);
}

static void test_cnn_observed(void **state) {
    (void)state;
    check("model: {kind: cnn, widths: [8, 12], hidden: 24}\n" IMAGES
          "quant: {bits: 4, weights: {quantizer: mse}, activations: {quantizer: percentile, "
          "affine: true, scale: f16}}\n" LENGTH);
}

static void test_resnet(void **state) {
    (void)state;
    check("model: {kind: resnet, depth: 8, widths: [8, 12, 16]}\n" IMAGES
          "quant: {bits: 4}\n" LENGTH);
}

static void test_mobilenet(void **state) {
    (void)state;
    check("model: {kind: mobilenet, stem: 8, widths: [12, 16], strides: [1, 2]}\n" IMAGES
          "quant: {bits: 8, weights: {bits: 4}, activations: {quantizer: ema}}\n"
          "optimizer: adamw\n" LENGTH);
}

/* Copies in f32 of what is kept in half come from an arena of their own. */
static void test_half_precision(void **state) {
    (void)state;
    check("model: {kind: cnn, widths: [8, 12], hidden: 24, dropout: 0.2}\n" IMAGES
          "precision: f16\nquant: {bits: 4}\n" LENGTH);
    check("model: {kind: resnet, depth: 14, widths: [8, 12, 16]}\n" IMAGES
          "quant: {bits: 4}\ntrain: {epochs: 20, accumulate: 2, recompute: block}\n");
    check("model: {kind: sequential, layers: [{kind: conv, filters: 6}, {kind: batch_norm}, "
          "{kind: relu}, {kind: avg_pool, kernel: 2}, {kind: flatten}, {kind: layer_norm}, "
          "{kind: linear, units: 4}]}\n" IMAGES "precision: bf16\n" LENGTH);
}

/* The teacher runs on a tape of its own. */
static void test_distilled(void **state) {
    (void)state;
    text_file("teacher.yaml", "model: {kind: cnn, widths: [8, 12], hidden: 24}\n" IMAGES
                              "quant: {bits: 8}\ntrain: {epochs: 1}\n");
    run(0, "train teacher.yaml --out teacher");
    check("model: {kind: mlp, widths: [40]}\n" IMAGES "quant: {bits: 4}\nprecision: f16\n"
          "train: {epochs: 20, accumulate: 2, distill: {teacher: teacher}}\n");
}

static void test_with_prefetch(void **state) {
    (void)state;
    check("model: {kind: mlp, widths: [40]}\n"
          "data: {kind: synthetic, height: 12, width: 12, classes: 4, train: 160, test: 20, "
          "validation: 32, batch: 16, prefetch: true}\n"
          "quant: {bits: 4, activations: {quantizer: minmax, granularity: token}}\n" LENGTH);
}

static int start(void **state) {
    Error err = {0};
    counting_begin();
    return program_folder_enter(state) || !parallel_init(2, &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_are_counted),
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_cnn),
        cmocka_unit_test(test_cnn_observed),
        cmocka_unit_test(test_resnet),
        cmocka_unit_test(test_mobilenet),
        cmocka_unit_test(test_half_precision),
        cmocka_unit_test(test_distilled),
        cmocka_unit_test(test_with_prefetch),
    };
    return cmocka_run_group_tests(tests, start, program_folder_leave);
}
