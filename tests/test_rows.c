/* The row kernels of every instruction set that this processor has: each against a plain loop, and
 * all with the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/kernels.h"
#include "core/kernels/isa.h"
#include "core/random.h"

enum { ROWS_MAX = 37, CHANNELS_MAX = 70, ELEMENTS = ROWS_MAX * CHANNELS_MAX, CASES = 60 };

static const char *const isas[] = {"baseline", "avx2", "avx512"};
enum { ISA_COUNT = sizeof isas / sizeof *isas };

static float x[ELEMENTS], dy[ELEMENTS], a[CHANNELS_MAX], b[CHANNELS_MAX], c[CHANNELS_MAX],
    d[CHANNELS_MAX];
static float ties[ELEMENTS]; /* few different values, and some NaNs */
enum { RUN = 2 * PANEL + 14 /* elements under a scale */, WORDS = 5 /* of each row */ };
enum {
    APART = PANEL + 8 /* from piece to piece */,
    WHOLE = 2 * PANEL /* elements under a scale */
};
static uint8_t bytes[ELEMENTS];
static uint32_t words[WORDS * LANES];
enum { MIDDLES = 15 };
static float middles[MIDDLES];

/* What every kernel gave, one after the other. */
typedef struct Results {
    float affine[ELEMENTS], backward[ELEMENTS], sum[3][CHANNELS_MAX], other[2][CHANNELS_MAX];
    float add[ELEMENTS], multiply[ELEMENTS], relu[ELEMENTS], relu_backward[ELEMENTS];
    float quantize[ELEMENTS], levels[ELEMENTS], ste[ELEMENTS], mask[ELEMENTS];
    double ste_sums[2], squares;
    float low, high;
    uint32_t bits[(ELEMENTS + MASK_RUN - 1) / MASK_RUN * LANES];
    float masked[ELEMENTS];
    uint8_t bytes[ELEMENTS], at_once[ELEMENTS], nibbles[ELEMENTS / 2];
    float from_nibbles[ELEMENTS], entries[ELEMENTS], turned[8 * WORDS * LANES];
    float apart[(ELEMENTS / PANEL + 1) * APART];
    float halves[2][2 * WORDS * LANES];
    uint8_t below[ELEMENTS], packed[ELEMENTS / 2 + 1];
    uint16_t half[2][ELEMENTS];
    float from_half[2][ELEMENTS];
    float rescaled[3][ELEMENTS];
    float largest[ELEMENTS], spread[2][ELEMENTS];
    uint16_t winner[ELEMENTS];
    uint32_t bins[BIN_SLOTS];
    bool has_nan;
} Results;

/* Two windows of 2 rows by 3 pixels side by side; the image has `channels` channels and rows of 7
 * pixels. */
enum { POOL_ROWS = 2, POOL_COLUMNS = 3, POOL_WIDTH = 7, POOL_COUNT = 2 };

static PoolWindow pool_window(int64_t channels) {
    return (PoolWindow){.rows = POOL_ROWS,
                        .columns = POOL_COLUMNS,
                        .row_stride = POOL_WIDTH * channels,
                        .pixel_stride = channels,
                        .count = POOL_COUNT,
                        .step = POOL_COLUMNS * channels};
}

static const SteRange range = {.inverse = 3,
                               .step = 1,
                               .per_step = 1,
                               .first = -4.5f,
                               .last = 0x1.bffffep1f, /* below 3.5, which rounds to 4 */
                               .slope_below = -4,
                               .slope_above = 3,
                               .rounding = 1,
                               .has_offset = true};

static void draw(uint64_t number) {
    RandomKey key = {.seed = 7, .stream = RANDOM_TEST, .step = number};
    float *all[] = {x, dy, a, b, c, d};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        key.seed++;
        random_fill_uniform(key, -2, 2, i < 2 ? ELEMENTS : CHANNELS_MAX, all[i]);
    }
    for (int i = 0; i < ELEMENTS; i++) ties[i] = i % 41 ? rintf(x[i]) : NAN;
    for (int i = 0; i < ELEMENTS; i++) bytes[i] = (uint8_t)(int)((x[i] + 2) * 63);
    for (int i = 0; i < WORDS * LANES; i++)
        words[i] = 2654435761u * (uint32_t)(i + 1) & 0x7bff7bff; /* finite as f16 */
    for (int i = 0; i < MIDDLES; i++) middles[i] = x[0] + 0.2f * (float)(i - 7);
}

