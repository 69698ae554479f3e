"""What does Python cost a token: `generate` and `create_completion` against a C loop over the same library?

One rule: one run, one library, one thread, one sampler chain; rounds are interleaved, and what counts is the ratio of
medians of that run: microseconds mean nothing across machines.

    python benchmarks/decode.py [--llama-cpp-python PYTHON] [--ref FILE] [--json] [--plot FILE.svg] [--limits]

The C loop is benchmarks/decode_loop.c, compiled here: decode a token, draw the next. The model has a vocabulary of
32,000 and one small layer of random weights (benchmarks/random_model.py): what a binding adds can be seen beside it.
llama-cpp-python runs in a process of its own, and where its library can be opened, all of this runs on that library.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.random_model import DECODE, write_model
from nativeload import NativeLibraryConfig
from nativeload.errors import NativeLoadError
from nativeload_llama import Llama, low_level
from nativeload_llama.library import open_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from nativeload_llama.library import Api

_TRIES = 3  # a limit is missed where it is missed each time: a neighbour's noise does not come three times
_ROUNDS = {256: 15, 1024: 7, 4096: 5}
_N_CTX, _N_BATCH = 8192, 512
_LOGPROBS, _LOGPROBS_TOKENS, _LOGPROBS_US = 3, 64, 1000  # how many, over how many tokens, at most in how long each
_SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}
_GREEDY: dict[str, Any] = {"temperature": 0.0}
_FLAT = 0.05  # what the ratio of streaming may lose between the fewest tokens and the most

FLOOR, GENERATE, STREAM, LOGPROBS = "C loop", "generate", "create_completion(stream=True)", "... logprobs=3"
THEIRS = "llama-cpp-python "
RANDOM, REF = "32k vocabulary", "ref260k"
PROMPT = "a"
_LEAST = {(RANDOM, GENERATE): 0.95, (REF, GENERATE): 0.80}  # of the C loop's tokens per second
_LEAST_STREAMED = 0.90  # the same, of the most tokens

clock = time.process_time if "--cpu-time" in sys.argv else time.perf_counter
"""Seconds: of one thread, the processor's are steady where the machine has other things to do."""

_PEER = """
import json, os, sys, time
import llama_cpp
options = json.loads(sys.argv[1])
clock = getattr(time, options["clock"])
common = dict(model_path=options["model"], n_batch=options["n_batch"], n_threads=1, n_threads_batch=1, verbose=False,
              flash_attn=True, seed=1)  # as ours decides on a CPU
plain = llama_cpp.Llama(n_ctx=options["n_ctx"], **common)
scoring = llama_cpp.Llama(n_ctx=options["n_batch"], logits_all=True, **common)
print(json.dumps([llama_cpp.__version__, os.path.join(os.path.dirname(llama_cpp.__file__), "lib")]), flush=True)
sampling = options["sampling"]
for line in sys.stdin:
    program, n = json.loads(line)
    started = clock()
    if program == "generate":
        drawn = {"temp" if key == "temperature" else key: value for key, value in sampling.items() if key != "seed"}
        for count, _ in enumerate(plain.generate(plain.tokenize(options["prompt"].encode()), **drawn), 1):
            if count == n:
                break
    else:
        llama, more = (plain, {}) if program == "stream" else (scoring, {"logprobs": options["logprobs"]})
        for _ in llama.create_completion(options["prompt"], max_tokens=n, stream=True, **more, **sampling):
            pass
    print(json.dumps(clock() - started), flush=True)
"""


class Row(NamedTuple):
    """One line of the table: a program, writing so many tokens of a model."""

    model: str
    tokens: int
    program: str
    us: float  # a token, the median of the rounds
    ratio: float  # of the C loop's tokens per second


