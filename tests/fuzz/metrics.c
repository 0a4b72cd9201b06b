/* Any text as metrics.jsonl: the charts of a report. */
#include "experiments/report/curves.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    Page page = {.arena = arena};
    FuzzPart input = {data, bytes};
    const char *text = fuzz_text(input, arena);
    curves_put(&page, text, bytes, tasks[0]);
    FUZZ_CHECK(strlen(page.text) > 0);
    arena_free(arena);
    return 0;
}
