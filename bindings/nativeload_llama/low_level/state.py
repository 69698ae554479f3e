"""How is what a context remembers taken out of it, and put back?

One rule: C gets back only bytes that it gave: a digest stands behind them. What it does not accept, or accepts and is
no possible state, is a `StateError`, and the context (or the sequence) is empty then.

llama.cpp's own bytes have no checksum, and builds before 11549 make room for as many cells as the bytes say: one
flipped bit asks for 90 GB. So these functions write the files too, and not llama.cpp, whose programs cannot read them.
The digest finds damage, not intent: load states of people you trust. A state belongs to one build, model and kind of
context; llama.cpp notices another one as far as shapes tell it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct

from nativeload_llama.errors import StateError
from nativeload_llama.low_level.memory import memory_clear, memory_seq_pos_max, memory_seq_pos_min, memory_seq_rm
from nativeload_llama.low_level.rules import MAX_POSITION, sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nativeload_llama.low_level.handles import Context

_DIGEST = 32  # bytes of SHA-256, over what the bytes are and the bytes
_CONTEXT, _SEQUENCE = b"nlcontext\x01", b"nlsequence\x01"
_COUNT = struct.Struct("<I")


def state_get_size(context: Context) -> int:
    """Return how many bytes `state_get_data` returns now, at most."""
    return int(context.api.function("llama_state_get_size")(context.pointer)) + _DIGEST


def state_get_data(context: Context) -> bytes:
    """Return the state of a context: what it remembers of all sequences.

    Raises:
        StateError: llama.cpp could not write it.
    """
    call, pointer = context.api.function("llama_state_get_data"), context.pointer
    return _read(context, _CONTEXT, state_get_size(context), lambda buffer, size: call(pointer, buffer, size))


def state_set_data(context: Context, data: bytes) -> None:
    """Put back what `state_get_data` returned, in place of everything the context remembers.

    Raises:
        StateError: it is damaged, or of another model, build or kind of context; the context is empty then.
    """
    call, pointer = context.api.function("llama_state_set_data"), context.pointer
    try:
        _write(context, _CONTEXT, data, lambda buffer, size: call(pointer, buffer, size))
        for seq in range(context.n_seq_max):
            _check_positions(context, seq)
    except BaseException:
        memory_clear(context)
        raise


def state_seq_get_size(context: Context, seq: int) -> int:
    """Return how many bytes `state_seq_get_data` returns now, at most.

    Raises:
        ContextError: no such sequence.
    """
    return int(context.api.function("llama_state_seq_get_size")(context.pointer, sequence(context, seq))) + _DIGEST


def state_seq_get_data(context: Context, seq: int) -> bytes:
    """Return what a context remembers of a sequence.

    Raises:
        ContextError: no such sequence.
        StateError: llama.cpp could not write it.
    """
    call, pointer, most = (
        context.api.function("llama_state_seq_get_data"),
        context.pointer,
        state_seq_get_size(context, seq),
    )
    return _read(context, _SEQUENCE, most, lambda buffer, size: call(pointer, buffer, size, seq))


def state_seq_set_data(context: Context, seq: int, data: bytes) -> None:
    """Put back what `state_seq_get_data` returned, as this sequence, whichever it was.

    Raises:
        ContextError: no such sequence.
        StateError: it is damaged, of another model, build or kind of context, or there is no room; the sequence is
            empty then.
    """
    call, pointer = context.api.function("llama_state_seq_set_data"), context.pointer
    sequence(context, seq)
    try:
        _write(context, _SEQUENCE, data, lambda buffer, size: call(pointer, buffer, size, seq))
        _check_positions(context, seq)
    except BaseException:
        _forget(context, seq)
        raise


def state_save_file(context: Context, path: str, tokens: Sequence[int]) -> None:
    """Write the state of a context to a file, with the tokens it was made of; it appears there whole or not at all.

    Raises:
        StateError: it cannot be written, or the tokens are none.
    """
    _save(path, _CONTEXT, tokens, state_get_data(context))


def state_load_file(context: Context, path: str) -> list[int]:
    """Put back what `state_save_file` wrote; return its tokens.

    Raises:
        StateError: no such file, or as `state_set_data`; the context is empty then.
    """
    try:
        tokens, data = _loaded(context, path, _CONTEXT)
    except BaseException:
        memory_clear(context)
        raise
    state_set_data(context, data)
    return tokens


def state_seq_save_file(context: Context, path: str, seq: int, tokens: Sequence[int]) -> None:
    """Write the state of a sequence to a file, as `state_save_file` does.

    Raises:
        ContextError: no such sequence.
        StateError: it cannot be written, or the tokens are none.
    """
    _save(path, _SEQUENCE, tokens, state_seq_get_data(context, seq))


def state_seq_load_file(context: Context, path: str, seq: int) -> list[int]:
    """Put back what `state_seq_save_file` wrote, as this sequence; return its tokens.

    Raises:
        ContextError: no such sequence.
        StateError: no such file, or as `state_seq_set_data`; the sequence is empty then.
    """
    sequence(context, seq)
    try:
        tokens, data = _loaded(context, path, _SEQUENCE)
    except BaseException:
        _forget(context, seq)
        raise
    state_seq_set_data(context, seq, data)
    return tokens


def _digest(kind: bytes, data: memoryview) -> bytes:
    made = hashlib.sha256(kind)
    made.update(data)
    return made.digest()


def _read(context: Context, kind: bytes, most: int, call: Any) -> bytes:
    buffer, size = bytearray(most), most - _DIGEST
    context.api.log.clear()
    written = call(context.api.ffi.from_buffer("uint8_t[]", buffer), size)
    if not 0 < written <= size:
        raise _failed(context, "llama.cpp could not write the state")
    with memoryview(buffer) as view:
        view[written : written + _DIGEST] = _digest(kind, view[:written])
        return bytes(view[: written + _DIGEST])


def _write(context: Context, kind: bytes, data: bytes, call: Any) -> None:
    with memoryview(data) as view:
        size = len(view) - _DIGEST
        if size <= 0 or _digest(kind, view[:size]) != view[size:]:
            raise StateError("the state is damaged, cut off, or of another kind")
        context.api.log.clear()
        if call(context.api.ffi.from_buffer("uint8_t[]", view), size) != size:
            raise _failed(context, "the state is of another model, build or kind of context, or there is no room")


def _failed(context: Context, reason: str) -> StateError:
    said = context.api.log.said()
    return StateError(f"{reason} ({said})" if said else reason)


def _check_positions(context: Context, seq: int) -> None:
    """Refuse positions that no decode gives; C adds to them without looking."""
    first, last = memory_seq_pos_min(context, seq), memory_seq_pos_max(context, seq)
    if not (first == last == -1 or 0 <= first <= last < MAX_POSITION):
        raise StateError(f"the state has sequence {seq} at positions {first} to {last}, which cannot be")


def _forget(context: Context, seq: int) -> None:
    """Empty a sequence; where it holds positions that C's ranges leave out, the context."""
    memory_seq_rm(context, seq, -1, -1)
    if memory_seq_pos_max(context, seq) != -1:
        memory_clear(context)


