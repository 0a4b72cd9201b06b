/* 2-D convolution. Weight [filters, kernel, kernel, in / groups], He initialisation
 * (He et al. 2015): deviation sqrt(2 / fan_in). */
#include <math.h>

#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(ConvConfig),
    FIELD_INT(ConvConfig, filters, "0", 0, 65536, "output channels; 0: as many as the input has"),
    FIELD_INT(ConvConfig, kernel, "3", 1, 255, "side of the square kernel, pixels"),
    FIELD_INT(ConvConfig, stride, "1", 1, 255, "pixels from one output to the next"),
    FIELD_INT(ConvConfig, dilation, "1", 1, 255, "pixels between two taps of the kernel"),
    FIELD_INT(ConvConfig, padding, "-1", -1, 255,
              "pixels of zeros on each side; -1: what keeps the size at stride 1"),
    FIELD_INT(ConvConfig, groups, "1", 1, 65536, "input and output channels are cut into groups"),
    FIELD_BOOL(ConvConfig, depthwise, "false", "one group per input channel"),
    FIELD_BOOL(ConvConfig, bias, "true", "add a bias per filter"),
    FIELD_END,
};

typedef struct State {
    Param *weight, *bias;
    Conv2dAttr attr;
} State;

static bool build(Module *self, Var *const *in, Error *err) {
    const ConvConfig *c = self->config;
    Shape x = in[0]->value.shape;
    if (x.rank != 4)
        return FAIL(err, ERROR_INPUT, "conv needs images [n, height, width, channels], not rank %d",
                    x.rank);
    int64_t channels = x.dim[3];
    int64_t groups = c->depthwise ? channels : c->groups;
    int64_t filters = c->filters ? c->filters : channels;
    if (channels % groups || filters % groups)
        return FAIL(err, ERROR_INPUT,
                    "groups %ld must divide both the %ld input channels and the %ld filters",
                    (long)groups, (long)channels, (long)filters);
    State *s = self->state = arena_new_array(self->model->arena, State, 1);
    bool is_same = c->padding == PADDING_SAME;
    int64_t reach = c->dilation * (c->kernel - 1); /* an odd one is filled up at the end */
    int64_t before = is_same ? reach / 2 : c->padding, after = is_same ? reach - before : before;
    s->attr = (Conv2dAttr){.stride = c->stride,
                           .dilation = c->dilation,
                           .groups = groups,
                           .pad_top = before,
                           .pad_bottom = after,
                           .pad_left = before,
                           .pad_right = after};
    int64_t fan_in = c->kernel * c->kernel * (channels / groups);
    Init he = {INIT_NORMAL, sqrtf(2.0f / (float)fan_in)};
    Shape shape = SHAPE(filters, c->kernel, c->kernel, channels / groups);
    s->weight = module_param(self, "weight", shape, PARAM_WEIGHT, he);
    if (c->bias)
        s->bias = module_param(self, "bias", SHAPE(filters), PARAM_BIAS, (Init){INIT_ZERO, 0});
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    State *s = self->state;
    Var *w = param_read(s->weight, t);
    Var *bias = param_read(s->bias, t);
    return op_conv2d(t, in[0], w, bias, s->attr);
}

const Layer layer_conv = {
    .kind = {"conv", "2-D convolution", sizeof(ConvConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
