#include "optim/schedule.h"

#include <math.h>

static const Kind *const kinds[] = {
#define SCHEDULE(name) &schedule_##name.kind,
#include "optim/schedules.def"
#undef SCHEDULE
};
const KindTable schedule_kinds = {"schedule", kinds, sizeof kinds / sizeof *kinds};

int64_t schedule_point(double setting, int64_t total) {
    return llround(setting < 1 ? setting * (double)total : setting);
}

bool schedule_check_point(const char *name, double setting, int64_t total, Error *err) {
    if (setting < 1) return true;
    if (setting != floor(setting))
        return FAIL(err, ERROR_INPUT,
                    "%s is %g, which is neither a fraction below 1 nor a whole number of steps",
                    name, setting) ||
               error_blame(err, "%s", name);
    if (setting >= (double)total)
        return FAIL(err, ERROR_INPUT,
                    "%s is %.0f steps, but the training has only %lld; give a smaller number, or a "
                    "fraction below 1",
                    name, setting, (long long)total) ||
               error_blame(err, "%s", name);
    return true;
}

bool schedule_check(const Variant *settings, int64_t total, Error *err) {
    const Schedule *row = (const Schedule *)settings->kind;
    const ScheduleConfig *shared = settings->config;
    TRY(schedule_check_point("schedule.warmup", shared->warmup, total, err));
    return !row->check || row->check(settings->config, total, err);
}

double schedule_progress(int64_t step, int64_t warmup, int64_t total) {
    return total > warmup ? (double)(step - warmup) / (double)(total - warmup) : 1;
}

double schedule_factor(const Variant *settings, int64_t step, int64_t total) {
    const Schedule *row = (const Schedule *)settings->kind;
    const ScheduleConfig *shared = settings->config;
    int64_t warmup = schedule_point(shared->warmup, total);
    if (step > total) step = total;
    if (step < warmup) return (double)(step + 1) / (double)(warmup + 1);
    return row->factor(settings->config, step, warmup, total);
}
