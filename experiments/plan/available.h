/* Memory that is left to this process. */
#ifndef NIBBLE_EXPERIMENTS_PLAN_AVAILABLE_H
#define NIBBLE_EXPERIMENTS_PLAN_AVAILABLE_H

#include <stdint.h>

/* Bytes that this process may take on top of what it has: the least of what the machine and each of
 * its memory control groups (cgroups 1 and 2) have to give. INT64_MAX: nobody says. */
int64_t available_bytes(void);

#endif
