/* x86-64 with AVX-512F: 12 x 32 sums in 24 of 32 registers; 12 x 16 for the last 16 channels;
 * 11 rows where each has a pointer, of which 16 general registers hold no more. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/kernels/isa.h"

#define WIDTH                 16
#define ROWS                  12
#define POINTED_ROWS          11
#define BLOCKS                2
#define ROW_PANELS            4
#define BROADCAST(x)          ((Vector)_mm512_set1_ps(x))
#define MULTIPLY_ADD(a, b, c) ((Vector)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define GREATER(a, b)         ((Vector)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define LESSER(a, b)          ((Vector)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define F16_LOAD(p)           ((Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#define F16_PAIR(words, x)    f16_of_words((words), (x))
#define F16_STORE(p, v)                                                                            \
    _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT))
#define LOAD_BYTES(p)                                                                              \
    ((Vector)_mm512_cvtepi32_ps(                                                                   \
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))))
#define ENTRIES(p)                  _mm512_loadu_ps(p)
#define ENTRIES_STEP                16
#define ENTRIES_AT(e, q, x)         (*(x) = entries_at((e), (q)))
#define ENTRIES_TURNED(e, w, at, x) entries_turned((e), (w), (at), (x))
#define ENTRIES_NTH(e, w, n)        ((Vector)entries_nth((e), (w), (n)))
#define TILE_CASES(tile, job)                                                                      \
    TILE_CASE(1, tile, job)                                                                        \
    TILE_CASE(2, tile, job)                                                                        \
    TILE_CASE(3, tile, job)                                                                        \
    TILE_CASE(4, tile, job)                                                                        \
    TILE_CASE(5, tile, job)                                                                        \
    TILE_CASE(6, tile, job)                                                                        \
    TILE_CASE(7, tile, job)                                                                        \
    TILE_CASE(8, tile, job)                                                                        \
    TILE_CASE(9, tile, job)                                                                        \
    TILE_CASE(10, tile, job)                                                                       \
    TILE_CASE(11, tile, job)                                                                       \
    TILE_CASE(12, tile, job)
#define ISA           isa_avx512
#define ISA_NAME      "avx512"
#define ISA_SUPPORTED __builtin_cpu_supports("avx512f")

extern const Isa ISA;

static inline __attribute__((always_inline)) void f16_of_words(const uint32_t *words, __m512 x[2]) {
    __m512i both = _mm512_loadu_si512(words);
    x[0] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
    x[1] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
}

typedef __m512 Entries;

/* Each lane moves its code to the lowest four bits, which are all that the permutation looks at. */
static inline __attribute__((always_inline)) __m512 entries_at(Entries entries,
                                                               const uint8_t *codes) {
    int32_t low, high;
    __builtin_memcpy(&low, codes, sizeof low);
    __builtin_memcpy(&high, codes + sizeof low, sizeof high);
    const __m512i shifts =
        _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    __m512i all = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(all, shifts), entries);
}

static inline __attribute__((always_inline)) void
entries_turned(Entries entries, const uint32_t *words, int at, __m512 x[4]) {
    __m512i codes = _mm512_srli_epi32(_mm512_loadu_si512(words), 4 * (unsigned)at);
    for (unsigned i = 0; i < 4; i++)
        x[i] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4 * i), entries);
}

static inline __attribute__((always_inline)) __m512 entries_nth(Entries entries,
                                                                const uint32_t *words, unsigned n) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_loadu_si512(words), 4 * n), entries);
}

#include "core/kernels/body.inc"
#else
typedef int Empty; /* a translation unit may not be empty */
#endif
