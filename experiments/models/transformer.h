/* Decoders in the shape of Llama, with the names that Hugging Face's files have. */
#ifndef NIBBLE_EXPERIMENTS_MODELS_TRANSFORMER_H
#define NIBBLE_EXPERIMENTS_MODELS_TRANSFORMER_H

#include "experiments/models/models.h"

enum { LAYERS_MAX = 512 /* what a file claims is believed up to here */ };

/* A block comes first: its fields are those of the network. */
typedef struct TransformerConfig {
    DecoderConfig block;
    int64_t vocabulary; /* 0: as many tokens as the data have */
    int64_t width, layers;
    bool tied;
} TransformerConfig;

/* model.embed_tokens, model.layers.0 ..., model.norm, lm_head */
List transformer_layers(const TransformerConfig *config, Arena *arena);

#endif
