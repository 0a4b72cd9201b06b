/* Pairs of neighbouring layers between which a channel's factor can move: what the first gives on a
 * channel is read by the second alone, and only ops that pass factors above 0 on lie between
 * (OP_IS_HOMOGENEOUS). */
#ifndef NIBBLE_QAT_PTQ_PAIRS_H
#define NIBBLE_QAT_PTQ_PAIRS_H

#include "qat/ptq.h"

typedef struct Pair {
    const WeightSite *first, *second;
    Module *norm;     /* the batch norm behind `first`, whose gamma and beta hold its channels'
                         factors; NULL: its weight and bias do */
    int64_t channels; /* that `first` gives; channel c of the input of `second` is c modulo these */
    int64_t depth;    /* input channels in a row of the second's weight; fewer: it has groups */
} Pair;

/* Why a layer is no pair's second; empty: it reads the network's input. */
typedef struct PairReason {
    char text[224];
} PairReason;

/* Records the float network for shapes on p->exact: what pair_find looks at. */
bool pairs_begin(Ptq *p, Error *err);
bool pair_find(const Qat *qat, const WeightSite *second, Pair *out, PairReason *reason);

/* The batch norm that alone reads a site's layer, joined or not; or NULL. */
Module *pair_norm(const Qat *qat, const WeightSite *site);

/* The channel of the first layer that element `i` of the second's weight is multiplied with. */
int64_t pair_channel(const Pair *pair, int64_t i);

#endif
