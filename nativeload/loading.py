"""How does a chosen set become a library in this process?

One rule: once per library and process. The next candidate is verified, probed in a child, then opened; what failed is
in the trace, and what the user configured and fails raises.
"""

from __future__ import annotations

import _thread
import os

from nativeload import log
from nativeload.cache import Stamp
from nativeload.errors import (
    AlreadyLoadedError,
    BackendUnavailableError,
    ConfigError,
    ForkError,
    IntegrityError,
    LoadError,
    NativeLoadError,
    UnknownLayoutError,
)
from nativeload.log import warn
from nativeload.mapped import mapped_files, refuse_clash
from nativeload.opening import Device, devices, open_set
from nativeload.probe import Check, Verdict, probe
from nativeload.resolve import Shortlist, conclude, first_whole, missing, shortlist, unfetched, verify
from nativeload.resolve.ranking import preferred, required
from nativeload.resolve.resolution import Decision, LibrarySet, Rejected, Resolution, Source
from nativeload.value import Value, replace
from nativeload.variant import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator
    from typing import Any

    from nativeload.config import NativeLibraryConfig

_lock = _thread.allocate_lock()
_owner = 0  # the thread that holds it: a callback of load() must not call load()
_loaded: dict[str, LoadedLibrary] = {}


class LoadedLibrary(Value, kw_only=True, eq=False):
    """A library that is open in this process. It is never closed: ggml's threads may still run.

    Attributes:
        library: ``llama``, ``whisper`` or ``ggml``.
        resolution: what was chosen, why, and why not the rest.
        devices: the compute devices that ggml registered.
        handles: the opened files; the library itself is the last core file's.
        config: the settled config it was loaded with.
        pid: the process that loaded it.
        verdicts: what the probe said, by the check that asked.
    """

    library: str
    resolution: Resolution
    devices: tuple[Device, ...]
    handles: tuple[ctypes.CDLL, ...]
    config: NativeLibraryConfig
    pid: int
    verdicts: dict[str, Verdict]

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

    @property
    def facts(self) -> dict[str, Any]:
        """What the bindings' checks found out in the probe; empty where none asked."""
        return {key: value for verdict in self.verdicts.values() for key, value in verdict.facts.items()}

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
    global _owner  # noqa: PLW0603 - belongs to the lock
    if _owner == _thread.get_ident():
        raise ConfigError("load", "called from a callback of load(): a selecting policy or log callback cannot load")
    with _lock:
        _owner = _thread.get_ident()
        try:
            return _load(config.settled(), check)
        finally:
            _owner = 0


def _load(config: NativeLibraryConfig, check: Check | None) -> LoadedLibrary:
    present = _loaded.get(config.library)
    name = check.function if check else ""
    if present is not None:
        present.check_process()
        if present.config == config and (check is None or name in present.verdicts):
            return present
    found = shortlist(config, act=present is None)
    return _first(found, check) if present is None else _again(present, found, check)


