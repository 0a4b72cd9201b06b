/* quant.bits: auto. Each layer gets the bits that suit it, of 2 to 8, so that the packed network
 * takes at most quant.budget_bytes and the layers' costs sum to the least (qat/allocation.h).
 *
 * What a layer costs at so many bits is measured: the trained network's answers on the first rows
 * of the validation split, with this layer alone quantized, against those with nothing quantized
 * (KL divergence). Ranges are those with the least squared error, of activations
 * over the first training rows. Activations have the bits of the layer that reads them, and count,
 * unless quant.activations.bits says theirs. Layers to which rules give bits keep them. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_BITS_H
#define NIBBLE_EXPERIMENTS_TRAIN_BITS_H

#include "experiments/train/experiment.h"

/* Where e->config says auto: measures the network of `from` (saved_open_weights; NULL: none, which
 * is refused), on data that are open, chooses, logs a table, and puts what was chosen into
 * e->config as rules before the user's own, which so stay the last word. Rules live in
 * `config_arena`. ERROR_INPUT where no allocation meets the budget, with the least that one takes.
 */
bool bits_resolve(Experiment *e, const char *from, Arena *config_arena, Error *err);

enum { BITS_AUTO_LEAST = 2 }; /* bits that a layer can get */

/* Whether a network prepared at BITS_AUTO_LEAST bits, where they are chosen, packs into `budget`
 * bytes: if not, no choice does. */
bool bits_check_budget(int64_t budget, Qat *smallest, Error *err);

#endif
