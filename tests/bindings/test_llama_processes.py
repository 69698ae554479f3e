"""Threads, forks, logs and exits: what only a process of its own can show."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

PROMPTS = ("Once upon a time", "The dog", "One cold day", "Lucy had a red ball")
OPEN = "from nativeload_llama import Llama, bundled_model\nllama = Llama(bundled_model(), n_threads=1)\n"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


# -- threads -------------------------------------------------------------------------------------------------------


def test_threads_wait_for_each_other(llama: Llama) -> None:
    """Four threads complete at once with one Llama, and each gets its own right text."""
    expected = [llama.complete(prompt, temperature=0, max_tokens=48) for prompt in PROMPTS]
    gate = threading.Barrier(len(PROMPTS))

    def complete(prompt: str) -> list[str]:
        gate.wait()
        return [llama.complete(prompt, temperature=0, max_tokens=48) for _ in range(4)]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        for texts, right in zip(pool.map(complete, PROMPTS), expected, strict=True):
            assert texts == [right] * 4


def test_threads_tokenize_at_once(llama: Llama) -> None:
    """The tokenizer is safe to share while a generation runs."""
    expected = [llama.tokenize(prompt * 50) for prompt in PROMPTS]
    running = llama.generate([1], temperature=0)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        found = pool.map(lambda prompt: [llama.tokenize(prompt * 50) for _ in range(20)], PROMPTS)
        assert sum(1 for _ in running) > 0
        for tokens, right in zip(found, expected, strict=True):
            assert tokens == [right] * 20


def test_close_from_another_thread_ends_a_generation() -> None:
    """A generation that runs while another thread closes ends in ClosedError, at whatever point it was."""
    for delay in (0.0, 0.001, 0.005, 0.02):
        llama = Llama(bundled_model(), n_threads=1)
        started, ended = threading.Event(), list[str]()

        def go_on(llama: Llama = llama, started: threading.Event = started, ended: list[str] = ended) -> None:
            try:
                while True:
                    started.set()
                    llama.complete(PROMPTS[0])
            except ClosedError as error:
                ended.append(str(error))

        thread = threading.Thread(target=go_on)
        thread.start()
        started.wait()
        threading.Event().wait(delay)
        llama.close()
        thread.join(30)
        assert not thread.is_alive()
        assert ended == ["this Llama is closed"]


def test_a_generator_may_move_between_threads(llama: Llama) -> None:
    """Servers step one generator from several threads: it stays whole, and lets go at its end."""
    expected = list(llama.generate([1], temperature=0, max_tokens=12))
    running = llama.generate([1], temperature=0, max_tokens=12)
    found = []
    for _ in expected:
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(next, running).result())
    assert found == expected
    assert list(running) == []
    assert list(llama.generate([1], temperature=0, max_tokens=12)) == expected


# -- forks ---------------------------------------------------------------------------------------------------------

FORK = (
    OPEN
    + """
import os, signal
running = llama.generate([1], temperature=0)
next(running)
child = os.fork()
if child == 0:
    signal.alarm(20)
    uses = {
        "tokenize": lambda: llama.tokenize("x"),
        "detokenize": lambda: llama.detokenize([1]),
        "generate": lambda: list(llama.generate([1])),
        "complete": lambda: llama.complete("x"),
        "a suspended generator": lambda: next(running),
        "n_ctx": lambda: llama.n_ctx,
        "another Llama": lambda: Llama(bundled_model(), n_threads=1),
    }
    for name, use in uses.items():
        try:
            use()
            print(name, "was allowed", flush=True)
        except Exception as error:
            print(name, type(error).__name__, flush=True)
    if HOW == "closes":
        llama.close()
    raise SystemExit(0)
