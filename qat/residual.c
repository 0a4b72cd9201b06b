/* Residual adds, and the streams that they make: what they read and write has bits of its own, so
 * that a 4-bit network keeps its stream wide. */
#include "qat/search.h"

/* The value that an add's sum becomes for its readers: after the activation that alone reads it. */
static const Var *stream_after(const Search *s, const Module *add) {
    const Module *activation = search_sole_reader(s, add, LAYER_IS_ACTIVATION);
    return activation ? activation->last_out : add->last_out;
}

static bool has_weight(const Search *s, const Module *module) {
    return qat_find_site(s->qat, module) != NULL;
}

/* Products and adds have their own edges, and a reshape leaves it to what reads it. */
static bool reads_at_stream_bits(const Search *s, const Module *reader, const Var *stream) {
    if (reader->last_in[0] != stream || reader->last_out == stream) return false;
    if (reader->last_out->op->flags & OP_ALIASES) return false;
    return !reader->inputs[0].apply && !has_weight(s, reader) &&
           !(reader->layer->flags & LAYER_ADDS);
}

bool residual_quantize(Search *s) {
    int bits = rules_residual_bits(s->qat);
    if (bits == BITS_FLOAT) return true;
    for (int i = 0; i < s->count; i++) {
        Module *add = s->modules[i];
        if (!(add->layer->flags & LAYER_ADDS)) continue;
        for (int port = 0; port < add->layer->input_count; port++)
            TRY(edges_quantize_input(s, add, port, bits, NULL));
        const Var *stream = stream_after(s, add);
        for (int j = 0; j < s->count; j++)
            if (reads_at_stream_bits(s, s->modules[j], stream))
                TRY(edges_quantize_input(s, s->modules[j], 0, bits, NULL));
    }
    return true;
}
