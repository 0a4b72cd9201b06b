#include "autograd/layers/plain.h"

PLAIN_LAYER(relu, op_relu, "max(x, 0)");
