"""A flipped bit, a path that cannot load, an unknown layout: three typed errors, no fallback, and nothing opened here.

Openings are counted by the system loader itself: every process of a scenario runs under LD_DEBUG=files.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT, count, counting_python, opened, orphan, run, stub_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

OPEN = """
    from nativeload import NativeLibraryConfig
    from nativeload_llama.library import open_library
    config = NativeLibraryConfig()
    if os.environ.get("LIBRARY"):
        config = config.with_library(os.environ["LIBRARY"])
    say([os.getpid(), attempt(lambda: open_library(config).loaded)])
"""


@pytest.fixture(scope="session")
def xllamacpp() -> tuple[Path, Path]:
    """The installed xllamacpp: its package and its dist-info."""
    try:
        distribution = importlib.metadata.distribution("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the extra `cpu`: xllamacpp is not installed")
    info = next(file for file in distribution.files or () if str(file).endswith("dist-info/RECORD"))
    record = Path(str(distribution.locate_file(info)))
    return record.parent.parent / "xllamacpp", record.parent


@pytest.fixture
def copied(xllamacpp: tuple[Path, Path], tmp_path: Path) -> Path:
    """A site directory of its own with a copy of the installed xllamacpp."""
    for source in xllamacpp:
        shutil.copytree(source, tmp_path / "site" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


class Counted:
    """What a scenario said, and which of its processes opened a library."""

    def __init__(self, tmp_path: Path, name: str, **env: Any) -> None:
        logs = tmp_path / "loader"
        logs.mkdir()
        pid, self.result = run(OPEN, LD_DEBUG="files", LD_DEBUG_OUTPUT=logs / "ld", **env)
        by_process = opened(logs, name)
        assert pid in by_process, "the loader wrote nothing: nothing was counted"
        self.here, self.anywhere = by_process[pid], any(by_process.values())


def test_an_opened_library_is_counted(copied: Path, tmp_path: Path) -> None:
    """The control of this module: a good library is seen to be opened, in this process and in the probe's."""
    counted = Counted(tmp_path, "xllamacpp.abi3.so", PYTHONPATH=copied)
    assert counted.result["path"] == str(copied / "xllamacpp" / "xllamacpp.abi3.so")
    assert (counted.here, counted.anywhere) == (True, True)


def test_one_flipped_bit_in_an_installed_library_is_final(copied: Path, tmp_path: Path) -> None:
    """IntegrityError with both digests: no process opens the file, none is started, nothing else is tried."""
    library = copied / "xllamacpp" / "xllamacpp.abi3.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    python, started = counting_python(tmp_path)
    counted = Counted(tmp_path, "xllamacpp.abi3.so", PYTHONPATH=copied, NATIVELOAD_PYTHON=python)
    error = counted.result
    assert error["error"] == "IntegrityError"
    assert error["path"] == str(library)
    assert error["expected"] != error["actual"]
    assert "no other library was tried" in error["text"]
    assert (counted.here, counted.anywhere, count(started)) == (False, False, 0)


def test_one_flipped_bit_in_a_file_with_a_digest_is_final(build: Callable[..., Path], tmp_path: Path) -> None:
    """An explicit file that is not the one its sha256 names is not opened either."""
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    counted = Counted(tmp_path, library.name, LIBRARY=library, NATIVELOAD_SHA256="0" * 64)
    assert counted.result["path"] == str(library)  # the environment's digest is not an argument's
    env = {"NATIVELOAD_PATH": library, "NATIVELOAD_SHA256": "0" * 64}
    (tmp_path / "second").mkdir()
    counted = Counted(tmp_path / "second", library.name, **env)
    assert counted.result["error"] == "IntegrityError"
    assert (counted.here, counted.anywhere) == (False, False)


@pytest.mark.parametrize("what", ["garbage", "truncated", "orphan", "absent", "empty directory"])
def test_an_explicit_path_that_cannot_load_is_final(
    build: Callable[..., Path], xllamacpp: tuple[Path, Path], tmp_path: Path, what: str
) -> None:
    """LoadError with the path and the reason, although an installed package could serve; only the probe may open it."""
    library = tmp_path / "libllama.so"
    if what == "garbage":
        library.write_bytes(b"\x7fELF but not really" * 100)
    elif what == "truncated":
        library.write_bytes(build("crash.c", "libcrash-FINE.so", "-DHOW=FINE").read_bytes()[:4096])
    elif what == "orphan":
        shutil.copy(orphan(build), library)
    elif what == "empty directory":
        library = tmp_path / "nothing"
        library.mkdir()
    counted = Counted(tmp_path, library.name, LIBRARY=library)
    error = counted.result
    assert error["error"] == "LoadError"
    assert str(library) in error["text"]
    words = {"orphan": "liblost.so.7", "absent": "no such file", "empty directory": "no llama library"}
    assert words.get(what, "probe: ") in error["text"]
    assert not [item for item in error["decisions"] if item["source"] == "installed"]
    assert counted.here is False


def test_an_unknown_layout_is_final(build: Callable[..., Path], xllamacpp: tuple[Path, Path], tmp_path: Path) -> None:
    """UnknownLayoutError with what was measured and what is known; the library never comes into this process."""
    counted = Counted(tmp_path, "libllama.so", LIBRARY=stub_bundle(build, tmp_path / "bundle"))
    error = counted.result
    assert error["error"] == "UnknownLayoutError"
    for word in ("9.9.9-stub", "known: ", "b11549", "model params"):
        assert word in error["text"]
    assert not [item for item in error["decisions"] if item["source"] == "installed"]
    assert (counted.here, counted.anywhere) == (False, True)


@pytest.mark.real_bundle
def test_a_real_library_of_an_older_layout_is_final(
    binaries: Path, xllamacpp: tuple[Path, Path], tmp_path: Path
) -> None:
    """PyPI's xllamacpp 0.2.5 of 2025, whose llama.h is older than any known here, as explicit path."""
    library = binaries / "xllamacpp-0.2.5" / "xllamacpp" / "xllamacpp.cpython-311-x86_64-linux-gnu.so"
    assert library.is_file(), f"{library} was not fetched"
    counted = Counted(tmp_path, str(library.relative_to(binaries)), LIBRARY=library)
    assert counted.result["error"] == "UnknownLayoutError"
    assert "nearest is b8672" in counted.result["text"]
    assert (counted.here, counted.anywhere) == (False, True)
