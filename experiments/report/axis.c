#include "experiments/report/axis.h"

#include <math.h>

/* The smallest of 1, 2, 5, 10, 20 ... (times any power of ten) that is at least `least`. */
static double round_step(double least) {
    double power = pow(10, floor(log10(least)));
    double digit = least / power;
    return (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10) * power;
}

Axis axis_of(double min, double max, int ticks) {
    if (max - min < 1e-12 * fmax(fabs(max), 1e-6)) { /* one value */
        double pad = max ? fabs(max) * 0.05 : 1;
        min -= pad;
        max += pad;
    }
    Axis axis = {min, max, round_step((max - min) / ticks), 0};
    axis.decimals = (int)fmin(12, fmax(0, -floor(log10(axis.step) + 1e-9)));
    return axis;
}

Axis axis_round(double min, double max, int ticks) {
    Axis axis = axis_of(min, max, ticks);
    axis.min = floor(axis.min / axis.step) * axis.step;
    axis.max = ceil(axis.max / axis.step) * axis.step;
    return axis;
}

double axis_share(const Axis *axis, double value) {
    return (value - axis->min) / (axis->max - axis->min);
}

static long first_tick(const Axis *axis) {
    return lround(ceil(axis->min / axis->step - 1e-9));
}

int axis_tick_count(const Axis *axis) {
    return (int)(lround(floor(axis->max / axis->step + 1e-9)) - first_tick(axis)) + 1;
}

double axis_tick(const Axis *axis, int i) {
    return (double)(first_tick(axis) + i) * axis->step;
}

void axis_tick_put(Page *page, double value, int decimals) {
    if (fabs(value) >= 1000 && !decimals) {
        page_count(page, llround(value));
    } else if (decimals > 5) {
        page_format(page, "%.2g", value);
    } else {
        page_format(page, "%.*f", decimals, value == 0 ? 0 : value); /* no "-0" */
    }
}
