/* Classes of one image, by their logits. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_RANKING_H
#define NIBBLE_EXPERIMENTS_SHIP_RANKING_H

#include <stdint.h>

/* exp(logit - largest) over their sum, in double: any finite logits. */
void ranking_probabilities(const float *logits, int64_t count, double *out);

/* The class behind `before` (-1: the first): less likely, or as likely with a larger number. -1:
 * there is none. */
int64_t ranking_next(const float *logits, int64_t count, int64_t before);

#endif
