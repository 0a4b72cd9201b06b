/* Settings of the layers, for programs that build lists of layers in C; YAML fills the same
 * structs. Images are NHWC; channels and features of the input come from what is fed in. */
#ifndef NIBBLE_AUTOGRAD_LAYERS_H
#define NIBBLE_AUTOGRAD_LAYERS_H

#include "autograd/module.h"

enum {
    PADDING_SAME = -1
}; /* dilation * (kernel - 1) / 2 on each side: keeps the size at stride 1 */

typedef struct ConvConfig {
    LayerConfig layer;
    int64_t filters; /* output channels; 0: as many as the input has */
    int64_t kernel, stride, dilation, padding, groups;
    bool depthwise; /* groups = input channels */
    bool bias;
} ConvConfig;

typedef struct LinearConfig {
    LayerConfig layer;
    int64_t units;
    bool bias;
} LinearConfig;

typedef struct NormConfig { /* batch_norm, layer_norm, rms_norm */
    LayerConfig layer;
    double epsilon, momentum;
} NormConfig;

typedef struct PoolConfig { /* max_pool, avg_pool */
    LayerConfig layer;
    int64_t kernel, stride, padding; /* stride 0: the kernel's size */
} PoolConfig;

typedef struct DropoutConfig {
    LayerConfig layer;
    double probability;
} DropoutConfig;

typedef struct SequentialConfig {
    LayerConfig layer;
    List layers; /* of Variant */
} SequentialConfig;

typedef struct ResidualConfig { /* add(main(x), shortcut(x)); an empty shortcut is x itself */
    LayerConfig layer;
    List main, shortcut; /* of Variant */
} ResidualConfig;

typedef enum Join { JOIN_CONCAT, JOIN_ADD } Join;
typedef struct BranchConfig {
    List layers; /* of Variant */
} BranchConfig;
typedef struct BranchesConfig { /* join(branch1(x), branch2(x), ...) */
    LayerConfig layer;
    List branches; /* of BranchConfig */
    int join;      /* Join; concat is along the channels */
} BranchesConfig;

typedef struct EmbeddingConfig {
    LayerConfig layer;
    int64_t rows, units; /* ids are below `rows` */
} EmbeddingConfig;

typedef struct HeadConfig {
    LayerConfig layer;
    int64_t units; /* 0: as many as the embedding has rows */
    bool tied;     /* the weight is the embedding's table */
} HeadConfig;

Param *head_weight(const Module *head); /* what it multiplies with, its own or the table */

/* Wavelengths above original_length / low_freq_factor are `factor` times as long, those below
 * original_length / high_freq_factor stay, and in between it goes over (Llama 3). */
typedef struct RopeScaling {
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_length;
} RopeScaling;

typedef enum AttentionBias {
    ATTENTION_BIAS_NONE,
    ATTENTION_BIAS_QKV,
    ATTENTION_BIAS_ALL
} AttentionBias;
typedef struct AttentionConfig {
    LayerConfig layer;
    int64_t heads, kv_heads, head_dim; /* 0: as many as heads; width / heads */
    int attention_bias;                /* AttentionBias: of which projections */
    bool qk_norm;                      /* each head's queries and keys are normalised (Qwen3) */
    double rope_theta;
    RopeScaling *rope_scaling; /* NULL: none */
    double epsilon;            /* of norms */
} AttentionConfig;

typedef struct GatedMlpConfig {
    LayerConfig layer;
    int64_t units;
    bool bias;
} GatedMlpConfig;

/* Attention comes first: its fields are those of the block. */
typedef struct DecoderConfig {
    AttentionConfig attention;
    int64_t ff; /* units of the gated MLP */
    bool mlp_bias;
} DecoderConfig;

extern const Field rope_scaling_fields[];

/* Of any struct that begins with an AttentionConfig. */
#define ATTENTION_FIELDS                                                                           \
    FIELD_INT(AttentionConfig, heads, "4", 1, 65536, "heads of queries"),                          \
        FIELD_INT(AttentionConfig, kv_heads, "0", 0, 65536,                                        \
                  "heads of keys and values, each for heads / kv_heads of queries; 0: as many"),   \
        FIELD_INT(AttentionConfig, head_dim, "0", 0, 65536,                                        \
                  "numbers of a head, even; 0: width / heads"),                                    \
        FIELD_CHOICE(AttentionConfig, attention_bias, "none", attention_biases,                    \
                     "which projections have a bias: none, qkv, or all four"),                     \
        FIELD_BOOL(AttentionConfig, qk_norm, "false", "normalise each head's queries and keys"),   \
        FIELD_FLOAT(AttentionConfig, rope_theta, "10000", 1, 1e12,                                 \
                    "base of the rotary positions' wavelengths"),                                  \
        FIELD_OPTIONAL(AttentionConfig, rope_scaling, RopeScaling, rope_scaling_fields,            \
                       "longer wavelengths, as in Llama 3"),                                       \
        FIELD_FLOAT(AttentionConfig, epsilon, "1e-5", 1e-12, 1,                                    \
                    "added to the mean square by norms")
extern const char *const attention_biases[];

#define DECODER_FIELDS                                                                             \
    ATTENTION_FIELDS, FIELD_INT(DecoderConfig, ff, "768", 1, 1 << 24, "units of the gated MLP"),   \
        FIELD_BOOL(DecoderConfig, mlp_bias, "false", "biases in the gated MLP")

typedef struct PlainConfig { /* layers without settings of their own */
    LayerConfig layer;
} PlainConfig;

#endif
