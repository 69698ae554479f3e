"""How do people generate text with a model and one context of it?

One rule: nothing here can crash Python. One lock per context, every input checked, a fork noticed, close() at any time.
"""

from __future__ import annotations

import _thread
import codecs
import operator
import os
import time
import weakref

from nativeload_llama import low_level
from nativeload_llama.errors import BusyError, ClosedError, ContextError, ModelError
from nativeload_llama.library import open_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    from nativeload.config import NativeLibraryConfig
    from nativeload.loading import LoadedLibrary

_LARGEST_DEFAULT_CTX = 4096  # tokens: a 128k training context would take gigabytes unasked
_CONTEXT_FULL = 1  # llama_decode


def bundled_model() -> str:
    """Return the path of the small story model that comes with these bindings (MIT, trained for them)."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "stories.gguf")


class Llama:
    """A model and one context of it.

    Args:
        model_path: a GGUF file.
        config: which native library to use (default: what the environment and the config file say).
        n_ctx: tokens the context holds (default: the model's training context, at most 4096).
        n_batch: tokens that one step of prompt processing takes.
        n_threads: CPU threads, at most 512 (default: half of the cores this process may use).
        n_gpu_layers: layers to keep on GPUs; -1 is all.
        seed: of every generation that names none itself (default: a random one each time).

    Raises:
        ModelError: the file is no model that llama.cpp can load.
        ContextError: no memory for the context, or a size that cannot be.
        NativeLoadError: no library (`LibraryNotFoundError`, `LoadError`, `IntegrityError`, ...).
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        config: NativeLibraryConfig | None = None,
        n_ctx: int | None = None,
        n_batch: int = 512,
        n_threads: int | None = None,
        n_gpu_layers: int = -1,
        seed: int | None = None,
    ) -> None:
        self._seed = _checked_seed(seed)
        api = open_library(config)
        model = low_level.model_load_from_file(api, _expanded(model_path), n_gpu_layers=n_gpu_layers)
        try:
            low_level.check_generates(model)
            trained = low_level.model_n_ctx_train(model)
            wanted = min(trained or _LARGEST_DEFAULT_CTX, _LARGEST_DEFAULT_CTX) if n_ctx is None else n_ctx
            threads = max(1, min(low_level.MAX_THREADS, usable_cores() // 2)) if n_threads is None else n_threads
            context = low_level.init_from_model(
                model, n_ctx=wanted, n_batch=min(n_batch, max(wanted, 1)), n_threads=threads
            )
        except BaseException:
            low_level.model_free(model)
            raise
        self._model = model
        self._native = _Native(context)
        self._session = _Session(self._native)
        self._finalizer = weakref.finalize(self, self._native.finalize)

    @property
    def library(self) -> LoadedLibrary:
        """The native library behind this model: its resolution, devices and path."""
        return self._model.api.loaded

    @property
    def n_ctx(self) -> int:
        """Tokens the context holds."""
        with self._native.entered():
            context = self._native.context()
            return context.n_ctx

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self._model.n_vocab

    @property
    def description(self) -> str:
        """llama.cpp's one-line description of the model."""
        with self._native.entered():
            context = self._native.context()
            return low_level.model_desc(context.model)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into token ids.

        Args:
            text: any text.
            add_special: add the beginning-of-sequence token where the model wants one.
            parse_special: read markers such as ``<|eot|>`` as tokens; leave off for text from outside.
        """
        with self._native.entered():
            context = self._native.context()
            return low_level.tokenize(context.model, text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """Turn token ids into text; bytes that are no UTF-8 become U+FFFD.

        Args:
            tokens: ids.
            special: write special tokens as their markers instead of leaving them out.
        """
        ids = _ids(tokens)
        with self._native.entered():
            context = self._native.context()
            if not special and ids and ids[0] == low_level.vocab_bos(context.model):
                del ids[0]  # behind it, llama_detokenize keeps the blank that llama_tokenize put before the text
            raw = low_level.detokenize(context.model, ids, remove_special=not special, unparse_special=special)
        return raw.decode("utf-8", "replace")

    def generate(
        self,
        tokens: Iterable[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt, until the model ends, the context is full or max_tokens are out.

        Args:
            tokens: the prompt, at least one token.
            max_tokens: how many at most (default: no limit but the context).
            temperature: 0 always takes the likeliest token (greedy).
            top_k: draw among this many likeliest tokens; 0 or less is all.
            top_p: draw among the likeliest tokens that make up this probability.
            min_p: leave out tokens less likely than this fraction of the likeliest.
            seed: of this generation; the same seed gives the same tokens on the same library.

        Raises:
            PromptTooLongError: the prompt does not fit the context.
            BusyError: another generation of this Llama is under way in this thread.
            ValueError: a number that cannot be.
        """
        if max_tokens is not None and max_tokens < 0:
            raise ValueError(f"max_tokens is {max_tokens}, and must be 0 or more")
        draw = self._seed if seed is None else _checked_seed(seed)
        low_level.check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        prompt = _ids(tokens)
        with self._native.entered():
            context = self._native.context()
            low_level.check_prompt(context, prompt)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": draw}
        return self._generate(prompt, max_tokens, options)

    def _generate(self, prompt: list[int], max_tokens: int | None, options: dict[str, Any]) -> Iterator[int]:
        turn = self._session.begin()
        chain = None
        api = self._model.api
        try:
            with self._native.entered():
                context = self._native.context()
                chain = low_level.sampler_chain(api, **options)
                low_level.memory_clear(context)
            buffer = low_level.new_tokens(api, context.n_batch)
            self._prompt(prompt, buffer)
            room = context.n_ctx - len(prompt)
            for _ in range(room if max_tokens is None else min(room, max_tokens)):
                with self._native.entered():
                    token = low_level.sampler_sample(self._native.context(), chain)
                    if low_level.vocab_is_eog(self._model, token):
                        return
                yield token
                turn.thread = _thread.get_ident()  # a generator may be handed from one thread to another
                if not self._step(buffer, token):
                    return
        finally:
            turn.over = True
            if chain is not None and os.getpid() == api.loaded.pid:
                low_level.sampler_free(api, chain)

    def _prompt(self, prompt: list[int], buffer: Any) -> None:
        """Decode the prompt in steps of n_batch; Ctrl-C and close() act between two of them."""
        for start in range(0, len(prompt), len(buffer)):
            part = prompt[start : start + len(buffer)]
            with self._native.entered():
                context = self._native.context()
                buffer[0 : len(part)] = part
                low_level.decode(context, buffer, len(part))

    def _step(self, buffer: Any, token: int) -> bool:
        """Decode one token; False where the context is full."""
        with self._native.entered():
            context = self._native.context()
            buffer[0] = token
            try:
                low_level.decode(context, buffer, 1)
            except ContextError as error:
                if error.code == _CONTEXT_FULL:
                    return False
                raise
        return True

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the text that follows a prompt, piece by piece; options are those of `generate`.

        A piece never ends inside a character: bytes are kept until it is whole.
        """
        return self._texts(self.generate(self.tokenize(prompt), **options))

    def _texts(self, tokens: Iterable[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            with self._native.entered():
                context = self._native.context()
                piece = low_level.token_to_piece(context.model, token)
            if text := decoder.decode(piece):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def complete(self, prompt: str, **options: Any) -> str:
        """Return the text that follows a prompt; options are those of `generate`."""
        return "".join(self.stream(prompt, **options))

    def close(self) -> None:
        """Free the context and the model; safe at any time, from any thread or signal handler, and more than once."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._native.closed else f"n_ctx={self._native.n_ctx}"
        return f"<Llama {os.path.basename(self._model.path)} {state}>"


class _Native:
    """The pointers of one Llama and the lock under which they are used: ``with native.entered(): native.context()``.

    The lock is C's own: a signal handler cannot come between taking it and knowing who holds it.
    """

    def __init__(self, context: low_level.Context) -> None:
        self._context: low_level.Context | None = context
        self._loaded = context.api.loaded
        self._lock = _thread.RLock()
        self.n_ctx = context.n_ctx
        self.closed = False

    def entered(self) -> _thread.RLock:
        """Return the lock, for a with statement.

        Raises:
            ForkError: another thread of the parent may have held it at the fork.
            BusyError: this thread holds it: a log callback, or a signal handler, during a call.
        """
        self._loaded.check_process()
        if self._mine():
            raise BusyError("called from within a call of the same Llama, such as a log callback")
        return self._lock

    def _mine(self) -> bool:
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition asks

    def context(self) -> low_level.Context:
        """Return the context; the lock is held.

        Raises:
            ClosedError: there is none any more.
        """
        if self.closed or self._context is None:
            self._free()
            raise ClosedError("this Llama is closed")
        return self._context

    def close(self) -> None:
        """Free everything: now, or (from a signal handler within a call) with the next call or the object's end."""
        self.closed = True
        if os.getpid() == self._loaded.pid and not self._mine():
            with self._lock:
                self._free()

    def finalize(self) -> None:
        """Free everything at the end of the object or of Python.

        The lock stays held: a daemon thread must not enter C again while libc runs the library's destructors, and one
        that is inside is waited for.
        """
        if os.getpid() == self._loaded.pid and self._lock.acquire(timeout=60):
            self.closed = True
            self._free()

    def _free(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            low_level.free(context)
            low_level.model_free(context.model)


class _Turn:
    """One generation: it is under way as long as its generator keeps this and has not said that it is over."""

    def __init__(self) -> None:
        self.thread = _thread.get_ident()
        self.over = False


class _Session:
    """One generation at a time: other threads wait, the same thread is told that it would wait for itself.

    Nothing is released by hand, so that no Ctrl-C at a bad moment can leave it taken: a generator that is gone is over.
    """

    def __init__(self, native: _Native) -> None:
        self._native = native
        self._gate = _thread.allocate_lock()
        self._current: weakref.ref[_Turn] | None = None

    def begin(self) -> _Turn:
        """Wait for the turn of this generation.

        Raises:
            BusyError: this thread is in the middle of another one.
            ClosedError: the Llama was closed while this waited.
        """
        turn = _Turn()
        while not self._taken(turn):
            if self._native.closed:
                raise ClosedError("this Llama is closed")
            time.sleep(0.002)
        return turn

    def _taken(self, turn: _Turn) -> bool:
        with self._gate:
            current = self._current() if self._current is not None else None
            if current is None or current.over:
                self._current = weakref.ref(turn)
                return True
        if current.thread == turn.thread:
            raise BusyError("another generation of this Llama is under way in this thread")
        return False


def _expanded(path: str | Path) -> str:
    """Return a model's path, ``~`` expanded as everywhere else."""
    text = os.path.expanduser(os.fspath(path))
    if not text:
        raise ModelError("model_path", "an empty path")
    return text


def _ids(tokens: Iterable[int]) -> list[int]:
    """Return token ids as integers; text, floats and booleans are none.

    Raises:
        TypeError: something else was given.
    """
    given = list(tokens)
    if isinstance(tokens, (str, bytes)) or any(isinstance(token, bool) for token in given):
        raise TypeError("tokens are integers; text is tokenized first")
    return [operator.index(token) for token in given]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    from nativeload.host.limits import usable_cores as cores

    return cores()


def _checked_seed(seed: int | None) -> int:
    if seed is None:
        return low_level.DEFAULT_SEED
    if not 0 <= operator.index(seed) < low_level.DEFAULT_SEED:
        raise ValueError(f"seed is {seed}, and must be between 0 and 2**32 - 2")
    return seed
