#include "experiments/settings/config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/settings/yaml.h"
#include "data/dataset.h"
#include "experiments/adapter/import.h"
#include "experiments/models/models.h"
#include "experiments/settings/override.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "qat/adapter.h"
#include "qat/ptq.h"

static const char *const precisions[] = {"f32", "f16", "bf16", NULL};
static const Dtype precision_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
static const char *const grads[] = {"half", "f32", NULL};
static const char *const recomputations[] = {"none", "cheap", "block", NULL};

Dtype config_half(const ExperimentConfig *config) {
    return precision_dtypes[config->precision];
}

static const Field distill_fields[] = {
    FIELD_STRING(
        DistillConfig, teacher, REQUIRED,
        "run directory of the teacher, the network that it reports; it may move, not change",
        .may_change = true, .is_path = true),
    FIELD_FLOAT(DistillConfig, weight, "0.5", 0, 1,
                "of the teacher in the loss; the labels have the rest"),
    FIELD_FLOAT(DistillConfig, temperature, "4", 0.01, 1000,
                "by which both networks' logits are divided"),
    FIELD_END,
};

const Field train_fields[] = {
    FIELD_FLOAT(TrainConfig, epochs, "10", 0, 1e6, "passes over the training images"),
    FIELD_INT(TrainConfig, steps, "0", 0, INT32_MAX,
              "stop after this step, with schedules as for all epochs; 0: do not",
              .may_change = true),
    FIELD_INT(TrainConfig, accumulate, "1", 1, 65536, "batches whose gradients make one step"),
    FIELD_INT(TrainConfig, checkpoint_every, "0", 0, INT32_MAX,
              "steps between saves; 0: at the end of each epoch", .may_change = true),
    FIELD_INT(TrainConfig, log_every, "50", 1, INT32_MAX, "steps between lines of metrics.jsonl"),
    FIELD_INT(
        TrainConfig, shadow_every, "0", 0, INT32_MAX,
        "steps between looks at what quantization does to each layer (metrics.jsonl); 0: none",
        .may_change = true),
    FIELD_FLOAT(TrainConfig, label_smoothing, "0", 0, 0.9,
                "share of the target given to all classes"),
    FIELD_CHOICE(TrainConfig, grad, "half", grads,
                 "precision of a batch's weight gradients where `precision` is half; batches are "
                 "summed in f32"),
    FIELD_CHOICE(TrainConfig, recompute, "none", recomputations,
                 "what backward reads of a block (a residual) is made again instead of kept: less "
                 "memory, more time. cheap: of norms, gates, dropouts; block: everything. The same "
                 "bits; cheap: in f32",
                 .may_change = true),
    FIELD_STRING(TrainConfig, init, "",
                 "run directory or checkpoint to take the weights from (averaged where it has "
                 "averages), and where `quant` is the same, ranges; with an adapter, it is read "
                 "whenever the run is",
                 .may_change = true, .is_path = true),
    FIELD_OPTIONAL(TrainConfig, distill, DistillConfig, distill_fields,
                   "a trained network as a teacher beside the labels (Hinton et al. 2015)"),
    FIELD_END,
};

const Field calibration_fields[] = {
    FIELD_INT(CalibrationConfig, rows, "512", 1, INT32_MAX,
              "training images that 'nibble quantize' looks at: the first, not augmented, "
              "validation left out"),
    FIELD_INT(CalibrationConfig, batch, "64", 1, 65536,
              "of them at a time, every value in memory; learned ranges come from the first batch"),
    FIELD_END,
};

