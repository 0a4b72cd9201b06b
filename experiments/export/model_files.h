/* What lies beside the weights in a model's directory, for networks that were made from one. */
#ifndef NIBBLE_EXPERIMENTS_EXPORT_MODEL_FILES_H
#define NIBBLE_EXPERIMENTS_EXPORT_MODEL_FILES_H

#include "core/error.h"

/* Copies the files of the tokenizer, the chat template and generation_config.json, those that are
 * there, from one directory to another. */
bool model_files_copy(const char *from, const char *to, Error *err);

/* The config.json of `from`, of weights that are of `dtype` ("float32") and not stored otherwise,
 * whatever they were. */
bool model_files_config(const char *from, const char *to, const char *dtype, Error *err);

#endif
