#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/random.h"
#include "tests/settings_example.h"

#define ALL                                                                                        \
    "known: seed, precision, temperature, name, optimizer, clip, noise, train, stop, layers, "     \
    "rules, milestones, factors, tags"

typedef struct BadText {
    const char *text, *mistakes;
} BadText;

/* clang-format off */
static const BadText bad_texts[] = {
    {"sede: 3",
     "c:1:1: unknown setting 'sede'; did you mean 'seed'?"},
    {"learning: 1",
     "c:1:1: unknown setting 'learning'; " ALL},
    {"xyzzy: 1",
     "c:1:1: unknown setting 'xyzzy'; " ALL},
    {"SEED: 1",
     "c:1:1: unknown setting 'SEED'; did you mean 'seed'?"},
    {"seed: abc",
     "c:1:7: 'seed': expected an integer, found 'abc'"},
    {"seed:",
     "c:1:6: 'seed': expected an integer, found nothing"},
    {"seed: ~",
     "c:1:7: 'seed': expected an integer, found nothing"},
    {"seed: 1e3",
     "c:1:7: 'seed': expected an integer, found '1e3'"},
    {"seed: 1.0",
     "c:1:7: 'seed': expected an integer, found '1.0'"},
    {"seed: 0x10",
     "c:1:7: 'seed': expected an integer, found '0x10'"},
    {"seed: 0o7",
     "c:1:7: 'seed': expected an integer, found '0o7'"},
    {"seed: 1_000",
     "c:1:7: 'seed': expected an integer, found '1_000'"},
    {"seed: \"5\"",
     "c:1:7: 'seed': expected an integer, found the quoted text '5'"},
    {"seed: '5'",
     "c:1:7: 'seed': expected an integer, found the quoted text '5'"},
    {"seed: [1]",
     "c:1:7: 'seed': expected an integer, found a list"},
    {"seed: {a: 1}",
     "c:1:7: 'seed': expected an integer, found a map of settings"},
    {"seed: 99999999999999999999",
     "c:1:7: 'seed': expected an integer of at most 64 bits, found '99999999999999999999'"},
    {"seed: -99999999999999999999",
     "c:1:7: 'seed': expected an integer of at most 64 bits, found '-99999999999999999999'"},
    {"seed: 12abc",
     "c:1:7: 'seed': expected an integer, found '12abc'"},
    {"seed: 1 2",
     "c:1:7: 'seed': expected an integer, found '1 2'"},
    {"seed: true",
     "c:1:7: 'seed': expected an integer, found 'true'"},
    {"seed: --1",
     "c:1:7: 'seed': expected an integer, found '--1'"},
    {"seed: +",
     "c:1:7: 'seed': expected an integer, found '+'"},
    {"seed: .",
     "c:1:7: 'seed': expected an integer, found '.'"},
    {"temperature: abc",
     "c:1:14: 'temperature': expected a number, found 'abc'"},
    {"temperature: inf",
     "c:1:14: 'temperature': expected a number, found 'inf'"},
    {"temperature: .inf",
     "c:1:14: 'temperature': expected a number, found '.inf'"},
    {"temperature: -.Inf",
     "c:1:14: 'temperature': expected a number, found '-.Inf'"},
    {"temperature: nan",
     "c:1:14: 'temperature': expected a number, found 'nan'"},
    {"temperature: .nan",
     "c:1:14: 'temperature': expected a number, found '.nan'"},
    {"temperature: 1e999",
     "c:1:14: 'temperature': expected a number below 1.8e308, found '1e999'"},
    {"temperature: 1e",
     "c:1:14: 'temperature': expected a number, found '1e'"},
    {"temperature: 1.5.2",
     "c:1:14: 'temperature': expected a number, found '1.5.2'"},
    {"temperature: 0x1p3",
     "c:1:14: 'temperature': expected a number, found '0x1p3'"},
    {"temperature: \"1.5\"",
     "c:1:14: 'temperature': expected a number, found the quoted text '1.5'"},
    {"temperature: 1,5",
     "c:1:14: 'temperature': expected a number, found '1,5'"},
    {"temperature: e5",
     "c:1:14: 'temperature': expected a number, found 'e5'"},
    {"precision: f64",
     "c:1:12: unknown precision 'f64'; known: f32, f16, bf16"},
    {"precision: f33",
     "c:1:12: unknown precision 'f33'; did you mean 'f32'? Known: f32, f16, bf16"},
    {"precision: bf61",
     "c:1:12: unknown precision 'bf61'; did you mean 'bf16'? Known: f32, f16, bf16"},
    {"precision: [f32]",
     "c:1:12: 'precision': expected one of f32, f16, bf16, found a list"},
    {"precision: {kind: f32}",
     "c:1:12: 'precision': expected one of f32, f16, bf16, found a map of settings"},
    {"precision:",
     "c:1:11: 'precision': expected one of f32, f16, bf16, found nothing"},
    {"precision: F32",
     "c:1:12: unknown precision 'F32'; did you mean 'f32'? Known: f32, f16, bf16"},
    {"name: [a]",
     "c:1:7: 'name': expected text, found a list"},
    {"name: {a: b}",
     "c:1:7: 'name': expected text, found a map of settings"},
    {"optimizer: sdg",
     "c:1:12: unknown optimizer 'sdg'; did you mean 'sgd'? Known: sgd, adam"},
    {"optimizer: {kind: sdg}",
     "c:1:19: unknown optimizer 'sdg'; did you mean 'sgd'? Known: sgd, adam"},
    {"optimizer: {kind: rmsprop}",
     "c:1:19: unknown optimizer 'rmsprop'; known: sgd, adam"},
    {"optimizer:",
     "c:1:11: 'optimizer': expected one of sgd, adam, found nothing"},
    {"optimizer: {kind: }",
     "c:1:19: 'optimizer.kind': expected one of sgd, adam, found nothing"},
    {"optimizer: {kind: [sgd]}",
     "c:1:19: 'optimizer.kind': expected one of sgd, adam, found a list"},
    {"optimizer: {kind: {sgd: 1}}",
     "c:1:19: 'optimizer.kind': expected one of sgd, adam, found a map of settings"},
    {"optimizer: [sgd]",
     "c:1:12: 'optimizer': expected one optimizer, found a list"},
    {"optimizer: {kind: sgd, lr: 0}",
     "c:1:28: 'optimizer.lr' must be from 1e-09 to 100, not 0"},
    {"optimizer: {kind: sgd, lr: 101}",
     "c:1:28: 'optimizer.lr' must be from 1e-09 to 100, not 101"},
    {"optimizer: {kind: sgd, momentum: 1}",
     "c:1:34: 'optimizer.momentum' must be from 0 to 0.9999, not 1"},
    {"optimizer: {kind: sgd, nesterov: yes}",
     "c:1:34: 'optimizer.nesterov': expected true or false (write true), found 'yes'"},
    {"optimizer: {kind: sgd, nesterov: Off}",
     "c:1:34: 'optimizer.nesterov': expected true or false (write false), found 'Off'"},
    {"optimizer: {kind: sgd, nesterov: 1}",
     "c:1:34: 'optimizer.nesterov': expected true or false (write true), found '1'"},
    {"optimizer: {kind: sgd, nesterov: \"true\"}",
     "c:1:34: 'optimizer.nesterov': expected true or false, found the quoted text 'true'"},
    {"optimizer: {kind: sgd, nesterov: ture}",
     "c:1:34: 'optimizer.nesterov': expected true or false, found 'ture'"},
    {"optimizer: {kind: sgd, beta: 1}",
     "c:1:24: unknown setting 'beta'; known: kind, lr, momentum, nesterov"},
    {"optimizer: {kind: adam}",
     "c:1:12: missing setting 'optimizer.lr' (learning rate)"},
    {"optimizer: adam",
     "c:1:12: missing setting 'optimizer.lr' (learning rate)"},
    {"optimizer: {adam: {}}",
     "c:1:19: missing setting 'optimizer.lr' (learning rate)"},
    {"optimizer: {adam: }",
     "c:1:19: missing setting 'optimizer.lr' (learning rate)"},
    {"optimizer: {adam: 3}",
     "c:1:19: 'optimizer.adam': expected a map of settings, found '3'"},
    {"optimizer: {adam: {kind: sgd}}",
     "c:1:20: 'optimizer': the kind is given twice, here and as 'adam'"},
    {"optimizer: {adma: {lr: 1}}",
     "c:1:13: unknown optimizer 'adma'; did you mean 'adam'? Known: sgd, adam"},
    {"optimizer: {zzz: {lr: 1}}",
     "c:1:13: unknown optimizer 'zzz'; known: sgd, adam"},
    {"optimizer: {momentun: 0.5}",
     "c:1:13: unknown setting 'momentun'; did you mean 'momentum'?"},
    {"optimizer: {momentum: {a: 1}}",
     "c:1:23: 'optimizer.momentum': expected a number, found a map of settings"},
    {"optimizer: {kind: adam, lr: 1, betas: 3}",
     "c:1:39: 'optimizer.betas': expected a list such as [a, b], found '3'"},
    {"optimizer: {kind: adam, lr: 1, betas: [0.5, x, 2]}",
     "c:1:45: 'optimizer.betas.1': expected a number, found 'x'\n"
         "c:1:48: 'optimizer.betas.2' must be from 0 to 1, not 2"},
    {"optimizer: \"sgd \"",
     "c:1:12: unknown optimizer 'sgd '; did you mean 'sgd'? Known: sgd, adam"},
    {"clip: {lr: 1}",
     "c:1:7: missing setting 'clip.kind': one of sgd, adam"},
    {"clip: {lr: 1, momentum: 2}",
     "c:1:7: missing setting 'clip.kind': one of sgd, adam"},
    {"clip: false",
     "c:1:7: unknown optimizer 'false'; known: sgd, adam"},
    {"noise: {lr: x}",
     "c:1:13: 'noise.lr': expected a number, found 'x'"},
    {"train: 5",
     "c:1:8: 'train': expected a map of settings, found '5'"},
    {"train: [1]",
     "c:1:8: 'train': expected a map of settings, found a list"},
    {"train: {epoch: 3}",
     "c:1:9: unknown setting 'epoch'; did you mean 'epochs'?"},
    {"train: {epochs: 0}",
     "c:1:17: 'train.epochs' must be from 1 to 1e+18, not 0"},
    {"train: {epochs: 2e18}",
     "c:1:17: 'train.epochs': expected an integer, found '2e18'"},
    {"train: {steps: -1}",
     "c:1:16: 'train.steps' must be at least 0, not -1"},
    {"train:\n  epochs: 0\n  shuffle: y\n  data:\n    validation: 0.9",
     "c:2:11: 'train.epochs' must be from 1 to 1e+18, not 0\n"
         "c:3:12: 'train.shuffle': expected true or false (write true), found 'y'\n"
         "c:5:5: missing setting 'train.data.path' (directory of the files)\n"
         "c:5:17: 'train.data.validation' must be from 0 to 0.5, not 0.9"},
    {"train:\n  data:",
     "c:2:8: missing setting 'train.data.path' (directory of the files)"},
    {"train:\n  data: x",
     "c:2:9: 'train.data': expected a map of settings, found 'x'"},
    {"train:\n  data: {path: }",
     "c:2:16: 'train.data.path': expected text, found nothing"},
    {"train:\n  data: {path: \"\"}",
     "c:2:16: 'train.data.path': expected text, found empty text"},
    {"train:\n  data: {path: [a]}",
     "c:2:16: 'train.data.path': expected text, found a list"},
    {"layers: linear",
     "c:1:9: 'layers': expected a list such as [a, b], found 'linear'"},
    {"layers:",
     "c:1:8: 'layers': expected a list such as [a, b], found nothing"},
    {"layers: [linear]",
     "c:1:10: missing setting 'layers.0.units' (outputs)"},
    {"layers: [liner]",
     "c:1:10: unknown layer 'liner'; did you mean 'linear'? Known: linear, relu, branch"},
    {"layers: [~]",
     "c:1:10: 'layers.0': expected one of linear, relu, branch, found nothing"},
    {"layers: [[relu]]",
     "c:1:10: 'layers.0': expected one layer, found a list"},
    {"layers: [{linear: {units: 0}}]",
     "c:1:27: 'layers.0.units' must be from 1 to 4096, not 0"},
    {"layers: [{linear: {units: 5000}}]",
     "c:1:27: 'layers.0.units' must be from 1 to 4096, not 5000"},
    {"layers: [{linear: 10}]",
     "c:1:19: 'layers.0.linear': expected a map of settings, found '10'"},
    {"layers: [{units: 3}]",
     "c:1:10: missing setting 'layers.0.kind': one of linear, relu, branch"},
    {"layers: [{units: 3, bias: true}]",
     "c:1:10: missing setting 'layers.0.kind': one of linear, relu, branch"},
    {"layers: [{relu: {units: 3}}]",
     "c:1:18: unknown setting 'units'; there are none here"},
    {"layers: [{kind: relu, slope: 1}]",
     "c:1:23: unknown setting 'slope'; there are none here"},
    {"layers: [{branch: {layers: [{branch: {layers: [{linear: {units: x}}]}}]}}]",
     "c:1:65: 'layers.0.layers.0.layers.0.units': expected an integer, found 'x'"},
    {"layers: [{branch: {layer: []}}]",
     "c:1:20: unknown setting 'layer'; did you mean 'layers'?"},
    {"layers:\n- linear: {units: 3}\n- linear:\n    unit: 3\n- rellu",
     "c:4:5: unknown setting 'unit'; did you mean 'units'?\n"
         "c:4:5: missing setting 'layers.1.units' (outputs)\n"
         "c:5:3: unknown layer 'rellu'; did you mean 'relu'? Known: linear, relu, branch"},
    {"rules: {match: a}",
     "c:1:8: 'rules': expected a list such as [a, b], found a map of settings"},
    {"rules: [a]",
     "c:1:9: 'rules.0': expected a map of settings, found 'a'"},
    {"stop: 3",
     "c:1:7: 'stop': expected a map of settings, found '3'"},
    {"stop: {patience: 0}",
     "c:1:7: missing setting 'stop.score' (what is looked at)\n"
         "c:1:18: 'stop.patience' must be from 1 to 100, not 0"},
    {"stop: {scored: a}",
     "c:1:7: missing setting 'stop.score' (what is looked at)\n"
         "c:1:8: unknown setting 'scored'; did you mean 'score'?"},
    {"rules: [{bits: 9}]",
     "c:1:9: missing setting 'rules.0.match' (names of layers, with *)\n"
         "c:1:16: 'rules.0.bits' must be from 2 to 8, not 9"},
    {"rules: [{match: a, bits: 1, granularity: chanel}]",
     "c:1:26: 'rules.0.bits' must be from 2 to 8, not 1\n"
         "c:1:42: unknown granularity 'chanel'; did you mean 'channel'? Known: tensor, channel, group"},
    {"rules: [~]",
     "c:1:9: missing setting 'rules.0.match' (names of layers, with *)"},
    {"rules: [{match: ~}]",
     "c:1:17: 'rules.0.match': expected text, found nothing"},
    {"milestones: 30",
     "c:1:13: 'milestones': expected a list such as [a, b], found '30'"},
    {"milestones: [0]",
     "c:1:14: 'milestones.0' must be from 1 to 1000, not 0"},
    {"milestones: [1, 2, 1001]",
     "c:1:20: 'milestones.2' must be from 1 to 1000, not 1001"},
    {"milestones: [a]",
     "c:1:14: 'milestones.0': expected an integer, found 'a'"},
    {"milestones: [[1]]",
     "c:1:14: 'milestones.0': expected an integer, found a list"},
    {"milestones: [1.5]",
     "c:1:14: 'milestones.0': expected an integer, found '1.5'"},
    {"milestones: [~]",
     "c:1:14: 'milestones.0': expected an integer, found nothing"},
    {"milestones: {a: 1}",
     "c:1:13: 'milestones': expected a list such as [a, b], found a map of settings"},
    {"factors: [1.5]",
     "c:1:11: 'factors.0' must be from 0 to 1, not 1.5"},
    {"factors: [-0.1, 0.5, nan]",
     "c:1:11: 'factors.0' must be from 0 to 1, not -0.1\n"
         "c:1:22: 'factors.2': expected a number, found 'nan'"},
    {"tags: [[a]]",
     "c:1:8: 'tags.0': expected text, found a list"},
    {"tags: [~]",
     "c:1:8: 'tags.0': expected text, found nothing"},
    {"tags: {a: 1}",
     "c:1:7: 'tags': expected a list such as [a, b], found a map of settings"},
    {"tags: ~",
     "c:1:7: 'tags': expected a list such as [a, b], found nothing"},
    {"tags: ''",
     "c:1:7: 'tags.0': expected text, found empty text"},
    {"\"\": 1",
     "c:1:1: unknown setting ''; " ALL},
    {"~: 1",
     "c:1:1: unknown setting '~'; " ALL},
    {"name: \"a\\x1b[31mb\"\nsede: \"\\n\\n\"",
     "c:2:1: unknown setting 'sede'; did you mean 'seed'?"},
    {"\"se\\ned\\u009b\": 1",
     "c:1:1: unknown setting 'se\\ned\\x9b'; " ALL},
    {"seed: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
     "c:1:7: 'seed': expected an integer, found 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"},
    {"seed: \303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251",
     "c:1:7: 'seed': expected an integer, found '\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251...'"},
    {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: 1",
     "c:1:1: unknown setting 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'; " ALL},
    {"a.b: 1",
     "c:1:1: unknown setting 'a.b'; " ALL},
    {"train.epochs: 5",
     "c:1:1: unknown setting 'train.epochs'; " ALL},
    {"seed: 1 #c\n#c\nnome: 2",
     "c:3:1: unknown setting 'nome'; did you mean 'name'?"},
    {"seed: |\n  5",
     "c:1:7: 'seed': expected an integer, found the quoted text '5'"},
    {"seed: >\n  5",
     "c:1:7: 'seed': expected an integer, found the quoted text '5'"},
    {"seed: 1\r\nsede: 2\r\n",
     "c:2:1: unknown setting 'sede'; did you mean 'seed'?"},
};
/* clang-format on */

