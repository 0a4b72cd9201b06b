/* The inner loops of convolution and of matrix products, compiled once per instruction set and
 * chosen at run time: the first row that the processor can run wins, and the last one always can.
 *
 * Every output is one chain of multiply-adds in an order that the shapes fix, so tiles, threads and
 * vector lengths do not change its bits; with and without fused multiply-add they differ. */
#ifndef NIBBLE_CORE_KERNELS_ISA_H
#define NIBBLE_CORE_KERNELS_ISA_H

#include <stdbool.h>
#include <stdint.h>

enum { LANES = 16 /* output channels of a block of packed weights, whatever the vector length */ };

/* rows and columns of a block of a matrix product */
enum { PANEL = 2 * LANES };

enum { CODED_ROWS = 4 /* at most, of a product that decodes as it multiplies */, AHEAD_LINES = 2 };

/* What happens to a finished sum, in this order; pointers are to the job's first channel. */
typedef struct Finish {
    const float *scale; /* sum * scale, or NULL */
    const float *bias;  /* + bias, or NULL */
    float beta;         /* + beta * what was there */
} Finish;

/* What the caller reads next: brought near while a job computes. */
typedef struct Ahead {
    const char *at;
    int64_t bytes;
} Ahead;

/* `length` inputs that lie side by side, `offset` elements from a pixel's own. */
typedef struct Run {
    int64_t offset, length;
    bool ends_chunk; /* the f32 sum is moved to a double one here; see DirectJob.is_chunked */
} Run;

/* out[pixel][channel] = sum over runs of in[pixel + run][k] * weights[k][channel]. */
typedef struct DirectJob {
    const float *plane;
    const int64_t *pixel_in, *pixel_out; /* offsets into plane and out */
    int64_t pixel_count;
    const Run *runs;
    int64_t run_count;
    bool is_chunked;      /* sums of levels that may leave the exact range of f32 */
    const float *weights; /* [block of LANES channels][depth][LANES], zeros past `channels` */
    int64_t depth;        /* sum of lengths */
    int64_t channels;
    Finish finish;
    float *out;
    Ahead ahead;
    int64_t ahead_step; /* for the kernel */
} DirectJob;

/* sum[row][channel] (+)= sum over pixels of plane[pixel + row] * dy[pixel][channel] */
typedef struct OuterJob {
    const float *plane;
    const int64_t *pixel_in;
    int64_t pixel_count;
    const int64_t *row_offset;
    int64_t row_count;
    const float *dy; /* `dy_stride` floats from pixel to pixel */
    int64_t dy_stride;
    int64_t channels; /* a multiple of LANES */
    bool is_first;    /* overwrite `sum` */
    float *sum;       /* [block of LANES channels][row_count][LANES] */
    Ahead ahead[2];
} OuterJob;

/* sum[row][column] (+)= sum over k of rows[row][k] * panel[k][column], one after the other. */
typedef struct ProductJob {
    const float *rows;
    int64_t row_stride, row_count;
    const float *panel;   /* [depth][panel_stride], zeros past `columns` in a block of LANES */
    int64_t panel_stride; /* PANEL, or LANES where there are no more columns */
    int64_t depth;
    int64_t columns; /* at most PANEL; whole blocks of LANES are written */
    bool is_first;   /* overwrite `sum` */
    float *sum;
    int64_t sum_stride; /* from row to row */
} ProductJob;

/* The same, of few rows, with panels of codes: words[i][column] holds the codes of consecutive k,
 * the first in its lowest bits. Nothing that is decoded waits in memory. */
