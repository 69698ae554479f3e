"""How does a test watch a load from outside: in a fresh Python, with whatever it opens, prints and starts counted?

One rule: a library is loaded once per process, so each scenario is one process; what it hands to `say` comes back.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from nativeload.loading import LoadedLibrary

ROOT = Path(__file__).resolve().parent.parent
STUB_LINUX = sys.platform == "linux" and os.uname().machine == "x86_64"
WHY_NOT = "the stub libraries are x86-64 Linux ones"

_ANSWER = "NATIVELOAD_TEST_ANSWER"
_LIMIT = 240  # seconds: Python under qemu takes its time
_PRELUDE = "from tests.scenarios import *\n"


class Ended:
    """How a scenario ended: what it said, and what it printed."""

    def __init__(self, value: Any, stdout: str, stderr: str) -> None:
        self.value, self.stdout, self.stderr = value, stdout, stderr


def run(code: str, *, python: Sequence[str] = (), cwd: Path | None = None, **env: object) -> Any:
    """Run a scenario in a fresh Python and return what it gave to `say`."""
    return watch(code, python=python, cwd=cwd, **env).value


def watch(code: str, *, python: Sequence[str] = (), cwd: Path | None = None, **env: object) -> Ended:
    """Run a scenario in a fresh Python (or by another command line) and return how it ended."""
    folder = Path(os.environ["NATIVELOAD_CACHE"]).parent  # the test's own directory
    answer = folder / f"answer-{os.urandom(4).hex()}.json"
    given = {name: str(value) for name, value in env.items()}
    path = os.pathsep.join([part for part in (given.pop("PYTHONPATH", ""), *_roots()) if part])
    environment = {**os.environ, "PYTHONPATH": path, _ANSWER: str(answer), **given}
    ended = subprocess.run(
        [*(python or (sys.executable,)), "-c", _PRELUDE + dedent(code)],
        env=environment,
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert ended.returncode == 0, f"the scenario ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return Ended(json.loads(answer.read_text()), ended.stdout, ended.stderr)


def _roots() -> list[str]:
    return [str(ROOT), str(ROOT / "bindings")]


# -- what a scenario calls ------------------------------------------------------------------------------------------


def say(value: object) -> None:
    """Hand a value to the test."""
    Path(os.environ[_ANSWER]).write_text(json.dumps(value))


def attempt(action: Callable[[], LoadedLibrary]) -> dict[str, Any]:
    """Return what became of a load: the loaded library's facts, or the error's."""
    try:
        return described(action())
    except Exception as error:  # noqa: BLE001 - the test decides which one it should be
        facts = {name: value for name, value in vars(error).items() if isinstance(value, str)}
        resolution = getattr(error, "resolution", None)
        decisions = resolution.to_dict()["decisions"] if resolution else []
        return {"error": type(error).__name__, "text": str(error), "decisions": decisions, **facts}


def described(loaded: LoadedLibrary) -> dict[str, Any]:
    """Return what a test asks of a loaded library, as JSON."""
    return {
        "id": id(loaded),
        "path": loaded.path,
        "origin": loaded.chosen.origin,
        "gpu": loaded.chosen.gpu,
        "cpu": loaded.chosen.cpu.label if loaded.chosen.cpu else None,
        "devices": [device.to_dict() for device in loaded.devices],
        "facts": loaded.facts,
        "decisions": loaded.resolution.to_dict()["decisions"],
        "mapped": mapped(),
    }


def mapped() -> list[str]:
    """Return the shared libraries in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split(None, 5)[5] for line in lines if ".so" in line})


def inspect(handles: Sequence[Any]) -> dict[str, int]:
    """Stand for a binding's check: runs in the probe's child."""
    return {"handles": len(handles)}


# -- what a test prepares -------------------------------------------------------------------------------------------


def counting_python(folder: Path, *before: str) -> tuple[str, Path]:
    """Write a command that starts Python and leaves a line in a file each time; return both."""
    counter, script = folder / "started", folder / "counting-python"
    counter.touch()
    lines = ["#!/bin/sh", f"echo started >> {shlex.quote(str(counter))}", *before]
    script.write_text("\n".join([*lines, f'exec {shlex.quote(sys.executable)} "$@"', ""]))
    script.chmod(0o700)
    return str(script), counter


def count(counter: Path) -> int:
    """Return how often the command of `counting_python` was started."""
    return len(counter.read_text().splitlines())


def stub_bundle(build: Callable[..., Path], folder: Path, modules: Mapping[str, Path] | None = None) -> Path:
    """Lay out a split build of stubs: base, ggml, llama, and the modules by file name (default: a good x64 one)."""
    base = build("stub_ggml.c", "libggml-base.so", "-DPART=BASE", "-Wl,-soname,libggml-base.so")
    origin = ("-L", str(base.parent), "-Wl,-rpath,$ORIGIN")
    ggml = build("stub_ggml.c", "libggml.so", "-DPART=REG", "-Wl,-soname,libggml.so", *origin, "-lggml-base")
    flags = ("-DPART=LLAMA", "-DSTRANGE", "-Wl,-soname,libllama.so", *origin, "-lggml", "-lggml-base")
    llama = build("stub_ggml.c", "libllama.so", *flags)
    folder.mkdir(parents=True, exist_ok=True)
    for source in (base, ggml, llama):
        shutil.copy(source, folder / source.name)
    for name, source in ({"libggml-cpu-x64.so": cpu_module(build)} if modules is None else modules).items():
        shutil.copy(source, folder / name)
    return folder


def cpu_module(build: Callable[..., Path], *, score: int = 1) -> Path:
    """Compile a CPU backend that registers one device, unless its score is 0."""
    flags = ("-DPART=MODULE", '-DDEVICE="CPU"', '-DBACKEND="CPU"', "-DTYPE=0", f"-DSCORE={score}")
    return build("stub_ggml.c", f"stub-cpu-{score}.so", *flags)


def gpu_module(build: Callable[..., Path], *, devices: bool = True) -> Path:
    """Compile a CUDA backend that registers one device, or none as ggml's does where the driver shows none."""
    flags = ('-DDEVICE="CUDA0"', '-DBACKEND="CUDA"', "-DTYPE=1") if devices else ()
    return build("stub_ggml.c", f"stub-cuda-{int(devices)}.so", "-DPART=MODULE", *flags)


def orphan(build: Callable[..., Path]) -> Path:
    """Compile a library that wants one which is nowhere."""
    lost = build("crash.c", "liblost.so.7", "-Wl,-soname,liblost.so.7")
    return build("crash.c", "orphan.so", "-Wl,--no-as-needed", str(lost))


def opened(folder: Path, name: str) -> dict[int, bool]:
    """Return, for each process that ran under LD_DEBUG=files, whether its loader was asked for a file of this name."""
    logs = {int(path.suffix[1:]): path.read_text(errors="replace") for path in folder.glob("ld.*")}
    return {
        pid: any(f"/{name}" in line and "file=" in line for line in text.splitlines()) for pid, text in logs.items()
    }
