"""What was chosen, from where, verified by what, and why everything else was not?

One rule: every candidate leaves a decision with its reason, and every report prints the same trace.
"""

from __future__ import annotations

import hashlib
import os

from nativeload.value import Value, Word
from nativeload.variant import Backend, Platform, Role, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload.cache import Stamp
    from nativeload.requirement import Requirement


NOT_INSTALLED = "named as a backend package, but not installed"
"""The reason against a package that the user named: it is worth a warning wherever something else is used."""


CANNOT_FETCH = "cannot be fetched"
"""The beginning of the reason against a set that a download did not bring."""


class Source(Word):
    """Where a set may come from, in order."""

    EXPLICIT = "explicit"
    INSTALLED = "installed"
    CACHED = "cached"
    DOWNLOAD = "download"


class Accepted(Value):
    """The candidate can serve."""

    reason: str


class Rejected(Value):
    """The candidate cannot serve, and why."""

    reason: str


class Unknown(Value):
    """Whether the candidate can serve cannot be said from what is here, and why."""

    reason: str


class Decision(Value):
    """One candidate, where it came from, and what was decided about it."""

    source: Source
    candidate: str
    verdict: Accepted | Rejected | Unknown

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON holds it; ``accepted`` is null where it is unknown."""
        accepted = {Accepted: True, Rejected: False, Unknown: None}[type(self.verdict)]
        return {
            "source": str(self.source),
            "candidate": self.candidate,
            "accepted": accepted,
            "reason": self.verdict.reason,
        }

    def __str__(self) -> str:
        word = {Accepted: "accepted", Rejected: "rejected", Unknown: "unknown"}[type(self.verdict)]
        return f"{self.source}: {self.candidate}: {word}: {self.verdict.reason}"


class LibraryFile(Value, kw_only=True):
    """One file of a set.

    Attributes:
        path: absolute.
        role: what it is for.
        label: the variant of a CPU backend, the backend of a GPU one, the bare name of a core file (``ggml-base``).
        needs: the CPU features a CPU backend needs.
        size: bytes.
        sha256: hex; None until the file is hashed.
        declared: the sha256 somebody vouched for (RECORD, a manifest, the user); None where nobody did.
        stamp: what the file system said of it when it was hashed.
        cuda: the CUDA major a CUDA backend was built for, where it is known.
        requirements: what a machine must have beside CPU features, where a manifest says.
        wants: the libraries from outside the set that it wants, where a manifest says.
        remote: its path in the repository it is published in.
    """

    path: str
    role: Role
    label: str = ""
    needs: frozenset[str] = frozenset()
    size: int = 0
    sha256: str | None = None
    declared: str | None = None
    stamp: Stamp | None = None
    cuda: int | None = None
    requirements: tuple[Requirement, ...] = ()
    wants: tuple[str, ...] = ()
    remote: str = ""

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return os.path.basename(self.path)


class LibrarySet(Value, kw_only=True):
    """The files one host needs, from one place: loaded all or not at all, in this order.

    Attributes:
        library: ``llama``, ``whisper`` or ``ggml``.
        platform: the platform the files are for.
        source: where the set comes from.
        origin: the package with its version, or the path the user gave.
        directory: the directory of the library itself.
        files: in load order: runtime, core (base first, the library last), GPU backends, the CPU backend.
        build: the published build; None for a foreign binary.
        vouched: what the declared digests come from (``RECORD``, ``manifest``, ``sha256``); None where nothing is.
        pin: the manifest it is a part of: ``<build>@sha256:<digest>``; None for what is not published by one.
    """

    library: str
    platform: Platform
    source: Source
    origin: str
    directory: str
    files: tuple[LibraryFile, ...]
    build: str | None = None
    vouched: str | None = None
    pin: str | None = None

    @property
    def main(self) -> LibraryFile:
        """The library itself: the last core file."""
        return [file for file in self.files if file.role is Role.CORE][-1]

    @property
    def gpu(self) -> str | None:
        """The name of the GPU backend module, if the set has one."""
        return next((file.label for file in self.files if file.role is Role.GPU), None)

    @property
    def cpu(self) -> LibraryFile | None:
        """The CPU backend module, if the set has one (others carry it inside the library)."""
        return next((file for file in self.files if file.role is Role.CPU), None)

    @property
    def variant(self) -> str:
        """The label of the set, for people."""
        gpu = next((f"{file.label}{file.cuda or ''}" for file in self.files if file.role is Role.GPU), None)
        return str(Variant(platform=self.platform, gpu=gpu, cpu=self.cpu.label if self.cpu else None))

    @property
    def set_id(self) -> str:
        """The sha256 of the sorted (name, sha256) list: which bytes these are, wherever they lie."""
        lines = sorted(f"{file.name} {file.sha256 or file.declared}" for file in self.files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def __str__(self) -> str:
        parts = [part for part in (self.gpu, self.cpu.label if self.cpu else None) if part]
        return f"{self.origin} [{' + '.join(parts)}]" if parts else self.origin


class Resolution(Value, kw_only=True):
    """The outcome of a resolution: the chosen set, if any, and the whole trace."""

    library: str
    chosen: LibrarySet | None
    decisions: tuple[Decision, ...]
    verified_by: str | None = None
    shortfall: tuple[tuple[Backend, str], ...] = ()
    """Preferred backends that the chosen set cannot serve, each with the reason."""

    @property
    def verified(self) -> bool:
        """Whether somebody vouched for the bytes and they were checked."""
        return self.verified_by is not None

    def explain(self) -> str:
        """Return the trace as text, one candidate a line, in the order they were considered."""
        if not self.decisions:
            return "  no source had a candidate"
        return "\n".join(f"  {decision}" for decision in self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """Return the one object that ``nativeload resolve --json`` prints; sha256 is null for a file not yet hashed."""
        chosen = self.chosen
        return {
            "library": self.library,
            "build": chosen.build if chosen else None,
            "variant": chosen.variant if chosen else None,
            "source": str(chosen.source) if chosen else None,
            "verified": self.verified,
            "directory": chosen.directory if chosen else None,
            "files": [
                {"name": file.name, "size": file.size, "sha256": file.sha256}
                for file in (chosen.files if chosen else ())
            ],
            "decisions": [decision.to_dict() for decision in self.decisions],
        }
