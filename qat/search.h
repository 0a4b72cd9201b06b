/* What preparing looks at and fills in, which its parts share: rules.c, edges.c, residual.c,
 * prepare.c. For them alone. */
#ifndef NIBBLE_QAT_SEARCH_H
#define NIBBLE_QAT_SEARCH_H

#include "qat/prepare.h"

/* A shape-only record, as in training, and the modules without children in the order of building.
 */
typedef struct Search {
    Qat *qat;
    Tape *tape;
    Module **modules;
    int count;
    Error *err;
} Search;

int search_readers(const Search *s, const Var *v); /* how often ops of the record read v */

/* The module of a layer with all of `flags` that alone reads what `module` gives, or NULL. */
Module *search_sole_reader(const Search *s, const Module *module, unsigned flags);

/* ---- Rules (rules.c) ---- */

/* Refuses words that name nothing. */
bool rules_check(const Qat *qat, Error *err);

/* The bits of a site's weight, and those that it asks of the layer's input. */
void rules_bits(const Qat *qat, const WeightSite *site, int *weight, int *activation);

/* Of residual adds. */
int rules_residual_bits(const Qat *qat);

/* ---- Edges (edges.c) ---- */

/* At whose input a quantizer of what `module` reads stands: its own, or that of the dropout before
 * it. */
Module *edges_place(const Search *s, Module *module, int port);

/* Puts the quantizer of `bits` of the edge that feeds an input of `module` there; it goes to *quant
 * where that is not NULL. BITS_FLOAT: nothing. */
bool edges_quantize_input(Search *s, Module *module, int port, int bits, Quant **quant);

/* `granularities`: what the choices of the setting stand for. */
QuantSpec search_spec(const TensorQuantConfig *config, const Granularity *granularities, int bits,
                      bool is_signed);

/* ---- Residual adds (residual.c) ---- */

bool residual_quantize(Search *s);

#endif
