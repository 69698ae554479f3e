/* A libnvidia-ml.so.1 with two devices along the PCI bus: the older one is the second. */
#include <string.h>
#ifndef INIT
#define INIT 0
#endif
#ifndef COUNT
#define COUNT 2
#endif
#ifndef MEMORY
#define MEMORY 0
#endif
#ifndef NAME
#define NAME "NVIDIA GeForce RTX 4090"
#endif
typedef struct { const char *name, *uuid; int major, minor; unsigned long long memory; } device;
static device devices[] = {
    {NAME, "GPU-11111111-aaaa-bbbb-cccc-000000000001", 8, 9, 25757220864ull},
    {"NVIDIA GeForce GTX 1080", "GPU-11112222-aaaa-bbbb-cccc-000000000002", 6, 1, 8589934592ull},
};
static int started;

int nvmlInit_v2(void) { started = INIT == 0; return INIT; }
int nvmlShutdown(void) { started = 0; return 0; }
const char *nvmlErrorString(int status) { return status == 18 ? "Driver/library version\nmismatch" : "Unknown"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.95.05", size); return !started; }
#ifndef WITHOUT_CUDA_VERSION
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return !started; }
#endif
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return !started; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **found) { *found = &devices[index]; return index > 1; }
int nvmlDeviceGetName(device *one, char *text, unsigned size) { strncpy(text, one->name, size); return 0; }
int nvmlDeviceGetUUID(device *one, char *text, unsigned size) { strncpy(text, one->uuid, size); return 0; }
int nvmlDeviceGetCudaComputeCapability(device *one, int *major, int *minor) {
    *major = one->major, *minor = one->minor;
    return 0;
}
int nvmlDeviceGetMemoryInfo(device *one, unsigned long long *total) { *total = one->memory; return MEMORY; }
