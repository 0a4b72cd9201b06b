/* `nibble plan`: what it says is what a run then measures; and runs that cannot fit. */
#include "tests/program.h"

#include <math.h>

#include "data/sandbox.h"

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "train: {epochs: 2}\n"

/* Activations outweigh everything else here. */
#define CNN                                                                                        \
    "model: {kind: cnn, widths: [32, 32], hidden: 16}\n"                                           \
    "data: {kind: synthetic, height: 20, width: 20, classes: 4, train: 600, test: 60, "            \
    "validation: 60, batch: 250, eval_batch: 60, noise: 0.4}\n" PROGRAM_OPTIMIZER                  \
    "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}]}\n"                                \
    "train: {epochs: 2, steps: 3}\n"

/* Blocks outweigh everything else. */
#define DEEP                                                                                       \
    "model: {kind: resnet, depth: 20, widths: [32, 32, 32]}\n"                                     \
    "data: {kind: synthetic, height: 20, width: 20, classes: 4, train: 600, test: 60, "            \
    "validation: 60, batch: 100, eval_batch: 60}\n" PROGRAM_OPTIMIZER "train: {epochs: 2}\n"

/* More than a machine has: 2^16 images of 12 x 12 pixels and 2^12 channels, f32, are 144 GiB, and a
 * step keeps several such. */
#define GIANT                                                                                      \
    "model: {kind: cnn, widths: [4096, 4], hidden: 4}\n"                                           \
    "data: {kind: synthetic, height: 12, width: 12, classes: 4, train: 66000, test: 60, "          \
    "validation: 60, batch: 65536, eval_batch: 60}\n" PROGRAM_OPTIMIZER

enum { BATCH = 32, INPUTS = 8 * 8, UNITS = 16, CLASSES = 4 }; /* of MLP */

