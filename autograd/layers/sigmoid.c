#include "autograd/layers/plain.h"

ACTIVATION_LAYER(sigmoid, op_sigmoid, "1 / (1 + exp(-x))");
