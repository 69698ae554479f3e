"""How a model is opened: what is loaded, what is told on the way, and where its layers go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from nativeload.errors import NativeLoadError
from nativeload_llama import AbortedError, ContextError, Llama, ModelError, bundled_model
from nativeload_llama.opened import fitting_layers

if TYPE_CHECKING:
    from pathlib import Path


def test_the_model_says_what_it_is(llama: Llama) -> None:
    """Its sizes, its special tokens and its metadata."""
    assert (llama.n_ctx_train, llama.n_embd, llama.n_vocab) == (512, 128, 640)
    assert (llama.token_bos(), llama.token_eos()) == (1, 2)
    assert llama.metadata["general.architecture"] == "llama"
    assert llama.model_path == bundled_model()


def test_progress_is_told_and_can_stop_a_load() -> None:
    """From 0 to 1; False ends it with an error of its own, and an exception comes out as it is."""
    told: list[float] = []
    Llama(bundled_model(), n_threads=1, progress=told.append).close()
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert told == sorted(told)
    with pytest.raises(AbortedError):
        Llama(bundled_model(), n_threads=1, progress=lambda part: part < 0.5)

    def interrupt(_: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Llama(bundled_model(), n_threads=1, progress=interrupt)


def test_a_vocabulary_can_be_opened_alone() -> None:
    """It tokenizes; whatever needs the weights says that they are not there."""
    with Llama(bundled_model(), vocab_only=True) as llama:
        assert llama.detokenize(llama.tokenize("The dog")) == "The dog"
        assert repr(llama) == "<Llama stories.gguf vocabulary only>"
        for use in (lambda: llama.complete("x"), lambda: llama.n_ctx, llama.reset, llama.save_state):
            with pytest.raises(ContextError, match="vocab_only"):
                use()


def test_a_context_of_nought_is_the_model_s_own() -> None:
    """llama-cpp-python's word for it."""
    with Llama(bundled_model(), n_threads=1, n_ctx=0) as llama:
        assert llama.n_ctx == 512


def test_metadata_can_be_replaced() -> None:
    """Of the four kinds that llama.cpp knows."""
    with Llama(bundled_model(), n_threads=1, kv_overrides={"llama.context_length": 128}) as llama:
        assert llama.n_ctx_train == 128


def use_all(**options: Any) -> None:
    """Open the story model, and use what looks at its options late."""
    with Llama(bundled_model(), n_threads=1, **options) as llama:
        llama.create_chat_completion([{"role": "user", "content": "x"}], max_tokens=1)
        llama.create_embedding("x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_batch": 0},
        {"n_ubatch": -1},
        {"rope_freq_base": math.nan},
        {"rope_scaling_type": 99},
        {"type_k": 9999},
        {"main_gpu": 99},
        {"tensor_split": [math.nan]},
        {"split_mode": 77},
        {"kv_overrides": {"x" * 200: 1}},
        {"kv_overrides": {"x": object()}},
        {"chat_format": "no such format"},
        {"lora_path": "missing.gguf"},
        {"n_gpu_layers": "many"},
        {"n_gpu_layers": -2},
        {"pooling_type": 99},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """At the latest when it is first used, and by an exception, never by the end of Python."""
    with pytest.raises((NativeLoadError, ValueError, TypeError)):
        use_all(**wrong)


@pytest.mark.parametrize(
    ("size", "free", "n_layer", "layers"),
    [(10, 100, 4, -1), (100, 120, 4, -1), (100, 60, 9, 5), (100, 1, 9, 0), (0, 0, 0, -1)],
)
def test_layers_go_where_they_fit(size: int, free: int, n_layer: int, layers: int) -> None:
    """All, or the share that the GPU's free memory has room for."""
    assert fitting_layers(size, free, n_layer) == layers


def test_a_path_that_is_no_model_is_said_before_anything_else(tmp_path: Path) -> None:
    """Whatever else is asked for."""
    with pytest.raises(ModelError, match="No such file"):
        Llama(tmp_path / "missing.gguf", n_gpu_layers="auto")
