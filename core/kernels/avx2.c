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
#define F16_PAIR(words, x) f16_of_words((words), (x))
#define STORE_BYTES(p, v)  store_as_bytes((p), _mm256_cvttps_epi32((__m256)(v)))
#define LOAD_BYTES(p)                                                                              \
    ((Vector)_mm256_cvtepi32_ps(                                                                   \
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))))
#define ENTRIES(p)   entries_of(p)
#define ENTRIES_STEP 32
#define ENTRIES_AT(e, q, x)                                                                        \
    entries_at(&(e), _mm_loadu_si128((const __m128i *)(const void *)(q)), (x))
#define ENTRIES_FEW(e, q)           ((Vector)entries_few(&(e), (q)))
#define ENTRIES_TURNED(e, w, at, x) entries_turned(&(e), (w), (at), (x))
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

static inline __attribute__((always_inline)) void f16_of_words(const uint32_t *words, __m256 x[2]) {
    const __m256i lower_first =
        _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, /* */
                         0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)words);
    both = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(both, lower_first), 0xd8);
    x[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
    x[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}

/* 16 floats by their bytes: byte b of float i is byte i of plane b, in both halves. */
typedef struct Entries {
    __m256i plane[4];
} Entries;

static inline __attribute__((always_inline)) Entries entries_of(const float *p) {
    const __m128i by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i four[4];
    for (int i = 0; i < 4; i++)
        four[i] = _mm_shuffle_epi8(_mm_castps_si128(_mm_loadu_ps(p + 4 * i)), by_byte);
    __m128i a = _mm_unpacklo_epi32(four[0], four[1]), b = _mm_unpackhi_epi32(four[0], four[1]);
    __m128i c = _mm_unpacklo_epi32(four[2], four[3]), d = _mm_unpackhi_epi32(four[2], four[3]);
    return (Entries){{_mm256_broadcastsi128_si256(_mm_unpacklo_epi64(a, c)),
                      _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(a, c)),
                      _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(b, d)),
                      _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(b, d))}};
}

/* A code in each byte. Half h of x[i] has the floats that bytes 4 i .. 4 i + 3 of half h name. */
static inline __attribute__((always_inline)) void entries_named(const Entries *entries,
                                                                __m256i codes, __m256 x[4]) {
    __m256i plane[4];
    for (int b = 0; b < 4; b++) plane[b] = _mm256_shuffle_epi8(entries->plane[b], codes);
    __m256i low = _mm256_unpacklo_epi8(plane[0], plane[1]);
    __m256i high = _mm256_unpacklo_epi8(plane[2], plane[3]);
    x[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
    x[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
    low = _mm256_unpackhi_epi8(plane[0], plane[1]);
    high = _mm256_unpackhi_epi8(plane[2], plane[3]);
    x[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
    x[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
}

/* 32 codes of half a byte. */
static inline __attribute__((always_inline)) void entries_at(const Entries *entries, __m128i codes,
                                                             __m256 x[4]) {
    /* Of each eight codes a half has four: two bytes, each in the lower half of 16 bits. */
    const __m256i spread =
        _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, /* */
                         2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codes), spread);
    pairs = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    entries_named(entries, _mm256_and_si256(pairs, _mm256_set1_epi8(15)), x);
}

/* Eight of them. */
static inline __attribute__((always_inline)) __m256 entries_few(const Entries *entries,
                                                                const uint8_t *codes) {
    int32_t eight;
    __m256 x[4];
    __builtin_memcpy(&eight, codes, sizeof eight);
    entries_at(entries, _mm_cvtsi32_si128(eight), x);
    return x[0];
}

static inline __attribute__((always_inline)) void
entries_turned(const Entries *entries, const uint32_t *words, int at, __m256 x[4]) {
    /* A byte of four words, twice: for its lower and its upper code; and the byte behind it. */
    const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, 0, 4, 8, 12, 1, 5, 9, 13, 1, 5, 9, 13, /* */
                                           0, 4, 8, 12, 0, 4, 8, 12, 1, 5, 9, 13, 1, 5, 9, 13);
    const __m256i shifts = _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4);
    __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)words);
    codes = _mm256_shuffle_epi8(codes, _mm256_add_epi8(bytes, _mm256_set1_epi8((char)(at / 2))));
    codes = _mm256_srlv_epi32(codes, shifts);
    entries_named(entries, _mm256_and_si256(codes, _mm256_set1_epi8(15)), x);
}

#include "core/kernels/body.inc"
#else
typedef int Empty; /* a translation unit may not be empty */
#endif
