"""What the tests of the bindings share: one installed libllama in this process, and children for everything else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nativeload_llama import Llama, bundled_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory that lives as long as the tests, so that the library is probed once."""
    folder = tmp_path_factory.mktemp("verdicts")
    folder.chmod(0o700)
    return folder


@pytest.fixture(autouse=True)
def _one_cache(_clean_environment: None, verdicts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATIVELOAD_CACHE", str(verdicts))


@pytest.fixture
def llama(_one_cache: None) -> Iterator[Llama]:
    """The story model in a context of its training size, on one thread."""
    with Llama(bundled_model(), n_threads=1) as opened:
        yield opened


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a new Python, in an empty directory: ``run_python(code, *arguments, stdin="")``."""

    def run(
        code: str,
        *arguments: str,
        stdin: str | None = None,
        seconds: float = 120,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=tmp_path,
            env={**os.environ, **(environment or {})},
            check=False,
        )

    return run
