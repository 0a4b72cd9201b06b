/* Threads, and both builds of OpenBLAS: this program runs itself under each that is installed, and
 * compares the bits of its products. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/blas.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/random.h"

enum { LINE_BYTES = 256 };

static const char *program; /* our own path */

static void test_thread_counts(void **state) {
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        assert_int_equal(parallel_threads(), threads);
        bool seen[4] = {false};
#pragma omp parallel for schedule(static, 1)
        for (int i = 0; i < threads; i++) seen[parallel_self()] = true;
        for (int i = 0; i < threads; i++) assert_true(seen[i]);
    }
    Error err = {0};
    assert_true(parallel_init(0, &err)); /* 0 keeps what is in force */
    assert_int_equal(parallel_threads(), 4);
}

static void test_bad_counts(void **state) {
    (void)state;
    Error err = {0};
    assert_false(parallel_init(-1, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "-1"));
    err = (Error){0};
    assert_false(parallel_init(PARALLEL_THREADS_MAX + 1, &err));
}

static void test_descriptions(void **state) {
    (void)state;
    assert_int_equal(strncmp(blas_description(), "OpenBLAS ", 9), 0);
    assert_true(strlen(kernels_description()) > 0);
}

/* FNV-1a over the bits of products of many shapes; the shapes where OpenBLAS's own threads would
 * change bits are among them. */
static uint64_t digest_of_products(void) {
    static const int64_t sizes[][3] = {{200, 96, 300}, {128, 128, 1000}, {1, 100, 3000},
                                       {64, 64, 64},   {7, 1000, 129},   {300, 300, 300}};
    Arena *arena = arena_new("digest");
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        Tensor a = tensor_new(arena, DTYPE_F32, SHAPE(m, k));
        Tensor b = tensor_new(arena, DTYPE_F32, SHAPE(n, k));
        Tensor c = tensor_new(arena, DTYPE_F32, SHAPE(m, n));
        random_fill_normal((RandomKey){i, RANDOM_TEST, 0}, 1, m * k, tensor_f32(&a));
        random_fill_normal((RandomKey){i, RANDOM_TEST, 1}, 1, n * k, tensor_f32(&b));
        gemm(matrix_of(a), matrix_transposed(matrix_of(b)), 0, tensor_f32(&c), n, NULL, arena);
        const unsigned char *bytes = c.data;
        for (size_t j = 0; j < tensor_bytes(&c); j++)
            digest = (digest ^ bytes[j]) * UINT64_C(0x100000001b3);
    }
    arena_free(arena);
    return digest;
}

static int print_digest(int threads) {
    Error err = {0};
    if (!parallel_init(threads, &err)) {
        printf("%s\n", err.message);
        return 1;
    }
    printf("%s %016llx\n", blas_description(), (unsigned long long)digest_of_products());
    return 0;
}

/* Runs this program with the libraries of `folder`. */
static void digest_under(const char *folder, int threads, char line[LINE_BYTES]) {
    char command[1024];
    snprintf(command, sizeof command, "LD_LIBRARY_PATH='%s' '%s' digest %d", folder, program,
             threads);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, LINE_BYTES, pipe));
    assert_int_equal(pclose(pipe), 0);
}

static void test_openblas_builds_agree(void **state) {
    (void)state;
    static const char *const builds[] = {"openmp", "pthread"};
    char first[32] = "";
    int tried = 0;
    for (int i = 0; i < 2; i++) {
        char folder[128];
        snprintf(folder, sizeof folder, "/usr/lib/x86_64-linux-gnu/openblas-%s", builds[i]);
        if (access(folder, R_OK) != 0) continue;
        for (int threads = 1; threads <= 4; threads++) {
            char line[LINE_BYTES];
            digest_under(folder, threads, line);
            assert_non_null(strstr(line, builds[i]));
            const char *digest = strrchr(line, ' ') + 1;
            if (!first[0]) snprintf(first, sizeof first, "%s", digest);
            assert_string_equal(digest, first);
            tried++;
        }
    }
    if (!tried) skip();
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "digest") == 0) return print_digest(atoi(arguments[2]));
    char path[512];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) return 1;
    path[length] = '\0';
    program = path;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread_counts),
        cmocka_unit_test(test_bad_counts),
        cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_openblas_builds_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
