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
    double *accuracies, *differences;
    Disagreement rows;
} Gathered;

static bool is_done(const CompareRun *run) {
    return run && run->state == RUN_DONE;
}

static double accuracy_of(const CompareRun *run) {
    return json_number(run->result, "accuracy");
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

static void gather(const Schedule *s, const CompareRow *row, Arena *arena, Gathered *out) {
    *out = (Gathered){.accuracies = arena_new_array(arena, double, s->run_count),
                      .differences = arena_new_array(arena, double, s->run_count)};
    for (int i = 0; i < s->run_count; i++) {
        const CompareRun *run = &s->runs[i];
        if (run->row != row || !is_done(run)) continue;
        out->accuracies[out->count++] = accuracy_of(run);
        if (!is_done(run->baseline)) continue;
        out->differences[out->pairs++] = accuracy_of(run) - accuracy_of(run->baseline);
        int64_t count = json_count(run->result, "labels");
        int64_t *labels = arena_new_array(arena, int64_t, count);
        if (json_get_ints(run->result, "labels", labels, count))
            count_rows(run->baseline->result, run->result, labels, count, &out->rows, arena);
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

static void fill_group(const Schedule *s, const CompareRow *row, Group *g) {
    Arena *arena = arena_new("group");
    Gathered all;
    gather(s, row, arena, &all);
    *g = (Group){
        .row = row,
        .seeds = all.count,
        .accuracy = interval_of(all.accuracies, all.count),
        .difference = interval_of(all.differences, all.pairs),
        .better = all.rows.better,
        .worse = all.rows.worse,
        .p = all.rows.rows ? mcnemar(all.rows.better, all.rows.worse) : NAN,
        .recovered = NAN,
        .bits_per_weight = mean_of(s, row, "bits_per_weight"),
        .bytes = mean_of(s, row, "bytes"),
        .train_seconds = mean_of(s, row, "train_seconds"),
        .kl = mean_of(s, row, "kl"),
    };
    g->is_by_rows = all.pairs == 1 && all.rows.rows > 1;
    if (g->is_by_rows) g->difference = disagreement_difference(all.rows);
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
    double lost = -ptq->difference.mean;
    if (lost >= RESULTS_LOSS_MIN) g->recovered = (lost + g->difference.mean) / lost;
}

/* FP32 first; then more bits of weights before fewer, then of activations; else as in the file. */
static int by_bits(const Group *a, const Group *b) {
    double weights = b->row->weight_bits - a->row->weight_bits;
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
    for (int i = 0; i < c->row_count; i++) fill_group(s, &c->rows[i], &groups[i]);
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

static void add_row(Json *json, const CompareRun *run, Arena *arena) {
    Json *row = json_append(json, "rows");
    json_set_text(row, "row", run->row->name);
    json_set_text(row, "run", run->name);
    json_set_text(row, "method", run->row->method->kind.name);
    set_bits(row, run->row);
    json_set_int(row, "seed", run->seed);
    json_set_number(row, "accuracy", accuracy_of(run));
    json_set_number(row, "loss", json_number(run->result, "loss"));
    json_set_number(row, "bits_per_weight", json_number(run->result, "bits_per_weight"));
    set_whole(row, "bytes", json_number(run->result, "bytes"));
    json_set_number(row, "train_seconds", json_number(run->result, "train_seconds"));
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
    set_interval(group, "accuracy", g->accuracy, arena);
    if (!method_is_baseline(g->row->method)) {
        set_interval(group, "difference", g->difference, arena);
        json_set_text(group, "difference.paired_by", g->is_by_rows ? "row" : "seed");
        json_set_int(group, "mcnemar.better", g->better);
        json_set_int(group, "mcnemar.worse", g->worse);
        json_set_number(group, "mcnemar.p", g->p);
    }
    json_set_number(group, "recovered", g->recovered);
    json_set_number(group, "bits_per_weight", g->bits_per_weight);
    set_whole(group, "bytes", g->bytes);
    json_set_number(group, "train_seconds", g->train_seconds);
    json_set_number(group, "kl", g->kl);
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
        if (is_done(&s->runs[i])) add_row(json, &s->runs[i], arena);
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

static const char *csv_line(const CompareRun *run, Arena *arena) {
    const Json *result = run->result;
#define NUMBER(path) csv_number(json_number(result, path), arena)
    return arena_format(arena, "%s,%s,%s,%s,%ld,%s,%s,%s,%s,%s,%s\n", run->row->name,
                        run->row->method->kind.name, csv_number(run->row->weight_bits, arena),
                        csv_number(run->row->activation_bits, arena), (long)run->seed,
                        NUMBER("accuracy"), NUMBER("loss"), NUMBER("bits_per_weight"),
                        NUMBER("bytes"), NUMBER("train_seconds"), NUMBER("epochs"));
#undef NUMBER
}

static bool write_csv(const Schedule *s, Arena *arena, Error *err) {
    const char *text = "row,method,weight_bits,activation_bits,seed,accuracy,loss,bits_per_weight,"
                       "bytes,train_seconds,epochs\n";
    for (int i = 0; i < s->run_count; i++)
        if (is_done(&s->runs[i]))
            text = arena_format(arena, "%s%s", text, csv_line(&s->runs[i], arena));
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
