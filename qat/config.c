/* Settings of the `quant:` section. */
#include "qat/prepare.h"

static const char *const bits_choices[] = {"inherit", "1", "1.58", "2", "3",  "4",
                                           "5",       "6", "7",    "8", "32", NULL};
static const char *const all_bits_choices[] = {"inherit", "1", "1.58", "2",  "3",    "4", "5",
                                               "6",       "7", "8",    "32", "auto", NULL};
static const char *const weight_granularities[] = {"tensor", "channel", "group", NULL};
static const char *const activation_granularities[] = {"tensor", "token", NULL};
const Granularity qat_weight_granularities[] = {GRANULARITY_TENSOR, GRANULARITY_CHANNEL,
                                                GRANULARITY_GROUP};
const Granularity qat_activation_granularities[] = {GRANULARITY_TENSOR, GRANULARITY_TOKEN};
static const char *const scale_choices[] = {"f32", "f16", "bf16", NULL};

int bits_value(int choice) {
    static const int bits[] = {0, 1, BITS_TERNARY, 2, 3, 4, 5, 6, 7, 8, BITS_FLOAT, BITS_AUTO};
    return bits[choice];
}

int bits_choice(int bits) {
    int choice = 0;
    while (bits_value(choice) != bits) choice++;
    return choice;
}

bool qat_check(const QatConfig *config, Error *err) {
    bool is_auto = bits_value(config->bits) == BITS_AUTO;
    if (is_auto && !config->budget_bytes)
        return FAIL(err, ERROR_INPUT,
                    "quant.bits: auto needs quant.budget_bytes, the most that the packed network "
                    "may take") ||
               error_blame(err, "quant.bits");
    if (!is_auto && config->budget_bytes)
        return FAIL(err, ERROR_INPUT,
                    "quant.budget_bytes is for quant.bits: auto; set that, or leave it out") ||
               error_blame(err, "quant.budget_bytes");
    if (is_auto && bits_value(config->weights.bits))
        return FAIL(err, ERROR_INPUT,
                    "quant.weights.bits leaves nothing to choose: quant.bits: auto chooses the "
                    "bits of weights; leave one out") ||
               error_blame(err, "quant.weights.bits");
    return true;
}

#define BITS_FIELD(Struct, member, fallback_, help_)                                               \
    FIELD_CHOICE(Struct, member, fallback_, bits_choices, help_)

static const Field weight_fields[] = {
    BITS_FIELD(TensorQuantConfig, bits, "inherit", "bits of weights; inherit: quant.bits"),
    FIELD_VARIANT(TensorQuantConfig, quantizer, "lsq", &quantizer_kinds, "how the range is found"),
    FIELD_CHOICE(
        TensorQuantConfig, granularity, "channel", weight_granularities,
        "what shares a scale: the tensor, an output channel, a group of group_size weights"),
    FIELD_INT(TensorQuantConfig, group_size, "32", 2, 65536, "weights that share a scale"),
    FIELD_BOOL(TensorQuantConfig, affine, "false", "with a zero point"),
    FIELD_CHOICE(TensorQuantConfig, scale, "f32", scale_choices,
                 "precision that scales are stored in"),
    FIELD_END,
};

static const Field activation_fields[] = {
    BITS_FIELD(TensorQuantConfig, bits, "inherit", "bits of activations; inherit: quant.bits"),
    FIELD_VARIANT(TensorQuantConfig, quantizer, "lsq", &quantizer_kinds, "how the range is found"),
    FIELD_CHOICE(TensorQuantConfig, granularity, "tensor", activation_granularities,
                 "what shares a scale: tensor, or token (a row, in linear layers)"),
    FIELD_BOOL(TensorQuantConfig, affine, "false", "with a zero point"),
    FIELD_CHOICE(TensorQuantConfig, scale, "f32", scale_choices,
                 "precision that scales are stored in"),
    FIELD_END,
};

static const Field rule_fields[] = {
    FIELD_STRING(QuantRule, layers, REQUIRED,
                 "which layers, comma-separated: dotted names with * and ?, or first, last, conv, "
                 "depthwise, linear"),
    BITS_FIELD(QuantRule, bits, "inherit", "bits of their weights and inputs; 32: float"),
    BITS_FIELD(QuantRule, weight_bits, "inherit", "bits of their weights alone"),
    BITS_FIELD(QuantRule, activation_bits, "inherit", "bits of their inputs alone"),
    FIELD_END,
};

const Field qat_fields[] = {
    FIELD_CHOICE(QatConfig, bits, "32", all_bits_choices,
                 "bits of weights and activations; 32: no quantization; auto: each layer's, chosen "
                 "by what they cost the network of train.init, under budget_bytes"),
    FIELD_INT(QatConfig, budget_bytes, "0", 0, 1e15,
              "with bits: auto, the most that the packed network may take", .is_aside = true,
              .omits_zero = true),
    FIELD_STRUCT(QatConfig, weights, weight_fields, "how weights are quantized"),
    FIELD_STRUCT(QatConfig, activations, activation_fields, "how activations are quantized"),
    FIELD_VARIANT(QatConfig, input, "minmax", &quantizer_kinds,
                  "how the range of the network's input is found; its values do not change in "
                  "training, and a learned range would cost the gradient to the input; bits, "
                  "granularity, affine and scale are those of activations"),
    BITS_FIELD(QatConfig, residual_bits, "8", "bits of the inputs and outputs of residual adds"),
    FIELD_STRUCTS(QatConfig, rules, "[]", QuantRule, rule_fields, "exceptions; later ones win"),
    FIELD_FLOAT(QatConfig, start, "0", 0, 1e12,
                "when fake-quant starts; below 1: a share of the training, else steps"),
    FIELD_FLOAT(QatConfig, freeze_observers, "1", 0, 1e12,
                "when observed ranges freeze; 1: never, below 1: a share, above 1: steps"),
    FIELD_FLOAT(
        QatConfig, freeze_batch_norm, "1", 0, 1e12,
        "when batch norm takes running statistics; 1: never, below 1: a share, above: steps"),
    FIELD_END,
};
