#include "experiments/train/checkpoint.h"

#include <float.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "data/stored.h"

/* Version 3 names the best network by its digest; from version 2 on there are facts of the data. */
enum { FORMAT_VERSION = 3, OLDEST_VERSION = 2, NAME_BYTES = 512 };

/* ---- Saving ---- */

static bool write_state(void *context, const char *name, Tensor value) {
    char path[NAME_BYTES];
    snprintf(path, sizeof path, "optimizer/%s", name);
    stored_write(context, path, &value);
    return true;
}

/* The integers among the facts, and what they are called. */
typedef struct FactRow {
    const char *name;
    size_t offset;
    int64_t max;
} FactRow;

static const FactRow fact_rows[] = {
    {"images", offsetof(DataFacts, images), INT64_MAX},
    {"height", offsetof(DataFacts, height), DATASET_SIDE_MAX},
    {"width", offsetof(DataFacts, width), DATASET_SIDE_MAX},
    {"channels", offsetof(DataFacts, channels), DATASET_SIDE_MAX},
    {"classes", offsetof(DataFacts, class_count), DATASET_TOKENS_MAX},
};
enum { FACT_ROWS = sizeof fact_rows / sizeof *fact_rows };

/* What /progress holds of a Cursor, and what each can be: from `low` to `high`, plus `per_step`
 * times the steps done. The step comes first. */
typedef struct ProgressRow {
    const char *name;
    size_t offset;
    bool is_float;
    double low, high, per_step;
} ProgressRow;

static const ProgressRow progress_rows[] = {
    {"step", offsetof(Cursor, step), false, 0, 0x1p40, 0},
    /* a step's loss, its shadow, and an evaluation */
    {"metric_lines", offsetof(Cursor, metric_lines), false, 0, 0, 3},
    {"best_step", offsetof(Cursor, best_step), false, 0, 0, 1},
    {"best_score", offsetof(Cursor, best_score), true, -DBL_MAX, DBL_MAX, 0},
    {"loss_average", offsetof(Cursor, loss_average), true, -DBL_MAX, DBL_MAX, 0},
    {"loss_scale", offsetof(Cursor, loss_scale.scale), true, 1, LOSS_SCALE_MAX, 0},
    {"clean_steps", offsetof(Cursor, loss_scale.clean_steps), false, 0, LOSS_SCALE_PATIENCE, 0},
    {"skipped_steps", offsetof(Cursor, loss_scale.skipped), false, 0, 0, 1},
    {"stuck_steps", offsetof(Cursor, loss_scale.stuck), false, 0, LOSS_SCALE_STUCK_MAX, 0},
};
enum { PROGRESS_ROWS = sizeof progress_rows / sizeof *progress_rows };

static const char base_name[] = "base_digest", tokenizer_name[] = "data/tokenizer_digest";

static void write_progress(H5Writer *w, const Cursor *cursor) {
    for (int i = 0; i < PROGRESS_ROWS; i++) {
        const ProgressRow *row = &progress_rows[i];
        const void *at = (const char *)cursor + row->offset;
        if (row->is_float)
            h5_write_float(w, "progress", row->name, *(const double *)at);
        else
            h5_write_int(w, "progress", row->name, *(const int64_t *)at);
    }
    h5_write_text(w, "progress/best_digest", cursor->best_digest);
    if (*cursor->teacher_digest) h5_write_text(w, "teacher_digest", cursor->teacher_digest);
    if (*cursor->base_digest) h5_write_text(w, base_name, cursor->base_digest);
}

static void write_facts(H5Writer *w, const DataFacts *f) {
    for (int i = 0; i < FACT_ROWS; i++) {
        const char *at = (const char *)f + fact_rows[i].offset;
        h5_write_int(w, "data", fact_rows[i].name, *(const int64_t *)(const void *)at);
    }
    h5_write_int(w, "data", "is_float", f->pixel_type); /* 2: tokens */
    h5_write_tensor(w, "data/mean", H5_F32, SHAPE(f->channels), f->mean);
    h5_write_tensor(w, "data/deviation", H5_F32, SHAPE(f->channels), f->deviation);
    h5_write_text(w, "data/images_digest", f->images_digest);
    h5_write_text(w, "data/labels_digest", f->labels_digest);
    if (*f->tokenizer_digest) h5_write_text(w, tokenizer_name, f->tokenizer_digest);
}

