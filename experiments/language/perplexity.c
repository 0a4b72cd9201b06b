#include "experiments/language/perplexity.h"

#include <math.h>

#include "core/counts.h"
#include "experiments/train/environment.h"
#include "experiments/train/evaluate.h"

/* One window as a model reads it: [1, count] whole numbers, and the token after each or -1. */
typedef struct Window {
    Model *model;
    float *ids;
    int32_t *labels;
    int64_t count, scored;
} Window;

static Var *window_record(void *context, Tape *t) {
    const Window *w = context;
    Tensor ids = {.dtype = DTYPE_F32, .shape = SHAPE(1, w->count), .data = w->ids};
    Var *x = tape_constant(t, ids);
    TokenContext *tokens = model_tokens(w->model, t);
    tokens->is_scored = true;
    tokens->labels = w->labels;
    return model_forward(w->model, t, x);
}

/* Tokens ids[0 .. count - 1], of which those from `first` on are scored. */
static void window_set(Window *w, const int32_t *ids, int64_t count, int64_t first) {
    w->count = count;
    w->scored = count - first;
    for (int64_t i = 0; i < count; i++) {
        w->ids[i] = (float)ids[i];
        w->labels[i] = i + 1 >= first && i + 1 < count ? ids[i + 1] : -1;
    }
}

bool perplexity_check(const PerplexityOptions *o, Error *err) {
    if (o->window < 2)
        return FAIL(err, ERROR_INPUT, "a window of %ld tokens scores none: it takes at least 2",
                    (long)o->window);
    if (o->stride < 0 || o->stride > o->window)
        return FAIL(err, ERROR_INPUT,
                    "a stride of %ld does not fit windows of %ld tokens: it is 1 to %ld",
                    (long)o->stride, (long)o->window, (long)o->window);
    return true;
}

static bool ids_check(const Model *model, const int32_t *ids, int64_t count, Error *err) {
    int64_t vocabulary = shape_last(model->output);
    if (count < 2)
        return FAIL(err, ERROR_INPUT,
                    "the text has %ld tokens, and the first is not scored: it takes at least 2",
                    (long)count);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary)
            return FAIL(err, ERROR_INPUT,
                        "token %ld of the text has the id %ld, but the model knows %ld tokens: the "
                        "tokenizer is another model's",
                        (long)i, (long)ids[i], (long)vocabulary);
    return true;
}

static bool window_add(Window *w, Tape *t, TapeMode mode, Perplexity *out, Error *err) {
    Var *loss = tape_run(t, mode, window_record, w);
    TRY(evaluate_check(t, loss, err));
    out->loss += (double)*var_f32(loss) * (double)w->scored;
    out->scored += w->scored;
    out->seen += w->count;
    return true;
}

bool perplexity_measure(Model *model, Tape *t, const PerplexityOptions *options, const int32_t *ids,
                        int64_t count, Perplexity *out, Error *err) {
    TRY(perplexity_check(options, err) && ids_check(model, ids, count, err));
    int64_t most = count_least(options->window, count);
    int64_t stride = options->stride ? options->stride : options->window;
    Arena *arena = arena_new("window");
    Window w = {.model = model,
                .ids = arena_new_array(arena, float, most),
                .labels = arena_new_array(arena, int32_t, most)};
    double start = environment_seconds();
    bool ok = true;
    *out = (Perplexity){0};
    for (int64_t begin = 0, end = 0; ok && end < count; begin += stride) {
        int64_t seen = end - begin, first = count_most(seen, 1);
        end = count_least(begin + most, count);
        window_set(&w, ids + begin, end - begin, first);
        if (w.scored > 0) ok = window_add(&w, t, options->mode, out, err);
    }
    out->seconds = environment_seconds() - start;
    if (out->scored) out->loss /= (double)out->scored;
    out->perplexity = exp(out->loss);
    arena_free(arena);
    return ok;
}
