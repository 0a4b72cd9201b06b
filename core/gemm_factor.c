#include "core/gemm_factor.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/panels.h"

enum {
    DECODED = 128,        /* columns decoded at a time, before they are transposed */
    WORD = 8,             /* codes of half a byte in 32 bits */
    TILE_WORDS = 16,      /* turned at a time */
    AHEAD = 4,            /* rows */
    LINE = 64,            /* bytes */
    AHEAD_BYTES = 1 << 12 /* in panels */
};

/* ---- Factors ---- */

Factor factor_of(const Matrix *matrix, bool as_levels, bool is_k_last, bool is_panel) {
    int64_t outer = is_k_last ? matrix->rows : matrix->cols;
    Factor f = {.operand = {matrix->tensor, as_levels},
                .outer = outer,
                .stride = matrix->row_stride,
                .is_k_last = is_k_last,
                .is_panel = is_panel};
    const Tensor *tensor = &f.operand.tensor;
    if (tensor->scales) f.scales = *tensor->scales;
    f.is_in_place = operand_lies(&f.operand) && is_k_last && !is_panel;
    f.in_panels = tensor->layout == LAYOUT_PANELS && is_k_last && is_panel && !as_levels;
    if (tensor->layout == LAYOUT_PANELS && !f.in_panels) return f; /* number by number */
    if (f.in_panels && tensor->dtype == DTYPE_F32) f.is_in_place = true;
    bool in_words = operand_in_words(tensor);
    f.has_entries = !as_levels && in_words && operand_entries(tensor, f.entries);
    f.has_halves = in_words && dtype_codec(tensor->dtype)->turn;
    return f;
}

bool factor_can_be_coded(const Factor *f) {
    return f->is_panel && f->is_k_last && (f->has_entries || f->has_halves);
}

/* Codes are decoded in panels, not copied there: scales change between panels. */
static bool is_decoded_there(const Factor *f) {
    return f->has_entries && f->scales.run_length % PANEL == 0;
}

int64_t factor_panels(const Factor *f) {
    return operand_lies(&f->operand) || is_decoded_there(f) ? PANELS_FEW : PANELS_MAX;
}

/* ---- Scales ---- */

static bool scales_are_wanted(const Factor *f) {
    const Scales *scales = f->operand.tensor.scales;
    return scales && !f->operand.as_levels && !f->is_coded && !scales->scale &&
           scales->dtype != DTYPE_F32;
}

int64_t factor_scales_scratch(const Factor *f) {
    return scales_are_wanted(f) ? arena_padded((int64_t)sizeof(float) * f->scales.count) : 0;
}

/* Scales first .. first + count - 1. */
static void scales_decode(const Scales *scales, int64_t first, int64_t count, float *scale) {
    tensor_decode_part(scales->stored, first, count, scale);
    for (int64_t i = 0; i < count; i++) scale[i] += scales->offset;
}

/* A few at a time, for each part that is decoded, they would cost more than it. */
void factor_ready_scales(Factor *f, Arena *scratch) {
    enum { CHUNK = 1 << 12 };
    int64_t count = f->scales.count;
    if (!scales_are_wanted(f)) return;
    float *scale = arena_alloc(scratch, checked_mul(sizeof *scale, (size_t)count));
    const Scales stored = f->scales;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK)
        scales_decode(&stored, first, count_least(CHUNK, count - first), scale + first);
    f->scales.scale = scale, f->scales.stored = NULL;
}

