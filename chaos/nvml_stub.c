/* A stand-in for NVIDIA's management library where there is no driver, under the unmodified nvidia-ml-py.
 *
 * One device of 24 GiB. $THREENINES_NVML_STUB is a folder; each file in it is of a process that presses on the
 * device, locked by it, and holds "MiB PERCENT". What a process took is free again when it has ended, as with a
 * driver: its lock has gone with it.
 * The functions and structures are those of nvml.h (https://docs.nvidia.com/deploy/nvml-api/).
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>

enum { OK = 0, INVALID = 2, NOT_FOUND = 6 };
static const unsigned long long MIB = 1ULL << 20, TOTAL = 24ULL << 30, IDLE = 300ULL << 20;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

static void sum(unsigned long long *used, unsigned int *busy) {
    const char *folder = getenv("THREENINES_NVML_STUB");
    DIR *all = folder ? opendir(folder) : NULL;
    struct dirent *entry;
    *used = IDLE;
    *busy = 0;
    while (all && (entry = readdir(all))) {
        unsigned long long mib = 0;
        unsigned int percent = 0;
        char path[4096];
        FILE *file;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (!(file = fopen(path, "r"))) continue;
        if (flock(fileno(file), LOCK_SH | LOCK_NB) && fscanf(file, "%llu %u", &mib, &percent) == 2) {
            *used += mib * MIB;
            *busy += percent;
        }
        fclose(file);
    }
    if (all) closedir(all);
    if (*used > TOTAL) *used = TOTAL;
    if (*busy > 100) *busy = 100;
}

int nvmlInit_v2(void) { return OK; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == OK ? "Success" : "Not found"; }

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    static int only;
    if (index > 0) return INVALID;
    *device = &only;
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    (void)device;
    snprintf(name, length, "simulated GPU");
    return OK;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    snprintf(version, length, "simulated");
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    unsigned int busy;
    (void)device;
    sum(&memory->used, &busy);
    memory->total = TOTAL;
    memory->free = TOTAL - memory->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    unsigned long long used;
    (void)device;
    sum(&used, &rates->gpu);
    rates->memory = (unsigned int)(100 * used / TOTAL);
    return OK;
}
