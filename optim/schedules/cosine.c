/* Half a cosine from 1 at the end of warm-up to `final` at the end of the training (Loshchilov and
 * Hutter, ICLR 2017, without restarts). */
#include <math.h>

#include "optim/schedule.h"

typedef struct CosineConfig {
    ScheduleConfig schedule;
    double final;
} CosineConfig;

static const Field cosine_fields[] = {
    SCHEDULE_FIELDS(CosineConfig),
    FIELD_FLOAT(CosineConfig, final, "0", 0, 1, "factor that the end of the training approaches"),
    FIELD_END,
};

static double cosine_factor(const void *config, int64_t step, int64_t warmup, int64_t total) {
    const CosineConfig *cosine = config;
    double wave = cos(M_PI * schedule_progress(step, warmup, total));
    return cosine->final + (1 - cosine->final) * (1 + wave) / 2;
}

const Schedule schedule_cosine = {
    .kind = {"cosine", "half a cosine down to `final`", sizeof(CosineConfig), cosine_fields},
    .factor = cosine_factor,
};
