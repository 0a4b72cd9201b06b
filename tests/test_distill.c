/* The loss with a teacher, against its formula in doubles; and what becomes of the teacher. */
#include "tests/program.h"

#include <math.h>

#include "core/parallel.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/teacher.h"
#include "experiments/train/trainer.h"

#define IMAGES                                                                                     \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 96, test: 20, validation: "   \
    "32, batch: 16, noise: 0.4, augment: {crop_padding: 1, flip: true}}\n"
/* Batch norms, a dropout and averages, none of which may act as in training. */
#define TEACHER                                                                                    \
    "model: {kind: cnn, widths: [4, 6], hidden: 12, dropout: 0.3}\n" IMAGES                        \
    "optimizer: {kind: sgd, lr: 0.05, momentum: 0.9, ema: 0.9}\n"                                  \
    "train: {epochs: 6}\n"
#define STUDENT                                                                                    \
    "model: {kind: mlp, widths: [10]}\n" IMAGES                                                    \
    "quant: {bits: 4, activations: {quantizer: minmax}}\n"

enum { CLASSES = 4, ROWS = 16 };
static const double weight = 0.7, temperature = 3, smoothing = 0.1;

static void read_config(const char *text, ExperimentConfig *config) {
    Error err = {0};
    if (!config_read_text(text, "test", 0, NULL, program_arena, config, &err))
        fail_msg("%s", err.message);
}

static void open_student(const char *more, Experiment *e) {
    ExperimentConfig config;
    Error err = {0};
    if (!file_exists("teacher")) {
        text_file("teacher.yaml", TEACHER);
        run(0, "train teacher.yaml --out teacher");
        run(0, "train teacher.yaml --out unit data.normalize=unit");
        run(0, "train teacher.yaml --out narrow quant.bits=2");
    }
    read_config(format("%s%s", STUDENT, more), &config);
    if (!experiment_open(&config, program_arena, e, &err)) fail_msg("%s", err.message);
}

static void softmax(const float *x, double t, double *p) {
    double sum = 0;
    for (int i = 0; i < CLASSES; i++) sum += p[i] = exp((double)x[i] / t);
    for (int i = 0; i < CLASSES; i++) p[i] /= sum;
}

static double divergence(const float *teacher, const float *student) {
    double p[CLASSES], q[CLASSES], sum = 0;
    softmax(teacher, temperature, p);
    softmax(student, temperature, q);
    for (int i = 0; i < CLASSES; i++) sum += p[i] * log(p[i] / q[i]);
    return temperature * temperature * sum;
}

static double cross_entropy(const float *student, int label) {
    double q[CLASSES], sum = 0;
    softmax(student, 1, q);
    for (int i = 0; i < CLASSES; i++)
        sum -= log(q[i]) * ((i == label) * (1 - smoothing) + smoothing / CLASSES);
    return sum;
}

/* The teacher as `nibble eval` opens it, by another way than distillation does. `facts`: how the
 * batch is normalised. */
static void evaluate_teacher(const char *directory, const Batch *batch, const DataFacts *facts,
                             float *out) {
    enum { PIXELS = 8 * 8 };
    static float images[ROWS * PIXELS];
    Experiment e;
    Error err = {0};
    RunOptions options = {0};
    if (!experiment_open_run(directory, &options, program_arena, &e, &err))
        fail_msg("%s", err.message);
    const DataFacts *own = loader_facts(e.loader);
    TaskStep step = {.e = &e, .batch = *batch};
    const float *x = batch->data[0];
    for (int i = 0; i < ROWS * PIXELS; i++) {
        double pixel = (double)x[i] * (double)facts->deviation[0] + (double)facts->mean[0];
        images[i] = (float)((pixel - (double)own->mean[0]) / (double)own->deviation[0]);
    }
    batch_set_f32(&step.batch, "images", images);
    tape_run(e.tape, evaluate_mode(false), task_record, &step);
    memcpy(out, var_f32(step.output), sizeof(float) * CLASSES * ROWS);
    experiment_close(&e);
}

