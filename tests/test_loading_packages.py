"""A backend package that crashes at first contact: the next package serves, and nobody meets it twice."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT, count, counting_python, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

LOAD = """
    import nativeload.probe
    from nativeload import NativeLibraryConfig
    from nativeload_llama.library import open_library
    nativeload.probe.TIMEOUT = 3.0
    if os.environ["BY"] == "binding":
        say(attempt(lambda: open_library().loaded))
    else:
        say(attempt(NativeLibraryConfig().load))
"""


@pytest.fixture(autouse=True)
def _xllamacpp() -> None:
    try:
        importlib.metadata.distribution("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the extra `cpu`: xllamacpp is not installed")


def crashy(library: Path, site: Path) -> Path:
    """Install a backend package `nativeload-crashy` whose libllama is this library into a site directory."""
    files = {"nativeload_crashy/set/libllama.so": library.read_bytes()}
    content = files["nativeload_crashy/set/libllama.so"]
    artifact = {
        "name": "libllama.so",
        "role": "core",
        "label": "llama",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "requirements": [],
    }
    description = {
        "schema": 1,
        "library": "llama",
        "build": "b11549",
        "platform": "linux-x86_64",
        "directory": "set",
        "artifacts": [artifact],
    }
    files["nativeload_crashy/nativeload_backend.json"] = json.dumps(description).encode()
    record = "".join(f"{name},sha256={_digest(body)},{len(body)}\n" for name, body in files.items())
    files["nativeload_crashy-1.0.dist-info/RECORD"] = record.encode()
    files["nativeload_crashy-1.0.dist-info/METADATA"] = (
        b"Metadata-Version: 2.1\nName: nativeload-crashy\nVersion: 1.0\n"
    )
    for name, body in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(body)
    return site


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


@pytest.mark.parametrize("by", ["config", "binding"])
@pytest.mark.parametrize(
    ("how", "word"), [("SEGV", "SIGSEGV"), ("ILL", "SIGILL"), ("EXIT", "exit(0)"), ("HANG", "hang")]
)
def test_a_package_that_crashes_gives_way_to_the_next_and_is_not_probed_again(
    build: Callable[..., Path], tmp_path: Path, how: str, word: str, by: str
) -> None:
    """The trace names the word, xllamacpp serves, the process lives; the second process starts no child for either."""
    site = crashy(build("crash.c", f"libcrash-{how}.so", f"-DHOW={how}"), tmp_path / "site")
    python, started = counting_python(tmp_path)
    for _ in range(2):
        said = run(LOAD, PYTHONPATH=site, NATIVELOAD_PYTHON=python, BY=by)
        assert said["origin"].startswith("xllamacpp ")
        (decision,) = [item for item in said["decisions"] if item["candidate"] == "nativeload-crashy 1.0"]
        assert decision["accepted"] is False
        assert word in decision["reason"]
        assert said["devices"]
        assert not [path for path in said["mapped"] if path.startswith(str(site))]
        assert count(started) == 2


def test_a_package_that_is_killed_is_probed_again(build: Callable[..., Path], tmp_path: Path) -> None:
    """SIGKILL came from outside: the next process asks once more, and xllamacpp's verdict stays."""
    site = crashy(build("crash.c", "libcrash-KILL.so", "-DHOW=KILL"), tmp_path / "site")
    python, started = counting_python(tmp_path)
    for probes in (2, 3):
        assert run(LOAD, PYTHONPATH=site, NATIVELOAD_PYTHON=python, BY="config")["origin"].startswith("xllamacpp ")
        assert count(started) == probes


def test_a_package_that_was_named_and_is_not_there_is_one_warning(tmp_path: Path) -> None:
    """Something else is used, and who named the package hears of it."""
    code = """
    import warnings
    from nativeload import NativeLibraryConfig
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = attempt(NativeLibraryConfig().with_backend_package("my-fast-llama").load)
    say(["error" in said, [str(item.message) for item in caught]])
    """
    failed, (message,) = run(code)
    assert not failed
    assert message.endswith(" is used: backend package my-fast-llama: named as a backend package, but not installed")
