#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

FuzzPart fuzz_take_text(FuzzPart *input) {
    const uint8_t *end = input->bytes ? memchr(input->data, 0, input->bytes) : NULL;
    FuzzPart part = {input->data, end ? (size_t)(end - input->data) : input->bytes};
    size_t taken = part.bytes + (end != NULL);
    input->data += taken;
    input->bytes -= taken;
    return part;
}

uint8_t fuzz_take_byte(FuzzPart *input) {
    if (!input->bytes) return 0;
    input->bytes--;
    return *input->data++;
}

const char *fuzz_text(FuzzPart part, Arena *arena) {
    char *text = arena_alloc(arena, part.bytes + 1);
    if (part.bytes) memcpy(text, part.data, part.bytes);
    text[part.bytes] = '\0';
    return text;
}

/* ---- Files: few, and open, so that an execution is two calls ---- */

enum { FILES_MAX = 16, PATH_BYTES = 128 };

static char folder[PATH_BYTES];
static struct {
    char name[PATH_BYTES / 2], path[PATH_BYTES];
    int descriptor;
} files[FILES_MAX];
static int file_count;

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static void remove_folder(void) {
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_folder(void) {
    if (*folder) return folder;
    const char *memory = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/nibble-fuzz-XXXXXX", memory);
    FUZZ_CHECK(mkdtemp(folder));
    atexit(remove_folder);
    return folder;
}

static int find_file(const char *name) {
    for (int i = 0; i < file_count; i++)
        if (!strcmp(files[i].name, name)) return i;
    FUZZ_CHECK(file_count < FILES_MAX);
    int i = file_count++;
    snprintf(files[i].name, sizeof files[i].name, "%s", name);
    snprintf(files[i].path, sizeof files[i].path, "%.60s/%.60s", fuzz_folder(), name);
    char *last = strrchr(files[i].path, '/'); /* in one more folder at most */
    if (strchr(name, '/')) {
        *last = '\0';
        (void)mkdir(files[i].path, 0700);
        *last = '/';
    }
    files[i].descriptor = -1;
    return i;
}

const char *fuzz_file(const char *name, FuzzPart content) {
    int i = find_file(name);
    if (files[i].descriptor < 0)
        files[i].descriptor = open(files[i].path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int fd = files[i].descriptor;
    FUZZ_CHECK(fd >= 0 && !ftruncate(fd, (off_t)content.bytes));
    ssize_t put = content.bytes ? pwrite(fd, content.data, content.bytes, 0) : 0;
    FUZZ_CHECK(put == (ssize_t)content.bytes);
    return files[i].path;
}

void fuzz_no_file(const char *name) {
    int i = find_file(name);
    if (files[i].descriptor < 0) return;
    close(files[i].descriptor);
    files[i].descriptor = -1;
    unlink(files[i].path);
}

/* ---- What holds for every parser ---- */

void fuzz_check_refusal(const Error *err) {
    FUZZ_CHECK(err->code == ERROR_INPUT);
    FUZZ_CHECK(err->message[0]);
}

void fuzz_check_memory(const Arena *arena, size_t input_bytes, size_t each) {
    FUZZ_CHECK(arena_peak(arena) <= input_bytes * each + (256 << 10));
}
