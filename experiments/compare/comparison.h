/* A comparison: an experiment, methods, bit-widths and seeds, as a YAML file says; and the rows and
 * runs that follow from it. Memory is the arena's that it was read into. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_COMPARISON_H
#define NIBBLE_EXPERIMENTS_COMPARE_COMPARISON_H

#include "experiments/compare/method.h"
#include "experiments/train/run.h"

#define COMPARISON_CONFIG      "config.yaml"    /* resolved */
#define COMPARISON_CONFIGS     "configs"        /* <row>.yaml: what the row's runs are made with */
#define COMPARISON_RUNS        RUNS_FOLDER      /* <run>: run directories */
#define COMPARISON_LOGS        "logs"           /* <run>.txt: what was printed meanwhile */
#define COMPARISON_EVALUATIONS RUNS_EVALUATIONS /* <run>.json; of FP32 runs <run>.h5 */
#define COMPARISON_RESULTS     "results.json"
#define COMPARISON_TABLE       "results.csv"
#define COMPARISON_REPORT      "report.html"

enum { COMPARISON_RUNS_MAX = 10000 };

typedef struct ComparisonConfig {
    const char *config;     /* the experiment's file; NULL: `experiment` says all */
    const Node *experiment; /* over it */
    List seeds;             /* of int64_t */
    List methods;           /* of Variant, with MethodConfig */
} ComparisonConfig;

/* A method at some bits: a line of the table. */
typedef struct CompareRow {
    const char *name;  /* "qat-w4a4" */
    const char *label; /* "QAT W4A4" */
    const CompareMethod *method;
    /* Whose run of the same seed a run is made of, or begins from; listed before. NULL: none. */
    const struct CompareRow *source;
    bool is_taught;                      /* by the FP32 run of the same seed */
    bool has_chosen_bits;                /* quant.bits: auto */
    double weight_bits, activation_bits; /* 32: not quantized; 1.58: ternary; NAN: chosen */
    const char *text;                    /* YAML: the configuration of its runs, but for the seed */
} CompareRow;

typedef struct Comparison {
    ComparisonConfig config;
    ExperimentConfig experiment;
    CompareRow *rows; /* the first is FP32 */
    int row_count;
    const int64_t *seeds;
    int seed_count;
} Comparison;

extern const Field comparison_fields[];

/* Reads the file, applies the overrides, checks every row. Mistakes are logged, each with its
 * place; `err` tells how many. */
bool comparison_read(const char *path, int override_count, char *const *overrides, Arena *arena,
                     Comparison *out, Error *err);
/* Of the directory of a comparison. */
bool comparison_read_saved(const char *directory, Arena *arena, Comparison *out, Error *err);

/* The resolved comparison as YAML text, which needs no other file. */
const char *comparison_write(const Comparison *comparison, Arena *arena);

/* Whether `now` goes on with what was begun as `then` in `directory`: it may have more rows and
 * more seeds. Else ERROR_INPUT, which names what differs. */
bool comparison_continues(const Comparison *then, const Comparison *now, const char *directory,
                          Error *err);

/* "qat-w4a4-s1" */
const char *comparison_run_name(const CompareRow *row, int64_t seed, Arena *arena);

#endif
