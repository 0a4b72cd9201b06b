/* What a run's files do not depend on: the number of threads, the build of OpenBLAS that is loaded,
 * where the run and its data lie, when it ran. */
#include "tests/program.h"

#define IMAGES                                                                                     \
    "data: {kind: synthetic, height: 12, width: 12, channels: 3, classes: 4, train: 200, "         \
    "test: 60, validation: 40, batch: 40, eval_batch: 30, augment: {crop_padding: 1, flip: "       \
    "true}}\n"
#define LENGTH "train: {epochs: 2, log_every: 2}\n"
#define QUANT                                                                                      \
    "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}], freeze_batch_norm: 0.7}\n"

typedef struct Network {
    const char *name, *config;
} Network;

static const Network networks[] = {
    {"mlp", "model: {kind: mlp, widths: [300, 70], dropout: 0.2}\n" IMAGES
            "optimizer: {kind: adam, clip_norm: 1, ema: 0.9}\n" LENGTH},
    {"cnn", "model: {kind: cnn, widths: [24, 40], hidden: 130, dropout: 0.2}\n" IMAGES QUANT
            "optimizer: {kind: sgd, clip_norm: 5}\n" LENGTH},
    {"resnet", "model: {kind: resnet, depth: 8, widths: [8, 16, 24]}\n" IMAGES
               "quant: {bits: 4, activations: {quantizer: mse}, weights: {quantizer: percentile}}\n"
               "optimizer: sgd\n" LENGTH},
    {"half", "model: {kind: resnet, depth: 8, widths: [8, 16, 24]}\n" IMAGES
             "precision: f16\nquant: {bits: 4}\noptimizer: {kind: sgd, nesterov: true}\n" LENGTH},
    {"half_float", "model: {kind: cnn, widths: [24, 40], hidden: 130, dropout: 0.2}\n" IMAGES
                   "precision: bf16\noptimizer: {kind: adam}\n" LENGTH},
    {"mobilenet",
     "model: {kind: mobilenet, stem: 8, widths: [16, 24], strides: [1, 2]}\n" IMAGES
     "quant: {bits: 8, weights: {bits: 4}, activations: {quantizer: ema, affine: true}}\n"
     "optimizer: adamw\n" LENGTH},
};
enum { NETWORK_COUNT = sizeof networks / sizeof *networks };

static const char *one_thread_run(const Network *network) {
    const char *directory = format("%s1", network->name);
    if (file_exists(directory)) return directory;
    text_file(format("%s.yaml", network->name), network->config);
    run(0, "train %s.yaml --out %s --threads 1", network->name, directory);
    return directory;
}

static void assert_same_files(const char *a, const char *b) {
    assert_files_equal(format("%s/checkpoint.h5", a), format("%s/checkpoint.h5", b));
    assert_files_equal(format("%s/best.h5", a), format("%s/best.h5", b));
}

/* In large layers too: 200 images of 12 x 12 are enough to fill several tiles. */
static void test_threads(void **state) {
    (void)state;
    for (int i = 0; i < NETWORK_COUNT; i++)
        for (int threads = 2; threads <= 4; threads++) {
            const char *one = one_thread_run(&networks[i]);
            const char *several = format("%s%d", networks[i].name, threads);
            run(0, "train %s.yaml --out %s --threads %d", networks[i].name, several, threads);
            assert_same_files(one, several);
            Json *json = json_of(file_text(format("%s/env.json", several)));
            assert_true(number_of(json, "threads") == threads);
            json_free(json);
        }
}

static void test_threads_of_the_environment(void **state) {
    (void)state;
    const char *one = one_thread_run(&networks[1]);
    Result result = program_run((Start){.variable = "OMP_NUM_THREADS", .value = "3"},
                                "train cnn.yaml --out cnn_environment");
    assert_code(result, 0, "train with OMP_NUM_THREADS");
    assert_same_files(one, "cnn_environment");
    Json *json = json_of(file_text("cnn_environment/env.json"));
    assert_true(number_of(json, "threads") == 3);
    json_free(json);
}