/* On the batch as the student sees it: augmented, and with smoothed labels. */
static void check_formula(const char *directory) {
    Experiment e;
    open_student(format("train: {label_smoothing: 0.1, distill: {teacher: %s, weight: 0.7, "
                        "temperature: 3}}\n",
                        directory),
                 &e);
    for (int index = 0; index < 3; index++) {
        TaskStep step = {.e = &e, .batch = loader_batch(e.loader, LOADER_TRAIN, 1, index)};
        tape_begin(e.tape, trainer_mode(&e)); /* every value is kept */
        task_record(&step, e.tape);
        assert_int_equal(e.tape->error.code, ERROR_NONE);
        float teacher[CLASSES * ROWS];
        evaluate_teacher(directory, &step.batch, loader_facts(e.loader), teacher);
        const float *student = var_f32(step.output);
        const int32_t *labels = batch_i32(&step.batch, "labels");
        double sum = 0;
        for (int i = 0; i < ROWS; i++)
            sum += (1 - weight) * cross_entropy(student + i * CLASSES, labels[i]) +
                   weight * divergence(teacher + i * CLASSES, student + i * CLASSES);
        double loss = (double)*var_f32(step.loss);
        if (!(fabs(loss - sum / ROWS) < 1e-5 * loss))
            fail_msg("batch %d: the loss is %.9g, not %.9g", index, loss, sum / ROWS);
    }
    experiment_close(&e);
}

static void test_loss_is_the_formula(void **state) {
    (void)state;
    check_formula("teacher");
}

/* A teacher that knows images by other moments is shown them so. */
static void test_other_normalisation(void **state) {
    (void)state;
    check_formula("unit");
}

/* The network of a quantized run is its quantized network, as `eval` sees it. */
static void test_quantized_teacher(void **state) {
    (void)state;
    check_formula("narrow");
}

/* An evaluation asks no teacher: its loss is the labels' alone. */
static void test_evaluations_are_without(void **state) {
    (void)state;
    Experiment with, without;
    Error err = {0};
    Evaluation a = {0}, b = {0};
    open_student("train: {distill: {teacher: teacher}}\n", &with);
    open_student("", &without);
    assert_null(without.teacher);
    assert_true(evaluate(&with, LOADER_TEST, true, &a, &err));
    assert_true(evaluate(&without, LOADER_TEST, true, &b, &err));
    assert_true(a.loss == b.loss);
    experiment_close(&with);
    experiment_close(&without);
}

/* Nothing of it moves, nor gathers gradients; and it is worth learning from. */
static void test_teacher_stays(void **state) {
    (void)state;
    Experiment e;
    Error err = {0};
    double loss;
    open_student("train: {distill: {teacher: teacher}}\n", &e);
    const Model *model = e.teacher->network.model;
    char before[ENVELOPE_DIGEST_TEXT], after[ENVELOPE_DIGEST_TEXT];
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        size_t bytes = tensor_bytes(&p->value);
        envelope_digest(p->value.data, bytes, before);
        for (int step = 0; step < 3; step++) assert_true(trainer_step(&e, step, &loss, &err));
        envelope_digest(p->value.data, bytes, after);
        assert_string_equal(after, before);
        assert_false(p->has_grad);
    }
    experiment_close(&e);
}

static void test_teacher_that_is_not_finite(void **state) {
    (void)state;
    Experiment e;
    Error err = {0};
    double loss;
    open_student("train: {distill: {teacher: teacher}}\n", &e);
    const Model *model = e.teacher->network.model;
    tensor_f32(&model->params[model->param_count - 1]->value)[0] = NAN;
    assert_false(trainer_step(&e, 0, &loss, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_has(err.message, "the teacher teacher: it gives values that are not finite");
    experiment_close(&e);
}

static void test_task_without_teachers(void **state) {
    (void)state;
    Experiment e;
    Error err = {0};
    open_student("", &e);
    Task other = *e.task;
    DistillConfig distill = {.teacher = "teacher", .weight = 0.5, .temperature = 4};
    other.is_distilled = false;
    e.task = &other;
    e.config.train.distill = &distill;
    assert_false(teacher_open(&e, &err));
    assert_has(err.message, "the task 'classify' does not learn from a teacher");
    experiment_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_is_the_formula),
        cmocka_unit_test(test_other_normalisation),
        cmocka_unit_test(test_quantized_teacher),
        cmocka_unit_test(test_evaluations_are_without),
        cmocka_unit_test(test_teacher_stays),
        cmocka_unit_test(test_teacher_that_is_not_finite),
        cmocka_unit_test(test_task_without_teachers),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