static void test_mistakes(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        const BadText *bad = &bad_texts[i];
        ExampleConfig config = {0};
        const char *mistakes = example_mistakes(bad->text, strlen(bad->text), &config, arena);
        if (strcmp(mistakes, bad->mistakes)) print_error("for the text\n%s\n", bad->text);
        assert_string_equal(mistakes, bad->mistakes);
        arena_reset(arena);
    }
    arena_free(arena);
}

static ExampleConfig read_good(const char *text, Arena *arena) {
    ExampleConfig config = {0};
    assert_string_equal(example_mistakes(text, strlen(text), &config, arena), "");
    return config;
}

static void test_defaults(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    ExampleConfig c = read_good("", arena);
    assert_int_equal(c.seed, 1);
    assert_int_equal(c.precision, 0);
    assert_true(c.temperature == 1);
    assert_null(c.name);
    assert_null(c.clip.kind);
    assert_ptr_equal(c.noise.kind, &example_sgd);
    assert_true(((SgdConfig *)c.noise.config)->momentum == 0.9);
    assert_true(((SgdConfig *)c.optimizer.config)->momentum == 0.5);
    assert_true(((SgdConfig *)c.optimizer.config)->lr == 0.1);
    assert_int_equal(c.train.epochs, 10);
    assert_true(c.train.shuffle);
    assert_string_equal(c.train.data.path, "/x");
    assert_int_equal(c.layers.count, 1);
    assert_ptr_equal(((Variant *)c.layers.items)[0].kind, &example_relu);
    assert_null(((Variant *)c.layers.items)[0].config);
    assert_int_equal(c.rules.count, 0);
    assert_int_equal(c.milestones.count, 2);
    assert_int_equal(((int64_t *)c.milestones.items)[1], 60);
    arena_free(arena);
}

