"""What happens at first contact with a set, in a child process?

One rule: a library that crashes, exits, hangs or prints does it there; the verdict is kept, and nothing the child says
is believed without the nonce it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

from nativeload.opening import Device
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nativeload.cache import LibraryCache
    from nativeload.host import Host
    from nativeload.resolve.resolution import LibrarySet

TIMEOUT = 20.0  # seconds
_SCHEMA = 1
_STDERR_TAIL = 4096  # bytes
_NO_FACTS: dict[str, Any] = {}
_BOOT = "import sys; sys.path[:0] = sys.argv[1:]; from nativeload.probe_child import main; main()"


class Check(Value):
    """What a binding wants to know of a library.

    Attributes:
        function: ``module:name`` of a function that takes the opened handles in the child and returns facts as JSON.
        judge: takes the facts in this process; raises LookupError, with the reason, for a library it cannot drive.
    """

    function: str
    judge: Callable[[Mapping[str, Any]], object]


class Verdict(Value, kw_only=True):
    """What the probe saw.

    Attributes:
        status: ``ok``, ``error``, ``missing library``, ``signal``, ``exit``, ``timeout`` or ``inconclusive``.
        reason: in words.
        step: the file that was being opened, or ``check``.
        stderr: the last of what the child printed.
        devices: the devices registered in the child.
        facts: what the check returned.
        cached: the file the verdict was read from; None for a fresh one.
    """

    status: str
    reason: str = ""
    step: str = ""
    stderr: str = ""
    devices: tuple[Device, ...] = ()
    facts: Mapping[str, Any] = _NO_FACTS
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether the set opened and the check answered."""
        return self.status == "ok"


def probe(chosen: LibrarySet, host: Host, cache: LibraryCache, *, check: Check | None, python: str | None) -> Verdict:
    """Return the verdict on a hashed set: the kept one, or a fresh one from a child process.

    Args:
        chosen: a set whose files carry their sha256.
        host: the machine, as it was detected once.
        cache: where verdicts are kept.
        check: what the binding wants to know.
        python: the command that starts Python, split like a shell line (default: this Python).
    """
    name = check.function if check else ""
    text = json.dumps([_SCHEMA, chosen.set_id, [file.name for file in chosen.files], host.fingerprint, name])
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    kept = cache.read("probes", key)
    if kept is not None and (verdict := _from_dict(kept)) is not None:
        return verdict
    verdict = _run(chosen, name, python)
    if _lasting(verdict):
        cache.write("probes", key, _to_dict(verdict, chosen))
    return verdict


def _lasting(verdict: Verdict) -> bool:
    """Whether the same set does the same next time: a missing library may come, and SIGKILL came from outside."""
    return verdict.status in {"ok", "signal", "exit", "timeout"} and "SIGKILL" not in verdict.reason


def _to_dict(verdict: Verdict, chosen: LibrarySet) -> dict[str, Any]:
    return {
        "set": str(chosen),
        "status": verdict.status,
        "reason": verdict.reason,
        "step": os.path.basename(verdict.step),
        "stderr": verdict.stderr,
        "devices": [device.to_dict() for device in verdict.devices],
        "facts": dict(verdict.facts),
    }


def _from_dict(note: Mapping[str, Any]) -> Verdict | None:
    try:
        return Verdict(
            status=note["status"],
            reason=note["reason"],
            step=note["step"],
            stderr=note["stderr"],
            devices=tuple(Device(**item) for item in note["devices"]),
            facts=dict(note["facts"]),
            cached=True,
        )
    except (KeyError, TypeError, ValueError):  # written by another release, or damaged: the probe runs again
        return None


def _command(python: str | None) -> list[str] | None:
    """Return how to start Python, or None where none can be started (a frozen program is no Python)."""
    if python:
        import shlex

        return shlex.split(python)
    return [sys.executable] if sys.executable and not getattr(sys, "frozen", False) else None