const Field experiment_fields[] = {
    FIELD_INT(ExperimentConfig, seed, "1", 0, 9007199254740991, "key of everything random"),
    FIELD_VARIANT(ExperimentConfig, model, REQUIRED, &model_kinds, "the network"),
    FIELD_VARIANT(ExperimentConfig, data, REQUIRED, &dataset_kinds,
                  "the images, and how they are fed"),
    FIELD_CHOICE(ExperimentConfig, precision, "f32", precisions,
                 "of activations, their gradients, and weights in products"),
    FIELD_STRUCT(ExperimentConfig, quant, qat_fields, "quantization"),
    FIELD_VARIANT(ExperimentConfig, adapter, "null", &adapter_kinds,
                  "what is trained in the place of the network's own weights, which stay as "
                  "train.init has them; none: the weights are",
                  .omits_zero = true),
    FIELD_VARIANT(ExperimentConfig, optimizer, "sgd", &optimizer_kinds, "how weights are updated"),
    FIELD_VARIANT(ExperimentConfig, schedule, "cosine", &schedule_kinds,
                  "the learning rate's course"),
    FIELD_STRUCT(ExperimentConfig, train, train_fields, "how long, how often"),
    FIELD_STRUCT(ExperimentConfig, calibration, calibration_fields,
                 "the data of 'nibble quantize'; training does not read it", .is_aside = true),
    FIELD_VARIANTS(ExperimentConfig, quantize, "[]", &ptq_kinds,
                   "methods of 'nibble quantize', one after the other; []: round. Training refuses "
                   "any",
                   .is_aside = true),
    FIELD_END,
};

static void print_line(void *context, const char *text) {
    (void)context;
    log_write(LOG_ERROR, "%s", text);
}

bool config_report(const Faults *faults, const char *name, const char *topic, Error *err) {
    if (!faults->count) return true;
    faults_print(faults, faults->arena, print_line, NULL);
    return FAIL(err, ERROR_INPUT,
                "%s: %d mistake%s in the configuration; 'nibble help %s' lists "
                "every setting",
                name, faults->count, faults->count == 1 ? "" : "s", topic);
}

/* `{kind: sgd, momentum: 0}` may also be written `{sgd: {momentum: 0}}`. */
static const Node *inner_map(const Node *node) {
    return node->type == NODE_MAP && node->count == 1 ? node->first : NULL;
}

static const Node *child_named(const Node *node, const char *name, size_t length, Arena *arena) {
    const Node *child = NULL;
    if (node->type == NODE_LIST) {
        child = node->first;
        for (int i = atoi(name); i > 0 && child; i--) child = child->next;
    } else if (node->type == NODE_MAP) {
        child = node_find(node, arena_format(arena, "%.*s", (int)length, name));
    }
    return child;
}

Mark config_mark(const Node *root, const char *path, Arena *arena) {
    const Node *node = root;
    while (*path) {
        size_t length = strcspn(path, ".");
        const Node *child = child_named(node, path, length, arena), *inner = inner_map(node);
        if (!child && inner) child = child_named(inner, path, length, arena);
        if (!child) break;
        node = child;
        path += length + (path[length] == '.');
    }
    return node->mark;
}

void config_place(const ExperimentConfig *config, Error *err) {
    if (err->code == ERROR_NONE || !err->setting[0] || !config->places) return;
    Arena *arena = arena_new("place");
    Mark mark = config_mark(config->places, err->setting, arena);
    if (mark.line) {
        error_prefix(err, "%s:%d:%d", mark.file, mark.line, mark.column);
    } else if (mark.file) {
        error_prefix(err, "%s", mark.file);
    }
    err->setting[0] = '\0'; /* said */
    arena_free(arena);
}

/* Where a mistake was reported already, this one is likely its consequence. */
static void add_contradiction(const Node *root, const Error *err, Faults *faults) {
    Mark mark = config_mark(root, err->setting, faults->arena);
    for (const Fault *f = faults->first; f; f = f->next)
        if (f->mark.line && f->mark.line == mark.line && f->mark.column == mark.column) return;
    faults_add(faults, mark, "%s", err->message);
}

/* What each setting alone does not show. Sections with an unknown kind were reported already; where
 * a required setting has no value, there is nothing to compare. */
static void check_sections(const ExperimentConfig *config, const Node *root, Faults *faults) {
    if (faults->missing) return;
    Error optimizer = {0}, model = {0}, quant = {0};
    if (config->optimizer.kind && !optimizer_check(&config->optimizer, &optimizer))
        add_contradiction(root, &optimizer, faults);
    if (config->model.kind && !models_check(&config->model, faults->arena, &model))
        add_contradiction(root, &model, faults);
    if (!qat_check(&config->quant, &quant)) add_contradiction(root, &quant, faults);
}

