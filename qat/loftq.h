/* LoftQ (Li et al. 2023), one iteration: the matrix of rank r that is nearest to what storing a
 * weight in few bits lost,
 *     W - Q(W) = U S V^T,    factor B A = U_r S_r V_r^T,
 * the singular values shared out to both: B = U_r sqrt(S_r / factor), A = sqrt(S_r / factor) V_r^T.
 * With PEFT's factor alpha / r = 1 these are its loftq_init of one iteration; with another, the
 * layer computes W as nearly, too. The base stays Q(W). */
#ifndef NIBBLE_QAT_LOFTQ_H
#define NIBBLE_QAT_LOFTQ_H

#include "core/arena.h"
#include "core/error.h"

/* residual [out, in] = W - Q(W). Fills a [rank, in] and b [out, rank]; past the matrix's own rank,
 * and where nothing is left, rows of `a` stay and columns of `b` are zeros. ERROR_NUMERIC: it holds
 * what is not finite. */
bool loftq_factor(const float *residual, int64_t out, int64_t in, int64_t rank, float factor,
                  float *a, float *b, Arena *scratch, Error *err);

#endif
