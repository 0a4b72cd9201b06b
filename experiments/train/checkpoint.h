/* Checkpoints: everything a training needs to go on as if it had never stopped. Layout in
 * docs/formats.md; nothing in the file depends on time, path, host or thread count. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_CHECKPOINT_H
#define NIBBLE_EXPERIMENTS_TRAIN_CHECKPOINT_H

#include "autograd/module.h"
#include "data/envelope.h"
#include "data/facts.h"
#include "data/h5.h"
#include "optim/loss_scale.h"
#include "optim/optimizer.h"

/* Where a training stands. Epoch, batch and random keys follow from the step. */
typedef struct Cursor {
    int64_t step;         /* steps done */
    int64_t metric_lines; /* lines of metrics.jsonl written by then; resume cuts the rest */
    int64_t best_step;    /* 0: none yet */
    double best_score;    /* the task's first, on the validation split, as trained */
    char best_digest[ENVELOPE_DIGEST_TEXT]; /* of best.h5; "": none yet, or of a file before it */
    char teacher_digest[ENVELOPE_DIGEST_TEXT]; /* of the teacher's network; "": there is none */
    char base_digest[ENVELOPE_DIGEST_TEXT];    /* of an adapter's base; "": all is in the file */
    double loss_average;                       /* moving average of the training loss, for people */
    LossScale loss_scale;
} Cursor;

/* Of a model with an adapter, the base's Params are not saved: the cursor names its digest.
 * `config_text` is the configuration without what may change in a run (config_write_fixed), `facts`
 * are those of the training images, with the normalisation that the network is trained with. Writes
 * `path` whole or not at all; the file that had the name before is kept as `previous` (NULL: not
 * kept). */
bool checkpoint_save(const char *path, const char *previous, const char *config_text,
                     const DataFacts *facts, const Cursor *cursor, Model *model,
                     Optimizer *optimizer, Error *err);

/* An open one; its bytes are in memory until it is closed. */
typedef struct Checkpoint {
    const char *path;
    Arena *file;
    H5Reader *reader;
    bool is_damaged; /* not opened: provably cut short, changed or no file of ours */
    int64_t version;
    char digest[ENVELOPE_DIGEST_TEXT];
    DataFacts facts; /* what the network was trained on */
    Cursor cursor;
} Checkpoint;

/* `path` and the facts are kept in `arena`. Every number of facts and cursor is one that can be. An
 * absent file is an error like others. checkpoint_close is due where it succeeds, and accepts
 * zeros.
 */
bool checkpoint_open(const char *path, Arena *arena, Checkpoint *out, Error *err);
/* For its weights alone: of any version, facts and cursor stay zeros. */
bool checkpoint_open_weights(const char *path, Arena *arena, Checkpoint *out, Error *err);
void checkpoint_close(Checkpoint *checkpoint);

/* Whether it holds numbers of quantizers, which no Param of a module is. */
bool checkpoint_is_quantized(const Checkpoint *checkpoint, const Model *model, bool *out,
                             Error *err);

/* Fills model and optimizer (NULL: left alone). The configuration must be the one that was saved.
 * Every Param, but those of an adapter's base, must be in the file with its shape, and nothing may
 * be in the file that the model lacks. */
bool checkpoint_load(const Checkpoint *checkpoint, const char *config_text, Model *model,
                     Optimizer *optimizer, Error *err);

/* Weights for a new training: fills every Param, with its average where the file has one, since
 * that is the network which its run reports. Of a model with an adapter it fills the base, or from
 * the file of such a run the adapter. Those of quantizers may lack, and are taken only
 * where `config_text` quantizes as the file's configuration does (when, is no matter): a range of
 * other bits or of another kind means nothing. Optimizer state stays new. */
bool checkpoint_init(const Checkpoint *checkpoint, const char *config_text, Model *model,
                     Error *err);

#endif