class _Attempt:
    """What became of the candidates tried so far."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.errors: list[LoadError] = []
        self.broken: dict[str, tuple[str | None, str]] = {}  # file name -> (sha256, reason)
        self.gpus: dict[str, str] = {}  # GPU backend -> why the first set with it was rejected
        self.strict = False  # whether something that the user named has failed

    def reject(self, candidate: LibrarySet, error: LoadError, reason: str) -> None:
        """Note why a candidate was not opened."""
        self.decisions.append(Decision(candidate.source, str(candidate), Rejected(reason)))
        self.errors.append(error)
        if candidate.gpu:
            self.gpus.setdefault(candidate.gpu, reason)
        self.strict = self.strict or candidate.source is Source.EXPLICIT


def _first(found: Shortlist, check: Check | None) -> LoadedLibrary:
    """Try the candidates in order and open the first that stands the probe."""
    attempt = _Attempt()
    sets = found.sets if found.config.auto_fallback is not False else found.sets[:1]
    for candidate, verdict in _standing(found, sets, check, attempt):
        try:
            opened = _open(candidate, verdict, check, found, attempt)
        except LoadError as error:
            attempt.reject(candidate, error, error.reason)
            continue
        _hold_to_wishes(opened, found, attempt)
        return opened
    raise _failure(found, attempt)


def _standing(
    found: Shortlist, sets: tuple[LibrarySet, ...], check: Check | None, attempt: _Attempt
) -> Iterator[tuple[LibrarySet, Verdict]]:
    """Yield the sets that stand the probe."""
    for whole in first_whole(found, sets, attempt.decisions, skip=lambda item: _is_broken(item, attempt)):
        if attempt.strict and whole.source is not Source.EXPLICIT:
            return  # what the user named and cannot load is no reason to take something else
        candidate, verdict = whole, _probed(whole, found, check, attempt)
        if verdict is None and (helped := _with_runtime(whole, attempt)):
            candidate = verify(helped, found.cache)
            verdict = _probed(candidate, found, check, attempt)
        if verdict is not None:
            yield candidate, verdict


_RUNTIMES = ("libgomp.so.1",)
"""Libraries of the system that a set may want, and that an installed wheel may bring under that very SONAME."""


def _with_runtime(chosen: LibrarySet, attempt: _Attempt) -> LibrarySet | None:
    """Put the runtime that the probe missed before a set, if an installed wheel brings it; else None."""
    reason = attempt.errors[-1].reason
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
    if _is_broken(chosen, attempt):
        return None
    config = found.config
    allow = config.allow_unverified is True
    verdict = probe(chosen, found.host, found.cache, check=check, python=config.python, allow=allow)
    if not verdict.ok:
        triable = check is not None and check.unverified is not None and not config.allow_unverified
        _note_failure(chosen, verdict, attempt, triable=triable)
        return None
    for backend in required(found.config):
        if not any(device.backend == backend for device in verdict.devices):
            reason = f"{backend} is required, and the probe saw no {backend} device"
            attempt.reject(chosen, BackendUnavailableError(backend, chosen.directory, reason), reason)
            return None
    return verdict


def _is_broken(chosen: LibrarySet, attempt: _Attempt) -> bool:
    """Say, and note, whether a set has a file that failed in another set: it need not be fetched or probed again."""
    for file in chosen.files:
        digest, reason = attempt.broken.get(file.name, (None, ""))
        if reason and digest == (file.sha256 or file.declared):
            attempt.reject(chosen, LoadError(file.path, reason), reason)
            return True
    return False


def _note_failure(chosen: LibrarySet, verdict: Verdict, attempt: _Attempt, *, triable: bool) -> None:
    """Write down why the probe refused a set, and which of its files no other set may bring again."""
    reason, hint = f"probe: {verdict.reason}", ""
    if verdict.status == "missing library":
        from nativeload.needs import explain_missing, missing_libraries

        hint = explain_missing(missing_libraries([file.path for file in chosen.files]))
        reason = "; ".join([reason, *hint.splitlines()])
    elif verdict.status == "inconclusive":
        hint = "Say how to start Python for the probe: with_python() or NATIVELOAD_PYTHON."
    elif verdict.status == "unfit":
        hint = f"{UnknownLayoutError.hint} with_allow_unverified() tries it in a child process." if triable else ""
    elif verdict.cached:
        reason += " (seen before; `nativeload doctor --probe-again` forgets it)"
    if verdict.status == "unfit":
        error: LoadError = UnknownLayoutError(chosen.main.path, verdict.reason, hint=hint)
        reason = verdict.reason
    else:
        error = LoadError(chosen.main.path, reason, hint=hint)
    attempt.reject(chosen, error, reason)
    guilty = chosen.main.name if verdict.status == "unfit" or verdict.step == "check" else verdict.step
    for file in chosen.files:
        if file.name == guilty:
            attempt.broken[file.name] = (file.sha256, reason)


def _failure(found: Shortlist, attempt: _Attempt) -> NativeLoadError:
    """Say why no candidate could be opened: the first failure of what the user named, else the whole trace."""
    resolution = conclude(found, None, attempt.decisions)
    layouts = [error for error in attempt.errors if isinstance(error, UnknownLayoutError)]
    error: LoadError | None = None
    if attempt.errors and (needed := required(found.config)):
        first = attempt.errors[0]
        said = first.reason.removeprefix(f"{needed[0]} is required, and ")
        hint = first.hint or f"Say with_{needed[0]}() to prefer it without requiring it."
        error = BackendUnavailableError(
            needed[0], found.sets[0].directory, f"{needed[0]} is required: {said}", hint=hint
        )
    elif layouts and (attempt.strict or len(layouts) == len(attempt.errors)):
        error = layouts[0]
    elif attempt.strict:
        error = attempt.errors[0]
    if error is None:
        return missing(found, attempt.decisions, hint=_shared_hint(attempt))
    error.resolution = resolution
    return error


def _shared_hint(attempt: _Attempt) -> str:
    """Return what to do, where every candidate failed for want of the same thing."""
    hints = {error.hint for error in attempt.errors}
    return hints.pop() if len(hints) == 1 else ""


def _open(
    chosen: LibrarySet, verdict: Verdict, check: Check | None, found: Shortlist, attempt: _Attempt
) -> LoadedLibrary:
    """Open a set that stood the probe, in this process, and remember it."""
    refuse_clash(chosen.files, verdict.sonames)
    _refuse_changes(chosen)
    try:
        handles = open_set(chosen.files, externals=verdict.externals, quiet=True)
    except LoadError as error:
        left = [os.path.basename(path) for path in mapped_files() if path in {file.path for file in chosen.files}]
        hint = f"Left mapped in this process: {', '.join(left)}." if left else ""
        raise LoadError(error.path, error.reason, hint=hint) from error
    result = LoadedLibrary(
        library=chosen.library,
        resolution=conclude(found, chosen, attempt.decisions),
        devices=devices(handles),
        handles=tuple(handles),
        config=found.config,
        pid=os.getpid(),
        verdicts={check.function if check else "": verdict},
    )
    _loaded[chosen.library] = result
    log.emit(found.config.log_callback, "nativeload", log.INFO, f"loaded {chosen.library} from {chosen}")
    _warn_of_unverified(result, verdict)
    return result


def _warn_of_unverified(result: LoadedLibrary, verdict: Verdict) -> None:
    """Say what was not verified of a library that is used nevertheless."""
    if verdict.reason:
        text = f"{result.chosen} is used as allowed, unverified: {verdict.reason}; it worked in a child process"
        log.emit(result.config.log_callback, "nativeload", log.WARNING, text)
        warn(text)


def _refuse_changes(chosen: LibrarySet) -> None:
    """Refuse a set of which a file is not the one that was hashed: the probe may have taken seconds."""
    for file in chosen.files:
        try:
            unchanged = Stamp.of(file.path) == file.stamp
        except OSError as error:
            raise LoadError(file.path, error.strerror or str(error)) from error
        if not unchanged:
            raise IntegrityError(file.path, expected="the file that was hashed", actual="a file changed since")


def _hold_to_wishes(result: LoadedLibrary, found: Shortlist, attempt: _Attempt) -> None:
    """Raise where a required backend has no device after loading; warn once where a preferred one has none."""
    have = {device.backend for device in result.devices}
    for backend in required(found.config):
        if backend not in have:
            reason = f"{backend} is required, and no {backend} device was registered after loading"
            raise BackendUnavailableError(backend, result.path, reason, resolution=result.resolution)
    for note in (*found.notes, *unfetched(attempt.decisions)):
        warn(f"{result.chosen} is used: {note}")
    lacking = [backend for backend in preferred(found.config) if backend not in have]
    if lacking and len(lacking) == len(preferred(found.config)):
        why: dict[str, str] = {**dict(result.resolution.shortfall), **attempt.gpus}
        why |= {each: note for each in lacking for note in unfetched(attempt.decisions) if f"[{each} " in note}
        reasons = "; ".join(
            f"{backend}: {why.get(backend, f'the library registered no {backend} device')}" for backend in lacking
        )
        text = f"{' and '.join(lacking)} preferred, but {result.chosen} runs on the CPU ({reasons})"
        log.emit(found.config.log_callback, "nativeload", log.WARNING, text)
        warn(text)


def _again(present: LoadedLibrary, found: Shortlist, check: Check | None) -> LoadedLibrary:
    """Return what is loaded if it is what is asked for now; another set is refused.

    A candidate that was tried before and failed is not asked for again: the library is never loaded twice.
    """
    before = {item.candidate for item in present.resolution.decisions if isinstance(item.verdict, Rejected)}
    attempt = _Attempt()
    held = {file.path: file.sha256 for file in present.chosen.files if file.role is not Role.RUNTIME}
    for candidate in found.sets if found.config.auto_fallback is not False else found.sets[:1]:
        if [file.path for file in candidate.files if file.role is not Role.RUNTIME] != list(held):
            if str(candidate) in before:
                continue
            raise AlreadyLoadedError(candidate.main.path, library=present.library, loaded=present.path)
        whole = verify(candidate, found.cache)
        if any(file.sha256 != held.get(file.path, file.sha256) for file in whole.files):
            raise AlreadyLoadedError(candidate.main.path, library=present.library, loaded=f"{present.path} as it was")
        if check is not None and check.function not in present.verdicts:
            verdict = _probed(whole, found, check, attempt)
            if verdict is None:
                raise _failure(found, attempt)
            present.verdicts[check.function] = verdict
            _warn_of_unverified(present, verdict)
        _hold_to_wishes(present, found, attempt)
        return present
    tried = [item for item in present.resolution.decisions if item.candidate in before]
    raise missing(found, tried)


def _after_fork() -> None:
    """Give the child a lock of its own: another thread of the parent may have held it."""
    global _lock, _owner
    _lock, _owner = _thread.allocate_lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
