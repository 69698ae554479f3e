"""What do these bindings hold while C works: the pointers, and the memory that C reads and writes?

One rule: memory that C can see belongs to a Python object that lives at least as long; pointers are freed by nobody but
the function that says so.
"""

from __future__ import annotations

from nativeload.value import Value
from nativeload_llama.errors import ClosedError, ContextError, ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.library import Api

_MAX_INT32 = 2**31 - 1
_LARGEST_BATCH = 1 << 24  # tokens: half a gigabyte of arrays


class _Freed(Value, eq=False):
    """A handle that says so when its pointers are asked for and are gone; until then that costs nothing."""

    def __getattr__(self, name: str) -> Any:
        raise ClosedError(f"the {type(self).__name__.lower()} was freed")

    def __repr__(self) -> str:
        return object.__repr__(self)


def taken(handle: _Freed, *more: str) -> Any:
    """Take the pointers out of a handle that is to be freed; return the first, or None where that was done before."""
    try:
        pointer = handle.pointer
        for name in ("pointer", *more):
            object.__delattr__(handle, name)
    except (AttributeError, ClosedError):
        return None
    return pointer


class Model(_Freed, eq=False):
    """A loaded model: ``pointer`` is llama_model *, ``vocab`` llama_vocab *, ``n_vocab`` tokens (0: no vocabulary).

    Attributes:
        vocab_only: it has no weights and no shape: it can tokenize, and no context can be made of it.
        extra_bufts: weights may lie repacked for the processor, where they cannot be read back.
        recurses: a long line needs a large stack to be tokenized.
        keep: what C reads for as long as the model lives.
    """

    api: Api
    path: str
    pointer: Any
    vocab: Any
    n_vocab: int
    vocab_only: bool = False
    extra_bufts: bool = True
    recurses: bool = True
    keep: Any = None


class Context(_Freed, eq=False):
    """A context of a model: ``pointer`` is llama_context *; sizes are in tokens.

    Attributes:
        keep: what C reads for as long as the context lives, under a name of the user's (the abort flag, adapters).
    """

    api: Api
    model: Model
    pointer: Any
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    pooling_type: int
    n_outputs_max: int
    keep: dict[str, Any] = None  # type: ignore[assignment]  # a dict of its own, see below

    def __post_init__(self) -> None:
        """Give each context its own ``keep``."""
        if self.keep is None:
            object.__setattr__(self, "keep", {})


class Sampler(Value, eq=False):
    """One sampler or a chain of them: ``pointer`` is llama_sampler *; ``keep`` holds what C points to."""

    api: Api
    pointer: Any
    keep: Any


class Adapter(Value, eq=False):
    """A LoRA adapter of a model: ``pointer`` is llama_adapter_lora *."""

    api: Api
    model: Model
    path: str
    pointer: Any


class AbortFlag:
    """A flag that ends a decode while it runs: raise it from another thread or a signal handler.

    The CPU backend asks before each node of a graph, thousands of times a token, and Python is too slow an answer. So
    C's own strlen() answers: of an empty text it is 0 (go on), of a text of one byte 1 (stop). The physical batches
    (n_ubatch) that were done before stay in the context's memory: `memory_seq_pos_max` says how far it came.
    """

    def __init__(self) -> None:
        self.text = bytearray(2)

    @property
    def raised(self) -> bool:
        """Whether decodes under this flag are to end."""
        return self.text[0] != 0

    def set(self) -> None:
        """Raise the flag: a running decode ends with `AbortedError`, and so does the next one."""
        self.text[0] = 1

    def clear(self) -> None:
        """Lower the flag: decodes run again."""
        self.text[0] = 0

    def callback(self, api: Api) -> tuple[Any, Any]:
        """Return what C needs, ``(ggml_abort_callback, void *)``; whoever hands it to C keeps both, and the flag."""
        return api.ffi.cast("ggml_abort_callback", _strlen()), api.ffi.from_buffer("char[]", self.text)


def _strlen() -> int:
    """Return the address of C's strlen."""
    import ctypes
    import os

    libc = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
    return int(ctypes.cast(libc.strlen, ctypes.c_void_p).value or 0)


