#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "experiments/compare/comparison.h"
#include "experiments/compare/page_parts.h"
#include "experiments/report/chart.h"

static const char *text_or(const Json *json, const char *path, const char *otherwise) {
    const char *text = json_get_text(json, path);
    return text ? text : otherwise;
}

static Interval interval_read(const Json *json, const char *name, Arena *arena) {
    return (Interval){json_number(json, arena_format(arena, "%s.mean", name)),
                      json_number(json, arena_format(arena, "%s.low", name)),
                      json_number(json, arena_format(arena, "%s.high", name))};
}

/* "W4A4", "WAUTOA8", "AUTO" */
static bool is_width(const char *word) {
    bool has_w = *word == 'W';
    word += has_w;
    return !strncmp(word, "AUTO", 4) || (has_w && isdigit((unsigned char)*word));
}

/* "QAT" of "QAT W4A4"; the method where a label ends otherwise. */
static const char *family_of(const char *label, const char *method, Arena *arena) {
    const char *end = strrchr(label, ' ');
    if (!end || !is_width(end + 1)) return method;
    return arena_format(arena, "%.*s", (int)(end - label), label);
}

/* Of a loss to that of its exponential. */
static Interval relative(Interval d) {
    return (Interval){expm1(d.mean), expm1(d.low), expm1(d.high)};
}

static PageGroup group_read(const ComparisonPage *c, const Json *json) {
    Arena *arena = c->arena;
    Interval difference = interval_read(json, "difference", arena);
    if (!c->task->has_confusion) difference = relative(difference);
    const char *row = text_or(json, "row", "");
    const char *method = text_or(json, "method", "");
    const char *label = text_or(json, "label", row);
    return (PageGroup){
        .row = row,
        .label = label,
        .method = method,
        .family = family_of(label, method, arena),
        .weight_bits = json_number(json, "weight_bits"),
        .activation_bits = json_number(json, "activation_bits"),
        .seeds = json_number(json, "seeds"),
        .score = interval_read(json, c->score->key, arena),
        .difference = difference,
        .loss = c->task->has_confusion ? -difference.mean : difference.mean,
        .is_by_rows = strcmp(text_or(json, "difference.paired_by", "seed"), "seed") != 0,
        .kl = json_number(json, "kl"),
        .better = json_number(json, "mcnemar.better"),
        .worse = json_number(json, "mcnemar.worse"),
        .p = json_number(json, "mcnemar.p"),
        .recovered = json_number(json, "recovered"),
        .bits_per_weight = json_number(json, "bits_per_weight"),
        .bytes = json_number(json, "bytes"),
        .train_seconds = json_number(json, "train_seconds"),
        .is_fp32 = !strcmp(method, "fp32"),
        .is_trained = !strcmp(method, "qat") || !strcmp(method, "with"),
        .seed = NAN,
    };
}

/* ---- Evaluations. ---- */

bool page_data_is_plain(const char *name) {
    return name && *name && *name != '.' && !strchr(name, '/');
}

/* Of run number i, read when it is first asked for: most runs are seeds that only the scores are
 * shown of. */
static const Json *evaluation_of(ComparisonPage *c, int i) {
    const Json *run = json_element(c->results, "rows", i);
    const char *name = json_get_text(run, "run");
    if (c->evaluations[i] || !page_data_is_plain(name)) return c->evaluations[i];
    Error err = {0};
    const char *path =
        arena_format(c->arena, "%s/" COMPARISON_EVALUATIONS "/%s.json", c->directory, name);
    if (file_find(path, &err) != FILE_ABSENT) c->evaluations[i] = json_read_file(path, &err);
    return c->evaluations[i];
}

static bool is_of(const Json *run, const PageGroup *group) {
    return !strcmp(text_or(run, "row", ""), group->row);
}

static void group_find_run(ComparisonPage *c, PageGroup *group) {
    for (int i = 0; i < c->run_count && !group->evaluation; i++) {
        const Json *run = json_element(c->results, "rows", i);
        group->evaluation = is_of(run, group) ? evaluation_of(c, i) : NULL;
        if (!group->evaluation) continue;
        group->run = json_get_text(run, "run");
        group->seed = json_number(run, "seed");
    }
}

const Json *page_data_fp32(ComparisonPage *c, const PageGroup *group) {
    const Json *found = NULL;
    for (int i = 0; c->fp32 && !found && i < c->run_count; i++) {
        const Json *run = json_element(c->results, "rows", i);
        bool is_its = is_of(run, c->fp32) && json_number(run, "seed") == group->seed;
        found = is_its ? evaluation_of(c, i) : NULL;
    }
    return found || !c->fp32 ? found : c->fp32->evaluation;
}

const Json *page_data_costs(ComparisonPage *c) {
    for (int i = 0; c->fp32 && i < c->run_count; i++) {
        const Json *run = json_element(c->results, "rows", i);
        const Json *evaluation = is_of(run, c->fp32) ? evaluation_of(c, i) : NULL;
        if (evaluation && json_count(evaluation, "costs")) return evaluation;
    }
    return NULL;
}

