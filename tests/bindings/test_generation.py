"""What a context holds from one generation to the next, and how a generation ends early."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time

import pytest

from nativeload_llama import (
    AbortedError,
    AdapterError,
    BusyError,
    Llama,
    LlamaPromptLookupDecoding,
    bundled_model,
    low_level,
)
from nativeload_llama.generation import _common
from nativeload_llama.native import _Aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

PROMPT = "Once upon a time there was a small girl named Lucy. She had a red ball. "


def cached(llama: Llama, prompt: str) -> int:
    answer = llama.create_completion(prompt, max_tokens=1, temperature=0)
    return int(answer.usage.prompt_tokens_details.cached_tokens)


# -- the beginning of a prompt -------------------------------------------------------------------------------------


def test_a_prompt_that_begins_as_the_last_one_is_not_decoded_again(llama: Llama) -> None:
    """Only what is new is; the text is the same as from an empty context."""
    assert cached(llama, PROMPT) == 0
    count = len(llama.tokenize(PROMPT))
    assert cached(llama, PROMPT) == count - 1  # the last token is decoded for its logits
    assert cached(llama, PROMPT + "The dog") >= count - 1
    assert cached(llama, "The dog") == 1  # the beginning-of-sequence token
    again = llama.complete(PROMPT, temperature=0, max_tokens=32)
    llama.reset()
    assert cached(llama, PROMPT) == 0
    llama.reset()
    assert llama.complete(PROMPT, temperature=0, max_tokens=32) == again


def test_a_conversation_goes_on_where_it_was(llama: Llama) -> None:
    """What was generated is held too."""
    text = llama.complete(PROMPT, temperature=0, max_tokens=16)
    tokens = llama.tokenize(PROMPT + text)
    assert cached(llama, PROMPT + text + " Then") >= min(len(tokens), len(llama.tokenize(PROMPT)) + 14)


def test_a_long_prompt_leaves_no_thread_behind(llama: Llama) -> None:
    """Also where the native library logs from within it."""
    before = threading.active_count()
    for _ in range(3):
        llama.reset()
        llama.complete(PROMPT * 5, max_tokens=1)
    generation = llama._generation(llama.tokenize(PROMPT * 20)[:500], None, {})
    llama.reset()
    threading.Timer(0.001, generation.cancel).start()
    with contextlib.suppress(AbortedError):
        list(generation.tokens())
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the timer's own
    assert threading.active_count() <= before


def test_common_beginnings() -> None:
    """Whatever the lengths."""
    for left, right, count in [([], [], 0), ([1], [2], 0), ([1, 2, 3], [1, 2, 4, 5], 2), ([1, 2], [1, 2, 3], 2)]:
        assert _common(left, right) == _common(right, left) == count
    long = list(range(1000))
    for place in (0, 1, 499, 500, 998, 999):
        other = list(long)
        other[place] = -1
        assert _common(long, other) == place


# -- a full context ------------------------------------------------------------------------------------------------


def test_a_full_context_shifts_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The older half goes, the beginning-of-sequence token stays, and the text goes on beyond the context."""
    monkeypatch.setattr(low_level, "vocab_is_eog", lambda *_: False)
    with Llama(bundled_model(), n_threads=1, n_ctx=256, context_shift=True) as llama:
        size = llama.n_ctx
        tokens = list(llama.generate(llama.tokenize(PROMPT), temperature=0, max_tokens=3 * size))
        assert len(tokens) == 3 * size
        assert llama._session.held[0] == 1
        assert len(llama._session.held) < size


# -- drafts --------------------------------------------------------------------------------------------------------


def test_guesses_that_come_true_cost_less_and_change_nothing(llama: Llama) -> None:
    """Greedy with prompt lookup writes the same text, in fewer decodes."""
    prompt = llama.tokenize(PROMPT * 3)
    plain = list(llama.generate(prompt, temperature=0, max_tokens=60))
    with Llama(bundled_model(), n_threads=1, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=4)) as guessing:
        generation = guessing._generation(prompt, 60, {"temperature": 0})
        assert list(generation.tokens()) == plain
        assert 0 < generation.accepted <= generation.drafted


def test_a_smaller_model_guesses(llama: Llama) -> None:
    """A Llama as draft_model; with the same model, every guess comes true."""
    prompt = llama.tokenize(PROMPT)
    plain = list(llama.generate(prompt, temperature=0, max_tokens=40))
    with Llama(bundled_model(), n_threads=1) as small, Llama(bundled_model(), n_threads=1, draft_model=small) as big:
        generation = big._generation(prompt, 40, {"temperature": 0})
        assert list(generation.tokens()) == plain
        assert generation.accepted > generation.drafted * 0.8


