"""What is a model that was opened: its file, its library, its context, its tokens, its end?

One rule: nothing here can crash Python. One lock, every input checked, a fork noticed, close() at any time.
"""

from __future__ import annotations

import operator
import os
import weakref

from nativeload.value import replace
from nativeload_llama import low_level
from nativeload_llama.errors import ContextError, ModelError
from nativeload_llama.generation import Generation, Session
from nativeload_llama.library import open_library
from nativeload_llama.native import Native
from nativeload_llama.sampling import Draw, Sampling, checked_seed, checked_words
from nativeload_llama.text import Pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from nativeload.config import NativeLibraryConfig
    from nativeload.loading import LoadedLibrary
    from nativeload_llama.chat.completion import ListedTemplate
    from nativeload_llama.chat.template import ChatTemplate
    from nativeload_llama.generation import Draft
    from nativeload_llama.library import Api
    from nativeload_llama.likelihood import Scorer
    from nativeload_llama.low_level import Context, Model
    from nativeload_llama.options import SamplingOptions

_LARGEST_DEFAULT_CTX = 4096  # tokens: a 128k training context would take gigabytes unasked


def bundled_model() -> str:
    """Return the path of the small story model that comes with these bindings (MIT, trained for them)."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "stories.gguf")


class OpenedModel:
    """A model, a context of it and its tokens: what `Llama` is before it writes; see there for the arguments."""

    def __init__(  # noqa: PLR0913 - llama-cpp-python's names
        self,
        model_path: str | Path,
        *,
        config: NativeLibraryConfig | None = None,
        n_ctx: int | None = None,
        n_batch: int = 512,
        n_ubatch: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: int | Literal["auto"] = "auto",
        split_mode: int | None = None,
        main_gpu: int | None = None,
        tensor_split: Sequence[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, bool | int | float | str] | None = None,
        seed: int | None = None,
        rope_scaling_type: int | None = None,
        rope_freq_base: float | None = None,
        rope_freq_scale: float | None = None,
        yarn_ext_factor: float | None = None,
        yarn_attn_factor: float | None = None,
        yarn_beta_fast: float | None = None,
        yarn_beta_slow: float | None = None,
        yarn_orig_ctx: int | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        offload_kqv: bool = True,
        op_offload: bool | None = None,
        flash_attn: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = True,
        pooling_type: int | None = None,
        context_shift: bool = False,
        lora_path: str | Path | None = None,
        lora_scale: float = 1.0,
        draft_model: Draft | OpenedModel | None = None,
        chat_format: str | None = None,
        chat_template: str | None = None,
        progress: Callable[[float], bool | None] | None = None,
        verbose: bool = True,  # noqa: ARG002
        logits_all: bool = False,  # noqa: ARG002
        embedding: bool = False,  # noqa: ARG002
        last_n_tokens_size: int = 64,  # noqa: ARG002
    ) -> None:
        self._seed = None if checked_seed(seed) == low_level.DEFAULT_SEED else seed
        self._draft, self._generates = _drafter(draft_model), False
        self._chat_format, self._chat_template = chat_format, chat_template
        model_options: dict[str, Any] = {
            "split_mode": split_mode,
            "main_gpu": main_gpu,
            "tensor_split": tensor_split,
            "vocab_only": vocab_only,
            "use_mmap": use_mmap,
            "use_mlock": use_mlock,
            "kv_overrides": kv_overrides,
            "progress": progress,
        }
        self._context_options: dict[str, Any] = {
            "n_batch": n_batch,
            "n_ubatch": n_ubatch,
            "n_threads": _usual_threads() if n_threads is None else n_threads,
            "n_threads_batch": n_threads_batch,
            "rope_scaling_type": rope_scaling_type,
            "rope_freq_base": rope_freq_base,
            "rope_freq_scale": rope_freq_scale,
            "yarn_ext_factor": yarn_ext_factor,
            "yarn_attn_factor": yarn_attn_factor,
            "yarn_beta_fast": yarn_beta_fast,
            "yarn_beta_slow": yarn_beta_slow,
            "yarn_orig_ctx": yarn_orig_ctx,
            "type_k": type_k,
            "type_v": type_v,
            "offload_kqv": offload_kqv,
            "op_offload": op_offload,
            "flash_attn": flash_attn,
            "swa_full": swa_full,
            "no_perf": no_perf,
        }
        self._pooling_type = pooling_type
        api = open_library(config)
        path = _expanded(model_path)
        layers = _gpu_layers(api, path, n_gpu_layers)
        self._model = low_level.model_load_from_file(api, path, n_gpu_layers=layers, **model_options)
        self._native = Native(self._model, low_level.AbortFlag())
        self._finalizer = weakref.finalize(self, self._native.finalize)
        try:
            if not vocab_only:
                self._open_context(n_ctx)
            self._session = Session(self._native, _n_keep(self._model) if context_shift else None)
            self._pieces = Pieces(self._native)
            self._crowd = Session(self._native)
            self._scorers: dict[int, Scorer] = {}
            self._template_used: ChatTemplate | ListedTemplate | None = None
            if lora_path is not None:
                from nativeload_llama.adapters import set_lora

                set_lora(self, {lora_path: lora_scale})
        except BaseException:
            self.close()
            raise

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def library(self) -> LoadedLibrary:
        """The native library behind this model: its resolution, devices and path."""
        return self._model.api.loaded

    @property
    def model_path(self) -> str:
        """The model file."""
        return self._model.path

    @property
    def n_ctx(self) -> int:
        """Tokens the context holds."""
        with self._native.entered():
            return self._text_context().n_ctx

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self._model.n_vocab

    @property
    def n_embd(self) -> int:
        """Numbers in an embedding."""
        with self._native.entered():
            self._native.check()
            return low_level.model_n_embd(self._model)

    @property
    def n_ctx_train(self) -> int:
        """Tokens of the context the model was trained with."""
        with self._native.entered():
            self._native.check()
            return low_level.model_n_ctx_train(self._model)

    @property
    def description(self) -> str:
        """llama.cpp's one-line description of the model."""
        with self._native.entered():
            self._native.check()
            return low_level.model_desc(self._model)

    @property
    def metadata(self) -> dict[str, str]:
        """The model file's metadata, as text; arrays are left out."""
        with self._native.entered():
            self._native.check()
            return low_level.model_meta(self._model)

    def token_bos(self) -> int:
        """Return the beginning-of-sequence token, or -1."""
        with self._native.entered():
            self._native.check()
            return low_level.vocab_bos(self._model)

    def token_eos(self) -> int:
        """Return the end-of-sequence token, or -1."""
        with self._native.entered():
            self._native.check()
            return low_level.vocab_eos(self._model)

    # -- tokens --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into token ids.

        Args:
            text: any text; bytes are UTF-8.
            add_special: add the beginning-of-sequence token where the model wants one.
            parse_special: read markers such as ``<|eot|>`` as tokens; leave off for text from outside.
        """
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if not isinstance(words, str):
            raise TypeError(f"text is wanted, not {type(text).__name__}")
        with self._native.entered():
            self._native.check()
            return low_level.tokenize(self._model, words, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """Turn token ids into text; bytes that are no UTF-8 become U+FFFD.

        Args:
            tokens: ids.
            special: write special tokens as their markers instead of leaving them out.
        """
        ids = checked_tokens(tokens)
        with self._native.entered():
            self._native.check()
            if not special and ids and ids[0] == low_level.bos(self._model):
                del ids[0]  # behind it, llama_detokenize keeps the blank that llama_tokenize put before the text
            raw = low_level.detokenize(self._model, ids, remove_special=not special, unparse_special=special)
        return raw.decode("utf-8", "replace")

    def generate(
        self, tokens: Iterable[int], *, max_tokens: int | None = None, **sampling: Unpack[SamplingOptions]
    ) -> Generator[int, None, None]:
        """Yield the tokens that follow a prompt, until the model ends, the context is full or max_tokens are out.

        Args:
            tokens: the prompt, at least one token.
            max_tokens: how many at most (default: no limit but the context).
            sampling: how they are drawn, see `Sampling`: ``temperature``, ``top_k``, ``top_p``, ``seed``, ...

        Raises:
            PromptTooLongError: the prompt does not fit the context.
            BusyError: another generation of this Llama is under way in this thread.
            ValueError: a number that cannot be.
        """
        return self._generation(checked_tokens(tokens), max_tokens, sampling).tokens()

    def _generation(
        self,
        prompt: list[int],
        max_tokens: int | None,
        sampling: SamplingOptions,
        scored: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Check everything about a generation before it begins."""
        limit, how = self._how(max_tokens, sampling)
        with self._native.entered():
            self._check_prompt(prompt)
            draw = Draw(self._model, how, prompt)
        made = Generation(self._session, prompt, limit, draw, draft=self._draft, scored=scored)
        made.owner = self
        return made

    def _how(self, max_tokens: int | None, sampling: SamplingOptions) -> tuple[int | None, Sampling]:
        """Return how many tokens may be drawn, and how; -1 is llama-cpp-python's word for no limit."""
        limit = None if max_tokens is None or operator.index(max_tokens) == -1 else operator.index(max_tokens)
        if limit is not None and limit < 0:
            raise ValueError(f"max_tokens is {max_tokens}, and must be 0 or more, or None for no limit")
        how = Sampling(**checked_words(sampling))
        return limit, how if how.seed is not None else replace(how, seed=self._seed)

    def _check_prompt(self, prompt: list[int]) -> None:
        """Refuse a prompt that cannot be continued; the lock is held."""
        context = self._text_context()
        if not self._generates:
            _check_generates(self._model)
            self._generates = True
        low_level.check_prompt(context, prompt)

    def _open_context(self, n_ctx: int | None) -> None:
        """Make the context that texts are written in."""
        trained = low_level.model_n_ctx_train(self._model) or _LARGEST_DEFAULT_CTX
        usual = min(trained, _LARGEST_DEFAULT_CTX)
        wanted = usual if n_ctx is None else trained if n_ctx == 0 else n_ctx
        options = {**self._context_options, "n_batch": min(self._context_options["n_batch"], max(wanted, 1))}
        with self._native.entered():
            self._native.contexts["text"] = low_level.init_from_model(
                self._model, n_ctx=wanted, abort=self._native.flag, **options
            )

    def _text_context(self) -> Context:
        """Return the context that texts are written in; the lock is held."""
        self._native.check()
        if "text" not in self._native.contexts:
            raise ContextError("only the vocabulary was loaded", hint="Leave out vocab_only=True to generate.")
        return self._native.context("text")

    def _side_context(self, purpose: str, **changes: Any) -> Context:
        """Return another context of the model, made when it is first asked for; the lock is held."""
        context = self._text_context()
        self._native.decoding = 0
        if purpose not in self._native.contexts:
            options = {"n_ctx": context.n_ctx, **self._context_options, **changes}
            from nativeload_llama.adapters import carry_over

            made = low_level.init_from_model(self._model, abort=self._native.flag, **options)
            try:
                carry_over(self, made)
            except BaseException:
                low_level.free(made)
                raise
            self._native.contexts[purpose] = made
        return self._native.context(purpose)

    # -- its end -------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what the context holds; the next prompt is decoded whole."""
        with self._session.alone(), self._native.entered():
            self._text_context()
            self._session.forget()

    def close(self) -> None:
        """Free the contexts and the model; safe at any time, from any thread or signal handler, and more than once."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        context = self._native.contexts.get("text")
        state = "closed" if self._native.closed else f"n_ctx={context.n_ctx}" if context else "vocabulary only"
        return f"<{type(self).__name__} {os.path.basename(self._model.path)} {state}>"


def checked_tokens(tokens: Iterable[int]) -> list[int]:
    """Return token ids as integers; text, floats and booleans are none.

    Raises:
        TypeError: something else was given.
    """
    given = list(tokens)
    if isinstance(tokens, (str, bytes)) or any(isinstance(token, bool) for token in given):
        raise TypeError("tokens are integers; text is tokenized first")
    return [operator.index(token) for token in given]


def _expanded(path: str | Path) -> str:
    """Return a model's path, ``~`` expanded as everywhere else."""
    text = os.path.expanduser(os.fspath(path))
    if not text:
        raise ModelError("model_path", "an empty path")
    return text


