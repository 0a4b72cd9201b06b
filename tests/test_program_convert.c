/* What is shipped is what was trained: convert and verify over every kind of quantizer and layer,
 * and flipped bits that must not go unnoticed. */
#include "tests/program.h"

#include "tests/reseal.h"

#define RUN_SHORTLY "train: {epochs: 2, log_every: 8}\n"
#define MLP         "model: {kind: mlp, widths: [16, 12]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER RUN_SHORTLY
#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12, dropout: 0.1}\n" PROGRAM_DATA                  \
        PROGRAM_OPTIMIZER RUN_SHORTLY
#define SMALL_DATA                                                                                 \
    "data: {kind: synthetic, height: 8, width: 8, channels: 3, classes: 4, train: 160, test: 40, " \
    "validation: 32, batch: 32, eval_batch: 16}\n"
#define RESNET                                                                                     \
    "model: {kind: resnet, depth: 8, widths: [4, 6, 8]}\n" SMALL_DATA PROGRAM_OPTIMIZER RUN_SHORTLY
#define MOBILENET                                                                                  \
    "model: {kind: mobilenet, stem: 4, widths: [6, 8], strides: [1, 2]}\n" SMALL_DATA              \
        PROGRAM_OPTIMIZER RUN_SHORTLY

/* A convolution with a bias before its batch norm, one without a norm, a depthwise and a grouped
 * one, a linear layer with a norm, a layer norm, branches, a residual with a shortcut. */
#define SEQUENTIAL                                                                                 \
    "model:\n"                                                                                     \
    "  kind: sequential\n"                                                                         \
    "  layers:\n"                                                                                  \
    "  - {kind: conv, filters: 4, bias: true}\n"                                                   \
    "  - {kind: batch_norm}\n"                                                                     \
    "  - {kind: relu}\n"                                                                           \
    "  - {kind: conv, filters: 8, kernel: 3, stride: 2, groups: 2}\n"                              \
    "  - {kind: silu}\n"                                                                           \
    "  - {kind: conv, depthwise: true, bias: false, dilation: 2}\n"                                \
    "  - {kind: batch_norm}\n"                                                                     \
    "  - {kind: relu6}\n"                                                                          \
    "  - kind: residual\n"                                                                         \
    "    main: [{kind: conv, filters: 6, bias: false}, {kind: batch_norm}]\n"                      \
    "    shortcut: [{kind: conv, filters: 6, kernel: 1, bias: false}, {kind: batch_norm}]\n"       \
    "  - {kind: tanh}\n"                                                                           \
    "  - kind: branches\n"                                                                         \
    "    branches:\n"                                                                              \
    "    - layers: [{kind: max_pool}]\n"                                                           \
    "    - layers: [{kind: conv, filters: 3, stride: 2}, {kind: gelu}]\n"                          \
    "  - {kind: avg_pool, kernel: 2, stride: 1}\n"                                                 \
    "  - {kind: flatten}\n"                                                                        \
    "  - {kind: linear, units: 10, bias: true}\n"                                                  \
    "  - {kind: batch_norm}\n"                                                                     \
    "  - {kind: sigmoid}\n"                                                                        \
    "  - {kind: layer_norm}\n"                                                                     \
    "  - {kind: linear, units: 4, bias: false}\n" SMALL_DATA PROGRAM_OPTIMIZER RUN_SHORTLY

typedef struct Case {
    const char *name, *config, *overrides;
    bool has_reference; /* the plain int32 reference is tried too */
} Case;

