/* The teacher of a distillation (train.distill): the network that another run reports, averaged
 * where that run averages, which sees the very batches of the run that learns from it.
 *
 * It is evaluated as that run would be: in f32, without dropout, with running statistics, quantized
 * where its run quantizes. Nothing of it is trained or saved; a checkpoint knows its digest, so
 * that a run goes on with the teacher that it began with. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_TEACHER_H
#define NIBBLE_EXPERIMENTS_TRAIN_TEACHER_H

#include "experiments/train/task.h"

typedef struct Teacher {
    const char *directory;
    Experiment network; /* model, quantizers and tape: no data, no optimizer */
    /* Where its run normalised images otherwise (their moments are those of the training split): a
     * batch of them as it knows them, x factor + shift; NULL: as the student does. */
    float *images;
    int64_t image_bytes;
    const float *factor, *shift; /* [channels] */
} Teacher;

/* Opens the teacher that `student` names, in memory of its own, and puts it into student->teacher;
 * NULL where none is named. Refuses one that is absent, has not been trained, reads other images or
 * knows another number of classes. teacher_close is experiment_close's affair. */
bool teacher_open(Experiment *student, Error *err);
void teacher_close(Teacher *teacher); /* accepts NULL */

/* Refuses a teacher that is the run in `directory` itself, which may not be there yet. */
bool teacher_check_apart(const Experiment *student, const char *directory, Error *err);

/* Refuses to go on where the checkpoint at `path` was made with another teacher, of which `digest`
 * is known; "": with none. */
bool teacher_check_digest(const Experiment *student, const char *digest, const char *path,
                          Error *err);

/* Of the file of its network; "" without a teacher. */
const char *teacher_digest(const Experiment *student);

/* Its output for a batch, which is valid until the next call. NULL: it gives values that are not
 * finite, or nothing. */
const float *teacher_output(Teacher *teacher, const Batch *batch, Error *err);

#endif
