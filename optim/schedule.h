/* Schedules: the factor on the learning rate at each step of a training, a pure function.
 *
 * Warm-up comes first in each: over w steps the factor is 1/(w + 1), 2/(w + 1), ..., w/(w + 1). The
 * row's own course takes the steps that remain.
 * Wherever a setting is a point in time: below 1 it is a fraction of the training (rounded to a
 * step), from 1 on a number of steps. */
#ifndef NIBBLE_OPTIM_SCHEDULE_H
#define NIBBLE_OPTIM_SCHEDULE_H

#include "core/settings/field.h"

/* The config struct of every row begins with this, as member `schedule`. */
typedef struct ScheduleConfig {
    double warmup;
} ScheduleConfig;

#define SCHEDULE_FIELDS(Struct)                                                                    \
    {                                                                                              \
        .name = "warmup", .type = FIELD_TYPE_FLOAT, .offset = offsetof(Struct, schedule.warmup),   \
        .fallback = "0", .min = 0, .max = 1e9,                                                     \
        .help = "length of the warm-up; below 1: a fraction of the training, else steps"           \
    }

/* A row of schedules.def. */
typedef struct Schedule {
    Kind kind;
    /* Factor at `step`, from `warmup` to `total` - 1. */
    double (*factor)(const void *config, int64_t step, int64_t warmup, int64_t total);
    /* Refuses points in time that do not fit; NULL: there are none. */
    bool (*check)(const void *config, int64_t total, Error *err);
} Schedule;

#define SCHEDULE(name) extern const Schedule schedule_##name;
#include "optim/schedules.def"
#undef SCHEDULE

extern const KindTable schedule_kinds;

/* Refuses a warm-up or milestones that do not fit into `total` steps, or are not whole steps. */
bool schedule_check(const Variant *settings, int64_t total, Error *err);

/* `step` counts from 0; from `total` on the factor stays what it is at `total`. */
double schedule_factor(const Variant *settings, int64_t step, int64_t total);

/* For rows: a point in time as a step; one that must lie within the training; and how much of what
 * follows warm-up is done at `step`, 0 to 1. */
int64_t schedule_point(double setting, int64_t total);
bool schedule_check_point(const char *name, double setting, int64_t total, Error *err);
double schedule_progress(int64_t step, int64_t warmup, int64_t total);

#endif
