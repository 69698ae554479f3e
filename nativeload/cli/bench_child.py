"""How fast is one candidate of ``nativeload bench``? Runs in a child process: a job on stdin, the speeds on stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from nativeload.cli.options import config_of
from nativeload.errors import NativeLoadError

if TYPE_CHECKING:
    from nativeload_llama import Llama


def main() -> None:
    """Answer one job."""
    job = json.load(sys.stdin)
    try:
        print(json.dumps(measure(job)))
    except NativeLoadError as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        sys.exit(1)


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Return tokens a second of the prompt and of the text."""
    from nativeload_llama import Llama

    config = config_of("llama", job["said"]).with_selecting_policy(
        lambda sets, _: [one for one in sets if str(one) == job["name"]]
    )
    size = job["n_prompt"] + job["n_text"] + 8
    with Llama(
        job["model"],
        config=config,
        n_ctx=size,
        n_batch=job["n_prompt"],
        n_threads=job["threads"],
        n_gpu_layers=job["gpu_layers"],
    ) as llama:
        _spent(llama, [1] * 4, 2)  # the first decode of a context makes its graphs
        llama.reset()
        prompt = [1 + place % (llama.n_vocab - 1) for place in range(job["n_prompt"])]
        first, whole = _spent(llama, prompt, job["n_text"] + 1)
    return {"prompt": job["n_prompt"] / first, "text": job["n_text"] / (whole - first)}


def _spent(llama: Llama, prompt: list[int], count: int) -> tuple[float, float]:
    """Return the seconds until the first token and until the last one; the model's own end does not count."""
    ends = {token: float("-inf") for token in (llama.token_eos(),) if token >= 0}
    start = time.perf_counter()
    first = 0.0
    for _ in llama.generate(prompt, max_tokens=count, temperature=0, logit_bias=ends):
        first = first or time.perf_counter() - start
    return first, time.perf_counter() - start
