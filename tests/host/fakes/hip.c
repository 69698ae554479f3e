/* A libamdhip64.so with COUNT devices, or an error. */
#include <stddef.h>
#include <stdio.h>
#ifndef STATUS
#define STATUS 0
#endif
int hipGetDeviceCount(int *count) { *count = COUNT; return STATUS; }
int hipDeviceGetName(char *text, int size, int device) { return snprintf(text, size, "AMD Instinct MI300X %d", device) < 0; }
int hipDeviceTotalMem(size_t *bytes, int device) { *bytes = (size_t)192 << 30; return device < 0; }
