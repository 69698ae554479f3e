/* The sysctlbyname of an Apple M1: four-byte numbers, one string, and an error for every other name. */
#include <stddef.h>
#include <string.h>
int sysctlbyname(const char *name, void *value, size_t *size, void *fresh, size_t fresh_size) {
    static const char *ones[] = {"hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_FP16", "sysctl.proc_translated"};
    if (fresh || fresh_size) return -1;
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, ones[i])) return *(int *)value = 1, *size = 4, 0;
    if (!strcmp(name, "hw.optional.arm.FEAT_I8MM")) return *(int *)value = 0, *size = 4, 0;
    if (!strcmp(name, "machdep.cpu.brand_string")) return strcpy(value, "Apple M1"), *size = 9, 0;
    return -1;
}
