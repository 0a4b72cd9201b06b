/* Preparing: which edges and weights are quantized and how, what is folded, phases, reports, and
 * what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#include "autograd/layers.h"
#include "core/log.h"
#include "tests/model_source.h"

static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

enum { CLASSES = 3 };

/* A prepared model for images [8, 8, 2]. */
static Qat *prepare(const char *text) {
    ModelSource source = model_source(text);
    return qat_of(&source, model_of(&source, SHAPE(8, 8, 2), CLASSES, 1));
}

/* "producer > reader reader 4u; ...": the bits, and whether signed or unsigned. */
static const char *edges_text(const Qat *qat) {
    const char *text = "";
    for (int i = 0; i < qat->edge_count; i++) {
        const Edge *edge = &qat->edges[i];
        const QuantSpec *spec = &edge->quant->spec;
        text = arena_format(arena, "%s%s >", text, edge->producer);
        for (int j = 0; j < edge->reader_count; j++)
            text = arena_format(arena, "%s %s", text, edge->readers[j]);
        text = arena_format(arena, "%s %d%c; ", text, spec->bits, spec->is_signed ? 's' : 'u');
    }
    return text;
}

/* "layer 4 +norm; ...": the bits and the norm that is folded; "-" where the weight stays float. */
static const char *weights_text(const Qat *qat) {
    const char *text = "";
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        const char *bits = site->quant ? arena_format(arena, "%d", site->quant->spec.bits) : "-";
        const char *norm = site->norm ? arena_format(arena, " +%s", site->norm->name) : "";
        text = arena_format(arena, "%s%s %s%s; ", text, site->module->name, bits, norm);
    }
    return text;
}

typedef struct Case {
    const char *model, *quant, *edges, *weights;
} Case;

/* Products in evaluation and training read levels of the bits that the site says. */
static void assert_products_read_levels(const Qat *qat) {
    for (int i = 0; i < tape->count; i++) {
        const Var *v = tape->vars[i];
        const Module *module = model_find_module(qat->model, v->scope);
        if (!v->op || (v->op != &op_row_conv2d && v->op != &op_row_linear)) continue;
        const WeightSite *site = qat_find_site(qat, module);
        const Scales *x = v->in[0]->value.scales, *w = v->in[1]->value.scales;
        assert_true((w != NULL) == (site->quant != NULL));
        assert_true(!w || w->grid.bits == site->quant->spec.bits);
        assert_true(!site->input || (x && x->grid.bits == site->input->spec.bits));
    }
}

static void run_case(const Case *c) {
    Qat *qat = prepare(arena_format(arena, "model: %s\nquant: %s\n", c->model, c->quant));
    assert_string_equal(edges_text(qat), c->edges);
    if (c->weights) assert_string_equal(weights_text(qat), c->weights);
    Tensor x = batch_of(qat->model, 3, 1);
    train_step(qat->model, tape, x, 0.01f);
    logits_of(qat->model, tape, x);
    assert_products_read_levels(qat);
}

static void run_cases(const Case *cases, size_t count) {
    for (size_t i = 0; i < count; i++) run_case(&cases[i]);
}
#define RUN_CASES(cases) run_cases(cases, sizeof(cases) / sizeof *(cases))

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

#define LAYERS(text)   "{kind: sequential, layers: [" text ", flatten, linear: {units: 3}]}"
#define CONV(name)     "conv: {name: " #name "}"
#define BRANCH(layers) "{layers: [" layers "]}"

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

/* ---- Folding. ---- */

