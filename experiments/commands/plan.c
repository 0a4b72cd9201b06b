/* nibble plan CONFIG [key=value ...] [--json] */
#include <stdio.h>

#include "core/json.h"
#include "core/print.h"
#include "experiments/commands/commands.h"
#include "experiments/plan/footprint.h"
#include "experiments/train/trainer.h"
#include "qat/convert.h"

enum { JSON };

typedef struct Report {
    Footprint footprint;
    ModelBytes model;
    int64_t available;
    bool fits;
    double step_seconds; /* 0: not estimated, since it does not fit */
    int64_t context;     /* tokens of a row for which there is memory; 0: rows are none */
} Report;

static double in_mib(int64_t bytes) {
    return (double)bytes / 1048576.0;
}

static int bits_of(const Quant *quant) {
    return quant ? quant->spec.bits : BITS_FLOAT;
}

/* ---- As JSON ---- */

static void add_layer(const FootprintLayer *layer, Json *json) {
    Json *row = json_append(json, "layers");
    json_set_text(row, "name", layer->name);
    json_set_ints(row, "shape", layer->shape.dim, layer->shape.rank);
    json_set_shortest(row, "weight_bits", bits_number(bits_of(layer->weight)));
    json_set_shortest(row, "activation_bits", bits_number(bits_of(layer->input)));
    json_set_text(row, "weight_quantizer", layer->weight ? layer->weight->row->kind.name : NULL);
    json_set_text(row, "activation_quantizer", layer->input ? layer->input->row->kind.name : NULL);
    json_set_number(row, "flops", layer->flops);
    json_set_int(row, "kept_bytes", layer->kept_bytes);
    json_set_int(row, "parameter_bytes", layer->parameter_bytes);
}

static void add_params(const FootprintParams *params, Json *json) {
    Json *row = json_append(json, "parameters");
    json_set_text(row, "dtype", dtype_name(params->dtype));
    json_set_bool(row, "trained", params->is_trained);
    json_set_int(row, "count", params->count);
    json_set_int(row, "bytes", params->bytes);
}

static void print_json(const Report *r) {
    const Footprint *f = &r->footprint;
    Json *json = json_new();
    Arena *arena = arena_new("json");
    for (int i = 0; i < f->layer_count; i++) add_layer(&f->layers[i], json);
    for (int i = 0; i < f->params_count; i++) add_params(&f->params[i], json);
    for (int i = 0; i < FOOTPRINT_KINDS; i++)
        json_set_int(json, arena_format(arena, "peak.%s", footprint_kind_names[i]), f->bytes[i]);
    json_set_int(json, "peak.total", f->total);
    json_set_int(json, "available", r->available);
    json_set_bool(json, "fits", r->fits);
    json_set_int(json, "packed.bytes", r->model.quantized);
    json_set_number(json, "packed.bits_per_weight", r->model.bits_per_weight);
    json_set_number(json, "step.flops", f->step_flops);
    if (r->step_seconds > 0)
        json_set_number(json, "step.seconds", r->step_seconds);
    else
        json_set_text(json, "step.seconds", NULL);
    if (r->context) json_set_int(json, "longest_context", r->context);
    fputs(json_indented(json, arena), stdout);
    arena_free(arena);
    json_free(json);
}

/* ---- As a table ---- */

enum { SCHEME_BYTES = 48 };

/* `is_product`: a layer with weights; others are float as a matter of course. */
static void quant_text(const Quant *quant, bool is_product, char *text) {
    if (quant)
        snprintf(text, SCHEME_BYTES, "%g %s", bits_number(quant->spec.bits), quant->row->kind.name);
    else
        snprintf(text, SCHEME_BYTES, "%s", is_product ? "float" : "");
}

