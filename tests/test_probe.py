"""What a library does at first contact happens to a child process: the verdict names it, and the parent lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT, count, counting_python, orphan, run, stub_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

PROBE = """
    import time
    import nativeload.probe
    from nativeload.cache import LibraryCache, default_root
    from nativeload.host import Host
    from nativeload.loading import shortlist, verify
    from nativeload import NativeLibraryConfig

    nativeload.probe.TIMEOUT = float(os.environ.get("SHORT", "20"))
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"]).settled()
    found = shortlist(config)
    chosen = verify(found.sets[0], found.cache)
    began = time.monotonic()
    verdict = nativeload.probe.probe(chosen, found.host, found.cache, check=None, python=config.python)
    took = time.monotonic() - began
    say({name: getattr(verdict, name) for name in ("status", "reason", "step", "stderr", "cached")}
        | {"facts": dict(verdict.facts), "devices": len(verdict.devices), "took": took})
"""


def probed(library: Path, **env: Any) -> dict[str, Any]:
    """Probe one library, twice if asked, and return what the verdict says."""
    verdict: dict[str, Any] = run(PROBE, LIBRARY=library, **env)
    return verdict


@pytest.mark.parametrize(
    ("how", "status", "word"),
    [
        ("SEGV", "signal", "SIGSEGV"),
        ("ILL", "signal", "SIGILL"),
        ("ABORT", "signal", "SIGABRT"),
        ("EXIT", "exit", "exit(0)"),
        ("HANG", "timeout", "hang"),
    ],
)
def test_a_constructor_that_crashes_is_named_and_the_second_run_does_not_probe_again(
    build: Callable[..., Path], tmp_path: Path, how: str, status: str, word: str
) -> None:
    """The verdict says the word and the file, the process lives, and the verdict is kept for the next process."""
    library = build("crash.c", f"libcrash-{how}.so", f"-DHOW={how}")
    python, started = counting_python(tmp_path)
    first = probed(library, NATIVELOAD_PYTHON=python, SHORT=2)
    assert (first["status"], first["cached"]) == (status, False)
    assert word in first["reason"]
    assert library.name in first["reason"]
    assert count(started) == 1
    again = probed(library, NATIVELOAD_PYTHON=python, SHORT=2)
    assert (again["status"], again["reason"], again["cached"]) == (status, first["reason"], True)
    assert count(started) == 1


def test_a_good_library_is_probed_once(build: Callable[..., Path], tmp_path: Path) -> None:
    """The verdict `ok` is kept as the bad ones are."""
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    python, started = counting_python(tmp_path)
    assert probed(library, NATIVELOAD_PYTHON=python)["status"] == "ok"
    assert probed(library, NATIVELOAD_PYTHON=python)["cached"] is True
    assert count(started) == 1


def test_a_hang_costs_the_time_limit_and_no_more(build: Callable[..., Path]) -> None:
    """A child that never answers is killed when its time is out."""
    verdict = probed(build("crash.c", "libcrash-HANG.so", "-DHOW=HANG"), SHORT=1)
    assert "1 s" in verdict["reason"]
    assert 1 <= verdict["took"] < 6


def test_nothing_a_library_prints_is_taken_for_an_answer(build: Callable[..., Path]) -> None:
    """A megabyte of lines that look like answers, on every descriptor, changes nothing and blocks nothing."""
    verdict = probed(build("crash.c", "libcrash-SHOUT.so", "-DHOW=SHOUT"))
    assert verdict["status"] == "ok"
    assert verdict["facts"] == {}
    assert "forged" in verdict["stderr"]
    assert len(verdict["stderr"]) <= 4096


def test_a_grandchild_that_keeps_the_pipes_open_is_not_waited_for(build: Callable[..., Path]) -> None:
    """A library that forks away a process with our pipes delays the verdict by two seconds at most, not by its life."""
    verdict = probed(build("crash.c", "libcrash-FORK.so", "-DHOW=FORK"))
    assert verdict["status"] == "ok"
    assert verdict["took"] < 10


def test_what_a_library_writes_to_stderr_is_kept(build: Callable[..., Path]) -> None:
    """The library's last words are in the verdict."""
    verdict = probed(build("crash.c", "libcrash-COMPLAIN.so", "-DHOW=COMPLAIN"))
    assert verdict["status"] == "signal"
    assert "the frobnicator is upside down" in verdict["stderr"]


