"""How does a chosen set become a library in this process?

One rule: once per library and process. The next candidate is verified, probed in a child, then opened; what failed is
in the trace, and what the user configured and fails raises.
"""

from __future__ import annotations

import _thread
import os

from nativeload import log
from nativeload.errors import (
    AlreadyLoadedError,
    BackendUnavailableError,
    ForkError,
    LoadError,
    NativeLoadError,
    PreferenceWarning,
    UnknownLayoutError,
)
from nativeload.opening import Device, devices, open_set
from nativeload.probe import Check, Verdict, probe
from nativeload.resolve import Shortlist, check_required, conclude, missing, shortlist, verify
from nativeload.resolve.ranking import preferred, required
from nativeload.resolve.resolution import Decision, LibrarySet, Rejected, Resolution, Source
from nativeload.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from typing import Any

    from nativeload.config import NativeLibraryConfig

_lock = _thread.allocate_lock()
_loaded: dict[str, LoadedLibrary] = {}


class LoadedLibrary(Value, kw_only=True, eq=False):
    """A library that is open in this process. It is never closed: ggml's threads may still run.

    Attributes:
        library: ``llama``, ``whisper`` or ``ggml``.
        resolution: what was chosen, why, and why not the rest.
        devices: the compute devices that ggml registered.
        facts: what the binding's check found out in the probe.
        handles: the opened files, the library last.
        config: the settled config it was loaded with.
        pid: the process that loaded it.
    """

    library: str
    resolution: Resolution
    devices: tuple[Device, ...]
    facts: dict[str, Any]
    handles: tuple[ctypes.CDLL, ...]
    config: NativeLibraryConfig
    pid: int

    def __repr__(self) -> str:
        return f"<LoadedLibrary {self.library} from {self.path}>"

    @property
    def chosen(self) -> LibrarySet:
        """The set that is open."""
        chosen = self.resolution.chosen
        if chosen is None:  # the constructor's caller has one
            raise LoadError(self.library, "nothing is open")
        return chosen

    @property
    def path(self) -> str:
        """The path of the library itself."""
        return self.chosen.main.path

    def check_process(self) -> None:
        """Refuse to be used in a forked child of the process that loaded it.

        Raises:
            ForkError: this is another process.
        """
        if os.getpid() != self.pid:
            raise ForkError(self.library)


def loaded(library: str) -> LoadedLibrary | None:
    """Return the loaded library of this name, if there is one."""
    return _loaded.get(library)


def load(config: NativeLibraryConfig, check: Check | None = None) -> LoadedLibrary:
    """Choose, verify, probe and open the library a config asks for; see `NativeLibraryConfig.load`.

    Args:
        config: what is wanted.
        check: what a binding must know of the library before it is used.
    """
    with _lock:
        settled = config.settled()
        present = _loaded.get(config.library)
        if present is not None:
            present.check_process()
            if present.config == settled and (check is None or present.facts):
                return present
        found = shortlist(settled)
        if present is not None:
            return _again(present, found, check)
        result = _first(found, check)
        _loaded[config.library] = result
        return result


