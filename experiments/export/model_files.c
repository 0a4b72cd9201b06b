#include "experiments/export/model_files.h"

#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "experiments/report/text.h"

static const char *const copied[] = {"tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "tokenizer.model",
                                     "chat_template.jinja",
                                     "vocab.json",
                                     "merges.txt",
                                     "generation_config.json"};

static bool copy(const char *from, const char *to, const char *name, Arena *arena, Error *err) {
    enum { BYTES_MAX = 256 << 20 };
    size_t bytes;
    const char *path = arena_format(arena, "%s/%s", from, name);
    if (access(path, F_OK)) return true;
    const char *text = file_read(file_resolve(path, arena), BYTES_MAX, arena, &bytes, err);
    return text && text_write(arena_format(arena, "%s/%s", to, name), text, err);
}

bool model_files_copy(const char *from, const char *to, Error *err) {
    Arena *arena = arena_new("model files");
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof copied / sizeof *copied; i++)
        ok = copy(from, to, copied[i], arena, err);
    arena_free(arena);
    return ok;
}

static void set_stored(Json *json, const char *dtype) {
    bool is_old = json_type_at(json, "torch_dtype") != JSON_ABSENT;
    json_set_text(json, is_old ? "torch_dtype" : "dtype", dtype);
    if (json_type_at(json, "quantization_config") != JSON_ABSENT)
        json_set_text(json, "quantization_config", NULL);
}

bool model_files_config(const char *from, const char *to, const char *dtype, Error *err) {
    static const char name[] = "config.json";
    Arena *arena = arena_new("model files");
    Json *json = json_read_file(file_resolve(arena_format(arena, "%s/%s", from, name), arena), err);
    if (json) set_stored(json, dtype);
    bool ok = json && text_write_json(json, arena_format(arena, "%s/%s", to, name), err);
    json_free(json);
    arena_free(arena);
    return ok;
}
