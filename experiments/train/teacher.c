#include "experiments/train/teacher.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

#include "core/log.h"
#include "experiments/adapter/frozen.h"
#include "experiments/models/models.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"
#include "qat/calibration.h"

/* ---- Opening ---- */

/* Images that `student` normalises become images as `then` has them. */
static void set_images(const Experiment *student, const DataFacts *then, Teacher *teacher) {
    const DataFacts *now = loader_facts(student->loader);
    int64_t channels = now->channels;
    size_t bytes = sizeof(float) * (size_t)channels;
    if (!memcmp(then->mean, now->mean, bytes) && !memcmp(then->deviation, now->deviation, bytes))
        return;
    Arena *arena = teacher->network.arena;
    float *factor = arena_new_array(arena, float, channels);
    float *shift = arena_new_array(arena, float, channels);
    for (int64_t c = 0; c < channels; c++) {
        factor[c] = now->deviation[c] / then->deviation[c];
        shift[c] = (now->mean[c] - then->mean[c]) / then->deviation[c];
    }
    int64_t count = loader_config(student->loader)->batch * now->height * now->width * channels;
    teacher->factor = factor;
    teacher->shift = shift;
    teacher->image_bytes = (int64_t)sizeof(float) * count;
    teacher->images = arena_new_array(arena, float, count);
}

static bool build(const Experiment *student, Experiment *e, Error *err) {
    const DataFacts *facts = loader_facts(student->loader);
    Shape input = SHAPE(facts->height, facts->width, facts->channels);
    uint64_t seed = (uint64_t)e->config.seed;
    TRY(models_build(&e->config.model, input, facts->class_count, seed, e->arena, &e->model, err));
    TRY(qat_prepare(e->model, &e->config.quant, e->arena, &e->qat, err));
    TRY(adapter_install(e->model, &e->config.adapter, e->arena, &e->adapter, err));
    qat_set_evaluation(e->qat);
    e->task = student->task;
    e->tape = tape_new(e->arena);
    return true;
}

static bool load(const Checkpoint *network, Experiment *e, Error *err) {
    TRY(frozen_load(e, err) &&
        frozen_check_digest(e, network->cursor.base_digest, network->path, err));
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
    const DataFacts *then = &network->facts;
    TRY(facts_check_fit(then, loader_facts(student->loader), "training", err));
    set_images(student, then, teacher);
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

static void normalise(const Teacher *teacher, Batch *batch) {
    Tensor from = batch_f32(batch, "images");
    int64_t channels = shape_last(from.shape), pixels = tensor_count(&from) / channels;
    const float *x = tensor_f32(&from);
    assert(tensor_bytes(&from) <= (size_t)teacher->image_bytes);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < channels; c++)
            teacher->images[i * channels + c] =
                x[i * channels + c] * teacher->factor[c] + teacher->shift[c];
    batch_set_f32(batch, "images", teacher->images);
}

const float *teacher_output(Teacher *teacher, const Batch *batch, Error *err) {
    Tape *t = teacher->network.tape;
    TaskStep step = {.e = &teacher->network, .batch = *batch};
    if (teacher->images) normalise(teacher, &step.batch);
    tape_run(t, evaluate_mode(false), task_record, &step);
    if (t->error.code == ERROR_NONE && var_is_finite(step.output) && !tape_find_nan(t))
        return var_f32(step.output);
    if (t->error.code != ERROR_NONE) *err = t->error;
    (void)FAIL(err, ERROR_NUMERIC, "it gives values that are not finite");
    error_prefix(err, "the teacher %s", teacher->directory);
    return NULL;
}
