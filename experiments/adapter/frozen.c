#include "experiments/adapter/frozen.h"

#include <string.h>

#include "data/safetensors.h"
#include "experiments/models/models.h"
#include "experiments/train/saved.h"

/* ---- Its digest ---- */

/* One digest behind the other. */
typedef struct Digests {
    char *text;
    size_t used;
} Digests;

enum {
    DIGITS = ENVELOPE_DIGEST_TEXT - 1,
    PLANES_MAX = 6 /* of a tensor: twice codes, scales, zeros */
};

static void add_bytes(Digests *d, const void *bytes, size_t count) {
    envelope_digest(bytes, count, d->text + d->used);
    d->used += DIGITS;
}

static void add_tensor(Digests *d, const Tensor *t) {
    const Scales *s = t->scales;
    add_bytes(d, t->data, dtype_bytes(t->dtype, tensor_count(t)));
    if (!s) return;
    size_t bytes = sizeof(float) * (size_t)s->count;
    if (s->stored)
        add_tensor(d, s->stored);
    else
        add_bytes(d, s->scale, bytes);
    if (s->zero) add_bytes(d, s->zero, bytes);
}

/* Of the numbers themselves, as they are stored: of whatever file they came. */
static void digest_base(const Model *model, char digest[ENVELOPE_DIGEST_TEXT]) {
    Arena *arena = arena_new("digests");
    size_t room = (size_t)model->param_count * PLANES_MAX * DIGITS + 1;
    Digests d = {.text = arena_alloc(arena, room)};
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->is_base) add_tensor(&d, &model->params[i]->value);
    envelope_digest(d.text, d.used, digest);
    arena_free(arena);
}

/* ---- Loading ---- */

static bool load_run(Experiment *e, Error *err) {
    Checkpoint from;
    bool is_open = saved_open_weights(e->config.train.init, e->arena, &from, err);
    bool ok = is_open && checkpoint_init(&from, "", e->model, err);
    if (is_open) checkpoint_close(&from);
    if (ok) return true;
    error_prefix(err, "train.init");
    error_blame(err, "train.init");
    config_place(&e->config, err); /* not every command that opens a run does */
    return false;
}

bool frozen_load(Experiment *e, Error *err) {
    if (!e->adapter || *e->base_digest) return true;
    if (!e->config.train.init && !e->base_directory)
        return FAIL(err, ERROR_INPUT,
                    "adapter: a new network has nothing to adapt; say where a trained one lies "
                    "(train.init: RUN)") ||
               error_blame(err, "adapter");
    if (e->config.train.init) TRY(load_run(e, err));
    digest_base(e->model, e->base_digest);
    return true;
}

bool frozen_check_digest(const Experiment *e, const char *digest, const char *path, Error *err) {
    const char *init = e->config.train.init;
    if (!strcmp(digest, e->base_digest)) return true;
    return FAIL(err, ERROR_INPUT,
                "%s stands on another base (digest %s) than %s is now (%s): say where that network "
                "lies (%s), or start a new run",
                path, *digest ? digest : "none", init ? init : e->base_directory, e->base_digest,
                init ? "train.init=RUN" : "model.path=DIR");
}

/* ---- The weights as they were ---- */

static bool read_open(const SafeTensors *st, const char *directory, const Param *weight,
                      float *values, Error *err) {
    const SafeTensor *tensor = safetensors_find(st, weight->name);
    if (!tensor || tensor->dtype == DTYPE_COUNT || !shape_equal(tensor->shape, weight->value.shape))
        return FAIL(err, ERROR_INPUT,
                    "%s does not have %s as it was before it was stored in few bits", directory,
                    weight->name);
    return safetensors_read(st, tensor, 0, shape_count(tensor->shape), values, err);
}

static bool read_weight(void *context, const Param *weight, float *values, Error *err) {
    const char *directory = context;
    SafeTensors st;
    Arena *arena = arena_new("safetensors");
    bool ok = safetensors_open(directory, arena, &st, err) &&
              read_open(&st, directory, weight, values, err);
    safetensors_close(&st);
    arena_free(arena);
    return ok;
}

AdapterSource frozen_source(const char *directory) {
    if (!directory) return (AdapterSource){0};
    return (AdapterSource){read_weight, (void *)(uintptr_t)directory};
}
