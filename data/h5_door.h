/* What data/h5*.c share; the only file that includes hdf5.h. */
#ifndef NIBBLE_DATA_H5_DOOR_H
#define NIBBLE_DATA_H5_DOOR_H

#include <hdf5.h>

#include "data/h5.h"

enum { H5_NAME_BYTES_MAX = 1024 };

void h5_start(void); /* before any call of the library */

/* What failed before is no part of the failures that follow. `is_file_good`: its digest was right,
 * so whatever fails is the system's fault: without memory libhdf5 does not always say why. */
void h5_failures_forget(bool is_file_good);
bool h5_has_failed(void); /* since then, by the system: no memory, or a system call */
/* "path: what: why", the why being libhdf5's or, below it, the system's. What the file should be
 * blamed for (ERROR_INPUT) is "path: cannot read: why", ERROR_SYSTEM, where the system failed. */
bool h5_fail(Error *err, ErrorCode code, const char *path, const char *what);
/* "path: what it holds instead", ERROR_INPUT; but where the system failed since h5_failures_forget,
 * nobody knows what it holds, and the error is that failure. */
bool h5_refuse(Error *err, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

hid_t h5_stored_type(H5Element element); /* borrowed, as is the next */
hid_t h5_memory_type(H5Element element);
hid_t h5_text_type(size_t bytes); /* with the end; closed by the caller */

/* Opens an object reached through hard links only; "" is the root. Closed by the caller. */
hid_t h5_object_open(const H5Reader *reader, const char *name, Error *err);
/* Whether a data set lies within the file, by filters that are part of the library. */
bool h5_storage_is_plain(hid_t dataset);

/* Components without "." and without empty ones. `path` is the file's, for the message. */
bool h5_name_check(const char *path, const char *name, Error *err);
/* Copies `name` up to and with the component that starts at *used; false at the end. */
bool h5_next_component(const char *name, size_t *used, char prefix[H5_NAME_BYTES_MAX]);

#endif
