/* Any text as JSON. What is accepted is the same when it is written and read again, on one line or
 * on many. */
#include "core/json.h"
#include "tests/fuzz/fuzz.h"

typedef struct Walk {
    int members, depth;
} Walk;

static bool walk(void *context, const JsonMember *member) {
    Walk *w = context;
    w->members++;
    if (member->text) w->members += (int)strlen(member->text);
    w->members += (int)strlen(member->name);
    if (member->inside && w->depth < 64) {
        w->depth++;
        json_each_member(member->inside, "", walk, w);
        json_each_element(member->inside, "", walk, w);
        w->depth--;
    }
    return true;
}

static void check_again(const char *text, const char *line, Arena *arena) {
    Error err = {0};
    Json *again = json_read_text(text, strlen(text), "again", &err);
    FUZZ_CHECK(again);
    FUZZ_CHECK(!strcmp(json_line(again, arena), line));
    json_free(again);
}

static void check(const Json *json, Arena *arena) {
    int64_t integer, three[3];
    bool truth;
    json_each_member(json, "", walk, &(Walk){0});
    json_number(json, "a.b");
    json_get_int(json, "a.0", &integer);
    json_get_bool(json, "a", &truth);
    json_get_ints(json, "a", three, 3);
    json_get_text(json, "a.0.b");
    for (int i = 0; i < json_count(json, "a") && i < 4; i++) json_element(json, "a", i);
    const char *line = json_line(json, arena);
    check_again(line, line, arena);
    check_again(json_indented(json, arena), line, arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    Error err = {0};
    Json *json = json_read_text((const char *)data, bytes, "fuzz", &err);
    if (json)
        check(json, arena);
    else
        fuzz_check_refusal(&err);
    json_free(json);
    arena_free(arena);
    return 0;
}
