"""What a second config, a callback, an odd process or a planted file can do to a load: nothing that is not said."""

from __future__ import annotations

import base64
import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT, count, counting_python, orphan, run, stub_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

LOAD = """
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
"""


# -- a second config --------------------------------------------------------------------------------------------------


def test_a_requirement_holds_for_what_is_loaded_already(build: Callable[..., Path], tmp_path: Path) -> None:
    """The CPU library of an earlier load does not satisfy who requires CUDA, and stays loaded for the others."""
    code = f"""{LOAD}
    first = config.load()
    say([attempt(config.with_cuda("require").load)["error"], config.load() is first])
    """
    assert run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle")) == ["BackendUnavailableError", True]


def test_a_digest_holds_for_what_is_loaded_already(build: Callable[..., Path], tmp_path: Path) -> None:
    """The same file under a digest that it does not have is refused, under its own it is the same library."""
    code = f"""{LOAD}
    first = config.load()
    path = os.environ["LIBRARY"]
    wrong = NativeLibraryConfig().with_library(path, sha256="0" * 64)
    right = NativeLibraryConfig().with_library(path, sha256=os.environ["DIGEST"])
    say([attempt(wrong.load)["error"], right.load() is first])
    """
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    assert run(code, LIBRARY=library, DIGEST=digest) == ["IntegrityError", True]


def test_a_file_replaced_since_it_was_loaded_is_another_library(build: Callable[..., Path], tmp_path: Path) -> None:
    """What is mapped is the old file: a config that comes to the new one is refused."""
    code = f"""{LOAD}
    config.load()
    library = Path(os.environ["LIBRARY"]) / "libllama.so"
    (library.parent / "new").write_bytes(library.read_bytes() + b"more")
    (library.parent / "new").rename(library)
    say(attempt(config.with_avx("avx2").load)["error"])
    """
    assert run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle")) == "AlreadyLoadedError"