static void test_scalars(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    ExampleConfig c = read_good("seed: -9223372036854775808\ntemperature: -.5e-3\nprecision: bf16\n"
                                "name: 'null'\nmilestones: [+7, 007]\nfactors: [1, 0.5, 1e-3, 0.]\n"
                                "tags: [1, true, 'a, b', \"\\u00e9\"]\n"
                                "train: {steps: 9223372036854775807, shuffle: False, "
                                "data: {path: 2024, note: ~}}",
                                arena);
    assert_true(c.seed == INT64_MIN);
    assert_true(c.temperature == -0.0005);
    assert_int_equal(c.precision, 2);
    assert_string_equal(c.name, "null");
    assert_int_equal(((int64_t *)c.milestones.items)[0], 7);
    assert_int_equal(((int64_t *)c.milestones.items)[1], 7);
    assert_int_equal(c.factors.count, 4);
    assert_true(((double *)c.factors.items)[2] == 0.001);
    const char *const *tags = c.tags.items;
    assert_string_equal(tags[0], "1");
    assert_string_equal(tags[1], "true");
    assert_string_equal(tags[2], "a, b");
    assert_string_equal(tags[3], "\303\251");
    c.tags = read_good("tags: 'a, b'", arena).tags; /* one text is a list of it */
    assert_int_equal(c.tags.count, 1);
    assert_string_equal(((const char *const *)c.tags.items)[0], "a, b");
    assert_true(c.train.steps == INT64_MAX);
    assert_false(c.train.shuffle);
    assert_string_equal(c.train.data.path, "2024");
    assert_null(c.train.data.note);
    arena_free(arena);
}

