/* Runs with an adapter: what they train and say, and what is refused. */
#include "tests/program.h"

#define MODEL "model: {kind: mlp, widths: [24, 16]}\n"
#define BASE  MODEL PROGRAM_DATA PROGRAM_OPTIMIZER "train: {epochs: 2}\n"
#define ADAPTED                                                                                    \
    MODEL PROGRAM_DATA "optimizer: {kind: adamw, lr: 0.01, ema: 0.9}\n"                            \
                       "train: {epochs: 2, init: base, log_every: 1, checkpoint_every: 3}\n"       \
                       "adapter: {kind: lora, rank: 3, alpha: 6, dropout: 0.1}\n"

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("base.yaml", BASE);
    text_file("adapted.yaml", ADAPTED);
    run(0, "train base.yaml --out base");
    run(0, "train adapted.yaml --out plain");
    return 0;
}

static void test_says_what_it_trains(void **state) {
    (void)state;
    /* 64-24, 24-16, 16-4, of which the first two have A and B of rank 3 */
    int trained = 3 * (64 + 24) + 3 * (24 + 16), all = 64 * 24 + 24 + 24 * 16 + 16 + 16 * 4 + 4;
    assert_has(run(0, "train adapted.yaml --out told").err,
               format("adapter lora on 2 layers: %d parameters are trained, and %d are frozen",
                      trained, all));
}

static void test_forms(void **state) {
    (void)state;
    static const char *const forms[] = {"adapter.rslora=true", "adapter.dora=true",
                                        "adapter.target=hidden1 adapter.dora=true",
                                        "precision=bf16", "precision=f16 adapter.dora=true"};
    for (int i = 0; i < 5; i++) {
        const char *directory = format("form%d", i);
        run(0, "train adapted.yaml --out %s %s", directory, forms[i]);
        run(0, "eval %s", directory);
        run(0, "train adapted.yaml --out %s-threads %s --threads 3", directory, forms[i]);
        assert_files_equal(format("%s/checkpoint.h5", directory),
                           format("%s-threads/checkpoint.h5", directory));
    }
}

static void refuse(const char *settings, const char *part) {
    assert_has(run(2, "train adapted.yaml --out refused %s", settings).err, part);
    assert_false(file_exists("refused"));
}

static void test_refused(void **state) {
    (void)state;
    refuse("train.init=null", "adapted.yaml:5:10: adapter: a new network has nothing to adapt; say "
                              "where a trained one lies (train.init: RUN)");
    refuse("quant.bits=4", "adapter: the weights are frozen, so quant has nothing to train; leave "
                           "out quant, or the adapter");
    refuse("adapter.target=q_proj",
           "adapter.target: 'q_proj' is the name of no linear layer; there are: ");
    refuse("adapter.init=loftq",
           "adapter.init: loftq takes what storing the base in few bits lost");
    refuse("adapter.kind=lara", "unknown adapter 'lara'; did you mean 'lora'? Known: lora");
}

static void test_help(void **state) {
    (void)state;
    assert_has(run(0, "help adapters").out, "lora");
    assert_has(run(0, "help lora").out, "rank: 8");
    assert_has(run(0, "help adapter.target").out, "all-linear");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_what_it_trains),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
