/* A family of small libraries with the shape of a split build of llama.cpp. -DPART= says which one:
 *   BASE    libggml-base.so           the registry's data and ggml_log_set
 *   REG     libggml.so                ggml_backend_load and the device list; needs BASE
 *   LLAMA   libllama.so               needs REG; its llama_*_default_params belong to no llama.h (-DSTRANGE leaves them in)
 *   MODULE  libggml-cpu-*.so and GPU  -DDEVICE=\"CPU\" -DBACKEND=\"CPU\" -DTYPE=0 -DSCORE=1; no DEVICE: none is registered
 * With -DMARK=\"path\" it also leaves a letter in that file whenever it is opened.
 * BASE prints on stdout and stderr what ggml would log, until a log callback is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BASE 1
#define REG 2
#define LLAMA 3
#define MODULE 4

struct device {
    const char *name, *description, *backend;
    int type;
};

typedef void (*log_callback)(int level, const char *text, void *data);

#ifdef MARK
__attribute__((constructor)) static void leave_a_mark(void)
{
    int fd = open(MARK, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
        ssize_t ignored = write(fd, "x", 1);
        (void)ignored;
        close(fd);
    }
}
#endif

#if PART == BASE

static log_callback callback;
static void *callback_data;
static const struct device *known[16];
static size_t count;

/* As in ggml: no arguments, no state. The quiet loader uses it as a log callback that does nothing. */
int64_t ggml_time_us(void)
{
    return 0;
}

void ggml_log_set(log_callback function, void *data)
{
    callback = function;
    callback_data = data;
}

void stub_log(const char *text)
{
    if (callback) {
        callback(2, text, callback_data);
        return;
    }
    fputs(text, stderr);
    puts(text);
    fflush(stdout);
}

/* A backend that is loaded twice is registered once, as in ggml. */
void stub_register(const struct device *device)
{
    for (size_t i = 0; i < count; i++)
        if (known[i] == device)
            return;
    if (count < 16)
        known[count++] = device;
}

size_t stub_count(void) { return count; }
const struct device *stub_device(size_t index) { return known[index]; }

#elif PART == REG

extern void stub_log(const char *text);
extern void stub_register(const struct device *device);
extern size_t stub_count(void);
extern const struct device *stub_device(size_t index);

/* Like ggml's: opens the module, asks its score, registers what it brings, says nothing of a failure. */
void *ggml_backend_load(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return NULL;
    int (*score)(void) = (int (*)(void))dlsym(handle, "ggml_backend_score");
    if (score && score() == 0)
        return NULL;
    void *(*init)(void) = (void *(*)(void))dlsym(handle, "ggml_backend_init");
    if (!init)
        return NULL;
    const struct device *device = init();
    stub_log("load_backend: loaded a module\n");
    if (device)
        stub_register(device);
    return handle;
}

/* ggml's own search, which nobody should ever start: the environment's file, then the current directory. */
void ggml_backend_load_all(void)
{
    const char *named = getenv("GGML_BACKEND_PATH");
    if (named)
        ggml_backend_load(named);
    ggml_backend_load("./libggml-cpu-x64.so");
}

size_t ggml_backend_dev_count(void) { return stub_count(); }
const struct device *ggml_backend_dev_get(size_t index) { return stub_device(index); }
const char *ggml_backend_dev_name(const struct device *device) { return device->name; }
const char *ggml_backend_dev_description(const struct device *device) { return device->description; }
int ggml_backend_dev_type(const struct device *device) { return device->type; }
const struct device *ggml_backend_dev_backend_reg(const struct device *device) { return device; }
const char *ggml_backend_reg_name(const struct device *device) { return device->backend; }

#elif PART == LLAMA

extern size_t ggml_backend_dev_count(void);

size_t llama_max_devices(void) { return ggml_backend_dev_count(); }
const char *llama_version(void) { return "9.9.9-stub"; }

#ifdef STRANGE
/* Fewer bytes than any llama.h of which anybody has heard. */
struct strange_model {
    int32_t n_gpu_layers;
    void *devices[4];
};
struct strange_context {
    uint32_t n_ctx[10];
    void *callback;
};

struct strange_model llama_model_default_params(void)
{
    struct strange_model params = {.n_gpu_layers = 999};
    return params;
}

struct strange_context llama_context_default_params(void)
{
    struct strange_context params = {.n_ctx = {512, 2048}};
    return params;
}
#endif

#elif PART == MODULE

#ifndef SCORE
#define SCORE 1
#endif

int ggml_backend_score(void) { return SCORE; }

#ifdef DEVICE
static const struct device mine = {DEVICE, "a stub of " BACKEND, BACKEND, TYPE};
const void *ggml_backend_init(void) { return &mine; }
#else
const void *ggml_backend_init(void) { return NULL; }
#endif

#endif
