#include "core/kernels/peak.h"

#include <string.h>

#include "core/kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Enough sums to hide the latency of two units, few enough for the registers. */
enum { SUMS = 12 };

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The sums tend to one / (1 - half): no number on the way is slow. */
#define PEAK_LOOP(Vector, BROADCAST, MULTIPLY_ADD)                                                 \
    Vector sum[SUMS], a = BROADCAST(half), b = BROADCAST(one);                                     \
    UNROLL for (int i = 0; i < SUMS; i++) sum[i] = BROADCAST((float)i);                            \
    for (int64_t r = 0; r < rounds; r++) {                                                         \
        UNROLL for (int i = 0; i < SUMS; i++) sum[i] = MULTIPLY_ADD(sum[i], a, b);                 \
    }                                                                                              \
    UNROLL for (int i = 1; i < SUMS; i++) sum[0] += sum[i];                                        \
    float first;                                                                                   \
    memcpy(&first, &sum[0], sizeof first);                                                         \
    return first

typedef float Vector4 __attribute__((vector_size(16)));
#define BROADCAST4(x)          ((Vector4){(x), (x), (x), (x)})
#define MULTIPLY_ADD4(a, b, c) ((a) * (b) + (c))

static float loop_baseline(int64_t rounds, float half, float one) {
    PEAK_LOOP(Vector4, BROADCAST4, MULTIPLY_ADD4);
}

#if defined(__x86_64__)
static __attribute__((target("avx2,fma"))) float loop_avx2(int64_t rounds, float half, float one) {
    PEAK_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps);
}

static __attribute__((target("avx512f"))) float loop_avx512(int64_t rounds, float half, float one) {
    PEAK_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps);
}
#endif

typedef struct PeakLoop {
    const char *isa;
    int width; /* floats in a vector */
    float (*run)(int64_t rounds, float half, float one);
} PeakLoop;

static const PeakLoop loops[] = {
#if defined(__x86_64__)
    {"avx512", 16, loop_avx512},
    {"avx2", 8, loop_avx2},
#endif
    {"baseline", 4, loop_baseline},
};

/* By the name of the active inner loops; the last row runs anywhere. */
static const PeakLoop *loop_active(void) {
    enum { LAST = sizeof loops / sizeof *loops - 1 };
    int i = 0;
    while (i < LAST && strcmp(loops[i].isa, kernels_description()) != 0) i++;
    return &loops[i];
}

double peak_multiply_adds(int64_t rounds) {
    const PeakLoop *loop = loop_active();
    int threads = 0;
#pragma omp parallel reduction(+ : threads)
    {
        /* volatile: known to no compiler, and used, so that nothing is computed beforehand or left
         * out */
        volatile float half = 0.5f, one = 1, result;
        result = loop->run(rounds, half, one);
        (void)result;
        threads++;
    }
    return 2.0 * SUMS * loop->width * (double)rounds * threads;
}

void peak_triad(const float *b, const float *c, float factor, int64_t count, float *a) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) a[i] = b[i] + factor * c[i];
}
