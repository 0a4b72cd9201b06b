/* nibble inspect FILE: what is in a checkpoint, a packed model, or files of safetensors. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/print.h"
#include "data/h5.h"
#include "data/safetensors.h"
#include "experiments/commands/commands.h"
#include "experiments/train/run.h"

static bool print_numbers(const H5Reader *r, const char *name, int depth, Arena *arena,
                          Error *err) {
    H5Number *numbers;
    int count;
    TRY(h5_read_numbers(r, name, arena, &numbers, &count, err));
    for (int i = 0; i < count; i++) {
        print_out("%*s@%s = ", 2 * depth, "", numbers[i].name);
        if (numbers[i].is_float)
            print_out("%.9g\n", numbers[i].real);
        else
            print_out("%ld\n", (long)numbers[i].integer);
    }
    return true;
}

/* The range of an f32 tensor, which tells at a glance whether it trained. */
static bool print_range(const H5Reader *r, const char *name, const H5Info *info, Arena *arena,
                        Error *err) {
    int64_t count = shape_count(info->shape);
    if (!count) return true;
    ArenaMark mark = arena_mark(arena);
    float *x = arena_new_array(arena, float, count);
    TRY(h5_read_tensor(r, name, H5_F32, info->shape, x, err));
    float low = x[0], high = x[0];
    for (int64_t i = 1; i < count; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    print_out("  %.4g .. %.4g", (double)low, (double)high);
    arena_rewind(arena, mark);
    return true;
}

static bool print_tree(const H5Reader *r, const char *name, int depth, Arena *arena, Error *err) {
    H5Info info;
    TRY(h5_read_info(r, name, &info, err));
    const char *slash = strrchr(name, '/');
    if (*name) print_out("%*s%s", 2 * (depth - 1), "", slash ? slash + 1 : name);
    char text[SHAPE_TEXT_BYTES];
    switch (info.what) {
    case H5_TEXT:
        print_out("  text, %ld bytes\n", (long)info.bytes);
        return true;
    case H5_TENSOR:
        print_out("  %s %s", h5_element_name(info.element), shape_text(info.shape, text));
        if (info.element == H5_F32) TRY(print_range(r, name, &info, arena, err));
        putchar('\n');
        return print_numbers(r, name, depth, arena, err);
    case H5_GROUP:
        break;
    }
    if (*name) print_out("/\n");
    TRY(print_numbers(r, name, depth, arena, err));
    const char **names;
    int count;
    TRY(h5_read_names(r, name, arena, &names, &count, err));
    for (int i = 0; i < count; i++) {
        const char *child = *name ? arena_format(arena, "%s/%s", name, names[i]) : names[i];
        TRY(print_tree(r, child, depth + 1, arena, err));
    }
    return true;
}

/* A run directory is not a file, but holds some. */
static bool check_path(const char *path, Arena *arena, Error *err) {
    static const char *const files[] = {RUN_CHECKPOINT, RUN_PREVIOUS, RUN_BEST, RUN_QUANTIZED};
    struct stat status;
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) return true;
    const char *found = "";
    Error ignored = {0};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *file = run_path(arena, path, files[i]);
        if (file_find(file, &ignored) == FILE_ABSENT) continue;
        found = arena_format(arena, "%s%s%s", found, *found ? ", " : "", file);
    }
    if (!*found)
        return FAIL(err, ERROR_INPUT, "%s is a directory, and holds no checkpoint; give a file",
                    path);
    return FAIL(err, ERROR_INPUT, "%s is a directory; give one of its files: %s", path, found);
}

/* A file of safetensors, or a directory of them. */
static bool is_safetensors(const char *path, Arena *arena) {
    size_t length = strlen(path), end = strlen(".safetensors");
    if (length > end && !strcmp(path + length - end, ".safetensors")) return true;
    return !access(arena_format(arena, "%s/model.safetensors", path), F_OK) ||
           !access(arena_format(arena, "%s/model.safetensors.index.json", path), F_OK);
}

static bool print_safetensors(const char *path, Arena *arena, Error *err) {
    SafeTensors st;
    bool ok = safetensors_open(path, arena, &st, err);
    int64_t bytes = 0;
    for (int i = 0; ok && i < st.count; i++) {
        char text[SHAPE_TEXT_BYTES];
        const SafeTensor *t = &st.items[i];
        print_out("%s  %s %s\n", t->name, t->type, shape_text(t->shape, text));
        bytes += t->bytes;
    }
    if (ok)
        print_out("%d tensor%s, %ld bytes, in %d file%s\n", st.count, st.count == 1 ? "" : "s",
                  (long)bytes, st.file_count, st.file_count == 1 ? "" : "s");
    safetensors_close(&st);
    return ok;
}

static bool print_h5(const char *path, Arena *arena, Error *err) {
    H5Reader *r = NULL;
    if (check_path(path, arena, err)) r = h5_read_open(file_resolve(path, arena), arena, err);
    bool ok = r != NULL;
    if (ok) {
        char digest[33];
        h5_read_digest(r, digest);
        print_out("%s\ndigest %s (XXH3-128), verified\n", path, digest);
        ok = print_tree(r, "", 0, arena, err);
    }
    return ok;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("inspected file");
    const char *path = a->items[0];
    bool ok = is_safetensors(path, arena) ? print_safetensors(path, arena, err)
                                          : print_h5(path, arena, err);
    arena_free(arena);
    return ok;
}

const Command command_inspect = {
    .name = "inspect",
    .synopsis = "inspect FILE",
    .help = "list what a checkpoint or packed model holds, after checking its digest; or what "
            "files of safetensors do",
    .min_items = 1,
    .max_items = 1,
    .run = run,
};
