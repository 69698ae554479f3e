"""What C reads and writes: batches, candidates, and the flag that ends a decode from another thread."""

from __future__ import annotations

import array
import ctypes
import gc
import threading
import time

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import AbortedError, ClosedError, ContextError, ModelError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import AbortFlag, Batch, Candidates, Context, Model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


def prompt(api: Api, first: int, count: int) -> Batch:
    """Return tokens at positions from ``first``; the last one gets logits."""
    batch = Batch(api, count)
    for place in range(count):
        batch.add(5 + place % 600, first + place, logits=place == count - 1)
    return batch


# -- the abort flag ------------------------------------------------------------------------------------------------


@pytest.fixture
def flag() -> AbortFlag:
    return AbortFlag()


@pytest.fixture
def context(model: Model, flag: AbortFlag) -> Iterator[Context]:
    """A context that takes seconds to fill."""
    made = low_level.init_from_model(model, n_ctx=8192, n_batch=8192, n_ubatch=512, n_threads=1, abort=flag)
    yield made
    low_level.free(made)


def test_a_flag_ends_a_decode_from_another_thread(context: Context, flag: AbortFlag) -> None:
    """At once; what was decoded in whole physical batches stays, and the context goes on from there."""
    batch = prompt(context.api, 0, 8000)
    started = time.perf_counter()
    low_level.decode(context, batch)
    whole = time.perf_counter() - started
    low_level.memory_clear(context)
    threading.Timer(whole / 4, flag.set).start()
    started = time.perf_counter()
    with pytest.raises(AbortedError) as caught:
        low_level.decode(context, batch)
    assert time.perf_counter() - started < whole / 2
    assert caught.value.code == 2
    assert flag.raised
    held = low_level.memory_seq_pos_max(context, 0) + 1
    assert held % 512 == 0
    assert 0 <= held < 8000

    with pytest.raises(AbortedError):  # it stays raised
        low_level.decode(context, prompt(context.api, held, 1))
    flag.clear()
    assert not flag.raised
    low_level.decode(context, prompt(context.api, held, 100))
    assert low_level.memory_seq_pos_max(context, 0) == held + 99
    again = list(low_level.get_logits_ith(context, -1))
    low_level.memory_clear(context)
    low_level.decode(context, prompt(context.api, 0, held)) if held else None
    low_level.decode(context, prompt(context.api, held, 100))
    assert list(low_level.get_logits_ith(context, -1)) == again


def test_a_flag_costs_no_python(context: Context) -> None:
    """C asks a function of C: no Python runs in a decode, also while another thread does."""
    batch = prompt(context.api, 0, 512)
    low_level.decode(context, batch)
    stop = threading.Event()
    turns = 0

    def busy() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1

    other = threading.Thread(target=busy)
    other.start()
    low_level.memory_clear(context)
    started = time.process_time()
    low_level.decode(context, batch)
    spent = time.process_time() - started
    stop.set()
    other.join()
    assert turns > 100
    assert spent < 10


def test_a_flag_that_everybody_has_forgotten(model: Model) -> None:
    """The context keeps it alive: C goes on reading it."""
    context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1, abort=AbortFlag())
    gc.collect()
    fill = [bytearray(b"\1\0") for _ in range(10_000)]
    low_level.decode(context, prompt(model.api, 0, 32))
    low_level.set_abort_flag(context, None)
    del fill
    gc.collect()
    low_level.decode(context, prompt(model.api, 32, 32))
    low_level.free(context)


def test_what_a_flag_answers(api: Api) -> None:
    """C's callback returns whether it is raised."""
    flag = AbortFlag()
    callback, data = flag.callback(api)
    assert not callback(data)
    flag.set()
    assert callback(data)
    assert flag.raised
    flag.clear()
    assert not callback(data)
    address = int(api.ffi.cast("uintptr_t", callback))
    assert ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p)(address)(b"twelve bytes") == 12  # it is strlen


# -- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_holds_what_was_added(api: Api) -> None:
    """Each token with its position, sequences and wish for logits; cleared, it begins again."""
    batch = Batch(api, 3, n_seq_max=2)
    for _ in range(2):
        assert len(batch) == 0
        assert [batch.add(7, 0), batch.add(8, 5, (1, 0), logits=True)] == [0, 1]
        native = batch.native
        assert len(batch) == native.n_tokens == 2
        assert [native.token[place] for place in range(2)] == [7, 8]
        assert [native.pos[place] for place in range(2)] == [0, 5]
        assert [[native.seq_id[place][one] for one in range(native.n_seq_id[place])] for place in range(2)] == [
            [0],
            [1, 0],
        ]
        assert [native.logits[place] for place in range(2)] == [0, 1]
        assert native.embd == native.seq_id[3] == api.ffi.NULL
        batch.clear()


BAD_TOKENS: list[tuple[Any, ...]] = [
    (-1, 0),
    (2**31, 0),
    (1, -1),
    (1, 2**31),
    (1, 0, ()),
    (1, 0, (0, 1, 2)),
    (1, 0, (-1,)),
]


@pytest.mark.parametrize("given", BAD_TOKENS, ids=str)
def test_tokens_that_cannot_be_added(api: Api, given: tuple[Any, ...]) -> None:
    """C would read what is not there; the batch is as it was."""
    batch = Batch(api, 2, n_seq_max=2)
    with pytest.raises(ContextError) as caught:
        batch.add(*given)
    assert caught.value.code == -1
    assert len(batch) == 0


