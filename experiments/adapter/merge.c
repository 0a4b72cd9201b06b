#include "experiments/adapter/merge.h"

#include <math.h>
#include <string.h>

#include "core/storage.h"
#include "experiments/train/evaluate.h"

const char *const merge_route_names[MERGE_ROUTES] = {
    [MERGE_F16] = "f16", [MERGE_DEQUANTIZED] = "dequantized", [MERGE_REQUANTIZED] = "requantized"};

static bool is_stored(const Param *p) {
    return dtype_codec(p->value.dtype)->stores != CODE_NUMBER;
}

double merge_gain(const MergeKept *kept) {
    return kept->sums.exact > 0 ? kept->sums.product / kept->sums.exact : 1;
}

/* ---- Routes ---- */

/* The numbers of one layer, [count] each. */
typedef struct Work {
    const Experiment *e;
    const AdapterSite *site;
    int64_t count;
    float *stored, *update; /* Q(W), and what the adapter adds */
    float *begin, *end;     /* of a route */
    Arena *arena;
} Work;

/* The way back from a tensor to how it was made. */
static Storage storage_of(const Tensor *t) {
    const Scales *s = t->scales;
    const Tensor *plane = s->stored;
    Storage storage = {.dtype = t->dtype,
                       .block = s->run_length,
                       .scale_dtype = s->dtype,
                       .is_affine = s->zero != NULL};
    if (plane) storage.scale_dtype = plane->dtype;
    if (plane && plane->scales) storage.scale_block = plane->scales->run_length;
    return storage;
}

static bool requantize(const Work *w, float *values, Error *err) {
    const Tensor *value = &w->site->weight->value;
    Storage storage = storage_of(value);
    Tensor again;
    TRY(tensor_encode(w->arena, values, value->shape, &storage, &again, err));
    tensor_decode(&again, values);
    return true;
}

static bool round_to_f16(const Work *w, float *values, Error *err) {
    for (int64_t i = 0; i < w->count; i++) {
        values[i] = dtype_round(DTYPE_F16, values[i]);
        if (!isfinite(values[i]))
            return FAIL(err, ERROR_NUMERIC, "element %ld is beyond f16's 65,504", (long)i);
    }
    return true;
}

static bool is_possible(const Experiment *e, MergeRoute route, const Param *weight) {
    if (route == MERGE_REQUANTIZED) return is_stored(weight);
    return route == MERGE_DEQUANTIZED || !is_stored(weight) || e->base_source.read;
}

/* Fills begin and end. */
static bool take_route(const Work *w, MergeRoute route, Error *err) {
    const AdapterSource *source = &w->e->base_source;
    size_t bytes = sizeof(float) * (size_t)w->count;
    memcpy(w->begin, w->stored, bytes);
    if (route == MERGE_F16 && is_stored(w->site->weight))
        TRY(source->read(source->context, w->site->weight, w->begin, err));
    for (int64_t i = 0; i < w->count; i++) w->end[i] = w->begin[i] + w->update[i];
    if (route == MERGE_REQUANTIZED) TRY(requantize(w, w->end, err));
    return round_to_f16(w, w->end, err);
}

static bool measure(const Work *w, MergeRoute route, MergeRoute chosen, MergeLayer *layer,
                    Error *err) {
    MergeKept *kept = &layer->kept[route];
    kept->is_possible = is_possible(w->e, route, w->site->weight);
    if (!kept->is_possible) return true;
    TRY(take_route(w, route, err));
    if (route == chosen) dtype_encode(DTYPE_F16, w->end, w->count, NULL, layer->weight.data);
    for (int64_t i = 0; i < w->count; i++) w->end[i] -= w->begin[i];
    deviation_add(&kept->sums, w->update, w->end, w->count, w->arena);
    return true;
}

static bool merge_layer(Experiment *e, const AdapterSite *site, MergeRoute chosen, Arena *scratch,
                        MergeLayer *layer, Error *err) {
    int64_t count = tensor_count(&site->weight->value);
    Work w = {.e = e, .site = site, .count = count, .arena = scratch};
    float **buffers[] = {&w.stored, &w.update, &w.begin, &w.end};
    for (int i = 0; i < 4; i++) *buffers[i] = arena_new_array(scratch, float, count);
    tensor_decode(&site->weight->value, w.stored);
    memcpy(w.update, w.stored, sizeof(float) * (size_t)count);
    e->adapter->row->merge(site, w.update);
    for (int64_t i = 0; i < count; i++) w.update[i] -= w.stored[i];
    for (MergeRoute route = 0; route < MERGE_ROUTES; route++)
        if (!measure(&w, route, chosen, layer, err)) {
            error_prefix(err, "%s, route %s", layer->name, merge_route_names[route]);
            return false;
        }
    return true;
}

/* ---- All layers ---- */