/* Each form of the same optimizer. */
static void test_variant_forms(void **state) {
    (void)state;
    static const char *const forms[] = {
        "optimizer: {kind: adam, lr: 0.25}",    "optimizer: {lr: 0.25, kind: adam}",
        "optimizer: {adam: {lr: 0.25}}",        "optimizer:\n  adam:\n    lr: 0.25",
        "optimizer:\n  kind: adam\n  lr: 0.25", "optimizer: {kind: 'adam', lr: 0.25}",
    };
    Arena *arena = arena_new("test");
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        ExampleConfig c = read_good(forms[i], arena);
        assert_ptr_equal(c.optimizer.kind, &example_adam);
        const AdamConfig *adam = c.optimizer.config;
        assert_true(adam->lr == 0.25 && adam->beta == 0.9);
        assert_int_equal(adam->betas.count, 2);
    }
    static const char *const bare[] = {"layers: [relu]", "layers: [{relu: }]",
                                       "layers: [{relu: {}}]", "layers: [{kind: relu}]"};
    for (size_t i = 0; i < sizeof bare / sizeof *bare; i++) {
        ExampleConfig c = read_good(bare[i], arena);
        assert_ptr_equal(((Variant *)c.layers.items)->kind, &example_relu);
    }
    arena_free(arena);
}

