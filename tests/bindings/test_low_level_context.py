"""Contexts, batches and their memory: what each function does, and what it refuses because C would end the process."""

from __future__ import annotations

import sys
import threading

import pytest

from nativeload.errors import NotInThisBuild
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import AbortedError, ContextError, ModelError, PromptTooLongError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import AbortFlag, Batch, Context, Model, SingleToken
from tests.bindings import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]
    Make = Callable[..., Context]
    Use = Callable[[], object]


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


@pytest.fixture
def make(model: Model) -> Iterator[Make]:
    """Make contexts on one thread: ``make(n_ctx=256, n_batch=32, ...)``; they are freed at the end."""
    contexts: list[Context] = []

    def made(**options: Any) -> Context:
        usual = {"n_ctx": 256, "n_batch": 32, "n_threads": 1}
        contexts.append(low_level.init_from_model(model, **{**usual, **options}))
        return contexts[-1]

    yield made
    for context in contexts:
        low_level.free(context)


@pytest.fixture
def context(make: Make) -> Context:
    return make()


def feed(context: Context, *tokens: int) -> None:
    low_level.decode(context, low_level.batch_get_one(context, tokens))


def filled(context: Context, *tokens: tuple[int, int, tuple[int, ...], bool], n_seq_max: int = 1) -> Batch:
    """Return a batch of (token, position, sequences, logits)."""
    batch = Batch(context.api, max(len(tokens), 1), n_seq_max)
    for token in tokens:
        batch.add(*token)
    return batch


def likeliest(context: Context, i: int = -1) -> int:
    logits = low_level.get_logits_ith(context, i)
    return max(range(len(logits)), key=logits.__getitem__)


# -- making a context ----------------------------------------------------------------------------------------------


def test_init_from_model(context: Context) -> None:
    """A context knows what llama.cpp settled on, and so do the getters."""
    assert (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max) == (256, 32, 32, 1)
    assert (context.pooling_type, context.n_outputs_max) == (0, 32)
    names = ("n_ctx", "n_ctx_seq", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch", "pooling_type")
    assert [getattr(low_level, name)(context) for name in names] == [256, 256, 32, 32, 1, 1, 1, 0]


def test_options_reach_the_field_of_their_name(make: Make) -> None:
    """Sizes and threads that were asked for are what the getters say."""
    made = make(n_ctx=1024, n_batch=64, n_ubatch=16, n_seq_max=4, n_threads=1, n_threads_batch=2, n_outputs_max=8)
    assert (made.n_ctx, made.n_batch, made.n_ubatch, made.n_seq_max, made.n_outputs_max) == (1024, 64, 16, 4, 8)
    assert low_level.n_ctx_seq(made) == 256
    assert low_level.n_threads_batch(made) == 2
    assert low_level.n_ctx_seq(make(n_ctx=1024, n_seq_max=4, kv_unified=True)) == 1024


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": True},
        {"flash_attn": False},
        {"kv_unified": True},
        {"swa_full": False},
        {"op_offload": False},
        {"offload_kqv": False},
        {"no_perf": False},
        {"n_rs_seq": 1},
        {"attention_type": 0},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"type_k": "bf16", "type_v": 0},
        {"rope_freq_base": 10000.0, "rope_freq_scale": 1.0},
        {"yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0},
        {"rope_scaling_type": 0, "yarn_orig_ctx": 0},
    ],
    ids=" ".join,
)
def test_an_option_that_changes_nothing_much_gives_the_same_token(make: Make, options: dict[str, Any]) -> None:
    """Each option that means the same here, or nearly, still gives the likeliest token of a plain context."""
    plain, other = make(), make(**options)
    for one in (plain, other):
        feed(one, 1, 305, 334, 281)
    assert likeliest(other) == likeliest(plain)


def test_rope_options_change_the_logits(make: Make) -> None:
    """Another frequency base is another position for every token."""
    plain, other = make(), make(rope_freq_base=500.0)
    for one in (plain, other):
        feed(one, 1, 305, 334, 281)
    assert list(low_level.get_logits_ith(plain, -1)) != list(low_level.get_logits_ith(other, -1))


