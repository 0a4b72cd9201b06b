/* Any bytes as checkpoint.h5 behind its digest: where the training stands, every tensor of any
 * dtype, and all of it into the experiment that tests/fuzz/make_seeds.py trains: what is accepted
 * is a network of finite numbers. */
#include "experiments/train/checkpoint.h"
#include "core/floats.h"
#include "data/stored.h"
#include "experiments/train/experiment.h"
#include "tests/fuzz/sealed.h"

/* TINY of make_seeds.py. */
static const char config_text[] =
    "seed: 1\n"
    "model: {kind: mlp, widths: [2]}\n"
    "data: {kind: synthetic, classes: 2, height: 2, width: 2, train: 16, test: 4, batch: 4, "
    "validation: 4}\n"
    "optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}\n"
    "train: {epochs: 1}\n"
    "quant: {bits: 4}\n";

/* Made once; every input overwrites it. */
static const Experiment *open_experiment(void) {
    static Experiment experiment;
    static ExperimentConfig config;
    static Arena *arena; /* stays: for LeakSanitizer it must be seen */
    Error err = {0};
    if (arena) return &experiment;
    arena = arena_new("config");
    FUZZ_CHECK(config_read_text(config_text, "fuzz", 0, NULL, arena, &config, &err));
    FUZZ_CHECK(experiment_open(&config, arena, &experiment, &err));
    return &experiment;
}

/* What an input that was refused half-way left there is not the next one's. */
static void reset_network(const Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        for (int64_t j = 0; j < tensor_count(&p->value); j++) tensor_f32(&p->value)[j] = 1;
    }
}

static void check_network(const Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        float low = p->is_positive ? 0 : -FLT_MAX;
        FUZZ_CHECK(floats_find_unfit(tensor_f32(&p->value), tensor_count(&p->value), low) < 0);
    }
}

/* As one configured as the file says, so that tensors are met whatever stands there; as the
 * experiment; and for weights alone. */
static void load(const Checkpoint *checkpoint, Arena *arena) {
    const Experiment *e = open_experiment();
    Error ignored = {0};
    const char *saved = h5_read_text(checkpoint->reader, "config", arena, &ignored);
    const char *const texts[] = {saved ? saved : "", e->fixed_text, ""};
    for (int way = 0; way < 6; way++) {
        const char *text = texts[way / 2];
        Error err = {0};
        reset_network(e->model);
        if (way % 2 ? checkpoint_init(checkpoint, text, e->model, &err)
                    : checkpoint_load(checkpoint, text, e->model, e->optimizer, &err))
            check_network(e->model);
        else
            fuzz_check_refusal(&err);
    }
}

static void read_tensors(const H5Reader *reader, const char *group, int depth, Arena *arena) {
    const char **names;
    int count;
    Error err = {0};
    Tensor tensor;
    if (depth > 3 || !h5_read_names(reader, group, arena, &names, &count, &err)) return;
    for (int i = 0; i < count; i++) {
        const char *name = arena_format(arena, "%s%s%s", group, *group ? "/" : "", names[i]);
        err = (Error){0};
        if (!stored_read_new(reader, name, arena, &tensor, &err)) {
            fuzz_check_refusal(&err);
            read_tensors(reader, name, depth + 1, arena);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("file");
    Checkpoint checkpoint = {0};
    Error err = {0};
    const char *path = sealed_file("checkpoint.h5", (FuzzPart){data, bytes}, scratch);
    if (checkpoint_open(path, arena, &checkpoint, &err)) {
        FUZZ_CHECK(checkpoint.cursor.step >= 0 && checkpoint.facts.images > 0);
        read_tensors(checkpoint.reader, "", 0, scratch);
        load(&checkpoint, scratch);
    } else {
        fuzz_check_refusal(&err);
    }
    checkpoint_close(&checkpoint);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
