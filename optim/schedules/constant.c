/* The learning rate as given, after warm-up. */
#include "optim/schedule.h"

typedef struct ConstantConfig {
    ScheduleConfig schedule;
} ConstantConfig;

static const Field constant_fields[] = {SCHEDULE_FIELDS(ConstantConfig), FIELD_END};

static double constant_factor(const void *config, int64_t step, int64_t warmup, int64_t total) {
    (void)config, (void)step, (void)warmup, (void)total;
    return 1;
}

const Schedule schedule_constant = {
    .kind = {"constant", "the same all along", sizeof(ConstantConfig), constant_fields},
    .factor = constant_factor,
};
