/* A line from 1 at the end of warm-up to `final` at the end of the training. */
#include "optim/schedule.h"

typedef struct LinearConfig {
    ScheduleConfig schedule;
    double final;
} LinearConfig;

static const Field linear_fields[] = {
    SCHEDULE_FIELDS(LinearConfig),
    FIELD_FLOAT(LinearConfig, final, "0", 0, 1, "factor that the end of the training approaches"),
    FIELD_END,
};

static double linear_factor(const void *config, int64_t step, int64_t warmup, int64_t total) {
    const LinearConfig *linear = config;
    return 1 + (linear->final - 1) * schedule_progress(step, warmup, total);
}

const Schedule schedule_linear = {
    .kind = {"linear", "a line down to `final`", sizeof(LinearConfig), linear_fields},
    .factor = linear_factor,
};