static void run(int64_t rows, int64_t channels, Results *r) {
    const Isa *k = isa_active();
    int64_t count = rows * channels;
    memset(r, 0, sizeof *r);
    k->affine(x, a, b, c, rows, channels, r->affine);
    k->affine_backward(dy, x, a, b, c, d, rows, channels, r->backward);
    k->sums(x, channels, rows, channels, r->sum[0]);
    k->products(dy, x, a, channels, rows, channels, r->sum[1], r->other[0]);
    k->deviations(x, a, channels, rows, channels, r->sum[2], r->other[1]);
    k->add(x, dy, count, r->add);
    k->multiply(x, a[0], count, r->multiply);
    k->extremes(x, count, &r->low, &r->high);
    k->bins_count(ties, count, 900, r->bins);
    k->bins_count(x, count, 1500, r->bins);
    k->squares(x, count, &r->squares);
    k->relu(x, count, r->relu);
    k->relu_backward(x, dy, count, r->relu_backward);
    k->quantize(x, count, 3, -4, 3, r->quantize, &r->has_nan);
    k->levels_to_bytes(r->quantize, count, 1, -4, 7, r->bytes);
    k->quantize_to_bytes(x, count, 3, -4, 3, r->at_once, &r->has_nan);
    k->levels_from_bytes(bytes, count, 2, -7, r->levels);
    k->levels_to_nibbles(r->quantize, count, 1, -4, 7, r->nibbles);
    k->levels_from_nibbles(bytes, count, 2, -7, r->from_nibbles);
    k->entries_from_nibbles(bytes, count, dy, x, RUN, r->entries, PANEL);
    k->entries_from_nibbles(bytes, count / PANEL * PANEL, dy, x, WHOLE, r->apart, APART);
    k->entries_turn(words, LANES, WORDS, dy, a, r->turned, LANES);
    k->f16_turn(words, LANES, WORDS, r->halves[0], LANES);
    k->bf16_turn(words, LANES, WORDS, r->halves[1], LANES);
    k->middles_below(x, count, middles, r->below);
    k->nibbles_pack(r->below, count, r->packed);
    k->f16_encode(x, count, r->half[0]);
    k->f16_decode(r->half[0], count, r->from_half[0]);
    k->bf16_encode(x, count, r->half[1]);
    k->bf16_decode(r->half[1], count, r->from_half[1]);
    int64_t few = count < STE_COUNT_MAX ? count : STE_COUNT_MAX;
    k->ste(&range, x, dy, few, r->ste, r->ste_sums);
    k->ste(&range, x, dy, count, r->mask, NULL);
    k->mask_pack(r->mask, count, r->bits);
    k->mask_apply(r->bits, dy, count, r->masked);
    for (int i = 0; i < 3; i++) memcpy(r->rescaled[i], x, sizeof x);
    k->rescale(dy, a, b, channels, rows, channels, r->rescaled[0]);
    k->rescale(dy, a, NULL, channels, rows, channels, r->rescaled[1]);
    k->rescale(NULL, NULL, b, channels, rows, channels, r->rescaled[2]);
    PoolWindow window = pool_window(channels);
    k->pool_max(&window, ties, channels, r->largest, r->winner);
    memcpy(r->spread[1], x, sizeof x);
    for (int i = 0; i < 2; i++) k->pool_spread(&window, dy, r->winner, channels, i, r->spread[i]);
}

