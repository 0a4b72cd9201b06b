/* A tensor seen around one axis: [outer, length, inner]. */
#ifndef NIBBLE_AUTOGRAD_OPS_AXIS_H
#define NIBBLE_AUTOGRAD_OPS_AXIS_H

#include "autograd/tape.h"

typedef struct AxisView {
    int64_t outer, length, inner;
} AxisView;

static inline AxisView axis_view(Shape shape, int axis) {
    AxisView view = {1, shape.dim[axis], 1};
    for (int i = 0; i < axis; i++) view.outer *= shape.dim[i];
    for (int i = axis + 1; i < shape.rank; i++) view.inner *= shape.dim[i];
    return view;
}

static inline bool axis_check(Shape shape, int axis, Error *err) {
    char text[SHAPE_TEXT_BYTES];
    if (axis < 0 || axis >= shape.rank)
        return FAIL(err, ERROR_INPUT, "axis %d of shape %s: axes are from 0 to %d", axis,
                    shape_text(shape, text), shape.rank - 1);
    return true;
}

#endif
