#include "autograd/layers/plain.h"

ACTIVATION_LAYER(tanh, op_tanh, "hyperbolic tangent");
