/* A model's directory as Hugging Face lays it out: config.json says what the network is. Read are
 * those of Llama, Mistral, Qwen2 and Qwen3. What they ask for and is not built is refused by name,
 * and what is missing too: nothing is guessed. Errors name the file and the member. */
#ifndef NIBBLE_EXPERIMENTS_MODELS_MODEL_DIRECTORY_H
#define NIBBLE_EXPERIMENTS_MODELS_MODEL_DIRECTORY_H

#include "core/json.h"
#include "experiments/models/transformer.h"

enum { MODEL_ENDS_MAX = 16 };

typedef struct ModelDirectory {
    const char *path;
    const char *type; /* "llama" */
    TransformerConfig network;
    int64_t context;    /* the most positions that it was made for */
    const char *stored; /* quantization_config.quant_method: the weights are not plain numbers; NULL
                         */
    int32_t ends[MODEL_ENDS_MAX]; /* tokens that end a text */
    int end_count;
} ModelDirectory;

/* Whether there is a config.json in it: else it may be a run's directory. */
bool model_directory_is_one(const char *path);

bool model_directory_read(const char *path, Arena *arena, ModelDirectory *out, Error *err);

#endif