def _save(path: str, kind: bytes, tokens: Sequence[int], data: bytes) -> None:
    try:
        head = kind + _COUNT.pack(len(tokens)) + struct.pack(f"<{len(tokens)}i", *tokens)
    except (struct.error, TypeError) as error:
        raise StateError(f"tokens that are none: {error}") from error
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.writelines((head, hashlib.sha256(head).digest(), data))
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        _remove(temporary)
        raise StateError(f"{path!r}: {getattr(error, 'strerror', '') or error}") from error
    except BaseException:
        _remove(temporary)
        raise


def _loaded(context: Context, path: str, kind: bytes) -> tuple[list[int], bytes]:
    """Return the tokens and the state of a file."""
    try:
        with open(path, "rb", opener=_waiting_for_nobody) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise StateError(f"{path}: not a regular file")
            raw = file.read()
    except (OSError, ValueError) as error:
        raise StateError(f"{path!r}: {getattr(error, 'strerror', '') or error}") from error
    place = len(kind) + _COUNT.size
    if not raw.startswith(kind) or len(raw) < place:
        raise StateError(f"{path}: not a state file of this kind")
    end = place + 4 * _COUNT.unpack_from(raw, len(kind))[0]
    if hashlib.sha256(raw[:end]).digest() != raw[end : end + _DIGEST]:
        raise StateError(f"{path}: the file is damaged")
    tokens = [token for (token,) in struct.iter_unpack("<i", raw[place:end])]
    n_vocab = context.api.function("llama_vocab_n_tokens")(context.model.vocab)
    if any(not 0 <= token < n_vocab for token in tokens):
        raise StateError(f"{path}: the file has tokens that the model does not have")
    return tokens, raw[end + _DIGEST :]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _waiting_for_nobody(path: str, flags: int) -> int:
    """Open a file; a FIFO would wait for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _remove(path: str) -> None:
    import contextlib

    with contextlib.suppress(OSError, ValueError):
        os.unlink(path)
