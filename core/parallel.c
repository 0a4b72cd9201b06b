#include "core/parallel.h"

#include <omp.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/cpu_load.h"
#include "core/cpu_quota.h"
#include "core/kernels.h"

/* By affinity and by the container's share of time. */
static int threads_granted(void) {
    double quota = cpu_quota();
    int usable = omp_get_num_procs(), granted = quota > 0 ? cpu_quota_threads(quota) : usable;
    int threads = granted < usable ? granted : usable;
    return threads < PARALLEL_THREADS_MAX ? threads : PARALLEL_THREADS_MAX;
}

static struct {
    bool is_chosen; /* a number of threads: asked for, or by default */
    bool is_fixed;  /* it was asked for */
    int most;       /* by default: what this process may use */
    CpuLoad seen;
} load;

bool parallel_init(int threads, Error *err) {
    if (threads < 0 || threads > PARALLEL_THREADS_MAX)
        return FAIL(err, ERROR_INPUT, "threads must be from 1 to %d (0: all), not %d",
                    PARALLEL_THREADS_MAX, threads);
    omp_set_dynamic(0);
    bool is_users_own = threads > 0 || getenv("OMP_NUM_THREADS");
    if (!is_users_own && !load.is_chosen) threads = load.most = threads_granted();
    if (threads > 0) omp_set_num_threads(threads);
    load.is_fixed |= is_users_own;
    load.is_chosen = true;
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

void parallel_adapt(void) {
    if (load.is_fixed || load.most < 2 || omp_in_parallel()) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (!cpu_load_is_due(&load.seen, seconds)) return;
    cpu_load_add(&load.seen, seconds, cpu_load_others());
    int threads = cpu_load_left(&load.seen, (int)sysconf(_SC_NPROCESSORS_ONLN), load.most);
    if (threads != omp_get_max_threads()) omp_set_num_threads(threads);
}
