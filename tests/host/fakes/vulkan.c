/* A libvulkan.so.1 whose devices are given as TYPES, an API version each of 1.API. */
#include <stdint.h>
#include <string.h>
#ifndef CREATE
#define CREATE 0
#endif
#ifndef API
#define API 3
#endif
#ifndef TYPES
#define TYPES 4,
#endif
typedef struct { uint32_t api, driver, vendor, device, type; char name[256]; char rest[548]; } properties;
typedef struct { uint32_t type; void *next; const char *name; uint32_t version; const char *engine; uint32_t engine_version, api; } application;
typedef struct { uint32_t type; void *next; uint32_t flags; application *app; uint32_t layers; void *l; uint32_t extensions; void *e; } create;
static const int types[] = {TYPES -1}; /* ends in -1, so that there may be none */
static const char *names[] = {"other", "integrated", "discrete", "virtual", "llvmpipe (LLVM 15.0.6, 256 bits)"};

int vkCreateInstance(const create *info, void *allocator, void **instance) {
    if (info->type != 1 || info->app->type != 0 || info->app->api != (1u << 22 | 2u << 12) || info->layers || info->extensions)
        return -3; /* VK_ERROR_INITIALIZATION_FAILED: the structures above did not arrive as they are in vulkan_core.h */
    *instance = (void *)0x1234567890;
    return allocator ? -3 : CREATE;
}
int vkEnumeratePhysicalDevices(void *instance, uint32_t *count, const int **devices) {
    uint32_t all = sizeof(types) / sizeof(*types) - 1;
    if (devices)
        for (uint32_t i = 0; i < all; i++) devices[i] = &types[i];
    *count = all;
    return instance != (void *)0x1234567890;
}
void vkGetPhysicalDeviceProperties(const int *device, properties *out) {
    memset(out, 0xee, sizeof *out);
    out->api = 1u << 22 | API << 12 | 77, out->type = *device;
    strcpy(out->name, names[*device]);
}
void vkDestroyInstance(void *instance, void *allocator) { (void)instance, (void)allocator; }