OUT_OF_RANGE = {
    "n_ctx": (0, -1, 2**31),
    "n_batch": (0, -1, 2**31),
    "n_ubatch": (0, 2**31),
    "n_threads": (0, -1, 513, 2**31),
    "n_threads_batch": (0, 513),
    "n_seq_max": (0, 257, 33),
    "n_outputs_max": (0, -1, 2**31),
    "n_rs_seq": (-1, 32, 65),
    "pooling_type": (-2, 5),
    "attention_type": (-2, 2),
    "rope_scaling_type": (-2, 4),
    "rope_freq_base": (-1.0, float("nan"), float("inf")),
    "rope_freq_scale": (-1.0, 1e-9, float("nan")),
    "yarn_ext_factor": (-2.0, float("inf")),
    "yarn_orig_ctx": (-1, 2**31),
    "type_k": ("q6_k", 99, -1, 12),
    "type_v": ("", 24),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_number_that_cannot_be_never_reaches_c(make: Make, name: str, value: object) -> None:
    """The error names the option."""
    with pytest.raises(ContextError, match=name):
        make(**{name: value})


def test_an_option_of_another_library_is_not_in_this_build(api: Api, make: Make) -> None:
    """A field that this llama.h does not have is named; one that no llama.h has is a mistake of the caller's."""
    fields = dict(api.ffi.typeof("struct llama_context_params").fields)
    if "moe_cache_size" not in fields:
        with pytest.raises(NotInThisBuild, match="moe_cache_size"):
            make(moe_cache_size=1)
    with pytest.raises(TypeError, match="n_contexts"):
        make(n_contexts=1)


def test_each_sequence_needs_room_for_an_output(make: Make) -> None:
    """llama.cpp asserts it: n_batch, n_ctx and n_outputs_max are at least n_seq_max."""
    for options in ({"n_batch": 2}, {"n_ctx": 2}, {"n_outputs_max": 2}):
        with pytest.raises(ContextError, match="n_seq_max"):
            make(n_seq_max=4, **options)
    assert make(n_batch=4, n_seq_max=4).n_seq_max == 4


def test_a_model_without_weights_has_no_context(api: Api) -> None:
    """It can tokenize; C would call what is not there."""
    bare = low_level.model_load_from_file(api, bundled_model(), vocab_only=True)
    with pytest.raises(ModelError, match="without weights"):
        low_level.init_from_model(bare, n_ctx=256, n_batch=8, n_threads=1)
    low_level.model_free(bare)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_context_too_large_for_memory_is_refused(run_python: RunPython) -> None:
    """Where llama.cpp cannot have the memory, its words and the size follow, and the next context opens."""
    done = run_python(
        SETUP + "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, -1))\n"
        "try: make(n_ctx=10_000_000)\n"
        "except ContextError as error: print('refused', error, error.hint)\n"
        "feed(make(), 5)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")
    assert "(n_ctx=10000000)" in done.stdout
    assert "smaller n_ctx" in done.stdout


def test_set_n_threads(context: Context) -> None:
    """Both numbers are set, and checked: ggml keeps its threads in arrays of 512."""
    low_level.set_n_threads(context, 2, 3)
    assert (low_level.n_threads(context), low_level.n_threads_batch(context)) == (2, 3)
    for numbers in ((0, 1), (1, 0), (513, 1), (1, 513)):
        with pytest.raises(ContextError, match="n_threads"):
            low_level.set_n_threads(context, *numbers)


def test_check_prompt(context: Context) -> None:
    """Empty, too long, or in order."""
    low_level.check_prompt(context, [5] * 255)
    with pytest.raises(ValueError, match="no tokens"):
        low_level.check_prompt(context, [])
    with pytest.raises(PromptTooLongError, match=r"256.*256"):
        low_level.check_prompt(context, [5] * 256)
    with pytest.raises(ModelError, match="640"):
        low_level.check_prompt(context, [640])


# -- decoding ------------------------------------------------------------------------------------------------------


def test_a_batch_of_several_sequences(make: Make) -> None:
    """Each sequence gets the logits that it gets alone, by the index in the batch."""
    alone, together = make(), make(n_seq_max=2, n_ctx=512)
    texts = ([1, 305, 334], [1, 401, 281])
    expected = []
    for text in texts:
        low_level.memory_clear(alone)
        feed(alone, *text)
        expected.append(likeliest(alone))
    batch = Batch(together.api, 8)
    last = [
        [batch.add(token, pos, (seq,), pos == 2) for pos, token in enumerate(text)][-1]
        for seq, text in enumerate(texts)
    ]
    low_level.decode(together, batch)
    assert last == [2, 5]
    assert [likeliest(together, i) for i in last] == expected
    assert [low_level.memory_seq_pos_max(together, seq) for seq in (0, 1)] == [2, 2]


def test_a_token_of_two_sequences(make: Make) -> None:
    """In a shared cache, a beginning that is common is decoded once."""
    context = make(n_seq_max=2, kv_unified=True)
    low_level.decode(context, filled(context, (1, 0, (0, 1), False), (305, 1, (0, 1), True), n_seq_max=2))
    assert [low_level.memory_seq_pos_max(context, seq) for seq in (0, 1)] == [1, 1]


def test_single_tokens_go_on_as_a_batch_would(make: Make) -> None:
    """A token at a time gives the logits of the whole."""
    one, whole = make(), make()
    feed(whole, 1, 305, 334)
    single = SingleToken(one)
    for token in (1, 305, 334):
        single.decode(token)
    assert low_level.memory_seq_pos_max(one, 0) == 2
    assert likeliest(one) == likeliest(whole)


def test_decode_until_the_context_is_full(context: Context) -> None:
    """Code 1 is a full context: as many tokens fit as it holds, and clearing it makes room."""
    single = SingleToken(context)
    for _ in range(context.n_ctx):
        single.decode(5)
    with pytest.raises(ContextError, match="full") as caught:
        single.decode(5)
    assert caught.value.code == 1
    low_level.memory_clear(context)
    single.decode(5)


@pytest.mark.parametrize("token", [-1, 640, 2**31 - 1, 2**31, -(2**40)])
def test_a_token_that_is_none_is_a_bad_batch(context: Context, token: int) -> None:
    """Code -1, by every way to decode; the context stays usable."""
    uses: tuple[Use, ...] = (lambda: feed(context, token), lambda: SingleToken(context).decode(token))
    for use in uses:
        with pytest.raises(ContextError, match="not valid") as caught:
            use()
        assert caught.value.code == -1
    feed(context, 5)


BAD_BATCHES: dict[str, list[tuple[int, int, tuple[int, ...], bool]]] = {
    "no tokens": [],
    "more than n_batch": [(5, pos, (0,), False) for pos in range(33)],
    "a gap": [(5, 0, (0,), False), (5, 2, (0,), True)],
    "backwards": [(5, 1, (0,), False), (5, 0, (0,), True)],
    "not after what is held": [(5, 7, (0,), True)],
    "a sequence that is not there": [(5, 0, (1,), True)],
    "a sequence beyond all": [(5, 0, (300,), True)],
    "a position beyond all": [(5, 2**31 - 2, (0,), True)],
}


@pytest.mark.parametrize("tokens", BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_a_bad_batch_is_refused(context: Context, tokens: list[tuple[int, int, tuple[int, ...], bool]]) -> None:
    """Code -1, and the context goes on where it was."""
    feed(context, 1, 305)
    with pytest.raises(ContextError, match="not valid") as caught:
        low_level.decode(context, filled(context, *tokens))
    assert caught.value.code == -1
    feed(context, 334)
    assert low_level.memory_seq_pos_max(context, 0) == 2


def test_sequences_with_caches_of_their_own_share_no_token(make: Make) -> None:
    """llama.cpp would say that the context is full."""
    context = make(n_seq_max=2)
    with pytest.raises(ContextError, match="kv_unified"):
        low_level.decode(context, filled(context, (1, 0, (0, 1), True), n_seq_max=2))
    shared = make(n_seq_max=2, kv_unified=True)
    with pytest.raises(ContextError, match="different"):
        low_level.decode(shared, filled(shared, (1, 0, (0, 0), True), n_seq_max=2))


def test_no_more_outputs_than_were_asked_for(make: Make) -> None:
    """llama.cpp asserts n_outputs_max; with embeddings every token is an output."""
    context = make(n_outputs_max=2)
    tokens = [(5, pos, (0,), pos > 0) for pos in range(4)]
    with pytest.raises(ContextError, match=r"3 outputs.*n_outputs_max is 2"):
        low_level.decode(context, filled(context, *tokens))
    low_level.decode(context, filled(context, *tokens[:3]))
    low_level.set_embeddings(context, True)
    with pytest.raises(ContextError, match="3 outputs"):
        feed(context, 5, 5, 5)
    low_level.set_embeddings(context, False)
    feed(context, 5, 5, 5)


def test_attention_that_is_not_causal_takes_no_more_than_is_computed_at_once(make: Make) -> None:
    """llama.cpp asserts n_ubatch there; causal attention takes n_batch."""
    context = make(n_ubatch=8)
    feed(context, *[5] * 32)
    low_level.set_causal_attn(context, False)
    with pytest.raises(ContextError, match="1 to 8"):
        feed(context, *[5] * 9)
    feed(context, *[5] * 8)
    low_level.set_causal_attn(context, True)
    feed(context, *[5] * 9)
    with pytest.raises(ContextError, match="1 to 8"):
        feed(make(n_ubatch=8, attention_type=1), *[5] * 9)


def test_encode_needs_an_encoder(context: Context) -> None:
    """A model that only decodes has none; C would use a cache that it was not given."""
    with pytest.raises(ContextError, match="no encoder"):
        low_level.encode(context, filled(context, (5, 0, (0,), True)))


def test_batch_get_one_refuses_nothing_and_what_is_no_number(context: Context) -> None:
    """An empty batch, and a token that is a text."""
    with pytest.raises(ContextError):
        low_level.batch_get_one(context, [])
    with pytest.raises(ContextError, match="not valid"):
        low_level.batch_get_one(context, ["x"])  # type: ignore[list-item]


# -- ending a decode -----------------------------------------------------------------------------------------------


def test_a_raised_flag_ends_decodes(make: Make) -> None:
    """AbortedError, by every way to decode, until the flag is lowered; the flag can be set later and taken away."""
    flag = AbortFlag()
    context = make(abort=flag)
    flag.set()
    uses: tuple[Use, ...] = (lambda: feed(context, 5), lambda: SingleToken(context).decode(5))
    for use in uses:
        with pytest.raises(AbortedError, match="abort flag"):
            use()
    flag.clear()
    feed(context, 5)
    other = AbortFlag()
    other.set()
    low_level.set_abort_flag(context, other)
    with pytest.raises(AbortedError):
        feed(context, 5)
    low_level.set_abort_flag(context, None)
    feed(context, 5)


def test_a_flag_ends_a_decode_that_is_under_way(make: Make) -> None:
    """Raised from another thread while C computes; what was computed before stays."""
    flag = AbortFlag()
    context = make(n_ctx=4096, n_batch=4096, n_ubatch=64, abort=flag)
    timer = threading.Timer(0.02, flag.set)
    timer.start()

    def read() -> None:
        for _ in range(1000):
            low_level.memory_clear(context)
            feed(context, *[5, 9] * 2048)

    with pytest.raises(AbortedError):
        read()
    timer.join()
    assert low_level.memory_seq_pos_max(context, 0) < 4096


# -- what comes out ------------------------------------------------------------------------------------------------


def test_get_logits_ith_is_cs_own_memory(context: Context) -> None:
    """float32, one for each token of the vocabulary, not copied."""
    feed(context, 1, 305)
    logits: Any = low_level.get_logits_ith(context, -1)
    assert (logits.format, logits.itemsize, len(logits)) == ("f", 4, 640)
    assert list(logits) == list(low_level.get_logits_ith(context, 1))
    logits[3] = 99.0
    assert likeliest(context) == 3


@pytest.mark.parametrize("i", [0, 2, -2, 31, 32, 2**31 - 1, -(2**31), 2**40])
def test_a_token_without_logits(context: Context, i: int) -> None:
    """Only the last token of this batch has any; C knows no more than NULL."""
    feed(context, 1, 305)
    with pytest.raises(ContextError, match="no logits"):
        low_level.get_logits_ith(context, i)


def test_nothing_comes_out_before_a_decode(context: Context) -> None:
    """No logits, no embeddings."""
    uses: tuple[Use, ...] = (
        lambda: low_level.get_logits_ith(context, -1),
        lambda: low_level.get_embeddings_ith(context, -1),
        lambda: low_level.get_embeddings_seq(context, 0),
    )
    for use in uses:
        with pytest.raises(ContextError):
            use()


def test_embeddings_of_tokens(make: Make) -> None:
    """One for each token, as wide as the model; only where they were asked for."""
    context = make(embeddings=True)
    feed(context, 1, 305, 334)
    found = [low_level.get_embeddings_ith(context, i) for i in range(3)]
    assert [len(one) for one in found] == [low_level.model_n_embd(context.model)] * 3
    assert found[0] != found[2]
    with pytest.raises(ContextError, match="sequence 0"):
        low_level.get_embeddings_seq(context, 0)
    with pytest.raises(ContextError, match="token 3"):
        low_level.get_embeddings_ith(context, 3)
    plain = make()
    feed(plain, 1)
    with pytest.raises(ContextError, match="embeddings=True"):
        low_level.get_embeddings_ith(plain, -1)
    low_level.set_embeddings(plain, True)
    feed(plain, 305)
    assert len(low_level.get_embeddings_ith(plain, 0)) == len(found[0])


def test_embeddings_of_sequences(make: Make) -> None:
    """Pooled, each sequence of the last batch has one: the mean of its tokens'."""
    context, tokens = make(embeddings=True, pooling_type=1, n_seq_max=3), make(embeddings=True)
    feed(tokens, 1, 305)
    mean = [sum(pair) / 2 for pair in zip(*(low_level.get_embeddings_ith(tokens, i) for i in (0, 1)), strict=True)]
    batch = filled(context, *[(token, pos, (seq,), True) for seq in (0, 1) for pos, token in enumerate((1, 305))])
    low_level.decode(context, batch)
    assert low_level.get_embeddings_seq(context, 0) == pytest.approx(mean, abs=1e-4)
    assert low_level.get_embeddings_seq(context, 1) == pytest.approx(mean, abs=1e-4)
    with pytest.raises(ContextError, match="sequence 2"):
        low_level.get_embeddings_seq(context, 2)
    for seq in (-1, 3, 300):
        with pytest.raises(ContextError, match="between 0 and 2"):
            low_level.get_embeddings_seq(context, seq)
    with pytest.raises(ContextError, match="pooled"):
        low_level.get_embeddings_ith(context, 0)


# -- memory --------------------------------------------------------------------------------------------------------


def test_memory_clear(context: Context) -> None:
    """A cleared context has room again, and forgets: the same prompt gives the same token."""
    drawn = set()
    for round_ in range(20):
        low_level.memory_clear(context, data=round_ % 2 == 1)
        assert low_level.memory_seq_pos_max(context, 0) == -1
        feed(context, *[5] * 30)
        drawn.add(likeliest(context))
    assert len(drawn) == 1


def test_ranges_of_a_sequence(make: Make) -> None:
    """Remove, copy, keep: positions say what is held."""
    context = make(n_seq_max=3, kv_unified=True)

    def held() -> list[tuple[int, int]]:
        ends = low_level.memory_seq_pos_min, low_level.memory_seq_pos_max
        return [(ends[0](context, seq), ends[1](context, seq)) for seq in range(3)]

    feed(context, 1, 305, 334, 281)
    assert held() == [(0, 3), (-1, -1), (-1, -1)]
    low_level.memory_seq_cp(context, 0, 1, 0, 2)
    low_level.memory_seq_cp(context, 0, 2, -1, -1)
    assert held() == [(0, 3), (0, 1), (0, 3)]
    assert low_level.memory_seq_rm(context, 0, 2, -1) is True
    assert held() == [(0, 1), (0, 1), (0, 3)]
    low_level.memory_seq_keep(context, 2)
    assert held() == [(-1, -1), (-1, -1), (0, 3)]
    assert low_level.memory_seq_rm(context, -1, -1, -1) is True
    assert held() == [(-1, -1)] * 3


def test_positions_can_be_moved_and_divided(context: Context) -> None:
    """What was held goes on at its new positions."""
    feed(context, 1, 305, 334, 281)
    assert low_level.memory_can_shift(context) is True
    low_level.memory_seq_rm(context, 0, 0, 2)
    low_level.memory_seq_add(context, 0, 2, -1, -2)
    assert (low_level.memory_seq_pos_min(context, 0), low_level.memory_seq_pos_max(context, 0)) == (0, 1)
    feed(context, 401)
    low_level.memory_seq_div(context, 0, -1, -1, 2)
    assert (low_level.memory_seq_pos_min(context, 0), low_level.memory_seq_pos_max(context, 0)) == (0, 1)
    feed(context, 401)
    assert low_level.memory_seq_pos_max(context, 0) == 2


def test_positions_that_cannot_be_are_refused(context: Context) -> None:
    """Moved below 0 or beyond 2**30, divided by nothing; an empty range changes nothing."""
    feed(context, 1, 305)
    for delta in (-1, 2**30, 2**31, -(2**40)):
        with pytest.raises(ContextError, match="cannot be moved"):
            low_level.memory_seq_add(context, 0, -1, -1, delta)
    for divisor in (0, -1, 2**31):
        with pytest.raises(ContextError, match="cannot be divided"):
            low_level.memory_seq_div(context, 0, -1, -1, divisor)
    low_level.memory_seq_add(context, 0, 5, -1, -3)
    assert low_level.memory_seq_pos_max(context, 0) == 1


def test_a_sequence_or_position_that_is_none_never_reaches_c(context: Context) -> None:
    """C asserts the first and computes with the second."""

    def uses(seq: int) -> Iterator[Use]:
        yield lambda: low_level.memory_seq_rm(context, seq, 0, -1)
        yield lambda: low_level.memory_seq_cp(context, 0, seq, -1, -1)
        yield lambda: low_level.memory_seq_cp(context, seq, 0, -1, -1)
        yield lambda: low_level.memory_seq_keep(context, seq)
        yield lambda: low_level.memory_seq_add(context, seq, 0, -1, 1)
        yield lambda: low_level.memory_seq_div(context, seq, 0, -1, 2)
        yield lambda: low_level.memory_seq_pos_min(context, seq)
        yield lambda: low_level.memory_seq_pos_max(context, seq)

    for seq in (-2, 1, 256, 2**31):
        for use in uses(seq):
            with pytest.raises(ContextError, match="sequence"):
                use()
    for span in ((-2, 3), (0, 2**31), (2**40, -1)):
        with pytest.raises(ContextError, match="positions"):
            low_level.memory_seq_rm(context, 0, *span)


def test_a_part_cannot_be_copied_between_caches(make: Make) -> None:
    """Where each sequence has a cache, llama.cpp asserts that all of it is copied."""
    context = make(n_seq_max=2, n_ctx=512)
    feed(context, 1, 305, 334)
    with pytest.raises(ContextError, match="kv_unified"):
        low_level.memory_seq_cp(context, 0, 1, 0, 2)
    low_level.memory_seq_cp(context, 0, 1, -1, -1)
    low_level.decode(context, filled(context, (281, 3, (0,), True), (281, 3, (1,), True)))
    assert likeliest(context, 0) == likeliest(context, 1)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "iq4_nl", "bf16"])