/* Each window in turn, pixel by pixel. */
static void check_pool(const Results *r, int64_t channels) {
    for (int64_t i = 0; i < POOL_COUNT * channels; i++) {
        int64_t corner = i / channels * POOL_COLUMNS * channels + i % channels, best = corner;
        int at = 0;
        for (int p = 1; p < POOL_ROWS * POOL_COLUMNS; p++) {
            int64_t pixel = corner + (p / POOL_COLUMNS * POOL_WIDTH + p % POOL_COLUMNS) * channels;
            if (!(ties[pixel] > ties[best]) && !isnan(ties[pixel])) continue;
            best = pixel, at = p;
        }
        assert_int_equal(r->winner[i], at);
        assert_memory_equal(&r->largest[i], &ties[best], sizeof *ties);
        for (int p = 0; p < POOL_ROWS * POOL_COLUMNS; p++) {
            int64_t pixel = corner + (p / POOL_COLUMNS * POOL_WIDTH + p % POOL_COLUMNS) * channels;
            float more = p == at ? dy[i] : 0;
            assert_true(r->spread[0][pixel] == more);
            assert_true(r->spread[1][pixel] == x[pixel] + more);
        }
    }
}

/* Values by values, of which some lie beyond the bins, some are 0, and some are not numbers. */
static void check_bins(const Results *r, int64_t count) {
    static uint32_t expected[BIN_COUNT], zeros;
    memset(expected, 0, sizeof expected);
    zeros = 0;
    for (int64_t i = 0; i < 2 * count; i++) {
        float value = i < count ? ties[i] : x[i - count];
        float place = value * (i < count ? 900 : 1500) + BIN_COUNT / 2;
        if (value == 0)
            zeros++;
        else
            expected[isnan(value) ? 0 : (int)fmaxf(0, fminf(place, BIN_COUNT - 1))]++;
    }
    for (int i = BIN_COUNT; i < BIN_SLOTS; i++) zeros -= r->bins[i];
    assert_int_equal(zeros, 0);
    assert_memory_equal(r->bins, expected, sizeof expected);
}

static void assert_near(double got, double expected, double size) {
    if (fabs(got - expected) > 1e-6 * size) fail_msg("%g instead of %g", got, expected);
}

static void check_columns(const Results *r, int64_t rows, int64_t channels) {
    for (int64_t j = 0; j < channels; j++) {
        double s[3] = {0}, o[2] = {0};
        for (int64_t i = j; i < rows * channels; i += channels) {
            double off = (double)x[i] - (double)a[j];
            s[0] += (double)x[i], s[1] += (double)dy[i], s[2] += off;
            o[0] += (double)dy[i] * off, o[1] += off * off;
        }
        for (int i = 0; i < 3; i++) assert_near((double)r->sum[i][j], s[i], 4 * (double)rows);
        for (int i = 0; i < 2; i++) assert_near((double)r->other[i][j], o[i], 16 * (double)rows);
    }
}

/* Rows of words, turned. */
static void check_turned(const Results *r) {
    for (int i = 0; i < 8 * WORDS; i++)
        for (int row = 0; row < LANES; row++) {
            uint32_t code = words[i / 8 * LANES + row] >> (i % 8 * 4) & 15;
            assert_true(r->turned[i * LANES + row] == a[row] * dy[code]);
        }
    for (int i = 0; i < 2 * WORDS; i++)
        for (int row = 0; row < LANES; row++) {
            uint32_t half = words[i / 2 * LANES + row] >> i % 2 * 16 & 0xffff, bits = half << 16;
            float as_bf16, as_f16;
            memcpy(&as_bf16, &bits, sizeof bits);
            dtype_decode(DTYPE_F16, &half, NULL, 0, 1, &as_f16);
            assert_true(r->halves[0][i * LANES + row] == as_f16);
            assert_true(r->halves[1][i * LANES + row] == as_bf16);
        }
}

