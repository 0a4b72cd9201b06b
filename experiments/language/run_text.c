#include "experiments/language/run_text.h"

#include "core/file.h"
#include "data/datasets/text.h"
#include "experiments/models/model_directory.h"

bool run_text_read(const char *path, Arena *arena, Span *out, Error *err) {
    size_t bytes;
    *out = (Span){.text =
                      file_read(file_resolve(path, arena), TOKENIZER_TEXT_MAX, arena, &bytes, err)};
    if (!out->text) return false;
    out->bytes = (int64_t)bytes;
    int64_t fault = unicode_find_fault(*out);
    return fault < 0 ||
           FAIL(err, ERROR_INPUT, "%s: byte %ld (0x%02x) is not UTF-8; convert the text first",
                path, (long)fault, (unsigned char)out->text[fault]);
}

bool run_text_context(const Experiment *e, Arena *arena, int64_t *out, Error *err) {
    ModelDirectory directory;
    const char *path = e->base_directory;
    *out = ((const TextConfig *)e->config.data.config)->length;
    if (!path) return true;
    TRY(model_directory_read(path, arena, &directory, err));
    *out = directory.context;
    return true;
}

bool run_text_encode(const Experiment *e, Span text, TokenIds *out, Error *err) {
    Vocabulary vocabulary;
    bool ok = text_vocabulary_open(e->config.data.config, out->arena, &vocabulary, err) &&
              vocabulary_encode(&vocabulary, text, true, out, err);
    vocabulary_close(&vocabulary);
    return ok;
}

bool run_text_check(const Experiment *e, const char *name, Error *err) {
    return e->config.data.kind == &dataset_text.kind ||
           FAIL(err, ERROR_INPUT, "%s: this network reads no text", name);
}
