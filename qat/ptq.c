#include "qat/ptq.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "qat/calibration.h"

static const Kind *const kinds[] = {
#define PTQ_METHOD(name) &ptq_method_##name.kind,
#include "qat/ptq.def"
#undef PTQ_METHOD
};
const KindTable ptq_kinds = {"PTQ method", kinds, sizeof kinds / sizeof *kinds};

/* ---- The exact network ---- */

/* What quantizers own is no part of it, nor what is stored, which nobody moves. */
static bool is_kept(const Param *p) {
    return p->owner && p->value.dtype == DTYPE_F32;
}

static void keep_exact(const Ptq *p) {
    for (int i = 0; i < p->qat->model->param_count; i++) {
        Param *param = p->qat->model->params[i];
        if (!is_kept(param)) continue;
        size_t bytes = sizeof(float) * (size_t)tensor_count(&param->value);
        if (!param->origin) param->origin = arena_alloc(p->arena, bytes);
        memcpy(param->origin, tensor_f32(&param->value), bytes);
    }
}

Ptq *ptq_new(Qat *qat, PtqData data, Arena *arena) {
    Ptq *p = arena_new_array(arena, Ptq, 1);
    *p = (Ptq){.qat = qat,
               .data = data,
               .arena = arena,
               .scratch = arena_new("PTQ method"),
               .exact = tape_new(arena),
               .quantized = tape_new(arena)};
    qat_set_evaluation(qat);
    keep_exact(p);
    return p;
}

void ptq_free(Ptq *p) {
    if (!p) return;
    tape_free(p->exact);
    tape_free(p->quantized);
    arena_free(p->scratch);
}

/* ---- Calibration data ---- */

static bool check_finite(const Tape *t, const Var *output, int64_t index, Error *err) {
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    if (var_is_finite(output) && !tape_find_nan(t)) return true;
    const Var *bad = tape_find_nonfinite(t);
    return FAIL(err, ERROR_NUMERIC,
                "calibration batch %ld: %s (%s) gives values that are not finite: the data hold "
                "some, or the training has diverged",
                (long)index + 1, bad && *bad->scope ? bad->scope : "input",
                bad && bad->op ? bad->op->name : "data");
}

static void look_at(const Qat *qat, PtqLayer *layers) {
    for (int i = 0; i < qat->site_count; i++) {
        const Module *module = qat->sites[i].module, *norm = qat->sites[i].norm;
        layers[i] = (PtqLayer){.input = module->last_in[0],
                               .operand = module->last_seen[0],
                               .output = norm ? norm->last_out : module->last_out};
    }
}

/* One network on one batch, on a record of which every value stays. */
static bool run_batch(Ptq *p, bool is_exact, int64_t index, PtqBatch *batch, PtqLayer *layers,
                      Error *err) {
    Tape *t = is_exact ? p->exact : p->quantized;
    TapeMode mode = TAPE_EVALUATION;
    mode.is_float = is_exact;
    tape_begin(t, mode);
    const Var *output = p->data.record(p->data.context, index, t, &batch->rows);
    TRY(check_finite(t, output, index, err));
    look_at(p->qat, layers);
    return true;
}

static bool stream(Ptq *p, unsigned networks, PtqVisit *visit, void *context, Error *err) {
    PtqLayer *exact = arena_new_array(p->scratch, PtqLayer, p->qat->site_count);
    PtqLayer *quantized = arena_new_array(p->scratch, PtqLayer, p->qat->site_count);
    for (int64_t i = 0; i < p->data.batch_count; i++) {
        PtqBatch batch = {.index = i};
        if (networks & PTQ_EXACT) TRY(run_batch(p, true, i, &batch, exact, err));
        if (networks & PTQ_QUANTIZED) TRY(run_batch(p, false, i, &batch, quantized, err));
        if (networks & PTQ_EXACT) batch.exact = exact;
        if (networks & PTQ_QUANTIZED) batch.quantized = quantized;
        if (visit) TRY(visit(context, &batch, err));
    }
    return true;
}

