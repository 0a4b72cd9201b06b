/* Classification: an image has one class, the network gives a logit for each, and the largest is
 * its answer. The loss is the cross-entropy, in training with label smoothing and beside what a
 * teacher's softened answers say. */
#include "autograd/ops.h"
#include "experiments/train/teacher.h"

/* (1 - weight) loss + weight T^2 KL(teacher || student) */
static Var *add_teacher(TaskStep *step, Tape *t, Var *loss) {
    const DistillConfig *c = step->e->config.train.distill;
    const float *answers = NULL;
    if (!t->mode.is_dry) answers = teacher_output(step->e->teacher, &step->batch, &t->error);
    Var *divergence = op_distill(t, step->output, answers, (float)c->temperature);
    Var *from_teacher = op_scale(t, divergence, (float)c->weight);
    Var *from_labels = op_scale(t, loss, (float)(1 - c->weight));
    return op_add(t, from_labels, from_teacher);
}

static void record(TaskStep *step, Tape *t) {
    const int32_t *labels = batch_i32(&step->batch, "labels");
    double smoothing = t->mode.is_training ? step->e->config.train.label_smoothing : 0;
    Var *x = tape_constant(t, batch_f32(&step->batch, "images"));
    step->output = model_forward(step->e->model, t, x);
    step->loss = op_cross_entropy(t, step->output, labels, (float)smoothing);
    if (t->mode.is_training && step->e->teacher) step->loss = add_teacher(step, t, step->loss);
}

static int64_t count_samples(const Batch *batch) {
    return batch->count;
}

static int64_t argmax(const float *x, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void add(const TaskStep *step, TaskTally *tally) {
    const int32_t *labels = batch_i32(&step->batch, "labels");
    const float *logits = var_f32(step->output);
    int64_t classes = shape_last(step->output->value.shape);
    for (int64_t i = 0; i < step->batch.count; i++) {
        int64_t guess = argmax(logits + i * classes, classes);
        tally->sums[0] += guess == labels[i];
        if (tally->confusion) tally->confusion[labels[i] * classes + guess]++;
    }
}

static void score(const TaskTally *tally, double scores[]) {
    scores[0] = tally->sums[0] / (double)tally->samples;
}

const Task task_classify = {
    .name = "classify",
    .help = "images, each of one class",
    .sample = "model: {kind: mlp, widths: [8]}\n"
              "data: {kind: synthetic, classes: 3, height: 4, width: 4, train: 40, test: 13,\n"
              "       validation: 10, batch: 5, eval_batch: 4}\n",
    .columns = {{"images", ELEMENT_F32}, {"labels", ELEMENT_I32}},
    .column_count = 2,
    .rows = "images",
    .samples = "images",
    .scores = {{.key = "accuracy",
                .name = "accuracy",
                .short_name = "acc",
                .unit = "%",
                .points_unit = "points",
                .factor = 100,
                .decimals = 2,
                .low = 0,
                .high = 1}},
    .score_count = 1,
    .has_confusion = true,
    .is_packed = true,
    .is_distilled = true,
    .record = record,
    .count_samples = count_samples,
    .add = add,
    .score = score,
};
