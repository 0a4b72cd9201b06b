/* Preparing: which edges of a graph get a quantizer, of how many bits, signed or not, and who reads
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/prepare_cases.h"

/* ---- Edges of the built-in models. ---- */

static void edges_of_the_cnn(void **state) {
    (void)state;
    static const Case cases[] = {
        {"{kind: cnn, widths: [4, 6], hidden: 5}", "{bits: 4}",
         "input > conv1 4s; pool1 > conv2 4u; flatten > hidden 4u; relu_hidden > classes 4u; ",
         "conv1 4 +norm1; conv2 4 +norm2; hidden 4; classes 4; "},
        {"{kind: cnn, widths: [4, 6], hidden: 5}",
         "{bits: 4, rules: [{layers: \"first, last\", bits: 8}]}",
         "input > conv1 8s; pool1 > conv2 4u; flatten > hidden 4u; relu_hidden > classes 8u; ",
         "conv1 8 +norm1; conv2 4 +norm2; hidden 4; classes 8; "},
        {"{kind: cnn, widths: [4, 6], hidden: 5}", "{}", "",
         "conv1 -; conv2 -; hidden -; classes -; "},
        {"{kind: cnn, widths: [4, 6], hidden: 5}", "{rules: [{layers: conv2, bits: 2}]}",
         "pool1 > conv2 2u; ", "conv1 -; conv2 2 +norm2; hidden -; classes -; "},
    };
    RUN_CASES(cases);
}

static void edges_of_a_resnet(void **state) {
    (void)state;
    static const Case cases[] = {
        {"{kind: resnet, depth: 8, widths: [4, 4, 6]}",
         "{bits: 4, rules: [{layers: \"first, last\", bits: 8}]}",
         "input > stem 8s; "
         "stem_relu > stage1_block1.main.conv1 4u; "
         "stage1_block1.main.relu1 > stage1_block1.main.conv2 4u; "
         "stage1_block1_relu > stage2_block1.main.conv1 stage2_block1.shortcut.conv 4u; "
         "stage2_block1.main.relu1 > stage2_block1.main.conv2 4u; "
         "stage2_block1_relu > stage3_block1.main.conv1 stage3_block1.shortcut.conv 4u; "
         "stage3_block1.main.relu1 > stage3_block1.main.conv2 4u; "
         "pool > classes 8u; "
         "stage1_block1.main.norm2 > stage1_block1.add 8s; "
         "stem_relu > stage1_block1.add 8u; "
         "stage2_block1.main.norm2 > stage2_block1.add 8s; "
         "stage2_block1.shortcut.norm > stage2_block1.add 8s; "
         "stage3_block1.main.norm2 > stage3_block1.add 8s; "
         "stage3_block1.shortcut.norm > stage3_block1.add 8s; "
         "stage3_block1_relu > pool 8u; ",
         "stem 8 +stem_norm; "
         "stage1_block1.main.conv1 4 +stage1_block1.main.norm1; "
         "stage1_block1.main.conv2 4 +stage1_block1.main.norm2; "
         "stage2_block1.main.conv1 4 +stage2_block1.main.norm1; "
         "stage2_block1.main.conv2 4 +stage2_block1.main.norm2; "
         "stage2_block1.shortcut.conv 4 +stage2_block1.shortcut.norm; "
         "stage3_block1.main.conv1 4 +stage3_block1.main.norm1; "
         "stage3_block1.main.conv2 4 +stage3_block1.main.norm2; "
         "stage3_block1.shortcut.conv 4 +stage3_block1.shortcut.norm; "
         "classes 8; "},
        /* Equal bits share the quantizer. */
        {"{kind: resnet, depth: 8, widths: [4, 4, 6]}", "{bits: 4, residual_bits: inherit}",
         "input > stem 4s; "
         "stem_relu > stage1_block1.main.conv1 stage1_block1.add 4u; "
         "stage1_block1.main.relu1 > stage1_block1.main.conv2 4u; "
         "stage1_block1_relu > stage2_block1.main.conv1 stage2_block1.shortcut.conv 4u; "
         "stage2_block1.main.relu1 > stage2_block1.main.conv2 4u; "
         "stage2_block1_relu > stage3_block1.main.conv1 stage3_block1.shortcut.conv 4u; "
         "stage3_block1.main.relu1 > stage3_block1.main.conv2 4u; "
         "pool > classes 4u; "
         "stage1_block1.main.norm2 > stage1_block1.add 4s; "
         "stage2_block1.main.norm2 > stage2_block1.add 4s; "
         "stage2_block1.shortcut.norm > stage2_block1.add 4s; "
         "stage3_block1.main.norm2 > stage3_block1.add 4s; "
         "stage3_block1.shortcut.norm > stage3_block1.add 4s; "
         "stage3_block1_relu > pool 4u; ",
         NULL},
    };
    RUN_CASES(cases);
}

