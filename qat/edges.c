/* Edges: a value with all who read it, and one quantizer per bit-width. */
#include <string.h>

#include "qat/search.h"

static void add_reader(Qat *qat, Edge *edge, const char *name) {
    if (edge->reader_count == edge->reader_capacity) {
        edge->reader_capacity = edge->reader_capacity ? 2 * edge->reader_capacity : 4;
        const char **wider = arena_new_array(qat->arena, const char *, edge->reader_capacity);
        if (edge->reader_count)
            memcpy(wider, edge->readers, sizeof *wider * (size_t)edge->reader_count);
        edge->readers = wider;
    }
    edge->readers[edge->reader_count++] = name;
}

static Edge *edge_new(Qat *qat) {
    if (qat->edge_count == qat->edge_capacity) {
        qat->edge_capacity = qat->edge_capacity ? 2 * qat->edge_capacity : 32;
        Edge *wider = arena_new_array(qat->arena, Edge, qat->edge_capacity);
        if (qat->edge_count) memcpy(wider, qat->edges, sizeof *wider * (size_t)qat->edge_count);
        qat->edges = wider;
    }
    return &qat->edges[qat->edge_count++];
}

/* Where the value is made, so that one pass makes and quantizes it, and nobody keeps it in float
 * for readers to come. */
static void quantize_at_source(Search *s, const Var *x, Quant *quant) {
    for (int i = 0; x->op && i < s->count; i++) {
        if (s->modules[i]->last_out != x) continue;
        module_add_output(s->modules[i], (View){quant_view, quant});
        return;
    }
}

static bool is_network_input(const Var *x) {
    while (x->op && (x->op->flags & OP_ALIASES)) x = x->in[0];
    return !x->op;
}

/* The quantizer of `bits` on the edge that carries `x`, made on first use. */
static bool edge_find(Search *s, Var *x, int bits, Edge **out) {
    Qat *qat = s->qat;
    for (int i = 0; i < qat->edge_count; i++) {
        Edge *edge = &qat->edges[i];
        if (edge->var == x && edge->quant->spec.bits == bits) {
            *out = edge;
            return true;
        }
    }
    Edge *edge = edge_new(qat);
    *edge = (Edge){.producer = x->op && *x->scope ? x->scope : "input", .var = x};
    const char *name = arena_format(qat->arena, "%s.out%g", edge->producer, bits_number(bits));
    QuantSpec spec = search_spec(&qat->config.activations, qat_activation_granularities, bits,
                                 !var_is_nonnegative(x));
    if (is_network_input(x)) spec.quantizer = qat->config.input;
    Shape sample = x->value.shape;
    sample.dim[0] = 1;
    *out = edge;
    if (!quant_new(qat->model, name, false, sample, &spec, &qat->phase, &edge->quant, s->err))
        return error_blame(s->err, is_network_input(x) ? "quant.input" : "quant.activations");
    quantize_at_source(s, x, edge->quant);
    return true;
}

/* A dropout scales what it keeps in training only; a quantizer goes before it, so that its range is
 * that of evaluation too. The dropout that alone feeds `module`, or reshapes before it; or NULL. */
static Module *dropout_before(const Search *s, const Module *module, int port) {
    const Var *x = module->last_in[port], *dropped = NULL;
    while (x->op && (x->op->flags & (OP_DROPS | OP_ALIASES)) && search_readers(s, x) == 1) {
        if (x->op->flags & OP_DROPS) dropped = x;
        x = x->in[0];
    }
    for (int i = 0; dropped && i < s->count; i++)
        if (s->modules[i]->last_out == dropped && (s->modules[i]->layer->flags & LAYER_DROPS))
            return s->modules[i];
    return NULL;
}

Module *edges_place(const Search *s, Module *module, int port) {
    Module *dropout = dropout_before(s, module, port);
    return dropout ? dropout : module;
}

bool edges_quantize_input(Search *s, Module *module, int port, int bits, Quant **quant) {
    Edge *edge;
    if (bits == BITS_FLOAT) return true;
    Module *place = edges_place(s, module, port);
    int place_port = place == module ? port : 0;
    if (!edge_find(s, place->last_in[place_port], bits, &edge)) {
        error_prefix(s->err, "input of %s", module->name);
        return false;
    }
    add_reader(s->qat, edge, module->name);
    place->inputs[place_port] = (View){quant_view, edge->quant};
    if (quant) *quant = edge->quant;
    return true;
}
