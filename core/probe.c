#include "core/probe.h"

#include <string.h>

#include "core/kernels/isa.h"
#include "core/parallel.h"

_Static_assert((int)PROBE_BINS == (int)BIN_COUNT, "the kernel's bins");

enum { BLOCK = 1 << 12 /* elements that a thread passes over at a time */ };

/* What one thread found, on cache lines of its own. */
typedef struct ProbePart {
    float low, high;
    float padding[LANES - 2];
    uint32_t found[BIN_SLOTS];
} ProbePart;

static bool has_bins(const Probe *probe) {
    return probe->counts && probe->limit > 0;
}

int64_t probe_scratch(const Probe *probe) {
    return probe ? arena_padded(parallel_threads() * (int64_t)sizeof(ProbePart)) : 0;
}

ProbeRun probe_begin(Probe *probe, Arena *scratch) {
    if (!probe) return (ProbeRun){NULL, NULL};
    isa_active(); /* chosen before threads ask */
    ProbeRun run = {probe, arena_alloc(scratch, (size_t)probe_scratch(probe))};
    size_t used = has_bins(probe) ? sizeof(ProbePart) : offsetof(ProbePart, found);
    for (int i = 0; i < parallel_threads(); i++) memset(&run.parts[i], 0, used);
    return run;
}

void probe_add(const ProbeRun *run, const float *x, int64_t count) {
    if (!run->probe) return;
    ProbePart *part = &run->parts[parallel_self()];
    float low, high;
    isa_active()->extremes(x, count, &low, &high);
    if (low < part->low) part->low = low;
    if (high > part->high) part->high = high;
    if (has_bins(run->probe))
        isa_active()->bins_count(x, count, BIN_COUNT / 2 / run->probe->limit, part->found);
}

/* Whole numbers add up to the same in any order. */
static void counts_add(const ProbePart *part, uint32_t *counts) {
    for (int i = 0; i < BIN_COUNT; i++) counts[i] += part->found[i];
    for (int i = BIN_COUNT; i < BIN_SLOTS; i++) counts[BIN_COUNT / 2] += part->found[i];
}

bool probe_end(const ProbeRun *run) {
    Probe *probe = run->probe;
    if (!probe) return false;
    probe->low = probe->high = 0;
    if (has_bins(probe)) memset(probe->counts, 0, sizeof *probe->counts * BIN_COUNT);
    for (int i = 0; i < parallel_threads(); i++) {
        const ProbePart *part = &run->parts[i];
        if (part->low < probe->low) probe->low = part->low;
        if (part->high > probe->high) probe->high = part->high;
        if (has_bins(probe)) counts_add(part, probe->counts);
    }
    return true;
}

void probe_over(Probe *probe, const float *x, int64_t count, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    ProbeRun run = probe_begin(probe, scratch);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += BLOCK)
        probe_add(&run, x + first, count - first < BLOCK ? count - first : BLOCK);
    probe_end(&run);
    arena_rewind(scratch, mark);
}
