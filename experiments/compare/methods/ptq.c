/* Post-training quantization: the FP32 run of the same seed through `nibble quantize`. */
#include <string.h>

#include "core/settings/yaml.h"
#include "experiments/compare/method.h"
#include "qat/ptq.h"

static const Field fields[] = {
    METHOD_FIELD_NAME,
    METHOD_FIELD_BITS(REQUIRED),
    FIELD_TREE(MethodConfig, quant, "over the experiment's, with quantizers minmax",
               .fields = qat_fields),
    FIELD_TREE(MethodConfig, calibration, "over the experiment's", .fields = calibration_fields),
    FIELD_VARIANTS(MethodConfig, quantize, "[]", &ptq_kinds,
                   "methods of 'nibble quantize', one after the other; []: round"),
    FIELD_END,
};

/* Ranges that a training learns mean little without one. */
static Node *with_minmax(const Node *base, Arena *arena) {
    Node *quant = yaml_read_own("{weights: {quantizer: minmax}, activations: {quantizer: minmax}}",
                                base->mark, arena);
    return method_overlay(base, "quant", quant, arena);
}

/* What the file of `nibble quantize` has; all else is the run's. */
static const char *sections(const ExperimentConfig *config, Arena *arena) {
    Node *all = config_tree(config, arena), *map = node_new(arena, NODE_MAP, NULL, NULL, all->mark);
    static const char *const names[] = {"quant", "calibration", "quantize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        node_append(map, node_copy(arena, node_find(all, names[i])));
    return node_to_yaml(map, arena);
}

static const char *write(const Node *base, const MethodConfig *config, RowPlan plan,
                         const char *row, Arena *arena, Error *err) {
    ExperimentConfig experiment;
    Node *tree = method_overlay(with_minmax(base, arena), "quant", config->quant, arena);
    tree = method_overlay(tree, "calibration", config->calibration, arena);
    tree = method_set_bits(tree, plan.bits, arena);
    if (!config_read_tree(tree, row, arena, &experiment, err)) return NULL;
    experiment.quantize = config->quantize;
    return ptq_check(&experiment.quantize, err) ? sections(&experiment, arena) : NULL;
}

const CompareMethod compare_method_ptq = {
    .kind = {.name = "ptq",
             .help = "made of the FP32 run of the same seed by 'nibble quantize', without training",
             .config_bytes = sizeof(MethodConfig),
             .fields = fields},
    .label = "PTQ",
    .has_bits = true,
    .command = "quantize",
    .write = write,
};