bool ptq_stream(Ptq *p, unsigned networks, PtqVisit *visit, void *context, Error *err) {
    ArenaMark mark = arena_mark(p->scratch);
    bool ok = stream(p, networks, visit, context, err);
    arena_rewind(p->scratch, mark);
    return ok;
}

void ptq_add_channel_sums(const Var *v, double *sums) {
    assert(!v->value.scales);
    const float *x = var_f32(v);
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c++) sums[c] += (double)x[r * channels + c];
}

/* ---- The pipeline ---- */

static const PtqMethod *method_at(const List *methods, int i) {
    return (const PtqMethod *)((const Variant *)methods->items)[i].kind;
}

bool ptq_check(const List *methods, Error *err) {
    for (int i = 1; i < methods->count; i++) {
        const PtqMethod *before = method_at(methods, i - 1), *method = method_at(methods, i);
        if (!(method->flags & PTQ_KEEPS_FUNCTION) || before->flags & PTQ_KEEPS_FUNCTION) continue;
        return FAIL(err, ERROR_INPUT,
                    "quantize.%d: '%s' changes the float network, so it stands before '%s', which "
                    "quantizes it",
                    i, method->kind.name, before->kind.name) ||
               error_blame(err, "quantize.%d", i);
    }
    return true;
}

static bool calibrate(Ptq *p, Error *err) {
    if (p->is_calibrated) return true;
    calibration_begin(p->qat);
    bool ok = ptq_stream(p, PTQ_QUANTIZED, NULL, NULL, err);
    calibration_end(p->qat);
    TRY(ok);
    const Quant *missing = calibration_find_missing(p->qat);
    if (missing)
        return FAIL(err, ERROR_INPUT,
                    "'%s' saw nothing but zeros in %ld rows of calibration data: raise "
                    "calibration.rows, or leave that layer float with a rule of quant.rules",
                    missing->name, (long)p->data.row_count);
    p->is_calibrated = true;
    return true;
}

static bool check_params(const Model *model, Error *err) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *param = model->params[i];
        Var value = {.value = param->value};
        if (param->value.dtype == DTYPE_F32 && !var_is_finite(&value))
            return FAIL(err, ERROR_NUMERIC, "it left '%s' with values that are not finite",
                        param->name);
    }
    return true;
}

bool ptq_apply(Ptq *p, const List *methods, int index, Error *err) {
    const Variant *variant = (const Variant *)methods->items + index;
    const PtqMethod *method = method_at(methods, index);
    bool keeps_function = method->flags & PTQ_KEEPS_FUNCTION;
    p->method = index;
    bool ok = (keeps_function || calibrate(p, err)) && method->apply(p, variant->config, err) &&
              check_params(p->qat->model, err);
    arena_reset(p->scratch);
    if (!ok) {
        error_prefix(err, "quantize.%d (%s)", index, method->kind.name);
        return false;
    }
    if (keeps_function) keep_exact(p);
    return true;
}

bool ptq_finish(Ptq *p, Error *err) {
    return calibrate(p, err);
}

/* ---- What methods say ---- */

static void add_note(Ptq *p, PtqNote note) {
    if (p->note_count == p->note_capacity) {
        p->note_capacity = p->note_capacity ? 2 * p->note_capacity : 32;
        PtqNote *wider = arena_new_array(p->arena, PtqNote, p->note_capacity);
        if (p->note_count) memcpy(wider, p->notes, sizeof *wider * (size_t)p->note_count);
        p->notes = wider;
    }
    note.method = p->method;
    if (note.layer) note.layer = arena_strdup(p->arena, note.layer);
    note.name = arena_strdup(p->arena, note.name);
    p->notes[p->note_count++] = note;
}

void ptq_note(Ptq *p, const char *layer, const char *name, double value) {
    add_note(p, (PtqNote){.layer = layer, .name = name, .value = value});
}

void ptq_skip(Ptq *p, const char *layer, const char *reason, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, reason);
    vsnprintf(text, sizeof text, reason, arguments);
    va_end(arguments);
    log_warning("%s: %s", layer, text);
    add_note(p, (PtqNote){.layer = layer, .name = "skipped", .text = arena_strdup(p->arena, text)});
}
