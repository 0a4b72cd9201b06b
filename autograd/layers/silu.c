#include "autograd/layers/plain.h"

ACTIVATION_LAYER(silu, op_silu, "x times the sigmoid of x");