static void only_a_norm_that_alone_reads_is_folded(void **state) {
    (void)state;
    static const Case cases[] = {
        {LAYERS(CONV(a) ", batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4 +batch_norm1; linear1 4; "},
        {LAYERS(CONV(a) ", residual: {main: [batch_norm]}"), "{bits: 4, activations: {bits: 32}}",
         "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", branches: {branches: [" BRANCH("batch_norm") ", " BRANCH("relu") "]}"),
         "{bits: 4, activations: {bits: 32}}", "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", branches: {branches: [" BRANCH("batch_norm") ", " BRANCH(
             "batch_norm") "]}"),
         "{bits: 4, activations: {bits: 32}}", "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", relu, batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", dropout, batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4; linear1 4; "},
        {LAYERS("flatten, linear: {name: l, units: 4}, batch_norm"),
         "{bits: 4, activations: {bits: 32}}", "", "l 4 +batch_norm1; linear2 4; "},
        {LAYERS(CONV(a) ", batch_norm"), "{bits: 4, rules: [{layers: a, weight_bits: 32}]}",
         "input > a 4s; flatten1 > linear1 4s; ", "a -; linear1 4; "},
    };
    RUN_CASES(cases);
}

static void a_folded_norm_is_joined_and_no_other(void **state) {
    (void)state;
    Qat *qat =
        prepare("model: " LAYERS(CONV(a) ", batch_norm, relu, batch_norm") "\n"
                                                                           "quant: {bits: 8}\n");
    assert_true(batch_norm_is_joined(model_find_module(qat->model, "batch_norm1")));
    assert_false(batch_norm_is_joined(model_find_module(qat->model, "batch_norm2")));
}

/* ---- Rules. ---- */

static void rules_name_layers(void **state) {
    (void)state;
    static const char model[] = "{kind: cnn, widths: [4, 6], hidden: 5}";
    const Case cases[] = {
        {model,
         "{bits: 8, activations: {bits: 32}, rules: [{layers: \"conv*\", bits: 4}, "
         "{layers: conv2, weight_bits: 2}]}",
         "input > conv1 4s; pool1 > conv2 4u; ",
         "conv1 4 +norm1; conv2 2 +norm2; hidden 8; classes 8; "},
        {model, "{bits: 4, rules: [{layers: linear, bits: 32}]}",
         "input > conv1 4s; pool1 > conv2 4u; ",
         "conv1 4 +norm1; conv2 4 +norm2; hidden -; classes -; "},
        {model, "{bits: 4, rules: [{layers: \" hidden ,conv1\", activation_bits: 8}]}",
         "input > conv1 8s; pool1 > conv2 4u; flatten > hidden 8u; relu_hidden > classes 4u; ",
         "conv1 4 +norm1; conv2 4 +norm2; hidden 4; classes 4; "},
        {model, "{bits: 4, rules: [{layers: last, bits: 8}, {layers: \"*\", bits: 3}]}",
         "input > conv1 3s; pool1 > conv2 3u; flatten > hidden 3u; relu_hidden > classes 3u; ",
         "conv1 3 +norm1; conv2 3 +norm2; hidden 3; classes 3; "},
        {model, "{bits: 4, rules: [{layers: \"c?asses\", bits: 8}]}",
         "input > conv1 4s; pool1 > conv2 4u; flatten > hidden 4u; relu_hidden > classes 8u; ",
         NULL},
    };
    RUN_CASES(cases);
}

static const char *prepare_error(const char *text, Shape input) {
    ModelSource source = model_source(text);
    Qat *qat = NULL;
    Error *err = arena_new_array(arena, Error, 1);
    if (qat_prepare(model_of(&source, input, CLASSES, 1), &source.quant, arena, &qat, err))
        fail_msg("was accepted: %s", text);
    assert_int_equal(err->code, ERROR_INPUT);
    return err->message;
}

typedef struct Refusal {
    const char *quant, *message;
} Refusal;

static void what_cannot_be_done_is_refused(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"{bits: 4, rules: [{layers: first, bits: 8}, {layers: \"last, conw2\", bits: 8}]}",
         "quant.rules.1: no layer with weights matches 'conw2'; did you mean 'conv2'?"},
        {"{bits: 4, rules: [{layers: relu1, bits: 8}]}",
         "quant.rules.0: no layer with weights matches 'relu1'; the first is 'conv1'"},
        {"{bits: 4, rules: [{layers: depthwise, bits: 8}]}",
         "quant.rules.0: no layer with weights matches 'depthwise'; the first is 'conv1'"},
        {"{bits: 4, rules: [{layers: \" , \", bits: 8}]}", "quant.rules.0: layers names nothing"},
        {"{bits: inherit}", "quant.bits has nothing to inherit from; give 2 to 8, or 32"},
        {"{bits: 8, activations: {granularity: token, quantizer: minmax}}",
         "input of conv1: input.out8 is an image: scales per token are for the inputs of linear "
         "layers"},
        {"{bits: 8, activations: {quantizer: pact}}",
         "input of conv1: quantizer 'pact' clips to [0, alpha] but input.out8 is signed: use 'lsq' "
         "there"},
        {"{bits: 8, weights: {quantizer: pact}}",
         "quantizer 'pact' is for activations, not for the weight conv1.weight"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text = arena_format(arena, "model: {kind: cnn, widths: [4, 6]}\nquant: %s\n",
                                        refusals[i].quant);
        assert_string_equal(prepare_error(text, SHAPE(8, 8, 1)), refusals[i].message);
    }
}

