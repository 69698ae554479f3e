"""No damaged model file ends Python: a real libllama in a child opens it, tokenizes and generates, or it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nativeload_llama import Llama
from nativeload_llama.errors import ModelError
from tests.bindings.damaged import build, catalogue, drawn
from tests.bindings.test_every_build import BUILDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
CHILD = "from tests.bindings import damaged; damaged.main()"
UNGUARDED = f"from nativeload_llama import gguf; gguf.fault = lambda path: None; {CHILD}"

PLENTY = int(os.environ.get("NATIVELOAD_TEST_DAMAGED", "0"))
"""How many files to try instead of 1,500 (installed library) and 250 (each of the real builds)."""


def fates(names: Sequence[str], folder: Path, code: str = CHILD, **environment: str) -> dict[str, str]:
    """Say what became of each file: ``opened``, an error's name and text, or ``died``; a death begins a new child."""
    found: dict[str, str] = {}
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "bindings")))
    # Without GGML_NO_BACKTRACE an abort starts a debugger, and that takes its time.
    given = {**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1", **environment}
    while len(found) < len(names):
        left = names[len(found) :]
        lines = "".join(f"{name}\n" for name in left)
        done = subprocess.run(command, input=lines, capture_output=True, text=True, env=given, check=False)
        said = done.stdout.splitlines()
        told = [line for line in said if line != "trying"]
        if len(told) < len(left):
            assert said[-1:] == ["trying"], done.stderr
            told.append(f"died with {done.returncode}: {done.stderr.strip()[-300:]}")
        found.update(zip(left, told, strict=False))
    return found


def deaths(found: dict[str, str]) -> dict[str, str]:
    return {name: fate for name, fate in found.items() if fate.startswith("died")}


def some(count: int, *, offset: int = 0) -> list[str]:
    """Name files: two thirds from all over the catalogue, the rest with several changes, cut short, of wrong bytes."""
    known = catalogue()
    return [*known[offset :: max(1, 3 * len(known) // (2 * count))], *drawn(offset, count // 3)]


def test_no_damaged_model_ends_the_process(tmp_path: Path) -> None:
    """1,500 files with the installed library: refused with a reason, or opened and used."""
    found = fates(some(PLENTY or 1500), tmp_path)
    assert deaths(found) == {}
    refused = [fate for fate in found.values() if fate.startswith("ModelError: ")]
    assert len(refused) > len(found) // 4
    assert sum(fate == "opened" for fate in found.values()) > len(found) // 4
    assert {fate.partition(":")[0] for fate in found.values()} <= {"ModelError", "ContextError", "opened"}
    assert all(len(fate) > len("ModelError: x.gguf: ") for fate in refused)


@pytest.mark.parametrize(
    "name",
    [
        "stories fields: llama.block_count = 0",
        "stories tensors: blk.0.attn_q.weight of type 24",
        "stories tensors: with blk.0.attn_q.bias of type 1",
        "stories tokenizer: token 198 renamed",
        "stories rescaled: value 16",
    ],
)
def test_without_our_look_at_the_header_it_would(tmp_path: Path, name: str) -> None:
    """The control: an assertion, NULL called, types that cannot be added, an exception through C, heads that differ."""
    (fate,) = fates([name], tmp_path, UNGUARDED).values()
    assert fate.startswith("died with -")
    (guarded,) = fates([name], tmp_path).values()
    assert guarded.startswith("ModelError")


@pytest.mark.real_bundle
@pytest.mark.parametrize("library", BUILDS, ids=[name.partition("/")[0] for name in BUILDS])
def test_no_damaged_model_ends_the_process_of_any_build(library: str, binaries: Path, tmp_path: Path) -> None:
    """The builds of a year differ in what they assert: other files for each of them."""
    place = binaries / library
    assert place.exists(), f"{place} is missing: run tools/fetch_real.py"
    names = some(PLENTY or 250, offset=list(BUILDS).index(library))
    found = fates(names, tmp_path, NATIVELOAD_PATH=str(place))
    assert deaths(found) == {}
    assert sum(fate == "opened" for fate in found.values()) > len(found) // 4


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"", 0),
        (b"", 1 << 30),
        (b"GGUF", 1 << 30),
        (b"GGUF\3\0\0\0", 1 << 30),
        (b"GGUF\3\0\0\0" + b"\xff" * 16, 1 << 30),
        (b"Once upon a time there was no model.\n" * 100, 3700),
        (b"GGUF upon a time there was no model.\n" * 100, 3700),
    ],
    ids=["empty", "a gigabyte of nothing", "with the magic", "with a version", "with counts", "text", "text, GGUF"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, size: int) -> None:
    """Also where it is huge."""
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    os.truncate(path, size)
    with pytest.raises(ModelError, match=r"GGUF|damaged|cut short|unknown model architecture") as caught:
        Llama(path)
    assert caught.value.path == str(path)


def test_a_name_says_one_file() -> None:
    """The same bytes every time, different ones for different names; and every name can be built."""
    names = [*catalogue()[::997], *drawn(5, 24)]
    assert len(set(catalogue())) == len(catalogue()) > 50_000
    made = [build(name) for name in names]
    assert made == [build(name) for name in names]
    assert len(set(made)) > len(names) * 0.9
