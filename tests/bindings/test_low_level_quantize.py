"""Writing a model anew in fewer bits, by real builds that can: what comes out, and what is refused in C's stead."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from nativeload.errors import NotInThisBuild
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library
from tests.bindings.gguf_writer import U16, parse
from tests.scenarios import STUB_LINUX, WHY_NOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

NEWEST = "node-llama-cpp-linux-x64/package/bins/linux-x64"
BUILDS = (NEWEST, *(NEWEST.replace("x64/", f"x64-{version}/", 1) for version in ("3.17.1", "3.19.0", "3.20.0")))

CODE = """
import json, os, sys
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload import NativeLibraryConfig
from nativeload_llama import low_level
from nativeload_llama.errors import ModelError
from nativeload_llama.library import open_library
library, source, target, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
api = open_library(NativeLibraryConfig().with_library(library))
if "limit" in options:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (options.pop("limit"), -1))
try:
    low_level.model_quantize(api, source, target, n_threads=1, **options)
except ModelError as error:
    print(json.dumps(str(error)))
else:
    model = low_level.model_load_from_file(api, target)
    context = low_level.init_from_model(model, n_ctx=256, n_batch=8, n_threads=1)
    low_level.decode(context, low_level.batch_get_one(context, [1, 379]))
    print(json.dumps([low_level.model_desc(model), low_level.model_size(model)]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.fixture
def quantize(run_python: RunPython, binaries: Path, folder: Path) -> Callable[..., Any]:
    """Quantize in a new process; return the model's description and size, or the error's text."""

    def run(build: str = NEWEST, source: str = "", target: str = "", **options: Any) -> Any:
        target = target or str(folder / "new.gguf")
        done = run_python(CODE, str(binaries / build), source or bundled_model(), target, json.dumps(options))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_build_that_cannot() -> None:
    """It says so, before anything is looked at."""
    with pytest.raises(NotInThisBuild, match="llama_model_quantize"):
        low_level.model_quantize(open_library(), "no such file", "", ftype=4711)


REAL = [pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT), pytest.mark.real_bundle]


def of_real_builds(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs published builds."""
    for mark in REAL:
        test = mark(test)
    return test


@of_real_builds
@pytest.mark.parametrize("build", BUILDS)
def test_a_model_is_quantized(quantize: Callable[..., Any], folder: Path, build: str) -> None:
    """It is smaller, speaks, and takes the place of the file that was there."""
    (folder / "new.gguf").write_text("old")
    assert quantize(build, ftype="Q4_0", allow_requantize=True) == ["llama ?B Q4_0", 611_072]
    assert os.listdir(folder) == ["new.gguf"]


@of_real_builds
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ftype": "Q4_K_M", "allow_requantize": True, "pure": True}, "rows of 128, and Q4_K_M blocks of 256"),
        ({"ftype": "Q4_0"}, "requantizing from type q8_0 is disabled"),
        ({"ftype": 4711}, "ftype is 4711, and this library knows .*Q4_K_M"),
        ({"ftype": 1024}, "ftype is 1024"),
        ({"ftype": "GUESSED"}, "ftype is 'GUESSED'"),
        ({"ftype": "IQ2_XXS"}, "importance matrix"),
        ({"ftype": "Q2_K_S"}, "importance matrix"),
        ({"ftype": "IQ3_M"}, "may abort"),
        ({"ftype": "Q8_0", "only_copy": True, "limit": 500_000}, "failed to quantize"),
    ],
    ids=str,
)
def test_what_is_refused(
    quantize: Callable[..., Any], folder: Path, build: str, options: dict[str, Any], reason: str
) -> None:
    """Older builds abort on some of it; nothing is left behind, and what was there stays."""
    (folder / "new.gguf").write_text("old")
    answer = quantize(build, **options)
    assert isinstance(answer, str)
    assert re.search(reason, answer), answer
    assert os.listdir(folder) == ["new.gguf"]
    assert (folder / "new.gguf").read_text() == "old"


@of_real_builds
def test_numbers_of_types_are_those_of_llama_h(quantize: Callable[..., Any]) -> None:
    """By number or by name: LLAMA_FTYPE_ALL_F32 is 0."""
    assert quantize(ftype=0, allow_requantize=True) == quantize(ftype="F32", allow_requantize=True)


@of_real_builds
@pytest.mark.parametrize("threads", [-1, 513])
def test_threads_that_cannot_be(binaries: Path, run_python: RunPython, threads: int) -> None:
    """At most 512, and 0 is one for each core."""
    code = CODE.replace("n_threads=1", f"n_threads={threads}")
    done = run_python(code, str(binaries / NEWEST), bundled_model(), "x.gguf", '{"ftype": "Q8_0"}')
    assert f"n_threads is {threads}" in done.stdout, done.stderr


@of_real_builds
def test_the_source_is_never_the_target(quantize: Callable[..., Any], folder: Path) -> None:
    """By whatever name: it is mapped while the target is written."""
    path, other = folder / "x.gguf", folder / "y.gguf"
    path.write_bytes(Path(bundled_model()).read_bytes())
    other.symlink_to(path)
    for target in (path, other):
        assert "the same file" in quantize(source=str(path), target=str(target), ftype="Q8_0", only_copy=True)
    assert path.read_bytes() == Path(bundled_model()).read_bytes()


@of_real_builds
@pytest.mark.parametrize("what", ["text", "folder", "nothing", "damaged"])
def test_sources_that_are_no_models(quantize: Callable[..., Any], folder: Path, what: str) -> None:
    """C would abort on some of them."""
    (folder / "text").write_text("Once upon a time")
    (folder / "folder").mkdir()
    damaged = parse(Path(bundled_model()).read_bytes())
    damaged.get("llama.block_count").value = 513
    (folder / "damaged").write_bytes(damaged.to_bytes())
    answer = quantize(source=str(folder / what), ftype="Q8_0")
    assert isinstance(answer, str)
    assert what in answer
    assert "new.gguf" not in os.listdir(folder)


@of_real_builds
def test_rows_of_a_split_model_are_not_known(quantize: Callable[..., Any], folder: Path) -> None:
    """All in one type is for one file."""
    whole = parse(Path(bundled_model()).read_bytes())
    whole.put("split.count", U16, 2)
    (folder / "m-00001-of-00002.gguf").write_bytes(whole.to_bytes())
    (folder / "m-00002-of-00002.gguf").write_bytes(whole.to_bytes())
    answer = quantize(source=str(folder / "m-00001-of-00002.gguf"), ftype="Q8_0", pure=True)
    assert "split over several files" in answer


@of_real_builds
@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_target_in_no_folder(quantize: Callable[..., Any], folder: Path) -> None:
    """It cannot be written."""
    answer = quantize(target=str(folder / "no" / "such.gguf"), ftype="Q8_0", only_copy=True)
    assert "cannot be written" in answer
