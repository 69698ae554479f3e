"""What must exist before a driver's library is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nativeload.host import gpu, nvidia, rocm, vulkan
from nativeload.host.facts import Gpu, Nvidia
from nativeload.variant import Backend, Platform

ROOT = Path(__file__).parents[2]
CARD = Gpu(backend=Backend.CUDA, index=0, name="a card")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the drivers by ones that record that they were asked."""
    names: list[str] = []

    def cuda(_: list[str]) -> tuple[Nvidia | None, tuple[Gpu, ...]]:
        names.append("cuda")
        return Nvidia(driver="1", cuda=(12, 4)), (CARD,)

    def none(name: str) -> tuple[Gpu, ...]:
        names.append(name)
        return ()

    monkeypatch.setattr(nvidia, "devices", cuda)
    monkeypatch.setattr(rocm, "devices", lambda: none("rocm"))
    monkeypatch.setattr(vulkan, "devices", lambda _: none("vulkan"))
    return names


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], []),
        (["nvidiactl"], ["cuda", "vulkan"]),
        (["dxg"], ["cuda", "vulkan"]),
        (["nvmap"], ["cuda"]),
        (["kfd", "dri/renderD128"], ["rocm", "vulkan"]),
        (["dri/card0"], []),
    ],
)
def test_a_device_node_comes_first_on_linux(
    tmp_path: Path, asked: list[str], nodes: list[str], expected: list[str]
) -> None:
    for node in nodes:
        (tmp_path / node).parent.mkdir(exist_ok=True)
        (tmp_path / node).touch()
    notes: list[str] = []
    gpu.detect(Platform.LINUX_X86_64, notes, dev=str(tmp_path))
    assert asked == expected
    assert len(notes) == 4 - len(expected)


def test_other_systems_have_no_device_nodes(asked: list[str]) -> None:
    notes: list[str] = []
    assert gpu.detect(Platform.WINDOWS_X86_64, notes) == (Nvidia(driver="1", cuda=(12, 4)), (CARD,))
    assert asked == ["cuda", "vulkan"]
    asked.clear()
    assert gpu.detect(Platform.MACOS_X86_64, notes) == (None, ())
    assert asked == []


def test_a_driver_that_fails_leaves_the_others_their_say(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises is a note."""

    def fail(_: list[str]) -> None:
        raise MemoryError("out of\nmemory")

    monkeypatch.setattr(nvidia, "devices", fail)
    (tmp_path / "nvidiactl").touch()
    notes: list[str] = []
    assert gpu.detect(Platform.LINUX_X86_64, notes, dev=str(tmp_path)) == (None, ())
    assert asked == ["vulkan"]
    assert "CUDA: out of memory" in notes


@pytest.mark.skipif(sys.platform != "linux", reason="device nodes are a matter of Linux")
def test_without_a_node_nothing_is_opened_and_no_driver_module_imported(tmp_path: Path) -> None:
    """A driver's library costs up to a second and runs its own code."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.extend(args if event == 'ctypes.dlopen' else ()))\n"
        "from nativeload import host\n"
        "from nativeload.host import cpu, gpu, libc\n"
        "from nativeload.variant import Platform\n"
        f"print(gpu.detect(Platform.current(), [], dev={str(tmp_path)!r}))\n"
        "cpu.detect(Platform.current(), []), libc.detect()\n"
        "assert opened and not any(opened), opened\n"
        "names = ('nvidia', 'vulkan', 'rocm', 'clibrary', 'record')\n"
        "modules = {f'nativeload.host.{name}' for name in names}\n"
        "assert not modules & set(sys.modules), sys.modules.keys()\n"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "(None, ())\n", "")