static void add_sums(DeviationSums *all, const DeviationSums *part) {
    all->count += part->count;
    all->exact += part->exact;
    all->given += part->given;
    all->product += part->product;
    all->noise += part->noise;
    all->error += part->error;
    all->error_max = fmax(all->error_max, part->error_max);
}

static void add_layer(Merge *m, const MergeLayer *layer) {
    for (int i = 0; i < MERGE_ROUTES; i++) {
        m->all[i].is_possible &= layer->kept[i].is_possible;
        add_sums(&m->all[i].sums, &layer->kept[i].sums);
    }
}

static bool check_possible(const Experiment *e, MergeRoute route, Error *err) {
    const Param *weight = e->adapter->sites[0].weight;
    for (int i = 0; i < e->adapter->site_count; i++)
        if (!is_possible(e, route, e->adapter->sites[i].weight))
            return route == MERGE_REQUANTIZED
                       ? FAIL(err, ERROR_INPUT,
                              "--route requantized: the base is not stored in few bits (%s), so "
                              "there is no grid to go back to; take --route f16",
                              dtype_name(weight->value.dtype))
                       : FAIL(err, ERROR_INPUT,
                              "--route f16: the weights as they were before they were stored in "
                              "%s are not at hand; take --route dequantized",
                              dtype_name(weight->value.dtype));
    return true;
}

static bool check_kept(const Merge *m, bool force, Error *err) {
    const MergeKept *kept = &m->all[m->route];
    if (force || merge_gain(kept) >= MERGE_GAIN_MIN) return true;
    return FAIL(err, ERROR_INPUT,
                "--route %s keeps %.1f%% of the update (gain %.4f, SQNR %.1f dB; route %s keeps "
                "%.1f%%); take that, or insist with --force",
                merge_route_names[m->route], 100 * merge_gain(kept), merge_gain(kept),
                deviation_of(&kept->sums).sqnr_db, merge_route_names[MERGE_DEQUANTIZED],
                100 * merge_gain(&m->all[MERGE_DEQUANTIZED]));
}

bool merge_make(Experiment *e, MergeRoute route, bool force, Arena *arena, Merge *out, Error *err) {
    const Adapter *a = e->adapter;
    TRY(check_possible(e, route, err));
    *out = (Merge){.route = route, .count = a->site_count};
    out->layers = arena_new_array(arena, MergeLayer, a->site_count);
    for (int i = 0; i < MERGE_ROUTES; i++) out->all[i].is_possible = true;
    Arena *scratch = arena_new("merged layer");
    bool ok = true;
    for (int i = 0; ok && i < a->site_count; i++) {
        const AdapterSite *site = &a->sites[i];
        MergeLayer *layer = &out->layers[i];
        layer->name = site->module->name;
        layer->weight = tensor_new(arena, DTYPE_F16, site->weight->value.shape);
        ok = merge_layer(e, site, route, scratch, layer, err);
        add_layer(out, layer);
        arena_reset(scratch);
    }
    arena_free(scratch);
    return ok && check_kept(out, force, err);
}

/* ---- Outputs ---- */

/* The merged network in the place of the run's, and back. */
static void exchange(const Adapter *a, Merge *m) {
    for (int i = 0; i < a->site_count; i++) {
        AdapterSite *site = &a->sites[i];
        Tensor kept = site->weight->value;
        site->weight->value = m->layers[i].weight;
        m->layers[i].weight = kept;
        site->module->output = (View){site->module->output.apply ? NULL : a->row->apply, site};
    }
}

/* Both networks over one batch. */
static bool compare_batch(Experiment *e, Merge *m, const Batch *batch, Arena *arena, Error *err) {
    TaskStep step = {.e = e, .batch = *batch, .wants_outputs = true};
    TRY(evaluate_batch(&step, evaluate_mode(NETWORK_TRAINED), err));
    int64_t count = var_count(step.output), classes = shape_last(step.output->value.shape);
    float *exact = arena_new_array(arena, float, count);
    memcpy(exact, var_f32(step.output), sizeof *exact * (size_t)count);
    exchange(e->adapter, m);
    bool ok = evaluate_batch(&step, evaluate_mode(NETWORK_TRAINED), err);
    exchange(e->adapter, m);
    if (ok) output_change_add(&m->change, exact, var_f32(step.output), count / classes, classes);
    return ok;
}

bool merge_compare(Experiment *e, Merge *m, int64_t outputs, Error *err) {
    int64_t limit = outputs / shape_rows(e->model->output);
    Arena *arena = arena_new("outputs");
    bool ok = true;
    for (int64_t i = 0; ok; i++) {
        Batch batch = evaluate_rows(e, LOADER_TEST, i, m->rows, limit ? limit : 1);
        if (!batch.count) break;
        ok = compare_batch(e, m, &batch, arena, err);
        m->rows += batch.count;
        arena_reset(arena);
    }
    output_change_end(&m->change);
    arena_free(arena);
    return ok;
}
