"""The life of a Llama: one generation at a time, closing at any time, and what it can be made of."""

from __future__ import annotations

import pytest

from nativeload.errors import NativeLoadError
from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import BusyError, ClosedError, ContextError, LlamaError, ModelError, PromptTooLongError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PROMPT = "Once upon a time"


def greedy(llama: Llama, tokens: list[int], count: int | None = None) -> list[int]:
    return list(llama.generate(tokens, temperature=0, max_tokens=count))


def test_a_second_generator_in_the_same_thread_is_busy(llama: Llama) -> None:
    """It would wait for itself; after the first one is closed it works."""
    first, second = llama.generate([1], max_tokens=4), llama.generate([1], max_tokens=4)
    next(first)
    with pytest.raises(BusyError, match=r"close\(\)"):
        next(second)
    first.close()
    assert len(greedy(llama, [1], 4)) == 4


@pytest.mark.parametrize("verb", ["generate", "stream"])
def test_an_abandoned_generator_lets_go(llama: Llama, verb: str) -> None:
    """A generator that nobody holds any more blocks nobody."""
    start: Callable[..., Iterator[object]] = getattr(llama, verb)
    generator = start([1] if verb == "generate" else PROMPT, max_tokens=8)
    next(generator)
    del generator
    assert greedy(llama, [1], 1)


def test_a_generator_never_started_holds_nothing(llama: Llama) -> None:
    """Only the first step takes the context."""
    waiting = llama.generate([1], temperature=0, max_tokens=2)
    assert greedy(llama, [1], 2) == list(waiting)


def test_tokenizing_goes_on_while_a_generator_waits(llama: Llama) -> None:
    """A suspended generation leaves the tokenizer free."""
    running = llama.generate([1], temperature=0)
    next(running)
    assert llama.tokenize(PROMPT)
    assert llama.description
    assert next(running) >= 0


def test_close_ends_a_suspended_generation(llama: Llama) -> None:
    """The next step of a generator whose Llama was closed raises ClosedError."""
    running = llama.generate([1], temperature=0)
    next(running)
    llama.close()
    with pytest.raises(ClosedError):
        next(running)


def test_everything_is_refused_after_close(llama: Llama) -> None:
    """close() may come twice; then every verb raises ClosedError, and the object can still be shown."""
    llama.close()
    llama.close()
    uses: list[Callable[[], object]] = [
        lambda: llama.tokenize("x"),
        lambda: llama.detokenize([1]),
        lambda: llama.generate([1]),
        lambda: llama.stream("x"),
        lambda: llama.complete("x"),
        lambda: llama.n_ctx,
        lambda: llama.description,
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
    assert "closed" in repr(llama)


def test_a_with_block_closes() -> None:
    """Leaving the block closes, also by an exception, which goes on."""
    with pytest.raises(ZeroDivisionError), Llama(bundled_model(), n_threads=1) as llama:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        llama.tokenize("x")


def test_two_at_once_do_not_disturb_each_other(llama: Llama) -> None:
    """Two Llamas interleaved step by step give what each gives alone."""
    prompt, other_prompt = llama.tokenize(PROMPT), llama.tokenize("The dog")
    alone, other_alone = greedy(llama, prompt, 16), greedy(llama, other_prompt, 16)
    with Llama(bundled_model(), n_threads=1, n_ctx=256) as other:
        pairs = list(
            zip(
                llama.generate(prompt, temperature=0, max_tokens=16),
                other.generate(other_prompt, temperature=0, max_tokens=16),
                strict=True,
            )
        )
    assert [pair[0] for pair in pairs] == alone
    assert [pair[1] for pair in pairs] == other_alone


# -- what it is ----------------------------------------------------------------------------------------------------


def test_it_says_what_it_is(llama: Llama) -> None:
    """The facts of model, context and library can be read, and repr() names the file and the context."""
    assert llama.n_vocab == 640
    assert llama.n_ctx == 512
    assert "llama" in llama.description
    assert llama.library.library == "llama"
    assert llama.library.devices
    assert repr(llama) == "<Llama stories.gguf n_ctx=512>"


def test_a_context_is_at_least_what_was_asked_for() -> None:
    """llama.cpp may round a context up, never down."""
    with Llama(bundled_model(), n_threads=1, n_ctx=300) as llama:
        assert llama.n_ctx >= 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_threads": 0},
        {"n_threads": -1},
        {"n_threads": 2**31},
        {"n_ctx": -5},
        {"n_ctx": 10**12},
        {"n_batch": 0},
        {"n_batch": -3},
    ],
    ids=str,
)
def test_a_size_that_cannot_be_is_a_context_error(wrong: dict[str, Any]) -> None:
    """ContextError names the argument, its value and the bound that it breaks."""
    name, value = next(iter(wrong.items()))
    with pytest.raises(ContextError, match=f"{name}.*{value}") as caught:
        Llama(bundled_model(), **{"n_threads": 1, **wrong})
    assert ("at least 1" in str(caught.value)) == (value < 1)


@pytest.mark.parametrize(
    "wrong", [{"n_gpu_layers": 10**12}, {"seed": -2}, {"seed": 2**32}, {"seed": 0.5}, {"n_ctx": 256.5}], ids=str
)
def test_an_argument_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """No other exception than these leaves the constructor for a wrong number."""
    with pytest.raises((LlamaError, ValueError, TypeError)):
        Llama(bundled_model(), **{"n_threads": 1, **wrong})


def test_every_error_is_one_of_ours() -> None:
    """A program can catch all of them by one name."""
    for error in (ModelError, ContextError, PromptTooLongError, ClosedError, BusyError):
        assert issubclass(error, LlamaError)
        assert issubclass(error, NativeLoadError)


def test_nothing_of_a_closed_llama_reads_freed_memory(run_python: Callable[..., Any]) -> None:
    """Every verb and property after close(), with freed memory overwritten: errors of ours, and no death."""
    done = run_python(
        """
from nativeload_llama import Llama, bundled_model
llama = Llama(bundled_model(), n_threads=1)
state = llama.save_state()
llama.complete("x", max_tokens=1)
llama.close()
said = []
for name in sorted(dir(Llama)):
    if name.startswith("_") or name in {"close", "from_pretrained"}:
        continue
    for given in ((), ("x",), (["x"],), ([1],), ([{"role": "user", "content": "x"}],), (state,), ("x", ["y"]), ({},)):
        try:
            found = getattr(llama, name)
            found = found(*given) if callable(found) else found
            if hasattr(found, "__next__"):
                next(found)
        except Exception as error:
            said.append(type(error).__name__)
print(len(said) > 50, "ClosedError" in said)
""",
        environment={"MALLOC_PERTURB_": "165"},
    )
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr
