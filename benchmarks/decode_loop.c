/* How fast can this very library be driven, with nothing but C between two tokens?
 *
 * benchmarks/decode.py compiles this without any header of llama.cpp and hands it a context, a sampler chain and the
 * addresses of four functions of the library that is measured. A batch of plain tokens is 56 bytes, handed over by
 * value, in every llama.h to date.
 */
#include <stdint.h>

struct batch {
    int32_t n_tokens;
    int32_t *tokens;
    void *no_embd, *next_positions, *n_seq_id, *first_sequence, *last_has_logits;
};

struct library {
    int32_t (*decode)(void *context, struct batch batch);
    int32_t (*sample)(void *chain, void *context, int32_t index);
    _Bool (*is_eog)(const void *vocab, int32_t token);
    void (*synchronize)(void *context);
};

_Static_assert(sizeof(struct batch) == 56, "a llama_batch has 56 bytes on 64-bit systems");

/* Decode a prompt, write up to `room` tokens that follow it, and return how many; negative: decoding failed. */
int32_t decode_loop(const struct library *use, void *context, void *chain, const void *vocab, int32_t *prompt,
                    int32_t n_prompt, int32_t *written, int32_t room) {
    struct batch batch = {.n_tokens = n_prompt, .tokens = prompt};
    for (int32_t count = 0; count < room; count++) {
        if (use->decode(context, batch) != 0) {
            return -1;
        }
        written[count] = use->sample(chain, context, -1);
        if (use->is_eog(vocab, written[count])) {
            return count;
        }
        batch = (struct batch){.n_tokens = 1, .tokens = &written[count]};
    }
    use->synchronize(context);
    return room;
}