static void check_elements(const Results *r, int64_t rows, int64_t channels) {
    double sums[2] = {0}, squares = 0;
    float low = 0, high = 0;
    for (int64_t i = 0; i < rows * channels; i++) {
        int64_t j = i % channels;
        low = fminf(low, x[i]), high = fmaxf(high, x[i]);
        squares += pow((double)x[i], 2);
        assert_true(r->affine[i] == (x[i] - a[j]) * b[j] + c[j]);
        assert_true(r->backward[i] == b[j] * dy[i] + c[j] * (x[i] - a[j]) + d[j]);
        float scaled = x[i] * (dy[i / channels] * a[j]);
        assert_true(r->rescaled[0][i] == scaled + b[j] && r->rescaled[1][i] == scaled);
        assert_true(r->rescaled[2][i] == x[i] + b[j]);
        assert_true(r->add[i] == x[i] + dy[i] && r->multiply[i] == a[0] * x[i]);
        assert_true(r->relu[i] == fmaxf(x[i], 0) && r->relu_backward[i] == (x[i] > 0 ? dy[i] : 0));
        float code = rintf(x[i] * 3), level = fminf(fmaxf(code, -4), 3);
        assert_true(r->quantize[i] == level && r->bytes[i] == (uint8_t)(level + 4));
        assert_int_equal(r->at_once[i], r->bytes[i]);
        assert_true(r->levels[i] == 2.0f * (float)bytes[i] - 7);
        int shift = i % 2 ? 4 : 0;
        assert_int_equal(r->nibbles[i / 2] >> shift & 15, r->bytes[i]);
        assert_true(r->from_nibbles[i] == 2.0f * (float)(bytes[i / 2] >> shift & 15) - 7);
        assert_true(r->entries[i] == x[i / RUN] * dy[bytes[i / 2] >> shift & 15]);
        if (i < rows * channels / PANEL * PANEL)
            assert_true(r->apart[i / PANEL * APART + i % PANEL] ==
                        x[i / WHOLE] * dy[bytes[i / 2] >> shift & 15]);
        int below = 0;
        for (int m = 0; m < MIDDLES; m++) below += x[i] > middles[m];
        assert_true(r->below[i] == below && (r->packed[i / 2] >> shift & 15) == below);
        assert_true(r->mask[i] == (code == level ? dy[i] : 0));
        assert_true(r->masked[i] == r->mask[i]);
        uint32_t word = r->bits[i / MASK_RUN * LANES + i % LANES];
        assert_int_equal(word >> (i % MASK_RUN / LANES) & 1, r->mask[i] != 0);
        assert_true(fabsf(r->from_half[0][i] - x[i]) <= 0x1p-11f * fabsf(x[i]));
        assert_true(fabsf(r->from_half[1][i] - x[i]) <= 0x1p-8f * fabsf(x[i]));
        if (i >= STE_COUNT_MAX) continue;
        assert_true(r->ste[i] == r->mask[i]);
        double slope = code == level ? (double)level - (double)(x[i] * 3) : (double)level;
        sums[0] += (double)dy[i] * slope;
        sums[1] += code == level ? 0 : (double)dy[i];
    }
    int64_t count = rows * channels;
    for (int64_t i = count / 2; i < ELEMENTS / 2;
         i++) /* what is left of the last byte, and beyond */
        assert_int_equal(i == count / 2 && count % 2 ? r->nibbles[i] >> 4 : r->nibbles[i], 0);
    for (int i = 0; i < 2; i++) assert_near(r->ste_sums[i], sums[i], 4 * STE_COUNT_MAX);
    assert_true(r->low == low && r->high == high && !r->has_nan);
    assert_near(r->squares, squares, 1e-6 * squares);
}

static bool choose(const char *isa) {
    Error err = {0};
    setenv("NIBBLE_ISA", isa, 1);
    return kernels_init(&err);
}

static void test_row_kernels(void **state) {
    (void)state;
    static Results first, other;
    for (uint64_t i = 0; i < CASES; i++) {
        int64_t rows = 1 + (int64_t)(i * 7 % ROWS_MAX),
                channels = 1 + (int64_t)(i * 13 % CHANNELS_MAX);
        draw(i);
        assert_true(choose(isas[0]));
        run(rows, channels, &first);
        check_columns(&first, rows, channels);
        check_elements(&first, rows, channels);
        check_pool(&first, channels);
        check_turned(&first);
        check_bins(&first, rows * channels);
        for (int j = 1; j < ISA_COUNT; j++) {
            if (!choose(isas[j])) continue;
            run(rows, channels, &other);
            assert_memory_equal(&first, &other, sizeof first);
        }
    }
    unsetenv("NIBBLE_ISA");
}

