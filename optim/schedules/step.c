/* Times gamma at each milestone. Milestones count from the start of the training, warm-up included.
 */
#include "optim/schedule.h"

typedef struct StepConfig {
    ScheduleConfig schedule;
    List milestones; /* double */
    double gamma;
} StepConfig;

static const Field step_fields[] = {
    SCHEDULE_FIELDS(StepConfig),
    FIELD_NUMBERS(StepConfig, milestones, "[0.5, 0.75]", FIELD_TYPE_FLOAT, 0, 1e9,
                  "where to drop; below 1: a fraction of the training, else steps"),
    FIELD_FLOAT(StepConfig, gamma, "0.1", 0, 1, "factor of each drop"),
    FIELD_END,
};

static double step_factor(const void *config, int64_t step, int64_t warmup, int64_t total) {
    (void)warmup;
    const StepConfig *drops = config;
    const double *milestones = drops->milestones.items;
    double factor = 1;
    for (int i = 0; i < drops->milestones.count; i++)
        if (step >= schedule_point(milestones[i], total)) factor *= drops->gamma;
    return factor;
}

static bool step_check(const void *config, int64_t total, Error *err) {
    const StepConfig *drops = config;
    const double *milestones = drops->milestones.items;
    for (int i = 0; i < drops->milestones.count; i++)
        TRY(schedule_check_point("schedule.milestones", milestones[i], total, err));
    return true;
}

const Schedule schedule_step = {
    .kind = {"step", "times gamma at each milestone", sizeof(StepConfig), step_fields},
    .factor = step_factor,
    .check = step_check,
};