/* Of each run of columns, the scales of a block's rows: [run][PANEL]. */
static void scales_turn(const Factor *f, int64_t first, int64_t rows, float *made) {
    enum { FEW = 64 /* of a row at a time */ };
    const Scales *scales = &f->scales;
    int64_t runs = count_pieces(f->stride, scales->run_length);
    const Isa *isa = isa_active();
    float decoded[PANEL * FEW];
    if (rows <= LANES) memset(made, 0, sizeof *made * (size_t)(runs * PANEL));
    if (scales->scale) {
        isa->transpose(scales->scale + first * runs, runs, rows, runs, made, PANEL);
    } else if (runs <= FEW) { /* rows lie side by side */
        scales_decode(scales, first * runs, rows * runs, decoded);
        isa->transpose(decoded, runs, rows, runs, made, PANEL);
    } else {
        for (int64_t r = 0; r < runs; r += FEW) {
            int64_t some = count_least(FEW, runs - r);
            for (int64_t i = 0; i < rows; i++)
                scales_decode(scales, (first + i) * runs + r, some, decoded + i * FEW);
            isa->transpose(decoded, FEW, rows, some, made + r * PANEL, PANEL);
        }
    }
}

/* ---- Tiles ---- */

/* An operand that reads the scales that are ready. */
static Operand operand_of(const Factor *f) {
    Operand operand = f->operand;
    if (operand.tensor.scales) operand.tensor.scales = &f->scales;
    return operand;
}

/* From row to row of what is made: no multiple of the sizes that share sets of a cache. */
static int64_t made_stride(const Factor *f) {
    return f->is_panel ? PANEL : lanes_up(f->depth) | LANES;
}

static int64_t block_floats(const Factor *f) {
    if (f->is_coded)
        return f->has_entries && !f->in_panels
                   ? count_pieces(f->stride, f->scales.run_length) * PANEL
                   : 0;
    return (f->is_panel ? f->depth : PANEL) * made_stride(f);
}

int64_t factor_made_floats(const Factor *f) {
    return f->is_in_place ? 0 : f->blocks * block_floats(f);
}

Tile factor_tile(const Factor *f, int64_t index, Slice slice, const float *made, int64_t nth,
                 int64_t from) {
    if (f->is_in_place && f->in_panels) {
        Panel panel = panels_at(&f->operand.tensor, index * PANEL);
        return (Tile){(const float *)panel.words + slice.first * panel.rows, panel.rows};
    }
    if (f->is_in_place)
        return (Tile){tensor_f32(&f->operand.tensor) + index * PANEL * f->stride + slice.first,
                      f->stride};
    int64_t stride = made_stride(f), k = slice.first - from;
    return (Tile){made + nth * block_floats(f) + k * (f->is_panel ? stride : 1), stride};
}

/* ---- Making ---- */

/* Numbers at their places in the stored matrix. */
typedef struct Part {
    int64_t row, rows, column, columns;
} Part;

_Static_assert(
    TILE_WORDS * sizeof(uint32_t) == LINE && AHEAD_LINES * TILE_WORDS == PANEL,
    "of each row a line is turned at a time; meanwhile one of each row ahead is touched");

/* Words of codes of at most PANEL rows, turned: [word][row]. */
typedef union WordTile {
    float turned[TILE_WORDS * PANEL];
    uint32_t codes[TILE_WORDS * PANEL];
} WordTile;

static const char *words_at(const Factor *f, int64_t row, int64_t column) {
    int64_t bits = dtype_codec(f->operand.tensor.dtype)->code_bits;
    return (const char *)f->operand.tensor.data + (row * f->stride + column) * bits / 8;
}

static void words_turn(const Factor *f, int64_t row, int64_t rows, int64_t column, int64_t columns,
                       WordTile *words, int64_t words_stride) {
    int64_t per_word = 32 / dtype_codec(f->operand.tensor.dtype)->code_bits;
    const void *from = words_at(f, row, column);
    isa_active()->transpose(from, f->stride / per_word, rows, columns / per_word, words->turned,
                            words_stride);
}

/* The same columns of the block of rows behind these ones are brought near: pieces of rows lie too
 * far apart for the processor to foresee them. */
static void words_touch(const Factor *f, int64_t row, int64_t rows, int64_t column,
                        int64_t columns) {
    int64_t bytes = columns * dtype_codec(f->operand.tensor.dtype)->code_bits / 8;
    for (int64_t i = 0; i < rows; i++) {
        const char *ahead = words_at(f, row + i + PANEL, column);
        for (int64_t j = 0; j < bytes; j += LINE) __builtin_prefetch(ahead + j, 0, 2);
    }
}