/* A convolution over one channel is not depthwise, though its weight has one input channel. */
static void depthwise_needs_more_than_one_channel(void **state) {
    (void)state;
    ModelSource source =
        model_source("model: {kind: mobilenet, stem: 4, widths: [6], strides: [2]}\n"
                     "quant: {bits: 4, rules: [{layers: depthwise, bits: 8}]}\n");
    Qat *qat = qat_of(&source, model_of(&source, SHAPE(8, 8, 1), CLASSES, 1));
    assert_string_equal(weights_text(qat), "stem 4 +stem_norm; block1_depthwise 8 +block1_norm1; "
                                           "block1_pointwise 4 +block1_norm2; classes 4; ");
}

static void linear_layers_take_scales_per_token(void **state) {
    (void)state;
    Qat *qat = prepare("model: {kind: mlp, widths: [5]}\n"
                       "quant: {bits: 8, activations: {granularity: token, quantizer: minmax}}\n");
    for (int i = 0; i < qat->edge_count; i++) {
        assert_int_equal(qat->edges[i].quant->spec.granularity, GRANULARITY_TOKEN);
        assert_null(quant_freeze(qat->edges[i].quant, arena));
    }
    Tensor x = batch_of(qat->model, 3, 1);
    train_step(qat->model, tape, x, 0.01f);
    logits_of(qat->model, tape, x);
    assert_products_read_levels(qat);
}

/* ---- What is installed. ---- */

static void readers_share_the_quantizer_and_its_work(void **state) {
    (void)state;
    Qat *qat = prepare("model: " LAYERS("relu, branches: {branches: [" BRANCH(CONV(a)) ", " BRANCH(
        CONV(b)) "]}") "\nquant: {bits: 4}\n");
    const Module *a = model_find_module(qat->model, "branches1.branch1.a");
    const Module *b = model_find_module(qat->model, "branches1.branch2.b");
    assert_ptr_equal(qat_find_site(qat, a)->input, qat_find_site(qat, b)->input);
    assert_ptr_equal(a->inputs[0].self, b->inputs[0].self);
    logits_of(qat->model, tape, batch_of(qat->model, 2, 1));
    int fakes = 0;
    for (int i = 0; i < tape->count; i++)
        fakes += tape->vars[i]->op == &op_row_fake_quant && tape->vars[i]->in[0] == a->last_in[0];
    assert_int_equal(fakes, 1);
}

static void the_shadow_is_the_network_before(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: resnet, depth: 8, widths: [4, 4, 6]}\n"
                                      "quant: {bits: 4}\n");
    Model *model = model_of(&source, SHAPE(8, 8, 2), CLASSES, 1);
    Tensor x = batch_of(model, 3, 1);
    Tensor before = logits_of(model, tape, x);
    Qat *qat = qat_of(&source, model);
    assert_true(qat_is_active(qat));
    tape->is_float = true;
    assert_same_bits(logits_of(model, tape, x), before);
    tape->is_float = false;
    Tensor faked = logits_of(model, tape, x);
    assert_memory_not_equal(faked.data, before.data, sizeof(float) * (size_t)tensor_count(&before));
}

static void without_quantization_nothing_is_installed(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: resnet, depth: 8, widths: [4, 4, 6]}\n");
    Model *model = model_of(&source, SHAPE(8, 8, 2), CLASSES, 1);
    Tensor x = batch_of(model, 3, 1);
    int params = model->param_count;
    Tensor before = logits_of(model, tape, x);
    Qat *qat = qat_of(&source, model);
    assert_false(qat_is_active(qat));
    assert_int_equal(model->param_count, params);
    assert_same_bits(logits_of(model, tape, x), before);
}

/* ---- Phases. ---- */

typedef struct PhaseCase {
    const char *quant;
    int64_t step, total;
    bool is_faking, is_observing, is_frozen;
} PhaseCase;

