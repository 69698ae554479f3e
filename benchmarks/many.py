"""What does `generate_many` gain over the same prompts one after the other?

One rule: one run, one model, one thread, greedy, interleaved rounds, the ratio of medians, and equal texts.

    python benchmarks/many.py [--prompts 16] [--tokens 32] [--rounds 5] [--json] [--limits]

The model has 69 million random weights in Q4_0 (benchmarks/random_model.py): a step reads all of them, whether for one
text or for sixteen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_model import MANY, write_model
from nativeload import NativeLibraryConfig
from nativeload_llama import Llama

if TYPE_CHECKING:
    from collections.abc import Callable

_TRIES = 3  # a limit is missed where it is missed each time: a neighbour's noise does not come three times
_GAIN = 1.7


class Result(NamedTuple):
    """Seconds for all texts, both ways, and how many of them are equal."""

    in_sequence: float
    at_once: float
    texts: int
    equal: int

    @property
    def gain(self) -> float:
        """How many times faster it is at once."""
        return self.in_sequence / self.at_once

    @property
    def missed(self) -> list[str]:
        """What missed its limit."""
        missed = [] if self.gain >= _GAIN else [f"at once is {self.gain:.2f} x in sequence, not {_GAIN}"]
        return missed if self.equal == self.texts else [*missed, f"{self.equal} of {self.texts} texts are equal"]


def prompts(count: int) -> list[str]:
    """Return short prompts that differ."""
    return [f"{chr(ord('a') + index % 26)} {chr(ord('z') - index // 26 % 26)}" for index in range(count)]


def measure(llama: Llama, count: int, tokens: int, rounds: int, clock: Callable[[], float]) -> Result:
    """Write the texts both ways, once to warm up and then for each round."""
    asked = prompts(count)

    def in_sequence() -> list[str]:
        return [llama.complete(prompt, max_tokens=tokens, temperature=0) for prompt in asked]

    def at_once() -> list[str]:
        completions = llama.generate_many(asked, max_tokens=tokens, temperature=0)
        return [completion["choices"][0]["text"] for completion in completions]

    equal = sum(one == other for one, other in zip(in_sequence(), at_once(), strict=True))
    times: dict[Callable[[], list[str]], list[float]] = {in_sequence: [], at_once: []}
    for _ in range(rounds):
        for write, seconds in times.items():
            started = clock()
            write()
            seconds.append(clock() - started)
    medians = [statistics.median(seconds) for seconds in times.values()]
    return Result(medians[0], medians[1], count, equal)


def main() -> int:
    """Print both (or JSON); exit status 1 where a limit was asked for and missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", help="a library, or the folder of one, instead of what nativeload would choose")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="measure the processor's time, on a busy machine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limits", action="store_true", help="exit with 1 where one is missed")
    options = parser.parse_args()
    config = NativeLibraryConfig()
    if options.library:
        config = config.with_library(options.library)
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder, "many.gguf"), MANY)
        with Llama(model, config=config, n_ctx=1024, n_threads=1) as llama:
            for _ in range(_TRIES):
                result = measure(llama, options.prompts, options.tokens, options.rounds, clock)
                if not (result.missed and options.limits):
                    break
    if options.json:
        print(json.dumps({**result._asdict(), "gain": result.gain, "missed": result.missed}))
        return bool(result.missed and options.limits)
    for name, seconds in (("in sequence", result.in_sequence), ("at once", result.at_once)):
        rate = options.prompts * options.tokens / seconds
        print(f"{options.prompts} texts of {options.tokens} tokens {name:12} {seconds:7.2f} s  {rate:7.0f} tokens/s")
    print(f"at once is {result.gain:.2f} x as fast; {result.equal} of {result.texts} texts are equal")
    for line in result.missed:
        print(f"MISSED: {line}")
    return bool(result.missed and options.limits)


if __name__ == "__main__":
    sys.exit(main())
