"""How is what a context holds kept, and put back into one?

One rule: C gets back only the bytes it gave, into the model, build, adapters and options that they were computed with:
everything else is a `StateError` before. The digest finds damage, not intent: load states of people you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct

from nativeload.errors import ManifestError
from nativeload.strict_json import parse_json
from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.adapters import active
from nativeload_llama.errors import StateError
from nativeload_llama.identity import differing, of_build, of_model, of_options
from nativeload_llama.low_level.state import _private, _remove, _waiting_for_nobody

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from nativeload_llama.low_level import Context
    from nativeload_llama.opened import OpenedModel

_MAGIC = b"nlstate\x01"
_HEAD = struct.Struct("<8sQ")  # magic, bytes of the header
_DIGEST = 32  # bytes of SHA-256, over all that stands before it
_LARGEST_HEADER = 1 << 26  # bytes: seven million tokens
_PARTS = {
    "model": "another model",
    "build": "another build of llama.cpp",
    "options": "a context with other options",
    "adapters": "other adapters",
}


class LlamaState(Value, eq=False):
    """What a context held: its tokens, what was computed for them, and what with.

    It can be pickled and saved; both are checked when they come back.

    Attributes:
        tokens: what was decoded.
        about: what it belongs to: ``model``, ``build``, ``options`` and ``adapters``, each a dictionary of texts.
        blob: llama.cpp's bytes.
    """

    tokens: tuple[int, ...]
    about: dict[str, dict[str, str]]
    blob: bytes

    @property
    def n_tokens(self) -> int:
        """How many tokens the context held."""
        return len(self.tokens)

    def __repr__(self) -> str:
        model = self.about["model"].get("description", "")
        return f"<LlamaState {self.n_tokens} tokens of {model!r}, {len(self.blob)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.to_bytes(),)

    def to_bytes(self) -> bytes:
        """Return it in the form of a file."""
        header = json.dumps(
            {"tokens": self.tokens, "about": self.about}, separators=(",", ":"), sort_keys=True
        ).encode()
        body = b"".join([_HEAD.pack(_MAGIC, len(header)), header, self.blob])
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, raw: bytes, origin: str = "these bytes") -> LlamaState:
        """Return what `to_bytes` was made of.

        Raises:
            StateError: no saved state, or damaged.
        """
        if len(raw) < _HEAD.size + _DIGEST or not raw.startswith(_MAGIC):
            raise StateError(f"{origin}: no saved state of this version")
        if hashlib.sha256(memoryview(raw)[:-_DIGEST]).digest() != raw[-_DIGEST:]:
            raise StateError(f"{origin}: the saved state is damaged or cut off")
        _, size = _HEAD.unpack_from(raw)
        if size > min(_LARGEST_HEADER, len(raw) - _HEAD.size - _DIGEST):
            raise StateError(f"{origin}: the saved state is damaged")
        start = _HEAD.size + size
        tokens, about = _header(raw[_HEAD.size : start], origin)
        return cls(tokens, about, raw[start:-_DIGEST])

    def save(self, path: str | Path) -> None:
        """Write it to a file that only this user can read; it appears there whole or not at all.

        Raises:
            StateError: it cannot be written.
        """
        name = os.path.expanduser(os.fspath(path))
        temporary = f"{name}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, name)
        except (OSError, ValueError) as error:
            _remove(temporary)
            raise StateError(f"{name!r}: {getattr(error, 'strerror', '') or error}") from error
        except BaseException:
            _remove(temporary)
            raise

    @classmethod
    def load(cls, path: str | Path) -> LlamaState:
        """Read a file that `save` wrote.

        Raises:
            StateError: it cannot be read, or is none.
        """
        name = os.path.expanduser(os.fspath(path))
        try:
            with open(name, "rb", opener=_waiting_for_nobody) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StateError(f"{name}: no regular file")
                raw = file.read()
        except (OSError, ValueError) as error:
            raise StateError(f"{name!r}: {getattr(error, 'strerror', '') or error}") from error
        return cls.from_bytes(raw, name)


def save_state(llama: OpenedModel) -> LlamaState:
    """Return what the context holds now.

    Raises:
        BusyError: a generation is under way in this thread; those of other threads are waited for.
    """
    session = llama._session
    with session.alone(), llama._native.entered():
        context = llama._text_context()
        if low_level.memory_seq_pos_max(context, 0) + 1 != len(session.held):  # a step was interrupted
            session.forget()
        return LlamaState(tuple(session.held), _about(llama), low_level.state_seq_get_data(context, 0))


def load_state(llama: OpenedModel, state: LlamaState) -> None:
    """Put back what `save_state` returned: a prompt that begins with its tokens is not decoded again.

    Raises:
        BusyError: as `save_state`.
        StateError: it was saved of another model, build, adapters or options, or does not fit; the context is as it
            was, or empty where llama.cpp refused.
    """
    if not isinstance(state, LlamaState):
        raise TypeError(f"a LlamaState is loaded, not {type(state).__name__}")
    session = llama._session
    with session.alone(), llama._native.entered():
        context = llama._text_context()
        _check(state, _about(llama), context)
        session.forget()
        if not state.tokens:
            return
        try:
            low_level.state_seq_set_data(context, 0, state.blob)
            _check_length(state, low_level.memory_seq_pos_max(context, 0) + 1)
        except BaseException:
            session.forget()
            raise
        session.held = list(state.tokens)


def _check(state: LlamaState, here: Mapping[str, Mapping[str, str]], context: Context) -> None:
    """Refuse a state that does not belong here."""
    for part, words in _PARTS.items():
        if how := differing(state.about[part], here[part]):
            raise StateError(f"the state was saved of {words} ({how})")
    if len(state.tokens) > context.n_ctx:
        hint = f"Make the context larger: n_ctx={len(state.tokens)}."
        raise StateError(f"the state has {len(state.tokens)} tokens and the context holds {context.n_ctx}", hint=hint)
    low_level.check_tokens(context.model, state.tokens)


def _check_length(state: LlamaState, held: int) -> None:
    if held != len(state.tokens):
        raise StateError(f"the state names {len(state.tokens)} tokens and holds {held}")


def _about(llama: OpenedModel) -> dict[str, dict[str, str]]:
    """Return what a state of this context belongs to; the lock is held."""
    native = llama._native
    return {
        "model": of_model(native),
        "build": of_build(native.model.api),
        "options": of_options(native, llama._context_options),
        "adapters": active(native),
    }


def _header(raw: bytes, origin: str) -> tuple[tuple[int, ...], dict[str, dict[str, str]]]:
    """Read a header; what has the right digest may still be anything."""
    try:
        given = parse_json(raw, origin)
    except ManifestError as error:
        raise StateError(f"{origin}: the header is no header: {error.message}") from error
    tokens = given.get("tokens") if isinstance(given, dict) else None
    about = given.get("about") if isinstance(given, dict) else None
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise StateError(f"{origin}: the header names no tokens")
    if not isinstance(about, dict) or set(about) != set(_PARTS) or not all(map(_is_texts, about.values())):
        raise StateError(f"{origin}: the header does not say what it belongs to")
    return tuple(tokens), about


def _is_texts(table: object) -> bool:
    return isinstance(table, dict) and all(isinstance(text, str) for text in table.values())


def _unpickled(raw: bytes) -> LlamaState:
    return LlamaState.from_bytes(raw, "the pickled state")
