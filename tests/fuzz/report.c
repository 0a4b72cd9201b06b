/* A run's directory, as its report reads it: summary.json, env.json, config.yaml and metrics.jsonl,
 * each up to a zero. Whatever they hold, there is a page, and nothing of them is markup. */
#include "experiments/report/report.h"
#include "experiments/train/run.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const names[] = {RUN_SUMMARY, RUN_ENVIRONMENT, RUN_CONFIG, RUN_METRICS};
    FuzzPart input = {data, bytes};
    Error err = {0};
    for (int i = 0; i < 4; i++) fuzz_file(names[i], fuzz_take_text(&input));
    FUZZ_CHECK(report_write(fuzz_folder(), tasks[0], &err));
    return 0;
}
