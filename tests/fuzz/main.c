/* Where there is no libFuzzer: runs a target on every file of the folders that are named. */
#include <dirent.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static void run_file(const char *path) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    FUZZ_CHECK(file && !fstat(fileno(file), &status));
    size_t bytes = (size_t)status.st_size;
    uint8_t *data = malloc(bytes + !bytes); /* no more: what is read behind it is seen */
    FUZZ_CHECK(data && fread(data, 1, bytes, file) == bytes);
    fclose(file);
    LLVMFuzzerTestOneInput(data, bytes);
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
