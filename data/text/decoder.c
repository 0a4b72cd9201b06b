/* The decoders of a tokenizer.json: tokens become text again. Each changes the list of tokens'
 * texts, which are then put together. */
#include <stdio.h>
#include <string.h>

#include "data/text/byte_level.h"
#include "data/text/step.h"

static const Span unreadable = {"\xef\xbf\xbd", 3}; /* U+FFFD */

static Span fused(const Spans *tokens, int64_t first, int64_t end) {
    int64_t bytes = 0;
    for (int64_t i = first; i < end; i++) bytes += tokens->items[i].bytes;
    char *out = arena_alloc(tokens->arena, (size_t)bytes), *at = out;
    for (int64_t i = first; i < end; i++) {
        memcpy(at, tokens->items[i].text, (size_t)tokens->items[i].bytes);
        at += tokens->items[i].bytes;
    }
    return (Span){out, bytes};
}

static bool fuse(const Step *step, Spans *tokens, Error *err) {
    (void)step, (void)err;
    if (!tokens->count) return true;
    tokens->items[0] = fused(tokens, 0, tokens->count);
    tokens->count = 1;
    return true;
}

/* What is not UTF-8 becomes U+FFFD: once for each maximal part of a character, as Unicode advises.
 */
static Span made_valid(Span text, Arena *arena) {
    if (unicode_find_fault(text) < 0) return text;
    char *out = arena_alloc(arena, 3 * (size_t)text.bytes), *at = out;
    for (int64_t i = 0; i < text.bytes;) {
        unsigned char lead = (unsigned char)text.text[i];
        int64_t want = lead < 0x80   ? 1
                       : lead < 0xc2 ? 0
                       : lead < 0xe0 ? 2
                       : lead < 0xf0 ? 3
                       : lead < 0xf5 ? 4
                                     : 0;
        int64_t have = want > 0;
        while (have > 0 && have < want && i + have < text.bytes) {
            unsigned char byte = (unsigned char)text.text[i + have];
            unsigned char low = 0x80, high = 0xbf;
            if (have == 1) {
                if (lead == 0xe0) low = 0xa0;
                if (lead == 0xed) high = 0x9f;
                if (lead == 0xf0) low = 0x90;
                if (lead == 0xf4) high = 0x8f;
            }
            if (byte < low || byte > high) break;
            have++;
        }
        bool is_whole = want && have == want;
        Span put = is_whole ? (Span){text.text + i, want} : unreadable;
        memcpy(at, put.text, (size_t)put.bytes);
        at += put.bytes;
        i += have ? have : 1;
    }
    return (Span){out, at - out};
}

/* All at once: a character may lie in several tokens. */
static bool byte_level(const Step *step, Spans *tokens, Error *err) {
    for (int64_t i = 0; i < tokens->count; i++)
        tokens->items[i] = byte_level_decode(tokens->items[i], tokens->arena);
    TRY(fuse(step, tokens, err));
    if (tokens->count) tokens->items[0] = made_valid(tokens->items[0], tokens->arena);
    return true;
}

static bool replace_read(Step *step, const Json *json, Arena *arena, Error *err) {
    if (json_type_at(json, "pattern.String") != JSON_TEXT)
        return FAIL(err, ERROR_INPUT, "'pattern' must be a String");
    return step_pattern(step, json, arena, err) &&
           step_text(json, "content", &step->content, arena, err);
}

static bool replace(const Step *step, Spans *tokens, Error *err) {
    for (int64_t i = 0; i < tokens->count; i++) {
        Span text = tokens->items[i];
        Spans parts = {.arena = tokens->arena};
        int64_t bytes = 0;
        for (int64_t at = 0, start, end; at < text.bytes; at = end) {
            TRY(step_find(step, text, at, &start, &end, err));
            if (start < 0) start = end = text.bytes;
            spans_add(&parts, (Span){text.text + at, start - at});
            if (end > start) spans_add(&parts, step->content);
            bytes += start - at + (end > start ? step->content.bytes : 0);
        }
        TRY(step_check_growth(text.bytes, bytes, err));
        tokens->items[i] = fused(&parts, 0, parts.count);
    }
    return true;
}

