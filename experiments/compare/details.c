#include "experiments/compare/details.h"

#include <math.h>

#include "autograd/layers/batch_norm.h"
#include "experiments/train/layers.h"

/* ---- Histograms ---- */

/* Values in equal bins, and their grid. */
typedef struct Bins {
    const char *layer, *of;
    Grid grid;
    double scale, zero; /* of the only scale; where there are several: 1 and 0 */
    bool is_quantized, is_in_steps;
    double low, high;
    int64_t counts[DETAILS_BINS];
} Bins;

static Bins bins_new(const char *layer, const char *of, const Scales *scales) {
    Bins b = {.layer = layer, .of = of, .scale = 1, .low = INFINITY, .high = -INFINITY};
    b.is_quantized = scales != NULL;
    if (!scales) return b;
    b.grid = scales->grid;
    b.is_in_steps = scales->count > 1;
    if (b.is_in_steps) return b;
    b.scale = (double)scales_read(scales, 0);
    b.zero = scales->zero ? (double)scales->zero[0] : 0;
    return b;
}

static double bins_level(const Bins *b, int code) {
    return b->scale * ((double)(b->grid.step * code + b->grid.base) - b->zero);
}

/* Where on the axis a value lies. */
static double place_of(const Bins *b, const Scales *scales, int64_t number, float x) {
    if (!b->is_in_steps) return (double)x;
    double zero = scales->zero ? (double)scales->zero[number] : 0;
    return (double)x / (double)scales_read(scales, number) + zero;
}

typedef void (*Visit)(Bins *b, double place);

static void bins_visit(Bins *b, const Scales *scales, const float *x, int64_t count, Visit visit) {
    for (int64_t i = 0; i < count;) {
        int64_t number = 0, end = scales ? i + scales_run(scales, i, &number) : count;
        for (; i < end && i < count; i++)
            if (isfinite(x[i])) visit(b, place_of(b, scales, number, x[i]));
    }
}

static void visit_range(Bins *b, double place) {
    b->low = fmin(b->low, place);
    b->high = fmax(b->high, place);
}

static void visit_count(Bins *b, double place) {
    double bin = floor((place - b->low) / (b->high - b->low) * DETAILS_BINS);
    b->counts[(int)fmin(DETAILS_BINS - 1, fmax(0, bin))]++;
}

/* After all values were visited: a step more on both sides, where the grid's next value is seen;
 * but no further from the grid than it is wide, however far a value lies. */
static void bins_close_range(Bins *b) {
    double step = 0;
    if (b->is_quantized) {
        double first = bins_level(b, 0), last = bins_level(b, grid_last_code(b->grid));
        b->low = fmin(fmax(b->low, 2 * first - last), last);
        b->high = fmax(fmin(b->high, 2 * last - first), first);
        step = b->scale * b->grid.step;
    }
    double room = fmax(1.01 * step, 0.02 * (b->high - b->low));
    room = fmax(room, 1e-6 * fmax(fabs(b->low), 1e-6));
    b->low -= room;
    b->high += room;
}

static void bins_write(const Bins *b, Json *evaluation) {
    Json *json = json_append(evaluation, "histograms");
    double grid[256];
    int count = b->is_quantized ? grid_last_code(b->grid) + 1 : 0;
    for (int i = 0; i < count; i++) grid[i] = bins_level(b, i);
    json_set_text(json, "layer", b->layer);
    json_set_text(json, "of", b->of);
    json_set_text(json, "unit", b->is_in_steps ? "step" : "value");
    json_set_number(json, "low", b->low);
    json_set_number(json, "high", b->high);
    json_set_ints(json, "counts", b->counts, DETAILS_BINS);
    json_set_numbers(json, "grid", grid, count);
}

/* ---- Weights ---- */

static void add_weight(const WeightSite *site, Json *evaluation) {
    Arena *arena = arena_new("weight");
    const Tensor *w = &site->weight->value;
    int64_t count = tensor_count(w);
    float *values = arena_new_array(arena, float, count);
    if (site->norm && site->quant)
        batch_norm_folded_weight(site->norm, values);
    else
        tensor_decode(w, values);
    const Scales *scales = site->quant ? quant_freeze(site->quant, arena) : NULL;
    Bins bins = bins_new(site->name, "weight", scales);
    bins_visit(&bins, scales, values, count, visit_range);
    bins_close_range(&bins);
    bins_visit(&bins, scales, values, count, visit_count);
    bins_write(&bins, evaluation);
    arena_free(arena);
}

/* ---- Activations ---- */

/* A quantizer of an edge under the name of the first layer that reads it. */
typedef struct Edges {
    const Quant **quants;
    Bins *bins;
    int count;
} Edges;

static Edges edges_of(const Qat *qat, Arena *arena) {
    Edges edges = {.quants = arena_new_array(arena, const Quant *, qat->site_count + 1),
                   .bins = arena_new_array(arena, Bins, qat->site_count + 1)};
    for (int i = 0; i < qat->site_count; i++) {
        const Quant *q = qat->sites[i].input;
        int at = 0;
        while (q && at < edges.count && edges.quants[at] != q) at++;
        if (!q || at < edges.count) continue;
        edges.bins[at] = bins_new(qat->sites[i].name, "activation", NULL);
        edges.quants[edges.count++] = q;
    }
    return edges;
}

/* What reached the quantizer in this record, and the scales that it was given. */
static void edge_visit(const Quant *q, const Tape *t, Bins *bins, Visit visit, Arena *arena) {
    if (q->generation != t->generation || !q->faked || !q->faked->value.scales) return;
    const Tensor *x = &q->seen->value;
    const Scales *scales = q->faked->value.scales;
    ArenaMark mark = arena_mark(arena);
    float *values = arena_new_array(arena, float, tensor_count(x));
    tensor_decode(x, values);
    if (!bins->is_quantized) *bins = bins_new(bins->layer, bins->of, scales);
    bins_visit(bins, scales, values, tensor_count(x), visit);
    arena_rewind(arena, mark);
}