def test_a_kill_from_outside_is_not_kept(build: Callable[..., Path], tmp_path: Path) -> None:
    """SIGKILL comes from an operator or the memory limit: the next process asks again."""
    library = build("crash.c", "libcrash-KILL.so", "-DHOW=KILL")
    python, started = counting_python(tmp_path)
    for _ in range(2):
        verdict = probed(library, NATIVELOAD_PYTHON=python)
        assert "SIGKILL" in verdict["reason"]
        assert verdict["cached"] is False
    assert count(started) == 2


def test_a_missing_library_is_not_kept(build: Callable[..., Path], tmp_path: Path) -> None:
    """What is missing may be installed tomorrow: the next process asks again, and then it opens."""
    folder = tmp_path / "here"
    folder.mkdir()
    library = folder / "orphan.so"
    library.write_bytes(orphan(build).read_bytes())
    python, started = counting_python(tmp_path)
    verdict = probed(library, NATIVELOAD_PYTHON=python)
    assert verdict["status"] == "missing library"
    assert "liblost.so.7" in verdict["reason"]
    lost = build("crash.c", "liblost.so.7").parent
    assert probed(library, NATIVELOAD_PYTHON=python, LD_LIBRARY_PATH=lost)["status"] == "ok"
    assert count(started) == 2


@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/false"])
def test_without_a_python_to_start_the_verdict_is_open_and_not_kept(
    build: Callable[..., Path], tmp_path: Path, python: str
) -> None:
    """A probe that could not run says nothing of the library."""
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    assert probed(library, NATIVELOAD_PYTHON=python)["status"] == "inconclusive"
    assert probed(library)["status"] == "ok"


def test_a_kept_verdict_that_is_damaged_is_asked_for_again(build: Callable[..., Path], tmp_path: Path) -> None:
    """A verdict of another form, or half of one, is as good as none."""
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    python, started = counting_python(tmp_path)
    probed(library, NATIVELOAD_PYTHON=python)
    (note,) = (tmp_path / "cache" / "probes").iterdir()
    for text in ("", "status ok\n", "status ok\nend\n", "status ok\nreason \n"):
        note.write_text(text)
        assert probed(library, NATIVELOAD_PYTHON=python)["status"] == "ok"
    assert count(started) == 5


def test_the_devices_seen_in_the_child_are_in_the_verdict(build: Callable[..., Path], tmp_path: Path) -> None:
    """A split build shows what it registered, in the first run and from the kept verdict."""
    bundle = stub_bundle(build, tmp_path / "bundle")
    for cached in (False, True):
        verdict = probed(bundle)
        assert (verdict["status"], verdict["devices"], verdict["cached"]) == ("ok", 1, cached)


def test_ctrl_c_leaves_no_child_behind(build: Callable[..., Path], tmp_path: Path) -> None:
    """A program interrupted during the probe takes the probe's child with it."""
    library = build("crash.c", "libcrash-HANG.so", "-DHOW=HANG")
    python, _ = counting_python(tmp_path, f"echo $$ > {tmp_path}/pid")
    code = """
        import signal, threading, time
        from nativeload import NativeLibraryConfig
        pid = Path(os.environ["CHILD"])
        def interrupt():
            while not (pid.exists() and pid.read_text().strip()):
                time.sleep(0.01)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            NativeLibraryConfig().with_library(os.environ["LIBRARY"]).load()
        except KeyboardInterrupt:
            say(os.path.exists(f"/proc/{pid.read_text().strip()}"))
    """
    began = time.monotonic()
    assert run(code, LIBRARY=library, NATIVELOAD_PYTHON=python, CHILD=tmp_path / "pid") is False
    assert time.monotonic() - began < 15