static uint64_t expected_bytes(const Model *model) {
    uint64_t bytes = 1 << 16;
    for (int i = 0; i < model->param_count; i++) {
        const Tensor *value = &model->params[i]->value;
        if (model->params[i]->is_base) continue;
        bool is_master = value->dtype == DTYPE_F32; /* with up to two states and an average */
        bytes += tensor_bytes(value) * (is_master ? 4 : 1);
        if (model->params[i]->origin) bytes += tensor_bytes(value);
    }
    return bytes;
}

/* Where it is not what the master says. */
static void write_origin(H5Writer *w, const Param *p) {
    size_t bytes = sizeof(float) * (size_t)tensor_count(&p->value);
    char name[NAME_BYTES];
    if (!p->origin || !memcmp(p->origin, p->value.data, bytes)) return;
    snprintf(name, sizeof name, "origin/%s", p->name);
    h5_write_tensor(w, name, H5_F32, p->value.shape, p->origin);
}

bool checkpoint_save(const char *path, const char *previous, const char *config_text,
                     const DataFacts *facts, const Cursor *cursor, Model *model,
                     Optimizer *optimizer, Error *err) {
    Arena *arena = arena_new("checkpoint");
    H5Writer *w = h5_write_begin(path, expected_bytes(model), arena, err);
    bool ok = w != NULL;
    if (ok) {
        h5_write_int(w, "", "format_version", FORMAT_VERSION);
        h5_write_text(w, "config", config_text);
        write_facts(w, facts);
        write_progress(w, cursor);
        for (int i = 0; i < model->param_count; i++) {
            const Param *p = model->params[i];
            char name[NAME_BYTES];
            if (p->is_base) continue;
            snprintf(name, sizeof name, "params/%s", p->name);
            stored_write(w, name, &p->value);
            write_origin(w, p);
        }
        optimizer_visit(optimizer, write_state, w);
        ok = h5_write_commit(w, previous, err);
    }
    arena_free(arena);
    return ok;
}

/* ---- Loading ---- */

typedef struct Source {
    H5Reader *reader;
    Error *err;
    const Optimizer *optimizer; /* that is read, or NULL */
} Source;

static bool check_version(const Checkpoint *c, int oldest, Error *err) {
    if (c->version == 1 && oldest > 1)
        return FAIL(err, ERROR_INPUT,
                    "%s: format version 1, which does not say what images the network was trained "
                    "on; train again (train.init=%s starts from its weights)",
                    c->path, c->path);
    if (c->version < oldest || c->version > FORMAT_VERSION)
        return FAIL(err, ERROR_INPUT, "%s: format version %ld; this nibble reads version %d",
                    c->path, (long)c->version, FORMAT_VERSION);
    return true;
}

static bool read_state(void *context, const char *name, Tensor value) {
    const Source *s = context;
    char path[NAME_BYTES];
    snprintf(path, sizeof path, "optimizer/%s", name);
    if (value.dtype != DTYPE_F32) return stored_read(s->reader, path, &value, s->err);
    float least = optimizer_is_unsigned(s->optimizer, name) ? 0 : -FLT_MAX;
    return stored_read_floats(s->reader, path, value.shape, least, value.data, s->err);
}

static bool read_digest(const Source *s, const char *name, Arena *arena, char *digest) {
    const char *text = h5_read_text(s->reader, name, arena, s->err);
    if (!text) return false;
    if (strlen(text) != FACTS_DIGEST_BYTES - 1 ||
        strspn(text, "0123456789abcdef") != FACTS_DIGEST_BYTES - 1)
        return FAIL(s->err, ERROR_INPUT, "%s: \"%s\" is no digest of 32 hexadecimal digits",
                    h5_read_path(s->reader), name);
    snprintf(digest, FACTS_DIGEST_BYTES, "%s", text);
    return true;
}