static void edges_of_a_mobilenet(void **state) {
    (void)state;
    static const Case cases[] = {
        {"{kind: mobilenet, stem: 4, widths: [6], strides: [2]}",
         "{bits: 8, weights: {bits: 4}, rules: [{layers: \"last, depthwise\", weight_bits: 8}]}",
         "input > stem 8s; stem_relu > block1_depthwise 8u; block1_relu1 > block1_pointwise 8u; "
         "pool > classes 8u; ",
         "stem 4 +stem_norm; block1_depthwise 8 +block1_norm1; block1_pointwise 4 +block1_norm2; "
         "classes 8; "},
    };
    RUN_CASES(cases);
}

/* ---- Edges of graphs written out. ---- */

static void one_producer_serves_all_readers(void **state) {
    (void)state;
    static const Case cases[] = {
        /* Branches, concatenated: one edge in, one edge out. */
        {LAYERS("relu, branches: {branches: [" BRANCH(CONV(a)) ", " BRANCH(
             CONV(b) ", relu") ", " BRANCH("") "]}, " CONV(c)),
         "{bits: 4}",
         "relu1 > branches1.branch1.a branches1.branch2.b 4u; branches1 > c 4s; "
         "flatten1 > linear1 4s; ",
         NULL},
        /* What is concatenated was never negative. */
        {LAYERS("branches: {branches: [" BRANCH(CONV(a) ", relu") ", " BRANCH(
             "sigmoid") "]}, " CONV(c)),
         "{bits: 4}", "input > branches1.branch1.a 4s; branches1 > c 4u; flatten1 > linear1 4s; ",
         NULL},
        /* Branches, added: the partial sum is an input of the second add. */
        {LAYERS("relu, branches: {join: add, branches: [" BRANCH(CONV(a)) ", " BRANCH(
             "") ", " BRANCH(CONV(b)) "]}, relu, " CONV(c)),
         "{bits: 4}",
         "relu1 > branches1.branch1.a branches1.branch3.b 4u; relu2 > c 4u; "
         "flatten1 > linear1 4s; branches1.branch1.a > branches1.add1 8s; "
         "relu1 > branches1.add1 8u; branches1.add1 > branches1.add2 8s; "
         "branches1.branch3.b > branches1.add2 8s; ",
         NULL},
        /* Readers of other bits have a quantizer of their own. */
        {LAYERS("relu, branches: {branches: [" BRANCH(CONV(a)) ", " BRANCH(CONV(b)) "]}"),
         "{bits: 4, rules: [{layers: \"*.b\", bits: 2}]}",
         "relu1 > branches1.branch1.a 4u; relu1 > branches1.branch2.b 2u; flatten1 > linear1 4s; ",
         NULL},
    };
    RUN_CASES(cases);
}

static void what_lies_between_producer_and_consumer(void **state) {
    (void)state;
    static const Case cases[] = {
        {LAYERS(CONV(a) ", " CONV(b)), "{bits: 4}",
         "input > a 4s; a > b 4s; flatten1 > linear1 4s; ", "a 4; b 4; linear1 4; "},
        {LAYERS(CONV(a) ", relu, avg_pool, " CONV(b) ", relu6"), "{bits: 4}",
         "input > a 4s; avg_pool1 > b 4u; flatten1 > linear1 4u; ", NULL},
        {LAYERS(CONV(a) ", gelu, max_pool"), "{bits: 4}", "input > a 4s; flatten1 > linear1 4s; ",
         NULL},
        {LAYERS("sequential: {layers: [" CONV(a) ", sequential: {layers: [relu]}]}, " CONV(b)),
         "{bits: 4}",
         "input > sequential1.a 4s; sequential1.sequential1.relu1 > b 4u; flatten1 > linear1 4s; ",
         NULL},
    };
    RUN_CASES(cases);
}

