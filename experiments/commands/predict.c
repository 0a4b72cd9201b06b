/* nibble predict MODEL FILE... [--shape H,W,C] [--images NAME] [--top N] [--json] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "core/print.h"
#include "data/images.h"
#include "experiments/commands/commands.h"
#include "experiments/report/progress.h"
#include "experiments/ship/packed.h"
#include "experiments/ship/ranking.h"
#include "experiments/train/run.h"

enum { SHAPE_OPTION, IMAGES_OPTION, TOP_OPTION, JSON_OPTION };
enum { BATCH = 256 };

typedef struct Origin {
    const char *file;
    int64_t index;
    bool is_alone; /* the file holds nothing else */
} Origin;

/* Images of one file after another gather here until they fill a batch. */
typedef struct Predictor {
    PackedModel *model;
    int top;
    bool is_json;
    float *images; /* [BATCH, height, width, channels] */
    float *logits; /* [BATCH, classes] */
    double *probabilities;
    Origin origins[BATCH];
    int count;
    int64_t files, done; /* all there are; images so far */
    bool has_progress;
    Progress progress;
} Predictor;

/* ---- Results ---- */

static const char *class_name(const Predictor *p, int64_t class) {
    return p->model->class_names ? p->model->class_names[class] : NULL;
}

static void set_class(const Predictor *p, Json *json, int64_t class) {
    json_set_int(json, "class", class);
    json_set_text(json, "label", class_name(p, class));
    json_set_number(json, "probability", p->probabilities[class]);
}

static void print_json(const Predictor *p, const Origin *origin, const float *logits) {
    Arena *arena = arena_new("line");
    Json *json = json_new();
    int64_t classes = p->model->class_count, class = ranking_next(logits, classes, -1);
    json_set_text(json, "file", origin->file);
    json_set_int(json, "index", origin->index);
    set_class(p, json, class);
    for (int i = 0; i < p->top && class >= 0; i++) {
        set_class(p, json_append(json, "top"), class);
        class = ranking_next(logits, classes, class);
    }
    print_out("%s\n", json_line(json, arena));
    json_free(json);
    arena_free(arena);
}

static void print_answer(const Predictor *p, const Origin *origin, const float *logits) {
    int64_t classes = p->model->class_count, class = ranking_next(logits, classes, -1);
    print_out("%s", origin->file);
    if (!origin->is_alone) print_out("[%ld]", (long)origin->index);
    for (int i = 0; i < p->top && class >= 0; i++) {
        const char *name = class_name(p, class);
        print_out("%s class %ld%s%s%s %.4f", i ? "," : ":", (long)class, name ? " (" : "",
                  name ? name : "", name ? ")" : "", p->probabilities[class]);
        class = ranking_next(logits, classes, class);
    }
    putchar('\n');
}

/* ---- Batches ---- */

static bool predict_batch(Predictor *p, Error *err) {
    int64_t classes = p->model->class_count;
    TRY(packed_model_run(p->model, p->images, p->count, p->logits, err));
    for (int i = 0; i < p->count; i++) {
        const float *logits = p->logits + i * classes;
        ranking_probabilities(logits, classes, p->probabilities);
        (p->is_json ? print_json : print_answer)(p, &p->origins[i], logits);
    }
    p->done += p->count;
    p->count = 0;
    return true;
}

/* Steps are files, or the images of the only one. */
static void show_progress(Predictor *p, int64_t files) {
    if (!p->has_progress) return;
    ProgressState state = {.step = p->files > 1 ? files : p->done,
                           .loss = NAN,
                           .score = NAN,
                           .learning_rate = NAN,
                           .samples = p->done};
    progress_update(&p->progress, &state, false);
}

static void add_image(Predictor *p, const Images *images, int64_t index, const char *file) {
    int64_t pixels = shape_count(p->model->input);
    float *to = p->images + p->count * pixels;
    if (images->pixel_type == PIXEL_F32)
        memcpy(to, (const float *)images->pixels + index * pixels, sizeof *to * (size_t)pixels);
    else
        for (int64_t i = 0; i < pixels; i++)
            to[i] = ((const unsigned char *)images->pixels)[index * pixels + i];
    p->origins[p->count++] = (Origin){file, index, images->count == 1};
}

static bool predict_file(Predictor *p, const ImagesRequest *request, int64_t files, Error *err) {
    Arena *arena = arena_new("images");
    Images images;
    bool ok = images_read(request, arena, &images, err);
    if (p->files == 1) p->progress.total_steps = images.count;
    for (int64_t i = 0; ok && i < images.count; i++) {
        add_image(p, &images, i, request->path);
        if (p->count < BATCH) continue;
        ok = predict_batch(p, err);
        show_progress(p, files);
    }
    arena_free(arena);
    return ok;
}

/* What was read before a file that cannot be is still answered. */
static bool predict_files(Predictor *p, ImagesRequest request, const Arguments *a, Error *err) {
    bool ok = true;
    for (int i = 1; ok && i < a->count; i++) {
        request.path = a->items[i];
        ok = predict_file(p, &request, i - 1, err);
        show_progress(p, i);
    }
    Error ignored = {0};
    if (p->count && !predict_batch(p, ok ? err : &ignored)) ok = false;
    return ok;
}