static const char *const kinds[] = {"process",
                                    "data",
                                    "masters",
                                    "optimizer",
                                    "gradients",
                                    "activations",
                                    "activation_gradients",
                                    "scratch",
                                    "teacher",
                                    "evaluation"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static Json *plan(const char *file, const char *overrides) {
    return json_of(run(0, "plan %s --json %s", file, overrides).out);
}

static double peak_of(const Json *json, const char *kind) {
    return number_of(json, format("peak.%s", kind));
}

static const Json *layer_of(const Json *json, const char *name) {
    const Json *found = NULL;
    for (int i = 0; i < json_count(json, "layers"); i++) {
        const Json *row = json_element(json, "layers", i);
        if (!strcmp(json_get_text(row, "name"), name)) found = row;
    }
    if (!found) fail_msg("no layer %s", name);
    return found;
}

static void assert_number(const Json *json, const char *path, double expected) {
    double value = number_of(json, path);
    if (value != expected) fail_msg("%s is %.17g, not %.17g", path, value, expected);
}

/* ---- What it says ---- */

/* 64-16-4: every weight takes part in three products, but the first layer's input has no gradient.
 * The momentum is a float per parameter, the count of updates one per tensor. */
static void test_figures_of_an_mlp(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    Json *json = plan("mlp.yaml", "");
    double first = INPUTS * UNITS, last = UNITS * CLASSES;
    double parameters = 4 * (first + UNITS + last + CLASSES);
    assert_number(json, "step.flops", 2.0 * BATCH * (3 * (first + last) - first));
    assert_true(number_of(json, "step.seconds") > 0);
    assert_int_equal(json_count(json, "parameters"), 1);
    const Json *all = json_element(json, "parameters", 0);
    assert_string_equal(json_get_text(all, "dtype"), "f32");
    assert_number(all, "count", parameters / 4);
    assert_number(all, "bytes", parameters);
    assert_true(peak_of(json, "masters") == parameters);
    assert_true(peak_of(json, "gradients") == parameters);
    assert_true(peak_of(json, "optimizer") == parameters + 4 * sizeof(float));
    const Json *layer = layer_of(json, "classes");
    assert_int_equal(json_count(layer, "shape"), 2);
    assert_number(layer, "shape.0", BATCH);
    assert_number(layer, "shape.1", CLASSES);
    assert_number(layer, "weight_bits", 32);
    assert_number(layer, "activation_bits", 32);
    assert_number(layer, "flops", 2.0 * BATCH * 3 * last);
    assert_number(layer, "parameter_bytes", 4 * (last + CLASSES));
    json_free(json);
}

/* Of a large weight two codes per element and two scales per 256 of them, f32 of all else. */
static void test_state_in_8_bits(void **state) {
    (void)state;
    enum { WIDE = 80, LARGE = INPUTS * WIDE, REST = WIDE + WIDE * CLASSES + CLASSES };
    text_file("mlp.yaml", "model: {kind: mlp, widths: [80]}\n" PROGRAM_DATA
                          "optimizer: {kind: adamw, state_bits: 8}\n");
    Json *json = plan("mlp.yaml", "");
    assert_true(peak_of(json, "optimizer") == 2 * (LARGE + 4 * LARGE / 256 + 4 * REST) + 4 * 4);
    json_free(json);
}

static void test_kinds_make_up_the_peak(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    Json *json = plan("cnn.yaml", "quant.bits=32 quant.rules=[]");
    double sum = 0, kept = 0;
    for (int i = 0; i < KINDS; i++) sum += peak_of(json, kinds[i]);
    assert_true(peak_of(json, "total") == sum);
    for (int i = 0; i < json_count(json, "layers"); i++)
        kept += number_of(json_element(json, "layers", i), "kept_bytes");
    /* the loss itself belongs to no layer: a scalar, in a cache line */
    assert_true(peak_of(json, "activations") == kept + ARENA_ALIGNMENT);
    bool fits = false;
    assert_true(json_get_bool(json, "fits", &fits) && fits);
    assert_true(number_of(json, "available") > sum);
    json_free(json);
}

/* What it says is what the records of a training take, which test_recompute has. */
static void test_recomputation(void **state) {
    (void)state;
    text_file("deep.yaml", DEEP);
    Json *all = plan("deep.yaml", ""), *less = plan("deep.yaml", "train.recompute=block");
    assert_true(peak_of(less, "activations") < 0.5 * peak_of(all, "activations"));
    assert_true(peak_of(less, "activation_gradients") >= 0);
    assert_true(peak_of(less, "total") < peak_of(all, "total"));
    const Json *was = layer_of(all, "stage1_block1.main.conv2");
    const Json *is = layer_of(less, "stage1_block1.main.conv2");
    assert_true(number_of(was, "kept_bytes") > 0 && number_of(is, "kept_bytes") == 0);
    json_free(all);
    json_free(less);
    text_file("cnn.yaml", CNN);
    assert_has(run(2, "plan cnn.yaml train.recompute=block").err,
               "train.recompute is block, but no layer of the model is a block (decoder_block, "
               "residual): set it to "
               "none, or data.batch lower");
    assert_has(run(2, "plan cnn.yaml train.recompute=blocks").err, "did you mean 'block'");
}

static void test_packed_bytes(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    Json *json = plan("cnn.yaml", "quant.bits=32 quant.rules=[]");
    assert_true(number_of(json, "packed.bits_per_weight") == 32);
    double bytes = number_of(json, "packed.bytes");
    json_free(json);
    json = plan("cnn.yaml", "quant.bits=8 quant.rules=[] quant.weights.bits=1.58");
    double bits = number_of(json, "packed.bits_per_weight");
    assert_true(bits > 1.6 && bits < 4 && number_of(json, "packed.bytes") < bytes / 4);
    assert_true(number_of(json_element(json, "layers", 0), "weight_bits") == 1.58);
    json_free(json);
    const char *out =
        run(0, "plan cnn.yaml quant.bits=8 quant.rules=[] quant.weights.bits=1.58").out;
    assert_has(out, "1.58 lsq");
    assert_has(out, format("%.2f bits a weight, scales counted", bits));
}

static void test_settings_count(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    Json *once = plan("cnn.yaml", ""), *twice = plan("cnn.yaml", "train.accumulate=2");
    Json *small = plan("cnn.yaml", "data.batch=125 optimizer.ema=0.9");
    Json *wide = plan("cnn.yaml", "data.batch=4 data.eval_batch=60");
    assert_number(layer_of(once, "conv1"), "weight_bits", 8);
    assert_number(layer_of(once, "conv2"), "weight_bits", 4);
    assert_number(layer_of(once, "conv2"), "activation_bits", 4);
    assert_string_equal(json_get_text(layer_of(once, "conv2"), "weight_quantizer"), "lsq");
    assert_number(twice, "step.flops", 2 * number_of(once, "step.flops"));
    assert_true(peak_of(twice, "activations") == peak_of(once, "activations"));
    double half = peak_of(small, "activations") / peak_of(once, "activations");
    if (!(half > 0.49 && half < 0.51)) fail_msg("half a batch keeps %g of the values", half);
    double weights = peak_of(once, "gradients");
    assert_true(peak_of(small, "optimizer") == peak_of(once, "optimizer") + weights);
    /* evaluations of 60 images outweigh steps of 4 */
    assert_true(peak_of(wide, "evaluation") > 2 * peak_of(wide, "activations"));
    json_free(once);
    json_free(twice);
    json_free(small);
    json_free(wide);
}

/* ---- What a run measures ---- */

/* Within a tenth, and as much as a small process varies from run to run. */
static void assert_measured(const char *file, const char *overrides, double slack) {
    Json *json = plan(file, overrides);
    double planned = peak_of(json, "total");
    json_free(json);
    run(0, "train %s --out measured --force %s", file, overrides);
    json = json_of(file_text("measured/summary.json"));
    double measured = number_of(json, "peak_rss_bytes");
    json_free(json);
    if (!(fabs(planned - measured) <= 0.1 * measured + slack))
        fail_msg("%s %s: planned %.1f MiB, measured %.1f", file, overrides, planned / 1048576,
                 measured / 1048576);
}

static void test_peak_is_what_a_run_measures(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip(); /* a sanitizer's memory comes on top */
    text_file("cnn.yaml", CNN);
    const char *shipped = format("%s/configs/synthetic_cnn_w4a4.yaml", program_source_root);
    assert_measured(shipped, "train.steps=20", 2 << 20);
    assert_measured("cnn.yaml", "", 0);
    assert_measured("cnn.yaml", "quant.bits=32 quant.rules=[]", 0);
    assert_measured("cnn.yaml", "precision=f16", 0);
    assert_measured("cnn.yaml", "data.batch=8 data.eval_batch=300 data.test=300", 0);
    text_file("deep.yaml", DEEP);
    assert_measured("deep.yaml", "train.recompute=block train.steps=3", 0);
    run(0, "train cnn.yaml --out teacher quant.bits=32 quant.rules=[] train.steps=1");
    assert_measured("cnn.yaml", "train.distill.teacher=teacher", 0);
}

static void test_nothing_is_written(void **state) {
    (void)state;
    mkdir("alone", 0777);
    text_file("alone/mlp.yaml", MLP);
    run(0, "plan alone/mlp.yaml");
    assert_int_equal(files_with("alone", ""), 3); /* with . and .. */
    assert_int_equal(files_with(".", "h5"), 0);
}

/* ---- What cannot fit ---- */

static void test_giants_are_refused(void **state) {
    (void)state;
    text_file("giant.yaml", GIANT);
    Result result = run(2, "train giant.yaml --out giant");
    assert_has(result.err, "giant.yaml:2:");
    assert_has(result.err, "this training needs ");
    assert_has(result.err, " GiB of memory, and there are ");
    assert_has(result.err, "lower data.batch");
    assert_false(file_exists("giant"));
    Json *json = plan("giant.yaml", "");
    bool fits = true;
    double seconds;
    assert_true(json_get_bool(json, "fits", &fits) && !fits);
    assert_false(json_get_number(json, "step.seconds", &seconds));
    assert_true(peak_of(json, "activations") > 65536.0 * 12 * 12 * 4096 * 4);
    json_free(json);
    assert_has(run(0, "plan giant.yaml").out, "does not fit: there are ");
}

/* Before they are made: a process that takes the machine's last memory is killed, with others. */
static void test_giant_weights_are_refused(void **state) {
    (void)state;
    text_file("weights.yaml",
              "model: {kind: mlp, widths: [65536, 65536, 65536, 65536, 65536, 65536, "
              "65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536]}\n"
              "data: {kind: synthetic}\n");
    Result result = run(2, "train weights.yaml --out giant");
    assert_has(result.err, "weights.yaml:1:8: the model's 5.5");
    assert_has(result.err, "make the model smaller");
    assert_false(file_exists("giant"));
}

/* ---- The table, and bad input ---- */

static void test_table(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    Result result = run(0, "plan cnn.yaml");
    static const char *const parts[] = {"layer ",
                                        "conv1 ",
                                        "[250, 20, 20, 32]",
                                        "8 lsq",
                                        "4 lsq",
                                        "\nf32      trained ",
                                        "\nf32      not trained ",
                                        "peak of memory",
                                        "activation_gradients",
                                        "total",
                                        "A training step: ",
                                        "an estimate"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_has(result.out, parts[i]);
    assert_has(result.err, "data: 600 training and 60 test images of 20 x 20 x 1");
    assert_string_equal(strchr(result.err, '\n'), "\n"); /* and nothing else */
    const char *help = run(0, "help plan").out;
    assert_has(help, "nibble plan CONFIG [key=value ...] [--json]");
    assert_has(help, "--threads N");
}

static void test_bad_input(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    assert_has(run(2, "plan").err, "usage: nibble plan CONFIG");
    assert_has(run(2, "plan nowhere.yaml").err, "nowhere.yaml");
    assert_has(run(2, "plan mlp.yaml data.bathc=3").err, "did you mean");
    assert_has(run(2, "plan mlp.yaml --jsn").err, "unknown option '--jsn'");
    assert_has(run(2, "plan mlp.yaml train.epochs=0").err, "nothing to train");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures_of_an_mlp),
        cmocka_unit_test(test_state_in_8_bits),
        cmocka_unit_test(test_kinds_make_up_the_peak),
        cmocka_unit_test(test_recomputation),
        cmocka_unit_test(test_packed_bytes),
        cmocka_unit_test(test_settings_count),
        cmocka_unit_test(test_peak_is_what_a_run_measures),
        cmocka_unit_test(test_nothing_is_written),
        cmocka_unit_test(test_giants_are_refused),
        cmocka_unit_test(test_giant_weights_are_refused),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
