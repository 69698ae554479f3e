"""What does a model write, and what else can be had of it?

One rule: the verbs stand here in the words people know; how they work stands in the modules they call.
"""

from __future__ import annotations

import operator
import os

from nativeload_llama import low_level
from nativeload_llama.completion import Echo, PromptScores, Writer, chunks, whole
from nativeload_llama.errors import ModelError
from nativeload_llama.opened import OpenedModel, checked_tokens
from nativeload_llama.sampling import Draw
from nativeload_llama.stream import Stream
from nativeload_llama.text import checked_stops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal, Self, Unpack, overload

    from nativeload_llama.adapters import LoraAdapter, Vectors
    from nativeload_llama.chat.completion import ListedTemplate
    from nativeload_llama.chat.template import ChatTemplate
    from nativeload_llama.embedding import Pooling, Texts
    from nativeload_llama.likelihood import Scorer
    from nativeload_llama.low_level import ContextPerf
    from nativeload_llama.options import (
        ChatOptions,
        CompletionOptions,
        ManyOptions,
        Message,
        SamplingOptions,
        StoppingCriteria,
        TextOptions,
    )
    from nativeload_llama.reranking import Reranked
    from nativeload_llama.shapes import (
        ChatCompletion,
        ChatCompletionChunk,
        Completion,
        CompletionChunk,
        Embedding,
    )
    from nativeload_llama.state import LlamaState
    from nativeload_llama.text import Pieces


