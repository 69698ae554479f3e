"""How is a child process asked, heard and ended?

One rule: it never outlives the call, its pipes never hold the call up, and of what it prints only the last is kept.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time

from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STDOUT_TAIL, _STDERR_TAIL = 1 << 20, 4096  # bytes


class Ended(Value, kw_only=True):
    """How a child ended: its exit status (negative: the signal; None: its time was up) and the last of its output."""

    code: int | None
    stdout: bytes
    stderr: bytes


def ask(command: Sequence[str], request: bytes, environ: Mapping[str, str], *, seconds: float) -> Ended:
    """Start a child, send it a request of a few KiB on stdin, and hear it until it ends or its time is up.

    Raises:
        OSError: it cannot be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environ,
        start_new_session=True,
    )
    out = err = b""
    try:
        if os.name == "nt":  # no select() on pipes there
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = child.communicate(request, timeout=seconds)
        else:
            with contextlib.suppress(BrokenPipeError):
                os.write(_pipe(child.stdin), request)
            out, err = _hear(child, time.monotonic() + seconds)
        code = child.poll()
    finally:  # Ctrl-C ends up here too
        _kill(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()
    return Ended(code=code, stdout=out, stderr=err)


def _pipe(stream: object) -> int:
    number: int = stream.fileno()  # type: ignore[attr-defined]
    return number


def _hear(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Read both pipes until the child has ended or its time is up.

    The pipes may stay open after the child's end: a process that it started may hold them. Nobody waits for that one.
    """
    if child.stdin is not None:
        child.stdin.close()
    limits = {_pipe(child.stdout): _STDOUT_TAIL, _pipe(child.stderr): _STDERR_TAIL}
    tails = dict.fromkeys(limits, b"")
    with selectors.DefaultSelector() as selector:
        for number in limits:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < deadline:
            ended = child.poll() is not None
            ready = selector.select(0 if ended else 0.02)
            if ended and not ready:
                break
            for event, _ in ready:
                if chunk := os.read(event.fd, 65536):
                    tails[event.fd] = (tails[event.fd] + chunk)[-limits[event.fd] :]
                else:
                    selector.unregister(event.fd)
    while child.poll() is None and time.monotonic() < deadline:  # it closed its pipes and runs on
        time.sleep(0.005)
    out, err = tails.values()
    return out, err


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child, if it still runs, and whatever it started: it leads a session of its own."""
    if os.name == "nt":
        child.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone, or all ended and not yet reaped
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
