#include "autograd/layers/plain.h"

ACTIVATION_LAYER(relu, op_relu, "max(x, 0)");