/* Words of at most LANES rows, turned: those of a column, and from them to the next. */
typedef struct Turned {
    const uint32_t *words;
    int64_t stride;
} Turned;

/* Where they lie so, or in `tile`. */
static Turned words_ready(const Factor *f, int64_t row, int64_t rows, int64_t column,
                          int64_t columns, WordTile *tile) {
    int64_t within = row % PANEL, per_word = 32 / dtype_codec(f->operand.tensor.dtype)->code_bits;
    if (f->in_panels) {
        Panel panel = panels_at(&f->operand.tensor, row - within);
        return (Turned){panel.words + column / per_word * panel.rows + within, panel.rows};
    }
    words_touch(f, row, rows, column, columns);
    words_turn(f, row, rows, column, columns, tile, LANES);
    return (Turned){tile->codes, LANES};
}

/* Of LANES rows their scale in a run of columns: where they lie so, or in `scale`. */
static const float *scales_ready(const Factor *f, int64_t row, int64_t rows, int64_t run,
                                 float scale[LANES]) {
    int64_t within = row % PANEL, runs = count_pieces(f->stride, f->scales.run_length);
    if (f->in_panels) {
        Panel panel = panels_at(&f->operand.tensor, row - within);
        return panel.scales + run * panel.rows + within;
    }
    for (int64_t i = 0; i < rows; i++) scale[i] = f->scales.scale[(row + i) * runs + run];
    return scale;
}

/* Turned words of LANES rows, of columns from `column` on, to columns of values: each run of them
 * has its scale. */
static void runs_turn(const Factor *f, int64_t row, int64_t rows, int64_t column, int64_t columns,
                      Turned turned, float *to, int64_t to_stride) {
    int64_t run = f->scales.run_length;
    for (int64_t c = 0, some; c < columns; c += some) {
        float scale[LANES] = {0};
        int64_t number = (column + c) / run;
        some = count_least(columns, (number + 1) * run - column) - c;
        isa_active()->entries_turn(
            turned.words + c / WORD * turned.stride, turned.stride, some / WORD, f->entries,
            scales_ready(f, row, rows, number, scale), to + c * to_stride, to_stride);
    }
}

/* A part of codes of half a byte to columns that are `to_stride` apart, LANES rows at a time: words
 * of codes are turned, an eighth of what their values would be. */
static void entries_turn(const Factor *f, Part part, float *to, int64_t to_stride) {
    for (int64_t r = 0; r < part.rows; r += LANES) {
        int64_t row = part.row + r, rows = count_least(LANES, part.rows - r);
        for (int64_t c = 0, some; c < part.columns; c += some) {
            WordTile words;
            some = count_least(WORD * TILE_WORDS, part.columns - c);
            Turned turned = words_ready(f, row, rows, part.column + c, some, &words);
            runs_turn(f, row, rows, part.column + c, some, turned, to + c * to_stride + r,
                      to_stride);
        }
    }
}

/* The same of numbers of 16 bits. */
static void halves_turn(const Factor *f, Part part, float *to, int64_t to_stride) {
    const Codec *codec = dtype_codec(f->operand.tensor.dtype);
    for (int64_t r = 0; r < part.rows; r += LANES) {
        int64_t rows = count_least(LANES, part.rows - r);
        for (int64_t c = 0, some; c < part.columns; c += some) {
            WordTile words;
            some = count_least(2 * TILE_WORDS, part.columns - c);
            Turned turned = words_ready(f, part.row + r, rows, part.column + c, some, &words);
            codec->turn(turned.words, turned.stride, some / 2, to + c * to_stride + r, to_stride);
        }
    }
}

