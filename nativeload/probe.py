"""What happens at first contact with a set, in a child process?

One rule: a library that crashes, exits, hangs or prints does it there; the verdict is kept, and nothing the child says
is believed without the nonce it was given.
"""

from __future__ import annotations

import hashlib
import os
import sys

from nativeload import __version__
from nativeload.opening import Device
from nativeload.settings import command_words
from nativeload.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nativeload.cache import LibraryCache
    from nativeload.host import Host
    from nativeload.resolve.resolution import LibrarySet

TIMEOUT = 20.0  # seconds
_SCHEMA = 2
_BOOT = "import sys; sys.path += sys.argv[1:]; from nativeload.probe_child import main; main()"


class Check(Value):
    """What a binding wants to know of a library.

    Attributes:
        function: ``module:name`` of a function that takes the opened handles in the child and returns facts as JSON.
        judge: takes the facts in this process and names what they say; raises LookupError, with the reason, for a
            library that the binding cannot drive.
        version: changes whenever the function or the judge may come to another answer.
        unverified: what may let a library pass that the judge refuses, where the user allows it.
    """

    function: str
    judge: Callable[[Mapping[str, Any]], str]
    version: str
    unverified: Check | None = None


class Verdict(Value, kw_only=True):
    """What the probe saw.

    Attributes:
        status: ``ok``, ``unfit``, ``error``, ``missing library``, ``signal``, ``exit``, ``timeout``, ``inconclusive``.
        reason: in words; of a verdict that is ``ok``, what was not verified.
        step: the name of the file that was being opened, or ``check``.
        stderr: the last of what the child printed, in one line.
        judged: what the binding's judge named.
        externals: system libraries to open first (`nativeload.opening.open_set`).
        sonames: ``name=soname`` of each file of the set.
        details: devices and facts, as JSON text.
        cached: whether this was read from the cache.
    """

    status: str
    reason: str = ""
    step: str = ""
    stderr: str = ""
    judged: str = ""
    externals: tuple[str, ...] = ()
    sonames: tuple[str, ...] = ()
    details: str = ""
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether the set opened and the binding can drive it."""
        return self.status == "ok"

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that were registered in the child."""
        return tuple(Device(**item) for item in self._parsed().get("devices", ()))

    @property
    def facts(self) -> dict[str, Any]:
        """What the check returned."""
        return dict(self._parsed().get("facts", {}))

    def _parsed(self) -> dict[str, Any]:
        import json

        parsed = json.loads(self.details or "{}")
        return parsed if isinstance(parsed, dict) else {}


def probe(
    chosen: LibrarySet, host: Host, cache: LibraryCache, *, check: Check | None, python: str | None, allow: bool = False
) -> Verdict:
    """Return the verdict on a hashed set: the kept one, or a fresh one from a child process.

    Args:
        chosen: a set whose files carry their sha256.
        host: the machine, as it was detected once.
        cache: where verdicts are kept.
        check: what the binding wants to know.
        python: the command that starts Python, split like a shell line (default: this Python).
        allow: whether what the check refuses may pass by its second way.
    """
    verdict = _checked(chosen, host, cache, check, python)
    if verdict.status != "unfit" or not allow or check is None or check.unverified is None:
        return verdict
    second = _checked(chosen, host, cache, check.unverified, python)
    if second.ok:
        return replace(second, reason=verdict.reason)
    return replace(second, status="unfit", reason=f"{verdict.reason}; tried nevertheless, as allowed: {second.reason}")


def _checked(chosen: LibrarySet, host: Host, cache: LibraryCache, check: Check | None, python: str | None) -> Verdict:
    """Return the verdict of one check."""
    key = _key(chosen, host, check, python)
    kept = cache.read("probes", key)
    if kept is not None and (verdict := _from_note(kept)) is not None:
        return verdict
    verdict = _run(chosen, check.function if check else "", python)
    if check is not None and verdict.ok:
        try:
            verdict = replace(verdict, judged=check.judge(verdict.facts))
        except LookupError as error:
            verdict = replace(verdict, status="unfit", reason=str(error.args[0]))
    if _lasting(verdict):
        cache.write("probes", key, _to_note(verdict, chosen))
    return verdict


def _key(chosen: LibrarySet, host: Host, check: Check | None, python: str | None) -> str:
    """Name everything that the verdict depends on."""
    names = "/".join(file.name for file in chosen.files)
    said = (check.function, check.version) if check else ("", "")
    parts = (str(_SCHEMA), __version__, chosen.set_id, names, host.fingerprint, *said, python or "")
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _lasting(verdict: Verdict) -> bool:
    """Whether the same set does the same next time: a missing library may come, and SIGKILL came from outside."""
    return verdict.status in {"ok", "unfit", "signal", "exit", "timeout"} and "SIGKILL" not in verdict.reason


def _to_note(verdict: Verdict, chosen: LibrarySet) -> dict[str, str]:
    return {
        "set": str(chosen),
        "status": verdict.status,
        "reason": verdict.reason,
        "step": verdict.step,
        "stderr": verdict.stderr,
        "judged": verdict.judged,
        "externals": " ".join(verdict.externals),
        "sonames": " ".join(verdict.sonames),
        "details": verdict.details,
    }


