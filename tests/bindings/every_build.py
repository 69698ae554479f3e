"""What one libllama does, asked in a process of its own: a library's path, two models and a LoRA, answered as JSON.

Run as ``python every_build.py LIBRARY MODEL STORIES LORA FOLDER``.
"""

from __future__ import annotations

import json
import math
import sys
import threading

from nativeload import NativeLibraryConfig
from nativeload.errors import NotInThisBuild
from nativeload_llama import AbortedError, Llama, low_level


def main() -> None:
    library, model, stories, lora, folder = sys.argv[1:]
    config = NativeLibraryConfig().with_library(library)
    said: dict[str, object] = {}
    with Llama(model, config=config, n_threads=1) as llama:
        api = llama._model.api
        said["layout"] = api.layout.name
        said["ggml_commit"] = api.loaded.facts["ggml_commit"]
        said["llama_version"] = api.loaded.facts["llama_version"]
        said["greedy"] = list(llama.generate([1], temperature=0, max_tokens=32))
        said["n_ctx"] = llama.n_ctx
        said["sizes"] = sizes(llama)
        said["sampled"] = list(llama.generate([1], seed=7, max_tokens=32, **CHAIN))  # type: ignore[arg-type]
        said["sampled_again"] = list(llama.generate([1], seed=7, max_tokens=32, **CHAIN))  # type: ignore[arg-type]
        said["penalised"] = list(llama.generate([1], temperature=0, max_tokens=32, frequency_penalty=100.0))
        said["dry"] = list(
            llama.generate([1], temperature=0, max_tokens=32, dry_multiplier=100.0, dry_allowed_length=1)
        )
        said["state"] = state(llama, folder)
        said["embeddings"] = embeddings(llama)
        said["logprobs"] = logprobs(llama)
        said["many"] = [
            one.usage.completion_tokens for one in llama.generate_many([[1], [1, 5]], temperature=0, max_tokens=8)
        ]
        said["lora"] = adapted(llama, lora)
        said["cancel"] = cancelled(llama)
        said["grammar"] = (
            [llama.complete("x", grammar='root ::= "yes" | "no"', seed=seed, temperature=2.0) for seed in (1, 2)]
            if llama.metadata.get("tokenizer.ggml.model") == "llama"
            else []
        )
        said["perf"] = low_level.perf_context(llama._native.contexts["text"]).n_eval >= 0
        said["absent"] = absent(llama)
    said["progress"], said["stopped"] = progress(stories, config)
    with Llama(stories, config=config, n_threads=1) as llama:
        tokens = llama.tokenize("Once upon a time, naïve 日本 😀")
        said["tokens"], said["text"] = tokens, llama.detokenize(tokens)
        said["story"] = llama.complete("The cat", temperature=0, max_tokens=24)
        said["json"] = [
            llama.create_chat_completion(
                [{"role": "user", "content": "x"}], response_format={"type": "json_object", "schema": SCHEMA}, seed=seed
            )
            .choices[0]
            .message.content
            for seed in range(3)
        ]
    print(json.dumps(said))


CHAIN = {"temperature": 0.9, "repeat_penalty": 1.2, "dry_multiplier": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def sizes(llama: Llama) -> list[int]:
    """What the getters say of a context made with odd sizes: a field at a wrong offset would show here."""
    with llama._native.entered():
        context = low_level.init_from_model(
            llama._model,
            n_ctx=768,
            n_batch=96,
            n_ubatch=48,
            n_seq_max=3,
            n_threads=1,
            n_threads_batch=2,
            kv_unified=True,
        )
        found = [
            getattr(low_level, name)(context)
            for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch")
        ]
        low_level.free(context)
    return found


def state(llama: Llama, folder: str) -> bool:
    """Whether a text goes on as it would have, from a state that was saved, written, read and loaded."""
    prompt = [1, 461, 401]
    whole = list(llama.generate(prompt, temperature=0, max_tokens=16))
    list(llama.generate(prompt, temperature=0, max_tokens=8))
    llama.save_state().save(f"{folder}/state")
    llama.reset()
    list(llama.generate([1, 2, 3], max_tokens=2))
    from nativeload_llama import LlamaState

    llama.load_state(LlamaState.load(f"{folder}/state"))
    return list(llama.generate([*prompt, *whole[:8]], temperature=0, max_tokens=8)) == whole[8:]


def embeddings(llama: Llama) -> list[float]:
    """The first numbers of a mean-pooled, normalised embedding, and its length."""
    vector = llama.embed([1, 5, 9], pooling="mean", normalize=True)
    return [len(vector), round(math.sqrt(sum(x * x for x in vector)), 4), *(round(x, 2) for x in vector[:4])]


def logprobs(llama: Llama) -> bool:
    answer = llama.create_completion([1], max_tokens=4, temperature=0, logprobs=3)
    found = answer.choices[0].logprobs
    assert found is not None
    return all(value is not None and -20 < value <= 0 for value in found.token_logprobs)


def adapted(llama: Llama, lora: str) -> list[bool]:
    """Whether an adapter changes the text, off is off, and a scale of nothing changes nothing."""
    plain = list(llama.generate([1], temperature=0, max_tokens=16))
    llama.set_lora({lora: 1.0})
    on = list(llama.generate([1], temperature=0, max_tokens=16))
    llama.set_lora({lora: 0.0})
    nothing = list(llama.generate([1], temperature=0, max_tokens=16))
    llama.set_lora({})
    off = list(llama.generate([1], temperature=0, max_tokens=16))
    return [on != plain, nothing == plain, off == plain]


def cancelled(llama: Llama) -> bool:
    """Whether a long prompt ends early when it is cancelled in the middle of a decode, and the next text is right."""
    expected = list(llama.generate([1], temperature=0, max_tokens=8))
    generation = llama._generation([1, 5] * 200, None, {"temperature": 0})
    threading.Timer(0.01, generation.cancel).start()
    try:
        for _ in range(100):
            list(generation.tokens())
            llama.reset()
            generation = llama._generation([1, 5] * 200, None, {"temperature": 0})
            threading.Timer(0.01, generation.cancel).start()
    except AbortedError:
        return list(llama.generate([1], temperature=0, max_tokens=8)) == expected
    return False


def progress(model: str, config: NativeLibraryConfig) -> tuple[list[float], str]:
    """What a progress callback is told, and what becomes of a load that it stops."""
    told: list[float] = []
    Llama(model, config=config, n_threads=1, progress=told.append).close()
    try:
        Llama(model, config=config, n_threads=1, progress=lambda part: part < 0.5)
    except AbortedError as error:
        return [min(told), max(told), sorted(told) == told], type(error).__name__
    return [], "loaded"


def absent(llama: Llama) -> str:
    """What a function says that no build has any more, or not yet."""
    try:
        llama._model.api.function("llama_no_such_function")
    except NotInThisBuild as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    main()
