#include "data/facts.h"

#include <string.h>

#include "data/envelope.h"

void facts_digest_pixels(const Dataset *dataset, const DatasetPart *part,
                         char digest[FACTS_DIGEST_BYTES]) {
    size_t bytes = (size_t)(part->count * dataset_row_bytes(dataset));
    envelope_digest(part->pixels, bytes, digest);
}

DataFacts facts_of(const Dataset *dataset) {
    const DatasetPart *part = &dataset->train;
    int64_t labels = part->count * (part->labels_each ? part->labels_each : 1);
    DataFacts facts = {.images = part->count - dataset->kept,
                       .height = dataset->height,
                       .width = dataset->width,
                       .channels = dataset->channels,
                       .class_count = dataset->class_count,
                       .pixel_type = dataset->pixel_type,
                       .tokenizer = dataset->tokenizer};
    facts_digest_pixels(dataset, part, facts.images_digest);
    envelope_digest(part->labels, sizeof *part->labels * (size_t)labels, facts.labels_digest);
    if (dataset->tokenizer_digest)
        memcpy(facts.tokenizer_digest, dataset->tokenizer_digest, FACTS_DIGEST_BYTES);
    return facts;
}

const char *facts_noun(const DataFacts *facts) {
    return facts->pixel_type == PIXEL_TOKENS ? "rows" : "images";
}

static const char *size_text(const DataFacts *f, Arena *arena) {
    if (f->pixel_type == PIXEL_TOKENS)
        return arena_format(arena, "%ld tokens of a vocabulary of %ld", (long)f->height,
                            (long)f->class_count);
    return arena_format(arena, "%ldx%ldx%ld (%s) in %ld classes", (long)f->height, (long)f->width,
                        (long)f->channels, f->pixel_type == PIXEL_U8 ? "bytes" : "floats",
                        (long)f->class_count);
}

static bool is_same_size(const DataFacts *a, const DataFacts *b) {
    return a->height == b->height && a->width == b->width && a->channels == b->channels &&
           a->class_count == b->class_count && a->pixel_type == b->pixel_type;
}

const char *facts_difference(const DataFacts *then, const DataFacts *now, Arena *arena) {
    if (then->images != now->images || !is_same_size(then, now))
        return arena_format(arena, "%ld %s of %s instead of %ld of %s", (long)now->images,
                            facts_noun(now), size_text(now, arena), (long)then->images,
                            size_text(then, arena));
    bool has_images = !strcmp(then->images_digest, now->images_digest);
    bool has_labels = !strcmp(then->labels_digest, now->labels_digest);
    if (has_images && has_labels) return NULL;
    if (now->pixel_type == PIXEL_TOKENS)
        return has_images ? "the same tokens, of which others are learned" : "other text";
    return has_images   ? "other labels of the same images"
           : has_labels ? "other images with the same labels"
                        : "other images and labels, as many and as large";
}

/* The words "the network", and of which file. */
#define NETWORK           "the network%s%s"
#define NETWORK_OF(facts) (facts)->path ? " of " : "", (facts)->path ? (facts)->path : ""

/* The same ids would be other words. */
static bool check_tokenizer(const DataFacts *then, const DataFacts *now, Error *err) {
    bool is_known = *then->tokenizer_digest && *now->tokenizer_digest;
    if (!is_known || !strcmp(then->tokenizer_digest, now->tokenizer_digest)) return true;
    return FAIL(err, ERROR_INPUT,
                "%s is not the tokenizer that " NETWORK " was trained with (digest %s, now %s); "
                "say where that lies (data.tokenizer=...)",
                now->tokenizer, NETWORK_OF(then), then->tokenizer_digest, now->tokenizer_digest) ||
           error_blame(err, "data.tokenizer");
}

bool facts_check_fit(const DataFacts *then, const DataFacts *now, const char *what, Error *err) {
    TRY(check_tokenizer(then, now, err));
    Arena *arena = arena_new("sizes");
    bool fits =
        is_same_size(then, now) ||
        FAIL(err, ERROR_INPUT, "the %s %s are %s, but " NETWORK " was trained on %s", what,
             facts_noun(now), size_text(now, arena), NETWORK_OF(then), size_text(then, arena)) ||
        error_blame(err, "data.path");
    arena_free(arena);
    return fits;
}