def _usual_threads() -> int:
    from nativeload.host.limits import usable_cores

    return max(1, min(low_level.MAX_THREADS, usable_cores() // 2))


def _drafter(given: Draft | OpenedModel | None) -> Draft | None:
    if not isinstance(given, OpenedModel):
        return given
    from nativeload_llama.llama_speculative import DraftModel

    return DraftModel(given)


def _n_keep(model: Model) -> int:
    """Return how many tokens stay at the beginning of a shifted context: the beginning-of-sequence token."""
    return 1 if low_level.bos(model) >= 0 else 0


def _check_generates(model: Model) -> None:
    """Refuse a model that writes nothing.

    Raises:
        ModelError: it needs an encoder pass, or its attention looks ahead: it embeds.
    """
    low_level.check_generates(model)
    causal = low_level.model_meta_val_str(
        model, f"{low_level.model_meta_val_str(model, 'general.architecture')}.attention.causal"
    )
    if causal == "false":
        raise ModelError(model.path, "a model that embeds and does not write", hint="Use embed() or rerank().")


def _gpu_layers(api: Api, path: str, given: int | Literal["auto"]) -> int:
    """Return how many layers go to GPUs: all where there is a GPU they fit in, else as many as fit."""
    if given != "auto":
        return operator.index(given)
    free = sum(one.memory_free for one in low_level.devices(api) if one.type in _GPUS)
    if not free or not os.path.isfile(path):
        return -1  # loading says what is wrong with the path
    from nativeload_llama.gguf import read

    file = read(path)
    layers = file.metadata.get(f"{file.metadata.get('general.architecture')}.block_count", 0)
    return fitting_layers(file.file_size, free, layers if isinstance(layers, int) else 0)


def fitting_layers(size: int, free: int, n_layer: int) -> int:
    """Return how many of a model's layers fit a GPU; -1 is all.

    Args:
        size: the model file, in bytes; a fifth is added for the cache and for what is computed.
        free: the GPU's free memory, in bytes.
        n_layer: the model's layers; one more is what follows the last one.
    """
    needed = size + size // 5
    return -1 if needed <= free else (n_layer + 1) * free // needed


_GPUS = (1, 2)  # ggml_backend_dev_type: GPU, integrated GPU
