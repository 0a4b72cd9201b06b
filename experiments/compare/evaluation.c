#include "experiments/compare/evaluation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "data/envelope.h"
#include "experiments/compare/costs.h"
#include "experiments/compare/details.h"
#include "experiments/compare/outputs.h"
#include "experiments/report/report.h"
#include "experiments/report/text.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/run.h"
#include "experiments/train/shadow.h"

/* The network of a run on the whole test split. */
typedef struct Seen {
    Evaluation result;
    int64_t rows, batches;
    EvaluationPart *parts; /* [batches] */
    int64_t classes;       /* 0: the task has none; nor answers and outputs */
    int64_t *answers;
    float *outputs;
} Seen;

/* ---- Seeing the test set ---- */

static void find_answers(Seen *seen) {
    for (int64_t i = 0; i < seen->rows; i++) {
        const float *logits = seen->outputs + i * seen->classes;
        for (int64_t j = 1; j < seen->classes; j++)
            if (logits[j] > logits[seen->answers[i]]) seen->answers[i] = j;
    }
}

static bool see(Experiment *e, Arena *arena, Seen *out, Error *err) {
    *out = (Seen){.rows = loader_rows(e->loader, LOADER_TEST),
                  .batches = loader_batches(e->loader, LOADER_TEST)};
    out->parts = arena_new_array(arena, EvaluationPart, out->batches);
    out->result.parts = out->parts;
    if (!e->task->has_confusion)
        return evaluate(e, LOADER_TEST, NETWORK_TRAINED, &out->result, err);
    out->classes = loader_dataset(e->loader)->class_count;
    out->outputs = arena_new_array(arena, float, out->rows * out->classes);
    out->answers = arena_new_array(arena, int64_t, out->rows);
    out->result.outputs = out->outputs;
    out->result.confusion = arena_new_array(arena, int64_t, out->classes * out->classes);
    TRY(evaluate(e, LOADER_TEST, NETWORK_TRAINED, &out->result, err));
    find_answers(out);
    return true;
}

/* ---- The file ---- */

static void copy_layers(Json *json, const Json *summary) {
    static const char *const copied[] = {
        "cosine",         "error_max",           "error_mean",         "clipped_weight",
        "clipped_input",  "unused_codes_weight", "unused_codes_input", "fit.calibration_db",
        "fit.held_out_db"};
    for (int i = 0; i < json_count(summary, "layers"); i++) {
        const Json *from = json_element(summary, "layers", i);
        Json *layer = json_append(json, "layers");
        json_set_text(layer, "name", json_get_text(from, "name"));
        json_set_shortest(layer, "weight_bits", json_number(from, "bits"));
        json_set_shortest(layer, "activation_bits", json_number(from, "activation_bits"));
        json_set_number(layer, "sqnr_db", json_number(from, "sqnr_db"));
        for (size_t k = 0; k < sizeof copied / sizeof *copied; k++) {
            double value = json_number(from, copied[k]);
            if (!isnan(value)) json_set_number(layer, copied[k], value);
        }
    }
}

/* Seconds in metrics: of steps the last line that each process left, of methods all. */
static double metrics_seconds(const EvaluationJob *job, Arena *arena) {
    char line[4096];
    double sum = 0, last = 0, now = 0;
    FILE *file = fopen(run_path(arena, job->directory, RUN_METRICS), "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *at = strstr(line, "\"seconds\":");
        if (!at || sscanf(at, "\"seconds\":%lf", &now) != 1) continue;
        if (now < last || !job->is_trained) sum += last;
        last = now;
    }
    if (file) fclose(file);
    return sum + last;
}

/* Where one process did it all, what that took; else what the lines tell, which stand up to
 * log_every steps apart. */
static double train_seconds(const EvaluationJob *job, const Json *summary, Arena *arena) {
    int64_t from = -1;
    double told = json_number(summary, "train_seconds");
    bool is_whole = json_get_int(summary, "timed_from_step", &from) && from == 0 && !isnan(told);
    if (job->is_trained && is_whole) return told;
    if (!job->is_trained && job->seconds > 0) return job->seconds;
    return metrics_seconds(job, arena);
}

