/* Where there is no libFuzzer: runs a target on every file of the folders that are named; and,
 * where it holds JSON or YAML, with each value in turn taken by one of every other kind. */
#include <dirent.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static uint8_t *new_bytes(size_t bytes) { /* no more: what is read behind it is seen */
    uint8_t *data = malloc(bytes + !bytes);
    FUZZ_CHECK(data);
    return data;
}

/* Behind the value that begins at `at`: an object, a list, text, or a word. */
static size_t value_end(const uint8_t *data, size_t at, size_t bytes) {
    int depth = 0;
    bool is_text = false;
    for (; at < bytes; at++) {
        uint8_t c = data[at];
        if (is_text && c == '\\') {
            at++;
        } else if (c == '"') {
            is_text = !is_text;
            if (!is_text && !depth) return at + 1;
        } else if (!is_text && c && strchr("{[", c)) {
            depth++;
        } else if (!is_text && c && strchr("]}, \n", c)) {
            if (strchr("]}", c) && depth && !--depth) return at + 1;
            if (!depth) return at;
        }
    }
    return bytes;
}

static void run_with(const uint8_t *data, size_t bytes, size_t at, size_t end, const char *value) {
    size_t length = strlen(value), all = at + length + bytes - end;
    uint8_t *other = new_bytes(all);
    memcpy(other, data, at);
    memcpy(other + at, value, length);
    if (end < bytes) memcpy(other + at + length, data + end, bytes - end);
    LLVMFuzzerTestOneInput(other, all);
    free(other);
}

/* Values stand behind a colon, a comma or the beginning of a list; so do names, which are none of
 * JSON's then. */
static void run_other_kinds(const uint8_t *data, size_t bytes) {
    static const char *const kinds[] = {"null", "true", "-7",   "\"a\"",
                                        "[]",   "[7]",  "[{}]", "{\"a\": 7}"};
    enum { TEXT_MAX = 16 << 10 };
    bool has_values = memmem(data, bytes, "{\"", 2) || memmem(data, bytes, ": ", 2);
    if (bytes > TEXT_MAX || !has_values) return;
    for (size_t i = 1; i < bytes; i++) {
        size_t at = i;
        while (at < bytes && data[at] == ' ') at++;
        if (!data[i - 1] || !strchr(":,[", data[i - 1])) continue;
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
            run_with(data, bytes, at, value_end(data, at, bytes), kinds[kind]);
    }
}

static void run_file(const char *path) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    FUZZ_CHECK(file && !fstat(fileno(file), &status));
    size_t bytes = (size_t)status.st_size;
    uint8_t *data = new_bytes(bytes);
    FUZZ_CHECK(fread(data, 1, bytes, file) == bytes);
    fclose(file);
    LLVMFuzzerTestOneInput(data, bytes);
    run_other_kinds(data, bytes);
    free(data);
}

static int run_folder(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort), files = 0;
    for (int i = 0; i < count; i++) {
        char file[1024];
        snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') {
            run_file(file);
            files++;
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    return files;
}

int main(int count, char **folders) {
    int files = 0;
    for (int i = 1; i < count; i++) files += run_folder(folders[i]);
    printf("%d seeds\n", files);
    return files == 0;
}
