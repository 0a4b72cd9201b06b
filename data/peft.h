/* Adapters as PEFT keeps them (https://huggingface.co/docs/peft): a directory with
 *
 *     adapter_config.json            what kind of adapter, its rank, alpha, targets
 *     adapter_model.safetensors      base_model.model.MODULE.lora_A.weight [r, in], .lora_B.weight
 *                                    [out, r], with DoRA .lora_magnitude_vector [out]
 *
 * Read are adapters of type LORA, on linear layers. Settings that would compute something else are
 * refused by name; keys that are not known count as refused where they are set. */
#ifndef NIBBLE_DATA_PEFT_H
#define NIBBLE_DATA_PEFT_H

#include "core/json.h"
#include "data/safetensors.h"

#define PEFT_CONFIG "adapter_config.json"
#define PEFT_MODEL  "adapter_model.safetensors"
#define PEFT_PREFIX "base_model.model."

/* A number for the modules whose names a regular expression matches: (.*\.)?(KEY)$ */
typedef struct PeftPattern {
    const char *key;
    double value;
    bool is_whole;       /* target_modules: of a whole name, KEY$ alone */
    struct Regex *regex; /* of the key, made when it is first asked for */
} PeftPattern;

typedef struct PeftPatterns {
    const char *field;  /* "rank_pattern" */
    PeftPattern *items; /* the first that matches counts */
    int count;
} PeftPatterns;

enum { PEFT_PATTERNS_MAX = 4096 };

typedef struct PeftConfig {
    int64_t rank;
    double alpha, dropout;
    bool rslora, dora;
    const char *base, *task; /* base_model_name_or_path, task_type; or NULL */
    PeftPatterns ranks, alphas;
    const char **targets; /* target_modules where it is a list, else none */
    int target_count;
    PeftPattern *target_pattern; /* where it is a text: of its value; else NULL */
    bool is_partial;             /* some of the modules that they mean are left out */
} PeftConfig;

typedef struct Peft {
    const char *directory;
    PeftConfig config;
    SafeTensors tensors;
    const char **modules; /* of which there are tensors, sorted by name */
    int module_count;
} Peft;

/* peft_close is due whatever the result. Errors name the file and the key. */
bool peft_open(const char *directory, Arena *arena, Peft *out, Error *err);
void peft_close(Peft *peft);

/* The tensor `part` ("lora_A.weight") of a module, or NULL. */
const SafeTensor *peft_find(const Peft *peft, const char *module, const char *part, Arena *arena);

/* What patterns say of a module; `usual` where none matches. ERROR_INPUT, with the file and the
 * field: a key that is no regular expression, or one that tries for long. peft_close frees what
 * that takes, of patterns of others peft_patterns_close. */
bool peft_pattern(const Peft *peft, const PeftPatterns *patterns, const char *module, double usual,
                  double *out, Error *err);
void peft_patterns_close(PeftPatterns *patterns);

/* Whether target_modules means a linear layer of this name; where it says nothing or "all-linear",
 * which leaves out what PEFT takes for a head, those of which there are tensors. */
bool peft_targets(const Peft *peft, const char *module, bool *out, Error *err);

/* Whether both files say the same: target_modules means the modules of which there are tensors, the
 * patterns name some of them, and ranks are those of the tensors. */
bool peft_check(const Peft *peft, Error *err);

/* The content of adapter_config.json; the caller's to free. */
Json *peft_config_json(const PeftConfig *config);

#endif