def test_a_sequence_number_that_c_cannot_hold(api: Api) -> None:
    """It is refused too."""
    batch = Batch(api, 2)
    with pytest.raises((ContextError, OverflowError)):
        batch.add(1, 0, (2**31,))
    assert len(batch) == 0


def test_a_full_batch(api: Api) -> None:
    """It takes no more."""
    batch = Batch(api, 2)
    batch.add(1, 0)
    batch.add(1, 1)
    with pytest.raises(ContextError, match="it holds 2"):
        batch.add(1, 2)
    assert len(batch) == 2


@pytest.mark.parametrize(("capacity", "sequences"), [(0, 1), (-1, 1), (1, 0), (-1, -1), (2**24 + 1, 1), (2**20, 2**20)])
def test_batches_that_cannot_be(api: Api, capacity: int, sequences: int) -> None:
    """No tokens, no sequences, or more than anybody needs."""
    with pytest.raises(ContextError, match="cannot be made"):
        Batch(api, capacity, sequences)


# -- candidates ----------------------------------------------------------------------------------------------------


def logits(*values: float) -> memoryview:
    return memoryview(array.array("f", values))


def test_candidates_are_filled_again_and_again(api: Api) -> None:
    """Each token with its logit, in order, whatever a sampler has made of the array before."""
    candidates = Candidates(api, 4)
    top = low_level.sampler_init_top_k(api, 2)
    for _ in range(3):
        candidates.fill(logits(0.5, 3, -1, 2))
        assert [(candidates.token(place), candidates.logit(place)) for place in range(4)] == [
            (0, 0.5), (1, 3.0), (2, -1.0), (3, 2.0),
        ]  # fmt: skip
        assert candidates.selected == -1
        low_level.sampler_apply(top, candidates)
        assert [candidates.token(place) for place in range(candidates.size)] == [1, 3]
    low_level.sampler_free(top)


def test_a_sampler_chooses(api: Api) -> None:
    """The chosen token's place, and probabilities that add up."""
    candidates = Candidates(api, 3)
    candidates.fill(logits(1, 5, 2))
    dist = low_level.sampler_init_dist(api, 1)
    low_level.sampler_apply(dist, candidates)
    assert 0 <= candidates.selected < 3
    assert sum(candidates.p(place) for place in range(3)) == pytest.approx(1)
    low_level.sampler_free(dist)


def test_one_candidate(api: Api) -> None:
    """A single token, to ask a sampler about."""
    candidates = Candidates(api, 4)
    candidates.only(3, 1.5)
    assert (candidates.size, candidates.token(0), candidates.logit(0), candidates.p(0)) == (1, 3, 1.5, 0.0)
    candidates.fill(logits(0, 0, 0, 0))
    assert candidates.size == 4


@pytest.mark.parametrize("token", [-1, 4])
def test_a_candidate_outside_the_vocabulary(api: Api, token: int) -> None:
    """It is refused: samplers look it up."""
    with pytest.raises(ModelError, match=f"token {token}"):
        Candidates(api, 4).only(token)


@pytest.mark.parametrize("given", [logits(), logits(1, 2, 3), logits(1, 2, 3, 4, 5)], ids=len)
def test_logits_of_another_vocabulary(api: Api, given: memoryview) -> None:
    """There must be as many as tokens."""
    with pytest.raises(ModelError, match=f"{len(given)} logits for 4 tokens"):
        Candidates(api, 4).fill(given)


@pytest.mark.parametrize("place", [-1, 1, 4])
def test_a_place_that_is_none(api: Api, place: int) -> None:
    """Beyond the candidates that are left is an IndexError."""
    candidates = Candidates(api, 4)
    for ask in (candidates.token, candidates.logit, candidates.p):
        with pytest.raises(IndexError, match=str(place)):
            ask(place)


@pytest.mark.parametrize("count", [0, -1, 2**31])
def test_no_candidates(api: Api, count: int) -> None:
    """A vocabulary without tokens has none."""
    with pytest.raises(ModelError):
        Candidates(api, count)


def test_a_context_keeps_things_of_its_own(model: Model) -> None:
    """What one context keeps alive is not another's."""
    first, second = (Context(model.api, model, None, 1, 1, 1, 1, 0, 1) for _ in range(2))
    first.keep["flag"] = 1
    assert second.keep == {}


def test_what_was_freed_is_refused(api: Api) -> None:
    """A second free does nothing; every use after the first is ClosedError."""
    model = low_level.model_load_from_file(api, bundled_model())
    context = low_level.init_from_model(model, n_ctx=64, n_batch=64, n_threads=1)
    single, batch = low_level.SingleToken(context), prompt(api, 5, 4)
    low_level.free(context)
    low_level.free(context)
    uses: list[Callable[[], object]] = [
        lambda: single.decode(5),
        lambda: low_level.decode(context, batch),
        lambda: low_level.get_logits_ith(context, -1),
        lambda: low_level.memory_clear(context),
        lambda: low_level.state_get_data(context),
        lambda: low_level.n_ctx(context),
    ]
    low_level.model_free(model)
    low_level.model_free(model)
    uses += [
        lambda: low_level.tokenize(model, "x", add_special=True, parse_special=False),
        lambda: low_level.model_desc(model),
        lambda: low_level.vocab_bos(model),
        lambda: low_level.init_from_model(model, n_ctx=64, n_batch=64, n_threads=1),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="freed"):
            use()
    assert "Model" in repr(model)