/* What is not a number stays none, or becomes code 0; nothing else is disturbed. */
static void test_not_a_number(void **state) {
    (void)state;
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        float in[33], out[33];
        uint8_t codes[33];
        for (int i = 0; i < 33; i++) in[i] = i % 3 ? 1.0f : NAN;
        isa_active()->relu(in, 33, out);
        for (int i = 0; i < 33; i++) assert_true(i % 3 ? out[i] == 1 : isnan(out[i]));
        bool has_nan[2] = {false, false};
        isa_active()->quantize(in, 33, 1, -4, 3, out, &has_nan[0]);
        for (int i = 0; i < 33; i++) assert_true(i % 3 ? out[i] == 1 : isnan(out[i]));
        float low, high;
        double squares = 0;
        isa_active()->extremes(in, 33, &low, &high);
        assert_true(low == 0 && high == 1);
        isa_active()->squares(in, 33, &squares);
        assert_true(isnan(squares));
        isa_active()->levels_to_bytes(out, 33, 1, -4, 7, codes);
        for (int i = 0; i < 33; i++) assert_int_equal(codes[i], i % 3 ? 5 : 0);
        isa_active()->quantize_to_bytes(in, 33, 1, -4, 3, codes, &has_nan[1]);
        assert_true(has_nan[0] && has_nan[1]);
        for (int i = 0; i < 33; i++) assert_int_equal(codes[i], i % 3 ? 5 : 0);
        isa_active()->levels_to_nibbles(out, 33, 1, -4, 7, codes);
        for (int i = 0; i < 33; i++)
            assert_int_equal(codes[i / 2] >> (i % 2 ? 4 : 0) & 15, i % 3 ? 5 : 0);
    }
    unsetenv("NIBBLE_ISA");
}

/* Wherever one stands, and nowhere else; infinities are none. */
static void test_not_a_number_is_said(void **state) {
    (void)state;
    enum { COUNT = 70 };
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        for (int at = -1; at < COUNT; at++) {
            float in[COUNT], out[COUNT];
            uint8_t codes[COUNT];
            bool has_nan[2] = {false, false};
            for (int i = 0; i < COUNT; i++) in[i] = i == at ? NAN : i == 3 ? -INFINITY : 1e30f;
            isa_active()->quantize(in, COUNT, 1, -4, 3, out, &has_nan[0]);
            isa_active()->quantize_to_bytes(in, COUNT, 1, -4, 3, codes, &has_nan[1]);
            assert_true(has_nan[0] == (at >= 0) && has_nan[1] == (at >= 0));
        }
    }
    unsetenv("NIBBLE_ISA");
}

/* Every f16 code through the decoder and back, and values at the edges of the format. */
static void test_half_precision_codes(void **state) {
    (void)state;
    enum { CODES = 1 << 16, EDGES = 12 };
    static uint16_t codes[CODES], back[CODES];
    static float values[CODES], first[CODES];
    const float edges[EDGES] = {65504, 65519.99f, 65520, 1e30f,    INFINITY, -65520,
                                0,     -0.0f,     6e-8f, 2.98e-8f, 1e-40f,   0x1.ffcp-15f};
    const uint16_t expected[EDGES] = {0x7bff, 0x7bff, 0x7c00, 0x7c00, 0x7c00, 0xfc00,
                                      0,      0x8000, 1,      0,      0,      0x400};
    for (int i = 0; i < CODES; i++) codes[i] = (uint16_t)i;
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        isa_active()->f16_decode(codes, CODES, values);
        if (j == 0) memcpy(first, values, sizeof first);
        assert_memory_equal(first, values, sizeof first);
        isa_active()->f16_encode(values, CODES, back);
        for (int i = 0; i < CODES; i++) assert_int_equal(back[i], isnan(values[i]) ? i | 0x200 : i);
        float few[2 * EDGES]; /* long enough for every vector, and a rest */
        for (int i = 0; i < 2 * EDGES; i++) few[i] = edges[i % EDGES];
        isa_active()->f16_encode(few, 2 * EDGES, back);
        for (int i = 0; i < 2 * EDGES; i++) assert_int_equal(back[i], expected[i % EDGES]);
    }
    unsetenv("NIBBLE_ISA");
}

/* Of every shape up to some vectors each way: in place, zeros up to whole vectors, nothing beyond.
 */
