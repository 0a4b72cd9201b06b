/* The normalizers of a tokenizer.json: text becomes other text. */
#include <string.h>

#include "data/text/step.h"

static Span joined(Span a, Span b, Arena *arena) {
    char *text = arena_alloc(arena, (size_t)(a.bytes + b.bytes));
    memcpy(text, a.text, (size_t)a.bytes);
    memcpy(text + a.bytes, b.text, (size_t)b.bytes);
    return (Span){text, a.bytes + b.bytes};
}

static bool prepend_read(Step *step, const Json *json, Arena *arena, Error *err) {
    return step_text(json, "prepend", &step->content, arena, err);
}

static bool prepend(const Step *step, Span *text, Arena *arena, Error *err) {
    if (!text->bytes) return true;
    TRY(step_check_growth(text->bytes, text->bytes + step->content.bytes, err));
    *text = joined(step->content, *text, arena);
    return true;
}

static bool replace_read(Step *step, const Json *json, Arena *arena, Error *err) {
    return step_pattern(step, json, arena, err) &&
           step_text(json, "content", &step->content, arena, err);
}

/* Occurrences first, so that the result is allocated once. */
static bool replace(const Step *step, Span *text, Arena *arena, Error *err) {
    Spans parts = {.arena = arena};
    int64_t at = 0, bytes = 0;
    for (;;) {
        int64_t start, end;
        TRY(step_find(step, *text, at, &start, &end, err));
        int64_t stop = start < 0 ? text->bytes : start;
        spans_add(&parts, (Span){text->text + at, stop - at});
        bytes += stop - at;
        if (start < 0) break;
        spans_add(&parts, step->content);
        bytes += step->content.bytes;
        at = end;
    }
    TRY(step_check_growth(text->bytes, bytes, err));
    char *out = arena_alloc(arena, (size_t)bytes);
    *text = (Span){out, bytes};
    for (int64_t i = 0; i < parts.count; i++) {
        memcpy(out, parts.items[i].text, (size_t)parts.items[i].bytes);
        out += parts.items[i].bytes;
    }
    return true;
}

static bool strip_read(Step *step, const Json *json, Arena *arena, Error *err) {
    (void)arena;
    bool left, right;
    TRY(step_flag(json, "strip_left", &left, err) && step_flag(json, "strip_right", &right, err));
    step->start = left;
    step->stop = right;
    return true;
}

static bool strip(const Step *step, Span *text, Arena *arena, Error *err) {
    (void)arena;
    (void)err;
    int64_t from = 0, to = text->bytes, bytes;
    while (step->start && from < to && unicode_is_space(unicode_at(*text, from, &bytes)))
        from += bytes;
    while (step->stop && to > from) {
        int64_t last = unicode_before(*text, to);
        if (!unicode_is_space(unicode_at(*text, last, &bytes))) break;
        to = last;
    }
    *text = (Span){text->text + from, to - from};
    return true;
}

#define FORM(name, form)                                                                           \
    static bool name(const Step *step, Span *text, Arena *arena, Error *err) {                     \
        (void)step;                                                                                \
        (void)err;                                                                                 \
        *text = unicode_normalize(*text, form, arena);                                             \
        return true;                                                                               \
    }
FORM(nfc, UNICODE_NFC)
FORM(nfd, UNICODE_NFD)
FORM(nfkc, UNICODE_NFKC)
FORM(nfkd, UNICODE_NFKD)

const StepRow normalizer_rows[] = {
    {"Prepend", " prepend ", prepend_read, .normalize = prepend},
    {"Replace", " pattern content ", replace_read, .normalize = replace},
    {"Strip", " strip_left strip_right ", strip_read, .normalize = strip},
    {"NFC", "", .normalize = nfc},
    {"NFD", "", .normalize = nfd},
    {"NFKC", "", .normalize = nfkc},
    {"NFKD", "", .normalize = nfkd},
    {0},
};
