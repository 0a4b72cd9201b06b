#include "autograd/layers/plain.h"

PLAIN_LAYER(global_pool, op_global_avg_pool, "mean over height and width: [n, h, w, c] to [n, c]");
