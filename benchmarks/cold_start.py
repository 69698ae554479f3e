"""How long from starting Python to the first call into libllama, against opening the same files and nothing else?

One rule: whole processes, interleaved in one run, medians and ratios to the floor of that run: these numbers mean
nothing across machines. The floor is bare Python plus ``ctypes.CDLL`` of the very files that nativeload opens.

    python benchmarks/cold_start.py [--bundle DIR] [--rounds 25] [--json]

``--bundle`` is a split build, such as the package folder that tools/fetch_real.py fetches. The verdict of the probe is
warm, as on every start but the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from nativeload import NativeLibraryConfig

_TRIES = 3  # a limit is missed where it is missed each time: a neighbour's noise does not come three times
_LIMITS = {"installed": 4.0, "bundle": 4.0}
_OURS = """
from nativeload import NativeLibraryConfig
from nativeload_llama.library import open_library
from nativeload_llama.low_level import version
config = NativeLibraryConfig()
path = {path!r}
print(version(open_library(config.with_library(path) if path else config)))
"""
_FLOOR = """
import ctypes
for path in {files!r}:
    ctypes.CDLL(path)
"""


def _programs(bundle: str | None) -> dict[str, str]:
    programs = {"bare python": "pass", "import nativeload": "import nativeload"}
    for name, path in (("installed", None), ("bundle", bundle)):
        if name == "bundle" and bundle is None:
            continue
        config = NativeLibraryConfig().with_library(path) if path else NativeLibraryConfig()
        chosen = config.resolve().chosen
        assert chosen is not None
        programs[f"{name}: floor"] = _FLOOR.format(files=[file.path for file in chosen.files])
        programs[f"{name}: nativeload"] = _OURS.format(path=path)
    for peer in ("xllamacpp", "llama_cpp"):
        if importlib.util.find_spec(peer):
            programs[f"import {peer}"] = f"import {peer}"
    return programs


def _measure(programs: dict[str, str], rounds: int) -> dict[str, float]:
    """Run every program once a round, so that a busy moment hits all of them; return medians in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o700)
        environment = {**os.environ, "NATIVELOAD_CACHE": cache}
        environment.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # an installed package has its bytecode, a checkout gets it now
        for turn in range(rounds + 2):
            for name, program in programs.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", program], check=True, env=environment, stdout=subprocess.DEVNULL)
                if turn >= 2:  # the first rounds hash, probe and warm the page cache
                    times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def _host_detection() -> float:
    """Return the median of detecting this host, in milliseconds."""
    from nativeload.host import Host

    times = []
    for _ in range(50):
        started = time.perf_counter()
        Host.detect()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _judge(medians: dict[str, float], detection: float) -> list[str]:
    """Return what missed its limit."""
    missed = []
    for name, limit in _LIMITS.items():
        if f"{name}: floor" in medians and medians[f"{name}: nativeload"] > limit * medians[f"{name}: floor"]:
            missed.append(f"{name} is over {limit} x its floor")
    if medians.get("bundle: nativeload", 0) > medians.get("import xllamacpp", float("inf")):
        missed.append("the bundle is slower than import xllamacpp")
    if medians["import nativeload"] - medians["bare python"] > 15:
        missed.append("import nativeload costs over 15 ms")
    if detection > 1:
        missed.append("host detection is over 1 ms")
    return missed


def main() -> int:
    """Print the table (or JSON); exit status 1 where a limit was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", help="a directory with a split build")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for _ in range(_TRIES):
        medians, detection = _measure(_programs(options.bundle), options.rounds), _host_detection()
        missed = _judge(medians, detection)
        if not missed:
            break
    if options.json:
        print(json.dumps({"ms": medians, "host_detection_ms": detection, "missed": missed}))
        return bool(missed)
    for name, value in medians.items():
        floor = medians.get(f"{name.partition(':')[0]}: floor")
        ratio = f"{value / floor:5.2f} x its floor" if floor else ""
        print(f"{name:24} {value:7.1f} ms  {value / medians['bare python']:5.2f} x bare python  {ratio}")
    print(f"{'host detection':24} {detection:7.2f} ms")
    for line in missed:
        print(f"MISSED: {line}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
