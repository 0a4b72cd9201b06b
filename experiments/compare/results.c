#include "experiments/compare/results.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report/text.h"
#include "experiments/train/run.h"

/* ---- Groups ---- */

/* Runs of one row that are done, with the FP32 run of the same seed where that is done too. */
typedef struct Gathered {
    int count, pairs;
    double *scores, *differences;
    Disagreement rows;
    Interval batches; /* the difference of the loss, of the last pair */
} Gathered;

static bool is_done(const CompareRun *run) {
    return run && run->state == RUN_DONE;
}

const Task *results_run_task(const CompareRun *run) {
    const char *name = json_get_text(run->result, "task");
    const Task *task = name ? task_find(name) : NULL;
    return task ? task : tasks[0];
}

const Task *results_task(const Schedule *s) {
    for (int i = 0; i < s->run_count; i++)
        if (is_done(&s->runs[i])) return results_run_task(&s->runs[i]);
    return tasks[0];
}

static double score_of(const Task *task, const CompareRun *run) {
    return json_number(run->result, task->scores[0].key);
}

static double difference_of(const Task *task, const CompareRun *run) {
    if (task->has_confusion) return score_of(task, run) - score_of(task, run->baseline);
    return json_number(run->result, "loss") - json_number(run->baseline->result, "loss");
}

/* Counts the test rows that one of two runs alone got right. */
static void count_rows(const Json *baseline, const Json *result, const int64_t *labels,
                       int64_t count, Disagreement *sum, Arena *arena) {
    ArenaMark mark = arena_mark(arena);
    int64_t *a = arena_new_array(arena, int64_t, count),
            *b = arena_new_array(arena, int64_t, count);
    bool are_whole = json_get_ints(baseline, "predictions", a, count) &&
                     json_get_ints(result, "predictions", b, count);
    for (int64_t i = 0; are_whole && i < count; i++) {
        bool was = a[i] == labels[i], is = b[i] == labels[i];
        sum->better += is && !was;
        sum->worse += was && !is;
    }
    if (are_whole) sum->rows += count;
    arena_rewind(arena, mark);
}

/* The losses of two runs on the same batches of the test split. */
static Interval compare_batches(const CompareRun *run, Arena *arena) {
    int count = json_count(run->result, "parts");
    if (count != json_count(run->baseline->result, "parts")) return (Interval){NAN, NAN, NAN};
    double *differences = arena_new_array(arena, double, count);
    double *weights = arena_new_array(arena, double, count);
    for (int i = 0; i < count; i++) {
        const Json *is = json_element(run->result, "parts", i);
        weights[i] = json_number(is, "samples");
        differences[i] = json_number(is, "loss") -
                         json_number(json_element(run->baseline->result, "parts", i), "loss");
    }
    return weighted_interval(differences, weights, count);
}

static void gather_pair(const Task *task, const CompareRun *run, Arena *arena, Gathered *out) {
    out->differences[out->pairs++] = difference_of(task, run);
    if (!task->has_confusion) {
        out->batches = compare_batches(run, arena);
        return;
    }
    int64_t count = json_count(run->result, "labels");
    int64_t *labels = arena_new_array(arena, int64_t, count);
    if (json_get_ints(run->result, "labels", labels, count))
        count_rows(run->baseline->result, run->result, labels, count, &out->rows, arena);
}

static void gather(const Schedule *s, const Task *task, const CompareRow *row, Arena *arena,
                   Gathered *out) {
    *out = (Gathered){.batches = {NAN, NAN, NAN},
                      .scores = arena_new_array(arena, double, s->run_count),
                      .differences = arena_new_array(arena, double, s->run_count)};
    for (int i = 0; i < s->run_count; i++) {
        const CompareRun *run = &s->runs[i];
        if (run->row != row || !is_done(run)) continue;
        out->scores[out->count++] = score_of(task, run);
        if (is_done(run->baseline)) gather_pair(task, run, arena, out);
    }
}