def test_a_cache_of_such_numbers_cannot_be_shifted(make: Make, kind: str) -> None:
    """The CPU backend crashes over them with the next decode."""
    context = make(type_k=kind)
    feed(context, 1, 305)
    assert low_level.memory_can_shift(context) is False
    uses: tuple[Use, ...] = (
        lambda: low_level.memory_seq_add(context, 0, -1, -1, 1),
        lambda: low_level.memory_seq_div(context, 0, -1, -1, 2),
    )
    for use in uses:
        with pytest.raises(ContextError, match="cannot be changed"):
            use()
    feed(context, 334)


def test_a_mean_of_several_sequences_takes_as_many_tokens_for_each(make: Make) -> None:
    """llama.cpp's dry run asserts it since build 9538: sizes are rounded up, and other outputs are not enough."""
    context = make(embeddings=True, pooling_type=1, n_seq_max=5, n_batch=32, n_ubatch=16)
    assert (context.n_ubatch, context.n_batch) == (20, 32)
    assert make(pooling_type=4, n_seq_max=3, n_batch=32).n_batch == 33
    if "n_outputs_max" in dict(context.api.ffi.typeof("struct llama_context_params").fields):
        with pytest.raises(ContextError, match="a mean needs"):
            make(embeddings=True, pooling_type=1, n_outputs_max=8)


