/* The directory of a comparison, as its page reads it: results.json, and an evaluation of a run
 * named "a", each up to a zero. */
#include <sys/stat.h>

#include "experiments/compare/comparison.h"
#include "experiments/compare/page.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzPart input = {data, bytes};
    Error err = {0};
    fuzz_file(COMPARISON_RESULTS, fuzz_take_text(&input));
    fuzz_file(COMPARISON_EVALUATIONS "/a.json", fuzz_take_text(&input));
    if (!comparison_page_write(fuzz_folder(), &err)) fuzz_check_refusal(&err);
    return 0;
}