/* Over the runs that are done and have it. */
static double mean_of(const Schedule *s, const CompareRow *row, const char *path) {
    double sum = 0;
    int count = 0;
    for (int i = 0; i < s->run_count; i++) {
        if (s->runs[i].row != row || !is_done(&s->runs[i])) continue;
        double value = json_number(s->runs[i].result, path);
        if (isnan(value)) continue;
        sum += value;
        count++;
    }
    return count ? sum / count : NAN;
}

static void fill_group(const Schedule *s, const Task *task, const CompareRow *row, Group *g) {
    Arena *arena = arena_new("group");
    Gathered all;
    gather(s, task, row, arena, &all);
    *g = (Group){
        .row = row,
        .task = task,
        .seeds = all.count,
        .score = interval_of(all.scores, all.count),
        .difference = interval_of(all.differences, all.pairs),
        .better = all.rows.better,
        .worse = all.rows.worse,
        .p = all.rows.rows ? mcnemar(all.rows.better, all.rows.worse) : NAN,
        .recovered = NAN,
        .bits_per_weight = mean_of(s, row, "bits_per_weight"),
        .bytes = mean_of(s, row, "bytes"),
        .train_seconds = mean_of(s, row, "train_seconds"),
        .kl = mean_of(s, row, "kl"),
        .samples_per_second = mean_of(s, row, "samples_per_second"),
        .peak_bytes = mean_of(s, row, "peak_rss_bytes"),
    };
    g->is_by_rows = all.pairs == 1 && (all.rows.rows > 1 || !isnan(all.batches.low));
    if (g->is_by_rows)
        g->difference = task->has_confusion ? disagreement_difference(all.rows) : all.batches;
    arena_free(arena);
}

static bool has_same_bits(const CompareRow *a, const CompareRow *b) {
    return a->weight_bits == b->weight_bits && a->activation_bits == b->activation_bits;
}

/* The first PTQ row at the same bits: what the others are measured by. */
static const Group *ptq_beside(const Group *groups, int count, const Group *g) {
    for (int i = 0; i < count; i++) {
        const CompareRow *row = groups[i].row;
        if (!row->method->is_trained && has_same_bits(row, g->row)) return &groups[i];
    }
    return NULL;
}

static void set_recovered(Group *groups, int count, Group *g) {
    const Group *ptq = ptq_beside(groups, count, g);
    if (!ptq || ptq == g || !ptq->seeds || !g->seeds) return;
    double sign = g->task->has_confusion ? -1 : 1, lost = sign * ptq->difference.mean;
    if (lost >= RESULTS_LOSS_MIN) g->recovered = (lost - sign * g->difference.mean) / lost;
}

/* Where bits were chosen layer by layer, their mean; 0: not known yet. */
static double weight_bits_of(const Group *g) {
    double bits = g->row->has_chosen_bits ? g->bits_per_weight : g->row->weight_bits;
    return isnan(bits) ? 0 : bits;
}

/* FP32 first; then more bits of weights before fewer, then of activations; else as in the file. */
static int by_bits(const Group *a, const Group *b) {
    double weights = weight_bits_of(b) - weight_bits_of(a);
    double activations = b->row->activation_bits - a->row->activation_bits;
    double first = weights != 0 ? weights : activations;
    return first > 0 ? 1 : first < 0 ? -1 : 0;
}

static void sort_groups(Group *groups, int count) {
    for (int i = 1; i < count; i++) {
        Group moved = groups[i];
        int at = i;
        for (; at > 0 && by_bits(&groups[at - 1], &moved) > 0; at--) groups[at] = groups[at - 1];
        groups[at] = moved;
    }
}

void results_groups(const Schedule *s, Group *groups) {
    const Comparison *c = s->comparison;
    const Task *task = results_task(s);
    for (int i = 0; i < c->row_count; i++) fill_group(s, task, &c->rows[i], &groups[i]);
    for (int i = 0; i < c->row_count; i++) set_recovered(groups, c->row_count, &groups[i]);
    sort_groups(groups, c->row_count);
}

/* ---- results.json ---- */

static void set_interval(Json *json, const char *name, Interval interval, Arena *arena) {
    json_set_number(json, arena_format(arena, "%s.mean", name), interval.mean);
    json_set_number(json, arena_format(arena, "%s.low", name), interval.low);
    json_set_number(json, arena_format(arena, "%s.high", name), interval.high);
}

