/* nibble's own files: HDF5, so that h5dump, h5py and HDFView read them as they are, in the few
 * forms of data/h5_format.h, which are written and read here without libhdf5. That library is not
 * safe on bytes that somebody chose, a digest can be made by anyone, and its own process for every
 * file (data/sandbox.h) would cost more than the reading. Files of other programs:
 * data/h5_foreign.h.
 *
 * Written files appear whole or not at all (data/envelope.h): the bytes go to NAME.tmp.<pid> beside
 * NAME, are read back and digested, the digest is appended as a trailer after HDF5's end of file,
 * the file is synced and renamed. A writer killed at any moment leaves the old file as it was; its
 * leftover is removed by the next writer of that name. The same content gives the same bytes: no
 * object holds a time.
 *
 * Read files are checked before they are opened: a file without a digest, or whose digest does not
 * match, is refused. The digest finds accidents, not malice: all that is read from the bytes behind
 * it is bounded by their number, in memory and time, whatever they are.
 *
 * Names are paths like "params/stage1.0.conv.weight": components between slashes are groups, made
 * when first used; dots mean nothing. "" names the root group.
 *
 * A program that writes must ignore SIGXFSZ (signal(SIGXFSZ, SIG_IGN)), so that a file-size limit
 * is an error like a full disk. */
#ifndef NIBBLE_DATA_H5_H
#define NIBBLE_DATA_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/tensor.h"

/* Elements: two's complement or IEEE 754, written little-endian, read from either order. */
typedef enum H5Element {
    H5_U8,
    H5_I8,
    H5_I16,
    H5_U16,
    H5_I32,
    H5_U32,
    H5_I64,
    H5_U64,
    H5_F32,
    H5_F64,
    H5_ELEMENT_COUNT
} H5Element;

size_t h5_element_bytes(H5Element element);
const char *h5_element_name(H5Element element); /* "u8", "f32", ... */

/* ---- Writing. The first failure is kept; the calls after it do nothing; commit reports it. ----
 */

typedef struct H5Writer H5Writer;

/* Starts NAME.tmp.<pid>. `expected_bytes` (0: unknown) is what the data will take: a disk with less
 * room is an error now, and the room is reserved. The writer lives in `arena` and ends with commit,
 * export or abandon, each of which must be called exactly once. NULL: failed, nothing left behind.
 * Only one writer of a path at a time. */
H5Writer *h5_write_begin(const char *path, uint64_t expected_bytes, Arena *arena, Error *err);

/* `data` is dense and row-major, in the machine's own representation; it is written before the call
 * returns. Writing a name twice is a failure. */
void h5_write_tensor(H5Writer *writer, const char *name, H5Element element, Shape shape,
                     const void *data);
void h5_write_text(H5Writer *writer, const char *name, const char *text);
/* Numbers are attributes of a group (made if absent) or of a tensor already written. */
void h5_write_int(H5Writer *writer, const char *object, const char *attribute, int64_t value);
void h5_write_float(H5Writer *writer, const char *object, const char *attribute, double value);
void h5_write_group(H5Writer *writer, const char *name); /* an empty group, if absent */

/* Ends the file and gives it its name. With `previous_path` the file that had the name is kept
 * under that one; at every moment the name is a whole file. On failure the temporary file is
 * removed, the old files are untouched, and the error tells the cause (ERROR_SYSTEM for a full
 * disk). */
bool h5_write_commit(H5Writer *writer, const char *previous_path, Error *err);
/* The same without the digest: a plain HDF5 file for other programs; h5_read_open refuses it. */
bool h5_write_export(H5Writer *writer, Error *err);
void h5_write_abandon(H5Writer *writer); /* removes the temporary file; also right after failures */

/* ---- Reading. What a file lacks or holds otherwise is ERROR_INPUT. ---- */

typedef struct H5Reader H5Reader;

/* Reads the whole file into `arena`, where it stays; checks its digest, and what is in it. NULL:
 * does not exist, damaged, or not ours (ERROR_INPUT), or could not be read (ERROR_SYSTEM): the
 * message says which. Links are not followed (core/file.h). */
H5Reader *h5_read_open(const char *path, Arena *arena, Error *err);
const char *h5_read_path(const H5Reader *reader); /* for messages */

void h5_read_digest(const H5Reader *reader, char text[33]); /* hexadecimal */

typedef enum H5What { H5_GROUP, H5_TENSOR, H5_TEXT } H5What;

typedef struct H5Info {
    H5What what;
    H5Element element; /* of a tensor */
    Shape shape;       /* of a tensor; rank at most 4, dimensions multiply without overflow */
    int64_t bytes;     /* of a tensor's elements, or of a text without its end */
} H5Info;

/* False: `name` cannot be one; likewise h5_read_has_number. */
bool h5_read_exists(const H5Reader *reader, const char *name, bool *exists, Error *err);
bool h5_read_info(const H5Reader *reader, const char *name, H5Info *info, Error *err);
/* The names in a group, sorted by bytes, allocated in `arena`. */
bool h5_read_names(const H5Reader *reader, const char *group, Arena *arena, const char ***names,
                   int *count, Error *err);

/* Fills `data`, whose element type and shape must be those of the file; else an error says what was
 * found and expected. */
bool h5_read_tensor(const H5Reader *reader, const char *name, H5Element element, Shape shape,
                    void *data, Error *err);
/* Rows first .. first + count - 1 along the first dimension of a tensor of rank at least 1. */
bool h5_read_rows(const H5Reader *reader, const char *name, int64_t first, int64_t count,
                  void *data, Error *err);
/* NULL: failed. */
const char *h5_read_text(const H5Reader *reader, const char *name, Arena *arena, Error *err);
bool h5_read_int(const H5Reader *reader, const char *object, const char *attribute, int64_t *value,
                 Error *err);
bool h5_read_float(const H5Reader *reader, const char *object, const char *attribute, double *value,
                   Error *err);
bool h5_read_has_number(const H5Reader *reader, const char *object, const char *attribute,
                        bool *has, Error *err);

typedef struct H5Number {
    const char *name;
    bool is_float;
    int64_t integer; /* where not is_float */
    double real;
} H5Number;

/* The numbers of an object, sorted by name, allocated in `arena`; for programs that show files. */
bool h5_read_numbers(const H5Reader *reader, const char *object, Arena *arena, H5Number **numbers,
                     int *count, Error *err);

#endif
