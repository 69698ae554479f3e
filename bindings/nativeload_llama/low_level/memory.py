"""What does a context remember, and how is that changed?

One rule: sequences and positions are checked here, for C asserts them. Ranges are [p0, p1); -1 is open.
"""

from __future__ import annotations

from nativeload_llama.errors import ContextError
from nativeload_llama.low_level.rules import MAX_POSITION, rules, sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.low_level.handles import Context

_MAX_INT32 = 2**31 - 1


def _memory(context: Context) -> Any:
    """Return llama_memory_t; NULL where the model remembers nothing, and then C's functions do nothing."""
    return context.api.function("llama_get_memory")(context.pointer)


def _range(p0: int, p1: int) -> tuple[int, int]:
    if not (-1 <= p0 <= _MAX_INT32 and -1 <= p1 <= _MAX_INT32):
        raise ContextError(f"positions {p0} to {p1} cannot be: they are 0 or more, or -1 for open")
    return p0, p1


def memory_clear(context: Context, *, data: bool = False) -> None:
    """Forget everything the context holds.

    Args:
        context: a context.
        data: overwrite the cache with zeros too, which takes as long as the cache is large.
    """
    memory = _memory(context)
    if memory != context.api.ffi.NULL:
        context.api.function("llama_memory_clear")(memory, data)


def memory_seq_rm(context: Context, seq: int, p0: int, p1: int) -> bool:
    """Forget a range of a sequence (-1: of every sequence); False where only the whole of it can be forgotten.

    Raises:
        ContextError: no such sequence or positions.
    """
    if seq == -1:  # C's own -1 asserts in some memories of some builds
        done = [memory_seq_rm(context, one, p0, p1) for one in range(context.n_seq_max)]
        return all(done)
    call = context.api.function("llama_memory_seq_rm")
    return bool(call(_memory(context), sequence(context, seq), *_range(p0, p1)))


def memory_seq_cp(context: Context, src: int, dst: int, p0: int, p1: int) -> None:
    """Copy a range of a sequence to another one; where each has a cache of its own, with the next decode.

    Raises:
        ContextError: no such sequence or positions; or a part, where only the whole can be copied.
    """
    if rules(context).whole_copies and src != dst and (p0 > 0 or p1 >= 0):
        hint = "Copy from -1 to -1, or make the context with kv_unified=True."
        raise ContextError(f"positions {p0} to {p1} alone cannot be copied here", hint=hint)
    call = context.api.function("llama_memory_seq_cp")
    call(_memory(context), sequence(context, src), sequence(context, dst), *_range(p0, p1))


def memory_seq_keep(context: Context, seq: int) -> None:
    """Forget all other sequences of the cache that this one is in.

    Raises:
        ContextError: no such sequence.
    """
    context.api.function("llama_memory_seq_keep")(_memory(context), sequence(context, seq))


def memory_seq_add(context: Context, seq: int, p0: int, p1: int, delta: int) -> None:
    """Move a range of a sequence to positions ``delta`` further on, or back where that is below 0.

    Raises:
        ContextError: no such sequence or positions, positions below 0 would come of it, or see `memory_can_shift`.
    """
    memory, start, _ = _shiftable(context, seq, p0, p1)
    last = memory_seq_pos_max(context, seq)
    if last >= start and not (start + delta >= 0 and last + delta < MAX_POSITION):
        raise ContextError(f"positions {start} to {last} cannot be moved by {delta}")
    if last >= start:
        context.api.function("llama_memory_seq_add")(memory, seq, p0, p1, delta)


def memory_seq_div(context: Context, seq: int, p0: int, p1: int, divisor: int) -> None:
    """Divide the positions of a range of a sequence, rounded down.

    Raises:
        ContextError: no such sequence or positions, a divisor below 1, or see `memory_can_shift`.
    """
    memory, _, _ = _shiftable(context, seq, p0, p1)
    if not 1 <= divisor <= _MAX_INT32:
        raise ContextError(f"positions cannot be divided by {divisor}")
    context.api.function("llama_memory_seq_div")(memory, seq, p0, p1, divisor)


def _shiftable(context: Context, seq: int, p0: int, p1: int) -> tuple[Any, int, int]:
    """Return the memory, and the first and last position that a shift of a range begins and ends with."""
    begin, end = _range(p0, p1)
    first = memory_seq_pos_min(context, seq)
    if not memory_can_shift(context):
        raise ContextError("the positions of this model's cache cannot be changed")
    return _memory(context), max(begin, first, 0), end


def memory_seq_pos_min(context: Context, seq: int) -> int:
    """Return the first position of a sequence that is held; -1 where there is none.

    Raises:
        ContextError: no such sequence.
    """
    return int(context.api.function("llama_memory_seq_pos_min")(_memory(context), sequence(context, seq)))


def memory_seq_pos_max(context: Context, seq: int) -> int:
    """Return the last position of a sequence; -1 where there is none.

    Raises:
        ContextError: no such sequence.
    """
    return int(context.api.function("llama_memory_seq_pos_max")(_memory(context), sequence(context, seq)))


def memory_can_shift(context: Context) -> bool:
    """Whether positions can be changed, by `memory_seq_add` and `memory_seq_div`: not of every model, nor type_k."""
    return rules(context).shifts and bool(context.api.function("llama_memory_can_shift")(_memory(context)))
