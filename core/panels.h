/* Matrices laid out in panels (LAYOUT_PANELS), as products of few rows read weights: from front to
 * back, nothing turned on the way.
 *
 * PANEL rows are a panel; the last one may have LANES. A row's words are the 32 bits that its codes
 * fill: 8 codes of half a byte, 2 numbers of 16 bits, or an f32. A panel is [words of a row][rows
 * of the panel]; the scales of a panel, one for each run of columns, are [runs][rows of the panel].
 * So a panel takes the bytes that its rows took. */
#ifndef NIBBLE_CORE_PANELS_H
#define NIBBLE_CORE_PANELS_H

#include "core/tensor.h"

/* Whether it may be laid out so: a matrix of f32, f16 or bf16, or of codes of half a byte that
 * stand for the same entries under every scale, of which rows and runs are whole words. */
bool panels_fit(const Tensor *tensor);

/* From now on the tensor lies in panels: words where they were, which must be memory that may be
 * written, and so with scales in f32; others are decoded into `arena`. */
void panels_lay(Tensor *tensor, Arena *arena);

/* Elements first .. first + count - 1 of such a tensor as values: slower than of rows. */
void panels_read(const Tensor *tensor, int64_t first, int64_t count, float *values);

/* Where the panel that begins with `row` lies. */
typedef struct Panel {
    const uint32_t *words;
    const float *scales; /* NULL: none */
    int64_t rows;        /* PANEL, or LANES */
} Panel;
Panel panels_at(const Tensor *tensor, int64_t row);

#endif