static const Case cases[] = {
    {"bits2", CNN, "quant.bits=2", true},
    {"bits3", CNN, "quant.bits=3 quant.freeze_batch_norm=0.5", false},
    {"bits4", CNN, "quant.bits=4 quant.rules=[{\"layers\":\"first,last\",\"bits\":8}]", true},
    {"bits5", CNN, "quant.bits=5", false},
    {"bits6", CNN, "quant.bits=6 quant.start=0.5", false},
    {"bits7", CNN, "quant.bits=7", false},
    {"bits8", CNN, "quant.bits=8", true},
    {"binary", CNN, "quant.activations.bits=8 quant.weights.bits=1 quant.weights.quantizer=paretoq",
     true},
    {"ternary", CNN, "quant.activations.bits=8 quant.weights.bits=1.58", true},
    {"stretched", CNN,
     "quant.activations.bits=8 quant.weights.bits=1.58 quant.weights.quantizer=paretoq "
     "quant.weights.scale=f16 optimizer.ema=0.9",
     true},
    {"stretched2", MLP, "quant.bits=8 quant.weights.bits=2 quant.weights.quantizer=paretoq", true},
    {"ternary_groups", MLP,
     "quant.bits=8 quant.weights.bits=1.58 quant.weights.granularity=group "
     "quant.weights.group_size=7",
     false},
    {"binary_tensor", MLP,
     "quant.bits=8 quant.weights.bits=1 quant.weights.quantizer=paretoq "
     "quant.weights.granularity=tensor",
     true},
    {"ternary_depthwise", MOBILENET,
     "quant.bits=8 quant.weights.bits=1.58 quant.weights.quantizer=paretoq quant.start=0.5", true},
    {"binary_resnet", RESNET,
     "quant.bits=8 quant.weights.bits=1 quant.weights.quantizer=paretoq "
     "quant.rules=[{\"layers\":\"first,last\",\"bits\":8}]",
     false},
    {"weights_only", CNN, "quant.weights.bits=4", false},
    {"activations_only", CNN, "quant.activations.bits=4", false},
    {"minmax", CNN,
     "quant.bits=4 quant.weights.quantizer=minmax quant.activations.quantizer=minmax", true},
    {"ema", CNN, "quant.bits=4 quant.weights.quantizer=ema quant.activations.quantizer=ema", false},
    {"percentile", CNN,
     "quant.bits=4 quant.weights.quantizer=percentile quant.activations.quantizer=percentile",
     false},
    {"mse", CNN, "quant.bits=4 quant.weights.quantizer=mse quant.activations.quantizer=mse", false},
    {"kl", CNN, "quant.bits=4 quant.weights.quantizer=kl quant.activations.quantizer=kl", false},
    {"lsq_plus", CNN,
     "quant.bits=4 quant.weights.quantizer=lsq_plus quant.activations.quantizer=lsq_plus "
     "quant.activations.affine=true",
     true},
    {"pact", CNN,
     "quant.bits=4 quant.weights.quantizer=minmax quant.activations.quantizer=pact "
     "quant.rules=[{\"layers\":first,\"activation_bits\":32}]",
     false},
    {"dorefa", CNN,
     "quant.bits=4 quant.weights.quantizer=dorefa quant.weights.granularity=tensor "
     "quant.activations.quantizer=dorefa "
     "quant.rules=[{\"layers\":first,\"activation_bits\":32}]",
     true},
    {"tensor", CNN, "quant.bits=4 quant.weights.granularity=tensor", false},
    {"group", MLP, "quant.bits=4 quant.weights.granularity=group quant.weights.group_size=4", true},
    {"affine", CNN,
     "quant.bits=4 quant.weights.quantizer=minmax quant.weights.affine=true "
     "quant.activations.quantizer=ema quant.activations.affine=true",
     true},
    {"f16", CNN, "quant.bits=4 quant.weights.scale=f16 quant.activations.scale=f16", true},
    {"bf16", CNN, "quant.bits=4 quant.weights.scale=bf16 quant.activations.scale=bf16", false},
    {"token", MLP,
     "quant.bits=4 quant.activations.quantizer=minmax quant.activations.granularity=token", true},
    {"average", CNN, "quant.bits=4 optimizer.ema=0.9", true},
    {"adam", MLP, "quant.bits=4 optimizer={\"kind\":adam,\"lr\":0.01}", false},
    {"resnet", RESNET, "quant.bits=4", true},
    {"resnet_narrow", RESNET, "quant.bits=4 quant.residual_bits=4", false},
    {"resnet_float_stream", RESNET, "quant.bits=4 quant.residual_bits=32", false},
    {"mobilenet", MOBILENET,
     "quant.bits=8 quant.weights.bits=4 quant.rules=[{\"layers\":depthwise,\"bits\":8}]", true},
    {"sequential", SEQUENTIAL, "quant.bits=4", true},
    {"sequential8", SEQUENTIAL, "quant.bits=8 quant.weights.scale=f16 optimizer.ema=0.5", false},
};

static void check_case(const Case *c) {
    text_file("case.yaml", c->config);
    run(0, "train case.yaml --out %s %s", c->name, c->overrides);
    run(0, "convert %s", c->name);
    assert_has(run(0, "verify %s", c->name).out, " 0 differing bits");
    if (c->has_reference)
        assert_has(run(0, "verify %s --reference", c->name).out, "plain int32 reference");
}

static void test_verify_finds_no_difference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}

