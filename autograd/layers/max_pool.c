#include "autograd/layers/pool.h"

POOL_LAYER(max_pool, op_max_pool2d, "largest value of each window");
