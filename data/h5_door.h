/* What data/h5*.c share; the only file that includes hdf5.h. */
#ifndef NIBBLE_DATA_H5_DOOR_H
#define NIBBLE_DATA_H5_DOOR_H

#include <hdf5.h>

#include "data/h5.h"

enum { H5_NAME_BYTES_MAX = 1024 };

void h5_start(void); /* before any call of the library */

/* "path: what: why", the why being libhdf5's or, below it, the system's. */
bool h5_fail(Error *err, ErrorCode code, const char *path, const char *what);

hid_t h5_stored_type(H5Element element); /* borrowed, as is the next */
hid_t h5_memory_type(H5Element element);
hid_t h5_text_type(size_t bytes); /* with the end; closed by the caller */

/* Components without "." and without empty ones. `path` is the file's, for the message. */
bool h5_name_check(const char *path, const char *name, Error *err);
/* Copies `name` up to and with the component that starts at *used; false at the end. */
bool h5_next_component(const char *name, size_t *used, char prefix[H5_NAME_BYTES_MAX]);

#endif