/* A part of the stored matrix to columns that are `to_stride` apart. */
static void part_turn(const Factor *f, Part part, float *to, int64_t to_stride) {
    const Isa *isa = isa_active();
    if (operand_lies(&f->operand)) {
        const float *from = tensor_f32(&f->operand.tensor) + part.row * f->stride + part.column;
        isa->transpose(from, f->stride, part.rows, part.columns, to, to_stride);
        return;
    }
    if (f->has_entries && part.column % WORD == 0 && part.columns % WORD == 0) {
        entries_turn(f, part, to, to_stride);
        return;
    }
    if (f->has_halves && part.column % 2 == 0 && part.columns % 2 == 0) {
        halves_turn(f, part, to, to_stride);
        return;
    }
    const Operand operand = operand_of(f);
    float decoded[PANEL * DECODED];
    for (int64_t i = 0; i < part.rows; i += PANEL)
        for (int64_t j = 0; j < part.columns; j += DECODED) {
            int64_t rows = count_least(PANEL, part.rows - i),
                    columns = count_least(DECODED, part.columns - j);
            for (int64_t r = 0; r < rows; r++)
                operand_copy(&operand, (part.row + i + r) * f->stride + part.column + j, columns,
                             decoded + r * DECODED);
            isa->transpose(decoded, DECODED, rows, columns, to + j * to_stride + i, to_stride);
        }
}

/* Pieces of rows lie too far apart for the processor to foresee them. */
static void piece_touch(const Operand *operand, int64_t first, int64_t count) {
    int64_t bits = dtype_codec(operand->tensor.dtype)->code_bits;
    const char *codes = (const char *)operand->tensor.data + first * bits / 8;
    for (int64_t i = 0; i < count * bits / 8; i += LINE) __builtin_prefetch(codes + i, 0, 2);
}

/* Columns column .. column + columns - 1 of a row of codes of half a byte; `column` is even. From a
 * piece of PANEL columns to the next are `to_step` floats, PANEL unless both are whole. */
static void entries_copy(const Factor *f, int64_t row, int64_t column, int64_t columns, float *to,
                         int64_t to_step) {
    const Scales *scales = &f->scales;
    const uint8_t *codes = (const uint8_t *)f->operand.tensor.data + row * f->stride / 2;
    int64_t run = scales->run_length, within = column % run;
    const float *scale = scales->scale + row * count_pieces(f->stride, run) + column / run;
    if (within) { /* the rest of a run, then whole ones */
        int64_t rest = count_least(run - within, columns);
        isa_active()->entries_from_nibbles(codes + column / 2, rest, f->entries, scale, run, to,
                                           to_step);
        column += rest, columns -= rest, scale++;
        to += rest / PANEL * to_step + rest % PANEL;
    }
    isa_active()->entries_from_nibbles(codes + column / 2, columns, f->entries, scale, run, to,
                                       to_step);
}

/* Columns column .. column + columns - 1 of a row. */
static void piece_copy(const Factor *f, const Operand *operand, int64_t row, int64_t column,
                       int64_t columns, float *to) {
    if (f->has_entries && column % 2 == 0)
        entries_copy(f, row, column, columns, to, PANEL);
    else
        operand_copy(operand, row * f->stride + column, columns, to);
}

/* The same where they lie, or in `buffer`. */
static const float *piece_read(const Factor *f, const Operand *operand, int64_t row, int64_t column,
                               int64_t columns, float *buffer) {
    if (operand_lies(operand)) return tensor_f32(&operand->tensor) + row * f->stride + column;
    piece_copy(f, operand, row, column, columns, buffer);
    return buffer;
}

/* Columns first .. first + columns - 1 of a slice's rows to panels. */
static void panels_copy(const Factor *f, int64_t first, int64_t columns, Slice slice, float *made) {
    const Operand operand = operand_of(f);
    int64_t size = block_floats(f), whole = columns / PANEL * PANEL, rest = columns - whole;
    bool is_there = is_decoded_there(f);
    float buffer[PANELS_MAX * PANEL];
    assert(columns <= PANELS_MAX * PANEL);
    for (int64_t k = 0; k < slice.depth; k++, made += PANEL) {
        int64_t row = slice.first + k;
        float *last = made + whole / PANEL * size;
        piece_touch(&operand, (row + AHEAD) * f->stride + first, columns);
        if (is_there) {
            entries_copy(f, row, first, whole, made, size);
        } else {
            const float *piece = piece_read(f, &operand, row, first, whole, buffer);
            for (int64_t j = 0; j < whole; j += PANEL)
                memcpy(made + j / PANEL * size, piece + j, PANEL * sizeof *piece);
        }
        if (rest) {
            memset(last, 0, PANEL * sizeof *last);
            piece_copy(f, &operand, row, first + whole, rest, last);
        }
    }
}