/* Empty where the file has none. */
static bool read_other_digest(const Source *s, const char *name, Arena *arena,
                              char digest[ENVELOPE_DIGEST_TEXT]) {
    bool exists;
    TRY(h5_read_exists(s->reader, name, &exists, s->err));
    return !exists || read_digest(s, name, arena, digest);
}

static bool read_facts(const Source *s, Arena *arena, DataFacts *f) {
    for (int i = 0; i < FACT_ROWS; i++) {
        int64_t *value = (int64_t *)(void *)((char *)f + fact_rows[i].offset);
        TRY(h5_read_int(s->reader, "data", fact_rows[i].name, value, s->err));
        if (*value < 1 || *value > fact_rows[i].max)
            return FAIL(s->err, ERROR_INPUT, "%s: data: %s is %ld", h5_read_path(s->reader),
                        fact_rows[i].name, (long)*value);
    }
    int64_t is_float;
    float *mean = arena_new_array(arena, float, f->channels);
    float *deviation = arena_new_array(arena, float, f->channels);
    Shape channels = SHAPE(f->channels);
    TRY(h5_read_int(s->reader, "data", "is_float", &is_float, s->err));
    TRY(stored_read_floats(s->reader, "data/mean", channels, -FLT_MAX, mean, s->err));
    TRY(stored_read_floats(s->reader, "data/deviation", channels, FLT_MIN, deviation, s->err));
    f->pixel_type = is_float == PIXEL_TOKENS ? PIXEL_TOKENS : is_float ? PIXEL_F32 : PIXEL_U8;
    f->mean = mean;
    f->deviation = deviation;
    return read_digest(s, "data/images_digest", arena, f->images_digest) &&
           read_digest(s, "data/labels_digest", arena, f->labels_digest) &&
           read_other_digest(s, tokenizer_name, arena, f->tokenizer_digest);
}

static bool read_param(const Source *s, Param *p) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "params/%s", p->name);
    if (!p->is_positive) return stored_read(s->reader, name, &p->value, s->err);
    return stored_read_floats(s->reader, name, p->value.shape, 0, tensor_f32(&p->value), s->err);
}

/* What the shadow reads, where the file has it. */
static bool read_origin(const Source *s, const Model *model, Param *p) {
    char name[NAME_BYTES];
    bool exists;
    snprintf(name, sizeof name, "origin/%s", p->name);
    TRY(h5_read_exists(s->reader, name, &exists, s->err));
    if (!exists || p->value.dtype != DTYPE_F32) return true;
    p->origin = arena_new_array(model->arena, float, tensor_count(&p->value));
    return stored_read_floats(s->reader, name, p->value.shape, p->is_positive ? 0 : -FLT_MAX,
                              p->origin, s->err);
}

/* Where the file has it. */
static bool read_own_param(const Source *s, Param *p) {
    char name[NAME_BYTES];
    bool exists;
    snprintf(name, sizeof name, "params/%s", p->name);
    TRY(h5_read_exists(s->reader, name, &exists, s->err));
    return !exists || read_param(s, p);
}

static bool read_number(const Source *s, const ProgressRow *row, void *to, double *value) {
    if (row->is_float) {
        TRY(h5_read_float(s->reader, "progress", row->name, to, s->err));
        *value = *(double *)to;
        return true;
    }
    TRY(h5_read_int(s->reader, "progress", row->name, to, s->err));
    *value = (double)*(int64_t *)to;
    return true;
}

static bool read_progress(const Source *s, Cursor *cursor) {
    for (int i = 0; i < PROGRESS_ROWS; i++) {
        const ProgressRow *row = &progress_rows[i];
        double value, high = row->high;
        TRY(read_number(s, row, (char *)cursor + row->offset, &value));
        if (row->per_step > 0) high += row->per_step * (double)cursor->step;
        if (!(value >= row->low && value <= high))
            return FAIL(s->err, ERROR_INPUT, "%s: progress: %s is %.17g, expected %g to %.17g",
                        h5_read_path(s->reader), row->name, value, row->low, high);
    }
    return true;
}

