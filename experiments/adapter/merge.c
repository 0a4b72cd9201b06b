#include "experiments/adapter/merge.h"

#include <math.h>
#include <string.h>

#include "core/storage.h"

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
    float *update;      /* what the adapter adds to Q(W) */
    float *begin, *end; /* of a route */
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

static bool round_to_f16(float *values, int64_t count, Error *err) {
    for (int64_t i = 0; i < count; i++) {
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

/* What a route begins with. */
static bool read_begin(const Experiment *e, MergeRoute route, const Param *p, float *values,
                       Error *err) {
    const AdapterSource *source = &e->base_source;
    if (route == MERGE_F16 && is_stored(p) && source->read)
        return source->read(source->context, p, values, err);
    tensor_decode(&p->value, values);
    return true;
}

static Work work_new(const Experiment *e, const AdapterSite *site, Arena *scratch) {
    const Tensor *stored = &site->weight->value;
    int64_t count = tensor_count(stored);
    Work w = {.e = e, .site = site, .count = count, .arena = scratch};
    float **buffers[] = {&w.update, &w.begin, &w.end};
    for (int i = 0; i < 3; i++) *buffers[i] = arena_new_array(scratch, float, count);
    tensor_decode(stored, w.begin);
    memcpy(w.update, w.begin, sizeof(float) * (size_t)count);
    e->adapter->row->merge(site, w.update);
    for (int64_t i = 0; i < count; i++) w.update[i] -= w.begin[i];
    return w;
}

/* Fills begin and end. */
static bool take_route(const Work *w, MergeRoute route, Error *err) {
    TRY(read_begin(w->e, route, w->site->weight, w->begin, err));
    for (int64_t i = 0; i < w->count; i++) w->end[i] = w->begin[i] + w->update[i];
    if (route == MERGE_REQUANTIZED) TRY(requantize(w, w->end, err));
    return round_to_f16(w->end, w->count, err);
}

static bool measure(const Work *w, MergeRoute route, MergeLayer *layer, Error *err) {
    MergeKept *kept = &layer->kept[route];
    kept->is_possible = is_possible(w->e, route, w->site->weight);
    if (!kept->is_possible) return true;
    TRY(take_route(w, route, err));
    for (int64_t i = 0; i < w->count; i++) w->end[i] -= w->begin[i];
    deviation_add(&kept->sums, w->update, w->end, w->count, w->arena);
    return true;
}

static bool measure_layer(const Experiment *e, const AdapterSite *site, Arena *scratch,
                          MergeLayer *layer, Error *err) {
    Work w = work_new(e, site, scratch);
    for (MergeRoute route = 0; route < MERGE_ROUTES; route++)
        if (!measure(&w, route, layer, err)) {
            error_prefix(err, "%s, route %s", layer->name, merge_route_names[route]);
            return false;
        }
    return true;
}

/* ---- One weight ---- */

static const AdapterSite *site_of(const Adapter *a, const Param *p) {
    for (int i = 0; i < a->site_count; i++)
        if (a->sites[i].weight == p) return &a->sites[i];
    return NULL;
}

bool merge_changes(const Experiment *e, MergeRoute route, const Param *p) {
    return site_of(e->adapter, p) ||
           (route == MERGE_F16 && is_stored(p) && e->base_source.read != NULL);
}

bool merge_values(const Experiment *e, MergeRoute route, const Param *p, float *values,
                  Error *err) {
    const AdapterSite *site = site_of(e->adapter, p);
    int64_t count = tensor_count(&p->value);
    Arena *scratch = arena_new("merged weight");
    bool ok;
    if (site) {
        Work w = work_new(e, site, scratch);
        w.end = values;
        ok = take_route(&w, route, err);
    } else {
        ok = read_begin(e, route, p, values, err) && round_to_f16(values, count, err);
    }
    arena_free(scratch);
    if (!ok) error_prefix(err, "%s", p->name);
    return ok;
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

bool merge_measure(const Experiment *e, MergeRoute route, bool force, Arena *arena, Merge *out,
                   Error *err) {
    const Adapter *a = e->adapter;
    TRY(check_possible(e, route, err));
    *out = (Merge){.route = route, .count = a->site_count};
    out->layers = arena_new_array(arena, MergeLayer, a->site_count);
    for (int i = 0; i < MERGE_ROUTES; i++) out->all[i].is_possible = true;
    Arena *scratch = arena_new("merged layer");
    bool ok = true;
    for (int i = 0; ok && i < a->site_count; i++) {
        MergeLayer *layer = &out->layers[i];
        layer->name = a->sites[i].module->name;
        ok = measure_layer(e, &a->sites[i], scratch, layer, err);
        add_layer(out, layer);
        arena_reset(scratch);
    }
    arena_free(scratch);
    return ok && check_kept(out, force, err);
}