static bool resolve(Node *root, const char *name, int override_count, char *const *overrides,
                    Arena *arena, Faults *faults, ExperimentConfig *config, Error *err) {
    for (int i = 0; i < override_count; i++)
        override_apply(experiment_fields, root, overrides[i], i + 1, arena, faults);
    *config = (ExperimentConfig){.places = root};
    fields_read(experiment_fields, root, root->mark, config, arena, faults);
    check_sections(config, root, faults);
    return config_report(faults, name, "config", err);
}

bool config_read_tree(Node *root, const char *name, Arena *arena, ExperimentConfig *config,
                      Error *err) {
    Faults faults = {.arena = arena};
    return resolve(root, name, 0, NULL, arena, &faults, config, err);
}

/* Of a text that is no YAML at all, what was noticed before. */
static bool report_unread(const Faults *faults, const char *name) {
    Error ignored = {0};
    config_report(faults, name, "config", &ignored);
    return false;
}

bool config_read(const char *path, int override_count, char *const *overrides, Arena *arena,
                 ExperimentConfig *config, Error *err) {
    Faults faults = {.arena = arena};
    Node *root = NULL;
    bool ok = yaml_read_file(path, arena, &root, &faults, err)
                  ? resolve(root, path, override_count, overrides, arena, &faults, config, err)
                  : report_unread(&faults, path);
    if (!ok || import_settings(config, arena, err)) return ok;
    config_place(config, err);
    return false;
}

static bool read_text(const char *text, size_t bytes, const char *name, int override_count,
                      char *const *overrides, Arena *arena, ExperimentConfig *config, Error *err) {
    Faults faults = {.arena = arena};
    Node *root = NULL;
    return yaml_read_text(text, bytes, name, arena, &root, &faults, err)
               ? resolve(root, name, override_count, overrides, arena, &faults, config, err)
               : report_unread(&faults, name);
}

bool config_read_text(const char *text, const char *name, int override_count,
                      char *const *overrides, Arena *arena, ExperimentConfig *config, Error *err) {
    return read_text(text, strlen(text), name, override_count, overrides, arena, config, err);
}

static bool fail_fixed(const char *override, Error *err) {
    Arena *arena = arena_new("setting");
    (void)FAIL(err, ERROR_INPUT, "'%s' cannot change in a run; these can: %s", override,
               fields_changeable(experiment_fields, arena));
    arena_free(arena);
    return false;
}

/* Where an adapter's base lies may change; other runs have taken their weights already. */
static bool check_init_overrides(const ExperimentConfig *config, int count, char *const *overrides,
                                 Error *err) {
    for (int i = 0; i < count && !config->adapter.kind; i++)
        if (!strncmp(overrides[i], "train.init=", 11)) return fail_fixed(overrides[i], err);
    return true;
}

bool config_read_run(const char *path, int override_count, char *const *overrides, Arena *arena,
                     ExperimentConfig *config, Error *err) {
    size_t bytes;
    const char *text = file_read(path, YAML_BYTES_MAX, arena, &bytes, err);
    return text && read_text(text, bytes, path, override_count, overrides, arena, config, err) &&
           check_init_overrides(config, override_count, overrides, err);
}

/* ---- Quantizing a trained run ---- */

static const char *const quantize_sections[] = {"quant", "calibration", "quantize"};
enum { QUANTIZE_SECTIONS = sizeof quantize_sections / sizeof *quantize_sections };

static bool is_quantize_section(const char *name, size_t length) {
    for (int i = 0; i < QUANTIZE_SECTIONS; i++)
        if (strlen(quantize_sections[i]) == length && !memcmp(quantize_sections[i], name, length))
            return true;
    return false;
}