static void set_bits(Json *json, const CompareRow *row) {
    json_set_shortest(json, "weight_bits", row->weight_bits);
    json_set_shortest(json, "activation_bits", row->activation_bits);
}

/* An integer, or null. */
static void set_whole(Json *json, const char *name, double value) {
    json_set_number(json, name, value);
    if (!isnan(value)) json_set_int(json, name, llround(value));
}

static void add_row(Json *json, const Task *task, const CompareRun *run, Arena *arena) {
    Json *row = json_append(json, "rows");
    json_set_text(row, "row", run->row->name);
    json_set_text(row, "run", run->name);
    json_set_text(row, "method", run->row->method->kind.name);
    set_bits(row, run->row);
    json_set_int(row, "seed", run->seed);
    json_set_number(row, task->scores[0].key, score_of(task, run));
    json_set_number(row, "loss", json_number(run->result, "loss"));
    json_set_number(row, "bits_per_weight", json_number(run->result, "bits_per_weight"));
    set_whole(row, "bytes", json_number(run->result, "bytes"));
    json_set_number(row, "train_seconds", json_number(run->result, "train_seconds"));
    json_set_number(row, "samples_per_second", json_number(run->result, "samples_per_second"));
    json_set_number(row, "peak_rss_bytes", json_number(run->result, "peak_rss_bytes"));
    json_set_number(row, "epochs", json_number(run->result, "epochs"));
    json_set_text(row, "evaluation",
                  arena_format(arena, COMPARISON_EVALUATIONS "/%s.json", run->name));
}

static void add_group(Json *json, const Group *g, Arena *arena) {
    Json *group = json_append(json, "groups");
    json_set_text(group, "row", g->row->name);
    json_set_text(group, "label", g->row->label);
    json_set_text(group, "method", g->row->method->kind.name);
    set_bits(group, g->row);
    json_set_int(group, "seeds", g->seeds);
    set_interval(group, g->task->scores[0].key, g->score, arena);
    if (!method_is_baseline(g->row->method)) {
        set_interval(group, "difference", g->difference, arena);
        const char *by = g->task->has_confusion ? "row" : "batch";
        json_set_text(group, "difference.paired_by", g->is_by_rows ? by : "seed");
    }
    if (!method_is_baseline(g->row->method) && g->task->has_confusion) {
        json_set_int(group, "mcnemar.better", g->better);
        json_set_int(group, "mcnemar.worse", g->worse);
        json_set_number(group, "mcnemar.p", g->p);
    }
    json_set_number(group, "recovered", g->recovered);
    json_set_number(group, "bits_per_weight", g->bits_per_weight);
    set_whole(group, "bytes", g->bytes);
    json_set_number(group, "train_seconds", g->train_seconds);
    json_set_number(group, "kl", g->kl);
    json_set_number(group, "samples_per_second", g->samples_per_second);
    json_set_number(group, "peak_rss_bytes", g->peak_bytes);
}

static void copy_text(Json *to, const char *name, const Json *from, const char *path) {
    json_set_text(to, name, from ? json_get_text(from, path) : NULL);
}

static void copy_count(Json *to, const char *name, const Json *from, const char *path) {
    int64_t value;
    json_set_text(to, name, NULL);
    if (from && json_get_int(from, path, &value)) json_set_int(to, name, value);
}

/* Of the machine that made the first run. */
static void add_machine(Json *json, const CompareRun *run, Arena *arena) {
    Error ignored = {0};
    Json *environment = json_read_file(run_path(arena, run->directory, RUN_ENVIRONMENT), &ignored);
    copy_text(json, "machine.cpu", environment, "machine.cpu");
    copy_count(json, "machine.cores", environment, "machine.usable_cores");
    copy_count(json, "machine.threads", environment, "threads");
    copy_text(json, "machine.isa", environment, "kernels");
    copy_count(json, "machine.memory_bytes", environment, "machine.memory_bytes");
    json_free(environment);
}

