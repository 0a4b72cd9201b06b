#include "data/text/regex.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    MATCH_STEPS_MAX = 1 << 20,  /* of one match; a word takes a few dozen */
    MATCH_BYTES_MAX = 64 << 10, /* KiB of memory for backtracking */
};

struct Regex {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

/* White space as Unicode has it. PCRE2's own takes U+180E for space too, which it once was. */
#define SPACES "\\x09-\\x0d\\x20\\x85\\p{Z}"

/* What a \\s or \\S becomes; "" where that cannot be said. */
static const char *space_class(bool is_not, bool is_in_class) {
    if (is_in_class) return is_not ? "" : SPACES;
    return is_not ? "[^" SPACES "]" : "[" SPACES "]";
}

/* The pattern with its \\s and \\S spelled out; NULL: one of them cannot be. Freed by the caller.
 */
static char *with_spaces(const char *pattern) {
    size_t longest = sizeof "[^" SPACES "]";
    char *out = checked_malloc("regular expression", checked_mul(strlen(pattern) + 1, longest));
    char *at = out;
    bool is_in_class = false;
    for (const char *c = pattern; *c; c++) {
        if (*c == '\\' && (c[1] == 's' || c[1] == 'S')) {
            const char *spaces = space_class(c[1] == 'S', is_in_class);
            if (!*spaces) {
                free(out);
                return NULL;
            }
            at = stpcpy(at, spaces);
            c++;
            continue;
        }
        if (*c == '[') is_in_class = true;
        if (*c == ']') is_in_class = false;
        *at++ = *c;
        if (*c == '\\' && c[1]) *at++ = *++c;
    }
    *at = '\0';
    return out;
}

Regex *regex_new(const char *pattern, Error *err) {
    int code;
    PCRE2_SIZE at;
    char *spelled = with_spaces(pattern);
    if (!spelled) {
        error_set(err, ERROR_INPUT, __FILE__, __LINE__,
                  "regular expression: \\S within brackets is not supported");
        return NULL;
    }
    Regex *r = checked_malloc("regular expression", sizeof *r);
    *r = (Regex){0};
    r->code = pcre2_compile((PCRE2_SPTR)spelled, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    free(spelled);
    if (!r->code) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(code, why, sizeof why);
        error_set(err, ERROR_INPUT, __FILE__, __LINE__, "regular expression, character %ld: %s",
                  (long)at, (const char *)why);
        regex_free(r);
        return NULL;
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it, matching is only slower */
    r->match = pcre2_match_data_create_from_pattern(r->code, NULL);
    r->limits = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(r->limits, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(r->limits, MATCH_BYTES_MAX);
    return r;
}

void regex_limit(Regex *r, int steps) {
    pcre2_set_match_limit(r->limits, (uint32_t)steps);
}

void regex_free(Regex *r) {
    if (!r) return;
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
    pcre2_code_free(r->code);
    free(r);
}

bool regex_find(Regex *r, Span text, int64_t from, int64_t *start, int64_t *end, Error *err) {
    int found = pcre2_match(r->code, (PCRE2_SPTR)text.text, (PCRE2_SIZE)text.bytes,
                            (PCRE2_SIZE)from, PCRE2_NO_UTF_CHECK, r->match, r->limits);
    *start = *end = -1;
    if (found == PCRE2_ERROR_NOMATCH) return true;
    if (found < 0) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(found, why, sizeof why);
        return FAIL(err, ERROR_INPUT, "a regular expression fails at byte %ld of a text: %s",
                    (long)from, (const char *)why);
    }
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(r->match);
    *start = (int64_t)offsets[0];
    *end = (int64_t)offsets[1];
    return true;
}
