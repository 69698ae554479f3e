"""One process holds one library: the next candidate is tried where one fails, and what is loaded stays the same."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import (
    STUB_LINUX,
    WHY_NOT,
    count,
    counting_python,
    cpu_module,
    run,
    stub_bundle,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

LOAD = """
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
"""
SAY_LOAD = f"{LOAD}\n    say(attempt(config.load))\n"


# -- once per process -----------------------------------------------------------------------------------------------


def test_the_same_or_an_equal_config_gives_the_same_object(build: Callable[..., Path], tmp_path: Path) -> None:
    """Loading again, by this config, an equal one, or another that comes to the same set, opens nothing."""
    code = f"""{LOAD}
    first = config.load()
    equal = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
    say([config.load() is first, equal.load() is first, equal.with_avx("avx512").load() is first,
         len(first.devices), config.library_has_loaded])
    """
    python, started = counting_python(tmp_path)
    bundle = stub_bundle(build, tmp_path / "bundle")
    assert run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python) == [True, True, True, 1, True]
    assert count(started) == 1


def test_another_library_is_refused_by_naming_both(build: Callable[..., Path], tmp_path: Path) -> None:
    """One process holds one build: the error names the one asked for and the one that is loaded."""
    code = f"""{LOAD}
    first = config.load()
    other = config.with_library(os.environ["OTHER"])
    say([attempt(other.load), config.load() is first])
    """
    one, two = stub_bundle(build, tmp_path / "one"), stub_bundle(build, tmp_path / "two")
    error, same = run(code, LIBRARY=one, OTHER=two)
    assert error["error"] == "AlreadyLoadedError"
    assert str(one / "libllama.so") in error["text"]
    assert str(two / "libllama.so") in error["text"]
    assert "another process" in error["text"]
    assert error["loaded"] == str(one / "libllama.so")
    assert same is True


def test_a_failed_load_leaves_the_next_one_free(build: Callable[..., Path], tmp_path: Path) -> None:
    """After a library that cannot be loaded, another config loads in the same process."""
    code = f"""{LOAD}
    bad = NativeLibraryConfig().with_library(os.environ["BAD"])
    say([attempt(bad.load), bad.library_has_loaded, attempt(config.load), attempt(bad.load)])
    """
    bad = build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV")
    first, has_loaded, good, again = run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"), BAD=bad)
    assert (first["error"], has_loaded) == ("LoadError", False)
    assert good["cpu"] == "x64"
    assert again["error"] == "AlreadyLoadedError"


def test_eight_threads_get_one_object_from_one_probe(build: Callable[..., Path], tmp_path: Path) -> None:
    """Threads that load at once wait for the first of them."""
    code = f"""{LOAD}
    import threading
    gate, results = threading.Barrier(8), []
    def one():
        gate.wait()
        results.append(config.load())
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say([len(results), len({{id(result) for result in results}}), len(results[0].devices)])
    """
    python, started = counting_python(tmp_path)
    assert run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"), NATIVELOAD_PYTHON=python) == [8, 1, 1]
    assert count(started) == 1


def test_a_binding_may_check_what_was_loaded_without_it(build: Callable[..., Path], tmp_path: Path) -> None:
    """A check after a load without one probes once more, adds its facts, and leaves the object the same."""
    code = f"""{LOAD}
    from nativeload.loading import load
    from nativeload.probe import Check
    first = config.load()
    bare = dict(first.facts)
    check = Check("tests.scenarios:inspect", lambda facts: str(facts["handles"]), "1")
    second, third = load(config, check), load(config, check)
    say([bare, second is first, third is first, dict(first.facts), config.load() is first])
    """
    python, started = counting_python(tmp_path)
    said = run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"), NATIVELOAD_PYTHON=python)
    assert said == [{}, True, True, {"handles": 3}, True]
    assert count(started) == 2


def test_a_check_that_refuses_what_is_loaded_leaves_it_loaded(build: Callable[..., Path], tmp_path: Path) -> None:
    """A binding that cannot drive the loaded library raises, and who uses it without the binding is not disturbed."""
    code = f"""{LOAD}
    from nativeload.loading import load
    from nativeload.probe import Check
    def judge(facts):
        raise LookupError("no binding for this one")
    first = config.load()
    check = Check("tests.scenarios:inspect", judge, "1")
    say([attempt(lambda: load(config, check)), config.load() is first, first.facts])
    """
    error, same, facts = run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"))
    assert error["error"] == "UnknownLayoutError"
    assert "no binding for this one" in error["text"]
    assert (same, facts) == (True, {})


# -- fork -----------------------------------------------------------------------------------------------------------

FORK = """
    def in_child(action):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            import signal
            signal.alarm(30)
            os.write(write, json.dumps(attempt(action)).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        return json.loads(text) if text else {"error": "hung", "status": os.waitpid(pid, 0)[1]}
"""


def test_a_library_loaded_before_a_fork_is_not_used_in_the_child(build: Callable[..., Path], tmp_path: Path) -> None:
    """The child is told of spawn; the parent goes on."""
    code = f"""{LOAD}{FORK}
    first = config.load()
    say([in_child(config.load), in_child(lambda: first.check_process()), config.load() is first])
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    loading, checking, same = run(code, LIBRARY=bundle)
    for error in (loading, checking):
        assert error["error"] == "ForkError"
        assert "spawn" in error["text"]
    assert same is True


def test_a_fork_before_the_load_is_free(build: Callable[..., Path], tmp_path: Path) -> None:
    """Parent and child each load for themselves when nothing was loaded before."""
    code = f"{LOAD}{FORK}\n    say([in_child(config.load), attempt(config.load)])\n"
    child, parent = run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"))
    assert (child["cpu"], parent["cpu"]) == ("x64", "x64")


def test_a_fork_while_another_thread_loads_does_not_deadlock(build: Callable[..., Path], tmp_path: Path) -> None:
    """The child has a lock of its own: the thread that held the parent's is not there to give it back."""
    code = f"""{LOAD}{FORK}
    import threading, time
    thread = threading.Thread(target=config.load)
    thread.start()
    while not Path(os.environ["STARTED"]).read_text():
        time.sleep(0.01)
    child = in_child(config.load)
    thread.join()
    say([child, attempt(config.load)])
    """
    python, started = counting_python(tmp_path, "sleep 1")
    bundle = stub_bundle(build, tmp_path / "bundle")
    child, parent = run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python, STARTED=started)
    assert (child.get("cpu"), parent["cpu"]) == ("x64", "x64"), child


