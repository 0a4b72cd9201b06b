#include "autograd/layers/pool.h"

POOL_LAYER(avg_pool, op_avg_pool2d, "mean of each window's pixels inside the image");