/* quantized.h5 alone is what runs: without checkpoints and under another name of the directory. */
static void test_verify_needs_no_masters(void **state) {
    (void)state;
    text_file("alone.yaml", CNN);
    run(0, "train alone.yaml --out alone quant.bits=4");
    run(0, "convert alone");
    remove("alone/checkpoint.h5");
    remove("alone/checkpoint.prev.h5");
    remove("alone/best.h5");
    assert_int_equal(rename("alone", "moved"), 0);
    run(0, "verify moved");
    remove("moved/quantized.h5");
    assert_has(run(2, "verify moved").err, "nibble convert moved");
}

static void test_older_files_are_refused(void **state) {
    (void)state;
    text_file("old.yaml", CNN);
    run(0, "train old.yaml --out old quant.bits=4");
    run(0, "convert old");
    Error err = {0};
    H5Writer *w = h5_write_begin("old/quantized.h5", 0, program_arena, &err);
    h5_write_int(w, "", "format_version", 1);
    assert_true(h5_write_commit(w, NULL, &err));
    assert_has(run(2, "verify old").err,
               "old/quantized.h5: format version 1; this nibble reads packed models of version 2: "
               "run 'nibble convert' again");
}

/* The same weights give the same file. */
static void test_convert_repeats(void **state) {
    (void)state;
    text_file("twice.yaml", CNN);
    run(0, "train twice.yaml --out twice quant.bits=3");
    run(0, "convert twice");
    file_copy("twice/quantized.h5", "first.h5");
    run(0, "convert twice --threads 2");
    assert_files_equal("twice/quantized.h5", "first.h5");
}

/* ---- Flipped bits ---- */

static void flip_in_place(const char *path, long at, int bit) {
    size_t bytes;
    unsigned char *content = file_read(path, &bytes);
    assert_true(at < (long)bytes);
    content[at] ^= (unsigned char)(1 << bit);
    file_write(path, content, bytes);
}

static void test_damage_is_refused(void **state) {
    (void)state;
    text_file("flip.yaml", CNN);
    run(0, "train flip.yaml --out damaged quant.bits=4");
    run(0, "convert damaged");
    size_t bytes;
    file_copy("damaged/quantized.h5", "good.h5");
    file_read("good.h5", &bytes);
    for (int i = 0; i < 8; i++) {
        file_copy("good.h5", "damaged/quantized.h5");
        flip_in_place("damaged/quantized.h5", (long)(bytes * (size_t)i / 8) + 1, i);
        assert_has(run(2, "verify damaged").err, "damaged");
        assert_has(run(2, "inspect damaged/quantized.h5").err, "damaged");
    }
    file_write("damaged/quantized.h5", file_read("good.h5", &bytes), bytes / 2);
    assert_has(run(2, "verify damaged").err, "cut short");
    file_copy("good.h5", "damaged/quantized.h5");
    run(0, "verify damaged");
    file_copy("damaged/best.h5", "damaged/quantized.h5"); /* of ours, but another kind of file */
    assert_has(run(2, "verify damaged").err, "damaged/quantized.h5");
}

static void test_flipped_bits_are_caught(void **state) {
    (void)state;
    text_file("flip.yaml", CNN);
    run(0, "train flip.yaml --out flipped quant.bits=4");
    run(0, "convert flipped");
    file_copy("flipped/quantized.h5", "good.h5");
    static const Flip flips[] = {
        {"weights/conv1/codes", 3, 0, false},     {"weights/conv2/codes", 50, 4, false},
        {"weights/classes/codes", 7, 5, false},   {"weights/conv1/scales", 0, 0, false},
        {"weights/hidden/scales", 4, 1, false},   {"weights/classes/scales", 8, 0, false},
        {"weights/classes/bias", 2, 4, false},    {"edges/pool1.out4/scales", 0, 0, false},
        {"edges/input.out4/scales", 0, 2, false}, {"input/mean", 1, 7, false},
    };
    file_copy("flipped/logits.h5", "logits.h5");
    int code_differences = 0, scale_differences = 0;
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        /* By the digest, even where a dead unit, or the rounding behind a layer, keeps the logits
         * as they were; */
        reseal_flipped("good.h5", "flipped/quantized.h5", flips[i]);
        assert_has(run(1, "verify flipped").err, "is not the file that convert wrote");
        /* and by the logits, were it the file that was recorded. */
        const char *digest = digest_of("flipped/quantized.h5");
        reseal_edited("logits.h5", "flipped/logits.h5",
                      (Edit){"packed_digest", NULL, digest, 0, false});
        Result result = program_run((Start){0}, "verify flipped");
        file_copy("logits.h5", "flipped/logits.h5");
        if (!strstr(result.err, "logits differ")) continue;
        assert_int_equal(result.code, 1);
        code_differences += strstr(flips[i].object, "codes") != NULL;
        scale_differences += strstr(flips[i].object, "scales") != NULL;
    }
    assert_true(code_differences > 0);
    assert_true(scale_differences > 0);
    /* and in the record that it is compared with */
    file_copy("good.h5", "flipped/quantized.h5");
    run(0, "verify flipped");
    reseal_flipped("logits.h5", "flipped/logits.h5", (Flip){"logits", 403, 0, false});
    assert_has(run(1, "verify flipped").err, "1 of 400 logits differ");
}