def _from_note(note: Mapping[str, str]) -> Verdict | None:
    if not {"status", "reason", "step", "judged", "externals", "sonames", "details"} <= set(note):
        return None
    return Verdict(
        status=note["status"],
        reason=note["reason"],
        step=note["step"],
        stderr=note.get("stderr", ""),
        judged=note["judged"],
        externals=tuple(note["externals"].split()),
        sonames=tuple(note["sonames"].split()),
        details=note["details"],
        cached=True,
    )


def _command(python: str | None) -> list[str] | None:
    """Return how to start Python, or None where none can be started (a frozen program is no Python)."""
    if python:
        return command_words(python)
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


def _elf(chosen: LibrarySet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the set's ELF files: which system libraries must be opened first, and the SONAMEs.

    A run path with an empty or relative entry (upstream's and npm's builds have ``$ORIGIN:``) makes the loader look for
    libstdc++ in the current directory. What such a file wants and does not have beside it is opened by name before.
    """
    if not chosen.platform.is_linux:
        return (), ()
    from nativeload.elf import read_elf
    from nativeload.errors import LoadError

    externals: dict[str, None] = {}
    sonames: list[str] = []
    mine = {file.name for file in chosen.files}
    for file in chosen.files:
        try:
            facts = read_elf(file.path)
        except LoadError:  # the child says what the loader thinks of it
            continue
        if facts.soname and not any(sign in file.name + facts.soname for sign in " \n="):
            sonames.append(f"{file.name}={facts.soname}")
        mine.add(facts.soname or file.name)
        absolute = [folder for folder in facts.runpath if os.path.isabs(folder)]
        if len(absolute) < len(facts.runpath):
            externals |= dict.fromkeys(
                name
                for name in facts.needed
                if not any(os.path.exists(os.path.join(folder, name)) for folder in absolute)
            )
    return tuple(name for name in externals if name not in mine and "/" not in name and " " not in name), tuple(sonames)


def _run(chosen: LibrarySet, function: str, python: str | None) -> Verdict:
    import json

    from nativeload import child

    command = _command(python)
    if not command:
        return Verdict(status="inconclusive", reason="no Python can be started here to probe it")
    nonce = os.urandom(16).hex()
    externals, sonames = _elf(chosen)
    files = [{"path": file.path, "role": str(file.role), "label": file.label} for file in chosen.files]
    request = json.dumps({"nonce": nonce, "files": files, "check": function, "externals": externals}).encode()
    environ = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # else ggml starts gdb on abort
    try:
        ended = child.ask([*command, "-I", "-S", "-c", _BOOT, *_roots(function)], request, environ, seconds=TIMEOUT)
    except OSError as error:
        reason = f"{command[0]} cannot be started to probe it: {error.strerror}"
        return Verdict(status="inconclusive", reason=reason)
    tail = " ".join(ended.stderr.decode("utf-8", "replace").split())
    verdict = _verdict(_answers(nonce, ended.stdout), tail, ended.code)
    return replace(verdict, stderr=tail, externals=externals, sonames=sonames)


def _answers(nonce: str, answers: bytes) -> dict[str, Any]:
    """Read the lines that begin with the nonce; whatever else was printed is not an answer."""
    import json

    said: dict[str, Any] = {}
    for line in answers.decode("utf-8", "replace").splitlines():
        if line.startswith(f"{nonce} "):
            try:
                said.update(json.loads(line.removeprefix(f"{nonce} ")))
            except ValueError:  # the child was ended while it wrote
                continue
    return said


def _verdict(said: Mapping[str, Any], stderr: str, code: int | None) -> Verdict:
    """Read the child's end and its answers into a verdict; no code: its time was up."""
    import json

    step = os.path.basename(str(said.get("step", "")))
    where = {"": "", "check": " in the layout check"}.get(step, f" while opening {step}")
    if code is None and not step:
        return Verdict(status="inconclusive", reason=f"the probe's Python did not start within {TIMEOUT:g} s")
    if code is None:
        return Verdict(status="timeout", reason=f"hang: no answer in {TIMEOUT:g} s{where}", step=step)
    if "done" in said:
        return Verdict(status="ok", details=json.dumps(said["done"]))
    if "error" in said:
        reason = str(said["error"]["reason"])
        missing = "cannot open shared object file" in reason or "image not found" in reason
        return Verdict(status="missing library" if missing else "error", reason=f"{reason}{where}", step=step)
    if code < 0:
        return Verdict(status="signal", reason=f"{_signal_name(-code)}{where}", step=step)
    if not step or _ends_are_hidden():
        reason = f"the probe's Python ended with {code} before it answered: {stderr[-200:]}"
        return Verdict(status="inconclusive", reason=reason)
    return Verdict(status="exit", reason=f"exit({code}){where}", step=step)


def _ends_are_hidden() -> bool:
    """Whether this process ignores SIGCHLD: then every child seems to have ended with 0."""
    import signal

    return hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