/* Empty where there is no best network yet, and in best.h5, which is one itself. */
static bool read_best_digest(const Source *s, Arena *arena, char digest[ENVELOPE_DIGEST_TEXT]) {
    static const char name[] = "progress/best_digest";
    const char *text = h5_read_text(s->reader, name, arena, s->err);
    return text && (!*text || read_digest(s, name, arena, digest));
}

static bool read_description(Checkpoint *c, Arena *arena, Error *err) {
    const Source source = {c->reader, err};
    return read_facts(&source, arena, &c->facts) && read_progress(&source, &c->cursor) &&
           (c->version < 3 || read_best_digest(&source, c->file, c->cursor.best_digest)) &&
           read_other_digest(&source, "teacher_digest", c->file, c->cursor.teacher_digest) &&
           read_other_digest(&source, base_name, c->file, c->cursor.base_digest);
}

/* Whether it is the file that is at fault, and not who read it. */
static bool is_damaged(const char *path) {
    Error err = {0};
    Envelope envelope;
    Arena *arena = arena_new("checkpoint");
    bool is_refused = file_find(path, &err) == FILE_REGULAR &&
                      !envelope_open(path, arena, &envelope, &err) && err.code == ERROR_INPUT;
    arena_free(arena);
    return is_refused;
}

static bool open_file(const char *path, int oldest, Arena *arena, Checkpoint *out, Error *err) {
    *out = (Checkpoint){.path = arena_strdup(arena, path), .file = arena_new("checkpoint")};
    out->reader = h5_read_open(out->path, out->file, err);
    if (!out->reader) {
        out->is_damaged = is_damaged(path);
        return false;
    }
    out->facts.path = out->path;
    h5_read_digest(out->reader, out->digest);
    return h5_read_int(out->reader, "", "format_version", &out->version, err) &&
           check_version(out, oldest, err);
}

bool checkpoint_open(const char *path, Arena *arena, Checkpoint *out, Error *err) {
    if (open_file(path, OLDEST_VERSION, arena, out, err) && read_description(out, arena, err))
        return true;
    checkpoint_close(out);
    return false;
}

bool checkpoint_open_weights(const char *path, Arena *arena, Checkpoint *out, Error *err) {
    if (open_file(path, 1, arena, out, err)) return true;
    checkpoint_close(out);
    return false;
}

void checkpoint_close(Checkpoint *c) {
    arena_free(c->file);
    c->reader = NULL;
    c->file = NULL;
}

static bool read_all(const Source *s, Model *model, Optimizer *optimizer, Arena *arena) {
    const char **names;
    int count;
    TRY(h5_read_names(s->reader, "params", arena, &names, &count, s->err));
    for (int i = 0; i < count; i++)
        if (!model_find_param(model, names[i]))
            return FAIL(s->err, ERROR_INPUT, "%s holds '%s', which the configured model lacks",
                        h5_read_path(s->reader), names[i]);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (!p->is_base) TRY(read_param(s, p) && read_origin(s, model, p));
    }
    return !optimizer || optimizer_visit(optimizer, read_state, (void *)s);
}

bool checkpoint_is_quantized(const Checkpoint *c, const Model *model, bool *out, Error *err) {
    const char **names;
    int count;
    TRY(h5_read_names(c->reader, "params", c->file, &names, &count, err));
    *out = false;
    for (int i = 0; i < count; i++) {
        const Param *p = model_find_param(model, names[i]);
        *out |= !p || !p->owner;
    }
    return true;
}

/* The first line of a text, without the blanks before it. */
static const char *line_of(const char *text, Arena *arena) {
    text += strspn(text, " ");
    return *text ? arena_format(arena, "%.*s", (int)strcspn(text, "\n"), text) : "nothing";
}

