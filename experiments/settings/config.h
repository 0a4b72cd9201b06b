/* The whole configuration of an experiment: what a YAML file and overrides are read into. */
#ifndef NIBBLE_EXPERIMENTS_SETTINGS_CONFIG_H
#define NIBBLE_EXPERIMENTS_SETTINGS_CONFIG_H

#include "core/settings/field.h"
#include "qat/prepare.h"

typedef struct DistillConfig {
    const char *teacher; /* a run directory */
    double weight, temperature;
} DistillConfig;

typedef struct TrainConfig {
    double epochs;
    int64_t steps;            /* 0: all of them */
    int64_t accumulate;       /* micro-batches per step */
    int64_t checkpoint_every; /* steps; 0: once per epoch */
    int64_t log_every;        /* steps */
    int64_t shadow_every;     /* steps; 0: never */
    double label_smoothing;
    int grad;               /* of weights, under half precision */
    int recompute;          /* Recompute: of values within blocks, instead of keeping them */
    const char *init;       /* a run directory or checkpoint file; NULL: from scratch */
    DistillConfig *distill; /* NULL: no teacher */
} TrainConfig;

typedef struct CalibrationConfig { /* of `nibble quantize` */
    int64_t rows, batch;
} CalibrationConfig;

typedef struct ExperimentConfig {
    int64_t seed;
    Variant model, data; /* rows of model_kinds, dataset_kinds */
    int precision;
    QatConfig quant;
    Variant adapter; /* of adapter_kinds; no kind: all weights are trained */
    Variant optimizer, schedule;
    TrainConfig train;
    CalibrationConfig calibration;
    List quantize; /* of Variant: rows of ptq_kinds; empty: not a result of `nibble quantize` */
    const Node *places; /* where every setting was given */
} ExperimentConfig;

enum { GRAD_HALF, GRAD_F32 }; /* choices of train.grad */

/* What `precision` stands for: DTYPE_F32, DTYPE_F16 or DTYPE_BF16. */
Dtype config_half(const ExperimentConfig *config);

extern const Field experiment_fields[], train_fields[], calibration_fields[];

/* Puts "file:line:column: " before a failure that blames a setting (core/error.h). For mistakes
 * that only show once the data are known. */
void config_place(const ExperimentConfig *config, Error *err);

/* Reads `path`, which may be a link or a pipe, applies the overrides, checks everything. Every
 * fault is logged as "file:line:column: what", settings that contradict each other too, and the
 * error then only tells how many there were. */
bool config_read(const char *path, int override_count, char *const *overrides, Arena *arena,
                 ExperimentConfig *config, Error *err);

/* The same of a run directory's own file: no link is followed, nothing is waited for. */
bool config_read_run(const char *path, int override_count, char *const *overrides, Arena *arena,
                     ExperimentConfig *config, Error *err);

/* The settings of a trained run with other quantization: the sections `quant`, `calibration` and
 * `quantize` are those of the file `path`, which has no others, and of the overrides, which may
 * also be of settings that may change; all else is of `run_path`, a run directory's file. A list
 * `quantize` that is empty becomes one of `round`. */
bool config_read_quantize(const char *run_path, const char *path, int override_count,
                          char *const *overrides, Arena *arena, ExperimentConfig *config,
                          Error *err);

/* Refuses settings that training would ignore: a pipeline of `nibble quantize`. */
bool config_check_trains(const ExperimentConfig *config, Error *err);

/* The same from text that was saved with a checkpoint. */
bool config_read_text(const char *text, const char *name, int override_count,
                      char *const *overrides, Arena *arena, ExperimentConfig *config, Error *err);

/* The same of a tree that was put together (fields_overlay); `name` is what it is called. */
bool config_read_tree(Node *root, const char *name, Arena *arena, ExperimentConfig *config,
                      Error *err);

/* Logs the mistakes; false and how many there were if there are any, with the topic of `nibble
 * help` that lists the settings. */
bool config_report(const Faults *faults, const char *name, const char *topic, Error *err);

/* Where a setting stands in a tree, or the innermost section that would hold it. */
Mark config_mark(const Node *root, const char *path, Arena *arena);

/* The resolved configuration as a tree, with absolute paths. */
Node *config_tree(const ExperimentConfig *config, Arena *arena);

/* The resolved configuration as YAML text, every setting written out. Paths, which are relative to
 * the working directory, become absolute, so that a run may be opened from any directory. */
const char *config_write(const ExperimentConfig *config, Arena *arena);

/* Whether an override, NAME=VALUE, is of a setting that may change while a run goes on
 * (Field.may_change); else ERROR_INPUT, which names those that are. */
bool config_check_free(const char *override, Error *err);

/* The same text without settings that may change while a run goes on (Field.may_change), without
 * paths, and without what training does not read (Field.is_aside): what a checkpoint holds, so that
 * it does not depend on them. */
const char *config_write_fixed(const ExperimentConfig *config, Arena *arena);

#endif
