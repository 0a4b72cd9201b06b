/* x86-64 with AVX2 and FMA: 6 x 16 sums in 12 of 16 registers. */
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#include "core/kernels/isa.h"

#define WIDTH                 8
#define ROWS                  6
#define POINTED_ROWS          6
#define BLOCKS                1
#define BROADCAST(x)          ((Vector)_mm256_set1_ps(x))
#define MULTIPLY_ADD(a, b, c) ((Vector)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define GREATER(a, b)         ((Vector)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define LESSER(a, b)          ((Vector)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define F16_LOAD(p)           ((Vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define F16_STORE(p, v)                                                                            \
    _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT))
#define STORE_BYTES(p, v) store_as_bytes((p), _mm256_cvttps_epi32((__m256)(v)))
#define LOAD_BYTES(p)                                                                              \
    ((Vector)_mm256_cvtepi32_ps(                                                                   \
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))))
#define ENTRIES(p)       ((Entries){_mm256_loadu_ps(p), _mm256_loadu_ps((p) + 8)})
#define ENTRIES_AT(e, q) ((Vector)entries_at(&(e), (q)))
#define ENTRIES_OF(e, words, shift)                                                                \
    ((Vector)entries_of(                                                                           \
        &(e),                                                                                      \
        _mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(words)), (shift))))
#define TILE_CASES(tile, job)                                                                      \
    TILE_CASE(1, tile, job)                                                                        \
    TILE_CASE(2, tile, job)                                                                        \
    TILE_CASE(3, tile, job)                                                                        \
    TILE_CASE(4, tile, job)                                                                        \
    TILE_CASE(5, tile, job)                                                                        \
    TILE_CASE(6, tile, job)
#define ISA      isa_avx2
#define ISA_NAME "avx2"
#define ISA_SUPPORTED                                                                              \
    (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())

extern const Isa ISA;

/* CPUID leaf 1, ECX bit 29; not every compiler's __builtin_cpu_supports knows the name. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
}

/* Eight integers from 0 to 255. */
static inline void store_as_bytes(uint8_t *p, __m256i v) {
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(words, words));
}

typedef struct Entries {
    __m256 low, high;
} Entries;

/* Of each lane the lowest four bits count: a permutation looks at three; the fourth, moved to the
 * sign, chooses between both halves. */
static inline __attribute__((always_inline)) __m256 entries_of(const Entries *entries,
                                                               __m256i codes) {
    __m256 low = _mm256_permutevar8x32_ps(entries->low, codes);
    __m256 high = _mm256_permutevar8x32_ps(entries->high, codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
}

static inline __attribute__((always_inline)) __m256 entries_at(const Entries *entries,
                                                               const uint8_t *codes) {
    int32_t eight;
    __builtin_memcpy(&eight, codes, sizeof eight);
    const __m256i shifts = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
    return entries_of(entries, _mm256_srlv_epi32(_mm256_set1_epi32(eight), shifts));
}

#include "core/kernels/body.inc"
#else
typedef int Empty; /* a translation unit may not be empty */
#endif