class CLoop:
    """The native floor: a context of its own on the same library, and C, compiled in a folder, between two tokens."""

    def __init__(self, api: Api, model: Path, n_ctx: int, sampling: dict[str, Any], folder: Path) -> None:
        self._api, self._sampling = api, sampling
        self._model = low_level.model_load_from_file(api, str(model))
        self._context = low_level.init_from_model(self._model, n_ctx=n_ctx, n_batch=_N_BATCH, n_threads=1)
        self._loop = _compiled(folder)
        names = ("llama_decode", "llama_sampler_sample", "llama_vocab_is_eog", "llama_synchronize")
        self._functions = (ctypes.c_void_p * len(names))(
            *(self._address(api.ffi.addressof(api.lib, name)) for name in names)
        )

    def _address(self, pointer: Any) -> int:
        return int(self._api.ffi.cast("uintptr_t", pointer))

    def __call__(self, prompt: list[int], n: int) -> tuple[float, list[int]]:
        """Write n tokens after a prompt; return the seconds that took, and the tokens."""
        given, written = (ctypes.c_int32 * len(prompt))(*prompt), (ctypes.c_int32 * n)()
        chain = self._chain()
        context, vocab = self._address(self._context.pointer), self._address(self._model.vocab)
        low_level.memory_clear(self._context)
        started = clock()
        count = self._loop(self._functions, context, self._address(chain), vocab, given, len(prompt), written, n)
        seconds = clock() - started
        self._api.function("llama_sampler_free")(chain)
        assert count >= 0, "llama_decode failed"
        return seconds, list(written)[:count]

    def _chain(self) -> Any:
        """Return the chain that `Llama` makes of the same numbers, put together without it."""
        make, options = self._api.function, self._sampling
        chain = make("llama_sampler_chain_init")(make("llama_sampler_chain_default_params")())
        samplers = [make("llama_sampler_init_greedy")()]
        if options["temperature"]:
            samplers = [
                make("llama_sampler_init_top_k")(int(options["top_k"])),
                make("llama_sampler_init_top_p")(options["top_p"], 1),
                make("llama_sampler_init_min_p")(options["min_p"], 1),
                make("llama_sampler_init_temp")(options["temperature"]),
                make("llama_sampler_init_dist")(int(options["seed"])),
            ]
        for sampler in samplers:
            make("llama_sampler_chain_add")(chain, sampler)
        return chain

    def close(self) -> None:
        """Free the context and the model."""
        low_level.free(self._context)
        low_level.model_free(self._model)