class Batch:
    """Tokens to decode, each with its position, its sequences, and whether its logits are wanted.

    Args:
        api: the library.
        capacity: how many tokens fit.
        n_seq_max: sequences that one token can belong to.

    Attributes:
        native: the llama_batch, for C.

    Raises:
        ContextError: a size that cannot be.
    """

    def __init__(self, api: Api, capacity: int, n_seq_max: int = 1) -> None:
        if not 1 <= capacity * n_seq_max <= _LARGEST_BATCH or n_seq_max < 1:
            raise ContextError(f"a batch of {capacity} tokens in {n_seq_max} sequences cannot be made", code=-1)
        new = api.ffi.new
        self.capacity, self.n_seq_max = capacity, n_seq_max
        self._seq_ids = new("llama_seq_id[]", capacity * n_seq_max)
        self._rows = new(
            "llama_seq_id *[]", [self._seq_ids + n_seq_max * row for row in range(capacity)] + [api.ffi.NULL]
        )
        self._token, self._pos = new("llama_token[]", capacity), new("llama_pos[]", capacity)
        self._n_seq_id, self._logits = new("int32_t[]", capacity), new("int8_t[]", capacity)
        self._batch = new("llama_batch *")
        self.native = self._batch[0]
        self.native.token, self.native.pos, self.native.logits = self._token, self._pos, self._logits
        self.native.n_seq_id, self.native.seq_id = self._n_seq_id, self._rows

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    def clear(self) -> None:
        """Take all tokens out."""
        self.native.n_tokens = 0

    def add(self, token: int, pos: int, seq_ids: tuple[int, ...] = (0,), logits: bool = False) -> int:
        """Add a token.

        Args:
            token: its id.
            pos: its position in each of its sequences.
            seq_ids: the sequences it belongs to.
            logits: compute logits (or embeddings) for it.

        Returns:
            its index in the batch, by which its logits are found.

        Raises:
            ContextError: the batch is full, or a number that cannot be.
        """
        index = self.native.n_tokens
        if index >= self.capacity:
            raise ContextError(f"the batch is full: it holds {self.capacity} tokens", code=-1)
        if not 1 <= len(seq_ids) <= self.n_seq_max or min(seq_ids) < 0:
            reason = f"the batch has room for 1 to {self.n_seq_max} sequences, from 0 up"
            raise ContextError(f"a token of sequences {seq_ids}: {reason}", code=-1)
        if not (0 <= token <= _MAX_INT32 and 0 <= pos < _MAX_INT32):
            raise ContextError(f"token {token} at position {pos} cannot be", code=-1)
        for place, seq_id in enumerate(seq_ids, index * self.n_seq_max):
            self._seq_ids[place] = seq_id
        self._token[index], self._pos[index] = token, pos
        self._n_seq_id[index], self._logits[index] = len(seq_ids), logits
        self.native.n_tokens = index + 1
        return int(index)


class Candidates:
    """The tokens that a sampler chooses among (llama_token_data_array), each with its logit and its probability.

    Args:
        api: the library.
        n_vocab: tokens in the vocabulary.

    Attributes:
        native: the llama_token_data_array *, for C.

    Raises:
        ModelError: there is no token.
    """

    def __init__(self, api: Api, n_vocab: int) -> None:
        if not 1 <= n_vocab <= _MAX_INT32:
            raise ModelError("candidates", f"a vocabulary of {n_vocab} tokens has none to choose among")
        self._ffi, self._n_vocab = api.ffi, n_vocab
        self._data = api.ffi.new("llama_token_data[]", n_vocab)
        self._logits = memoryview(api.ffi.buffer(self._data)).cast("f")[1::3]
        memoryview(api.ffi.buffer(self._data)).cast("i")[0::3] = memoryview(_numbers(n_vocab))
        self._fresh = bytes(api.ffi.buffer(self._data))
        self.native = api.ffi.new("llama_token_data_array *")
        self.only(0)

    def fill(self, logits: memoryview) -> None:
        """Take every token of the vocabulary, with the logits of `get_logits_ith` (n_vocab float32).

        Raises:
            ModelError: not n_vocab logits.
        """
        if logits.nbytes != 4 * self._n_vocab:
            raise ModelError("candidates", f"{logits.nbytes // 4} logits for {self._n_vocab} tokens")
        self._ffi.memmove(self._data, self._fresh, len(self._fresh))
        self._logits[:] = logits.cast("B").cast("f")
        self._begin(self._n_vocab)

    def only(self, token: int, logit: float = 0.0) -> None:
        """Take one token alone.

        Raises:
            ModelError: no such token.
        """
        if not 0 <= token < self._n_vocab:
            raise ModelError("candidates", f"token {token} is not between 0 and {self._n_vocab - 1}")
        self._data[0] = (token, logit, 0.0)
        self._begin(1)

    def _begin(self, size: int) -> None:
        native = self.native
        native.data, native.size, native.selected, native.sorted = self._data, size, -1, False

    @property
    def size(self) -> int:
        """How many tokens are left."""
        return int(self.native.size)

    @property
    def selected(self) -> int:
        """The place of the chosen token, 0 to size - 1; -1 where no sampler has chosen."""
        place = int(self.native.selected)
        return place if 0 <= place < self.size else -1

    def token(self, place: int) -> int:
        """Return the token at a place, 0 to size - 1; samplers reorder them."""
        return int(self._at(place).id)

    def logit(self, place: int) -> float:
        """Return the logit at a place."""
        return float(self._at(place).logit)

    def p(self, place: int) -> float:
        """Return the probability at a place; 0 before a sampler has computed it."""
        return float(self._at(place).p)

    def _at(self, place: int) -> Any:
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} is not between 0 and {self.size - 1}")
        return self.native.data[place]


def _numbers(count: int) -> Any:
    """Return the numbers below ``count`` as C ints."""
    import array

    return array.array("i", range(count))