def _roots(function: str) -> list[str]:
    """Return the directories that the child needs on its path: ours, and that of the check's package."""
    from importlib.util import find_spec

    roots = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    package = function.partition(":")[0].partition(".")[0]
    spec = find_spec(package) if package else None
    if spec and spec.submodule_search_locations:
        roots.append(os.path.dirname(os.path.abspath(next(iter(spec.submodule_search_locations)))))
    elif spec and spec.origin:
        roots.append(os.path.dirname(os.path.abspath(spec.origin)))
    return list(dict.fromkeys(roots))


def _run(chosen: LibrarySet, function: str, python: str | None) -> Verdict:
    import subprocess

    command = _command(python)
    if command is None:
        return Verdict(status="inconclusive", reason="no Python can be started here to probe it")
    nonce = os.urandom(16).hex()
    files = [{"path": file.path, "role": str(file.role), "label": file.label} for file in chosen.files]
    request = json.dumps({"nonce": nonce, "files": files, "check": function}).encode()
    try:
        child = subprocess.Popen(
            [*command, "-I", "-S", "-c", _BOOT, *_roots(function)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else ggml starts gdb on abort
            start_new_session=True,
        )
    except OSError as error:
        reason = f"{command[0]} cannot be started to probe it: {error.strerror}"
        return Verdict(status="inconclusive", reason=reason)
    timed_out, answers, stderr = _talk(child, request)
    return _verdict(nonce, answers, stderr, child.returncode, timed_out=timed_out)


def _talk(child: Any, request: bytes) -> tuple[bool, bytes, bytes]:
    """Send the request and collect the answers; a child that does not end in time is killed with its children."""
    import contextlib
    import subprocess
    import threading

    tails: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    limits = {"stdout": 1 << 20, "stderr": _STDERR_TAIL}

    def drain(name: str) -> None:
        stream = getattr(child, name)
        while chunk := stream.read1(65536):
            tails[name] = (tails[name] + chunk)[-limits[name] :]

    readers = [threading.Thread(target=drain, args=(name,), daemon=True) for name in tails]
    for reader in readers:
        reader.start()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(request)
        child.stdin.close()
    try:
        child.wait(TIMEOUT)
        timed_out = False
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:  # Ctrl-C ends up here too: a child never outlives the call
        if child.poll() is None:
            _kill(child)
    for reader in readers:
        reader.join(1.0)  # a grandchild that keeps the pipe open is not waited for
    child.stdout.close()
    child.stderr.close()
    return timed_out, tails["stdout"], tails["stderr"]


def _kill(child: Any) -> None:
    """Kill the child and whatever it started: it leads a session of its own."""
    import signal

    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()


def _verdict(nonce: str, answers: bytes, stderr: bytes, code: int, *, timed_out: bool) -> Verdict:
    """Read the child's end and its answers into a verdict."""
    said: dict[str, Any] = {}
    for line in answers.decode("utf-8", "replace").splitlines():
        if line.startswith(f"{nonce} "):
            said.update(json.loads(line.removeprefix(f"{nonce} ")))
    step = str(said.get("step", ""))
    tail = stderr.decode("utf-8", "replace").strip()
    where = (
        f" while opening {os.path.basename(step)}"
        if step not in ("", "check")
        else " in the layout check"
        if step
        else ""
    )
    if "done" in said and not timed_out:
        found = tuple(Device(**item) for item in said["done"]["devices"])
        return Verdict(status="ok", stderr=tail, devices=found, facts=said["done"]["facts"])
    if "error" in said and not timed_out:
        reason = str(said["error"]["reason"])
        missing = "cannot open shared object file" in reason or "image not found" in reason
        return Verdict(
            status="missing library" if missing else "error",
            reason=f"{reason}{where}",
            step=step,
            stderr=tail,
        )
    if timed_out:
        reason = f"hang: no answer in {TIMEOUT:g} s{where}"
        return Verdict(status="timeout", reason=reason, step=step, stderr=tail)
    if code < 0:
        return Verdict(status="signal", reason=f"{_signal_name(-code)}{where}", step=step, stderr=tail)
    if not step:
        reason = f"the probe's Python ended with {code} before it began: {tail.rpartition(chr(10))[2]}"
        return Verdict(status="inconclusive", reason=reason, stderr=tail)
    return Verdict(status="exit", reason=f"exit({code}){where}", step=step, stderr=tail)


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