# -- one name, two files --------------------------------------------------------------------------------------------


def test_a_second_ggml_under_one_name_is_refused_by_naming_both(build: Callable[..., Path], tmp_path: Path) -> None:
    """The system loader would give our libllama the other one's ggml: nothing is opened, and both files are named."""
    code = f"""{LOAD}
    import ctypes
    ctypes.CDLL(os.environ["OTHER"])
    say([attempt(config.load), mapped()])
    """
    mine, other = stub_bundle(build, tmp_path / "mine"), stub_bundle(build, tmp_path / "other")
    error, mapped = run(code, LIBRARY=mine, OTHER=other / "libggml-base.so")
    assert error["error"] == "LoadError"
    assert str(mine / "libggml-base.so") in error["text"]
    assert str(other / "libggml-base.so") in error["text"]
    assert not [path for path in mapped if path.startswith(str(mine))]


def test_the_same_file_opened_before_is_no_clash(build: Callable[..., Path], tmp_path: Path) -> None:
    """A program may have opened the very files that are asked for, also by a link to their directory."""
    code = f"""{LOAD}
    import ctypes
    ctypes.CDLL(os.environ["OTHER"])
    say(attempt(config.load))
    """
    mine = stub_bundle(build, tmp_path / "mine")
    (tmp_path / "link").symlink_to(mine)
    assert run(code, LIBRARY=tmp_path / "link", OTHER=mine / "libggml-base.so")["cpu"] == "x64"


# -- which candidate ------------------------------------------------------------------------------------------------


def test_a_cpu_backend_that_crashes_gives_way_to_the_next_one(build: Callable[..., Path], tmp_path: Path) -> None:
    """The best CPU backend dies in the probe: the next one serves, the trace says why, nobody probes it again."""
    crash = build("crash.c", "libcrash-ILL.so", "-DHOW=ILL")
    modules = {"libggml-cpu-sse42.so": crash, "libggml-cpu-x64.so": cpu_module(build)}
    bundle = stub_bundle(build, tmp_path / "bundle", modules)
    python, started = counting_python(tmp_path)
    for _ in range(2):
        said = run(SAY_LOAD, LIBRARY=bundle, NATIVELOAD_PYTHON=python)
        assert (said["cpu"], len(said["devices"])) == ("x64", 1)
        reasons = [item["reason"] for item in said["decisions"] if "sse42" in item["candidate"]]
        assert any("SIGILL while opening libggml-cpu-sse42.so" in reason for reason in reasons)
        assert count(started) == 2
        assert not [path for path in said["mapped"] if "sse42" in path]


