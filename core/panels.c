#include "core/panels.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { WORD_BITS = 32 };

static int64_t codes_per_word(const Tensor *t) {
    return WORD_BITS / dtype_codec(t->dtype)->code_bits;
}

static int64_t words_of_row(const Tensor *t) {
    return shape_last(t->shape) / codes_per_word(t);
}

/* Of a row. */
static int64_t runs_of_row(const Tensor *t) {
    return t->scales ? count_pieces(shape_last(t->shape), t->scales->run_length) : 0;
}

bool panels_fit(const Tensor *t) {
    float entries[CODES_OF_NIBBLE];
    bool is_matrix = t->shape.rank == 2 && t->shape.dim[1] > 0 && t->layout == LAYOUT_ROWS;
    if (!is_matrix || !operand_in_words(t)) return false;
    if (t->dtype == DTYPE_F32) return !t->scales && t->shape.dim[0] % LANES == 0;
    bool is_read = dtype_codec(t->dtype)->turn || operand_entries(t, entries);
    return is_read && t->shape.dim[0] % PANEL == 0;
}

/* [rows][columns] to [columns][rows], in place. */
static void turn(float *x, int64_t rows, int64_t columns, float *turned) {
    isa_active()->transpose(x, columns, rows, columns, turned, rows);
    memcpy(x, turned, sizeof *x * (size_t)(rows * columns));
}

/* Scales as f32 that may be written, a row of the matrix after the other. */
static float *scales_decoded(const Scales *s, Arena *arena) {
    if (s->scale) return (float *)(uintptr_t)s->scale;
    float *scale = arena_new_array(arena, float, s->count);
    tensor_decode(s->stored, scale);
    for (int64_t i = 0; i < s->count; i++) scale[i] += s->offset;
    return scale;
}

static void set_scales(Tensor *t, Arena *arena) {
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = *t->scales;
    s->scale = scales_decoded(s, arena);
    s->stored = NULL, s->offset = 0, s->dtype = DTYPE_F32;
    t->scales = s;
}

void panels_lay(Tensor *t, Arena *arena) {
    assert(panels_fit(t));
    if (t->scales) set_scales(t, arena);
    int64_t words = words_of_row(t), runs = runs_of_row(t); /* of a row, runs are no more */
    int64_t each = PANEL * words;
    Arena *scratch = arena_new("panels");
    size_t count = checked_mul((size_t)each, (size_t)parallel_threads());
    float *turned = arena_alloc(scratch, checked_mul(sizeof *turned, count));
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < t->shape.dim[0]; row += PANEL) {
        int64_t rows = count_least(PANEL, t->shape.dim[0] - row);
        float *own = turned + parallel_self() * each;
        turn((float *)t->data + row * words, rows, words, own); /* bits, whatever they mean */
        if (t->scales) turn((float *)(uintptr_t)t->scales->scale + row * runs, rows, runs, own);
    }
    t->layout = LAYOUT_PANELS;
    arena_free(scratch);
}

Panel panels_at(const Tensor *t, int64_t row) {
    return (Panel){.words = (const uint32_t *)t->data + row * words_of_row(t),
                   .scales = t->scales ? t->scales->scale + row * runs_of_row(t) : NULL,
                   .rows = count_least(PANEL, t->shape.dim[0] - row)};
}

/* Columns of a row, of one run, that begin and end with words. */
static void piece_read(const Tensor *t, int64_t row, int64_t column, int64_t count, float *values) {
    int64_t within = row % PANEL, first = column / codes_per_word(t);
    Panel panel = panels_at(t, row - within);
    uint32_t words[PANEL];
    Scales scale;
    Tensor piece = {.dtype = t->dtype, .shape = SHAPE(count), .data = words};
    for (int64_t i = 0; i < count / codes_per_word(t); i++)
        words[i] = panel.words[(first + i) * panel.rows + within];
    if (t->scales) {
        scale = *t->scales;
        scale.row_length = scale.run_length = count, scale.count = 1;
        scale.scale = panel.scales + column / t->scales->run_length * panel.rows + within;
        piece.scales = &scale;
    }
    tensor_decode_part(&piece, 0, count, values);
}

void panels_read(const Tensor *t, int64_t first, int64_t count, float *values) {
    int64_t columns = shape_last(t->shape), word = codes_per_word(t);
    int64_t run = t->scales ? t->scales->run_length : columns;
    for (int64_t done = 0, some; done < count; done += some) {
        float piece[WORD_BITS / 4 * PANEL];
        int64_t row = (first + done) / columns, column = (first + done) % columns;
        int64_t from = column / word * word, end = (column / run + 1) * run;
        end = count_least(count_least(end, columns), from + PANEL * word);
        some = count_least(end - column, count - done);
        piece_read(t, row, from, end - from, piece);
        memcpy(values + done, piece + column - from, sizeof *piece * (size_t)some);
    }
}