/* Settings without a kind belong to the default's kind, whose other settings stay. */
static void test_variant_default_kind(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    ExampleConfig c = read_good("optimizer: {lr: 3}\nnoise: {momentum: 0.25}", arena);
    const SgdConfig *sgd = c.optimizer.config, *noise = c.noise.config;
    assert_true(sgd->lr == 3 && sgd->momentum == 0.5);
    assert_true(noise->lr == 0.1 && noise->momentum == 0.25);
    c = read_good("optimizer: sgd", arena);
    sgd = c.optimizer.config;
    assert_true(sgd->momentum == 0.9); /* a kind that is named has its own defaults */
    arena_free(arena);
}

/* After a fault the default stands in. */
static void test_fault_leaves_default(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    ExampleConfig c = {0};
    const char *text =
        "seed: x\noptimizer: sdg\nmilestones: [a]\ntrain: 5\nprecision: f9\nname: []";
    assert_string_not_equal(example_mistakes(text, strlen(text), &c, arena), "");
    assert_int_equal(c.seed, 1);
    assert_ptr_equal(c.optimizer.kind, &example_sgd);
    assert_int_equal(c.milestones.count, 2);
    assert_int_equal(c.train.epochs, 10);
    assert_null(c.train.data.path);
    assert_null(c.name);
    arena_free(arena);
}

/* ---- The way back ---- */

typedef struct Dice {
    RandomKey key;
    uint64_t element;
    Arena *arena;
} Dice;

static uint64_t dice_bits(Dice *d) {
    Random4 words = random_words(d->key, d->element++);
    return (uint64_t)words.word[0] << 32 | words.word[1];
}

static int dice_below(Dice *d, int bound) {
    return (int)(dice_bits(d) % (uint64_t)bound);
}

static double dice_double(Dice *d) { /* any finite bits */
    for (;;) {
        uint64_t bits = dice_bits(d);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value)) return value;
    }
}

static double dice_share(Dice *d) {
    return (double)(dice_bits(d) >> 11) * 0x1p-53;
}

/* Pieces that are hard to write: quotes, indicators, line breaks, control characters, whole words.
 */
static const char *dice_text(Dice *d) {
    static const char *const pieces[] = {
        "a",
        " ",
        "\n",
        "\"",
        "\\",
        "'",
        "#",
        ": ",
        "- ",
        "\x01",
        "\t",
        "\r",
        "\x7f",
        "null",
        "~",
        "true",
        "1",
        "[",
        "{",
        "%",
        "@",
        "&x",
        "*x",
        "!t",
        "|",
        ">",
        ",",
        "\303\251",
        "\302\205",
        "\342\200\250",
        "\357\273\277",
        "---",
        "...",
        "<<",
        "\357\277\277",
        "\364\217\277\277",
        "\302\240",
        "=",
        "?",
    };
    const char *text = "";
    for (int count = 1 + dice_below(d, 8); count > 0; count--) {
        int piece = dice_below(d, (int)(sizeof pieces / sizeof *pieces));
        text = arena_format(d->arena, "%s%s", text, pieces[piece]);
    }
    return text;
}

static Variant dice_optimizer(Dice *d) {
    Variant variant = {&example_sgd, arena_zalloc(d->arena, sizeof(SgdConfig))};
    SgdConfig *sgd = variant.config;
    *sgd = (SgdConfig){1e-9 + dice_share(d), 0.9999 * dice_share(d), dice_below(d, 2)};
    if (dice_below(d, 2)) return variant;
    variant = (Variant){&example_adam, arena_zalloc(d->arena, sizeof(AdamConfig))};
    AdamConfig *adam = variant.config;
    *adam = (AdamConfig){100 * dice_share(d) + 1e-9, dice_share(d), {dice_below(d, 4), NULL}};
    double *betas = arena_new_array(d->arena, double, adam->betas.count);
    for (int i = 0; i < adam->betas.count; i++) betas[i] = dice_share(d);
    adam->betas.items = betas;
    return variant;
}

static List dice_layers(Dice *d, int depth) {
    List list = {dice_below(d, 4), NULL};
    Variant *layers = arena_new_array(d->arena, Variant, list.count);
    for (int i = 0; i < list.count; i++) {
        const Kind *kind = example_layers.kinds[dice_below(d, depth < 5 ? 3 : 2)];
        layers[i] = (Variant){kind, NULL};
        if (kind == &example_linear) {
            LinearConfig *linear = layers[i].config = arena_zalloc(d->arena, sizeof *linear);
            *linear = (LinearConfig){1 + dice_below(d, 4096), dice_below(d, 2)};
        } else if (kind == &example_branch) {
            BranchConfig *branch = layers[i].config = arena_zalloc(d->arena, sizeof *branch);
            branch->layers = dice_layers(d, depth + 1);
        }
    }
    list.items = layers;
    return list;
}