class Llama(OpenedModel):
    """A model and what it writes.

    Args:
        model_path: a GGUF file.
        config: which native library to use (default: what the environment and the config file say).
        n_ctx: tokens the context holds (default: the model's training context, at most 4096; 0: all of it).
        n_batch: tokens that one step of prompt processing takes.
        n_ubatch: tokens that are computed at once within it.
        n_threads: CPU threads, at most 512 (default: half of the cores this process may use).
        n_threads_batch: CPU threads of prompt processing (default: as n_threads).
        n_gpu_layers: layers to keep on GPUs; -1 is all, ``"auto"`` what fits there.
        split_mode: 0 one GPU, 1 layers over all, 2 rows over all.
        main_gpu: the GPU that is used alone, or holds the small tensors.
        tensor_split: how much each GPU takes, as proportions.
        vocab_only: load the vocabulary alone: tokenizing works, nothing else does.
        use_mmap: map the file instead of reading it.
        use_mlock: keep it in memory.
        kv_overrides: metadata to replace.
        seed: of every generation that names none itself (default: a random one each time).
        rope_scaling_type, rope_freq_base, rope_freq_scale, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast,
            yarn_beta_slow, yarn_orig_ctx: other positions than the model's own.
        type_k, type_v: the ggml_type of cached keys and values (1 is F16, 8 is Q8_0).
        offload_kqv: keep them where their layers are.
        op_offload: let a GPU compute what the CPU holds, in large batches.
        flash_attn: use it, do not, or (None) let llama.cpp decide.
        swa_full: keep the whole cache of models with a sliding window.
        no_perf: do not measure how long things take.
        pooling_type: how embeddings of tokens become one: 0 none, 1 mean, 2 first, 3 last, 4 rank.
        context_shift: drop the older half of a full context and go on, instead of ending there.
        lora_path: a LoRA adapter to begin with.
        lora_scale: its strength.
        draft_model: guesses tokens that are then checked together: `LlamaPromptLookupDecoding`, or a smaller `Llama`.
        chat_format: the name of a chat format instead of the model's own template.
        chat_template: a Jinja template instead of it.
        progress: told the fraction loaded, 0 to 1; returning False ends the loading.
        verbose, logits_all, embedding, last_n_tokens_size: of llama-cpp-python, accepted and without effect: native
            lines go to `logging`, and logits and embeddings need no flag here.

    Raises:
        ModelError: the file is no model that llama.cpp can load.
        ContextError: no memory for the context, or a size that cannot be.
        NativeLoadError: no library (`LibraryNotFoundError`, `LoadError`, `IntegrityError`, ...).
    """

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        *,
        revision: str | None = None,
        additional_files: Sequence[str] = (),
        local_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> Self:
        """Fetch a model from a Hub into the Hub's own cache, and open it.

        Args:
            repo_id: such as ``ggml-org/gemma-3-270m-GGUF``.
            filename: the file, or a pattern such as ``*Q8_0.gguf`` that matches one (or the parts of one).
            revision: a branch, a tag or a commit.
            additional_files: more files, or patterns, to fetch beside it.
            local_dir: a directory to put the files in instead of the cache.
            cache_dir: another cache than huggingface_hub's own.
            token: for repositories that are not public.
            endpoint: another Hub.
            options: those of `Llama`.

        Raises:
            ModelError: no such file, or more than one that matches.
            NetworkError: the Hub cannot be reached, and the file is not in the cache.
        """
        from nativeload_llama.pretrained import fetch

        path = fetch(
            repo_id,
            filename,
            revision=revision,
            additional_files=tuple(additional_files),
            local_dir=local_dir,
            cache_dir=cache_dir,
            token=token,
            endpoint=endpoint,
        )
        return cls(path, **options)

    def stream(self, prompt: str | Sequence[int], **options: Unpack[TextOptions]) -> Stream[str]:
        """Return the text that follows a prompt, piece by piece; the options are those of `create_completion`.

        A piece never ends inside a character: bytes are kept until it is whole.
        """
        limit, stop = options.pop("max_tokens", None), options.pop("stop", None)
        writer = self._writer(self._prompt_tokens(prompt), limit, stop, options)
        return Stream(writer.texts(), writer.generation)

    def complete(self, prompt: str | Sequence[int], **options: Unpack[TextOptions]) -> str:
        """Return the text that follows a prompt; the options are those of `create_completion`."""
        return "".join(self.stream(prompt, **options))

    if TYPE_CHECKING:

        @overload
        def create_completion(
            self,
            prompt: str | Sequence[int],
            suffix: str | None = ...,
            *,
            stream: Literal[False] = ...,
            **options: Unpack[CompletionOptions],
        ) -> Completion: ...
        @overload
        def create_completion(
            self,
            prompt: str | Sequence[int],
            suffix: str | None = ...,
            *,
            stream: Literal[True],
            **options: Unpack[CompletionOptions],
        ) -> Stream[CompletionChunk]: ...

    def create_completion(
        self,
        prompt: str | Sequence[int],
        suffix: str | None = None,
        *,
        max_tokens: int | None = None,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        model: str | None = None,
        stopping_criteria: StoppingCriteria | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Completion | Stream[CompletionChunk]:
        """Continue a prompt, in OpenAI's shape.

        Args:
            prompt: text, in which markers of the model count, or tokens.
            suffix: what shall follow the completion, for models trained to fill in the middle.
            max_tokens: how many tokens at most (default: until the model ends or the context is full).
            logprobs: report this many likeliest tokens for each one.
            echo: put the prompt before its continuation.
            stop: texts that end the completion and are not part of it.
            stream: return chunks as they come instead of the whole.
            model: the name to report (default: the file's).
            stopping_criteria: asked after each token, with all tokens and the logits of the last one, whether to stop.
            sampling: how tokens are drawn, see `Sampling`.

        Raises:
            PromptTooLongError, BusyError, ValueError: as `generate`.
            ModelError: a suffix, and the model has no tokens for filling in.
        """
        tokens = self._prompt_tokens(prompt, suffix)
        scorer = None if logprobs is None else self._scorer(logprobs)
        before, scored = Echo(), None
        if echo:
            before = Echo(prompt if isinstance(prompt, str) else self.detokenize(tokens))
            if scorer is not None:
                scored = PromptScores(self._native, self._pieces, scorer, tokens, before.text)
                before = Echo(before.text, scored.entries)
        writer = self._writer(tokens, max_tokens, stop, sampling, scorer=scorer, until=stopping_criteria, scored=scored)
        name = os.path.basename(self.model_path) if model is None else model
        if stream:
            return Stream(chunks(writer, name, before, logprobs=scorer is not None), writer.generation)
        return whole(writer, name, before, logprobs=scorer is not None)

    __call__ = create_completion

    # -- chat ----------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def create_chat_completion(
            self, messages: Sequence[Message], *, stream: Literal[False] = ..., **options: Unpack[ChatOptions]
        ) -> ChatCompletion: ...
        @overload
        def create_chat_completion(
            self, messages: Sequence[Message], *, stream: Literal[True], **options: Unpack[ChatOptions]
        ) -> Stream[ChatCompletionChunk]: ...

    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        model: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> ChatCompletion | Stream[ChatCompletionChunk]:
        """Answer a conversation, in OpenAI's shape.

        Args:
            messages: ``{"role": ..., "content": ...}``, as the model's template wants them.
            tools: functions that the model may call.
            tool_choice: ``"auto"``, ``"none"``, ``"required"``, or one function by name.
            response_format: ``{"type": "json_object"}``, with a ``schema``, or OpenAI's ``json_schema``.
            max_tokens: how many tokens at most (default: until the model ends or the context is full).
            stop: texts that end the answer; those of the template come beside them.
            stream: return chunks as they come.
            logprobs: report each token's likelihood.
            top_logprobs: report this many likeliest tokens beside it.
            model: the name to report (default: the file's).
            sampling: how tokens are drawn, see `Sampling`.

        Raises:
            TemplateError: the template refuses these messages.
            GrammarError: the schema cannot be followed.
            PromptTooLongError, BusyError, ValueError: as `generate`.
        """
        from nativeload_llama.chat.completion import Answer, conversation

        asked = conversation(
            self,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
            stops=checked_stops(stop),
            grammar=sampling.get("grammar"),
        )
        rivals = (top_logprobs or 0) if logprobs or top_logprobs is not None else None
        answer = Answer(self, asked, max_tokens, sampling, top_logprobs=rivals, model=model)
        return answer.stream() if stream else answer.whole()

    # -- many ----------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def generate_many(
            self,
            prompts: Sequence[str | Sequence[int]],
            *,
            stream: Literal[False] = ...,
            **options: Unpack[ManyOptions],
        ) -> list[Completion]: ...
        @overload
        def generate_many(
            self, prompts: Sequence[str | Sequence[int]], *, stream: Literal[True], **options: Unpack[ManyOptions]
        ) -> Stream[tuple[int, str]]: ...

    def generate_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        n_parallel: int | None = None,
        stream: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Completion] | Stream[tuple[int, str]]:
        """Continue many prompts at once: one batch for all, in a context of its own.

        Args:
            prompts: texts, or tokens.
            max_tokens: how many tokens at most for each; it decides how much memory a text takes.
            stop: texts that end one.
            n_parallel: texts written at once (default: 16, fewer where that took over four times the memory of one).
            stream: return pieces as they come: (place of the prompt, text), an empty text at the end of each.
            sampling: how tokens are drawn, see `Sampling`; a seed is that of each text.

        Returns:
            the completions in the order of the prompts.
        """
        from nativeload_llama.many import Many, completions

        if isinstance(prompts, (str, bytes)):
            raise TypeError("prompts is a list of texts, not one text")
        if n_parallel is not None and operator.index(n_parallel) < 1:
            raise ValueError(f"n_parallel is {n_parallel}, and must be at least 1")
        tokens = [self._prompt_tokens(prompt) for prompt in prompts]
        limit, how = self._how(max_tokens, sampling)
        with self._native.entered():
            for one in tokens:
                self._check_prompt(one)
            Draw(self._model, how).free()
        many = Many(self, tokens, limit, how, stops=checked_stops(stop), n_parallel=n_parallel)
        if stream:
            return Stream(many.written(), many)
        return completions(many, os.path.basename(self.model_path))

    # -- embeddings ----------------------------------------------------------------------------------------------

    def embed(
        self,
        input: Texts,  # noqa: A002 - OpenAI's name
        *,
        normalize: bool = False,
        truncate: bool = True,
        pooling: Pooling | None = None,
        return_count: bool = False,
    ) -> Any:
        """Return the embedding of a text, or of each of several; see `nativeload_llama.embedding.embed`."""
        from nativeload_llama import embedding

        return embedding.embed(
            self, input, normalize=normalize, truncate=truncate, pooling=pooling, return_count=return_count
        )

    def create_embedding(
        self,
        input: Texts,  # noqa: A002
        model: str | None = None,
        *,
        normalize: bool = False,
        truncate: bool = True,
        pooling: Pooling | None = None,
    ) -> Embedding:
        """Return embeddings in OpenAI's shape; see `nativeload_llama.embedding.create_embedding`."""
        from nativeload_llama import embedding

        return embedding.create_embedding(self, input, model, normalize=normalize, truncate=truncate, pooling=pooling)

    def rerank(self, query: str, documents: Sequence[str], top_n: int | None = None) -> list[Reranked]:
        """Order documents by how well they answer a query; see `nativeload_llama.reranking.rerank`."""
        from nativeload_llama import reranking

        return reranking.rerank(self, query, documents, top_n)

    # -- adapters and state --------------------------------------------------------------------------------------

    def load_lora(self, path: str | Path) -> LoraAdapter:
        """Load a LoRA adapter without using it; see `nativeload_llama.adapters.load_lora`."""
        from nativeload_llama import adapters

        return adapters.load_lora(self, path)

    def set_lora(self, lora: Mapping[str | Path | LoraAdapter, float]) -> None:
        """Use these LoRA adapters at these strengths, ``{}`` for none; see `nativeload_llama.adapters.set_lora`."""
        from nativeload_llama import adapters

        adapters.set_lora(self, lora)

    def lora_adapters(self) -> dict[str, float]:
        """Return the LoRA adapters in use, with their strengths."""
        from nativeload_llama import adapters

        return adapters.lora_adapters(self)

    def set_control_vector(
        self, vector: str | Path | Vectors | None, *, scale: float = 1.0, layers: tuple[int, int] | None = None
    ) -> None:
        """Steer the model by a control vector; see `nativeload_llama.adapters.set_control_vector`."""
        from nativeload_llama import adapters

        adapters.set_control_vector(self, vector, scale=scale, layers=layers)

    def save_state(self) -> LlamaState:
        """Return what the context holds; `load_state` goes on from there."""
        from nativeload_llama import state

        return state.save_state(self)

    def load_state(self, saved: LlamaState) -> None:
        """Put a saved state in place of what the context holds.

        Raises:
            StateError: it is of another model, context or build, or damaged; nothing has changed then.
        """
        from nativeload_llama import state

        state.load_state(self, saved)

    def speed(self) -> ContextPerf:
        """Return how long prompts and texts took, as llama.cpp measured it; needs ``no_perf=False``."""
        with self._native.entered():
            return low_level.perf_context(self._text_context())

    # -- what the verbs stand on ---------------------------------------------------------------------------------

    def _template(self) -> ChatTemplate | ListedTemplate:
        """Return the template of conversations: the one that was asked for, else the model's, else ChatML."""
        if self._template_used is None:
            from nativeload_llama.chat import completion, template

            bos, eos = self._mark(self.token_bos()), self._mark(self.token_eos())
            made: ChatTemplate | ListedTemplate
            if self._chat_template is not None:
                made = template.ChatTemplate(self._chat_template, bos_token=bos, eos_token=eos)
            elif self._chat_format is not None:
                made = template.named(self._chat_format, bos=bos, eos=eos)
            else:
                made = completion.template_of(self, bos, eos)
            self._template_used = made
        return self._template_used

    def _mark(self, token: int) -> str:
        """Return the text of a special token; empty where the model has none."""
        return self.detokenize([token], special=True) if token >= 0 else ""

    def _writer(
        self,
        tokens: list[int],
        max_tokens: int | None,
        stop: str | Sequence[str] | None,
        sampling: SamplingOptions,
        *,
        scorer: Scorer | None = None,
        until: StoppingCriteria | None = None,
        scored: PromptScores | None = None,
        pieces: Pieces | None = None,
    ) -> Writer:
        """Check everything about a text before it is begun."""
        stops = checked_stops(stop)
        generation = self._generation(tokens, max_tokens, sampling, scored)
        return Writer(generation, pieces or self._pieces, stops, scorer, until)

    def _scorer(self, count: int) -> Scorer:
        """Return what computes likelihoods: it is as large as the vocabulary, and kept."""
        from nativeload_llama.likelihood import Scorer

        if count not in self._scorers:
            with self._native.entered():
                self._native.check()
                self._scorers[count] = Scorer(self._model, count)
        return self._scorers[count]

    def _prompt_tokens(self, prompt: str | Sequence[int], suffix: str | None = None) -> list[int]:
        """Return the tokens of a prompt; in text, the model's markers count."""
        if suffix is not None:
            return self._infill_tokens(prompt, suffix)
        if isinstance(prompt, (str, bytes)):
            return self.tokenize(prompt, parse_special=True)
        return checked_tokens(prompt)

    def _infill_tokens(self, prompt: str | Sequence[int], suffix: str) -> list[int]:
        """Return the tokens that ask for what stands between a prompt and a suffix."""
        with self._native.entered():
            self._native.check()
            marks = [getattr(low_level, f"vocab_fim_{name}")(self._model) for name in ("pre", "suf", "mid")]
            first = low_level.bos(self._model)
        if min(marks) < 0:
            raise ModelError(
                self.model_path, "a model that was not trained to fill in the middle", hint="Leave out suffix."
            )
        before = (
            self.tokenize(prompt, add_special=False) if isinstance(prompt, (str, bytes)) else checked_tokens(prompt)
        )
        after = self.tokenize(suffix, add_special=False)
        return [*([first] if first >= 0 else []), marks[0], *before, marks[1], *after, marks[2]]