def test_a_file_replaced_between_hash_and_open_is_not_opened(build: Callable[..., Path], tmp_path: Path) -> None:
    """The probe takes its time; the file that was hashed must be the file that is opened."""
    code = f"""{LOAD}
    said = attempt(config.load)
    say([said["error"], said["path"], [path for path in mapped() if path.startswith(os.environ["LIBRARY"])]])
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    change = (
        f"cp {bundle}/libllama.so {tmp_path}/new; echo more >> {tmp_path}/new; mv {tmp_path}/new {bundle}/libllama.so"
    )
    python, _ = counting_python(tmp_path, change)
    assert run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python) == ["IntegrityError", f"{bundle}/libllama.so", []]


# -- a runtime that a wheel brings ------------------------------------------------------------------------------------


def _wheel(site: Path, library: Path, content: bytes | None = None) -> None:
    """Install a distribution that carries a library, under a RECORD that vouches for its bytes (or for others)."""
    for folder in ("some.libs", "some-1.0.dist-info"):
        (site / folder).mkdir(parents=True)
    shutil.copy(library, site / "some.libs" / library.name)
    digest = hashlib.sha256(library.read_bytes() if content is None else content).digest()
    word = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    (site / "some-1.0.dist-info/RECORD").write_text(f"some.libs/{library.name},sha256={word},1\n")


@pytest.mark.parametrize("vouched", [True, False])
def test_a_missing_runtime_may_come_from_an_installed_wheel(
    build: Callable[..., Path], tmp_path: Path, vouched: bool
) -> None:
    """libgomp, in practice: opened first, part of the set, and held against RECORD like everything else."""
    code = f"""{LOAD}
    import sys
    import nativeload.loading
    nativeload.loading._RUNTIMES = ("liblost.so.7",)
    said = [attempt(config.load).get("error")]
    sys.path.append(os.environ["SITE"])
    again = attempt(config.load)
    said.append(again.get("error"))
    loaded = nativeload.loading.loaded("llama")
    if loaded:  # an unequal config that comes to the same set
        assert config.with_log_callback(lambda *_: None).load() is loaded
    say([*said, [[file.name, str(file.role)] for file in loaded.chosen.files] if loaded else []])
    """
    library = orphan(build)
    lost = library.parent / "liblost.so.7"
    _wheel(tmp_path / "site", lost, None if vouched else b"other bytes")
    hidden = tmp_path / "hidden" / library.name
    hidden.parent.mkdir()
    shutil.copy(library, hidden)
    first, second, files = run(code, LIBRARY=hidden, SITE=tmp_path / "site")
    assert first == "LoadError"
    assert second == (None if vouched else "IntegrityError")
    assert files == ([["liblost.so.7", "runtime"], [library.name, "core"]] if vouched else [])


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_a_callback_cannot_load(build: Callable[..., Path], tmp_path: Path) -> None:
    """A policy that loads would wait for itself: it is told so, and the lock is free afterwards."""
    code = f"""{LOAD}
    def policy(sets, host):
        config.load()
        return sets
    said = attempt(config.with_selecting_policy(policy).load)
    say([said["error"], "callback" in said["text"], "error" in attempt(config.load)])
    """
    assert run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle")) == ["ConfigError", True, False]


# -- odd processes ----------------------------------------------------------------------------------------------------


def test_a_process_that_ignores_its_childrens_ends_learns_nothing_wrong(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    """With SIGCHLD ignored every child seems to end with 0: the verdict is open, and the next process asks again."""
    code = f"""{LOAD}
    import signal
    if "IGNORE" in os.environ:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    say(attempt(config.load)["text"])
    """
    library = build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV")
    assert "exit(0)" not in run(code, LIBRARY=library, IGNORE="1")
    assert "SIGSEGV" in run(code, LIBRARY=library)


def test_a_module_of_site_packages_does_not_hide_the_standard_library(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    """nativeload may lie beside an old backport of enum; the probe's child uses Python's own."""
    code = f"""
    import shutil, sys
    site = Path(os.environ["SITE"])
    import nativeload
    shutil.copytree(Path(nativeload.__file__).parent, site / "nativeload")
    (site / "enum.py").write_text("raise RuntimeError('a backport')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "nativeload"]:
        del sys.modules[name]
    sys.path.insert(0, str(site))
    {LOAD.strip()}
    say([nativeload.__file__ != __import__("nativeload").__file__, len(config.load().devices)])
    """
    site = tmp_path / "site"
    site.mkdir()
    assert run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"), SITE=site) == [True, 1]


def test_a_verdict_is_that_of_the_python_that_gave_it(build: Callable[..., Path], tmp_path: Path) -> None:
    """Another command for Python may be another processor (an emulator): its verdict is its own."""
    code = f"""{LOAD}
    say("error" in attempt(config.load))
    """
    python, started = counting_python(tmp_path)
    bundle = stub_bundle(build, tmp_path / "bundle")
    for expected in (1, 1):
        assert not run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python)
        assert count(started) == expected
    assert not run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=f"env {python}")
    assert count(started) == 2


# -- planted files ----------------------------------------------------------------------------------------------------


def test_a_library_is_opened_by_absolute_path_however_the_config_was_made(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    """A bare name given to the constructor is the file in the current directory, never the loader's idea of it."""
    code = """
    from nativeload import NativeLibraryConfig
    os.chdir(os.environ["HERE"])
    say(NativeLibraryConfig(path="libcrash-FINE.so").load().path)
    """
    library = build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")
    evil = tmp_path / "evil"
    evil.mkdir()
    shutil.copy(build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV"), evil / library.name)
    assert run(code, HERE=library.parent, LD_LIBRARY_PATH=evil) == str(library)


@pytest.mark.real_bundle
def test_a_run_path_with_an_empty_entry_does_not_lead_to_the_current_directory(binaries: Path, tmp_path: Path) -> None:
    """The real bundle says ``$ORIGIN:``, and the empty entry is the current directory; libstdc++ is not taken there."""
    code = f"""{LOAD}
    os.chdir(os.environ["HERE"])
    config.load()
    say(mapped())
    """
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "libstdc++.so.6").write_bytes(b"not a library")
    (planted / "libgcc_s.so.1").write_bytes(b"not a library")
    bundle = binaries / "node-llama-cpp-linux-x64/package/bins/linux-x64"
    files = run(code, LIBRARY=bundle, HERE=planted)
    assert any(file.endswith("libllama.v0.5.0.so") for file in files)
    assert not [file for file in files if file.startswith(str(planted))]


# -- what was configured and fails ------------------------------------------------------------------------------------


def test_a_search_directory_whose_library_fails_is_an_error(build: Callable[..., Path], tmp_path: Path) -> None:
    """What the user named and cannot load is no reason to take an installed package in silence."""
    code = """
    from nativeload import NativeLibraryConfig
    say(attempt(NativeLibraryConfig().with_search_directory(os.environ["LIBRARY"]).load))
    """
    crash = build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV")
    folder = tmp_path / "search"
    folder.mkdir()
    shutil.copy(crash, folder / "libllama.so")
    said = run(code, LIBRARY=folder)
    assert said["error"] == "LoadError"
    assert "SIGSEGV" in said["text"]


def test_a_file_that_vanishes_during_the_probe_is_a_load_error(build: Callable[..., Path], tmp_path: Path) -> None:
    """Not a traceback: it counts as a candidate that failed."""
    code = f"""{LOAD}
    said = attempt(config.load)
    say([said["error"], "No such file" in said["text"]])
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    python, _ = counting_python(tmp_path, f"(sleep 0.05; rm {bundle}/libllama.so) & sleep 0")
    script = (tmp_path / "counting-python").read_text().replace("exec ", "").replace('"$@"', '"$@"; sleep 0.3')
    (tmp_path / "counting-python").write_text(script.replace("(sleep 0.05;", "(sleep 0.25;"))
    assert run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python) == ["LoadError", True]


def test_a_python_that_never_starts_says_nothing_of_the_library(build: Callable[..., Path], tmp_path: Path) -> None:
    """A hang before any file was opened is not kept against the set."""
    code = f"""{LOAD}
    import nativeload.probe
    nativeload.probe.TIMEOUT = 0.5
    said = attempt(config.load)
    say(["did not start" in said["text"], "NATIVELOAD_PYTHON" in said["text"]])
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    assert run(code, LIBRARY=bundle, NATIVELOAD_PYTHON="/bin/sh -c 'sleep 30'") == [True, True]
    assert list((tmp_path / "cache").glob("probes/*")) == []


def test_a_group_writable_home_is_a_warning_on_the_first_run_too(build: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing is kept there, nothing is made there, and the library loads."""
    code = f"""{LOAD}
    import warnings
    del os.environ["NATIVELOAD_CACHE"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = attempt(config.load)
    say(["error" in said, [item.category.__name__ for item in caught], os.listdir(os.environ["HOME"])])
    """
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o775)
    bundle = stub_bundle(build, tmp_path / "bundle")
    assert run(code, LIBRARY=bundle, HOME=home) == [False, ["UnsafeCacheWarning"], []]
