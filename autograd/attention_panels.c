#include "autograd/attention_panels.h"

#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"

int64_t attention_room(int64_t length) {
    return count_pieces(length, PANEL) * PANEL;
}

int64_t attention_key_floats(int64_t dim, int64_t room) {
    return dim * room;
}

int64_t attention_value_floats(int64_t dim, int64_t room) {
    return count_pieces(dim, PANEL) * PANEL * room;
}

void attention_put_key(const float *key, int64_t dim, int64_t position, float *keys) {
    int64_t lane = position % PANEL;
    float *panel = keys + (position - lane) * dim;
    if (lane == 0) memset(panel, 0, sizeof *panel * (size_t)(dim * PANEL));
    for (int64_t c = 0; c < dim; c++) panel[c * PANEL + lane] = key[c];
}

void attention_put_value(const float *value, int64_t dim, int64_t room, int64_t position,
                         float *values) {
    for (int64_t c = 0; c < dim; c += PANEL) {
        int64_t some = count_least(PANEL, dim - c);
        float *to = values + c * room + position * PANEL;
        memcpy(to, value + c, sizeof *to * (size_t)some);
        memset(to + some, 0, sizeof *to * (size_t)(PANEL - some));
    }
}

void attention_put_keys(const float *x, int64_t stride, int64_t rows, int64_t dim, int64_t panel,
                        float *keys) {
    isa_active()->transpose(x + panel * PANEL * stride, stride, rows, dim,
                            keys + panel * dim * PANEL, PANEL);
}