static ExampleConfig dice_config(Dice *d) {
    ExampleConfig c = {.seed = (int64_t)dice_bits(d), .precision = dice_below(d, 3)};
    c.temperature = dice_double(d);
    c.name = dice_below(d, 3) ? dice_text(d) : NULL;
    c.optimizer = dice_optimizer(d);
    if (dice_below(d, 2)) c.clip = dice_optimizer(d);
    c.noise = dice_optimizer(d);
    c.train = (TrainConfig){1 + dice_below(d, 1000000),
                            (int64_t)(dice_bits(d) >> 1),
                            dice_below(d, 2),
                            {dice_text(d), NULL, dice_share(d) / 2}};
    if (dice_below(d, 2)) {
        c.stop = arena_zalloc(d->arena, sizeof *c.stop);
        *c.stop = (StopConfig){dice_text(d), 1 + dice_below(d, 100)};
    }
    c.layers = dice_layers(d, 0);
    c.rules.count = dice_below(d, 3);
    RuleConfig *rules = c.rules.items = arena_new_array(d->arena, RuleConfig, c.rules.count);
    for (int i = 0; i < c.rules.count; i++) {
        rules[i] = (RuleConfig){dice_text(d), 2 + dice_below(d, 7), dice_below(d, 3)};
    }
    c.factors.count = dice_below(d, 4);
    double *factors = c.factors.items = arena_new_array(d->arena, double, c.factors.count);
    for (int i = 0; i < c.factors.count; i++) factors[i] = dice_share(d);
    c.tags.count = dice_below(d, 4);
    const char **tags = c.tags.items = arena_new_array(d->arena, const char *, c.tags.count);
    for (int i = 0; i < c.tags.count; i++) tags[i] = dice_text(d);
    return c;
}

/* Equal text is equal bits, by test_number_print. */
static void test_round_trip(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    for (uint64_t i = 0; i < 500; i++) {
        Dice dice = {{7, RANDOM_TEST, i}, 0, arena};
        ExampleConfig config = dice_config(&dice), again = {0};
        const char *text = node_to_yaml(fields_write(example_fields, &config, arena), arena);
        const char *mistakes = example_mistakes(text, strlen(text), &again, arena);
        if (*mistakes) print_error("%s\n%s\n", text, mistakes);
        assert_string_equal(mistakes, "");
        const char *second = node_to_yaml(fields_write(example_fields, &again, arena), arena);
        assert_string_equal(second, text);
        assert_memory_equal(&again.temperature, &config.temperature, sizeof(double));
        assert_true(again.seed == config.seed);
        if (config.name) assert_string_equal(again.name, config.name);
        assert_string_equal(again.train.data.path, config.train.data.path);
        arena_reset(arena);
    }
    arena_free(arena);
}

/* What is left out leaves no trace, in the text of old files nor in that of new ones. */
typedef struct RareChoice {
    int style, other;
} RareChoice;

static void test_optional(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    assert_null(read_good("", arena).stop);
    assert_null(read_good("stop: null", arena).stop);
    ExampleConfig without = read_good("stop:", arena), with = read_good("stop: {score: a}", arena);
    assert_null(without.stop);
    assert_string_equal(with.stop->score, "a");
    assert_int_equal(with.stop->patience, 5);
    const char *text = node_to_yaml(fields_write(example_fields, &without, arena), arena);
    assert_null(strstr(text, "stop"));
    text = node_to_yaml(fields_write(example_fields, &with, arena), arena);
    assert_non_null(strstr(text, "stop:\n  score: \"a\"\n  patience: 5\n"));
    assert_ptr_equal(fields_find(example_fields, "stop.patience"), &example_stop_fields[1]);
    static const Field rare[] = {
        FIELD_INT(ExampleConfig, seed, "0", 0, 9, "rarely given", .omits_zero = true),
        FIELD_END,
    };
    with.seed = 0;
    assert_string_equal(node_to_yaml(fields_write(rare, &with, arena), arena), "{}\n");
    with.seed = 3;
    assert_string_equal(node_to_yaml(fields_write(rare, &with, arena), arena), "seed: 3\n");
    static const char *const choices[] = {"plain", "fancy", NULL};
    static const Field choice[] = {
        FIELD_CHOICE(RareChoice, style, "plain", choices, "rarely given", .omits_zero = true),
        FIELD_END,
    };
    RareChoice rarely = {0, 7};
    assert_string_equal(node_to_yaml(fields_write(choice, &rarely, arena), arena), "{}\n");
    rarely.style = 1;
    assert_string_equal(node_to_yaml(fields_write(choice, &rarely, arena), arena),
                        "style: fancy\n");
    static const Field maybe[] = {
        FIELD_VARIANT(ExampleConfig, clip, "null", &example_optimizers, "rarely given",
                      .omits_zero = true),
        FIELD_END,
    };
    with.clip = (Variant){0};
    assert_string_equal(node_to_yaml(fields_write(maybe, &with, arena), arena), "{}\n");
    with.clip = with.optimizer;
    assert_non_null(strstr(node_to_yaml(fields_write(maybe, &with, arena), arena), "clip:\n"));
    arena_free(arena);
}

static void test_number_print(void **state) {
    (void)state;
    static const struct {
        double number;
        const char *text;
    } known[] = {{0.1, "0.1"},    {-0.0, "-0"},     {1000, "1000"},   {1e15, "1e+15"},
                 {1e-5, "1e-05"}, {3e-4, "0.0003"}, {100.5, "100.5"}, {-3, "-3"}};
    char text[NUMBER_TEXT_BYTES];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        assert_string_equal(number_print(known[i].number, text), known[i].text);
    }
    Dice dice = {{8, RANDOM_TEST, 0}, 0, NULL};
    for (int i = 0; i < 20000; i++) {
        double value = dice_double(&dice), again = strtod(number_print(value, text), NULL);
        assert_memory_equal(&again, &value, sizeof value);
    }
}

/* ---- Rows ---- */

