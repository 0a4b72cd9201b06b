/* The baseline: the experiment with nothing quantized, trained from scratch. */
#include "core/settings/yaml.h"
#include "experiments/compare/method.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

static const Field fields[] = {
    METHOD_FIELD_NAME,
    METHOD_FIELDS_TRAINING,
    FIELD_END,
};

static const char *write(const Node *base, const MethodConfig *config, RowPlan plan,
                         const char *row, Arena *arena, Error *err) {
    (void)plan;
    ExperimentConfig experiment;
    Node *none = yaml_read_own("{bits: 32, weights: {bits: inherit}, activations: {bits: inherit}, "
                               "rules: []}",
                               base->mark, arena);
    Node *tree = method_overlay(method_experiment(base, config, arena), "quant", none, arena);
    return config_read_tree(tree, row, arena, &experiment, err) ? config_write(&experiment, arena)
                                                                : NULL;
}

const CompareMethod compare_method_fp32 = {
    .kind = {.name = "fp32",
             .help = "trained with nothing quantized; every comparison has it",
             .config_bytes = sizeof(MethodConfig),
             .fields = fields},
    .label = "FP32",
    .is_trained = true,
    .command = "train",
    .write = write,
};