/* The byte that "<0x0A>" stands for; -1: another token. */
static int byte_of(Span token) {
    unsigned value;
    char text[8], again[8];
    if (token.bytes != 6) return -1;
    memcpy(text, token.text, 6);
    text[6] = '\0';
    if (sscanf(text, "<0x%2X>", &value) != 1) return -1;
    snprintf(again, sizeof again, "<0x%02X>", value);
    return strcasecmp(again, text) ? -1 : (int)value;
}

/* Bytes in a row that are no text become U+FFFD, each of them. */
static bool byte_fallback(const Step *step, Spans *tokens, Error *err) {
    (void)step, (void)err;
    Spans out = {.arena = tokens->arena};
    for (int64_t i = 0; i < tokens->count;) {
        int64_t end = i;
        while (end < tokens->count && byte_of(tokens->items[end]) >= 0) end++;
        if (end == i) {
            spans_add(&out, tokens->items[i++]);
            continue;
        }
        char *bytes = arena_alloc(tokens->arena, (size_t)(end - i));
        for (int64_t j = i; j < end; j++) bytes[j - i] = (char)byte_of(tokens->items[j]);
        Span text = {bytes, end - i};
        if (unicode_find_fault(text) < 0)
            spans_add(&out, text);
        else
            for (int64_t j = i; j < end; j++) spans_add(&out, unreadable);
        i = end;
    }
    *tokens = out;
    return true;
}

static bool strip_read(Step *step, const Json *json, Arena *arena, Error *err) {
    if (!json_get_int(json, "start", &step->start) || !json_get_int(json, "stop", &step->stop))
        return FAIL(err, ERROR_INPUT, "'start' and 'stop' must be counts");
    return step_text(json, "content", &step->content, arena, err);
}

static bool starts_with(Span text, Span with) {
    return with.bytes && text.bytes >= with.bytes &&
           !memcmp(text.text, with.text, (size_t)with.bytes);
}

static bool strip(const Step *step, Spans *tokens, Error *err) {
    (void)err;
    for (int64_t i = 0; i < tokens->count; i++) {
        Span *text = &tokens->items[i];
        for (int64_t n = 0; n < step->start && starts_with(*text, step->content); n++) {
            text->text += step->content.bytes;
            text->bytes -= step->content.bytes;
        }
        for (int64_t n = 0; n < step->stop && text->bytes >= step->content.bytes; n++) {
            Span end = {text->text + text->bytes - step->content.bytes, step->content.bytes};
            if (!starts_with(end, step->content)) break;
            text->bytes -= step->content.bytes;
        }
    }
    return true;
}

static bool metaspace_read(Step *step, const Json *json, Arena *arena, Error *err) {
    bool adds = true;
    TRY(step_flag_if(json, "add_prefix_space", &adds, err));
    step->scheme = adds ? STEP_ALWAYS : STEP_NEVER;
    if (json_has(json, "prepend_scheme"))
        TRY(step_choice(json, "prepend_scheme", step_schemes, &step->scheme, err));
    step->adds_space = step->scheme != STEP_NEVER;
    step->content = (Span){" ", 1};
    return step_character(json, "replacement", &step->pattern, arena, err);
}

/* In the first token they are what encoding put before the text. */
static bool metaspace(const Step *step, Spans *tokens, Error *err) {
    Step nothing = *step;
    nothing.content.bytes = 0;
    Spans first = {.arena = tokens->arena, .items = tokens->items, .count = tokens->count > 0};
    return (!step->adds_space || replace(&nothing, &first, err)) && replace(step, tokens, err);
}

const StepRow decoder_rows[] = {
    {"ByteLevel", " add_prefix_space trim_offsets use_regex ", NULL, .decode = byte_level},
    {"Replace", " pattern content ", replace_read, .decode = replace},
    {"ByteFallback", "", NULL, .decode = byte_fallback},
    {"Fuse", "", NULL, .decode = fuse},
    {"Strip", " content start stop ", strip_read, .decode = strip},
    {"Metaspace", " replacement add_prefix_space prepend_scheme split ", metaspace_read,
     .decode = metaspace},
    {0},
};
