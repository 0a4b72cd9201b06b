/* Quantization-aware training: the experiment with fake-quant, from scratch or from the network of
 * another row; if asked, taught by the FP32 run of the same seed. */
#include "core/settings/yaml.h"
#include "experiments/compare/method.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

static const Field fields[] = {
    METHOD_FIELD_NAME,
    METHOD_FIELD_BITS(REQUIRED),
    METHOD_FIELD_QUANT,
    METHOD_FIELDS_TRAINING,
    FIELD_STRING(MethodConfig, init, "",
                 "the row to begin from, such as FP32 or PTQ (at the same bits): its run of the "
                 "same seed is train.init; of bits auto FP32 if not said"),
    FIELD_BOOL(MethodConfig, distill, "false",
               "with the FP32 run of the same seed as train.distill.teacher"),
    FIELD_END,
};

/* Which runs those are is known once there are some. */
static Node *with_runs(const Node *base, bool is_taught, const char *init, Arena *arena) {
    Node *tree = node_copy(arena, base);
    const char *text = init ? arena_format(arena, "{init: \"" METHOD_INIT "%s\"}", init) : "{}";
    if (is_taught)
        tree = method_overlay(
            tree, "train",
            yaml_read_own("{distill: {teacher: " METHOD_TEACHER "}}", base->mark, arena), arena);
    return method_overlay(tree, "train", yaml_read_own(text, base->mark, arena), arena);
}

static const char *write(const Node *base, const MethodConfig *config, RowPlan plan,
                         const char *row, Arena *arena, Error *err) {
    ExperimentConfig experiment;
    Node *tree = with_runs(base, config->distill, plan.init, arena);
    tree = method_set_bits(method_experiment(tree, config, arena), plan.bits, arena);
    return config_read_tree(tree, row, arena, &experiment, err) ? config_write(&experiment, arena)
                                                                : NULL;
}

const CompareMethod compare_method_qat = {
    .kind = {.name = "qat",
             .help = "trained with fake-quant",
             .config_bytes = sizeof(MethodConfig),
             .fields = fields},
    .label = "QAT",
    .has_bits = true,
    .is_trained = true,
    .command = "train",
    .write = write,
};