/* ---- Arguments ---- */

static bool parse_top(const char *text, int64_t classes, int *top, Error *err) {
    char *end;
    long value = text ? strtol(text, &end, 10) : 1;
    if (text && (*end || value < 1))
        return FAIL(err, ERROR_INPUT, "--top must be a number from 1 on, not '%s'", text);
    *top = (int)(value < classes ? value : classes);
    return true;
}

/* It must be what the model takes: it says that the person knows what the bytes are. */
static bool check_shape(const char *text, Shape input, Error *err) {
    long h, w, c;
    int used = 0;
    if (sscanf(text, "%ld,%ld,%ld%n", &h, &w, &c, &used) != 3 || text[used])
        return FAIL(err, ERROR_INPUT, "--shape must be H,W,C such as 28,28,1, not '%s'", text);
    if (h == input.dim[0] && w == input.dim[1] && c == input.dim[2]) return true;
    return FAIL(err, ERROR_INPUT, "--shape %s: the model takes images of %ld,%ld,%ld", text,
                (long)input.dim[0], (long)input.dim[1], (long)input.dim[2]);
}

/* That of the network which the run reports; another is used where its file is named. */
static bool open_run(const char *directory, Arena *arena, PackedModel *m, Error *err) {
    const char *path = run_path(arena, directory, RUN_QUANTIZED);
    TRY(run_is_one(directory, err));
    FileState state = file_find(path, err);
    if (state == FILE_ABSENT)
        return FAIL(err, ERROR_INPUT, "%s is missing; run 'nibble convert %s' first", path,
                    directory);
    TRY(state == FILE_REGULAR && packed_open(path, arena, m, err));
    if (packed_check_run(directory, err)) return true;
    if (err->code == ERROR_MISMATCH)
        error_append(err, ", or name %s to predict with it as it is", path);
    return false;
}

/* A run directory stands for the packed model in it; a file may be a link. */
static bool open_model(const char *name, Arena *arena, PackedModel *m, Error *err) {
    struct stat info;
    if (!stat(name, &info) && S_ISDIR(info.st_mode)) return open_run(name, arena, m, err);
    return packed_open(file_resolve(name, arena), arena, m, err);
}

static void predictor_init(Predictor *p, Arena *arena, const Arguments *a) {
    int64_t pixels = shape_count(p->model->input), classes = p->model->class_count;
    p->is_json = a->values[JSON_OPTION] != NULL;
    p->images = arena_new_array(arena, float, BATCH *pixels);
    p->logits = arena_new_array(arena, float, BATCH *classes);
    p->probabilities = arena_new_array(arena, double, classes);
    p->files = a->count - 1;
    p->has_progress = !isatty(STDOUT_FILENO); /* else the results move themselves */
    if (p->has_progress) progress_begin(&p->progress, stderr, 0, p->files, 0, &task_classify);
}

static bool predict(const Arguments *a, PackedModel *m, Arena *arena, Error *err) {
    Predictor *p = arena_zalloc(arena, sizeof *p);
    const char *shape = a->values[SHAPE_OPTION], *name = a->values[IMAGES_OPTION];
    p->model = m;
    TRY(parse_top(a->values[TOP_OPTION], m->class_count, &p->top, err));
    if (shape) TRY(check_shape(shape, m->input, err));
    predictor_init(p, arena, a);
    ImagesRequest request = {.size = m->input,
                             .type = m->has_float_pixels ? PIXEL_F32 : PIXEL_U8,
                             .is_raw = shape != NULL,
                             .array = name ? name : "test_images"};
    bool ok = predict_files(p, request, a, err);
    if (p->has_progress) progress_end(&p->progress);
    return ok;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("packed model");
    PackedModel m = {0};
    bool ok = open_model(a->items[0], arena, &m, err) && predict(a, &m, arena, err);
    packed_model_close(&m);
    arena_free(arena);
    return ok;
}

const Command command_predict = {
    .name = "predict",
    .synopsis = "predict MODEL FILE... [--top N] [--json] [--shape H,W,C] [--images NAME]",
    .help = "classes and probabilities of images, by a quantized.h5 or the run directory that has "
            "one.\n      Files: PNG, PGM and PPM (8 bits; 16-bit PNG is rounded, transparency "
            "refused), IDX plain or .gz,\n      HDF5, or bare pixels with --shape. Images have the "
            "model's size, channels and type of pixel",
    .min_items = 2,
    .max_items = -1,
    .options =
        {[SHAPE_OPTION] = {"--shape", "H,W,C",
                           "files are pixels alone, bytes or little-endian f32 as trained on"},
         [IMAGES_OPTION] = {"--images", "NAME", "array of HDF5 files (test_images)"},
         [TOP_OPTION] = {"--top", "N", "the N most probable classes (1)"},
         [JSON_OPTION] = {"--json", NULL, "a JSON object a line"}},
    .is_parallel = true,
    .run = run,
};
