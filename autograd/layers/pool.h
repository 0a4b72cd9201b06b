/* A pooling layer over square windows. */
#ifndef NIBBLE_AUTOGRAD_LAYERS_POOL_H
#define NIBBLE_AUTOGRAD_LAYERS_POOL_H

#include "autograd/layers.h"
#include "autograd/ops.h"

#define POOL_LAYER(name, op, help)                                                                 \
    static const Field fields[] = {                                                                \
        LAYER_FIELDS(PoolConfig),                                                                  \
        FIELD_INT(PoolConfig, kernel, "2", 1, 255, "side of the square window, pixels"),           \
        FIELD_INT(PoolConfig, stride, "0", 0, 255, "pixels between windows; 0: the kernel"),       \
        FIELD_INT(PoolConfig, padding, "0", 0, 127, "pixels on each side; at most kernel / 2"),    \
        FIELD_END,                                                                                 \
    };                                                                                             \
    static Var *forward(Module *self, Tape *t, Var *const *in) {                                   \
        const PoolConfig *c = self->config;                                                        \
        int64_t stride = c->stride ? c->stride : c->kernel;                                        \
        return op(t, in[0], (Pool2dAttr){c->kernel, stride, c->padding});                          \
    }                                                                                              \
    const Layer layer_##name = {                                                                   \
        .kind = {#name, help, sizeof(PoolConfig), fields},                                         \
        .input_count = 1,                                                                          \
        .forward = forward,                                                                        \
    }

#endif
