/* Rounding to nearest, each weight by itself, under the ranges that the quantizers find: what a
 * pipeline without methods does, and what other methods start from. Quantizers do it already. */
#include "qat/ptq.h"

static bool apply(Ptq *p, const void *config, Error *err) {
    (void)p;
    (void)config;
    (void)err;
    return true;
}

const PtqMethod ptq_method_round = {
    .kind = {.name = "round", .help = "round to nearest, under the quantizers' ranges"},
    .apply = apply,
};