/* As the command line says, also where the environment says nothing. */
static void test_threads_of_the_command_line(void **state) {
    (void)state;
    one_thread_run(&networks[1]);
    unsetenv("OMP_NUM_THREADS");
    run(0, "train cnn.yaml --out cnn_five train.steps=1 --threads 5");
    setenv("OMP_NUM_THREADS", "1", 1);
    Json *json = json_of(file_text("cnn_five/env.json"));
    assert_true(number_of(json, "threads") == 5);
    json_free(json);
}

static pid_t busy_start(void) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child) return child;
    alarm(PROGRAM_TIMEOUT_SECONDS);
    for (volatile unsigned turns = 0;; turns++)
        ;
}

/* Beside programs that keep every core busy, a run whose number of threads nobody chose takes
 * fewer, and computes the same. */
static void test_busy_machine(void **state) {
    (void)state;
    one_thread_run(&networks[1]);
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    pid_t busy[64];
    for (int i = 0; i < cores && i < 64; i++) busy[i] = busy_start();
    unsetenv("OMP_NUM_THREADS");
    run(0, "train cnn.yaml --out cnn_busy");
    setenv("OMP_NUM_THREADS", "1", 1);
    for (int i = 0; i < cores && i < 64; i++) {
        kill(busy[i], SIGKILL);
        waitpid(busy[i], NULL, 0);
    }
    assert_same_files("cnn1", "cnn_busy");
}

/* What is packed by one number of threads is verified by another. */
static void test_threads_of_convert(void **state) {
    (void)state;
    for (int i = 0; i < NETWORK_COUNT; i++) {
        if (!strstr(networks[i].config, "quant:")) continue;
        const char *directory = one_thread_run(&networks[i]);
        run(0, "convert %s --threads 3", directory);
        run(0, "verify %s --threads 1", directory);
        run(0, "verify %s --threads 4", directory);
        run(0, "verify %s --threads 2 --reference", directory);
        const char *all = run(0, "eval %s --json --threads 4", directory).out;
        assert_string_equal(run(0, "eval %s --json --threads 1", directory).out, all);
    }
}

/* Debian's builds of OpenBLAS lie side by side; the alternatives system chooses one for all
 * programs. Training does not call it, so that its serial build, which several threads must not
 * call, does no harm either. */
static void test_blas_builds(void **state) {
    (void)state;
    static const char *const builds[] = {"pthread", "openmp", "serial"};
    const char *one = one_thread_run(&networks[0]);
    for (int i = 0; i < 3; i++) {
        const char *library = format("/usr/lib/x86_64-linux-gnu/openblas-%s", builds[i]);
        if (!file_exists(format("%s/libopenblas.so.0", library))) continue;
        const char *directory = format("blas_%s", builds[i]);
        const char *command =
            format("train %s.yaml --out %s --threads 3", networks[0].name, directory);
        Start start = {.variable = "LD_LIBRARY_PATH", .value = library};
        assert_code(program_run(start, command), 0, command);
        assert_has(file_text(format("%s/env.json", directory)), builds[i]);
        assert_same_files(one, directory);
    }
}

static void test_paths(void **state) {
    (void)state;
    text_file("idx.yaml", "model: {kind: mlp, widths: [8]}\n"
                          "data: {kind: idx, validation: 16, batch: 16, eval_batch: 24}\n"
                          "quant: {bits: 4}\n"
                          "train: {epochs: 2}\n");
    idx_folder("here");
    mkdir("far", 0777);
    idx_folder("far/away");
    run(0, "train idx.yaml --out a data.path=here");
    run(0, "train idx.yaml --out far/b data.path=far/away train.checkpoint_every=3");
    run(0, "train idx.yaml --out c data.path=%s/here data.prefetch=true", program_folder);
    assert_same_files("a", "far/b");
    assert_same_files("a", "c");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_threads_of_the_environment),
        cmocka_unit_test(test_threads_of_the_command_line),
        cmocka_unit_test(test_busy_machine),
        cmocka_unit_test(test_threads_of_convert),
        cmocka_unit_test(test_blas_builds),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