# -- models of other kinds -----------------------------------------------------------------------------------------


@pytest.fixture
def of_kind(api: Api, tmp_path: Path) -> Iterator[Callable[..., Context]]:
    """Make a context of a model of another kind: ``of_kind("bert", embeddings=True)``."""
    contexts: list[Context] = []

    def made(kind: str, **options: Any) -> Context:
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(kinds.write(kind))
        model = low_level.model_load_from_file(api, str(path))
        contexts.append(low_level.init_from_model(model, **{"n_ctx": 256, "n_batch": 32, "n_threads": 1, **options}))
        return contexts[-1]

    yield made
    for context in contexts:
        low_level.free(context)
        low_level.model_free(context.model)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_of_model_decodes(of_kind: Callable[..., Context], kind: str) -> None:
    """Each gives as many logits as it has tokens, or an embedding."""
    context = of_kind(kind, embeddings=kind == "bert")
    if kind == "t5":
        low_level.encode(context, low_level.batch_get_one(context, [1, 2, 3]))
    feed(context, 1, 2, 3)
    if kind == "bert":
        assert len(low_level.get_embeddings_seq(context, 0)) == kinds.WIDTH
    else:
        assert len(low_level.get_logits_ith(context, -1)) == kinds.TOKENS
        SingleToken(context).decode(4)
        assert low_level.memory_seq_pos_max(context, 0) == 3


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_learned_positions_end(of_kind: Callable[..., Context], kind: str) -> None:
    """Such a model has a table of positions, and ggml asserts its length."""
    context = of_kind(kind, n_batch=128)
    with pytest.raises(ContextError, match="below 64"):
        feed(context, *[1] * 65)
    feed(context, *[1] * 64)
    if kind == "gpt2":
        with pytest.raises(ContextError, match="64 positions"):
            SingleToken(context).decode(1)
        with pytest.raises(ContextError, match="position 64"):
            feed(context, 1)