class _Attempt:
    """What became of the candidates tried so far."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.errors: list[NativeLoadError] = []
        self.broken: dict[str, tuple[str | None, str]] = {}  # file name -> (sha256, reason)

    def reject(self, candidate: LibrarySet, error: NativeLoadError, reason: str) -> None:
        self.decisions.append(Decision(candidate.source, str(candidate), Rejected(reason)))
        self.errors.append(error)


def _first(found: Shortlist, check: Check | None) -> LoadedLibrary:
    """Try the candidates in order and open the first that stands the probe."""
    if not found.sets:
        raise missing(found)
    if not any(candidate.gpu in (None, *required(found.config)) for candidate in found.sets) or required(found.config):
        check_required(found, found.sets[0])
    attempt = _Attempt()
    sets = found.sets if found.config.auto_fallback is not False else found.sets[:1]
    for candidate in sets:
        chosen = verify(candidate, found.cache)
        verdict = _probed(chosen, found, check, attempt)
        if verdict is None and (helped := _with_runtime(chosen, attempt)):
            chosen = verify(helped, found.cache)
            verdict = _probed(chosen, found, check, attempt)
        if verdict is not None:
            return _open(chosen, verdict, found, attempt)
    raise _failure(found, attempt)


_RUNTIMES = ("libgomp.so.1",)
"""Libraries of the system that a set may want, and that an installed wheel may bring under that very SONAME."""


def _with_runtime(chosen: LibrarySet, attempt: _Attempt) -> LibrarySet | None:
    """Put the runtime that the probe missed before a set, if an installed wheel brings it; else None."""
    reason = str(attempt.errors[-1].args[0])
    wanted = next((name for name in _RUNTIMES if f"{name}: cannot open shared object file" in reason), None)
    if wanted is None or any(file.label == wanted for file in chosen.files):
        return None
    from nativeload.resolve.installed import bundled

    for file in bundled(wanted):
        attempt.broken.clear()  # what failed for want of it may be opened now
        return replace(chosen, files=(file, *chosen.files))
    return None


def _probed(chosen: LibrarySet, found: Shortlist, check: Check | None, attempt: _Attempt) -> Verdict | None:
    """Return the verdict of a set that may be opened, or None after noting why it may not."""
    for file in chosen.files:
        if file.name in attempt.broken and attempt.broken[file.name][0] == file.sha256:
            reason = attempt.broken[file.name][1]
            attempt.reject(chosen, LoadError(file.path, reason), reason)
            return None
    verdict = probe(chosen, found.host, found.cache, check=check, python=found.config.python)
    if not verdict.ok:
        _note_failure(chosen, verdict, attempt)
        return None
    if check is not None:
        try:
            check.judge(verdict.facts)
        except LookupError as error:
            reason = str(error.args[0])
            attempt.reject(chosen, UnknownLayoutError(chosen.main.path, reason), reason)
            attempt.broken[chosen.main.name] = (chosen.main.sha256, reason)
            return None
    for backend in required(found.config):
        if not any(device.backend == backend for device in verdict.devices):
            reason = f"{backend} is required, and the probe saw no {backend} device"
            attempt.reject(chosen, BackendUnavailableError(backend, chosen.directory, reason), reason)
            return None
    return verdict


def _note_failure(chosen: LibrarySet, verdict: Verdict, attempt: _Attempt) -> None:
    reason, hint = f"probe: {verdict.reason}", ""
    if verdict.status == "missing library":
        from nativeload.needs import explain_missing, missing_libraries

        hint = explain_missing(missing_libraries([file.path for file in chosen.files]))
        reason = f"{reason}; {hint}" if hint else reason
    if verdict.status == "inconclusive":
        hint = "Say how to start Python for the probe: with_python() or NATIVELOAD_PYTHON."
    if verdict.cached:
        reason += " (seen before; `nativeload doctor --probe-again` forgets it)"
    attempt.reject(chosen, LoadError(chosen.main.path, reason, hint=hint), reason)
    step = os.path.basename(verdict.step)
    for file in chosen.files:
        if file.name == step:
            attempt.broken[file.name] = (file.sha256, reason)


def _failure(found: Shortlist, attempt: _Attempt) -> Exception:
    """Say why no candidate could be opened: the first failure of what the user named, else the whole trace."""
    resolution = conclude(found, None, attempt.decisions)
    explicit = found.sets[0].source is Source.EXPLICIT
    layouts = [error for error in attempt.errors if isinstance(error, UnknownLayoutError)]
    backends = [error for error in attempt.errors if isinstance(error, BackendUnavailableError)]
    if backends:
        chosen: NativeLoadError | None = backends[0]
    elif layouts and (explicit or len(layouts) == len(attempt.errors)):
        chosen = layouts[0]
    else:
        chosen = attempt.errors[0] if explicit else None
    if isinstance(chosen, LoadError):
        chosen.resolution = resolution
        return chosen
    return missing(found, attempt.decisions)


def _open(chosen: LibrarySet, verdict: Verdict, found: Shortlist, attempt: _Attempt) -> LoadedLibrary:
    """Open a set that stood the probe, in this process."""
    _refuse_clash(chosen)
    try:
        handles = open_set(chosen.files, quiet=True)
    except LoadError as error:
        left = [os.path.basename(path) for path in _mapped() if path in {file.path for file in chosen.files}]
        hint = f"Left mapped in this process: {', '.join(left)}." if left else ""
        raise LoadError(
            error.path, error.reason, hint=hint, resolution=conclude(found, None, attempt.decisions)
        ) from error
    registered = devices(handles)
    resolution = conclude(found, chosen, attempt.decisions)
    result = LoadedLibrary(
        library=chosen.library,
        resolution=resolution,
        devices=registered,
        facts=dict(verdict.facts),
        handles=tuple(handles),
        config=found.config,
        pid=os.getpid(),
    )
    log.emit(found.config.log_callback, "nativeload", log.INFO, f"loaded {chosen.library} from {chosen}")
    _hold_to_wishes(result, found)
    return result


def _hold_to_wishes(result: LoadedLibrary, found: Shortlist) -> None:
    """Raise where a required backend has no device after loading; warn once where a preferred one has none."""
    have = {device.backend for device in result.devices}
    for backend in required(found.config):
        if backend not in have:
            reason = f"{backend} is required, and no {backend} device was registered after loading"
            raise BackendUnavailableError(backend, result.path, reason, resolution=result.resolution)
    lacking = [backend for backend in preferred(found.config) if backend not in have]
    if lacking and len(lacking) == len(preferred(found.config)):
        why = dict(result.resolution.shortfall)
        reasons = "; ".join(f"{backend}: {why.get(backend) or _probe_reason(result, backend)}" for backend in lacking)
        text = f"{' and '.join(lacking)} preferred, but {result.chosen} runs on the CPU ({reasons})"
        _warn(text)
        log.emit(found.config.log_callback, "nativeload", log.WARNING, text)


def _warn(text: str) -> None:
    """Warn at the line of the program that called us."""
    import sys
    import warnings

    depth = 1
    while (sys._getframe(depth).f_globals.get("__name__") or "").partition(".")[0].startswith("nativeload"):  # noqa: SLF001
        depth += 1
    warnings.warn(text, PreferenceWarning, stacklevel=depth + 1)


def _probe_reason(result: LoadedLibrary, backend: str) -> str:
    """Return why a set with this backend was rejected, or that none registered a device."""
    for decision in result.resolution.decisions:
        if backend in decision.candidate and isinstance(decision.verdict, Rejected):
            return decision.verdict.reason
    return f"the library registered no {backend} device"


def _again(present: LoadedLibrary, found: Shortlist, check: Check | None) -> LoadedLibrary:
    """Return what is loaded if it is what is asked for now; another set is refused."""
    before = {decision.candidate for decision in present.resolution.decisions if isinstance(decision.verdict, Rejected)}
    for candidate in found.sets:
        if [file.path for file in candidate.files] == [file.path for file in present.chosen.files]:
            return _checked(present, found, check)
        if str(candidate) not in before or candidate.origin != present.chosen.origin:
            raise AlreadyLoadedError(candidate.main.path, library=present.library, loaded=present.path)
    raise missing(found)


def _checked(present: LoadedLibrary, found: Shortlist, check: Check | None) -> LoadedLibrary:
    """Let a binding check a library that was loaded without it."""
    if check is None or present.facts:
        return present
    attempt = _Attempt()
    verdict = _probed(present.chosen, found, check, attempt)
    if verdict is None:
        raise _failure(found, attempt)
    present.facts.update(verdict.facts)
    return present


def _mapped() -> list[str]:
    """Return the files mapped into this process (Linux; elsewhere nothing is known)."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            lines = [line.split(None, 5) for line in maps]
    except OSError:
        return []
    return list(dict.fromkeys(parts[5].rstrip("\n") for parts in lines if len(parts) == 6 and parts[5][0] == "/"))  # noqa: PLR2004


def _refuse_clash(chosen: LibrarySet) -> None:
    """Refuse a set of which a file is mapped under the same name from elsewhere: its dependants would bind to that one.

    glibc matches NEEDED entries by SONAME, so two builds of ggml under one name share the first one opened.

    Raises:
        LoadError: naming both files.
    """
    mine = {file.name: file.path for file in chosen.files}
    for path in _mapped():
        name = os.path.basename(path)
        if name in mine and os.path.realpath(mine[name]) != path:
            reason = f"another {name} is already in this process: {path}"
            hint = "Two builds of ggml under one name cannot share a process: use a process for each."
            raise LoadError(mine[name], reason, hint=hint)


def _after_fork() -> None:
    """Give the child a lock of its own: another thread of the parent may have held it."""
    global _lock  # noqa: PLW0603 - the one lock of the module
    _lock = _thread.allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
