/* The experiment with other settings: another base, an adapter or none, another optimizer. */
#include "experiments/compare/method.h"

static const Field fields[] = {
    METHOD_FIELD_NAME,
    FIELD_TREE(MethodConfig, settings, "over the experiment's", .fields = experiment_fields),
    FIELD_END,
};

static const char *write(const Node *base, const MethodConfig *config, RowPlan plan,
                         const char *row, Arena *arena, Error *err) {
    (void)plan;
    ExperimentConfig experiment;
    Node *tree = config->settings ? fields_overlay(experiment_fields, base, config->settings, arena)
                                  : node_copy(arena, base);
    return config_read_tree(tree, row, arena, &experiment, err) ? config_write(&experiment, arena)
                                                                : NULL;
}

const CompareMethod compare_method_with = {
    .kind = {.name = "with",
             .help = "the experiment with other settings, under a name of its own",
             .config_bytes = sizeof(MethodConfig),
             .fields = fields},
    .label = "with",
    .is_trained = true,
    .command = "train",
    .write = write,
};