static bool check_config(const Source *s, const char *config_text, Arena *arena) {
    const char *saved = h5_read_text(s->reader, "config", arena, s->err);
    if (!saved) return false;
    if (!strcmp(saved, config_text)) return true;
    size_t same = 0, line = 0;
    for (; saved[same] && saved[same] == config_text[same]; same++)
        if (saved[same] == '\n') line = same + 1;
    return FAIL(
        s->err, ERROR_INPUT,
        "%s was saved by another configuration: '%s' there, '%s' now; undo the change, or start a "
        "new run",
        h5_read_path(s->reader), line_of(saved + line, arena), line_of(config_text + line, arena));
}

bool checkpoint_load(const Checkpoint *c, const char *config_text, Model *model,
                     Optimizer *optimizer, Error *err) {
    const Source source = {c->reader, err, optimizer};
    return check_config(&source, config_text, c->file) &&
           read_all(&source, model, optimizer, c->file);
}

/* The section `quant` of a configuration as config_write_fixed has it, without phases. */
static const char *quant_section(const char *text, Arena *arena) {
    static const char *const phases[] = {"  start:", "  freeze_observers:", "  freeze_batch_norm:"};
    const char *section = "", *line = strstr(text, "\nquant:\n");
    for (line = line ? strchr(line + 1, '\n') + 1 : ""; *line == ' '; line++) {
        size_t length = strcspn(line, "\n");
        bool is_phase = false;
        for (int i = 0; i < 3; i++) is_phase |= !strncmp(line, phases[i], strlen(phases[i]));
        if (!is_phase) section = arena_format(arena, "%s%.*s\n", section, (int)length, line);
        line += length;
        if (!*line) break;
    }
    return section;
}

static bool quantizes_alike(const Source *s, const char *config_text, Arena *arena, bool *out) {
    const char *saved = h5_read_text(s->reader, "config", arena, s->err);
    if (!saved) return false;
    *out = !strcmp(quant_section(saved, arena), quant_section(config_text, arena));
    return true;
}

/* Puts the average, where the file has one, in the place of the value. One of zeros belongs to a
 * Param that was never updated. */
static bool take_average(const Source *s, Param *p, Arena *arena) {
    char name[NAME_BYTES];
    bool exists, is_used = false;
    int64_t count = tensor_count(&p->value);
    snprintf(name, sizeof name, "optimizer/ema/%s", p->name);
    TRY(h5_read_exists(s->reader, name, &exists, s->err));
    if (!exists || p->value.dtype != DTYPE_F32) return true;
    float *average = arena_new_array(arena, float, count);
    TRY(stored_read_floats(s->reader, name, p->value.shape, p->is_positive ? 0 : -FLT_MAX, average,
                           s->err));
    for (int64_t i = 0; i < count; i++) is_used |= average[i] != 0;
    if (is_used) memcpy(tensor_f32(&p->value), average, sizeof(float) * (size_t)count);
    return true;
}

static bool has_base(const Model *model) {
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i]->is_base) return true;
    return false;
}

/* Whether the file holds an adapter alone, which a whole network cannot be made of. */
static bool check_whole(const Source *s, bool may_be_adapter, bool *is_adapter) {
    TRY(h5_read_exists(s->reader, base_name, is_adapter, s->err));
    return !*is_adapter || may_be_adapter ||
           FAIL(s->err, ERROR_INPUT,
                "%s holds an adapter alone, and not the network that it stands on; merge both "
                "('nibble merge RUN --out DIR')",
                h5_read_path(s->reader));
}

bool checkpoint_init(const Checkpoint *c, const char *config_text, Model *model, Error *err) {
    const Source source = {c->reader, err};
    bool is_alike = false;
    bool is_adapted = has_base(model), is_adapter;
    TRY(check_whole(&source, is_adapted && *config_text, &is_adapter));
    TRY(quantizes_alike(&source, config_text, c->file, &is_alike));
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i]; /* without an owner it is a quantizer's */
        if (is_adapted ? p->is_base == is_adapter : !p->owner && !is_alike) continue;
        TRY(p->owner ? read_param(&source, p) : read_own_param(&source, p));
        TRY(take_average(&source, p, c->file));
    }
    return true;
}
