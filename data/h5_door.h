/* What data/h5_foreign.c and data/h5_strings.c share; the only file that includes hdf5.h. */
#ifndef NIBBLE_DATA_H5_DOOR_H
#define NIBBLE_DATA_H5_DOOR_H

#include <hdf5.h>

#include "data/h5_foreign.h"
#include "data/h5_format.h"

void h5_failures_forget(void); /* what failed before is no part of the failures that follow */
bool h5_has_failed(void);      /* since then, by the system: no memory */
/* "path: what: why", the why being libhdf5's or, below it, the system's. What the file should be
 * blamed for (ERROR_INPUT) is "path: cannot read: why", ERROR_SYSTEM, where the system failed. */
bool h5_fail(Error *err, ErrorCode code, const char *path, const char *what);
/* "path: what it holds instead", ERROR_INPUT; but where the system failed since h5_failures_forget,
 * nobody knows what it holds, and the error is that failure. */
bool h5_refuse(Error *err, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

const char *h5_foreign_path(const H5Foreign *file);
/* Opens an object reached through hard links only; "" is the root. Closed by the caller. */
hid_t h5_object_open(const H5Foreign *file, const char *name, Error *err);
/* Whether a data set lies within the file, by filters that are part of the library. */
bool h5_storage_is_plain(hid_t dataset);

#endif