typedef struct CodedJob {
    const float *rows;
    int64_t row_stride, row_count; /* at most CODED_ROWS */
    const uint32_t *words;         /* [depth / codes in a word][PANEL] */
    const float *entries;          /* of codes of half a byte: what they stand for, and */
    const float *scale;            /* [run][PANEL] what that is multiplied by: */
    int64_t until, run;            /* the first of them up to k = until, the next ones for `run` */
    int64_t depth;                 /* whole words; so are `until` and `run` */
    const char *ahead;             /* what is read later: with each word, AHEAD_LINES lines of it */
    int64_t ahead_stride;          /* are brought near, so many bytes apart */
    bool is_first;                 /* overwrite `sum`, all of PANEL columns */
    float *sum;
    int64_t sum_stride;
    /* Panels, from one to the next so many words and scales, and PANEL sums. */
    int64_t panels, words_panel, scale_panel;
} CodedJob;

/* Depthwise: out[pixel][c] = sum over taps of plane[pixel + tap][c] * weights[tap][c]. The plane
 * may be read, and weights must be padded, up to a multiple of LANES channels. */
typedef struct DepthwiseJob {
    const float *plane;
    const int64_t *pixel_in, *pixel_out;
    int64_t pixel_count;
    const int64_t *tap_offset;
    int64_t tap_count;
    const float *weights; /* [tap_count][channels rounded up to LANES] */
    int64_t channels;
    Finish finish;
    float *out;
} DepthwiseJob;

/* sum[tap][c] (+)= sum over pixels of plane[pixel + tap][c] * dy[pixel][c]; dy and sum have rows of
 * `channels` rounded up to LANES. */
typedef struct DepthwiseOuterJob {
    const float *plane;
    const int64_t *pixel_in;
    int64_t pixel_count;
    const int64_t *tap_offset;
    int64_t tap_count;
    const float *dy;
    int64_t channels;
    bool is_first;
    float *sum;
} DepthwiseOuterJob;

/* What the elements under one scale have in common, for the straight-through estimator. Rounding
 * happens in code units, code = round half even of (x inverse - shift) per_step; level = code step
 * + shift. The slope, d x^ / d scale, is rounding (level - x inverse) in the range (rounding 1:
 * LSQ, 0: PACT). */
typedef struct SteRange {
    float inverse;                  /* 1 / scale */
    float shift, step, per_step;    /* per_step: 1 / step */
    float first, last;              /* before rounding: the least and the greatest in range */
    float slope_below, slope_above; /* outside it */
    float rounding;
    bool has_offset; /* its sum is wanted */
    bool is_sign;    /* of two levels, whose slope is the level in the range too (fake_quant) */
} SteRange;

/* Windows of a pooling, `count` side by side: of each, its pixels that lie inside the image. A
 * pixel is known by its number among these, row-major. */
typedef struct PoolWindow {
    int64_t rows, columns;            /* inside */
    int64_t row_stride, pixel_stride; /* floats from a row of the image to the next, and pixels */
    int64_t count, step;              /* floats from a window to the next */
} PoolWindow;

enum { MASK_RUN = 32 * LANES /* elements whose mask is a word per lane */ };
enum { STE_COUNT_MAX = 512 /* elements summed in float before a double takes over */ };
enum { BIN_COUNT = 4096 /* of a histogram */, BIN_SLOTS = BIN_COUNT + LANES };

typedef struct Isa {
    const char *name;
    bool (*is_supported)(void);
    void (*direct)(const DirectJob *job);
    void (*outer)(const OuterJob *job);
    void (*product)(const ProductJob *job);
    void (*entries_product)(const CodedJob *job);
    void (*f16_product)(const CodedJob *job);
    void (*bf16_product)(const CodedJob *job);
    void (*depthwise)(const DepthwiseJob *job);
    void (*depthwise_outer)(const DepthwiseOuterJob *job);
#define ROW_KERNEL(name, arguments) void(*name) arguments;
#include "core/kernels/rows.def"
#undef ROW_KERNEL
} Isa;

const Isa *isa_active(void); /* what kernels_init chose, else the best there is */

static inline int64_t lanes_up(int64_t channels) {
    return (channels + LANES - 1) / LANES * LANES;
}

#endif
