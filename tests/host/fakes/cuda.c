/* A libcuda.so.1 with one device. */
#include <stddef.h>
#include <string.h>
#ifndef INIT
#define INIT 0
#endif
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuInit(unsigned flags) { return flags ? 1 : INIT; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *text, int size, int device) { strncpy(text, "Orin", size); return device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return device != 7;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 65536; return device != 7; }
