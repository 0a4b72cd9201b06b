/* LoRA: y + s B (A dropout(x)), of rank r (Hu et al. 2021), as PEFT computes it.
 *
 *     s = alpha / r, or with rslora alpha / sqrt(r) (Kalajdzievski 2023)
 *     dora: W' = diag(m / |W + s B A|) (W + s B A), |.| the norm of each row, a constant to the
 *     gradient (Liu et al. 2024). While dropout drops, the base's own part in this correction is
 *     made from the dropped input too.
 *
 * Params of a layer: lora_A.weight [r, in], lora_B.weight [out, r], lora_magnitude_vector [out]. */
#ifndef NIBBLE_QAT_ADAPTERS_LORA_H
#define NIBBLE_QAT_ADAPTERS_LORA_H

#include "qat/adapter.h"

typedef enum LoraInit { LORA_DEFAULT, LORA_LOFTQ } LoraInit;

typedef struct LoraRule {
    const char *layers; /* as a pattern of target */
    int64_t rank;       /* 0: the adapter's */
    double alpha;       /* 0: the adapter's */
} LoraRule;

typedef struct LoraConfig {
    AdapterConfig adapter;
    int64_t rank;
    double alpha, dropout;
    bool rslora, dora;
    int init;         /* LoraInit */
    List rules;       /* of LoraRule; later ones win */
    const char *from; /* a directory of PEFT's that first values come from; NULL: none */
} LoraConfig;

/* State of an AdapterSite. */
typedef struct LoraLayer {
    const AdapterSite *site;
    Param *a, *b;
    Param *magnitude; /* NULL: no DoRA */
    int64_t rank;
    double alpha;
    float factor; /* s */
    float dropout;
} LoraLayer;

#endif
