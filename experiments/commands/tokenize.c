/* nibble tokenize MODEL_DIR FILE: a text's token ids. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/print.h"
#include "data/text/tokenizer.h"
#include "experiments/commands/commands.h"

enum { AS_JSON, PLAIN, OPTION_COUNT };

static void print_ids(const Tokenizer *t, const TokenIds *ids, bool as_json) {
    if (as_json) {
        print_out("{\"ids\": [");
        for (int64_t i = 0; i < ids->count; i++)
            print_out("%s%d", i ? ", " : "", (int)ids->items[i]);
        print_out("]}\n");
        return;
    }
    for (int64_t i = 0; i < ids->count; i++) {
        Span token = tokenizer_token(t, ids->items[i]);
        const char *text = print_line(token.text, (size_t)token.bytes, ids->arena);
        print_out("%8d  %s\n", (int)ids->items[i], text);
    }
}

/* A model's directory, or the file itself. */
static const char *tokenizer_path(const char *path, Arena *arena) {
    struct stat status;
    bool is_directory = !stat(path, &status) && S_ISDIR(status.st_mode);
    return file_resolve(is_directory ? arena_format(arena, "%s/tokenizer.json", path) : path,
                        arena);
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("tokens");
    Tokenizer *t = NULL;
    TokenIds ids = {.arena = arena};
    size_t bytes = 0;
    bool ok = tokenizer_open(tokenizer_path(a->items[0], arena), arena, &t, err);
    const char *text =
        ok ? file_read(file_resolve(a->items[1], arena), TOKENIZER_TEXT_MAX, arena, &bytes, err)
           : NULL;
    ok = text && tokenizer_encode(t, (Span){text, (int64_t)bytes}, !a->values[PLAIN], &ids, err);
    if (text && !ok) error_prefix(err, "%s", a->items[1]);
    if (ok) print_ids(t, &ids, a->values[AS_JSON] != NULL);
    tokenizer_close(t);
    arena_free(arena);
    return ok;
}

const Command command_tokenize = {
    .name = "tokenize",
    .synopsis = "tokenize MODEL_DIR FILE [--json] [--plain]",
    .help = "a text's token ids, by a model's tokenizer.json",
    .min_items = 2,
    .max_items = 2,
    .options = {[AS_JSON] = {"--json", NULL, "one object: {\"ids\": [...]}"},
                [PLAIN] = {"--plain", NULL,
                           "without the tokens that the template puts around a text"}},
    .run = run,
};
