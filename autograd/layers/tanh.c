#include "autograd/layers/plain.h"

PLAIN_LAYER(tanh, op_tanh, "hyperbolic tangent");
