/* Quantization-aware training: the experiment with fake-quant, from scratch. */
#include "experiments/compare/method.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

static const Field fields[] = {
    METHOD_FIELD_NAME, METHOD_FIELD_BITS(REQUIRED), METHOD_FIELD_QUANT, METHOD_FIELDS_TRAINING,
    FIELD_END,
};

static const char *write(const Node *base, const MethodConfig *config, RowBits bits,
                         const char *row, Arena *arena, Error *err) {
    ExperimentConfig experiment;
    Node *tree = method_set_bits(method_experiment(base, config, arena), bits, arena);
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
