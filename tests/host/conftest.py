"""Driver libraries for tests: small C files compiled with `cc`, so that ctypes meets real shared objects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compile fakes/<name>.c with the given macros and return the library's path, another one each time."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler `cc` on PATH to build a stand-in for a driver's library")

    def compiled(name: str, **macros: object) -> str:
        library = tmp_path_factory.mktemp(name) / f"lib{name}.so"
        defines = [f"-D{macro}={value}" for macro, value in macros.items()]
        source = HERE / "fakes" / f"{name}.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-w", *defines, source, "-o", library], check=True)
        return str(library)

    return compiled


@pytest.fixture(params=sorted((HERE / "recorded").glob("*.json")), ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Path:
    """Each recorded host in turn."""
    path = request.param
    assert isinstance(path, Path)
    return path