def test_likelihoods_are_right_behind_guesses(llama: Llama) -> None:
    """Each token's is read from the row it was drawn from."""
    plain = llama.create_completion(PROMPT * 3, temperature=0, max_tokens=40, logprobs=0).choices[0].logprobs
    with Llama(bundled_model(), n_threads=1, draft_model=LlamaPromptLookupDecoding()) as guessing:
        found = guessing.create_completion(PROMPT * 3, temperature=0, max_tokens=40, logprobs=0).choices[0].logprobs
    assert plain is not None
    assert found is not None
    assert found.token_logprobs == pytest.approx(plain.token_logprobs, abs=2e-2)


def test_lookup_finds_what_followed_before() -> None:
    """The latest occurrence, the longest n-gram, and no guess where there is none."""
    lookup = LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=3)
    assert list(lookup([1, 2, 3, 4, 5, 1, 2])) == [3, 4, 5]
    assert list(lookup([9, 2, 7, 1, 2, 8, 1, 2])) == [8, 1, 2]
    assert list(lookup([1, 2, 3])) == []
    assert list(lookup([])) == []
    with pytest.raises(ValueError, match="num_pred_tokens"):
        LlamaPromptLookupDecoding(num_pred_tokens=0)


# -- ending early --------------------------------------------------------------------------------------------------


def test_breaking_out_of_a_stream_ends_it(llama: Llama) -> None:
    """The next generation does not wait."""
    for _ in llama.create_completion(PROMPT, stream=True):
        break
    with llama.stream(PROMPT) as stream:
        next(stream)
    assert llama.complete(PROMPT, max_tokens=2, temperature=0)


def test_a_generation_is_cancelled_from_another_thread(llama: Llama) -> None:
    """In the middle of its decode, with an error that says so; the context works on."""
    expected = llama.complete(PROMPT, temperature=0, max_tokens=16)
    generation = llama._generation(llama.tokenize(PROMPT), None, {})
    tokens = generation.tokens()
    next(tokens)
    threading.Timer(0.02, generation.cancel).start()
    with pytest.raises(AbortedError, match="cancelled"):  # noqa: PT012 - the wait lets the other thread in
        for _ in tokens:
            time.sleep(0.001)
    assert llama.complete(PROMPT, temperature=0, max_tokens=16) == expected


async def _read(llama: Llama, count: int) -> list[str]:
    pieces = []
    async for piece in llama.stream(PROMPT, temperature=0):
        pieces.append(piece)
        if len(pieces) == count:
            break
    return pieces


def test_an_async_reader_reads_the_same(llama: Llama) -> None:
    """Piece by piece, without blocking its event loop, and it may stop where it likes."""
    pieces = list(llama.stream(PROMPT, temperature=0))
    assert asyncio.run(_read(llama, 10**6)) == pieces
    assert asyncio.run(_read(llama, 3)) == pieces[:3]
    assert list(llama.stream(PROMPT, temperature=0)) == pieces


def test_a_cancelled_task_ends_its_generation(llama: Llama) -> None:
    """The decode under way ends too."""

    async def cancelled() -> None:
        async def read() -> None:
            while True:
                async for _ in llama.stream(PROMPT):
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert llama.complete(PROMPT, max_tokens=2, temperature=0)


def test_what_is_written_outlives_the_name_of_its_llama() -> None:
    """A stream holds its Llama."""
    assert "".join(Llama(bundled_model(), n_threads=1).stream(PROMPT, temperature=0, max_tokens=4))
    assert list(Llama(bundled_model(), n_threads=1).generate([1], max_tokens=2))


def test_readers_of_one_llama_take_turns(llama: Llama) -> None:
    """Several tasks at once, and one that breaks out and goes on in its own thread."""
    expected = llama.complete(PROMPT, temperature=0, max_tokens=12)

    async def read() -> str:
        return "".join([piece async for piece in llama.stream(PROMPT, temperature=0, max_tokens=12)])

    async def several() -> list[str]:
        return await asyncio.gather(*(read() for _ in range(9)))

    assert asyncio.run(several()) == [expected] * 9

    async def broken() -> None:
        async with llama.stream(PROMPT) as stream:
            async for _ in stream:
                break
        unread = llama.stream(PROMPT)
        await anext(unread)
        with pytest.raises(BusyError):
            llama.complete(PROMPT, max_tokens=1)
        await unread.aclose()
        assert llama.complete(PROMPT, temperature=0, max_tokens=12) == expected

    asyncio.run(broken())


def test_a_stream_is_closed_while_another_thread_reads_it(llama: Llama) -> None:
    """The reader's step ends, and so does the work."""
    stream = llama.stream(PROMPT, logit_bias={2: float("-inf")})
    next(stream)
    pieces: list[str] = []

    def read() -> None:
        with contextlib.suppress(AbortedError):
            pieces.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()
    stream.close()
    reader.join(20)
    assert not reader.is_alive()
    assert llama.complete(PROMPT, max_tokens=2, temperature=0)