static void test_nearest_name(void **state) {
    (void)state;
    static const char *const names[] = {"learning_rate", "momentum", "lr", "bits", "Path"};
    static const struct {
        const char *word, *nearest;
    } words[] = {
        {"learning_rat", "learning_rate"},
        {"learnign_rate", "learning_rate"},
        {"learning-rate", "learning_rate"},
        {"LEARNING_RATE", "learning_rate"},
        {"lerningrat", "learning_rate"}, /* 3 edits of 10 */
        {"lrate", NULL},                 /* 3 edits of 5 */
        {"momentumm", "momentum"},
        {"rl", "lr"},
        {"l", NULL}, /* all of it would be replaced */
        {"bit", "bits"},
        {"path", "Path"},
        {"", NULL},
        {"zzzz", NULL},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *nearest = nearest_name(words[i].word, names, 5);
        if (!words[i].nearest) {
            assert_null(nearest);
        } else {
            assert_non_null(nearest);
            assert_string_equal(nearest, words[i].nearest);
        }
    }
    char word[200];
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    assert_null(nearest_name(word, names, 5));
    assert_null(nearest_name("lr", names, 0));
}

static void test_fields_find(void **state) {
    (void)state;
    assert_ptr_equal(fields_find(example_fields, "seed"), &example_fields[0]);
    assert_ptr_equal(fields_find(example_fields, "train.data.validation"), &example_data_fields[2]);
    assert_ptr_equal(fields_find(example_fields, "optimizer.beta"), &example_adam_fields[1]);
    assert_ptr_equal(fields_find(example_fields, "layers.3.layers.0.units"),
                     &example_linear_fields[0]);
    assert_ptr_equal(fields_find(example_fields, "rules.0.bits"), &example_rule_fields[1]);
    static const char *const absent[] = {"",           "see",      "seeds",  "seed.a",
                                         "train.nope", "train..a", ".train", "optimizer.units"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        assert_null(fields_find(example_fields, absent[i]));
    }
}

/* Settings that may change are named once, whichever kinds have them, and left out on request. */
typedef struct PlaceConfig {
    const char *file, *folder, *none, *word;
} PlaceConfig;

static void test_paths_are_written_where_they_lie(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    static const Field fields[] = {
        FIELD_STRING(PlaceConfig, file, "", "", .is_path = true),
        FIELD_STRING(PlaceConfig, folder, "", "", .is_path = true),
        FIELD_STRING(PlaceConfig, none, "", "", .is_path = true),
        FIELD_STRING(PlaceConfig, word, "", ""),
        FIELD_END,
    };
    PlaceConfig config = {.file = "a/b", .folder = "/c", .word = "d"};
    assert_string_equal(node_to_yaml(fields_write_in(fields, &config, "/home/me", arena), arena),
                        "file: \"/home/me/a/b\"\nfolder: \"/c\"\nnone: null\nword: \"d\"\n");
    assert_string_equal(node_to_yaml(fields_write_in(fields, &config, NULL, arena), arena),
                        "file: \"a/b\"\nfolder: \"/c\"\nnone: null\nword: \"d\"\n");
    arena_free(arena);
}

static void test_changeable(void **state) {
    (void)state;
    static const Field path_fields[] = {
        FIELD_STRING(DataConfig, note, "none", "kept"),
        FIELD_STRING(DataConfig, path, "here", "where", .may_change = true),
        FIELD_END,
    };
    static const Kind disk = {"disk", "", sizeof(DataConfig), path_fields};
    static const Kind tape = {"tape", "", sizeof(DataConfig), path_fields};
    static const Kind *const rows[] = {&disk, &tape};
    static const KindTable kinds = {"store", rows, 2};
    static const Field fields[] = {
        FIELD_INT(ExampleConfig, seed, "1", 0, 9, "kept"),
        FIELD_VARIANT(ExampleConfig, optimizer, "tape", &kinds, "of two"),
        FIELD_VARIANTS(ExampleConfig, layers, "[disk]", &kinds, "a list"),
        FIELD_STRING(ExampleConfig, name, "a", "", .may_change = true),
        {.name = "file", /* may move, and yet cannot change */
         .type = FIELD_TYPE_STRING,
         .offset = offsetof(ExampleConfig, name),
         .fallback = "a",
         .is_path = true},
        FIELD_END,
    };
    Arena *arena = arena_new("test");
    Faults faults = {.arena = arena};
    ExampleConfig config = {0};
    fields_read(fields, NULL, (Mark){0}, &config, arena, &faults);
    assert_int_equal(faults.count, 0);
    assert_string_equal(fields_changeable(fields, arena), "optimizer.path, name");
    assert_string_equal(fields_changeable(path_fields + 2, arena), "");
    assert_string_equal(node_to_yaml(fields_write_fixed(fields, &config, arena), arena),
                        "seed: 1\noptimizer:\n  kind: tape\n  note: \"none\"\n"
                        "layers:\n  - kind: disk\n    note: \"none\"\n");
    arena_free(arena);
}

static void test_kinds(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    assert_ptr_equal(kind_find(&example_optimizers, "adam"), &example_adam);
    assert_null(kind_find(&example_optimizers, "ada"));
    const AdamConfig *adam = kind_defaults(&example_adam, arena);
    assert_true(adam->lr == 0 && adam->beta == 0.9); /* required: zero */
    assert_true(((double *)adam->betas.items)[1] == 0.999);
    assert_null(kind_defaults(&example_relu, arena));
    arena_free(arena);
}

