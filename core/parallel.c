#include "core/parallel.h"

#include <omp.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "core/cpu_load.h"
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

/* Some 5 us, where libgomp's 300,000 spins keep a core for milliseconds from the thread that is
 * waited for. On a quiet machine long spins are the better: threads then need not be woken. */
#define BUSY_SPIN_COUNT "200"

void parallel_spin_briefly_if_busy(char *const *arguments) {
    bool is_users_own = getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT");
    bool is_program = getauxval(AT_BASE); /* not handed to the dynamic linker as its argument */
    int threads = parallel_threads();
    if (is_users_own || !is_program || threads == 1 || !cpu_load_is_busy(threads)) return;
    if (setenv("GOMP_SPINCOUNT", BUSY_SPIN_COUNT, 1)) return;
    execv("/proc/self/exe", arguments); /* where it fails, threads spin long */
}