def test_an_error_that_is_kept_leaves_the_llama_free(llama: Llama) -> None:
    """Its traceback holds no turn."""
    with pytest.raises(AdapterError) as caught:
        llama.set_lora({"missing.gguf": 1.0})
    assert llama.complete(PROMPT, max_tokens=2, temperature=0)
    assert caught.value.path.endswith("missing.gguf'") or "missing" in caught.value.path


def test_cancelling_one_turn_ends_no_other(llama: Llama) -> None:
    """A stream that never began is cancelled; another one's decode goes on."""
    waiting = llama._generation(llama.tokenize(PROMPT), None, {})
    running = llama.generate(llama.tokenize(PROMPT), temperature=0, max_tokens=8)
    next(running)
    waiting.cancel()
    assert len(list(running)) == 7
    with pytest.raises(AbortedError):
        list(waiting.tokens())


def test_reset_waits_for_its_turn(llama: Llama) -> None:
    """In the middle of a generation of the same thread it is refused."""
    running = llama.generate([1], max_tokens=4)
    next(running)
    with pytest.raises(BusyError):
        llama.reset()
    running.close()
    llama.reset()


def test_a_shift_that_is_interrupted_is_not_trusted(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the context holds then is not known, so the next prompt is decoded whole."""
    monkeypatch.setattr(low_level, "vocab_is_eog", lambda *_: False)
    with Llama(bundled_model(), n_threads=1, n_ctx=256, context_shift=True) as shifting:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - one after the other
            patch.setattr(low_level, "memory_seq_add", _interrupted)
            list(shifting.generate(shifting.tokenize(PROMPT), temperature=0, max_tokens=400))
        assert cached(shifting, PROMPT) == 0


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_processor_has_logits_of_its_own(llama: Llama) -> None:
    """They stay what they are, are processed once also under a grammar, and likelihoods know nothing of them."""
    kept: list[Any] = []

    def process(_: list[int], logits: Any) -> None:
        kept.append(logits)
        logits[5] += 1000.0

    options: dict[str, Any] = {"temperature": 0, "max_tokens": 3, "logits_processor": process}
    list(llama.generate([1], **options))
    values = [list(one) for one in kept]
    llama.complete(PROMPT, max_tokens=4)
    assert [list(one) for one in kept] == values
    kept.clear()
    answer = llama.create_completion(PROMPT, grammar='root ::= "yes" | "no"', **options)
    assert len(kept) == answer.usage.completion_tokens == 3
    forced = llama.create_completion([1], logprobs=0, **options).choices[0].logprobs
    assert forced is not None
    assert all(value is not None and value < -1 for value in forced.token_logprobs)


def test_a_callback_cannot_use_the_llama_that_calls_it(llama: Llama) -> None:
    """It would wait for itself."""

    def process(*_: object) -> None:
        llama.tokenize("x")

    with pytest.raises(BusyError, match="callback"):
        list(llama.generate([1], logits_processor=process))


CTRL_C = """
import signal, time
from nativeload_llama import Llama, bundled_model
llama = Llama(bundled_model(), n_threads=1, n_ctx=512)
expected = llama.complete("Once upon a time", temperature=0, max_tokens=8)
signal.signal(signal.SIGALRM, signal.default_int_handler)
raised = 0
for place in range(40):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0005 * place)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            llama.reset()
            llama.complete("The dog " * 100, max_tokens=3)
    except KeyboardInterrupt:
        raised += 1
    assert llama.complete("Once upon a time", temperature=0, max_tokens=8) == expected
print(raised)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that raises a signal")
def test_ctrl_c_ends_a_prompt_and_nothing_breaks(run_python: RunPython) -> None:
    """At whatever moment it comes, it is a KeyboardInterrupt, and the next text is right."""
    done = run_python(CTRL_C)
    assert (done.returncode, done.stdout.strip()) == (0, "40"), done.stderr


def test_a_call_that_its_caller_was_torn_from_is_waited_for(llama: Llama) -> None:
    """Ctrl-C upon Ctrl-C may leave a call alone in C: the next step waits for it, and its flag ends nothing else."""
    running = llama.generate([1], temperature=0, max_tokens=8)
    expected = list(llama.generate([1], temperature=0, max_tokens=8))
    next(running)
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(20)

    aside = _Aside(llama._native, work)
    llama._native.aside = aside
    threading.Thread(target=aside.run).start()
    begun.wait(20)
    threading.Timer(0.1, go.set).start()
    assert [expected[0], *running] == expected
    assert aside.over
    assert llama._native.aside is None
