/* An experiment: data, model, quantizers and optimizer made from one configuration. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_EXPERIMENT_H
#define NIBBLE_EXPERIMENTS_TRAIN_EXPERIMENT_H

#include "autograd/module.h"
#include "data/envelope.h"
#include "data/loader.h"
#include "experiments/settings/config.h"
#include "optim/loss_scale.h"
#include "optim/optimizer.h"
#include "qat/adapter.h"
#include "qat/prepare.h"

typedef struct Experiment {
    ExperimentConfig config;
    const char *fixed_text; /* resolved, without what may change in a run, for checkpoints */
    Arena *arena;           /* the model's and the data's lifetime */
    size_t data_bytes;      /* of it */
    Loader *loader;
    const struct Task *task; /* experiments/train/task.h */
    Model *model;
    Qat *qat;
    Adapter *adapter;                       /* NULL: none */
    char base_digest[ENVELOPE_DIGEST_TEXT]; /* of the network that it stands on; "": none yet */
    Optimizer *optimizer;
    LossScale loss_scale;
    Tape *tape;
    struct Teacher *teacher; /* experiments/train/teacher.h; NULL: none */
    /* Of a base that came with its model; set by who loads that. */
    AdapterSource base_source;  /* the weights before they were stored; no `read`: they were not */
    const char *base_directory; /* of Hugging Face's; or NULL */
    int64_t samples;            /* trained on since it was opened, in the task's words */
    int64_t step;               /* of the run, by which the weights that are loaded were made */
    char network_digest[ENVELOPE_DIGEST_TEXT]; /* of the file that a run's weights are of; or "" */
} Experiment;

/* Loads the data, chooses bits where they are auto (bits.h; by the network of train.init), builds
 * and prepares the model, opens its teacher. e->config is what came out. Threads: as many as
 * parallel_init was told before, else all; they are no part of an experiment. `config`'s memory is
 * borrowed. experiment_close is due whatever the result. */
bool experiment_open(const ExperimentConfig *config, Arena *config_arena, Experiment *e,
                     Error *err);
/* The same where bits are chosen by the network of `weights`, as in train.init. */
bool experiment_open_for(const ExperimentConfig *config, const char *weights, Arena *config_arena,
                         Experiment *e, Error *err);
void experiment_close(Experiment *e);

/* Refuses training images that are not those that the checkpoint at `path` was made with, of which
 * it knows `then`, unless data.changed allows it; from here on normalises as it does. */
bool experiment_check_data(Experiment *e, const DataFacts *then, const char *path, Error *err);

/* How a run directory is opened; zeros for the usual. */
typedef struct RunOptions {
    int override_count; /* of settings that may change (config_check_free) */
    char *const *overrides;
    int64_t calibrate;   /* training images that give quantizers without a range one; 0: such a
                            network is refused */
    bool reads_training; /* the training images too, with the validation split */
} RunOptions;

/* Opens the experiment of a run directory, as its config.yaml and the overrides say, with the
 * weights that it reports (saved_open_network), averaged where EMA is on. Of the data the
 * test part alone is read, but for calibration and where asked (loader_open_test). Phases are those
 * of a finished training; every quantizer has its range. */
bool experiment_open_run(const char *directory, const RunOptions *options, Arena *config_arena,
                         Experiment *e, Error *err);

#endif