/* Puts the sections of `from` in the place of those of `run`. */
static void take_sections(Node *run, Node *from, const char *run_path, Faults *faults) {
    for (int i = 0; i < QUANTIZE_SECTIONS; i++) {
        Node *old = node_find(run, quantize_sections[i]);
        if (old) node_remove(run, old);
    }
    for (Node *node = from->first, *next; node; node = next) {
        next = node->next;
        if (is_quantize_section(node->key, strlen(node->key)))
            node_append(run, node_copy(faults->arena, node));
        else
            faults_add(faults, node->key_mark,
                       "'%s' comes from %s: here stand quant, calibration and quantize alone",
                       node->key, run_path);
    }
}

/* What may change in a run and is not about its training: of the data. */
static const Field *data_fields(Field out[2]) {
    for (const Field *f = experiment_fields; f->type != FIELD_TYPE_END; f++)
        if (!strcmp(f->name, "data")) out[0] = *f;
    out[1] = (Field)FIELD_END;
    return out;
}

static bool check_quantize_override(const char *override, Arena *arena, Error *err) {
    Field rows[2];
    const Field *data = data_fields(rows);
    const char *name = override + (*override == '~');
    const char *path = arena_format(arena, "%.*s", (int)strcspn(name, "="), name);
    const Field *field = fields_find(data, path);
    if (is_quantize_section(path, strcspn(path, ".")) || (field && field->may_change)) return true;
    return FAIL(err, ERROR_INPUT,
                "'%s' comes from the run and stays; these can be given: quant, calibration, "
                "quantize, %s",
                override, fields_changeable(data, arena));
}

static void round_at_least(ExperimentConfig *config, Arena *arena) {
    if (config->quantize.count) return;
    Variant *round = arena_new_array(arena, Variant, 1);
    *round = (Variant){.kind = &ptq_method_round.kind};
    config->quantize = (List){1, round};
}

bool config_read_quantize(const char *run_path, const char *path, int override_count,
                          char *const *overrides, Arena *arena, ExperimentConfig *config,
                          Error *err) {
    Faults faults = {.arena = arena};
    Node *run = NULL, *own = NULL;
    size_t bytes;
    for (int i = 0; i < override_count; i++) TRY(check_quantize_override(overrides[i], arena, err));
    const char *text = file_read(run_path, YAML_BYTES_MAX, arena, &bytes, err);
    if (!text || !yaml_read_text(text, bytes, run_path, arena, &run, &faults, err) ||
        !yaml_read_file(path, arena, &own, &faults, err))
        return report_unread(&faults, path);
    take_sections(run, own, run_path, &faults);
    run->mark = own->mark; /* what is missing is missing there */
    TRY(resolve(run, path, override_count, overrides, arena, &faults, config, err));
    round_at_least(config, arena);
    config->train.distill = NULL; /* nobody is taught */
    Error order = {0};
    if (ptq_check(&config->quantize, &order)) return true;
    config_place(config, &order);
    *err = order;
    return false;
}

bool config_check_trains(const ExperimentConfig *config, Error *err) {
    if (!config->quantize.count) return true;
    (void)(FAIL(err, ERROR_INPUT,
                "quantize: training runs no PTQ methods: train without them, then 'nibble "
                "quantize RUN CONFIG --out DIR'; QAT starts from that with train.init=DIR") ||
           error_blame(err, "quantize"));
    config_place(config, err);
    return false;
}

Node *config_tree(const ExperimentConfig *config, Arena *arena) {
    char buffer[PATH_MAX];
    const char *directory = getcwd(buffer, sizeof buffer); /* NULL: paths stay relative */
    return fields_write_in(experiment_fields, config, directory, arena);
}

const char *config_write(const ExperimentConfig *config, Arena *arena) {
    return node_to_yaml(config_tree(config, arena), arena);
}

bool config_check_free(const char *override, Error *err) {
    Arena *arena = arena_new("setting");
    const char *path = arena_format(arena, "%.*s", (int)strcspn(override, "="), override);
    const Field *field = fields_find(experiment_fields, path);
    bool is_free = field && field->may_change;
    arena_free(arena);
    return is_free || fail_fixed(override, err);
}

const char *config_write_fixed(const ExperimentConfig *config, Arena *arena) {
    return node_to_yaml(fields_write_fixed(experiment_fields, config, arena), arena);
}
