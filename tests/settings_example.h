/* A config with a setting of every type, for the tests of reading settings. */
#ifndef NIBBLE_TESTS_SETTINGS_EXAMPLE_H
#define NIBBLE_TESTS_SETTINGS_EXAMPLE_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/settings/field.h"
#include "core/settings/yaml.h"
#include "experiments/settings/override.h"

typedef struct SgdConfig {
    double lr, momentum;
    bool nesterov;
} SgdConfig;

typedef struct AdamConfig {
    double lr, beta;
    List betas; /* of double */
} AdamConfig;

typedef struct LinearConfig {
    int64_t units;
    bool bias;
} LinearConfig;

typedef struct BranchConfig {
    List layers; /* of Variant */
} BranchConfig;

typedef struct RuleConfig {
    const char *match;
    int64_t bits;
    int granularity;
} RuleConfig;

typedef struct DataConfig {
    const char *path, *note;
    double validation;
} DataConfig;

typedef struct TrainConfig {
    int64_t epochs, steps;
    bool shuffle;
    DataConfig data;
} TrainConfig;

typedef struct StopConfig {
    const char *score;
    int64_t patience;
} StopConfig;

typedef struct ExampleConfig {
    int64_t seed;
    int precision;
    double temperature;
    const char *name;
    Variant optimizer, clip, noise;
    TrainConfig train;
    StopConfig *stop; /* NULL: left out */
    List layers, rules, milestones, factors, tags;
} ExampleConfig;

static const char *const example_precisions[] = {"f32", "f16", "bf16", NULL};
static const char *const example_granularities[] = {"tensor", "channel", "group", NULL};

static const Field example_sgd_fields[] = {
    FIELD_FLOAT(SgdConfig, lr, "0.1", 1e-9, 100, "learning rate"),
    FIELD_FLOAT(SgdConfig, momentum, "0.9", 0, 0.9999, "velocity kept from step to step"),
    FIELD_BOOL(SgdConfig, nesterov, "false", "look ahead along the velocity"),
    FIELD_END,
};
static const Field example_adam_fields[] = {
    FIELD_FLOAT(AdamConfig, lr, REQUIRED, 1e-9, 100, "learning rate"),
    FIELD_FLOAT(AdamConfig, beta, "0.9", 0, 1, "decay of the first moment"),
    FIELD_NUMBERS(AdamConfig, betas, "[0.9, 0.999]", FIELD_TYPE_FLOAT, 0, 1, "decays"),
    FIELD_END,
};
static const Kind example_sgd = {"sgd", "gradient descent", sizeof(SgdConfig), example_sgd_fields};
static const Kind example_adam = {"adam", "Adam", sizeof(AdamConfig), example_adam_fields};
static const Kind *const example_optimizer_kinds[] = {&example_sgd, &example_adam};
static const KindTable example_optimizers = {"optimizer", example_optimizer_kinds, 2};

static const KindTable example_layers;
static const Field example_linear_fields[] = {
    FIELD_INT(LinearConfig, units, REQUIRED, 1, 4096, "outputs"),
    FIELD_BOOL(LinearConfig, bias, "true", "whether there is a bias"),
    FIELD_END,
};
static const Field example_branch_fields[] = {
    FIELD_VARIANTS(BranchConfig, layers, "[]", &example_layers, "what the branch computes"),
    FIELD_END,
};
static const Kind example_linear = {"linear", "x W + b", sizeof(LinearConfig),
                                    example_linear_fields};
static const Kind example_relu = {"relu", "max(x, 0)", 0, NULL};
static const Kind example_branch = {"branch", "layers beside", sizeof(BranchConfig),
                                    example_branch_fields};
static const Kind *const example_layer_kinds[] = {&example_linear, &example_relu, &example_branch};
static const KindTable example_layers = {"layer", example_layer_kinds, 3};

