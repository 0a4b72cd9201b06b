#include "autograd/ops.h"

const Op *const op_rows[] = {
#define OP(name, arguments) &op_row_##name,
#include "autograd/ops.def"
#undef OP
};
const int op_row_count = sizeof op_rows / sizeof *op_rows;
