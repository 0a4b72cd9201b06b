/* Runs with an adapter: what they train, say and save, adapters of PEFT out
 * and in, and what is refused. */
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
                           "out quant, or merge the adapter first");
    refuse("adapter.target=q_proj",
           "adapter.target: 'q_proj' is the name of no linear layer; there are: ");
    refuse("adapter.init=loftq",
           "adapter.init: loftq takes what storing the base in few bits lost");
    refuse("adapter.kind=lara", "unknown adapter 'lara'; did you mean 'lora'? Known: lora");
}

/* ---- Checkpoints ---- */

static void test_holds_the_adapter_alone(void **state) {
    (void)state;
    static const char *const files[] = {"checkpoint", "best"};
    for (int i = 0; i < 2; i++) {
        const char *text = run(0, "inspect plain/%s.h5", files[i]).out;
        assert_has(text, "hidden1.lora_A.weight  f32 [3, 64]");
        assert_has(text, "base_digest");
        assert_lacks(text, "hidden1.weight");
        assert_lacks(text, "classes.weight");
    }
    assert_lacks(run(0, "inspect base/checkpoint.h5").out, "base_digest");
}

static void assert_same_run(const char *a, const char *b) {
    assert_files_equal(format("%s/checkpoint.h5", a), format("%s/checkpoint.h5", b));
    assert_files_equal(format("%s/best.h5", a), format("%s/best.h5", b));
}

static void test_resume(void **state) {
    (void)state;
    run(0, "train adapted.yaml --out paused train.steps=5");
    run(0, "train --resume paused train.steps=12");
    run(0, "train --resume paused train.steps=0");
    assert_same_run("plain", "paused");
}

static void test_kill(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        const char *command = i ? "train --resume killed" : "train adapted.yaml --out killed";
        pid_t child = program_start((Start){0}, command);
        for (int wait = 0; wait < 2000 && !file_exists("killed/checkpoint.h5"); wait++)
            usleep(1000);
        usleep((unsigned)(i * 7000));
        kill(child, SIGKILL);
        program_wait(child);
    }
    run(0, "train --resume killed");
    assert_same_run("plain", "killed");
}

static void test_eval(void **state) {
    (void)state;
    Json *json = json_of(run(0, "eval plain --json").out);
    Json *summary = json_of(file_text("plain/summary.json"));
    Json *base = json_of(run(0, "eval base --json").out);
    assert_true(number_of(json, "test.loss") == number_of(summary, "test.loss"));
    assert_true(number_of(json, "test.loss") != number_of(base, "test.loss"));
    json_free(json);
    json_free(summary);
    json_free(base);
}

static void test_base_may_move(void **state) {
    (void)state;
    run(0, "train base.yaml --out moving");
    run(0, "train adapted.yaml --out follows train.init=moving train.steps=7");
    assert_int_equal(rename("moving", "moved"), 0);
    Result result = run(2, "train --resume follows");
    assert_has(result.err, "train.init: ");
    assert_has(result.err, "/moving is no checkpoint, nor a run directory with one (No such file");
    result = run(2, "eval follows");
    assert_has(result.err, "follows/config.yaml:");
    assert_has(result.err, ": train.init: ");
    assert_has(result.err, "/moving is no checkpoint");
    run(0, "eval follows train.init=moved");
    run(0, "train --resume follows train.init=moved train.steps=0");
    assert_same_run("plain", "follows"); /* where it lies is not in the files */
    assert_has(file_text("follows/config.yaml"), "/moved\"\n");
}

static void test_another_base_is_refused(void **state) {
    (void)state;
    run(0, "train base.yaml --out other seed=2");
    run(0, "train adapted.yaml --out true train.steps=7");
    file_copy("true/checkpoint.h5", "kept");
    Result result = run(2, "train --resume true train.init=other train.steps=0");
    assert_has(result.err, "true/checkpoint.h5 stands on another base (digest ");
    assert_has(result.err, ") than other is now (");
    assert_has(result.err, "say where that network lies (train.init=RUN), or start a new run");
    assert_has(run(2, "eval true train.init=other").err, "stands on another base (digest ");
    assert_files_equal("true/checkpoint.h5", "kept");
    assert_lacks(file_text("true/config.yaml"), "other");
    run(0, "train --resume true train.steps=0");
}