static void add_summary(Json *json, const EvaluationJob *job, const Json *summary, Arena *arena) {
    int64_t bytes = 0, steps = 0;
    bool has_bytes = json_get_int(summary, "quantized_bytes", &bytes);
    double bits = json_number(summary, "bits_per_weight");
    json_set_number(json, "bits_per_weight", bits);
    json_set_number(json, "bytes", has_bytes ? (double)bytes : NAN);
    if (has_bytes) json_set_int(json, "bytes", bytes);
    json_set_number(json, "train_seconds", train_seconds(job, summary, arena));
    json_set_number(json, "samples_per_second", json_number(summary, "samples_per_second"));
    json_set_number(json, "peak_rss_bytes", json_number(summary, "peak_rss_bytes"));
    if (json_get_int(summary, "steps", &steps)) json_set_int(json, "steps", steps);
}

/* What people call it: "fashion-mnist", the last name of its path; without one its kind. */
static const char *data_name(Variant data, Arena *arena) {
    const Field *field = data.kind->fields;
    while (field && field->name && !field->is_path) field++;
    if (!field || !field->name) return data.kind->name;
    const char *path = *(const char *const *)((const char *)data.config + field->offset);
    const char *name = path ? text_last_name(path, arena) : "";
    return *name ? name : data.kind->name;
}

static void add_data(Json *json, const Experiment *e, const Seen *seen, Arena *arena) {
    json_set_text(json, "data", data_name(e->config.data, arena));
    json_set_text(json, "task", e->task->name);
    json_set_int(json, "test_rows", seen->rows);
    if (!seen->classes) return;
    const char *const *names = loader_dataset(e->loader)->class_names.names;
    json_set_int(json, "class_count", seen->classes);
    for (int64_t i = 0; names && i < seen->classes; i++)
        json_append_text(json, "classes", names[i]);
}

static void add_labels(Json *json, const Experiment *e, const Seen *seen, Arena *arena) {
    const int32_t *labels = loader_dataset(e->loader)->test.labels;
    int64_t *wide = arena_new_array(arena, int64_t, seen->rows);
    for (int64_t i = 0; i < seen->rows; i++) wide[i] = labels[i];
    json_set_ints(json, "labels", wide, (int)seen->rows);
}

static void add_parts(Json *json, const Seen *seen) {
    for (int64_t i = 0; i < seen->batches; i++) {
        Json *part = json_append(json, "parts");
        json_set_int(part, "samples", seen->parts[i].samples);
        json_set_number(part, "loss", seen->parts[i].loss);
    }
}

static void add_answers(Json *json, const Seen *seen, const Seen *baseline) {
    OutputChange change = {.kl = NAN};
    if (baseline) {
        change.kl = 0;
        output_change_add(&change, baseline->outputs, seen->outputs, seen->rows, seen->classes);
        output_change_end(&change);
    }
    json_set_number(json, "kl", change.kl);
    json_set_text(json, "changed", NULL);
    if (baseline) {
        int64_t changed = 0;
        for (int64_t i = 0; i < seen->rows; i++)
            changed += seen->answers[i] != baseline->answers[i];
        json_set_int(json, "changed", changed);
    }
    json_set_ints(json, "predictions", seen->answers, (int)seen->rows);
    for (int64_t i = 0; seen->classes <= REPORT_CLASSES_MAX && i < seen->classes; i++)
        json_append_ints(json, "confusion", seen->result.confusion + i * seen->classes,
                         (int)seen->classes);
}

static void add_results(Json *json, const Task *task, const Seen *seen, const Seen *baseline) {
    for (int i = 0; i < task->score_count; i++)
        json_set_number(json, task->scores[i].key, seen->result.scores[i]);
    json_set_number(json, "loss", seen->result.loss);
    if (task->has_confusion)
        add_answers(json, seen, baseline);
    else
        add_parts(json, seen);
}

