/* The plain references: three loops, nothing clever. */
#include <assert.h>
#include <stdlib.h>

#include "core/gemm.h"
#include "core/kernels/operand.h"

/* Offset in storage of element (row, column) of op(matrix). */
static int64_t offset_of(const Matrix *matrix, int64_t row, int64_t column) {
    return matrix->is_transposed ? column * matrix->row_stride + row
                                 : row * matrix->row_stride + column;
}

static float value_at(const Matrix *matrix, int64_t offset) {
    const Tensor *tensor = &matrix->tensor;
    if (operand_is_plain(tensor)) return ((const float *)tensor->data)[offset];
    float value;
    tensor_decode_part(tensor, offset, 1, &value);
    return value;
}

static int64_t level_at(const Matrix *matrix, int64_t offset) {
    const Tensor *tensor = &matrix->tensor;
    if (tensor->dtype == DTYPE_F32) return (int64_t)((const float *)tensor->data)[offset];
    float levels[8];
    int64_t first = offset & ~(int64_t)7;
    operand_read(tensor, first, offset - first + 1, levels);
    return (int64_t)levels[offset - first];
}

void gemm_reference(Matrix a, Matrix b, float beta, float *c, int64_t c_row_stride,
                    const Epilogue *epilogue) {
    int64_t m = a.is_transposed ? a.cols : a.rows, k = a.is_transposed ? a.rows : a.cols;
    int64_t n = b.is_transposed ? b.rows : b.cols;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)value_at(&a, offset_of(&a, i, l)) *
                       (double)value_at(&b, offset_of(&b, l, j));
            float *out = c + i * c_row_stride + j;
            if (beta != 0) sum += (double)beta * (double)*out;
            if (epilogue && epilogue->bias) sum += (double)epilogue->bias[j];
            *out = (float)sum;
        }
}

static float scale_at(const Matrix *matrix, int64_t offset) {
    int64_t scale;
    scales_run(matrix->tensor.scales, offset, &scale);
    return matrix->tensor.scales->scale[scale];
}

void gemm_integer_reference(Matrix a, Matrix b, float *c, int64_t c_row_stride,
                            const Epilogue *epilogue) {
    int64_t m = a.is_transposed ? a.cols : a.rows, k = a.is_transposed ? a.rows : a.cols;
    int64_t n = b.is_transposed ? b.rows : b.cols;
    assert(tensor_holds_levels(&a.tensor) && tensor_holds_levels(&b.tensor));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int64_t l = 0; l < k; l++) {
                int64_t product =
                    level_at(&a, offset_of(&a, i, l)) * level_at(&b, offset_of(&b, l, j));
                int64_t wide = sum + product;
                assert(wide >= INT32_MIN && wide <= INT32_MAX);
                sum = (int32_t)wide;
            }
            float scale = scale_at(&a, offset_of(&a, i, 0)) * scale_at(&b, offset_of(&b, 0, j));
            float out = (float)sum * scale;
            if (epilogue && epilogue->bias) out += epilogue->bias[j];
            c[i * c_row_stride + j] = out;
        }
}
