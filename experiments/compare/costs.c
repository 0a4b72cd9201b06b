#include "experiments/compare/costs.h"

#include "experiments/train/sensitivity.h"

static const int bits[] = {8, 4, 3, 2};
enum { BITS = sizeof bits / sizeof *bits };

static bool add(Experiment *e, Json *evaluation, Arena *arena, Error *err) {
    const Qat *qat = e->qat;
    SensitivityCost *costs = arena_new_array(arena, SensitivityCost, qat->site_count * BITS);
    int64_t numbers[BITS];
    Sensitivity s;
    for (int j = 0; j < BITS; j++) numbers[j] = bits[j];
    TRY(sensitivity_begin(e, COSTS_ROWS, arena, &s, err) &&
        sensitivity_table(&s, bits, BITS, costs, err));
    json_set_int(evaluation, "costs_rows", s.exact.rows);
    json_set_ints(evaluation, "costs_bits", numbers, BITS);
    for (int i = 0; i < qat->site_count; i++) {
        Json *layer = json_append(evaluation, "costs");
        double kl[BITS];
        for (int j = 0; j < BITS; j++) kl[j] = costs[i * BITS + j].kl;
        json_set_text(layer, "layer", qat->sites[i].name);
        json_set_int(layer, "parameters", tensor_count(&qat->sites[i].weight->value));
        json_set_numbers(layer, "kl", kl, BITS);
    }
    return true;
}

bool costs_add(const char *directory, Json *evaluation, Error *err) {
    Arena *arena = arena_new("costs");
    Experiment e = {0};
    bool ok = experiment_open_run(directory, &(RunOptions){.reads_training = true}, arena, &e, err);
    bool is_for = ok && e.task->has_confusion && loader_rows(e.loader, LOADER_VALIDATION);
    if (is_for) ok = add(&e, evaluation, arena, err);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}