/* Numbers that no convert writes, in a file whose digest is right. */
static void test_impossible_numbers_are_refused(void **state) {
    (void)state;
    text_file("flip.yaml", CNN);
    run(0, "train flip.yaml --out impossible quant.bits=4");
    run(0, "convert impossible");
    file_copy("impossible/quantized.h5", "good.h5");
    static const struct {
        Flip flip;
        const char *message;
    } refused[] = {
        {{"weights/conv1/scales", 3, 7, false},
         "impossible/quantized.h5: weights/conv1: scale 0 is -"},
        {{"edges/input.out4/scales", 3, 7, false}, "edges/input.out4: scale 0 is -"},
        {{"input/deviation", 3, 7, false}, "input/deviation: number 0 is -"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        reseal_flipped("good.h5", "impossible/quantized.h5", refused[i].flip);
        assert_has(run(2, "verify impossible").err, refused[i].message);
    }
}

/* Attributes, texts and objects that no convert writes. */
static void test_impossible_parts_are_refused(void **state) {
    (void)state;
    text_file("edit.yaml", CNN);
    run(0, "train edit.yaml --out edited quant.bits=4 data.class_names=[a,b,c,d]");
    run(0, "convert edited");
    file_copy("edited/quantized.h5", "good.h5");
    static const struct {
        Edit edit;
        const char *message;
    } refused[] = {
        {{"weights/conv1", "bits", NULL, 9, false}, "weights/conv1: bits is 9, expected 1 to 8"},
        {{"weights/conv1", "scale_dtype", NULL, 3, false}, "scale_dtype is 3, expected 0 to 2"},
        {{"weights/conv1", "base", NULL, 1, false}, "weights/conv1: levels of base 1 and step 1"},
        {{"weights/conv1", "dim0", NULL, 0, false}, "weights/conv1: dim0 is 0, expected 1 to"},
        {{"weights/conv1", "dim0", NULL, 8, false}, "weights/conv1/codes"},
        {{"weights/conv1", "run_length", NULL, 99, false}, "weights/conv1: run_length is 99"},
        {{"weights/conv1", "run_length", NULL, 4, false}, "weights/conv1/scales"},
        {{"weights/conv1/codes", NULL, NULL, 0, false}, "weights/conv1/codes"},
        {{"weights/conv1", NULL, NULL, 0, false},
         "norm1 is folded into conv1, which is not packed"},
        {{"weights/classes", NULL, NULL, 0, false},
         "params/classes.weight is missing, and the layer has no packed weight"},
        {{"edges/input.out4", "affine", NULL, 1, false},
         "edges/input.out4: affine is 1, but zeros are missing"},
        {{"edges/input.out4", NULL, NULL, 0, false},
         "conv1 names the edge 'input.out4', of which nothing is stored"},
        {{"input", "classes", NULL, 1, false}, "input: classes is 1, expected 2 to"},
        {{"input", "height", NULL, 0, false}, "input: height is 0, expected 1 to"},
        {{"class_names", NULL, "a\nb\nc\n", 0, false}, "class_names: 3 lines for 4 classes"},
        {{"model", NULL, "layers: [{kind: convolve}]\n", 0, false}, "model:1:"},
        {{"model", NULL, "layers: [\n", 0, false}, "model:"},
        {{"model", NULL, "layers: []\nmore: 1\n", 0, false}, "model:2:1: "},
        {{"model", NULL, NULL, 0, false}, "model"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        reseal_edited("good.h5", "edited/quantized.h5", refused[i].edit);
        const char *message = run(2, "verify edited").err;
        assert_has(message, "edited/quantized.h5");
        assert_has(message, refused[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_finds_no_difference),
        cmocka_unit_test(test_verify_needs_no_masters),
        cmocka_unit_test(test_older_files_are_refused),
        cmocka_unit_test(test_impossible_numbers_are_refused),
        cmocka_unit_test(test_impossible_parts_are_refused),
        cmocka_unit_test(test_convert_repeats),
        cmocka_unit_test(test_damage_is_refused),
        cmocka_unit_test(test_flipped_bits_are_caught),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