/* Records so few rows at a time, of which every value stays. */
static bool visit_rows(Experiment *e, Edges *edges, int64_t rows, Visit visit, Arena *arena,
                       Error *err) {
    for (int64_t batch_index = 0, seen = 0; seen < rows; batch_index++) {
        Batch batch = loader_batch(e->loader, LOADER_TEST, 0, batch_index);
        for (int64_t first = 0; first < batch.count && seen < rows;) {
            int64_t left = batch.count - first < rows - seen ? batch.count - first : rows - seen;
            int64_t count = left < LAYERS_PART_ROWS ? left : LAYERS_PART_ROWS;
            TaskStep step = {.e = e, .batch = batch_part(&batch, first, count)};
            tape_begin(e->tape, evaluate_mode(NETWORK_TRAINED));
            task_record(&step, e->tape);
            if (e->tape->error.code != ERROR_NONE) {
                *err = e->tape->error;
                return false;
            }
            for (int i = 0; i < edges->count; i++)
                edge_visit(edges->quants[i], e->tape, &edges->bins[i], visit, arena);
            first += count;
            seen += count;
        }
    }
    return true;
}

/* Counts what the first rows give to each edge. */
static bool edges_count(Experiment *e, Edges *edges, int64_t rows, Arena *arena, Error *err) {
    TRY(visit_rows(e, edges, rows, visit_range, arena, err));
    for (int i = 0; i < edges->count; i++) bins_close_range(&edges->bins[i]);
    return visit_rows(e, edges, rows, visit_count, arena, err);
}

static void add_edge(const Edges *edges, const WeightSite *site, Json *evaluation) {
    for (int i = 0; i < edges->count; i++) {
        bool is_its = edges->bins[i].layer == site->name && edges->bins[i].is_quantized;
        if (is_its) bins_write(&edges->bins[i], evaluation);
    }
}

bool details_add_histograms(Experiment *e, Json *evaluation, Error *err) {
    if (!qat_is_active(e->qat)) return true;
    Arena *arena = arena_new("histograms");
    Edges edges = edges_of(e->qat, arena);
    int64_t rows = loader_rows(e->loader, LOADER_TEST);
    if (rows > DETAILS_ROWS) rows = DETAILS_ROWS;
    bool ok = !edges.count || edges_count(e, &edges, rows, arena, err);
    for (int i = 0; ok && i < e->qat->site_count; i++) {
        add_weight(&e->qat->sites[i], evaluation);
        add_edge(&edges, &e->qat->sites[i], evaluation);
    }
    const char *of = arena_format(arena, "the first %lld test %s", (long long)rows, e->task->rows);
    if (ok && edges.count) json_set_text(evaluation, "activations_of", of);
    arena_free(arena);
    return ok;
}

/* ---- Examples ---- */

static double pixel_at(const Dataset *d, int64_t row, int64_t y, int64_t x, int64_t channel) {
    int64_t at = ((row * d->height + y) * d->width + x) * d->channels + channel;
    if (d->pixel_type == PIXEL_U8) return ((const uint8_t *)d->test.pixels)[at];
    return (double)((const float *)d->test.pixels)[at];
}

/* Floats have no white of their own: the image's largest is. */
static void stretch(double *pixels, int count) {
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < count; i++) {
        low = fmin(low, pixels[i]);
        high = fmax(high, pixels[i]);
    }
    for (int i = 0; i < count; i++)
        pixels[i] = high > low ? 255 * (pixels[i] - low) / (high - low) : 0;
}

static void add_example(const Dataset *d, int64_t row, Json *evaluation, Arena *arena) {
    int64_t longest = d->height > d->width ? d->height : d->width;
    int64_t stride = (longest + DETAILS_SIDE - 1) / DETAILS_SIDE;
    int64_t height = (d->height + stride - 1) / stride, width = (d->width + stride - 1) / stride;
    int64_t channels = d->channels == 3 ? 3 : 1;
    int count = 0, all = (int)(height * width * channels);
    double *pixels = arena_new_array(arena, double, all);
    int64_t *bytes = arena_new_array(arena, int64_t, all);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t channel = 0; channel < channels; channel++)
                pixels[count++] = pixel_at(d, row, y * stride, x * stride, channel);
    if (d->pixel_type == PIXEL_F32) stretch(pixels, count);
    for (int i = 0; i < count; i++) bytes[i] = llround(pixels[i]);
    Json *json = json_append(evaluation, "examples");
    json_set_int(json, "index", row);
    json_set_int(json, "label", d->test.labels[row]);
    json_set_int(json, "height", height);
    json_set_int(json, "width", width);
    json_set_int(json, "channels", channels);
    json_set_ints(json, "pixels", bytes, count);
}

void details_add_examples(const Dataset *dataset, const int64_t *before, const int64_t *after,
                          Json *evaluation) {
    Arena *arena = arena_new("examples");
    int64_t changed = 0, seen = 0, added = 0;
    for (int64_t i = 0; i < dataset->test.count; i++) changed += before[i] != after[i];
    int64_t wanted = changed < DETAILS_EXAMPLES ? changed : DETAILS_EXAMPLES;
    for (int64_t i = 0; i < dataset->test.count && added < wanted; i++) {
        if (before[i] == after[i]) continue;
        if (seen++ == added * changed / wanted) {
            add_example(dataset, i, evaluation, arena);
            added++;
        }
    }
    arena_free(arena);
}
