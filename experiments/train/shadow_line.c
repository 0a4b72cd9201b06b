#include "experiments/train/shadow_line.h"

#include <math.h>

#include "experiments/train/shadow.h"
#include "qat/calibration.h"

bool shadow_line_is_due(const Experiment *e, int64_t step) {
    int64_t every = e->config.train.shadow_every;
    if (!every || step % every || !qat_is_active(e->qat)) return false;
    return e->qat->phase.is_faking && !calibration_find_missing(e->qat);
}

/* [{"name":"conv1","sqnr_db":20.5},...] */
static const char *layers_text(const Qat *qat, const LayerReport *layers, Arena *arena) {
    const char *text = "";
    for (int i = 0; i < qat->site_count; i++) {
        double sqnr = layers[i].whole.sqnr_db;
        const char *number = isfinite(sqnr) ? arena_format(arena, "%.9g", sqnr) : "null";
        text = arena_format(arena, "%s%s{\"name\":\"%s\",\"sqnr_db\":%s}", text, i ? "," : "",
                            layers[i].name, number);
    }
    return text;
}

bool shadow_line_make(Experiment *e, int64_t step, int64_t epoch, Arena *arena, const char **line,
                      Error *err) {
    bool has_validation = loader_rows(e->loader, LOADER_VALIDATION) > 0;
    ShadowOptions options = {.split = has_validation ? LOADER_VALIDATION : LOADER_CALIBRATION,
                             .rows = SHADOW_LINE_ROWS};
    Shadow shadow;
    optimizer_swap_ema(e->optimizer);
    bool ok = shadow_evaluate(e, &options, NULL, arena, &shadow, err);
    optimizer_swap_ema(e->optimizer);
    if (!ok) {
        error_prefix(err, "step %ld", (long)step);
        return false;
    }
    const OutputChange *change = &shadow.changes[NETWORK_TRAINED];
    *line = arena_format(arena,
                         "{\"step\":%ld,\"epoch\":%ld,\"shadow\":{\"kl\":%.9g,\"changed\":%ld,"
                         "\"outputs\":%ld,\"layers\":[%s]}}",
                         (long)step, (long)epoch, change->kl, (long)change->changed,
                         (long)change->outputs, layers_text(e->qat, shadow.layers, arena));
    return true;
}
