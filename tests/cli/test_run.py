"""``nativeload run``: text on stdout, talk on stderr, and every way in which it can end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from nativeload_llama import bundled_model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

# One thread: where the machine is busy, llama.cpp's threads wait for each other.
RUN = [sys.executable, "-m", "nativeload", "run", "--threads", "1"]

# The same command, but each token takes a while, so that it can be interrupted in between.
SLOWLY = """
import sys, time
from nativeload_llama.stream import Stream
step = Stream.__next__
def slow(stream): time.sleep(0.05); return step(stream)
Stream.__next__ = slow
from nativeload.cli import main
sys.argv[0] = "nativeload"
main()
"""
SLOW = [sys.executable, "-c", SLOWLY, "run", "--threads", "1", "--temperature", "0"]


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], input=stdin, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def open_slowly() -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLOW, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_without_arguments_it_tells_a_story() -> None:
    """At least two sentences of English on stdout; what was chosen from where on stderr."""
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time")
    assert len(re.findall(r"[A-Z][^.!?]{8,}[.!?]", done.stdout)) >= 2
    assert done.stdout.endswith("\n")
    first, second, *more = done.stderr.splitlines()
    assert re.match(r"llama: .+ from installed xllamacpp [\d.]+ \(verified by RECORD\), on \w+", first)
    assert second.startswith("model: stories.gguf (llama")
    assert more == []


def test_the_prompt_may_come_from_stdin() -> None:
    """``-`` reads it, and the text is the same as with the prompt as an argument."""
    by_stdin = run("-", "--temperature", "0", stdin="The dog")
    assert by_stdin.stdout.startswith("The dog")
    assert by_stdin.stdout == run("The dog", "--temperature", "0").stdout


def test_no_echo_leaves_the_prompt_out() -> None:
    """The continuation alone, the same one."""
    echoed = run("The dog", "--temperature", "0").stdout
    assert "The dog" + run("The dog", "--temperature", "0", "--no-echo").stdout == echoed


def test_the_seed_gives_the_text_again() -> None:
    """The same seed twice; another one gives another text."""
    texts = [run("--seed", seed, "--temperature", "1").stdout for seed in ("7", "7", "8", "9")]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_max_tokens_is_a_limit() -> None:
    """Five tokens are the beginning of the whole text, and much shorter."""
    whole, start = run("--temperature", "0").stdout, run("--temperature", "0", "--max-tokens", "5").stdout
    assert whole.startswith(start.rstrip("\n"))
    assert len(start) < len("Once upon a time") + 5 * 12


def test_a_model_and_its_context() -> None:
    """--model and --ctx choose both; the text is the bundled model's."""
    named = run("The dog", "--model", bundled_model(), "--ctx", "256", "--temperature", "0")
    assert named.returncode == 0, named.stderr
    assert named.stdout == run("The dog", "--temperature", "0").stdout


def test_letters_beyond_ascii_are_printed_whole() -> None:
    """A prompt in any script comes back as it was, also where stdin and stdout are no terminal."""
    assert run("日本語 😀", "--max-tokens", "1").stdout.startswith("日本語 😀")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--model", "x.gguf"), "PROMPT"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--max-tokens", "many"), "--max-tokens"),
        (("--temperature", "-1"), "--temperature"),
        (("--seed", "-1"), "--seed"),
        (("--seed", str(2**32 - 1)), "--seed"),
        (("--threads", "0"), "--threads"),
        (("--ctx", "0"), "--ctx"),
        (("--cpu", "zen99"), "--cpu"),
        (("--backend", "cudda"), "--backend"),
        (("--sha256", "12"), "--sha256"),
        (("--no-such-option",), "--no-such-option"),
        (("one", "two"), "two"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_a_usage_error(arguments: tuple[str, ...], named: str) -> None:
    """Exit status 2, the argument named on stderr, nothing on stdout."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--model", "missing.gguf"), "missing.gguf"),
        (("x", "--model", "."), "directory"),
        (("x " * 2000,), "n_ctx="),
        (("x", "--ctx", "99999999999"), "n_ctx"),
        (("x", "--temperature", "nan"), "temperature"),
        (("x", "--temperature", "inf"), "temperature"),
        (("x", "--path", "missing.so"), "missing.so"),
    ],
    ids=["no model", "a directory", "prompt too long", "context too large", "nan", "inf", "no library"],
)
def test_what_fails_ends_in_its_own_words(arguments: tuple[str, ...], said: str) -> None:
    """An error of ours is its text and exit status 1 or 2, never a traceback."""
    done = run(*arguments)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end differently on Windows")
def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    """``| head -c 20``: no traceback, no complaint about a pipe, no error status."""
    child = open_slowly()
    assert child.stdout
    assert child.stderr
    assert child.stdout.read(20).startswith(b"Once upon a time")
    child.stdout.close()
    said = child.stderr.read().decode()
    assert child.wait(60) == 0
    assert not re.search("Traceback|BrokenPipe|Exception", said)
    child.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/full on Windows")
def test_a_full_disk_is_said() -> None:
    """What cannot be written is an error, not a success."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*RUN], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "No space left" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_it_writes() -> None:
    """Exit status 130, what was written stays, no traceback."""
    child = open_slowly()
    assert child.stdout
    first = child.stdout.read(24)
    child.send_signal(signal.SIGINT)
    rest, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert b"Traceback" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_it_waits_for_stdin(tmp_path: Path) -> None:
    """The same where the prompt was not there yet."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Waiting:\n    def read(self): print('waiting', flush=True); return sys.__stdin__.read()\n"
        "sys.stdin = Waiting()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    pipe = subprocess.PIPE
    child = subprocess.Popen([*RUN, "-"], env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
    assert child.stdout
    assert child.stdout.readline() == b"waiting\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"Traceback" not in said
