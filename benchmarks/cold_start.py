"""How long from starting Python to the first call into libllama, against opening the same files and nothing else?

One rule: whole processes, interleaved in one run, medians and ratios to the floor of that run: these numbers mean
nothing across machines. The floor is bare Python plus ``ctypes.CDLL`` of the very files that nativeload opens.

    python benchmarks/cold_start.py [--bundle DIR] [--rounds 25] [--json]

``--bundle`` is a split build, such as the package folder that tools/fetch_real.py fetches. It is measured as an
explicit directory, and as a pinned set in a cache: alone there, and beside a thousand others. The verdict of the probe
is warm, as on every start but the first.
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
from pathlib import Path

from nativeload import NativeLibraryConfig

_TRIES = 3  # a limit is missed where it is missed each time: a neighbour's noise does not come three times
_LIMITS = {"installed": 4.0, "bundle": 4.0, "cached": 4.0}
_CROWD, _CROWD_LIMIT = 1000, 1.1  # other sets in the cache, and what they may cost
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


_PINNED = """
from nativeload import NativeLibraryConfig
from nativeload_llama.library import open_library
from nativeload_llama.low_level import version
config = NativeLibraryConfig().with_pin({pin!r}).with_cache_dir({cache!r})
print(version(open_library(config)))
"""


def _published(bundle: str, folder: Path) -> tuple[str, Path, Path]:
    """Publish a split build to a folder, import it into two caches, and crowd one of them; return the pin and both."""
    from nativeload.cache import LibraryCache
    from nativeload.host import Host
    from nativeload.pins import Pinned
    from nativeload.publish.artifacts import SetDirectory, collect, manifest_of
    from nativeload.resolve.import_folder import import_folder
    from nativeload.variant import Platform

    collected = collect("llama", "b1", [SetDirectory(Platform.current(), "cpu", bundle)])
    manifest = manifest_of(collected, "llama", "b1", repo="ggml-org/llama.cpp")
    base = folder / "mirror" / "me" / "llama" / "resolve" / ("0" * 40)
    files = {path: Path(source).read_bytes() for path, source in collected.files.items()}
    for path, data in {**files, f"manifests/{manifest.pin.digest}.json": manifest.to_bytes()}.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)
    pinned = Pinned(pin=manifest.pin, origin="the benchmark", strict=True)
    caches = [folder / "alone", folder / "crowded"]
    for cache in caches:
        cache.mkdir(mode=0o700)
        import_folder(
            str(folder / "mirror"),
            pinned,
            LibraryCache(str(cache)),
            host=Host.detect(gpu=False),
            config=NativeLibraryConfig(),
        )
    _crowd(caches[1])
    return str(manifest.pin), caches[0], caches[1]


def _crowd(cache: Path) -> None:
    """Put a thousand other sets into a cache: half of them of the same build, each with a note of its pin."""
    for index in range(_CROWD):
        build = "b1" if index % 2 else f"b{index + 2}"
        other = cache / "llama" / build / f"linux-x86_64-other-{index:016x}"
        other.mkdir(parents=True)
        (other / "libllama.so").write_bytes(b"other")
        digest = f"{index:064x}"
        (cache / "manifests" / f"{digest}.json").write_bytes(b"{}")
        (cache / "pins" / f"llama-{digest[-32:]}").write_text(f"library llama\npin {build}@sha256:{digest}\nend\n")


def _add_cached(programs: dict[str, str], bundle: str, folder: Path) -> None:
    pin, alone, crowded = _published(bundle, folder)
    chosen = NativeLibraryConfig().with_pin(pin).with_cache_dir(alone).resolve().chosen
    assert chosen is not None
    programs["cached: floor"] = _FLOOR.format(files=[file.path for file in chosen.files])
    programs["cached: nativeload"] = _PINNED.format(pin=pin, cache=str(alone))
    programs["cached: among 1,000"] = _PINNED.format(pin=pin, cache=str(crowded))


def _programs(bundle: str | None, folder: Path) -> dict[str, str]:
    programs = {"bare python": "pass", "import nativeload": "import nativeload"}
    for name, path in (("installed", None), ("bundle", bundle)):
        if name == "bundle" and bundle is None:
            continue
        config = NativeLibraryConfig().with_library(path) if path else NativeLibraryConfig()
        chosen = config.resolve().chosen
        assert chosen is not None
        programs[f"{name}: floor"] = _FLOOR.format(files=[file.path for file in chosen.files])
        programs[f"{name}: nativeload"] = _OURS.format(path=path)
    if bundle is not None:
        _add_cached(programs, bundle, folder)
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
    if medians.get("cached: among 1,000", 0) > _CROWD_LIMIT * medians.get("cached: nativeload", 1):
        missed.append(f"{_CROWD} other sets in the cache cost more than {_CROWD_LIMIT} x")
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
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        programs = _programs(options.bundle, Path(folder))
        for _ in range(_TRIES):
            medians, detection = _measure(programs, options.rounds), _host_detection()
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
