/* A layer without settings or parameters: one op, one input. */
#ifndef NIBBLE_AUTOGRAD_LAYERS_PLAIN_H
#define NIBBLE_AUTOGRAD_LAYERS_PLAIN_H

#include "autograd/layers.h"
#include "autograd/ops.h"

#define PLAIN_LAYER(name, op, help)      PLAIN_LAYER_OF(name, op, help, 0)
#define ACTIVATION_LAYER(name, op, help) PLAIN_LAYER_OF(name, op, help, LAYER_IS_ACTIVATION)

#define PLAIN_LAYER_OF(name, op, help, layer_flags)                                                \
    static const Field fields[] = {LAYER_FIELDS(PlainConfig), FIELD_END};                          \
    static Var *forward(Module *self, Tape *t, Var *const *in) {                                   \
        (void)self;                                                                                \
        return op(t, in[0]);                                                                       \
    }                                                                                              \
    const Layer layer_##name = {                                                                   \
        .kind = {#name, help, sizeof(PlainConfig), fields},                                        \
        .flags = layer_flags,                                                                      \
        .input_count = 1,                                                                          \
        .forward = forward,                                                                        \
    }

#endif