/* ---- The job ---- */

static bool claim(const char *directory, char digest[ENVELOPE_DIGEST_TEXT], Arena *arena,
                  Error *err) {
    return envelope_claim(run_path(arena, directory, RUN_CHECKPOINT), digest, err);
}

/* Its outputs as they were kept; where they are not, they are found again. */
static bool see_baseline(const EvaluationJob *job, Arena *arena, Seen *out, Error *err) {
    Experiment e = {0};
    Shape shape;
    char digest[ENVELOPE_DIGEST_TEXT];
    TRY(claim(job->baseline, digest, arena, err));
    *out = (Seen){.outputs = outputs_read(job->outputs, digest, arena, &shape)};
    if (out->outputs) {
        out->rows = shape.dim[0];
        out->classes = shape.dim[1];
        out->answers = arena_new_array(arena, int64_t, out->rows);
        find_answers(out);
        return true;
    }
    bool ok = experiment_open_run(job->baseline, &(RunOptions){0}, arena, &e, err) &&
              see(&e, arena, out, err);
    experiment_close(&e);
    return ok;
}

static bool describe(Experiment *e, const EvaluationJob *job, const Seen *baseline, Json *json,
                     Arena *arena, Error *err) {
    Seen seen;
    char digest[ENVELOPE_DIGEST_TEXT];
    TRY(see(e, arena, &seen, err));
    if (baseline && (baseline->rows != seen.rows || baseline->classes != seen.classes))
        return FAIL(err, ERROR_INPUT,
                    "%s has %ld test %s and the FP32 run %ld: their data are not "
                    "the same",
                    job->run, (long)seen.rows, e->task->rows, (long)baseline->rows);
    TRY(claim(job->directory, digest, arena, err));
    if (!job->baseline && seen.classes)
        TRY(outputs_write(job->outputs, digest, seen.outputs, SHAPE(seen.rows, seen.classes), err));
    Json *summary = json_read_file(run_path(arena, job->directory, RUN_SUMMARY), err);
    TRY(summary != NULL);
    json_set_text(json, "run", job->run);
    json_set_text(json, "checkpoint_digest", digest);
    add_results(json, e->task, &seen, baseline);
    if (seen.classes) add_labels(json, e, &seen, arena);
    add_summary(json, job, summary, arena);
    json_set_shortest(json, "epochs", e->config.train.epochs);
    add_data(json, e, &seen, arena);
    copy_layers(json, summary);
    json_free(summary);
    if (baseline)
        details_add_examples(loader_dataset(e->loader), baseline->answers, seen.answers, json);
    if (job->has_costs) TRY(costs_add(job->directory, json, err));
    return details_add_histograms(e, json, err);
}

bool evaluation_write(const EvaluationJob *job, Error *err) {
    Arena *arena = arena_new("evaluation");
    Experiment e = {0};
    Seen baseline;
    Json *json = json_new();
    bool ok = experiment_open_run(job->directory, &(RunOptions){0}, arena, &e, err);
    bool is_compared = ok && job->baseline && e.task->has_confusion;
    ok = ok && (!is_compared || see_baseline(job, arena, &baseline, err)) &&
         describe(&e, job, is_compared ? &baseline : NULL, json, arena, err) &&
         text_write_json(json, job->path, err);
    json_free(json);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

Json *evaluation_read(const char *path, const char *directory) {
    Arena *arena = arena_new("evaluation");
    Error ignored = {0};
    char digest[ENVELOPE_DIGEST_TEXT];
    Json *json = NULL;
    if (file_find(path, &ignored) == FILE_REGULAR) json = json_read_file(path, &ignored);
    const char *named = json ? json_get_text(json, "checkpoint_digest") : NULL;
    bool is_of = named &&
                 envelope_claim(run_path(arena, directory, RUN_CHECKPOINT), digest, &ignored) &&
                 !strcmp(named, digest);
    arena_free(arena);
    if (is_of) return json;
    json_free(json);
    return NULL;
}