static void test_is_no_whole_network(void **state) {
    (void)state;
    static const char part[] = "holds an adapter alone, and not the network that it stands on; "
                               "merge both ('nibble merge RUN --out DIR')";
    assert_has(run(2, "train base.yaml --out refused train.init=plain").err, part);
    const char *message = run(2, "train adapted.yaml --out refused train.init=plain/best.h5").err;
    assert_has(message, part);
    assert_has(message, "command line: train.init=plain/best.h5: train.init: plain/best.h5 holds");
    assert_false(file_exists("refused"));
}

static void test_teacher(void **state) {
    (void)state;
    const char *losses[2];
    static const char *const teachers[] = {"plain", "base"};
    for (int i = 0; i < 2; i++) {
        run(0, "train base.yaml --out taught --force train.distill.teacher=%s", teachers[i]);
        losses[i] = file_text("taught/metrics.jsonl");
    }
    assert_string_not_equal(losses[0], losses[1]);
    assert_int_equal(rename("base", "away"), 0);
    assert_has(run(2, "train base.yaml --out taught --force train.distill.teacher=plain").err,
               "train.distill.teacher: plain: plain/config.yaml:");
    assert_int_equal(rename("away", "base"), 0);
}

/* ---- PEFT ---- */

#define FROM                                                                                       \
    MODEL PROGRAM_DATA "optimizer: {kind: sgd, lr: 0}\n"                                           \
                       "train: {epochs: 1, init: base}\n"                                          \
                       "adapter: {kind: lora, from: peft}\n"

static double loss_of(const char *directory) {
    Json *json = json_of(run(0, "eval %s --json", directory).out);
    double loss = number_of(json, "test.loss");
    json_free(json);
    return loss;
}

static void test_out_and_in_again(void **state) {
    (void)state;
    static const char *const forms[] = {"adapter.rslora=true", "adapter.dora=true"};
    text_file("from.yaml", FROM);
    for (int i = 0; i < 2; i++) {
        run(0, "train adapted.yaml --out first %s --force", forms[i]);
        assert_has(run(0, "export first --format peft --out peft --force").out,
                   "peft: the adapter alone, as PEFT keeps it\n");
        run(0, "train from.yaml --out second --force");
        assert_true(loss_of("first") == loss_of("second"));
        assert_has(file_text("second/config.yaml"), "  rank: 3\n  alpha: 6\n");
    }
    run(0, "train from.yaml --out third train.steps=2");
    remove_tree("peft");
    run(0, "train --resume third train.steps=0"); /* it has what it needs */
    assert_files_equal("second/checkpoint.h5", "third/checkpoint.h5");
}

static void test_out_is_refused(void **state) {
    (void)state;
    run(0, "export plain --format peft --out taken");
    assert_has(run(2, "export plain --format peft --out taken").err,
               "taken/adapter_config.json is there already; replace it with --force");
    assert_has(run(2, "export plain --out other").err, "give --format, one of: peft");
    assert_has(run(2, "export plain --format gguf --out new").err,
               "unknown format 'gguf'; known: peft");
    assert_has(run(2, "export plain --format peft").err,
               "give --out DIR, where the files are written");
    assert_has(run(2, "export base --format peft --out new").err,
               "base: the run has no adapter: all of its weights were trained; PEFT's format is");
}