const char *page_data_class(const ComparisonPage *c, int64_t i) {
    const char *path = arena_format(c->arena, "data.classes.%lld", (long long)i);
    return text_or(c->results, path, arena_format(c->arena, "%lld", (long long)i));
}

/* ---- Groups. ---- */

/* Where bits were chosen layer by layer, their mean. */
static double weight_bits_of(const PageGroup *group) {
    return isnan(group->weight_bits) ? group->bits_per_weight : group->weight_bits;
}

/* From many weight bits to few, then activation bits; FP32 first, what is unknown last. */
static int group_order(const void *a, const void *b) {
    const PageGroup *x = a, *y = b;
    double bits[4] = {weight_bits_of(x), weight_bits_of(y), x->activation_bits, y->activation_bits};
    for (int i = 0; i < 4; i++) bits[i] = isnan(bits[i]) ? -1 : bits[i];
    if (x->is_fp32 != y->is_fp32) return x->is_fp32 ? -1 : 1;
    if (bits[0] != bits[1]) return bits[0] > bits[1] ? -1 : 1;
    if (bits[2] != bits[3]) return bits[2] > bits[3] ? -1 : 1;
    return x->index - y->index;
}

/* A family has one colour on the whole page. */
static void groups_colour(ComparisonPage *c) {
    int next = 0;
    for (int i = 0; i < c->group_count; i++) {
        PageGroup *group = &c->groups[i];
        int same = 0;
        while (same < i && strcmp(c->groups[same].family, group->family)) same++;
        bool is_new = same == i;
        group->colour = is_new ? next : c->groups[same].colour;
        if (group->is_fp32) group->colour = CHART_MUTED;
        next += is_new && !group->is_fp32;
    }
}

static double size_of(const PageGroup *group) {
    return isnan(group->bits_per_weight) ? group->weight_bits : group->bits_per_weight;
}

const PageGroup *page_data_fewest(const ComparisonPage *c, bool is_trained) {
    const PageGroup *fewest = NULL;
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        bool counts = !group->is_fp32 && (is_trained || !group->is_trained);
        if (!counts || !(group->loss <= PAGE_LOSS_MAX)) continue;
        bool is_smaller = !fewest || size_of(group) < size_of(fewest);
        bool is_better = fewest && size_of(group) == size_of(fewest) &&
                         task_is_better(c->task, group->score.mean, fewest->score.mean);
        if (is_smaller || is_better) fewest = group;
    }
    return fewest;
}

/* What is shown in detail: the fewest bits that cost little; else what costs least. */
static const PageGroup *group_choose(const ComparisonPage *c) {
    const PageGroup *chosen = page_data_fewest(c, true);
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        if (chosen && chosen->loss <= PAGE_LOSS_MAX) return chosen;
        if (group->is_fp32 || !isfinite(group->score.mean)) continue;
        if (!chosen || task_is_better(c->task, group->score.mean, chosen->score.mean))
            chosen = group;
    }
    return chosen;
}

static void task_read(ComparisonPage *c) {
    c->task = task_find(text_or(c->results, "task", ""));
    if (!c->task) c->task = tasks[0];
    c->score = &c->task->scores[0];
    c->points = c->task->has_confusion ? "points" : "%";
    c->half_a_point = c->task->has_confusion ? "half a point" : "half a per cent";
}

bool page_data_read(ComparisonPage *c, Error *err) {
    const char *path = arena_format(c->arena, "%s/" COMPARISON_RESULTS, c->directory);
    c->results = json_read_file(path, err);
    if (!c->results) return false;
    task_read(c);
    int count = json_count(c->results, "groups");
    c->run_count = json_count(c->results, "rows");
    if (count > COMPARISON_RUNS_MAX || c->run_count > COMPARISON_RUNS_MAX) {
        c->run_count = 0;
        return FAIL(err, ERROR_INPUT, "%s: has more than %d runs", path, COMPARISON_RUNS_MAX);
    }
    c->evaluations = arena_new_array(c->arena, Json *, c->run_count + 1);
    c->groups = arena_new_array(c->arena, PageGroup, count + 1);
    for (int i = 0; i < count; i++) {
        const Json *group = json_element(c->results, "groups", i);
        if (!group || json_number(group, "seeds") == 0) continue; /* none of its runs is done */
        c->groups[c->group_count] = group_read(c, group);
        c->groups[c->group_count].index = i;
        c->group_count++;
    }
    if (c->group_count) qsort(c->groups, (size_t)c->group_count, sizeof *c->groups, group_order);
    groups_colour(c);
    for (int i = 0; i < c->group_count; i++) {
        group_find_run(c, &c->groups[i]);
        if (c->groups[i].is_fp32 && !c->fp32) c->fp32 = &c->groups[i];
    }
    c->chosen = group_choose(c);
    return true;
}

void page_data_free(ComparisonPage *c) {
    for (int i = 0; i < c->run_count; i++) json_free(c->evaluations[i]);
    json_free(c->results);
}
