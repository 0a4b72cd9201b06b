#include "autograd/layers/plain.h"

PLAIN_LAYER(sigmoid, op_sigmoid, "1 / (1 + exp(-x))");