def test_an_encoder_takes_what_is_computed_at_once(of_kind: Callable[..., Context]) -> None:
    """A model without a memory computes a batch whole, by encode() and decode() alike; it forgets nothing."""
    context = of_kind("bert", n_ubatch=8, embeddings=True)
    for call in (low_level.encode, low_level.decode):
        with pytest.raises(ContextError, match="1 to 8"):
            call(context, low_level.batch_get_one(context, [1] * 9))
        call(context, low_level.batch_get_one(context, [1] * 8))
    low_level.memory_clear(context)
    assert low_level.memory_seq_rm(context, 0, -1, -1) is True
    assert (low_level.memory_seq_pos_max(context, 0), low_level.memory_can_shift(context)) == (-1, False)


def test_a_decoder_waits_for_its_encoder(of_kind: Callable[..., Context]) -> None:
    """llama.cpp asserts that something was encoded, and that all sequences share a cache."""
    context = of_kind("t5")
    uses: tuple[Use, ...] = (lambda: feed(context, 1), lambda: SingleToken(context).decode(1))
    for use in uses:
        with pytest.raises(ContextError, match=r"after encode\(\)"):
            use()
    low_level.encode(context, low_level.batch_get_one(context, [1, 2]))
    feed(context, 1)
    with pytest.raises(ContextError, match="one cache for all"):
        of_kind("t5", n_seq_max=2)
    assert of_kind("t5", n_seq_max=2, kv_unified=True).n_seq_max == 2


