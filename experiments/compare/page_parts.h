/* What the parts of a comparison's page share; internal to it. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_PAGE_PARTS_H
#define NIBBLE_EXPERIMENTS_COMPARE_PAGE_PARTS_H

#include "core/error.h"
#include "core/json.h"
#include "experiments/compare/statistics.h"
#include "experiments/report/page.h"
#include "experiments/train/task.h"

/* A row of the comparison, over its seeds. Differences to FP32 are fractions: of a task with
 * classes, of answers; else of the score. NAN: unknown. */
typedef struct PageGroup {
    const char *row, *label, *method;
    const char *family; /* rows that differ in bits alone: what their labels begin with */
    double weight_bits, activation_bits, seeds;
    Interval score, difference;
    double loss;             /* how much worse than FP32, as a difference */
    bool is_by_rows;         /* paired by test row, not by seed: there is one seed */
    double better, worse, p; /* McNemar's */
    double kl;               /* divergence from FP32's outputs, nats */
    double recovered, bits_per_weight, bytes, train_seconds;
    int colour; /* its family's, or CHART_MUTED */
    bool is_fp32, is_trained;
    int index;              /* in results.json */
    const char *run;        /* the first of its runs whose evaluation there is, or NULL */
    double seed;            /* of that run */
    const Json *evaluation; /* of that run, or NULL */
} PageGroup;

typedef struct ComparisonPage {
    const char *directory;
    Arena *arena;
    Page page;
    Json *results;
    const Task *task;
    const Score *score;                /* the task's first */
    const char *points, *half_a_point; /* what differences are in: "points", "half a point" */
    Json **evaluations;                /* to be freed: one a row of results.json; NULL: not read */
    int run_count;
    PageGroup *groups; /* from many weight bits to few */
    int group_count;
    const PageGroup *fp32;   /* NULL: not there yet */
    const PageGroup *chosen; /* what the page shows in detail; NULL: nothing is quantized yet */
} ComparisonPage;

/* ---- Reading (page_data.c). ---- */

bool page_data_read(ComparisonPage *c, Error *err); /* page_data_free is due whatever the result */
void page_data_free(ComparisonPage *c);
bool page_data_is_plain(const char *name); /* it can be inside a directory, and nowhere else */
/* The evaluation of FP32 with the seed of `group`, or of any seed, or NULL. */
const Json *page_data_fp32(ComparisonPage *c, const PageGroup *group);
/* The first evaluation that holds layers' costs, or NULL. */
const Json *page_data_costs(ComparisonPage *c);
const char *page_data_class(const ComparisonPage *c, int64_t i); /* its name, or its number */

/* The row with the fewest bits per weight that loses at most PAGE_LOSS_MAX to FP32, of several the
 * best; `is_trained`: QAT counts, too. NULL: there is none. */
const PageGroup *page_data_fewest(const ComparisonPage *c, bool is_trained);
#define PAGE_LOSS_MAX 0.005

/* ---- Parts, in the page's order. ---- */

void page_headline_put(ComparisonPage *c);
void page_table_put(ComparisonPage *c);
void page_charts_put(ComparisonPage *c);
void page_layers_put(ComparisonPage *c);
void page_costs_put(ComparisonPage *c); /* of layers, in the FP32 network */
void page_histograms_put(ComparisonPage *c);
void page_training_put(ComparisonPage *c);
void page_images_put(ComparisonPage *c); /* confusion matrices and images that change class */

/* ---- Numbers. ---- */

void page_number(Page *page, double value, int decimals); /* "92.81" or a dash; no sign */
void page_score_put(ComparisonPage *c, double value);     /* "92.81 %", "4.712", or a dash */
const char *page_unit(const ComparisonPage *c);           /* " (%)", or nothing */
void page_points(Page *page, double fraction);            /* "+0.12", a hundredth as 1 */
void page_name_put(Page *page, const PageGroup *group);   /* with its family's mark */

#endif