def _compiled(folder: Path) -> Any:
    target = folder / "decode_loop.so"
    source = Path(__file__).with_name("decode_loop.c")
    subprocess.run(["cc", "-std=c11", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    loop = ctypes.CDLL(str(target)).decode_loop
    loop.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
    loop.restype = ctypes.c_int32
    return loop


class Peer:
    """llama-cpp-python in a process of its own: an interpreter that has it, a model, and what to continue."""

    def __init__(self, python: str, model: Path, prompt: str) -> None:
        options = {"model": str(model), "prompt": prompt, "n_ctx": _N_CTX, "n_batch": _N_BATCH, "logprobs": _LOGPROBS}
        command = [python, "-c", _PEER, json.dumps({**options, "sampling": _SAMPLING, "clock": clock.__name__})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version, self.library = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"llama-cpp-python ended with {self._process.wait()}"
        return json.loads(line)

    def __call__(self, program: str, n: int) -> float:
        """Run a program of n tokens; return the seconds it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([program, n]) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _seconds(run: Callable[[], object]) -> float:
    started = clock()
    run()
    return clock() - started


def _rows(model: str, n: int, programs: dict[str, Callable[[], float]], rounds: int) -> Iterator[Row]:
    """Run every program once a round, each round beginning with another one; yield what they took of n tokens each."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(programs[name]())
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        yield Row(model, n, name, seconds / n * 1e6, medians[FLOOR] / seconds)


def _read(llama: Llama, n: int, **options: Any) -> None:
    """Stream a completion to its end, and look at its last chunk alone."""
    chunks = llama.create_completion(PROMPT, max_tokens=n, stream=True, **_SAMPLING, **options)
    last = collections.deque(chunks, maxlen=1)[0]
    assert last["choices"][0]["finish_reason"] == "length", "the completion ended early"


def _measure_random(
    api: Api, config: NativeLibraryConfig, model: Path, peer: Peer | None, folder: Path
) -> Iterator[Row]:
    """Measure everything on the model with a large vocabulary."""
    loop = CLoop(api, model, _N_CTX, _SAMPLING, folder)
    with Llama(model, config=config, n_ctx=_N_CTX, n_batch=_N_BATCH, n_threads=1) as llama:
        tokens = llama.tokenize(PROMPT)
        _check_equal(loop, llama, tokens, _SAMPLING)

        def programs(n: int) -> dict[str, Callable[[], float]]:
            measured: dict[str, Callable[[], float]] = {
                FLOOR: lambda: loop(tokens, n)[0],
                GENERATE: lambda: _seconds(lambda: list(llama.generate(tokens, max_tokens=n, **_SAMPLING))),
                STREAM: lambda: _seconds(lambda: _read(llama, n)),
            }
            if peer is not None:
                measured[THEIRS + GENERATE] = lambda: peer("generate", n)
                measured[THEIRS + STREAM] = lambda: peer("stream", n)
            return measured

        for n, rounds in _ROUNDS.items():
            yield from _rows(RANDOM, n, programs(n), rounds)
        n = _LOGPROBS_TOKENS
        read = functools.partial(_read, llama, n, logprobs=_LOGPROBS)
        scored = {FLOOR: programs(n)[FLOOR], LOGPROBS: lambda: _seconds(read)}
        if peer is not None:
            scored[THEIRS + LOGPROBS] = lambda: peer("logprobs", n)
        yield from _rows(RANDOM, n, scored, _ROUNDS[256])
    loop.close()


def _measure_ref(api: Api, config: NativeLibraryConfig, model: Path, folder: Path) -> Iterator[Row]:
    """Measure `generate` on a real, tiny model: a token costs so little that Python is a part of it."""
    loop = CLoop(api, model, 512, _GREEDY, folder)
    with Llama(model, config=config, n_ctx=512, n_batch=_N_BATCH, n_threads=1) as llama:
        tokens = llama.tokenize("")  # the beginning alone: of a longer prompt, generate would keep what it has decoded
        _check_equal(loop, llama, tokens, _GREEDY)

        def programs(n: int) -> dict[str, Callable[[], float]]:
            generate = functools.partial(llama.generate, tokens, max_tokens=n, **_GREEDY)
            return {FLOOR: lambda: loop(tokens, n)[0], GENERATE: lambda: _seconds(lambda: list(generate()))}

        for n in (32, 256):
            yield from _rows(REF, n, programs(n), 25)
    loop.close()


def _check_equal(loop: CLoop, llama: Llama, tokens: list[int], sampling: dict[str, Any]) -> None:
    """Make sure that both write the same: else they would not be doing the same work. This also warms both."""
    native, ours = loop(tokens, 200)[1], list(llama.generate(tokens, max_tokens=200, **sampling))
    assert len(native) == 200, f"the model ended after {len(native)} tokens"
    assert native == ours, "the C loop and generate wrote different tokens"


def judge(rows: list[Row]) -> list[str]:
    """Return what missed its limit."""
    missed = []
    streams = [row for row in rows if row.program == STREAM]
    for row in rows:
        streamed = _LEAST_STREAMED if row.program == STREAM and row.tokens == max(_ROUNDS) else 0
        least = _LEAST.get((row.model, row.program), streamed)
        if row.ratio < least:
            missed.append(f"{row.model}, {row.tokens} tokens, {row.program}: {row.ratio:.3f} x the C loop, not {least}")
        if row.program == LOGPROBS and row.us > _LOGPROBS_US:
            missed.append(f"{row.program} takes {row.us:.0f} us a token, not {_LOGPROBS_US}")
    if streams and streams[-1].ratio < streams[0].ratio - _FLAT:
        missed.append(f"{STREAM} falls from {streams[0].ratio:.3f} to {streams[-1].ratio:.3f} x the C loop")
    return missed


def chart(rows: list[Row]) -> str:
    """Draw microseconds a token over tokens written, as SVG that can be read on light and on dark pages."""
    lines: dict[str, list[Row]] = {name: [] for name in (FLOOR, STREAM, THEIRS + STREAM)}
    for row in rows:
        if row.model == RANDOM and row.tokens in _ROUNDS and row.program in lines:
            lines[row.program].append(row)
    lines = {name: points for name, points in lines.items() if points}
    most = max(row.us for points in lines.values() for row in points)
    step = next(unit * 10**zeros for zeros in range(9) for unit in (1, 2, 5) if unit * 10**zeros * 5 > most)
    places = {n: 90 + 180 * index for index, n in enumerate(_ROUNDS)}
    parts = [_HEAD, *(f'<text x="{x}" y="342" text-anchor="middle">{n:,}</text>' for n, x in places.items())]
    for line in range(6):
        y = 320 - 52 * line
        parts.append(f'<path class="grid" d="M70 {y}H470"/><text x="62" y="{y + 4}" text-anchor="end">')
        parts[-1] += f"{step * line:,}</text>"
    label = 0.0  # labels stand below each other, however near their lines end
    for number, (name, points) in sorted(enumerate(lines.items()), key=lambda one: -max(row.us for row in one[1][1])):
        drawn = [(places[row.tokens], 320 - 52 * row.us / step) for row in points]
        label = max(label + 18, drawn[-1][1] + 4)
        parts.append(f'<polyline class="c{number}" points="{" ".join(f"{x},{y:.1f}" for x, y in drawn)}"/>')
        parts += [f'<circle class="c{number}" cx="{x}" cy="{y:.1f}" r="4"/>' for x, y in drawn]
        parts.append(f'<text class="c{number}" x="482" y="{label:.1f}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 375" font-family="sans-serif" font-size="13">
<style>
text{fill:#333}.grid{stroke:#ccc}polyline{fill:none;stroke-width:2.5}
polyline.c0{stroke:#666}circle.c0,text.c0{fill:#666}polyline.c1{stroke:#0969da}circle.c1,text.c1{fill:#0969da}
polyline.c2{stroke:#bc4c00}circle.c2,text.c2{fill:#bc4c00}
@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}polyline.c0{stroke:#aaa}circle.c0,text.c0{fill:#aaa}
polyline.c1{stroke:#58a6ff}circle.c1,text.c1{fill:#58a6ff}polyline.c2{stroke:#f0883e}circle.c2,text.c2{fill:#f0883e}}
</style>
<text x="20" y="24" font-size="15">Microseconds a token (vocabulary of 32,000, one thread)</text>
<text x="270" y="364" text-anchor="middle">tokens written</text>"""


def _print_table(rows: list[Row]) -> None:
    table = Table("model", "tokens", "program", "us a token", "tokens/s", "of the C loop", box=MARKDOWN)
    for row in rows:
        speed = f"{row.us:,.1f}", f"{1e6 / row.us:,.0f}", f"{row.ratio:.3f} x"
        table.add_row(row.model, f"{row.tokens:,}", row.program, *speed)
    Console(width=120).print(table)


def _config(options: argparse.Namespace, peer: Peer | None) -> tuple[NativeLibraryConfig, Api]:
    """Choose the library: the one named, else llama-cpp-python's own, so that all run the same, else any."""
    config = NativeLibraryConfig()
    wanted = options.library or (peer and peer.library)
    if wanted:
        chosen = config.with_library(wanted)
        try:
            return chosen, open_library(chosen)
        except NativeLoadError as error:
            if options.library:
                raise
            print(f"llama-cpp-python's library cannot be measured, so theirs and ours differ: {error}", file=sys.stderr)
    return config, open_library(config)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", help="a library, or the folder of one, instead of what nativeload would choose")
    here = sys.executable if importlib.util.find_spec("llama_cpp") else None
    parser.add_argument("--llama-cpp-python", metavar="PYTHON", default=here, help="an interpreter that has it")
    data = os.environ.get("NATIVELOAD_TEST_DATA")
    ref = Path(data, "ref260k.gguf") if data else None
    parser.add_argument("--ref", type=Path, default=ref, help="ref260k.gguf")
    parser.add_argument("--cpu-time", action="store_true", help="measure the processor's time, on a busy machine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--limits", action="store_true", help="exit with 1 where one is missed")
    return parser.parse_args()


def main() -> int:
    """Print the table (or JSON); exit status 1 where a limit was asked for and missed."""
    options = _options()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        model = write_model(folder / "decode.gguf", DECODE)
        python = options.llama_cpp_python
        peer = stack.enter_context(contextlib.closing(Peer(python, model, PROMPT))) if python else None
        config, api = _config(options, peer)
        versions = {
            "library": f"{low_level.version(api)} ({api.loaded.path})",
            "llama-cpp-python": peer and peer.version,
        }
        for _ in range(_TRIES):
            rows = list(_measure_random(api, config, model, peer, folder))
            rows += _measure_ref(api, config, options.ref, folder) if options.ref else ()
            missed = judge(rows)
            if not (missed and options.limits):
                break
    if options.plot:
        options.plot.write_text(chart(rows), "utf-8")
    if options.json:
        print(json.dumps({**versions, "rows": [row._asdict() for row in rows], "missed": missed}))
        return bool(missed and options.limits)
    print(*(f"{name}: {version or 'not measured'}" for name, version in versions.items()), sep="\n")
    _print_table(rows)
    if not options.ref:
        print("ref260k: not measured, no --ref FILE and no NATIVELOAD_TEST_DATA")
    for line in missed:
        print(f"MISSED: {line}")
    return bool(missed and options.limits)


if __name__ == "__main__":
    sys.exit(main())
