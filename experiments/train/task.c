#include "experiments/train/task.h"

const Task *const tasks[] = {
#define TASK(name) &task_##name,
#include "experiments/train/tasks.def"
#undef TASK
    NULL,
};

Var *task_record(void *context, Tape *t) {
    TaskStep *step = context;
    step->e->task->record(step, t);
    return t->mode.is_training ? step->loss : step->output;
}

void task_tally(const TaskStep *step, TaskTally *tally) {
    const Task *task = step->e->task;
    int64_t samples = task->count_samples(&step->batch);
    task->add(step, tally);
    tally->loss += (double)var_f32(step->loss)[0] * (double)samples;
    tally->samples += samples;
}

bool task_is_better(const Task *task, double a, double b) {
    return task->scores[0].is_lower_better ? a < b : a > b;
}
