#include "experiments/train/teacher.h"

#include <string.h>
#include <sys/stat.h>

#include "core/log.h"
#include "experiments/models/models.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"
#include "qat/calibration.h"

/* ---- Opening ---- */

static bool is_normalised_alike(const DataFacts *a, const DataFacts *b) {
    size_t bytes = sizeof(float) * (size_t)a->channels;
    return !memcmp(a->mean, b->mean, bytes) && !memcmp(a->deviation, b->deviation, bytes);
}

static bool check_images(const Experiment *student, const Checkpoint *network, Error *err) {
    const DataFacts *now = loader_facts(student->loader);
    TRY(facts_check_fit(&network->facts, now, "the training images", err));
    return is_normalised_alike(&network->facts, now) ||
           FAIL(err, ERROR_INPUT,
                "its network was trained on images that were normalised otherwise (channel 0: mean "
                "%g, deviation %g) than this run's are (%g, %g); set data and data.normalize as "
                "there",
                (double)network->facts.mean[0], (double)network->facts.deviation[0],
                (double)now->mean[0], (double)now->deviation[0]);
}

static bool build(const Experiment *student, Experiment *e, Error *err) {
    const DataFacts *facts = loader_facts(student->loader);
    Shape input = SHAPE(facts->height, facts->width, facts->channels);
    uint64_t seed = (uint64_t)e->config.seed;
    TRY(models_build(&e->config.model, input, facts->class_count, seed, e->arena, &e->model, err));
    TRY(qat_prepare(e->model, &e->config.quant, e->arena, &e->qat, err));
    qat_set_evaluation(e->qat);
    e->task = student->task;
    e->tape = tape_new(e->arena);
    return true;
}

static bool load(const Checkpoint *network, Experiment *e, Error *err) {
    TRY(checkpoint_init(network, e->fixed_text, e->model, err));
    e->step = network->cursor.step;
    memcpy(e->network_digest, network->digest, sizeof e->network_digest);
    const Quant *missing = calibration_find_missing(e->qat);
    return !missing || FAIL(err, ERROR_INPUT,
                            "its network is quantized, and '%s' has no range yet: name a run that "
                            "was trained in FP32, or one whose training has ended",
                            missing->name);
}

static bool open_network(const Experiment *student, const Checkpoint *network, Teacher *teacher,
                         Error *err) {
    Experiment *e = &teacher->network;
    const char *path = run_path(e->arena, teacher->directory, RUN_CONFIG);
    TRY(check_images(student, network, err));
    TRY(config_read_run(path, 0, NULL, e->arena, &e->config, err));
    e->fixed_text = config_write_fixed(&e->config, e->arena);
    return build(student, e, err) && load(network, e, err);
}

static bool open_run(const Experiment *student, Teacher *teacher, Error *err) {
    Checkpoint network;
    if (!run_exists(teacher->directory, err)) {
        error_append(err, "; say where a trained network lies");
        return false;
    }
    TRY(saved_open_network(teacher->directory, teacher->network.arena, &network, err));
    bool ok = open_network(student, &network, teacher, err);
    checkpoint_close(&network);
    if (!ok) error_prefix(err, "%s", teacher->directory);
    return ok;
}

bool teacher_open(Experiment *student, Error *err) {
    const DistillConfig *config = student->config.train.distill;
    if (!config) return true;
    if (!student->task->is_distilled)
        return FAIL(err, ERROR_INPUT, "train.distill: the task '%s' does not learn from a teacher",
                    student->task->name) ||
               error_blame(err, "train.distill");
    Teacher *teacher = arena_new_array(student->arena, Teacher, 1);
    *teacher = (Teacher){.directory = config->teacher, .network.arena = arena_new("teacher")};
    student->teacher = teacher;
    if (!open_run(student, teacher, err)) {
        err->setting[0] = '\0'; /* of the teacher's configuration */
        error_prefix(err, "train.distill.teacher");
        return error_blame(err, "train.distill.teacher");
    }
    log_info("the teacher is the network of step %ld of %s: weight %g, temperature %g",
             (long)teacher->network.step, teacher->directory, config->weight, config->temperature);
    return true;
}

void teacher_close(Teacher *teacher) {
    if (teacher) experiment_close(&teacher->network);
}

/* ---- Which one ---- */

bool teacher_check_apart(const Experiment *student, const char *directory, Error *err) {
    struct stat own, its;
    if (!student->teacher || stat(directory, &own) || stat(student->teacher->directory, &its) ||
        own.st_dev != its.st_dev || own.st_ino != its.st_ino)
        return true;
    (void)FAIL(err, ERROR_INPUT,
               "train.distill.teacher: %s is the run itself, which would lose its teacher; name "
               "another --out",
               student->teacher->directory);
    error_blame(err, "train.distill.teacher");
    config_place(&student->config, err);
    return false;
}

const char *teacher_digest(const Experiment *student) {
    return student->teacher ? student->teacher->network.network_digest : "";
}

bool teacher_check_digest(const Experiment *student, const char *digest, const char *path,
                          Error *err) {
    if (!strcmp(digest, teacher_digest(student))) return true;
    return FAIL(err, ERROR_INPUT,
                "%s was made with another teacher (digest %s) than the network of %s is now (%s): "
                "say where that teacher lies (train.distill.teacher=DIR), or start a new run",
                path, *digest ? digest : "none", student->teacher->directory,
                teacher_digest(student));
}

/* ---- Its answers ---- */

const float *teacher_output(Teacher *teacher, const Batch *batch, Error *err) {
    Tape *t = teacher->network.tape;
    TaskStep step = {.e = &teacher->network, .batch = *batch};
    tape_run(t, evaluate_mode(false), task_record, &step);
    if (t->error.code == ERROR_NONE && var_is_finite(step.output) && !tape_find_nan(t))
        return var_f32(step.output);
    if (t->error.code != ERROR_NONE) *err = t->error;
    (void)FAIL(err, ERROR_NUMERIC, "it gives values that are not finite");
    error_prefix(err, "the teacher %s", teacher->directory);
    return NULL;
}
