#include "autograd/layers/plain.h"

ACTIVATION_LAYER(relu6, op_relu6, "min(max(x, 0), 6)");