/* Help is YAML, and says the defaults: read as a config it lacks only what is required. */
static void test_help_is_yaml(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    char *text = arena_zalloc(arena, EXAMPLE_TEXT_BYTES);
    fields_help(example_fields, 0, example_add_line, text);
    assert_non_null(strstr(text, "epochs: 10"));
    assert_non_null(strstr(text, "# passes over the data (integer from 1 to 1e+18)"));
    assert_non_null(strstr(text, "(f32, f16, bf16)"));
    assert_non_null(strstr(text, "kinds: sgd, adam"));
    assert_non_null(strstr(text, "\nstop: null "));
    assert_non_null(strstr(text, "\n#  patience: 5 "));
    ExampleConfig config = {0};
    const char *mistakes = example_mistakes(text, strlen(text), &config, arena);
    assert_non_null(strstr(mistakes, "'train.data.path': expected text, found nothing"));
    assert_null(strchr(mistakes, '\n'));
    ExampleConfig defaults = read_good("", arena);
    defaults.train.data.path = NULL;
    assert_string_equal(node_to_yaml(fields_write(example_fields, &config, arena), arena),
                        node_to_yaml(fields_write(example_fields, &defaults, arena), arena));
    memset(text, 0, EXAMPLE_TEXT_BYTES);
    example_add_line(text, "layers:");
    kinds_help(&example_layers, 2, example_add_line, text);
    mistakes = example_mistakes(text, strlen(text), &config, arena);
    assert_non_null(strstr(mistakes, "'layers.0.units': expected an integer, found nothing"));
    assert_null(strchr(mistakes, '\n'));
    arena_free(arena);
}

/* ---- Trees and faults ---- */

static void test_nodes(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Mark mark = {"m", 1, 2};
    Node *map = yaml_read_own(" {a: 1, b : [x, 'y, z', []], c: {d: ~}, e: \"\"} ", mark, arena);
    assert_int_equal(map->count, 4);
    assert_int_equal(node_find(map, "b")->mark.column, 2);
    assert_string_equal(node_to_yaml(map, arena),
                        "a: 1\nb:\n  - x\n  - \"y, z\"\n  - []\nc:\n  d: ~\ne: \"\"\n");
    Node *copy = node_copy(arena, map);
    node_remove(map, node_find(map, "b"));
    node_remove(map, map->last);
    node_remove(map, map->first);
    assert_int_equal(map->count, 1);
    assert_ptr_equal(map->first, map->last);
    node_remove(map, map->first);
    assert_null(map->first);
    assert_null(map->last);
    node_append(map, node_new(arena, NODE_SCALAR, "n", "5", mark));
    assert_string_equal(node_find(map, "n")->text, "5");
    assert_string_equal(node_find(node_find(copy, "b"), "x") ? "" : "absent", "absent");
    assert_int_equal(copy->count, 4);
    assert_null(node_find(NULL, "a"));
    assert_true(node_is_null(yaml_read_own("", mark, arena)));
    assert_false(node_is_null(yaml_read_own("''", mark, arena)));
    arena_free(arena);
}

/* A tree that no parser has checked. */
static void test_duplicates_in_tree(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Faults faults = {.arena = arena};
    Node *map = node_new(arena, NODE_MAP, NULL, NULL, (Mark){"p", 1, 1});
    node_append(map, node_new(arena, NODE_SCALAR, "lr", "1", (Mark){"p", 2, 1}));
    node_append(map, node_new(arena, NODE_SCALAR, "lr", "2", (Mark){"p", 3, 1}));
    SgdConfig sgd = {0};
    fields_read(example_sgd_fields, map, map->mark, &sgd, arena, &faults);
    assert_int_equal(faults.count, 1);
    assert_string_equal(faults.first->message, "duplicate setting 'lr'; it is first on line 2");
    assert_true(sgd.lr == 1);
    fields_read(example_sgd_fields, map->first, map->mark, &sgd, arena, &faults);
    assert_string_equal(faults.last->message, "expected settings such as 'name: value', found '1'");
    arena_free(arena);
}

static void test_faults_are_sorted_lines(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Faults faults = {.arena = arena};
    faults_add(&faults, (Mark){"command line: b=2", 0, 2}, "second argument");
    faults_add(&faults, (Mark){"command line: a=1", 0, 1}, "first argument");
    faults_add(&faults, (Mark){"f", 10, 1}, "tenth\nline\x1b[31m");
    faults_add(&faults, (Mark){"f", 9, 5}, "later column");
    faults_add(&faults, (Mark){"f", 9, 4}, "one");
    faults_add(&faults, (Mark){"f", 9, 4}, "two");
    char *text = arena_zalloc(arena, EXAMPLE_TEXT_BYTES);
    faults_print(&faults, arena, example_add_line, text);
    assert_string_equal(text, "f:9:4: one\nf:9:4: two\nf:9:5: later column\n"
                              "f:10:1: tenth\\nline\\x1b[31m\ncommand line: a=1: first argument\n"
                              "command line: b=2: second argument");
    for (int i = 0; i < 1000; i++) faults_add(&faults, (Mark){"g", i + 1, 1}, "more");
    memset(text, 0, EXAMPLE_TEXT_BYTES);
    faults_print(&faults, arena, example_add_line, text);
    assert_int_equal(faults.count, 1006);
    assert_non_null(strstr(text, "and 906 more mistakes"));
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_variant_forms),
        cmocka_unit_test(test_variant_default_kind),
        cmocka_unit_test(test_fault_leaves_default),
        cmocka_unit_test(test_optional),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_number_print),
        cmocka_unit_test(test_nearest_name),
        cmocka_unit_test(test_fields_find),
        cmocka_unit_test(test_paths_are_written_where_they_lie),
        cmocka_unit_test(test_changeable),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_help_is_yaml),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_duplicates_in_tree),
        cmocka_unit_test(test_faults_are_sorted_lines),
    };
    return cmocka_run_group_tests_name("field", tests, NULL, NULL);
}