static void panels_turn(const Factor *f, int64_t first, int64_t columns, Slice slice, float *made) {
    for (int64_t i = 0; i < columns; i += PANEL, made += block_floats(f)) {
        int64_t some = count_least(PANEL, columns - i);
        if (some <= LANES) memset(made, 0, sizeof *made * (size_t)(PANEL * slice.depth));
        part_turn(f, (Part){first + i, some, slice.first, slice.depth}, made, PANEL);
    }
}

void factor_make(const Factor *f, int64_t index, int64_t blocks, Slice slice, float *made) {
    int64_t first = index * PANEL, outer = count_least(blocks * PANEL, f->outer - first);
    if (f->is_in_place) return;
    assert(blocks <= f->blocks && slice.depth <= f->depth);
    if (f->is_coded) {
        assert(blocks == 1 || f->in_panels);
        if (f->has_entries && !f->in_panels) scales_turn(f, first, outer, made);
    } else if (f->is_panel && f->is_k_last) {
        panels_turn(f, first, outer, slice, made);
    } else if (f->is_panel) {
        panels_copy(f, first, outer, slice, made);
    } else if (f->is_k_last) {
        const Operand operand = operand_of(f);
        for (int64_t i = 0; i < outer; i++)
            piece_copy(f, &operand, first + i, slice.first, slice.depth, made + i * made_stride(f));
    } else {
        part_turn(f, (Part){slice.first, slice.depth, first, outer}, made, made_stride(f));
    }
}

/* ---- Codes that are multiplied as they lie ---- */

static void job_run(const Factor *f, const CodedJob *job) {
    if (f->has_entries)
        isa_active()->entries_product(job);
    else
        dtype_codec(f->operand.tensor.dtype)->multiply(job);
}

/* Nothing is turned: words and scales are read from front to back. */
static void panels_multiply(const Factor *f, int64_t first, int64_t blocks, CodedJob *job) {
    const Tensor *tensor = &f->operand.tensor;
    Panel panel = panels_at(tensor, first), next = panels_at(tensor, first + PANEL);
    job->panels = blocks;
    job->words_panel = next.words - panel.words;
    if (panel.scales) job->scale_panel = next.scales - panel.scales;
    job->words = panel.words, job->scale = panel.scales;
    job->until = job->run, job->depth = f->stride;
    job->ahead = (const char *)panel.words + AHEAD_BYTES, job->ahead_stride = LINE;
    job_run(f, job);
}

void factor_multiply(const Factor *f, int64_t index, int64_t blocks, Tile made, CodedJob *job) {
    const Codec *codec = dtype_codec(f->operand.tensor.dtype);
    int64_t first = index * PANEL, rows = count_least(PANEL, f->outer - first);
    int64_t run = f->has_entries ? f->scales.run_length : f->stride,
            per_word = 32 / codec->code_bits;
    WordTile words;
    job->entries = f->entries;
    job->run = run;
    if (f->in_panels) {
        panels_multiply(f, first, blocks, job);
        return;
    }
    assert(blocks == 1);
    job->panels = 1;
    if (rows <= LANES) memset(&words, 0, sizeof words);
    job->ahead_stride = f->stride * codec->code_bits / 8;
    for (int64_t k = 0, some; k < f->stride; k += some) {
        some = count_least(per_word * TILE_WORDS, f->stride - k);
        words_turn(f, first, rows, k, some, &words, PANEL);
        job->words = words.codes;
        job->scale = made.at + k / run * PANEL;
        job->until = run - k % run;
        job->depth = some;
        job->ahead = words_at(f, first + PANEL, k);
        job_run(f, job);
        job->is_first = false;
        job->rows += some;
    }
}