_, status = os.waitpid(child, 0)
print("child", status)
print("parent", len(list(running)) > 0)
"""
)


@needs_fork
@pytest.mark.parametrize("how", ["leaves", "closes"])
def test_a_forked_child_is_refused(run_python: RunPython, how: str) -> None:
    """Every use in the child is a ForkError, its exit is clean, and the parent goes on."""
    done = run_python(f"HOW = {how!r}\n{FORK}")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if not line.endswith("ForkError")] == ["child 0", "parent True"]
    assert len(lines) == 9
    assert done.stderr == ""


@needs_fork
def test_a_fork_while_another_thread_is_in_c_is_refused_at_once(run_python: RunPython) -> None:
    """A lock that another thread of the parent held at the fork never hangs the child: it is refused, or may close."""
    code = OPEN + (
        "import os, signal, threading, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "def busy():\n"
        "    while True: llama.tokenize('x' * 100000)\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
        "for number in range(20):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.alarm(1)\n"
        "        try: llama.tokenize('x') if number % 2 else llama.generate([1])\n"
        "        except Exception as error: word = type(error).__name__\n"
        "        llama.close()\n"
        "        os._exit(0 if word == 'ForkError' else 1)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    print(status, flush=True)\n"
        "os._exit(0)\n"
    )
    done = run_python(code, seconds=180)
    assert done.stdout.split() == ["0"] * 20, done.stderr


# -- exits ---------------------------------------------------------------------------------------------------------

EXITS = {
    "open": "",
    "suspended": "running = llama.generate([1])\nnext(running)\n",
    "suspended stream": "running = llama.stream('Once')\nnext(running)\n",
    "several": "more = [Llama(bundled_model(), n_threads=1) for _ in range(3)]\n",
    "in a cycle": "llama.me = llama\nrunning = llama.generate([1])\nnext(running)\nllama.running = running\n",
    "closed": "llama.close()\n",
    "in a daemon thread": (
        "import threading, time\n"
        "def busy():\n"
        "    while True: llama.complete('Once')\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
        "time.sleep(0.1)\n"
    ),
}


@pytest.mark.parametrize("ending", EXITS.values(), ids=EXITS.keys())
def test_python_ends_cleanly(run_python: RunPython, ending: str) -> None:
    """Whatever is still open when Python ends, the exit status is 0 and nothing is printed."""
    done = run_python(OPEN + ending)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_python_ends_cleanly_within_a_long_decode(run_python: RunPython) -> None:
    """A daemon thread inside C is waited for: libc must not run the library's destructors under it."""
    code = OPEN + (
        "import random, threading, time\n"
        "prompt = llama.tokenize('Once upon a time ' * 200)[:480]\n"
        "def busy():\n"
        "    while True:\n"
        "        for _ in llama.generate(prompt, max_tokens=2): pass\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
        "time.sleep(random.uniform(0.02, 0.1))\n"
    )
    for _ in range(12):
        done = run_python(code)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name != "posix", reason="signals by timer")
