/* Networks out of a model's directory. */
#ifndef NIBBLE_EXPERIMENTS_MODELS_PRETRAINED_H
#define NIBBLE_EXPERIMENTS_MODELS_PRETRAINED_H

#include "experiments/models/model_directory.h"

/* For looking, not for training: weights stay as the files store them, nothing has a gradient. */
typedef struct Pretrained {
    ModelDirectory directory;
    Model *model; /* of the arena; its output is for an input of one token */
} Pretrained;

bool pretrained_open(const char *path, Arena *arena, Pretrained *out, Error *err);

#endif
