"""Published builds of llama.cpp, each driven to text: the right CPU backend is chosen, and all give the same tokens."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from nativeload import Backend, Host, NativeLibraryConfig
from nativeload.cpu_variants import X86_64
from nativeload.host import Gpu
from nativeload.value import replace
from tests.scenarios import ROOT, STUB_LINUX, WHY_NOT, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT), pytest.mark.real_bundle]

NPM = "node-llama-cpp-linux-x64/package/bins/linux-x64"
NPM_CUDA = "node-llama-cpp-linux-x64-cuda/package/bins/linux-x64-cuda"
WHEELS = ("2026.9.11063", "2026.10.11549")
EMULATED = (("Nehalem", "sse42"), ("SandyBridge", "sandybridge"), ("Haswell", "haswell"))

# ref260k.gguf, prompt [1], greedy, one thread. It is noise to read: its point is that every build agrees on it.
REFERENCE = [461, 461, 401, 401, 401, 461, 378, 455, 473, 456, 435, 299, 362, 409, 283, 264, 283, 452, 288, 13]
REFERENCE += [431] * 12

# The bundled model, greedy, one thread: prompts whose whole story is the same with every CPU backend. ("Once upon a
# time" is not among them: with AVX and no FMA it parts at the sixth token, with AVX-512 at the ninety-first.)
STORIES = {
    "The cat": (
        " was a tiny girl who lived in a green forest. One night, Pam could not sleep."
        ' "Why is the moon so big?" he asked his dad. They took a blanket and walked to the hill.'
        " The moon was shining, and everything was quiet. Soon, Sam closed his eyes and dreamed of the stars."
    ),
    "After a while, the clouds went away.": (
        ' One morning, it was the birthday of her mom. "What should I do?" she asked her friend Maya.'
        ' Soon a smooth stone at the forest and painted it green. "Happy birthday!" said Maya,'
        " and she held out the gift. They hugged, and then they ate some sweet plums."
    ),
}

GENERATE = """
    import warnings
    from nativeload import NativeLibraryConfig
    from nativeload_llama import Llama, bundled_model
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
    if os.environ.get("CPU"):
        config = config.with_avx(os.environ["CPU"])
    if os.environ.get("CUDA"):
        config = config.with_cuda()
    if os.environ.get("SKIP"):
        config = config.with_skip_check()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llama = Llama(os.environ.get("MODEL") or bundled_model(), config=config, n_threads=1)
    with llama:
        said = described(llama.library)
        if os.environ.get("MODEL"):
            said["tokens"] = list(llama.generate([1], temperature=0, max_tokens=32))
        else:
            prompts = json.loads(os.environ["PROMPTS"])
            said["texts"] = {prompt: llama.complete(prompt, temperature=0, max_tokens=150) for prompt in prompts}
    said["warnings"] = [[item.category.__name__, str(item.message)] for item in caught]
    say(said)
"""


def fetched(binaries: Path, *parts: str) -> Path:
    """Return a fetched file or directory; one that is not there fails the test, since the folder was promised."""
    path = binaries.joinpath(*parts)
    assert path.exists(), f"{path} is missing: run tools/fetch_real.py"
    return path


def wheel(binaries: Path, version: str) -> Path:
    """Return the module of a fetched xllamacpp, which is a whole libllama."""
    return fetched(binaries, f"xllamacpp-{version}", "xllamacpp", "xllamacpp.abi3.so")


def emulated(processor: str) -> list[str]:
    """Return the command line of a Python under qemu."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("needs qemu-x86_64")
    return [qemu, "-cpu", processor, sys.executable]


def generate(library: Path, **env: Any) -> dict[str, Any]:
    """Load a library, generate, and return what was said of both; MODEL: 32 tokens of it, else the stories."""
    said: dict[str, Any] = run(GENERATE, LIBRARY=library, PROMPTS=json.dumps(list(STORIES)), **env)
    return said


# -- which CPU backend ----------------------------------------------------------------------------------------------


def test_the_best_cpu_backend_is_the_one_ggml_would_rate_highest(binaries: Path) -> None:
    """What we choose by table is what every backend's own ggml_backend_score says on this machine."""
    code = """
    import ctypes
    from nativeload import NativeLibraryConfig
    folder = Path(os.environ["LIBRARY"])
    for core in ("libggml-base.so", "libggml.v0.5.0.so"):
        ctypes.CDLL(str(folder / core), mode=ctypes.RTLD_GLOBAL)
    scores = {path.name: ctypes.CDLL(str(path)).ggml_backend_score() for path in folder.glob("libggml-cpu-*.so")}
    say([scores, NativeLibraryConfig().with_library(folder).plan().chosen.cpu.name])
    """
    scores, chosen = run(code, LIBRARY=fetched(binaries, NPM))
    assert len(scores) == len(X86_64)
    assert chosen == max(scores, key=lambda name: scores[name])


