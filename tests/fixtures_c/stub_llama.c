/* A libllama by the header that -DHEADER= names: a layout's own, or one that a test has changed.
 * It keeps what the params say, calls their callbacks, and continues any prompt with -DTOKENS=1,2,3.
 * -DN_CTX=       its default context (512)
 * -DTYPE_V=      its default cache type (1)
 * -DCRASH        loading a model ends the process */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include HEADER

#ifndef N_CTX
#define N_CTX 512
#endif
#ifndef TYPE_V
#define TYPE_V 1
#endif

struct llama_model {
    struct llama_model_params params;
};
struct llama_context {
    struct llama_context_params params;
};

extern size_t ggml_backend_dev_count(void);

static struct llama_model the_model;
static struct llama_context the_context;
static const int32_t tokens[] = {TOKENS};
static size_t step;
static float logits[1024];

size_t llama_max_devices(void) { return ggml_backend_dev_count(); }
const char *llama_version(void) { return "9.9.9-stub"; }
void llama_backend_init(void) {}
void llama_log_set(ggml_log_callback callback, void *data) { (void)callback, (void)data; }

struct llama_model_params llama_model_default_params(void)
{
    struct llama_model_params params = {
        .n_gpu_layers = -1, .split_mode = 1, .load_mode = -1, .lazy_mode = 1, .use_extra_bufts = true};
    return params;
}

struct llama_context_params llama_context_default_params(void)
{
    struct llama_context_params params = {
        .n_ctx = N_CTX, .n_batch = 2048, .n_ubatch = 512, .n_seq_max = 1, .n_outputs_max_per_seq = 1, .n_threads = 4,
        .n_threads_batch = 4, .rope_scaling_type = -1, .pooling_type = -1, .attention_type = -1, .flash_attn_type = -1,
        .yarn_ext_factor = -1.0f, .type_k = 1, .type_v = TYPE_V, .offload_kqv = true, .op_offload = true};
    return params;
}

struct llama_model *llama_model_load_from_file(const char *path, struct llama_model_params params)
{
    (void)path;
#ifdef CRASH
    *(volatile int *)0 = 0;
#endif
    the_model.params = params;
    if (params.progress_callback && !params.progress_callback(1.0f, params.progress_callback_user_data))
        return NULL;
    return &the_model;
}

struct llama_context *llama_init_from_model(struct llama_model *model, struct llama_context_params params)
{
    (void)model;
    the_context.params = params;
    return &the_context;
}

uint32_t llama_n_ctx(const struct llama_context *context) { return context->params.n_ctx; }
uint32_t llama_n_batch(const struct llama_context *context) { return context->params.n_batch; }
uint32_t llama_n_ubatch(const struct llama_context *context) { return context->params.n_ubatch; }
uint32_t llama_n_seq_max(const struct llama_context *context) { return context->params.n_seq_max; }
int32_t llama_n_threads(struct llama_context *context) { return context->params.n_threads; }
int32_t llama_n_threads_batch(struct llama_context *context) { return context->params.n_threads_batch; }

struct llama_batch llama_batch_get_one(llama_token *token, int32_t count)
{
    struct llama_batch batch = {.n_tokens = count, .token = token};
    return batch;
}

int32_t llama_decode(struct llama_context *context, struct llama_batch batch)
{
    (void)batch;
    if (context->params.abort_callback && context->params.abort_callback(context->params.abort_callback_data))
        return 2;
    for (size_t i = 0; i < 1024; i++)
        logits[i] = 0;
    logits[tokens[step++ % (sizeof tokens / sizeof *tokens)]] = 1;
    return 0;
}

float *llama_get_logits_ith(struct llama_context *context, int32_t index)
{
    (void)context, (void)index;
    return logits;
}

const struct llama_vocab *llama_model_get_vocab(const struct llama_model *model) { return (const void *)model; }
int32_t llama_vocab_n_tokens(const struct llama_vocab *vocab)
{
    (void)vocab;
    return 1024;
}

/* A sampler is its name: what does nothing has one with a question mark. */
const char *llama_sampler_name(const struct llama_sampler *sampler) { return (const char *)sampler; }
void llama_sampler_free(struct llama_sampler *sampler) { (void)sampler; }
void llama_sampler_copy(const struct llama_sampler *from, struct llama_sampler *to) { (void)from, (void)to; }

struct llama_sampler *llama_sampler_init_penalties(int32_t n_vocab, int32_t last_n, float repeat, float freq, float present)
{
    (void)n_vocab, (void)repeat, (void)freq, (void)present;
    return (struct llama_sampler *)(last_n ? "penalties" : "?penalties");
}

struct llama_sampler *llama_sampler_init_dry(const struct llama_vocab *vocab, float multiplier, float base,
                                             int32_t allowed, int32_t last_n, const char **breakers, size_t count)
{
    (void)vocab, (void)multiplier, (void)base, (void)allowed, (void)breakers, (void)count;
    return (struct llama_sampler *)(last_n ? "dry" : "?dry");
}

struct llama_batch_ext *llama_batch_ext_init(struct llama_context *context) { return (void *)context; }
int32_t llama_process(struct llama_context *context, enum llama_process_type type, struct llama_batch_ext *batch)
{
    (void)context, (void)type, (void)batch;
    return -1;
}