static void test_transpose(void **state) {
    (void)state;
    enum { SIDE = 35, WIDE = 48, UNTOUCHED = 99 };
    static float y[WIDE * WIDE];
    draw(1);
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        for (int64_t rows = 1; rows <= SIDE; rows++)
            for (int64_t columns = 1; columns <= SIDE; columns++) {
                for (int i = 0; i < WIDE * WIDE; i++) y[i] = UNTOUCHED;
                isa_active()->transpose(x, SIDE + 1, rows, columns, y, WIDE);
                for (int64_t i = 0; i < WIDE * WIDE; i++) {
                    int64_t column = i / WIDE, row = i % WIDE;
                    bool is_written = column < columns && row < lanes_up(rows);
                    float value = row < rows ? x[row * (SIDE + 1) + column] : 0;
                    assert_true(y[i] == (is_written ? value : UNTOUCHED));
                }
            }
    }
    unsetenv("NIBBLE_ISA");
}

/* Against the C library's in double; the same bits on every instruction set, whole vectors and
 * rests. */
static void test_exponentials(void **state) {
    (void)state;
    enum { COUNT = 40007 };
    static float from[COUNT], y[COUNT], first[COUNT];
    for (int i = 0; i < COUNT; i++) from[i] = (float)(-105 + 193.0 * i / COUNT);
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        isa_active()->exponentials(from, COUNT, 1, 0, y);
        if (j == 0) memcpy(first, y, sizeof first);
        assert_memory_equal(first, y, sizeof first);
        for (int i = 0; i < COUNT; i++) {
            double exact = exp((double)from[i]), unit = exact * 0x1p-23;
            if (unit < 0x1p-149) unit = 0x1p-149;
            if (fabs((double)y[i] - exact) > 2 * unit)
                fail_msg("%s: exp(%.9g) is %.9g", isas[j], (double)from[i], (double)y[i]);
        }
        const float few[] = {0, 1, -INFINITY, NAN, -200, -3};
        isa_active()->exponentials(few, 6, 2, 1, y);
        assert_true(y[0] == (float)exp(-1) && y[2] == 0 && isnan(y[3]) && y[4] == 0);
        assert_true(fabs((double)y[1] - exp(1)) < 1e-6 && fabs((double)y[5] - exp(-7)) < 1e-9);
    }
    unsetenv("NIBBLE_ISA");
}

static void test_logistic(void **state) {
    (void)state;
    enum { COUNT = 40007 };
    static float from[COUNT], y[COUNT], first[COUNT];
    for (int i = 0; i < COUNT; i++) from[i] = (float)(-110 + 220.0 * i / COUNT);
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        isa_active()->logistic(from, COUNT, y);
        if (j == 0) memcpy(first, y, sizeof first);
        assert_memory_equal(first, y, sizeof first);
        for (int i = 0; i < COUNT; i++) {
            double exact = 1 / (1 + exp(-(double)from[i]));
            if (from[i] < -88.7f ? y[i] > (float)exact /* 0, where the exponential is infinite */
                                 : fabs((double)y[i] - exact) > 3 * exact * 0x1p-23)
                fail_msg("%s: logistic(%.9g) is %.9g", isas[j], (double)from[i], (double)y[i]);
        }
        const float few[] = {0, INFINITY, -INFINITY, NAN, -200, 200};
        isa_active()->logistic(few, 6, y);
        assert_true(y[0] == 0.5f && y[1] == 1 && y[2] == 0 && isnan(y[3]) && y[4] == 0 &&
                    y[5] == 1);
    }
    unsetenv("NIBBLE_ISA");
}

static void test_largest(void **state) {
    (void)state;
    draw(3);
    for (int j = 0; j < ISA_COUNT; j++) {
        if (!choose(isas[j])) continue;
        for (int64_t count = 1; count < 70; count++) {
            float most, wanted = x[0];
            for (int64_t i = 1; i < count; i++) wanted = x[i] > wanted ? x[i] : wanted;
            isa_active()->largest(x, count, &most);
            assert_true(most == wanted);
        }
        float most;
        isa_active()->largest((const float[]){-300, NAN, -200}, 3, &most);
        assert_true(most == -200);
    }
    unsetenv("NIBBLE_ISA");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row_kernels),
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_not_a_number_is_said),
        cmocka_unit_test(test_half_precision_codes),
        cmocka_unit_test(test_exponentials),
        cmocka_unit_test(test_logistic),
        cmocka_unit_test(test_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
