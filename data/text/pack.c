#include "data/text/pack.h"

#include "core/counts.h"

typedef struct Packer {
    const Corpus *corpus;
    PackedRows *out; /* without arrays: rows are counted */
    bool cuts, joins;
    int64_t at; /* the next position of the last row; 0: a new one is due */
} Packer;

static bool check_length(const Packer *p, const TextPiece *piece, Error *err) {
    const Document *d = piece->document;
    if (p->cuts || piece->count - 1 <= p->out->length) return true;
    return FAIL(err, ERROR_INPUT,
                "%s, line %ld: prompt and answer have %ld tokens, and a row has room for %ld: "
                "shorten them, or raise data.length",
                d->file, (long)d->line, (long)piece->count, (long)p->out->length + 1) ||
           error_blame(err, "data.length");
}

static void write_part(Packer *p, const int32_t *ids, int64_t count) {
    int64_t place = (p->out->rows - 1) * p->out->length + p->at;
    for (int64_t i = 0; p->out->tokens && i < count; i++) {
        p->out->tokens[place + i] = corpus_token(ids[i]);
        p->out->labels[place + i] = ids[i + 1] < 0 ? -1 : ids[i + 1];
        p->out->starts[place + i] = (int32_t)p->at;
    }
}

static void add_piece(Packer *p, const TextPiece *piece) {
    int64_t length = p->out->length, left = piece->count - 1;
    const int32_t *ids = p->corpus->ids.items + piece->first;
    if (!p->joins || (!p->cuts && p->at + left > length)) p->at = 0;
    while (left > 0) {
        if (p->at == 0) p->out->rows++;
        int64_t count = count_least(left, length - p->at);
        write_part(p, ids, count);
        p->at = (p->at + count) % length;
        ids += count;
        left -= count;
    }
}

/* Behind a row's last document nothing is seen but itself. */
static void fill_empty(PackedRows *out) {
    for (int64_t i = 0; i < out->rows * out->length; i++) {
        out->labels[i] = -1;
        out->starts[i] = (int32_t)(i % out->length);
    }
}

bool pack_rows(const Corpus *corpus, const TextPiece *pieces, int64_t count, int64_t length,
               bool cuts, bool joins, Arena *arena, PackedRows *out, Error *err) {
    *out = (PackedRows){.length = length};
    Packer p = {.corpus = corpus, .out = out, .cuts = cuts, .joins = joins};
    for (int64_t i = 0; i < count; i++) {
        TRY(check_length(&p, &pieces[i], err));
        add_piece(&p, &pieces[i]);
    }
    int64_t positions = out->rows * length;
    out->tokens = arena_new_array(arena, int32_t, positions);
    out->labels = arena_new_array(arena, int32_t, 2 * positions);
    out->starts = out->labels + positions;
    fill_empty(out);
    out->rows = p.at = 0;
    for (int64_t i = 0; i < count; i++) add_piece(&p, &pieces[i]);
    return true;
}
