/* Checkpoints: everything a training needs to go on as if it had never stopped. Layout in
 * docs/formats.md; nothing in the file depends on time, path, host or thread count. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_CHECKPOINT_H
#define NIBBLE_EXPERIMENTS_TRAIN_CHECKPOINT_H

#include "autograd/module.h"
#include "data/facts.h"
#include "optim/loss_scale.h"
#include "optim/optimizer.h"

/* Where a training stands. Epoch, batch and random keys follow from the step. */
typedef struct Cursor {
    int64_t step;         /* steps done */
    int64_t metric_lines; /* lines of metrics.jsonl written by then; resume cuts the rest */
    int64_t best_step;    /* 0: none yet */
    double best_score;    /* the task's first, on the validation split, as trained */
    double loss_average;  /* moving average of the training loss, for people */
    LossScale loss_scale;
} Cursor;

/* `config_text` is the configuration without what may change in a run (config_write_fixed), `facts`
 * are those of the training images, with the normalisation that the network is trained with. Writes
 * `path` whole or not at all; the file that had the name before is kept as `previous` (NULL: not
 * kept). */
bool checkpoint_save(const char *path, const char *previous, const char *config_text,
                     const DataFacts *facts, const Cursor *cursor, Model *model,
                     Optimizer *optimizer, Error *err);

/* What the network was trained on, before anything else is opened; memory from `arena`. */
bool checkpoint_read_facts(const char *path, Arena *arena, DataFacts *facts, Error *err);

/* Fills model, optimizer (NULL: left alone) and cursor (may be NULL). The configuration must be the
 * one that was saved. Every Param must be in the file with its shape, and nothing may be in the
 * file that the model lacks. */
bool checkpoint_load(const char *path, const char *config_text, Model *model, Optimizer *optimizer,
                     Cursor *cursor, Error *err);

/* Weights for a new training: fills every Param. Those of quantizers may lack, and are taken only
 * where `config_text` quantizes as the file's configuration does (when, is no matter): a range of
 * other bits or of another kind means nothing. Optimizer state and cursor stay new. */
bool checkpoint_init(const char *path, const char *config_text, Model *model, Error *err);

#endif
