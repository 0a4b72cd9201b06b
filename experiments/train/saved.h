/* What a run directory has saved, and what of it is used: the checkpoint that a run goes on from,
 * and the network that it reports. Nothing is chosen in silence, and nothing is changed.
 *
 *     checkpoint.h5      absent or damaged       checkpoint.prev.h5 is taken, with a warning
 *     both               absent or damaged       refused, with the command that starts over; a run
 *                                                that never saved anything starts over by itself
 *     any                cannot be looked at,    refused: nothing is known of what is in it
 *                        or is no regular file
 *     best.h5            has the digest that     it is the run's network
 *                        the checkpoint names
 *                        else                    the checkpoint's own is, with a warning */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_SAVED_H
#define NIBBLE_EXPERIMENTS_TRAIN_SAVED_H

#include "experiments/train/checkpoint.h"

typedef struct Saved {
    bool is_new;           /* there is no checkpoint, best network or line of metrics */
    bool is_previous;      /* checkpoint.h5 is lost: it must not become the previous one */
    Checkpoint checkpoint; /* open unless is_new */
} Saved;

/* The checkpoint to go on from; its path and facts are kept in `arena`. checkpoint_close is due. */
bool saved_open(const char *directory, Arena *arena, Saved *out, Error *err);

/* best.h5 if it is the best network that `cursor` names. Else, `*why` says what it is instead, and
 * nothing is open. False: it could not be looked at. */
bool saved_open_best(const char *directory, const Cursor *cursor, Arena *arena, Checkpoint *out,
                     const char **why, Error *err);

/* The network that the run reports: the best one, else the checkpoint's own. */
bool saved_open_network(const char *directory, Arena *arena, Checkpoint *out, Error *err);

/* Weights to begin with (train.init): the network that a run directory reports, or a checkpoint
 * file, for its weights alone. */
bool saved_open_weights(const char *from, Arena *arena, Checkpoint *out, Error *err);

/* For what is to be of a network trained in FP32: a warning where `network`, whose weights `model`
 * has, was quantized. */
bool saved_warn_quantized(const Checkpoint *network, const Model *model, Error *err);

#endif