@pytest.mark.shared_data
def test_the_native_run_gives_the_known_tokens(binaries: Path, shared_data: Path) -> None:
    """npm's bundle as explicit directory: 32 greedy tokens, the known ones."""
    said = generate(fetched(binaries, NPM), MODEL=fetched(shared_data, "ref260k.gguf"))
    assert said["tokens"] == REFERENCE
    assert len([path for path in said["mapped"] if "libggml-cpu-" in path]) == 1


@pytest.mark.qemu
@pytest.mark.shared_data
@pytest.mark.parametrize(("processor", "variant"), EMULATED)
def test_an_older_processor_gets_its_backend_and_the_same_tokens(
    binaries: Path, shared_data: Path, processor: str, variant: str
) -> None:
    """Under qemu, with the probe's child under it too: the right backend, and the known tokens."""
    python = emulated(processor)
    model = fetched(shared_data, "ref260k.gguf")
    said = generate(fetched(binaries, NPM), MODEL=model, python=python, NATIVELOAD_PYTHON=shlex.join(python))
    assert (said["cpu"], said["tokens"]) == (variant, REFERENCE)


@pytest.mark.shared_data
@pytest.mark.parametrize("version", WHEELS)
def test_a_wheels_library_gives_the_same_tokens(binaries: Path, shared_data: Path, version: str) -> None:
    """xllamacpp's module as explicit file, which carries its own CPU code and another llama.h."""
    said = generate(wheel(binaries, version), MODEL=fetched(shared_data, "ref260k.gguf"))
    assert (said["tokens"], said["cpu"]) == (REFERENCE, None)


def runnable() -> set[str]:
    """Return the variants that this machine can run."""
    features = frozenset(run("from nativeload import Host; say(sorted(Host.detect().cpu.features))"))
    return {name for name, needs in X86_64.items() if needs <= features}


@pytest.mark.shared_data
@pytest.mark.parametrize("variant", X86_64)
def test_every_cpu_backend_gives_the_same_tokens(binaries: Path, shared_data: Path, variant: str) -> None:
    """Forced by its name each backend serves where it can run, a lesser one elsewhere, and the tokens are known."""
    said = generate(fetched(binaries, NPM), MODEL=fetched(shared_data, "ref260k.gguf"), CPU=variant)
    assert said["tokens"] == REFERENCE
    if variant in runnable():
        assert said["cpu"] == variant
    else:
        assert X86_64[said["cpu"]] < X86_64[variant]


# -- the bundled model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", X86_64)
def test_the_story_is_the_same_with_every_cpu_backend(binaries: Path, variant: str) -> None:
    """The bundled model's known stories, to their end."""
    assert generate(fetched(binaries, NPM), CPU=variant)["texts"] == STORIES


@pytest.mark.parametrize("version", WHEELS)
def test_the_story_is_the_same_with_a_wheels_library(binaries: Path, version: str) -> None:
    """The bundled model's known stories, with another build of llama.cpp."""
    assert generate(wheel(binaries, version))["texts"] == STORIES


@pytest.mark.qemu
@pytest.mark.parametrize(("processor", "variant"), EMULATED)
def test_the_story_is_the_same_on_an_older_processor(binaries: Path, processor: str, variant: str) -> None:
    """The bundled model's known stories, under qemu."""
    python = emulated(processor)
    said = generate(fetched(binaries, NPM), python=python, NATIVELOAD_PYTHON=shlex.join(python))
    assert (said["cpu"], said["texts"]) == (variant, STORIES)


# -- CUDA, on a machine without it ----------------------------------------------------------------------------------


@pytest.fixture
def cuda_bundle(binaries: Path) -> Path:
    """npm's CUDA bundle, on a machine that cannot use it."""
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has an NVIDIA GPU, and the test is about one that has none")
    return fetched(binaries, NPM_CUDA)


def test_a_preferred_cuda_that_is_not_there_is_one_warning_and_text(cuda_bundle: Path) -> None:
    """with_cuda() generates on the CPU, and one warning names the reason."""
    said = generate(cuda_bundle, CUDA=1)
    ((category, text),) = said["warnings"]
    assert category == "PreferenceWarning"
    assert "cuda preferred" in text
    assert "NVIDIA" in text
    assert said["texts"] == STORIES
    assert [device["backend"] for device in said["devices"]] == ["cpu"]