static const Field example_rule_fields[] = {
    FIELD_STRING(RuleConfig, match, REQUIRED, "names of layers, with *"),
    FIELD_INT(RuleConfig, bits, "8", 2, 8, "width of the codes"),
    FIELD_CHOICE(RuleConfig, granularity, "tensor", example_granularities, "what shares a scale"),
    FIELD_END,
};
static const Field example_data_fields[] = {
    FIELD_STRING(DataConfig, path, REQUIRED, "directory of the files"),
    FIELD_STRING(DataConfig, note, "", "anything"),
    FIELD_FLOAT(DataConfig, validation, "0.1", 0, 0.5, "share of the training set"),
    FIELD_END,
};
static const Field example_train_fields[] = {
    FIELD_INT(TrainConfig, epochs, "10", 1, 1e18, "passes over the data"),
    FIELD_INT(TrainConfig, steps, "0", 0, INFINITY, "stops there; 0: no limit"),
    FIELD_BOOL(TrainConfig, shuffle, "true", "a new order each epoch"),
    FIELD_STRUCT(TrainConfig, data, example_data_fields, "where it comes from"),
    FIELD_END,
};
static const Field example_stop_fields[] = {
    FIELD_STRING(StopConfig, score, REQUIRED, "what is looked at"),
    FIELD_INT(StopConfig, patience, "5", 1, 100, "epochs without a better one"),
    FIELD_END,
};
static const Field example_fields[] = {
    FIELD_INT(ExampleConfig, seed, "1", 0, 0, "of all random numbers"),
    FIELD_CHOICE(ExampleConfig, precision, "f32", example_precisions, "of activations"),
    FIELD_FLOAT(ExampleConfig, temperature, "1", 0, 0, "any number"),
    FIELD_STRING(ExampleConfig, name, "null", "of the run"),
    FIELD_VARIANT(ExampleConfig, optimizer, "{kind: sgd, momentum: 0.5}", &example_optimizers,
                  "how parameters move"),
    FIELD_VARIANT(ExampleConfig, clip, "null", &example_optimizers, "may be left out"),
    FIELD_VARIANT(ExampleConfig, noise, "sgd", &example_optimizers, "a default by name"),
    FIELD_STRUCT(ExampleConfig, train, example_train_fields, "the loop"),
    FIELD_OPTIONAL(ExampleConfig, stop, StopConfig, example_stop_fields, "an early end"),
    FIELD_VARIANTS(ExampleConfig, layers, "[relu]", &example_layers, "the network"),
    FIELD_STRUCTS(ExampleConfig, rules, "[]", RuleConfig, example_rule_fields, "exceptions"),
    FIELD_NUMBERS(ExampleConfig, milestones, "[30, 60]", FIELD_TYPE_INT, 1, 1000, "epochs"),
    FIELD_NUMBERS(ExampleConfig, factors, "[]", FIELD_TYPE_FLOAT, 0, 1, "factors"),
    FIELD_NUMBERS(ExampleConfig, tags, "[]", FIELD_TYPE_STRING, 0, 0, "for searching"),
    FIELD_END,
};

enum { EXAMPLE_TEXT_BYTES = 1 << 16 };

static inline void example_add_line(void *context, const char *line) {
    char *text = context; /* of EXAMPLE_TEXT_BYTES */
    size_t used = strlen(text);
    snprintf(text + used, EXAMPLE_TEXT_BYTES - used, "%s%s", used ? "\n" : "", line);
}

/* What is wrong with a text, as it is printed: an error first, then faults, a line each; "" if all
 * is well. The one required setting is supplied where the text says nothing of it. */
static inline const char *example_mistakes(const char *text, size_t bytes, ExampleConfig *config,
                                           Arena *arena) {
    char *lines = arena_zalloc(arena, EXAMPLE_TEXT_BYTES);
    Error err = {0};
    Faults faults = {.arena = arena}, ignored = {.arena = arena};
    Node *root = NULL;
    if (yaml_read_text(text, bytes, "c", arena, &root, &faults, &err)) {
        if (!strstr(text, "data")) {
            override_apply(example_fields, root, "train.data.path=/x", 0, arena, &ignored);
        }
        fields_read(example_fields, root, (Mark){"c", 1, 1}, config, arena, &faults);
    } else {
        example_add_line(lines, err.message);
    }
    faults_print(&faults, arena, example_add_line, lines);
    return lines;
}

#endif
