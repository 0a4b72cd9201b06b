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

typedef struct PlainConfig { /* layers without settings of their own */
    LayerConfig layer;
} PlainConfig;

#endif
