/* Quantization-aware training: the experiment with fake-quant, from scratch; if asked, taught by
 * the FP32 run of the same seed. */
#include "core/settings/yaml.h"
#include "experiments/compare/method.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

static const Field fields[] = {
    METHOD_FIELD_NAME,
    METHOD_FIELD_BITS(REQUIRED),
    METHOD_FIELD_QUANT,
    METHOD_FIELDS_TRAINING,
    FIELD_BOOL(MethodConfig, distill, "false",
               "with the FP32 run of the same seed as train.distill.teacher"),
    FIELD_END,
};

/* Which run teaches is known once there is one. */
static Node *with_teacher(const Node *base, Arena *arena) {
    Node *train = yaml_read_own("{distill: {teacher: " METHOD_TEACHER "}}", base->mark, arena);
    return method_overlay(base, "train", train, arena);
}

static const char *write(const Node *base, const MethodConfig *config, RowBits bits,
                         const char *row, Arena *arena, Error *err) {
    ExperimentConfig experiment;
    Node *tree = config->distill ? with_teacher(base, arena) : node_copy(arena, base);
    tree = method_set_bits(method_experiment(tree, config, arena), bits, arena);
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
