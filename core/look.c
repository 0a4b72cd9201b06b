#include "core/look.h"

#include <string.h>

#include "core/kernels/isa.h"
#include "core/parallel.h"

_Static_assert((int)LOOK_BINS == (int)BIN_COUNT, "the kernel's bins");

enum { BLOCK = 1 << 12 /* elements that a thread passes over at a time */ };

/* What one thread found, on cache lines of its own. */
typedef struct LookPart {
    float low, high;
    float padding[LANES - 2];
    uint32_t found[BIN_SLOTS];
} LookPart;

static bool has_bins(const Look *look) {
    return look->counts && look->limit > 0;
}

int64_t look_scratch(const Look *look) {
    return look ? arena_padded(parallel_threads() * (int64_t)sizeof(LookPart)) : 0;
}

LookRun look_begin(Look *look, Arena *scratch) {
    if (!look) return (LookRun){NULL, NULL};
    isa_active(); /* chosen before threads ask */
    LookRun run = {look, arena_alloc(scratch, (size_t)look_scratch(look))};
    size_t used = has_bins(look) ? sizeof(LookPart) : offsetof(LookPart, found);
    for (int i = 0; i < parallel_threads(); i++) memset(&run.parts[i], 0, used);
    return run;
}

void look_add(const LookRun *run, const float *x, int64_t count) {
    if (!run->look) return;
    LookPart *part = &run->parts[parallel_self()];
    float low, high;
    isa_active()->extremes(x, count, &low, &high);
    if (low < part->low) part->low = low;
    if (high > part->high) part->high = high;
    if (has_bins(run->look))
        isa_active()->bins_count(x, count, BIN_COUNT / 2 / run->look->limit, part->found);
}

/* Whole numbers add up to the same in any order. */
static void counts_add(const LookPart *part, uint32_t *counts) {
    for (int i = 0; i < BIN_COUNT; i++) counts[i] += part->found[i];
    for (int i = BIN_COUNT; i < BIN_SLOTS; i++) counts[BIN_COUNT / 2] += part->found[i];
}

bool look_end(const LookRun *run) {
    Look *look = run->look;
    if (!look) return false;
    look->low = look->high = 0;
    if (has_bins(look)) memset(look->counts, 0, sizeof *look->counts * BIN_COUNT);
    for (int i = 0; i < parallel_threads(); i++) {
        const LookPart *part = &run->parts[i];
        if (part->low < look->low) look->low = part->low;
        if (part->high > look->high) look->high = part->high;
        if (has_bins(look)) counts_add(part, look->counts);
    }
    return true;
}

void look_over(Look *look, const float *x, int64_t count, Arena *scratch) {
    ArenaMark mark = arena_mark(scratch);
    LookRun run = look_begin(look, scratch);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += BLOCK)
        look_add(&run, x + first, count - first < BLOCK ? count - first : BLOCK);
    look_end(&run);
    arena_rewind(scratch, mark);
}