static void phases_follow_the_step(void **state) {
    (void)state;
    static const PhaseCase cases[] = {
        {"{bits: 4}", 0, 100, true, true, false},
        {"{bits: 4}", 99, 100, true, true, false},
        {"{bits: 4, start: 0.25}", 24, 100, false, true, false},
        {"{bits: 4, start: 0.25}", 25, 100, true, true, false},
        {"{bits: 4, start: 3}", 2, 100, false, true, false},
        {"{bits: 4, start: 3}", 3, 100, true, true, false},
        {"{bits: 4, freeze_observers: 0.5}", 49, 100, true, true, false},
        {"{bits: 4, freeze_observers: 0.5}", 50, 100, true, false, false},
        {"{bits: 4, freeze_observers: 0}", 0, 100, true, false, false},
        {"{bits: 4, freeze_batch_norm: 0.8}", 79, 100, true, true, false},
        {"{bits: 4, freeze_batch_norm: 0.8}", 80, 100, true, true, true},
        {"{bits: 4, freeze_batch_norm: 7}", 6, 100, true, true, false},
        {"{bits: 4, freeze_batch_norm: 7}", 7, 100, true, true, true},
        {"{bits: 4, freeze_batch_norm: 1}", 100, 100, true, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const PhaseCase *c = &cases[i];
        Qat *qat =
            prepare(arena_format(arena, "model: {kind: cnn, widths: [2]}\nquant: %s\n", c->quant));
        qat_set_step(qat, c->step, c->total);
        assert_int_equal(qat->phase.is_faking, c->is_faking);
        assert_int_equal(qat->phase.is_observing, c->is_observing);
        assert_int_equal(qat->is_norm_frozen, c->is_frozen);
        qat_set_evaluation(qat);
        assert_true(qat->phase.is_faking && !qat->phase.is_observing);
    }
}

/* Running statistics move until the freeze and not after it, of norms that are folded or not; and
 * again when the step goes back. */
static void the_freeze_holds_for_every_norm(void **state) {
    (void)state;
    Qat *qat = prepare("model: " LAYERS(
        CONV(a) ", batch_norm, relu, batch_norm") "\n"
                                                  "quant: {bits: 8, freeze_batch_norm: 5}\n");
    Tensor x = batch_of(qat->model, 3, 1);
    static const int64_t steps[] = {4, 5, 9, 4};
    static const bool moves[] = {true, false, false, true};
    for (int i = 0; i < 4; i++) {
        qat_set_step(qat, steps[i], 10);
        for (int norm = 1; norm <= 2; norm++) {
            const char *name = arena_format(arena, "batch_norm%d.running_mean", norm);
            const float *mean = tensor_f32(&model_find_param(qat->model, name)->value);
            float before = mean[0];
            train_step(qat->model, tape, x, 0);
            assert_int_equal(mean[0] != before, moves[i]);
        }
    }
}

static void before_the_start_values_pass(void **state) {
    (void)state;
    Qat *qat = prepare("model: {kind: mlp, widths: [5]}\nquant: {bits: 2, start: 5}\n");
    Tensor x = batch_of(qat->model, 3, 1);
    qat_set_step(qat, 4, 10);
    Tensor waiting = logits_of(qat->model, tape, x);
    tape->is_float = true;
    assert_same_bits(waiting, logits_of(qat->model, tape, x));
    tape->is_float = false;
    qat_set_step(qat, 5, 10);
    Tensor started = logits_of(qat->model, tape, x);
    assert_memory_not_equal(started.data, waiting.data,
                            sizeof(float) * (size_t)tensor_count(&waiting));
}

/* ---- The report. ---- */

typedef struct Lines {
    const char *text[64];
    int count;
} Lines;

static void keep_line(void *context, LogLevel level, const char *message) {
    Lines *lines = context;
    assert_int_equal(level, LOG_INFO);
    lines->text[lines->count++] = arena_strdup(arena, message);
}

static void edges_and_weights_are_described(void **state) {
    (void)state;
    static const char *const expected[] = {
        "edge   input                        -> conv1                                8 bits "
        "signed, lsq, per tensor",
        "edge   flatten                      -> classes                              4 bits "
        "unsigned, lsq, per tensor",
        "weight conv1.weight                 8 bits, lsq, per channel, folds norm1",
        "weight classes.weight               stays float",
    };
    Qat *qat = prepare("model: {kind: cnn, widths: [2], hidden: 0}\n"
                       "quant: {bits: 4, rules: [{layers: first, bits: 8}, {layers: last, "
                       "weight_bits: 32}]}\n");
    Lines lines = {.count = 0};
    LogTarget before = log_set_sink(keep_line, &lines);
    qat_describe(qat);
    log_set_sink(before.sink, before.context);
    assert_int_equal(lines.count, 4);
    for (int i = 0; i < 4; i++) assert_string_equal(lines.text[i], expected[i]);
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
        TEST(quantizers_come_before_a_dropout),
        TEST(only_a_norm_that_alone_reads_is_folded),
        TEST(a_folded_norm_is_joined_and_no_other),
        TEST(rules_name_layers),
        TEST(what_cannot_be_done_is_refused),
        TEST(depthwise_needs_more_than_one_channel),
        TEST(linear_layers_take_scales_per_token),
        TEST(readers_share_the_quantizer_and_its_work),
        TEST(the_shadow_is_the_network_before),
        TEST(without_quantization_nothing_is_installed),
        TEST(phases_follow_the_step),
        TEST(the_freeze_holds_for_every_norm),
        TEST(before_the_start_values_pass),
        TEST(edges_and_weights_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
