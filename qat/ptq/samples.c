#include "qat/ptq/samples.h"

#include <string.h>

typedef struct Draw {
    Ptq *p;
    const WeightSite *site;
    int64_t number, most, per_row, filled; /* number: the site's */
    Samples *out;
    Arena *arena;
} Draw;

/* ---- What the layer is ---- */

typedef struct ActivationSearch {
    const Var *read;
    Module *found;
} ActivationSearch;

static bool look_for_activation(void *context, Module *module) {
    ActivationSearch *s = context;
    if (module->layer->flags & LAYER_IS_ACTIVATION && module->last_in[0] == s->read)
        s->found = module;
    return !s->found;
}

static Module *activation_behind(Model *model, const Var *output) {
    ActivationSearch s = {.read = output};
    if (output->readers == 1) model_visit(model, look_for_activation, &s);
    return s.found;
}

/* Where `d->filled` is 0: how many there will be of what, and memory for them. */
static void begin(Draw *d, const PtqLayer *quantized) {
    Samples *s = d->out;
    Shape x = quantized->operand->value.shape, w = d->site->weight->value.shape;
    s->is_image = w.rank == 4;
    s->channels = w.dim[0];
    s->shape = s->is_image ? SHAPE(w.dim[1], w.dim[2], shape_last(x)) : SHAPE(shape_last(x));
    if (s->is_image) {
        s->attr = *(const Conv2dAttr *)d->site->module->last_out->attr;
        s->attr = (Conv2dAttr){.stride = 1, .dilation = 1, .groups = s->attr.groups};
    }
    s->activation = activation_behind(d->p->qat->model, quantized->output);
    int64_t positions = shape_rows(quantized->output->value.shape) / x.dim[0];
    d->per_row = d->most / d->p->data.row_count;
    if (d->per_row < 1) d->per_row = 1;
    if (d->per_row > positions) d->per_row = positions;
    s->count = d->per_row * d->p->data.row_count;
    s->inputs = arena_new_array(d->arena, float, s->count *shape_count(s->shape));
    s->targets = arena_new_array(d->arena, float, s->count * s->channels);
}

/* ---- Gathering ---- */

/* What output pixel `position` of image x [height, width, channels] reads. */
static void copy_patch(const Conv2dAttr *a, Shape patch, Shape image, const float *x,
                       int64_t position, int64_t out_width, float *to) {
    int64_t channels = patch.dim[2];
    int64_t top = position / out_width * a->stride - a->pad_top;
    int64_t left = position % out_width * a->stride - a->pad_left;
    for (int64_t tap = 0; tap < patch.dim[0] * patch.dim[1]; tap++) {
        int64_t row = top + tap / patch.dim[1] * a->dilation;
        int64_t column = left + tap % patch.dim[1] * a->dilation;
        bool is_inside = row >= 0 && row < image.dim[1] && column >= 0 && column < image.dim[2];
        float *here = to + tap * channels;
        if (is_inside)
            memcpy(here, x + (row * image.dim[2] + column) * channels,
                   sizeof *here * (size_t)channels);
        else
            memset(here, 0, sizeof *here * (size_t)channels);
    }
}

/* All positions of a row in turn, or as many of them by lot. */
static int64_t position_of(const Draw *d, int64_t sample, int64_t positions) {
    if (d->per_row == positions) return sample % positions;
    RandomKey key = {
        .seed = d->p->qat->model->seed, .stream = RANDOM_SAMPLES, .step = (uint64_t)d->number};
    return (int64_t)random_below(key, (uint64_t)sample, (uint64_t)positions);
}

static void copy_sample(const Draw *d, const PtqLayer *exact, const float *x, Shape input,
                        int64_t row, int64_t sample) {
    const Samples *s = d->out;
    Shape output = exact->output->value.shape;
    int64_t positions = shape_rows(output) / input.dim[0], length = shape_count(s->shape);
    int64_t position = position_of(d, sample, positions);
    const float *from = x + row * (shape_count(input) / input.dim[0]);
    if (s->is_image)
        copy_patch(d->site->module->last_out->attr, s->shape, input, from, position, output.dim[2],
                   s->inputs + sample * length);
    else
        memcpy(s->inputs + sample * length, from + position * length,
               sizeof(float) * (size_t)length);
    memcpy(s->targets + sample * s->channels,
           var_f32(exact->output) + (row * positions + position) * s->channels,
           sizeof(float) * (size_t)s->channels);
}

static bool gather(void *context, const PtqBatch *batch, Error *err) {
    (void)err;
    Draw *d = context;
    int64_t site = d->site - d->p->qat->sites;
    const PtqLayer *quantized = &batch->quantized[site], *exact = &batch->exact[site];
    if (!ptq_is_product(d->site)) return true;
    if (!d->filled) begin(d, quantized);
    const Tensor *operand = &quantized->operand->value;
    Arena *arena = arena_new("samples of a batch");
    float *x = arena_new_array(arena, float, tensor_count(operand));
    tensor_decode(operand, x);
    for (int64_t row = 0; row < operand->shape.dim[0]; row++)
        for (int64_t i = 0; i < d->per_row; i++)
            copy_sample(d, exact, x, operand->shape, row, d->filled++);
    arena_free(arena);
    return true;
}

bool samples_draw(Ptq *p, const WeightSite *site, int64_t most, Arena *arena, Samples *out,
                  Error *err) {
    *out = (Samples){0};
    Draw d = {.p = p,
              .site = site,
              .number = site - p->qat->sites,
              .most = most,
              .out = out,
              .arena = arena};
    return ptq_stream(p, PTQ_EXACT | PTQ_QUANTIZED, gather, &d, err);
}

Var *samples_product(const Samples *s, Tape *t, Var *inputs, Var *weight) {
    if (!s->is_image) return op_linear(t, inputs, weight, NULL);
    Var *y = op_conv2d(t, inputs, weight, NULL, s->attr);
    return op_reshape(t, y, SHAPE(inputs->value.shape.dim[0], s->channels));
}
