#include "autograd/ops/binary.h"

#include "autograd/ops/elementwise.h"

enum { BINARY_BLOCK = 64 }; /* columns summed together by one thread */

bool binary_infer(Var *v, Error *err) {
    Shape a = v->in[0]->value.shape, b = v->in[1]->value.shape;
    bool fits = b.rank <= a.rank;
    for (int i = 0; fits && i < b.rank; i++) fits = b.dim[i] == a.dim[a.rank - b.rank + i];
    char text[2][SHAPE_TEXT_BYTES];
    if (!fits)
        return FAIL(err, ERROR_INPUT,
                    "shapes %s and %s do not fit: the second must equal the first, or its trailing "
                    "dimensions",
                    shape_text(a, text[0]), shape_text(b, text[1]));
    v->value.shape = a;
    return true;
}

static void sum_columns(const float *dy, const float *a, int64_t rows, int64_t columns, int width,
                        float beta, float *db) {
    double sum[BINARY_BLOCK] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int j = 0; j < width; j++) {
            int64_t i = r * columns + j;
            sum[j] += a ? dy[i] * a[i] : dy[i];
        }
    for (int j = 0; j < width; j++) db[j] = gradient_join(beta, db[j], (float)sum[j]);
}

void binary_backward_b(const float *dy, const float *a, int64_t rows, int64_t columns, float beta,
                       float *db) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < columns; first += BINARY_BLOCK) {
        int width = (int)(columns - first < BINARY_BLOCK ? columns - first : BINARY_BLOCK);
        sum_columns(dy + first, a ? a + first : NULL, rows, columns, width, beta, db + first);
    }
}
