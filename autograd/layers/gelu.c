#include "autograd/layers/plain.h"

ACTIVATION_LAYER(gelu, op_gelu, "x times the normal distribution function of x");
