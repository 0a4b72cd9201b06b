#include "experiments/adapter/frozen.h"

#include <stdio.h>
#include <string.h>

#include "experiments/train/saved.h"

static bool take(const Checkpoint *from, Experiment *e, Error *err) {
    TRY(checkpoint_init(from, "", e->model, err));
    snprintf(e->base_digest, sizeof e->base_digest, "%s", from->digest);
    return true;
}

bool frozen_load(Experiment *e, Error *err) {
    const char *init = e->config.train.init;
    Checkpoint from;
    if (!e->adapter || *e->base_digest) return true;
    if (!init)
        return FAIL(err, ERROR_INPUT,
                    "adapter: a new network has nothing to adapt; say where a trained one lies "
                    "(train.init: RUN)") ||
               error_blame(err, "adapter");
    bool is_open = saved_open_weights(init, e->arena, &from, err);
    bool ok = is_open && take(&from, e, err);
    if (is_open) checkpoint_close(&from);
    if (ok) return true;
    error_prefix(err, "train.init");
    return error_blame(err, "train.init");
}

bool frozen_check_digest(const Experiment *e, const char *digest, const char *path, Error *err) {
    if (!strcmp(digest, e->base_digest)) return true;
    return FAIL(err, ERROR_INPUT,
                "%s stands on another base (digest %s) than %s is now (%s): say where that network "
                "lies (train.init=RUN), or start a new run",
                path, *digest ? digest : "none", e->config.train.init, e->base_digest);
}
