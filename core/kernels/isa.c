#include "core/kernels/isa.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/gemm.h"

extern const Isa isa_baseline;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
#endif

static const Isa *const rows[] = {
#if defined(__x86_64__)
    &isa_avx512,
    &isa_avx2,
#endif
    &isa_baseline,
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static const Isa *active;

static const Isa *isa_best(void) {
    int i = 0;
    while (!rows[i]->is_supported()) i++;
    return rows[i];
}

const Isa *isa_active(void) {
    if (!active) active = isa_best();
    return active;
}

static const char *supported_names(char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < ROW_COUNT; i++)
        if (rows[i]->is_supported() && used < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "%s%s", used ? ", " : "",
                                     rows[i]->name);
    return text;
}

bool kernels_init(Error *err) {
    const char *wanted = getenv("NIBBLE_ISA");
    if (!wanted || !*wanted) {
        active = isa_best();
        return true;
    }
    char names[96];
    for (int i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i]->name, wanted) != 0) continue;
        if (!rows[i]->is_supported())
            return FAIL(err, ERROR_INPUT,
                        "NIBBLE_ISA=%s: this processor cannot run it; choose from %s, or unset it",
                        wanted, supported_names(names, sizeof names));
        active = rows[i];
        return true;
    }
    return FAIL(err, ERROR_INPUT, "NIBBLE_ISA=%s is not known; choose from %s, or unset it", wanted,
                supported_names(names, sizeof names));
}

const char *kernels_description(void) {
    return isa_active()->name;
}