def test_a_state_is_copied_and_forgotten_whole(of_kind: Callable[..., Context]) -> None:
    """A recurrent model has no tokens to choose among; False is not forgotten."""
    context = of_kind("mamba", n_seq_max=2)
    feed(context, 1, 2, 3)
    assert low_level.memory_seq_rm(context, 0, 1, -1) is False
    with pytest.raises(ContextError, match="alone cannot be copied"):
        low_level.memory_seq_cp(context, 0, 1, 0, 2)
    low_level.memory_seq_cp(context, 0, 1, -1, -1)
    assert low_level.memory_seq_pos_max(context, 1) == 2
    assert low_level.memory_seq_rm(context, -1, -1, -1) is True
    assert low_level.memory_seq_pos_max(context, 0) == -1


# -- negative controls: what C does with what is refused above -----------------------------------------------------

SETUP = """
import os
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ContextError
from nativeload_llama.library import open_library
from nativeload_llama.low_level import Batch
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
def make(**options):
    return low_level.init_from_model(model, **{"n_ctx": 256, "n_batch": 32, "n_threads": 1, **options})
def feed(context, *tokens):
    low_level.decode(context, low_level.batch_get_one(context, tokens))
def raw(context, name, *arguments):
    api.function("llama_memory_" + name)(api.function("llama_get_memory")(context.pointer), *arguments)
"""

