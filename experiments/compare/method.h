/* Methods of a comparison: ways to a network of few bits. A method is one file in
 * experiments/compare/methods and one row of methods.def: its settings, and how it makes a run. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_METHOD_H
#define NIBBLE_EXPERIMENTS_COMPARE_METHOD_H

#include "experiments/settings/config.h"

/* The settings of any method; each lists those that it has. */
typedef struct MethodConfig {
    const char *name; /* of its rows; NULL: the method's */
    List bits;        /* of const char *, a row each: "w4a8", "4", "w4" */
    const Node *quant, *optimizer, *schedule, *train; /* over the experiment's */
    const Node *calibration;
    const Node *settings; /* of any section, over the experiment's */
    List quantize;        /* of Variant: rows of ptq_kinds */
    const char *init;     /* the row whose run of the same seed is train.init; NULL: none */
    bool distill;         /* the FP32 run of the same seed is train.distill.teacher */
} MethodConfig;

#define METHOD_FIELD_NAME                                                                          \
    FIELD_STRING(MethodConfig, name, "", "what its rows are called instead of the method's name")
#define METHOD_FIELD_BITS(fallback)                                                                \
    FIELD_NUMBERS(MethodConfig, bits, fallback, FIELD_TYPE_STRING, 0, 0,                           \
                  "a row each: w4a8 (weights, activations), 4 (both), w4 (weights alone); auto, "  \
                  "wautoa8, wauto: chosen layer by layer for quant.budget_bytes")
#define METHOD_FIELD_QUANT                                                                         \
    FIELD_TREE(MethodConfig, quant, "over the experiment's", .fields = qat_fields)
#define METHOD_FIELDS_TRAINING                                                                     \
    FIELD_TREE(MethodConfig, optimizer, "over the experiment's", .kinds = &optimizer_kinds),       \
        FIELD_TREE(MethodConfig, schedule, "over the experiment's", .kinds = &schedule_kinds),     \
        FIELD_TREE(MethodConfig, train, "over the experiment's", .fields = train_fields)

/* Bit-widths of a row as they are written in `quant`; "32": not quantized; "auto": chosen layer by
 * layer, of the weights alone or, where activations are "auto" too, of both. */
typedef struct RowBits {
    const char *weights, *activations;
} RowBits;

/* A row of a method. */
typedef struct RowPlan {
    RowBits bits;
    const char *init; /* the row that its runs begin from (train.init); NULL: none */
} RowPlan;

typedef struct CompareMethod {
    Kind kind; /* config: MethodConfig */
    const char *label;
    bool has_bits;       /* else it has one row, in f32 */
    bool is_trained;     /* its runs have steps; else they are made of the FP32 run's network */
    const char *command; /* of the program: `command CONFIG`, with or without that run before it */
    /* The resolved configuration of that command as YAML text, NULL if it is wrong; `base` is that
     * of the experiment. */
    const char *(*write)(const Node *base, const MethodConfig *config, RowPlan plan,
                         const char *row, Arena *arena, Error *err);
} CompareMethod;

#define COMPARE_METHOD(name) extern const CompareMethod compare_method_##name;
#include "experiments/compare/methods.def"
#undef COMPARE_METHOD

extern const KindTable compare_method_kinds;

bool method_is_baseline(const CompareMethod *method); /* FP32 */

/* "w4a8", "4", "w4", "1.58", "auto", "wautoa8". False: it is none of these. */
bool row_bits_parse(const char *text, RowBits *out, Arena *arena);
const char *row_bits_name(RowBits bits, Arena *arena); /* "w4a8", "w4", "auto" */
bool row_bits_are_chosen(RowBits bits);                /* auto */
/* 32: not quantized; 1.58: ternary; NAN: chosen layer by layer. */
double row_bits_number(const char *bits);

/* In a row's text, the runs that are known once a run is made: the teacher, and before a row's name
 * the run that it begins from. */
#define METHOD_TEACHER "/the-fp32-run-of-the-seed"
#define METHOD_INIT    "/the-run-of-the-seed/"

/* The section `name` of `base` with the settings `over` (NULL: none) in it. */
Node *method_overlay(const Node *base, const char *name, const Node *over, Arena *arena);
/* The experiment with all the sections that a training method changes. */
Node *method_experiment(const Node *base, const MethodConfig *config, Arena *arena);
/* Sets quant.bits of an experiment. */
Node *method_set_bits(const Node *base, RowBits bits, Arena *arena);

#endif
