#include "autograd/layers/plain.h"

PLAIN_LAYER(silu, op_silu, "x times the sigmoid of x");
