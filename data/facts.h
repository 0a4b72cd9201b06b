/* What a training says about its training images, for whoever comes later without them: their
 * sizes, how pixels are normalised, and digests by which other images are told from these. Kept in
 * checkpoints. */
#ifndef NIBBLE_DATA_FACTS_H
#define NIBBLE_DATA_FACTS_H

#include "data/dataset.h"

enum { FACTS_DIGEST_BYTES = 33 }; /* 32 hexadecimal digits and a zero */

typedef struct DataFacts {
    int64_t images; /* validation included; of text: rows, without those of validation */
    int64_t height, width, channels, class_count;
    PixelType pixel_type;
    const float *mean, *deviation; /* [channels]; a pixel enters as (stored - mean) / deviation */
    char images_digest[FACTS_DIGEST_BYTES];    /* XXH3-128 of the pixels as stored */
    char labels_digest[FACTS_DIGEST_BYTES];    /* and of the labels, 32 bits each, little-endian */
    char tokenizer_digest[FACTS_DIGEST_BYTES]; /* of text (data/dataset.h); "": not known */
    const char *tokenizer;                     /* its name where it is at hand, else NULL */
    const char *path; /* of the checkpoint that tells them, for messages; NULL: of a data set */
} DataFacts;

/* Of the training part; mean and deviation are the loader's to set. Reads every byte once. */
DataFacts facts_of(const Dataset *dataset);

/* XXH3-128 of the pixels of any part as stored. */
void facts_digest_pixels(const Dataset *dataset, const DatasetPart *part,
                         char digest[FACTS_DIGEST_BYTES]);

/* What the rows are called, "images" or "rows", for messages. */
const char *facts_noun(const DataFacts *facts);

/* What tells the images of `now` from those of `then`, in words, made in `arena`; NULL: nothing. */
const char *facts_difference(const DataFacts *then, const DataFacts *now, Arena *arena);

/* Whether a network made for images of `then` can read those of `now`: their size, storage and
 * number of classes are the same, and the tokenizer of text. `what`: "test" or "training", for the
 * message. */
bool facts_check_fit(const DataFacts *then, const DataFacts *now, const char *what, Error *err);

#endif
