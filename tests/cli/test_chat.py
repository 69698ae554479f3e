"""``nativeload chat``: lines in, answers out, and what can be typed beside."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAT = [sys.executable, "-m", "nativeload", "chat", "--threads", "1", "--temperature", "0", "--max-tokens", "12"]

# What is typed before the prompt is there is read by the terminal's own rules, by which Ctrl-D may be lost.
PROMPT = r"[^\n]*\n\S*> $"


def chat(*lines: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAT, *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_line_is_answered() -> None:
    """One answer a line on stdout; talk goes to stderr; an empty line is none."""
    done = chat("Hello", "", "And then?")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line]) >= 2
    assert "model: stories.gguf" in done.stderr


def test_a_conversation_is_saved_and_gone_on_with(tmp_path: Path) -> None:
    """/save writes JSON, /load reads it; what was said before counts."""
    path = tmp_path / "talk.json"
    done = chat("Hello", f"/save {path}", "More", arguments=("--system", "Be brief."))
    saved = json.loads(path.read_text("utf-8"))["messages"]
    assert [one["role"] for one in saved] == ["system", "user", "assistant"]
    again = chat(f"/load {path}", "More")
    assert "[3 messages]" in again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/help", "/save FILE"),
        ("/nonsense", "There is no /nonsense"),
        ("/save", "needs a FILE"),
        ("/save /no/such/place/x", "No such file"),
        ("/load /no/such/place/x", "No such file"),
        ("/load", "needs a FILE"),
    ],
)
def test_what_cannot_be_done_is_said(line: str, said: str) -> None:
    """And the conversation goes on."""
    done = chat(line, "Hello")
    assert done.returncode == 0
    assert said in done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("text", ["[]", '{"messages": 5}', '{"messages": [{"role": "user"}]}', "not json"])
def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path, text: str) -> None:
    """What was said before stays."""
    path = tmp_path / "talk.json"
    path.write_text(text, encoding="utf-8")
    done = chat(f"/load {path}")
    assert "not a saved conversation" in done.stderr
    assert done.returncode == 0


def test_quit_ends() -> None:
    """Nothing after it is read."""
    done = chat("/quit", "Hello")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_context_that_is_full_forgets_the_oldest_exchange() -> None:
    """And says so."""
    done = chat("The dog " * 30, "The cat " * 30, "The sun " * 30, "Lucy " * 30, arguments=("--ctx", "256"))
    assert done.returncode == 0, done.stderr
    assert "the oldest exchange is left out" in done.stderr


def test_one_line_that_never_fits_is_an_error_of_its_own() -> None:
    """With what to do about it."""
    done = chat("The dog " * 1000)
    assert done.returncode == 1
    assert "n_ctx=" in done.stderr


@pytest.fixture
def terminal() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A chat in a terminal, and the terminal."""
    master, slave = pty.openpty()
    command = [*CHAT[:-4], "--temperature", "1.5"]
    child = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_own_terminal,  # noqa: PLW1509 - Ctrl-C needs it
    )
    os.close(slave)
    yield child, master
    child.kill()
    child.wait()
    os.close(master)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(master: int, pattern: str, seconds: float = 60) -> str:
    """Return what the terminal shows until a regular expression is found."""
    shown, end = "", time.monotonic() + seconds
    while not re.search(pattern, shown):
        assert time.monotonic() < end, shown
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 4096).decode("utf-8", "replace")
    return shown


def press_ctrl_c(master: int, pattern: str) -> None:
    """Press Ctrl-C until it is answered: what is typed while readline sets the terminal up is lost."""
    shown, end = "", time.monotonic() + 60
    while not re.search(pattern, shown):
        assert time.monotonic() < end, shown
        os.write(master, b"\x03")
        while select.select([master], [], [], 1.0)[0]:
            shown += os.read(master, 4096).decode("utf-8", "replace")
            if re.search(pattern, shown):
                break


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: tuple[subprocess.Popen[bytes], int]) -> None:
    """At the prompt it drops the line; Ctrl-D ends."""
    child, master = terminal
    read_until(master, "> ")
    press_ctrl_c(master, r"Ctrl-D ends\)[\s\S]*> $")
    os.write(master, b"Tell me everything\n")
    read_until(master, "everything")
    time.sleep(0.05)
    press_ctrl_c(master, r"(stopped\]|Ctrl-D ends)[\s\S]*> $")
    os.write(master, b"/help\n")
    read_until(master, f"an answer{PROMPT}")
    os.write(master, b"\x04")
    assert child.wait(30) == 0


def test_in_a_terminal_a_line_that_is_too_long_ends_nothing(
    terminal: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    """The error is said, the line is forgotten, and the next one is answered."""
    child, master = terminal
    read_until(master, "> ")
    os.write(master, b"The dog " * 300 + b"\n")
    read_until(master, f"n_ctx={PROMPT}")
    os.write(master, b"Hello\n")
    read_until(master, PROMPT)
    os.write(master, f"/save {tmp_path}/talk.json\n".encode())
    read_until(master, f"2 messages are in{PROMPT}")
    assert json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"][0]["content"] == "Hello"
    os.write(master, b"\x04")
    assert child.wait(30) == 0
