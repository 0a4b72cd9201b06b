#include "qat/ptq/soft_rounding.h"

#include <math.h>
#include <string.h>

static const float stretch = 1.2f, below = 0.1f; /* zeta - gamma, and -gamma, of the paper */
static const double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

static float sigmoid(float v) {
    return 1 / (1 + expf(-v));
}

static float soft(float v) {
    return fminf(fmaxf(stretch * sigmoid(v) - below, 0), 1);
}

/* dh/dV. */
static float soft_slope(float v) {
    float p = sigmoid(v), h = stretch * p - below;
    return h > 0 && h < 1 ? stretch * p * (1 - p) : 0;
}

/* What holds for one element. */
typedef struct Place {
    float scale, lowest, highest, step;
} Place;

static Place place_of(const Scales *s, int64_t i) {
    int64_t number;
    scales_run(s, i, &number);
    float zero = s->zero ? s->zero[number] : 0;
    return (Place){s->scale[number], (float)grid_low(s->grid) - zero,
                   (float)grid_high(s->grid) - zero, (float)s->grid.step};
}

static float clip(const Place *p, float level) {
    return fminf(fmaxf(level, p->lowest), p->highest);
}

SoftRounding soft_rounding_new(const float *weight, int64_t count, const Scales *scales,
                               Arena *arena) {
    SoftRounding s = {.count = count, .scales = scales};
    s.down = arena_new_array(arena, float, count);
    s.v = arena_new_array(arena, float, count);
    s.momenta = arena_new_array(arena, float, 2 * count);
    memset(s.momenta, 0, sizeof(float) * 2 * (size_t)count);
    for (int64_t i = 0; i < count; i++) {
        Place p = place_of(scales, i);
        float steps = (weight[i] * (1 / p.scale) - p.lowest) / p.step, whole = floorf(steps);
        float part = (steps - whole + below) / stretch;
        s.down[i] = p.lowest + p.step * whole;
        s.v[i] = logf(part / (1 - part));
    }
    return s;
}

void soft_rounding_values(const SoftRounding *s, float *values) {
#pragma omp parallel for
    for (int64_t i = 0; i < s->count; i++) {
        Place p = place_of(s->scales, i);
        values[i] = p.scale * clip(&p, s->down[i] + p.step * soft(s->v[i]));
    }
}

void soft_rounding_levels(const SoftRounding *s, float *levels) {
    for (int64_t i = 0; i < s->count; i++) {
        Place p = place_of(s->scales, i);
        levels[i] = clip(&p, s->down[i] + (soft(s->v[i]) >= 0.5f ? p.step : 0));
    }
}

double soft_rounding_penalty(const SoftRounding *s, double beta) {
    double sum = 0;
    for (int64_t i = 0; i < s->count; i++)
        sum += 1 - pow(fabs(2 * (double)soft(s->v[i]) - 1), beta);
    return sum;
}

/* d(1 - |2 h - 1|^beta)/dh */
static float penalty_slope(float h, float beta) {
    float from_middle = 2 * h - 1;
    return copysignf(2 * beta * powf(fabsf(from_middle), beta - 1), -from_middle);
}

void soft_rounding_gradient(const SoftRounding *s, double weight, double beta, float *gradient) {
    float factor = (float)weight, power = (float)beta;
#pragma omp parallel for
    for (int64_t i = 0; i < s->count; i++) {
        Place p = place_of(s->scales, i);
        float h = soft(s->v[i]), level = s->down[i] + p.step * h;
        bool is_inside = level > p.lowest && level < p.highest;
        float slope = is_inside ? gradient[i] * p.scale * p.step : 0;
        if (factor > 0) slope += factor * penalty_slope(h, power);
        gradient[i] = slope * soft_slope(s->v[i]);
    }
}

void soft_rounding_step(SoftRounding *s, const float *gradient, double rate) {
    float *first = s->momenta, *second = s->momenta + s->count;
    s->steps++;
    float unbias1 = (float)(1 - pow(beta1, (double)s->steps));
    float unbias2 = (float)(1 - pow(beta2, (double)s->steps));
#pragma omp parallel for
    for (int64_t i = 0; i < s->count; i++) {
        float g = gradient[i];
        first[i] = (float)beta1 * first[i] + (float)(1 - beta1) * g;
        second[i] = (float)beta2 * second[i] + (float)(1 - beta2) * g * g;
        float size = sqrtf(second[i] / unbias2) + (float)epsilon;
        s->v[i] -= (float)rate * (first[i] / unbias1) / size;
    }
}