static void print_layers(const Footprint *f) {
    print_out("%-28s %-20s %-13s %-13s %9s %9s %9s\n", "layer", "output", "reads", "weights",
              "MFLOP", "kept MiB", "param KiB");
    for (int i = 0; i < f->layer_count; i++) {
        const FootprintLayer *layer = &f->layers[i];
        char shape[SHAPE_TEXT_BYTES], input[SCHEME_BYTES], weight[SCHEME_BYTES];
        quant_text(layer->input, layer->flops > 0, input);
        quant_text(layer->weight, layer->flops > 0, weight);
        print_out("%-28s %-20s %-13s %-13s %9.1f %9.2f %9.1f\n", layer->name,
                  shape_text(layer->shape, shape), input, weight, layer->flops * 1e-6,
                  in_mib(layer->kept_bytes), (double)layer->parameter_bytes / 1024.0);
    }
}

static void print_params(const Footprint *f) {
    print_out("\n%-22s %12s %9s\n", "parameters", "count", "MiB");
    for (int i = 0; i < f->params_count; i++) {
        const FootprintParams *p = &f->params[i];
        print_out("%-8s %-13s %12ld %9.1f\n", dtype_name(p->dtype),
                  p->is_trained ? "trained" : "not trained", (long)p->count, in_mib(p->bytes));
    }
}

static void print_peak(const Report *r) {
    const Footprint *f = &r->footprint;
    print_out("\n%-22s %9s\n", "peak of memory", "MiB");
    for (int i = 0; i < FOOTPRINT_KINDS; i++)
        if (f->bytes[i] || i != FOOTPRINT_TEACHER)
            print_out("%-22s %9.1f  %s\n", footprint_kind_names[i], in_mib(f->bytes[i]),
                      footprint_kind_texts[i]);
    print_out("%-22s %9.1f  %s", "total", in_mib(f->total), r->fits ? "fits" : "does not fit");
    if (r->available < INT64_MAX) print_out(": there are %.1f for it", in_mib(r->available));
    print_out("\n");
    if (r->context)
        print_out("%-22s %9ld  tokens of a row would fit\n", "context", (long)r->context);
}

static void print_step(const Report *r) {
    print_out("\nA training step: %.3f GFLOP", r->footprint.step_flops * 1e-9);
    if (r->step_seconds > 0)
        print_out(", about %.1f ms on this machine (an estimate, from parts of a batch)",
                  r->step_seconds * 1e3);
    print_out("\n");
}

static void print_packed(const Report *r) {
    print_out("\nPacked: %.1f KiB, %.2f bits a weight, scales counted\n",
              (double)r->model.quantized / 1024, r->model.bits_per_weight);
}

/* ---- The command ---- */

static bool make(Experiment *e, Arena *arena, Report *r, Error *err) {
    TRY(trainer_begin(e, err));
    TRY(footprint_find(e, arena, &r->footprint, err));
    r->model = convert_bytes(e->qat);
    r->fits = footprint_fits(&r->footprint, &r->available);
    r->context = footprint_context(e, &r->footprint, r->available);
    return !r->fits || footprint_step_seconds(e, &r->step_seconds, err);
}

static void print(const Report *r) {
    print_layers(&r->footprint);
    print_packed(r);
    print_params(&r->footprint);
    print_peak(r);
    print_step(r);
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    ExperimentConfig config;
    Experiment e = {0};
    Report report = {0};
    bool ok = config_read(a->items[0], a->count - 1, a->items + 1, arena, &config, err) &&
              experiment_open(&config, arena, &e, err) && make(&e, arena, &report, err);
    if (ok) (a->values[JSON] ? print_json : print)(&report);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_plan = {
    .name = "plan",
    .synopsis = "plan CONFIG [key=value ...] [--json]",
    .help = "tell what a training will need: each layer's shape, bits, work and bytes, the peak of "
            "memory by kind, and the time of a step; nothing is trained or written",
    .min_items = 1,
    .max_items = -1,
    .options = {[JSON] = {"--json", NULL, "machine-readable"}},
    .is_parallel = true,
    .run = run,
};