@pytest.mark.parametrize("handler", ["llama.close()", "(_ for _ in ()).throw(KeyboardInterrupt)"])
def test_a_signal_at_any_moment_leaves_nothing_taken(run_python: RunPython, handler: str) -> None:
    """Ctrl-C, or close() in a handler, between any two steps: the next call works, or says closed; nothing hangs."""
    code = OPEN + (
        "import faulthandler, random, signal, time\n"
        "from nativeload_llama import ClosedError\n"
        "faulthandler.dump_traceback_later(60, exit=True)\n"
        f"signal.signal(signal.SIGALRM, lambda *_: {handler})\n"
        "ids, until, rounds = llama.tokenize('a'), time.monotonic() + 4, 0\n"
        "while time.monotonic() < until:\n"
        "    rounds += 1\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.004))\n"
        "        while True:\n"
        "            for _ in llama.generate(ids, temperature=0, max_tokens=1): pass\n"
        "    except (KeyboardInterrupt, ClosedError):\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    llama.close() if rounds % 3 == 0 else None\n"
        "    try: list(llama.generate(ids, max_tokens=1))\n"
        "    except ClosedError: llama = Llama(bundled_model(), n_threads=1)\n"
        "print(rounds > 10)\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_opening_and_closing_leaks_nothing(run_python: RunPython) -> None:
    """60 cycles of open, generate, close leave the process no bigger than one model would."""
    code = (
        "import json, resource\n"
        "from nativeload_llama import Llama, bundled_model\n"
        "def size(): return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "sizes = []\n"
        "for number in range(80):\n"
        "    llama = Llama(bundled_model(), n_threads=1)\n"
        "    llama.complete('Once', max_tokens=4)\n"
        "    if number % 2: llama.close()\n"
        "    else: del llama\n"
        "    if number >= 19: sizes.append(size())\n"
        "print(json.dumps([min(sizes[:5]), max(sizes[-5:])]))\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert after - before < 8 * 2**20


# -- logs ----------------------------------------------------------------------------------------------------------


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Loading, generating, failing and closing write nothing to the streams of the process."""
    with Llama(bundled_model(), n_threads=1) as llama:
        llama.complete("Once", max_tokens=8)
    with pytest.raises(Exception, match="No such file"):
        Llama("missing.gguf")
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_by_a_program_without_logging(run_python: RunPython) -> None:
    """The same in a process of its own, also for llama.cpp's errors."""
    code = OPEN + (
        "import pathlib, sys\n"
        "pathlib.Path('bad.gguf').write_bytes(b'GGUF' + bytes(100))\n"
        "try: Llama('bad.gguf')\n"
        "except Exception as error: assert 'bad.gguf' in str(error)\n"
        "llama.complete('Once', max_tokens=4)\n"
        "assert 'logging' not in sys.modules\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_native_lines_go_to_logging(run_python: RunPython) -> None:
    """A program that uses logging gets llama.cpp's lines as records of ``nativeload.llama``, with their levels."""
    code = (
        "import json, logging, pathlib\n"
        "records = []\n"
        "class Keep(logging.Handler):\n"
        "    def emit(self, record): records.append((record.name, record.levelno, record.getMessage()))\n"
        "logging.getLogger('nativeload.llama').addHandler(Keep())\n"
        "logging.getLogger('nativeload.llama').setLevel(logging.DEBUG)\n"
        + OPEN
        + "model = pathlib.Path(bundled_model()).read_bytes().replace(b'llama', b'xlama')\n"
        + "pathlib.Path('bad.gguf').write_bytes(model)\n"
        "try: Llama('bad.gguf')\n"
        "except Exception: pass\n"
        "print(json.dumps(records))\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert len(records) > 10
    assert {name for name, _, _ in records} == {"nativeload.llama"}
    assert {level for _, level, _ in records} >= {logging.INFO, logging.ERROR}
    assert not any("\n" in line for _, _, line in records)
    assert any("xlama" in line for _, level, line in records if level == logging.ERROR)


CALLBACK = """
import logging, sys
from nativeload import NativeLibraryConfig
from nativeload_llama import Llama, bundled_model
lines = []
def take(level, line):
    lines.append((level, line))
    if RAISES: raise RuntimeError("from the callback")
llama = Llama(bundled_model(), n_threads=1, config=NativeLibraryConfig().with_log_callback(take))
assert llama.complete("Once", max_tokens=4)
assert len(lines) > 10 and all(type(level) is int and type(line) is str for level, line in lines)
print("good")
"""


def test_a_log_callback_receives_the_lines(run_python: RunPython) -> None:
    """Where the config has a callback, lines go there with logging's level numbers, and nowhere else."""
    done = run_python("RAISES = False\n" + CALLBACK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


def test_a_log_callback_that_raises_harms_nothing(run_python: RunPython) -> None:
    """An exception of the user's callback cannot pass through C: the work goes on."""
    done = run_python("RAISES = True\n" + CALLBACK)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