ABORTS = {
    "more tokens than n_batch": "batch = low_level.batch_get_one(make(n_batch=64), [5] * 33)\n"
    "api.function('llama_decode')(make().pointer, batch.native)",
    "more outputs than n_outputs_max": "context = make(n_outputs_max=1)\nbatch = Batch(api, 2)\n"
    "batch.add(5, 0, (0,), True); batch.add(5, 1, (0,), True)\n"
    "api.function('llama_decode')(context.pointer, batch.native)",
    "an encoder that is not there": "context = make()\n"
    "api.function('llama_encode')(context.pointer, low_level.batch_get_one(context, [5]).native)",
    "a sequence that is not there": "raw(make(), 'seq_pos_max', 300)",
    "a part between caches": "raw(make(n_seq_max=2), 'seq_cp', 0, 1, 0, 2)",
    "a mean of tokens that its sequences do not share": "params = api.function('llama_context_default_params')()\n"
    "params.embeddings, params.pooling_type, params.n_seq_max, params.n_ubatch = True, 1, 3, 32\n"
    "api.function('llama_init_from_model')(model.pointer, params)",
    "a shift of quantized numbers": "context = make(type_k='q8_0')\nfeed(context, 5, 6)\n"
    "raw(context, 'seq_add', 0, 0, -1, 1)\nfeed(context, 7)",
}


@pytest.mark.parametrize("code", ABORTS.values(), ids=ABORTS.keys())
def test_c_ends_the_process_over_what_is_refused(run_python: RunPython, code: str) -> None:
    """Were it not so, the checks above could go."""
    done = run_python(SETUP + code + "\nprint('alive')")
    assert done.returncode != 0
    assert "alive" not in done.stdout


@pytest.mark.shared_data
def test_heads_that_are_no_whole_blocks_have_no_quantized_cache(api: Api, shared_data: Path) -> None:
    """A head of 8 numbers does not fill a block of 32; C notices it with flash attention alone."""
    small = low_level.model_load_from_file(api, str(shared_data / "ref260k.gguf"))
    for flash in (None, True, False):
        with pytest.raises(ContextError, match="multiple of 32, not of 8"):
            low_level.init_from_model(small, n_ctx=256, n_batch=8, n_threads=1, type_k="q8_0", flash_attn=flash)
    low_level.model_free(small)
