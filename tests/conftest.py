"""What every test can count on: no environment of the user's, an empty cache, and no quiet skips where asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCES = Path(__file__).parent / "fixtures_c"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="A skipped test fails: everything it needs must be here.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None] | pytest.TestReport:  # pluggy's wrapper: yields once, returns the report
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips was given: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No option comes from the machine the tests run on; receipts and verdicts go to a private directory."""
    for name in list(os.environ):
        if name.startswith("NATIVELOAD_") and not name.startswith("NATIVELOAD_TEST_"):
            monkeypatch.delenv(name)
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    # What would lead requests elsewhere than to a test's own server.
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("NATIVELOAD_CACHE", str(cache))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile one C file of fixtures_c into a shared library: ``build("crash.c", "libx.so", "-DHOW=1")``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    folder = tmp_path_factory.mktemp("libraries")

    def compile_one(source: str, name: str, *flags: str) -> Path:
        target = folder / name
        if not target.exists():
            command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(SOURCES / source), *flags]
            subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return compile_one


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub on this machine."""
    with Hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder that tools/fetch_real.py fills; a file missing from it fails the test that wants it."""
    folder = os.environ.get("NATIVELOAD_TEST_BINARIES")
    if not folder:
        pytest.skip("NATIVELOAD_TEST_BINARIES names no folder of real binaries")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public test files."""
    folder = os.environ.get("NATIVELOAD_TEST_DATA")
    if not folder:
        pytest.skip("NATIVELOAD_TEST_DATA names no folder of test files")
    return Path(folder)
