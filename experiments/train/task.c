#include "experiments/train/task.h"

#include <stdio.h>
#include <string.h>

enum { COLUMNS_TEXT_BYTES = 256 };

const Task *const tasks[] = {
#define TASK(name) &task_##name,
#include "experiments/train/tasks.def"
#undef TASK
    NULL,
};

/* Whether one of these is named so, of the type asked for. */
static bool has_column(const Column *columns, int count, const Column *wanted) {
    for (int i = 0; i < count; i++)
        if (!strcmp(columns[i].name, wanted->name) && columns[i].type == wanted->type) return true;
    return false;
}

/* "images f32, labels i32" */
static const char *columns_text(const Column *columns, int count, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < count && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s %s", i ? ", " : "",
                                 columns[i].name, element_name(columns[i].type));
    return text;
}

const Task *task_find(const char *name) {
    for (int i = 0; tasks[i]; i++)
        if (!strcmp(tasks[i]->name, name)) return tasks[i];
    return NULL;
}

bool task_choose(const Column *columns, int column_count, const Task **out, Error *err) {
    for (int i = 0; tasks[i]; i++) {
        int found = 0;
        for (int j = 0; j < tasks[i]->column_count; j++)
            found += has_column(columns, column_count, &tasks[i]->columns[j]);
        *out = tasks[i];
        if (found == tasks[i]->column_count) return true;
    }
    char held[COLUMNS_TEXT_BYTES], wanted[COLUMNS_TEXT_BYTES];
    return FAIL(err, ERROR_INPUT,
                "the data hold %s, and no task learns from that: '%s' reads %s; set data.kind",
                columns_text(columns, column_count, held, sizeof held), tasks[0]->name,
                columns_text(tasks[0]->columns, tasks[0]->column_count, wanted, sizeof wanted)) ||
           error_blame(err, "data.kind");
}

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