def test_the_trace_does_not_call_a_crashed_backend_the_better_one(build: Callable[..., Path], tmp_path: Path) -> None:
    """The backend that serves is not also said to be passed over for the one that crashed."""
    crash = build("crash.c", "libcrash-ILL.so", "-DHOW=ILL")
    modules = {"libggml-cpu-sse42.so": crash, "libggml-cpu-x64.so": cpu_module(build)}
    said = run(SAY_LOAD, LIBRARY=stub_bundle(build, tmp_path / "bundle", modules))
    rejected = [item for item in said["decisions"] if item["accepted"] is False and "x64" in item["candidate"]]
    assert rejected == []


def test_without_fallback_only_the_first_set_is_tried(build: Callable[..., Path], tmp_path: Path) -> None:
    """with_auto_fallback(False) makes the first candidate final."""
    crash = build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV")
    modules = {"libggml-cpu-sse42.so": crash, "libggml-cpu-x64.so": cpu_module(build)}
    bundle = stub_bundle(build, tmp_path / "bundle", modules)
    python, started = counting_python(tmp_path)
    code = f"{LOAD}\n    say(attempt(config.with_auto_fallback(False).load))\n"
    error = run(code, LIBRARY=bundle, NATIVELOAD_PYTHON=python)
    assert error["error"] == "LoadError"
    assert "SIGSEGV" in error["text"]
    assert count(started) == 1


def test_a_core_that_crashes_is_probed_once_for_all_its_sets(build: Callable[..., Path], tmp_path: Path) -> None:
    """A broken libggml-base is not tried again with the next CPU backend."""
    modules = {f"libggml-cpu-{name}.so": cpu_module(build) for name in ("sse42", "x64")}
    bundle = stub_bundle(build, tmp_path / "bundle", modules)
    shutil.copy(build("crash.c", "libcrash-EXIT.so", "-DHOW=EXIT"), bundle / "libggml-base.so")
    python, started = counting_python(tmp_path)
    error = run(SAY_LOAD, LIBRARY=bundle, NATIVELOAD_PYTHON=python)
    assert error["error"] == "LoadError"
    assert "exit(0) while opening libggml-base.so" in error["text"]
    assert count(started) == 1


def test_a_cpu_backend_that_refuses_this_cpu_gives_way(build: Callable[..., Path], tmp_path: Path) -> None:
    """A score of 0 is ggml's own refusal; the reason says so."""
    modules = {"libggml-cpu-sse42.so": cpu_module(build, score=0), "libggml-cpu-x64.so": cpu_module(build)}
    said = run(SAY_LOAD, LIBRARY=stub_bundle(build, tmp_path / "bundle", modules))
    assert said["cpu"] == "x64"
    assert "its own check says this CPU cannot run it" in json_text(said["decisions"])


def json_text(decisions: list[dict[str, str]]) -> str:
    """Return the reasons of a trace as one text."""
    return "\n".join(item["reason"] for item in decisions)


# -- the probe cannot run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/false"])
def test_what_cannot_be_probed_is_refused(build: Callable[..., Path], tmp_path: Path, python: str) -> None:
    """A set that nobody pinned is not opened unprobed; the hint says how to start Python."""
    bundle = stub_bundle(build, tmp_path / "bundle")
    code = f"{LOAD}\n    say([attempt(config.with_python(os.environ['WITH']).load), mapped()])\n"
    error, mapped = run(code, LIBRARY=bundle, WITH=python)
    assert error["error"] == "LoadError"
    assert "NATIVELOAD_PYTHON" in error["text"]
    assert "with_python()" in error["text"]
    assert not [path for path in mapped if path.startswith(str(bundle))]


def test_nothing_is_printed_by_a_load(build: Callable[..., Path], tmp_path: Path) -> None:
    """What the library says while it is opened and registered goes nowhere near the program's output."""
    ended = watch(SAY_LOAD, LIBRARY=stub_bundle(build, tmp_path / "bundle"))
    assert len(ended.value["devices"]) == 1
    assert (ended.stdout, ended.stderr) == ("", "")