static void test_in_is_refused(void **state) {
    (void)state;
    text_file("from.yaml", FROM);
    run(0, "export plain --format peft --out peft --force");
    assert_has(run(2, "train from.yaml --out refused adapter.rank=4").err,
               "command line: adapter.rank=4: adapter.rank: peft says what the adapter is "
               "(adapter.from); leave this out");
    assert_has(run(2, "train from.yaml --out refused adapter.from=gone").err,
               "command line: adapter.from=gone: gone/adapter_config.json: ");
    run(0, "train base.yaml --out wide model.widths=[24,17]");
    assert_has(run(2, "train from.yaml --out refused model.widths=[24,17] train.init=wide").err,
               "peft/adapter_model.safetensors is for another base: "
               "'base_model.model.hidden2.lora_B.weight' is [16, 3], and for hidden2 it must be "
               "[17, 3]");
    assert_has(
        run(2, "train from.yaml --out refused model.widths=[24] train.init=wide").err,
        "peft is for another base: adapter.target: 'hidden2' is the name of no linear layer");
}

/* ---- Merging ---- */

static void test_merge(void **state) {
    (void)state;
    const char *text = run(0, "merge plain --out merged").out;
    assert_has(text, "kept of the update             gain       SQNR\n");
    assert_has(text, "requantized                       -          -\n");
    assert_has(text, "layers, route dequantized\nhidden1 ");
    assert_has(text, "nats, over 100 rows of the test set; ");
    assert_has(text, "merged: merged\n");
    text = run(0, "inspect merged/model.safetensors").out;
    assert_has(text, "hidden1.weight  F16 [24, 64]\n");
    assert_has(text, "classes.bias  F16 [4]\n");
    assert_lacks(text, "lora");
    Json *json = json_of(run(0, "merge plain --out again --route f16 --json").out);
    assert_string_equal(json_get_text(json, "route"), "f16");
    assert_true(fraction_of(json, "routes.f16.gain") > 0.99);
    assert_true(number_of(json, "routes.f16.sqnr_db") > 30);
    assert_true(number_of(json, "routes.dequantized.gain") == number_of(json, "routes.f16.gain"));
    assert_int_equal(json_type_at(json, "routes.requantized"), JSON_ABSENT);
    assert_int_equal(json_count(json, "layers"), 2);
    assert_true(number_of(json, "layers.1.f16.gain") > 0.99);
    assert_true(number_of(json, "kl") > 0 && number_of(json, "kl") < 1e-4);
    assert_true(number_of(json, "rows") == 100 && number_of(json, "outputs") == 100);
    assert_true(fraction_of(json, "changed") <= 1);
    json_free(json);
    assert_files_equal("merged/model.safetensors", "again/model.safetensors");
    assert_false(file_exists("merged/config.json"));
}

static void test_merge_is_refused(void **state) {
    (void)state;
    run(0, "merge plain --out full");
    assert_has(run(2, "merge plain --out full").err,
               "full/model.safetensors is there already; name another --out");
    assert_has(run(2, "merge plain").err, "give --out DIR, where the merged network is written");
    text_file("sample.txt", "a text");
    assert_has(run(2, "merge plain --out none --text sample.txt").err,
               "--text: this network reads no text");
    assert_has(
        run(2, "merge plain --out none --route best").err,
        "unknown route 'best'; known: f16 (the weights as they were, and the update), "
        "dequantized (the network that was trained), requantized (on the base's grid again)");
    assert_has(run(2, "merge plain --out none --route requantized").err,
               "--route requantized: the base is not stored in few bits (f32), so there is no grid "
               "to go back to; take --route f16");
    assert_has(
        run(2, "merge base --out none").err,
        "base has no adapter: all of its weights were trained, and there is nothing to merge");
    assert_false(file_exists("none"));
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
        cmocka_unit_test(test_holds_the_adapter_alone),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_eval),
        cmocka_unit_test(test_base_may_move),
        cmocka_unit_test(test_another_base_is_refused),
        cmocka_unit_test(test_is_no_whole_network),
        cmocka_unit_test(test_teacher),
        cmocka_unit_test(test_out_and_in_again),
        cmocka_unit_test(test_out_is_refused),
        cmocka_unit_test(test_in_is_refused),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_is_refused),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