def test_a_required_cuda_that_is_not_there_raises(cuda_bundle: Path) -> None:
    """with_cuda("require") names the backend and the reason, and opens nothing."""
    code = """
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"]).with_cuda("require")
    say([attempt(config.load), mapped()])
    """
    error, mapped = run(code, LIBRARY=cuda_bundle)
    assert (error["error"], error["backend"]) == ("BackendUnavailableError", "cuda")
    assert "NVIDIA" in error["text"]
    assert not [path for path in mapped if path.startswith(str(cuda_bundle))]


def test_a_cuda_module_that_is_tried_anyway_names_what_it_misses(cuda_bundle: Path) -> None:
    """Without the host check the probe opens it, names the library that is missing, and the CPU set is used."""
    said = generate(cuda_bundle, CUDA=1, SKIP=1)
    assert [device["backend"] for device in said["devices"]] == ["cpu"]
    assert said["cpu"] in runnable()
    reasons = [item["reason"] for item in said["decisions"] if "[cuda + " in item["candidate"]]
    assert reasons
    assert all("libcuda.so.1" in reason or "libcublas.so.13" in reason for reason in reasons)
    assert len(said["warnings"]) == 1
    assert said["texts"] == STORIES


def test_every_decision_of_the_trace_is_one_line(cuda_bundle: Path) -> None:
    """The trace is one candidate a line, also where several libraries are missing."""
    said = generate(cuda_bundle, CUDA=1, SKIP=1)
    assert [item["reason"] for item in said["decisions"] if "\n" in item["reason"]] == []


def test_doctor_names_what_a_cuda_bundle_wants(cuda_bundle: Path) -> None:
    """Driver, runtime and cuBLAS are each named beside the file that wants them, whether found or missing."""
    command = [sys.executable, "-m", "nativeload", "doctor", "--path", str(cuda_bundle)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "bindings")])
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13"):
        (line,) = [line for line in ended.stdout.splitlines() if f" {name}," in line]
        assert "wanted by libggml-cuda.so" in line
    assert "missing libcuda.so.1" in ended.stdout
    assert "device CPU" in ended.stdout


# -- two builds, missing files --------------------------------------------------------------------------------------


def test_two_bundles_with_one_ggml_name_are_refused_by_naming_both(binaries: Path) -> None:
    """Both bundles call their base libggml-base.so: with one of them open, the other is not."""
    code = """
    import ctypes
    from nativeload import NativeLibraryConfig
    ctypes.CDLL(os.environ["OTHER"])
    say([attempt(NativeLibraryConfig().with_library(os.environ["LIBRARY"]).load), mapped()])
    """
    mine, other = fetched(binaries, NPM), fetched(binaries, NPM_CUDA, "libggml-base.so")
    error, mapped = run(code, LIBRARY=mine, OTHER=other)
    assert error["error"] == "LoadError"
    assert str(mine / "libggml-base.so") in error["text"]
    assert str(other) in error["text"]
    assert not [path for path in mapped if path.startswith(str(mine))]


def test_a_promised_file_that_is_missing_fails_and_never_skips(binaries: Path, tmp_path: Path) -> None:
    """With the variable set and the folder empty, the tests of this module fail."""
    name = "test_two_bundles_with_one_ggml_name_are_refused_by_naming_both"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", f"{__file__}::{name}"]
    environment = {**os.environ, "NATIVELOAD_TEST_BINARIES": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "1 failed" in ended.stdout
    assert "is missing: run tools/fetch_real.py" in ended.stdout


def test_the_cuda_major_is_read_out_of_the_module(cuda_bundle: Path) -> None:
    """The real module wants libcudart.so.13: who asks for CUDA 12 is told so, on a machine that has a CUDA GPU."""
    card = Gpu(backend=Backend.CUDA, index=0, name="a card")
    host = replace(Host.detect(), gpus=(card,))
    config = NativeLibraryConfig().with_library(cuda_bundle)
    assert (chosen := config.with_cuda(13).plan(host).chosen) is not None
    assert chosen.gpu == "cuda"
    resolution = config.with_cuda(12).plan(host)
    assert resolution.chosen is not None
    assert resolution.chosen.gpu is None
    assert resolution.shortfall == ((Backend.CUDA, "built for CUDA 13, and CUDA 12 was asked for"),)
