#include "core/parallel.h"

#include <omp.h>
#include <stdlib.h>

#include "core/cpu_quota.h"
#include "core/kernels.h"

/* By affinity and by the container's share of time. */
static int threads_granted(void) {
    double quota = cpu_quota();
    int usable = omp_get_num_procs(), granted = quota > 0 ? cpu_quota_threads(quota) : usable;
    return granted < usable ? granted : usable;
}

/* Whether a number of threads was chosen: asked for, or by default. */
static bool is_chosen;

bool parallel_init(int threads, Error *err) {
    if (threads < 0 || threads > PARALLEL_THREADS_MAX)
        return FAIL(err, ERROR_INPUT, "threads must be from 1 to %d (0: all), not %d",
                    PARALLEL_THREADS_MAX, threads);
    omp_set_dynamic(0);
    if (!threads && !is_chosen && !getenv("OMP_NUM_THREADS")) threads = threads_granted();
    if (threads > 0) omp_set_num_threads(threads);
    is_chosen = true;
    return kernels_init(err);
}

int parallel_threads(void) {
    return omp_get_max_threads();
}

int parallel_self(void) {
    return omp_get_thread_num();
}

bool parallel_is_active(void) {
    return omp_in_parallel();
}