static void add_data(Json *json, const CompareRun *run) {
    copy_text(json, "data.name", run->result, "data");
    copy_count(json, "data.test_rows", run->result, "test_rows");
    copy_count(json, "data.class_count", run->result, "class_count");
    int names = json_count(run->result, "classes");
    for (int i = 0; i < names; i++) {
        char path[32];
        snprintf(path, sizeof path, "classes.%d", i);
        json_append_text(json, "data.classes", json_get_text(run->result, path));
    }
    copy_text(json, "task", run->result, "task");
}

static void add_failures(Json *json, const Schedule *s) {
    for (int i = 0; i < s->run_count; i++) {
        if (s->runs[i].state != RUN_FAILED) continue;
        Json *failure = json_append(json, "failed");
        json_set_text(failure, "run", s->runs[i].name);
        json_set_text(failure, "reason", s->runs[i].failure);
    }
}

static Json *results_of(const Schedule *s, double seconds, Arena *arena) {
    const Comparison *c = s->comparison;
    Json *json = json_new();
    const CompareRun *first = NULL;
    for (int i = s->run_count - 1; i >= 0; i--)
        if (is_done(&s->runs[i])) first = &s->runs[i];
    if (first) add_machine(json, first, arena);
    json_set_number(json, "seconds", seconds);
    json_set_bool(json, "is_complete", schedule_count(s, RUN_DONE) == s->run_count);
    json_set_int(json, "runs", s->run_count);
    for (int i = 0; i < s->run_count; i++) json_append_text(json, "planned", s->runs[i].name);
    json_set_text(json, "model", c->experiment.model.kind->name);
    if (first) add_data(json, first);
    for (int i = 0; i < s->run_count; i++)
        if (is_done(&s->runs[i])) add_row(json, results_task(s), &s->runs[i], arena);
    Group *groups = arena_new_array(arena, Group, c->row_count);
    results_groups(s, groups);
    for (int i = 0; i < c->row_count; i++)
        if (groups[i].seeds) add_group(json, &groups[i], arena);
    add_failures(json, s);
    return json;
}

/* ---- results.csv ---- */

/* A number with the fewest digits, or nothing. */
static const char *csv_number(double value, Arena *arena) {
    char text[NUMBER_TEXT_BYTES];
    return isnan(value) ? "" : arena_strdup(arena, number_print(value, text));
}

static const char *csv_line(const CompareRun *run, const char *score, Arena *arena) {
    const Json *result = run->result;
#define NUMBER(path) csv_number(json_number(result, path), arena)
    return arena_format(arena, "%s,%s,%s,%s,%ld,%s,%s,%s,%s,%s,%s\n", run->row->name,
                        run->row->method->kind.name, csv_number(run->row->weight_bits, arena),
                        csv_number(run->row->activation_bits, arena), (long)run->seed,
                        NUMBER(score), NUMBER("loss"), NUMBER("bits_per_weight"), NUMBER("bytes"),
                        NUMBER("train_seconds"), NUMBER("epochs"));
#undef NUMBER
}

static bool write_csv(const Schedule *s, Arena *arena, Error *err) {
    const char *score = results_task(s)->scores[0].key;
    const char *text = arena_format(arena,
                                    "row,method,weight_bits,activation_bits,seed,%s,loss,"
                                    "bits_per_weight,bytes,train_seconds,epochs\n",
                                    score);
    for (int i = 0; i < s->run_count; i++)
        if (is_done(&s->runs[i]))
            text = arena_format(arena, "%s%s", text, csv_line(&s->runs[i], score, arena));
    return text_write(run_path(arena, s->directory, COMPARISON_TABLE), text, err);
}

bool results_write(const Schedule *s, double seconds, Error *err) {
    Arena *arena = arena_new("results");
    Json *json = results_of(s, seconds, arena);
    bool ok = text_write_json(json, run_path(arena, s->directory, COMPARISON_RESULTS), err) &&
              write_csv(s, arena, err);
    json_free(json);
    arena_free(arena);
    return ok;
}

double results_seconds(const char *directory) {
    Arena *arena = arena_new("results");
    Error ignored = {0};
    Json *json = json_read_file(run_path(arena, directory, COMPARISON_RESULTS), &ignored);
    double seconds = json_number(json, "seconds");
    json_free(json);
    arena_free(arena);
    return isnan(seconds) ? 0 : seconds;
}
