#include "experiments/commands/run_options.h"

#include <stdlib.h>
#include <string.h>

bool run_option_count(const char *option, const char *text, int64_t low, int64_t *out, Error *err) {
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < low)
        return FAIL(err, ERROR_INPUT, "%s must be a number from %ld on, not '%s'", option,
                    (long)low, text);
    *out = value;
    return true;
}

bool run_options_read(const Arguments *a, const char *calibrate, RunOptions *out, Error *err) {
    *out = (RunOptions){.override_count = a->count - 1, .overrides = a->items + 1};
    for (int i = 0; i < out->override_count; i++) {
        const char *override = out->overrides[i];
        if (!strchr(override, '='))
            return FAIL(err, ERROR_INPUT, "'%s' is no setting: expected NAME=VALUE", override);
        TRY(config_check_free(override, err));
    }
    if (!calibrate) return true;
    char *end;
    out->calibrate = strtol(calibrate, &end, 10);
    if (end != calibrate && !*end && out->calibrate > 0) return true;
    return FAIL(err, ERROR_INPUT, "--calibrate must be a number of training images, not '%s'",
                calibrate);
}