static void residual_adds(void **state) {
    (void)state;
    static const Case cases[] = {
        /* The image itself is a shortcut. */
        {LAYERS("residual: {main: [" CONV(a) "]}, relu"), "{bits: 4}",
         "input > residual1.main.a 4s; flatten1 > linear1 4u; residual1.main.a > residual1.add 8s; "
         "input > residual1.add 8s; ",
         NULL},
        /* The sum has two readers: it is the stream, before the activation. */
        {LAYERS("relu, residual: {name: r, main: [" CONV(
             a) "]}, residual: {name: s, main: [relu, " CONV(b) "]}"),
         "{bits: 4}",
         "relu1 > r.main.a 4u; s.main.relu1 > s.main.b 4u; flatten1 > linear1 4s; "
         "r.main.a > r.add 8s; relu1 > r.add 8u; r.add > s.main.relu1 s.add 8s; "
         "s.main.b > s.add 8s; ",
         NULL},
        /* An add of an add; a silu is an activation too. */
        {LAYERS("residual: {name: r, main: [residual: {name: s, main: [" CONV(
             a) "]}], shortcut: [" CONV(b) "]}, silu, avg_pool"),
         "{bits: 4}",
         "input > r.main.s.main.a r.shortcut.b 4s; flatten1 > linear1 4s; "
         "r.main.s.main.a > r.main.s.add 8s; input > r.main.s.add 8s; r.main.s.add > r.add 8s; "
         "r.shortcut.b > r.add 8s; silu1 > avg_pool1 8s; ",
         NULL},
        {LAYERS("residual: {main: [" CONV(a) "]}, relu"), "{bits: 4, residual_bits: 32}",
         "input > residual1.main.a 4s; flatten1 > linear1 4u; ", NULL},
        /* Only weights are quantized: adds stay float too. */
        {LAYERS("residual: {main: [" CONV(a) "]}, relu"), "{bits: 4, activations: {bits: 32}}", "",
         "residual1.main.a 4; linear1 4; "},
        /* Both inputs are the same value. */
        {LAYERS(CONV(a) ", residual: {main: []}"), "{bits: 8}",
         "input > a 8s; flatten1 > linear1 8s; a > residual1.add residual1.add 8s; ", NULL},
    };
    RUN_CASES(cases);
}

/* Behind a sum the stream begins after any layer that says it is one. */
static void streams_go_through_activations(void **state) {
    (void)state;
    static const char *const known[] = {"relu", "relu6", "gelu", "silu", "sigmoid", "tanh"};
    const size_t known_count = sizeof known / sizeof *known;
    size_t found = 0;
    for (int i = 0; i < layer_kinds.count; i++) {
        const Layer *layer = (const Layer *)layer_kinds.kinds[i];
        const char *kind = layer->kind.name;
        bool is_known = false;
        for (size_t j = 0; j < known_count; j++) is_known = is_known || !strcmp(kind, known[j]);
        if (!(layer->flags & LAYER_IS_ACTIVATION)) continue;
        found += is_known;
        Qat *qat = prepare(
            arena_format(arena,
                         "model: {kind: sequential, layers: [residual: {main: [conv: {}]}, %s, "
                         "avg_pool, flatten, linear: {units: 3}]}\nquant: {bits: 4}\n",
                         kind));
        if (!strstr(edges_text(qat), arena_format(arena, "%s1 > avg_pool1 8", kind)))
            fail_msg("%s: %s", kind, edges_text(qat));
    }
    assert_int_equal(found, known_count);
}

/* In evaluation a dropout is its input; in training its values are larger. */
static void quantizers_come_before_a_dropout(void **state) {
    (void)state;
    static const Case cases[] = {
        {"{kind: cnn, widths: [4], hidden: 5, dropout: 0.5}", "{bits: 4}",
         "input > conv1 4s; flatten > hidden 4u; relu_hidden > classes 4u; ", NULL},
    };
    Qat *qat =
        prepare(arena_format(arena, "model: %s\nquant: %s\n", cases[0].model, cases[0].quant));
    assert_string_equal(edges_text(qat), cases[0].edges);
    const Module *dropout = model_find_module(qat->model, "dropout1");
    const Module *hidden = model_find_module(qat->model, "hidden");
    assert_ptr_equal(dropout->inputs[0].self, qat_find_site(qat, hidden)->input);
    assert_null(hidden->inputs[0].apply);
    Tensor x = batch_of(qat->model, 3, 1);
    train_step(qat->model, tape, x, 0.01f);
    logits_of(qat->model, tape, x);
    assert_products_read_levels(qat);
    /* Through a reshape; and after the dropout where others read its output too. */
    static const Case others[] = {
        {LAYERS(CONV(a) ", relu, dropout"), "{bits: 4}", "input > a 4s; relu1 > linear1 4u; ",
         NULL},
        {LAYERS(CONV(a) ", relu, dropout, residual: {main: [" CONV(b) "]}"),
         "{bits: 4, residual_bits: 32}",
         "input > a 4s; dropout1 > residual1.main.b 4u; flatten1 > linear1 4s; ", NULL},
    };
    for (int i = 0; i < 2; i++) {
        qat = prepare(
            arena_format(arena, "model: %s\nquant: %s\n", others[i].model, others[i].quant));
        assert_string_equal(edges_text(qat), others[i].edges);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(edges_of_the_cnn),
        TEST(edges_of_a_resnet),
        TEST(edges_of_a_mobilenet),
        TEST(one_producer_serves_all_readers),
        TEST(what_lies_between_producer_and_consumer),
        TEST(residual_adds),
        TEST(streams_go_through_activations),
        TEST(quantizers_come_before_a_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
