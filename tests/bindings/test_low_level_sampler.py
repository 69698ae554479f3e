"""Samplers: what each makes of the candidates, which numbers are refused, and what never ends the process."""

from __future__ import annotations

import math

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ContextError, GrammarError, ModelError, SamplerError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import Candidates, Context, Model, Sampler, SingleToken

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    RunPython = Callable[..., subprocess.CompletedProcess[str]]
    Make = Callable[[Model], Sampler]
    Use = Callable[[], object]

NAN, INF = math.nan, math.inf


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    """A context that has read the beginning of a story."""
    made = low_level.init_from_model(model, n_ctx=512, n_batch=64, n_threads=1)
    begin(made)
    yield made
    low_level.free(made)


def begin(context: Context, text: str = "Once upon a time") -> None:
    low_level.memory_clear(context)
    tokens = low_level.tokenize(context.model, text, add_special=True, parse_special=False)
    low_level.decode(context, low_level.batch_get_one(context, tokens))


def chain_of(*samplers: Sampler) -> Sampler:
    chain = low_level.sampler_chain_init(samplers[0].api)
    for sampler in samplers:
        low_level.sampler_chain_add(chain, sampler)
    return chain


def drawn(context: Context, chain: Sampler, count: int = 12) -> list[int]:
    """Return the tokens that a chain draws after the beginning, up to the end of the text."""
    begin(context)
    single, tokens = SingleToken(context), list[int]()
    for _ in range(count):
        tokens.append(low_level.sampler_sample(chain, context))
        if low_level.vocab_is_eog(context.model, tokens[-1]):
            break
        single.decode(tokens[-1])
    return tokens


def text_of(model: Model, tokens: list[int]) -> str:
    return b"".join(low_level.token_to_piece(model, token) for token in tokens).decode()


def applied(context: Context, *samplers: Sampler, logits: list[float] | None = None) -> Candidates:
    """Return the candidates as some samplers leave them, of the context's logits or of others."""
    import array

    candidates = Candidates(context.api, context.model.n_vocab)
    given = low_level.get_logits_ith(context, -1)
    candidates.fill(given if logits is None else memoryview(array.array("f", logits)))
    for sampler in samplers:
        low_level.sampler_apply(sampler, candidates)
    return candidates


# -- what each sampler does ----------------------------------------------------------------------------------------


def test_greedy_takes_the_largest_logit(api: Api, context: Context) -> None:
    """By itself or in a chain."""
    logits = low_level.get_logits_ith(context, -1)
    expected = max(range(len(logits)), key=logits.__getitem__)
    assert low_level.sampler_sample(low_level.sampler_init_greedy(api), context) == expected
    assert low_level.sampler_sample(chain_of(low_level.sampler_init_greedy(api)), context, -1) == expected


def test_dist_draws_by_its_seed(api: Api, context: Context) -> None:
    """The same seed draws the same tokens, another one others; its seed can be asked for."""
    texts = [
        drawn(context, chain_of(low_level.sampler_init_temp(api, 1.5), low_level.sampler_init_dist(api, seed)))
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert low_level.sampler_get_seed(low_level.sampler_init_dist(api, 4711)) == 4711


def test_samplers_that_leave_tokens_out(api: Api, context: Context) -> None:
    """Each keeps what its number says, of logits that halve the probability from token to token."""
    logits = [-math.log(2) * min(token, 100) for token in range(640)]

    def kept(sampler: Sampler) -> list[int]:
        candidates = applied(context, sampler, logits=logits)
        places = range(candidates.size)
        return sorted(candidates.token(place) for place in places if candidates.logit(place) > -INF)

    assert kept(low_level.sampler_init_top_k(api, 3)) == [0, 1, 2]
    assert len(kept(low_level.sampler_init_top_k(api, 0))) == 640
    assert kept(low_level.sampler_init_top_p(api, 0.8)) == [0, 1, 2]
    assert kept(low_level.sampler_init_top_p(api, 0.1, 4)) == [0, 1, 2, 3]
    assert kept(low_level.sampler_init_min_p(api, 0.2)) == [0, 1, 2]
    assert kept(low_level.sampler_init_typical(api, 0.2)) == [1]
    assert kept(low_level.sampler_init_temp(api, 0.0)) == [0]
    assert kept(low_level.sampler_init_xtc(api, 1.0, 0.1, 1, 5))[0] == 2
    assert kept(low_level.sampler_init_top_n_sigma(api, 0.01))[0] == 0
    assert len(kept(low_level.sampler_init_top_n_sigma(api, 0.01))) < 10
    assert len(kept(low_level.sampler_init_top_n_sigma(api, -1))) == 640


def test_temperatures_divide_logits(api: Api, context: Context) -> None:
    """temp by its number; temp_ext by one that depends on the entropy."""
    logits = [0.0] * 638 + [1.0, 2.0]
    halved = applied(context, low_level.sampler_init_temp(api, 2.0), logits=logits)
    assert [halved.logit(place) for place in (637, 638, 639)] == [0.0, 0.5, 1.0]
    same = applied(context, low_level.sampler_init_temp_ext(api, 2.0, 0.0, 1.0), logits=logits)
    assert [same.logit(place) for place in (638, 639)] == [0.5, 1.0]
    varied = applied(context, low_level.sampler_init_temp_ext(api, 2.0, 1.0, 1.0), logits=logits)
    assert 2.0 / 3.0 < max(varied.logit(place) for place in range(varied.size)) < 2.0


def test_logit_bias_adds(model: Model, context: Context) -> None:
    """Minus infinity forbids a token, a large number forces one."""
    bias = low_level.sampler_init_logit_bias(model, {5: -INF, 9: 100.0})
    candidates = applied(context, bias)
    assert candidates.logit(5) == -INF
    chain = chain_of(bias, low_level.sampler_init_greedy(model.api))
    assert drawn(context, chain, 3) == [9, 9, 9]


def test_penalties_make_what_was_there_less_likely(model: Model, context: Context) -> None:
    """Repeat, frequency and presence, of as many tokens as count; none where last_n is 0."""
    logits = [2.0] * 640

    def of(token: int, *numbers: float, told: tuple[int, ...] = (3, 3, 4)) -> float:
        sampler = low_level.sampler_init_penalties(model, *numbers)  # type: ignore[arg-type]
        for one in told:
            low_level.sampler_accept(sampler, one)
        return applied(context, sampler, logits=logits).logit(token)

    assert [of(token, 64, 2.0, 0.0, 0.0) for token in (3, 4, 5)] == [1.0, 1.0, 2.0]
    assert [of(token, 64, 1.0, 0.5, 0.0) for token in (3, 4, 5)] == [1.0, 1.5, 2.0]
    assert [of(token, -1, 1.0, 0.0, 0.5) for token in (3, 4, 5)] == [1.5, 1.5, 2.0]
    assert [of(token, 1, 2.0, 0.0, 0.0) for token in (3, 4, 5)] == [2.0, 1.0, 2.0]
    assert of(3, 0, 2.0, 1.0, 1.0) == 2.0


def test_dry_makes_a_repetition_less_likely(model: Model, context: Context) -> None:
    """After `a b c a b`, c; unless a breaker stands between."""
    words = [
        low_level.tokenize(model, text, add_special=False, parse_special=False)[-1] for text in ("cat", "dog", "sun")
    ]

    def penalty(breakers: list[str], last_n: int = -1) -> float:
        sampler = low_level.sampler_init_dry(model, 1.0, 2.0, 1, last_n, breakers)
        for token in (*words, *words[:2]):
            low_level.sampler_accept(sampler, token)
        return applied(context, sampler, logits=[0.0] * 640).logit(words[2])

    piece = low_level.token_to_piece(model, words[1]).decode().strip()
    assert penalty([]) == -2.0
    assert penalty([], 64) == -2.0
    assert penalty([piece]) == 0.0
    assert penalty(["", "日本", "\ud800"]) == -2.0
    assert penalty([], 0) == 0.0


@pytest.mark.parametrize("number", [1, 2])
def test_mirostat_draws(model: Model, context: Context, number: int) -> None:
    """Both kinds draw by their seed, and choose the likeliest where no surprise is wanted."""

    def made(seed: int, tau: float) -> Sampler:
        if number == 1:
            return low_level.sampler_init_mirostat(model, seed, tau, 0.1, 50)
        return low_level.sampler_init_mirostat_v2(model.api, seed, tau, 0.1)

    assert drawn(context, made(3, 8.0)) == drawn(context, made(3, 8.0))
    greedy = drawn(context, low_level.sampler_init_greedy(model.api))
    assert drawn(context, made(3, 0.0)) == greedy


def test_adaptive_p_draws(api: Api, context: Context) -> None:
    """By its seed, in a chain and as a clone of it."""
    chain = chain_of(low_level.sampler_init_min_p(api, 0.01), low_level.sampler_init_adaptive_p(api, 0.3, 0.9, 5))
    copy = low_level.sampler_clone(chain)
    assert drawn(context, chain) == drawn(context, copy)


def test_infill_joins_tokens_that_begin_alike(model: Model, context: Context) -> None:
    """It leaves fewer candidates, and one of them is drawn."""
    chain = chain_of(
        low_level.sampler_init_top_k(model.api, 20),
        low_level.sampler_init_infill(model),
        low_level.sampler_init_dist(model.api, 3),
    )
    assert 0 < len(drawn(context, chain)) <= 12


# -- numbers that cannot be ----------------------------------------------------------------------------------------

BAD: list[tuple[str, Make]] = [
    ("seed", lambda m: low_level.sampler_init_dist(m.api, -1)),
    ("seed", lambda m: low_level.sampler_init_dist(m.api, 2**32)),
    ("top_k", lambda m: low_level.sampler_init_top_k(m.api, 2**31)),
    ("top_p", lambda m: low_level.sampler_init_top_p(m.api, 1.1)),
    ("top_p", lambda m: low_level.sampler_init_top_p(m.api, NAN)),
    ("min_keep", lambda m: low_level.sampler_init_top_p(m.api, 0.5, -1)),
    ("min_p", lambda m: low_level.sampler_init_min_p(m.api, -0.1)),
    ("typical_p", lambda m: low_level.sampler_init_typical(m.api, INF)),
    ("temperature", lambda m: low_level.sampler_init_temp(m.api, -0.1)),
    ("temperature", lambda m: low_level.sampler_init_temp(m.api, INF)),
    ("temperature", lambda m: low_level.sampler_init_temp(m.api, 1e-40)),
    ("dynatemp_range", lambda m: low_level.sampler_init_temp_ext(m.api, 1, NAN, 1)),
    ("dynatemp_exponent", lambda m: low_level.sampler_init_temp_ext(m.api, 1, 1, INF)),
    ("xtc_probability", lambda m: low_level.sampler_init_xtc(m.api, 2, 0.1, 1, 1)),
    ("xtc_threshold", lambda m: low_level.sampler_init_xtc(m.api, 0.1, NAN, 1, 1)),
    ("top_n_sigma", lambda m: low_level.sampler_init_top_n_sigma(m.api, NAN)),
    ("mirostat_tau", lambda m: low_level.sampler_init_mirostat(m, 1, NAN, 0.1)),
    ("mirostat_eta", lambda m: low_level.sampler_init_mirostat_v2(m.api, 1, 5, -1)),
    ("mirostat_m", lambda m: low_level.sampler_init_mirostat(m, 1, 5, 0.1, 0)),
    ("penalty_last_n", lambda m: low_level.sampler_init_penalties(m, 2**31 - 1, 1.1, 0, 0)),
    ("penalty_last_n", lambda m: low_level.sampler_init_penalties(m, -2, 1.1, 0, 0)),
    ("repeat_penalty", lambda m: low_level.sampler_init_penalties(m, 64, 0, 0, 0)),
    ("frequency_penalty", lambda m: low_level.sampler_init_penalties(m, 64, 1, INF, 0)),
    ("presence_penalty", lambda m: low_level.sampler_init_penalties(m, 64, 1, 0, NAN)),
    ("dry_multiplier", lambda m: low_level.sampler_init_dry(m, -1, 2, 2, 64, [])),
    ("dry_base", lambda m: low_level.sampler_init_dry(m, 1, INF, 2, 64, [])),
    ("dry_allowed_length", lambda m: low_level.sampler_init_dry(m, 1, 2, -1, 64, [])),
    ("dry_penalty_last_n", lambda m: low_level.sampler_init_dry(m, 1, 2, 2, 2**31 - 1, [])),
    ("dry_sequence_breakers", lambda m: low_level.sampler_init_dry(m, 1, 2, 2, 64, ["a\0b"])),
    ("adaptive_target", lambda m: low_level.sampler_init_adaptive_p(m.api, 1.5, 0.9, 1)),
    ("adaptive_decay", lambda m: low_level.sampler_init_adaptive_p(m.api, 0.5, 1.0, 1)),
    ("logit_bias", lambda m: low_level.sampler_init_logit_bias(m, {640: 1.0})),
    ("logit_bias", lambda m: low_level.sampler_init_logit_bias(m, {-1: 1.0})),
    ("logit_bias", lambda m: low_level.sampler_init_logit_bias(m, {5: NAN})),
    ("logit_bias", lambda m: low_level.sampler_init_logit_bias(m, {5: INF})),
]


@pytest.mark.parametrize(("name", "make"), BAD, ids=[f"{number} {name}" for number, (name, _) in enumerate(BAD)])
def test_a_number_that_cannot_be_is_refused_by_its_name(model: Model, name: str, make: Make) -> None:
    """The error names the option as users know it."""
    with pytest.raises(SamplerError, match=name) as caught:
        make(model)
    assert caught.value.argument == name


def test_a_model_without_a_vocabulary_has_no_samplers_that_need_one(model: Model) -> None:
    """C would look its tokens up."""
    bare = Model(model.api, model.path, model.pointer, model.vocab, 0)
    uses: tuple[Use, ...] = (
        lambda: low_level.sampler_init_infill(bare),
        lambda: low_level.sampler_init_dry(bare, 1, 2, 2, 64, []),
        lambda: low_level.sampler_init_mirostat(bare, 1, 5, 0.1),
        lambda: low_level.sampler_init_grammar(bare, 'root ::= "a"'),
    )
    for use in uses:
        with pytest.raises(ModelError, match="vocabulary"):
            use()


# -- chains, and what becomes of samplers --------------------------------------------------------------------------

EVERY: dict[str, Make] = {
    "greedy": lambda m: low_level.sampler_init_greedy(m.api),
    "dist": lambda m: low_level.sampler_init_dist(m.api, 3),
    "top-k": lambda m: low_level.sampler_init_top_k(m.api, 5),
    "top-p": lambda m: low_level.sampler_init_top_p(m.api, 0.5),
    "min-p": lambda m: low_level.sampler_init_min_p(m.api, 0.1),
    "typical": lambda m: low_level.sampler_init_typical(m.api, 0.5),
    "temp": lambda m: low_level.sampler_init_temp(m.api, 0.5),
    "temp-ext": lambda m: low_level.sampler_init_temp_ext(m.api, 0.5, 0.2, 1),
    "xtc": lambda m: low_level.sampler_init_xtc(m.api, 1, 0.1, 1, 3),
    "top-n-sigma": lambda m: low_level.sampler_init_top_n_sigma(m.api, 1),
    "mirostat": lambda m: low_level.sampler_init_mirostat(m, 1, 5, 0.1),
    "mirostat-v2": lambda m: low_level.sampler_init_mirostat_v2(m.api, 1, 5, 0.1),
    "penalties": lambda m: low_level.sampler_init_penalties(m, 8, 1.1, 0.1, 0.1),
    "dry": lambda m: low_level.sampler_init_dry(m, 0.8, 1.75, 2, -1, ["\n"]),
    "adaptive-p": lambda m: low_level.sampler_init_adaptive_p(m.api, 0.5, 0.9, 3),
    "logit-bias": lambda m: low_level.sampler_init_logit_bias(m, {3: -INF}),
    "infill": low_level.sampler_init_infill,
    "grammar": lambda m: low_level.sampler_init_grammar(m, "root ::= [^x]*"),
}


@pytest.mark.parametrize(("name", "make"), EVERY.items(), ids=EVERY.keys())
def test_the_life_of_every_sampler(model: Model, context: Context, name: str, make: Make) -> None:
    """Named, applied, told, cloned in the middle, reset and freed; the clone goes on by itself."""
    sampler = make(model)
    assert low_level.sampler_name(sampler) == name
    for _ in range(3):
        candidates = applied(context, sampler)
        token = candidates.token(max(candidates.selected, 0))
        copy = low_level.sampler_clone(sampler)
        for one in (sampler, copy):
            low_level.sampler_accept(one, token)
            applied(context, one)
        low_level.sampler_free(copy)
    low_level.sampler_reset(sampler)
    low_level.sampler_free(sampler)


def test_a_chain_of_every_sampler(model: Model, context: Context) -> None:
    """It draws, and its clone draws the same."""
    chain = chain_of(*(make(model) for make in EVERY.values()), low_level.sampler_init_dist(model.api, 3))
    copy = low_level.sampler_clone(chain)
    assert low_level.sampler_chain_n(copy) == len(EVERY) + 1
    names = [low_level.sampler_name(low_level.sampler_chain_get(copy, place)) for place in range(len(EVERY))]
    assert names == list(EVERY)
    assert drawn(context, chain) == drawn(context, copy)
    low_level.sampler_free(chain)
    assert drawn(context, copy)
    low_level.sampler_free(copy)


def test_a_chain_owns_what_was_added(api: Api) -> None:
    """A sampler is in one chain at most, and freed with it; taken out, it is the caller's again."""
    chain, other = low_level.sampler_chain_init(api), low_level.sampler_chain_init(api)
    greedy = low_level.sampler_init_greedy(api)
    low_level.sampler_chain_add(chain, greedy)
    assert low_level.sampler_chain_get(chain, 0) is greedy
    uses: tuple[Use, ...] = (
        lambda: low_level.sampler_chain_add(other, greedy),
        lambda: low_level.sampler_chain_add(chain, chain),
        lambda: low_level.sampler_free(greedy),
        lambda: low_level.sampler_chain_add(greedy, other),
        lambda: low_level.sampler_chain_n(greedy),
    )
    for use in uses:
        with pytest.raises(SamplerError):
            use()
    for place in (-1, 1, 2**40):
        with pytest.raises(IndexError):
            low_level.sampler_chain_get(chain, place)
    assert low_level.sampler_chain_remove(chain, 0) is greedy
    low_level.sampler_chain_add(other, greedy)
    low_level.sampler_chain_add(chain, other)
    with pytest.raises(SamplerError, match="in itself"):
        low_level.sampler_chain_add(other, chain)
    low_level.sampler_free(chain)
    later: tuple[Use, ...] = (
        lambda: low_level.sampler_chain_n(chain),
        lambda: low_level.sampler_name(greedy),
        lambda: low_level.sampler_accept(other, 5),
        lambda: low_level.sampler_reset(other),
        lambda: low_level.sampler_clone(greedy),
    )
    for use in later:
        with pytest.raises(SamplerError, match="freed"):
            use()
    low_level.sampler_free(chain)


def test_a_freed_chain_draws_nothing(api: Api, context: Context) -> None:
    """Also where it was about to."""
    chain = chain_of(low_level.sampler_init_greedy(api))
    low_level.sampler_sample(chain, context)
    low_level.sampler_free(chain)
    with pytest.raises(SamplerError, match="freed"):
        low_level.sampler_sample(chain, context)


def test_the_last_sampler_of_a_chain_chooses(api: Api, context: Context) -> None:
    """llama.cpp asserts that something is chosen; also of chains in chains, and as they change."""
    chain = low_level.sampler_chain_init(api)
    for make in (low_level.sampler_init_greedy, lambda api: low_level.sampler_init_top_k(api, 5)):
        low_level.sampler_chain_add(chain, make(api))
    for nothing in (chain, low_level.sampler_chain_init(api), low_level.sampler_init_top_k(api, 5)):
        with pytest.raises(SamplerError, match="does not choose"):
            low_level.sampler_sample(nothing, context)
    outer = chain_of(chain)
    with pytest.raises(SamplerError, match="does not choose"):
        low_level.sampler_sample(outer, context)
    low_level.sampler_chain_add(chain, low_level.sampler_init_dist(api, 3))
    assert 0 <= low_level.sampler_sample(outer, context) < 640
    low_level.sampler_chain_remove(chain, 2)
    with pytest.raises(SamplerError, match="does not choose"):
        low_level.sampler_sample(outer, context)


def test_sampling_needs_logits(api: Api, context: Context) -> None:
    """Of the token that is asked for."""
    chain = chain_of(low_level.sampler_init_greedy(api))
    for i in (0, 100, -2, 2**31, -(2**40)):
        with pytest.raises(ContextError, match="token"):
            low_level.sampler_sample(chain, context, i)
    low_level.decode(context, low_level.batch_get_one(context, [5]))
    assert low_level.sampler_sample(chain, context, 0) == low_level.sampler_sample(chain, context, -1)


def test_a_token_that_is_none_is_told_to_nobody(model: Model) -> None:
    """A grammar knows its vocabulary; others take any number that C can hold."""
    grammar = low_level.sampler_init_grammar(model, "root ::= .*")
    for sampler, tokens in ((grammar, (-1, 640, 2**40)), (EVERY["adaptive-p"](model), (-1, 2**31 - 1))):
        for token in tokens:
            with pytest.raises(SamplerError, match="token"):
                low_level.sampler_accept(sampler, token)


def test_candidates_of_a_larger_vocabulary_are_refused(model: Model) -> None:
    """C would look up tokens that a grammar's vocabulary does not have."""
    candidates = Candidates(model.api, 641)
    for sampler in (EVERY["grammar"](model), EVERY["infill"](model), chain_of(EVERY["grammar"](model))):
        with pytest.raises(SamplerError, match="641"):
            low_level.sampler_apply(sampler, candidates)


# -- grammars ------------------------------------------------------------------------------------------------------

ANSWER = 'root ::= " " ("yes" | "no" | "日本") "!"'


def test_a_grammar_in_a_chain_shapes_the_text(model: Model, context: Context) -> None:
    """What is drawn follows it to its end, and a reset begins anew."""
    grammar = low_level.sampler_init_grammar(model, ANSWER)
    chain = chain_of(grammar, low_level.sampler_init_temp(model.api, 3.0), low_level.sampler_init_dist(model.api, 3))
    answers = set()
    for _ in range(12):
        answers.add(text_of(model, drawn(context, chain)))
        grammar_ended = [token for token in range(640) if low_level.grammar_accepts(grammar, token)]
        assert grammar_ended == [2]
        low_level.sampler_reset(grammar)
    assert answers <= {" yes!", " no!", " 日本!"}
    assert len(answers) > 1


def test_a_grammar_is_told_only_what_it_allows(model: Model) -> None:
    """Any other token would end the process: also one that ends the text too early, and one without text."""
    grammar = low_level.sampler_init_grammar(model, 'root ::= "ab"')
    for token in range(640):
        piece = low_level.token_to_piece(model, token, special=True)
        if low_level.grammar_accepts(grammar, token):
            assert b"ab".startswith(piece)
            low_level.sampler_accept(grammar, token)
            low_level.sampler_reset(grammar)
        else:
            with pytest.raises(GrammarError, match=f"token {token}"):
                low_level.sampler_accept(grammar, token)


def test_a_chain_is_told_nothing_where_its_grammar_refuses(model: Model, context: Context) -> None:
    """The other samplers of the chain do not know of the token either."""
    penalties = low_level.sampler_init_penalties(model, 8, 2.0, 0, 0)
    chain = chain_of(penalties, low_level.sampler_init_grammar(model, 'root ::= "zzz"'))
    before = applied(context, penalties, logits=[1.0] * 640).logit(305)
    with pytest.raises(GrammarError):
        low_level.sampler_accept(chain, 305)
    assert applied(context, penalties, logits=[1.0] * 640).logit(305) == before


def test_a_grammar_that_nothing_fits_is_an_error(model: Model, context: Context) -> None:
    """Where a sampler before it left nothing that it allows."""
    chain = chain_of(
        low_level.sampler_init_top_k(model.api, 1),
        low_level.sampler_init_grammar(model, 'root ::= "zzz"'),
        low_level.sampler_init_dist(model.api, 3),
    )
    with pytest.raises(GrammarError, match="none of the tokens"):
        low_level.sampler_sample(chain, context)


def test_a_clone_of_a_grammar_goes_its_own_way(model: Model) -> None:
    """Both are where the original was, and no further than what each was told."""
    grammar = low_level.sampler_init_grammar(model, ANSWER)
    first = next(token for token in range(640) if low_level.grammar_accepts(grammar, token))
    low_level.sampler_accept(grammar, first)
    copy = low_level.sampler_clone(grammar)
    allowed = [token for token in range(640) if low_level.grammar_accepts(copy, token)]
    low_level.sampler_accept(copy, allowed[0])
    assert [token for token in range(640) if low_level.grammar_accepts(grammar, token)] == allowed


@pytest.mark.parametrize(
    "gbnf", ["", "root", 'x ::= "a"', "root ::= root", 'root ::= "a" x', "root ::= <[5]>", 'root ::= "a\0"', "\ud800"],
    ids=["empty", "cut", "no root", "itself", "undefined", "a token", "a NUL", "a surrogate"],
)  # fmt: skip
def test_what_is_no_grammar_never_reaches_c(model: Model, gbnf: str) -> None:
    """llama.cpp would not read it, or end the process over it."""
    with pytest.raises(GrammarError):
        low_level.sampler_init_grammar(model, gbnf)


def test_grammar_accepts_is_asked_of_grammars(api: Api) -> None:
    """Other samplers allow everything, and are not asked."""
    with pytest.raises(TypeError, match="no grammar"):
        low_level.grammar_accepts(low_level.sampler_init_greedy(api), 5)


# -- lazy grammars -------------------------------------------------------------------------------------------------


def tell(model: Model, sampler: Sampler, text: str) -> None:
    for token in low_level.tokenize(model, text, add_special=False, parse_special=False):
        low_level.sampler_accept(sampler, token)


def allowed(model: Model, sampler: Sampler) -> set[bytes]:
    tokens = [token for token in range(640) if low_level.grammar_accepts(sampler, token)]
    return {low_level.token_to_piece(model, token, special=True) for token in tokens}


def lazily(model: Model, gbnf: str, patterns: list[str], tokens: list[int] | None = None) -> Sampler:
    return low_level.sampler_init_grammar_lazy_patterns(model, gbnf, "root", patterns, tokens or [])


def test_a_lazy_grammar_waits_for_its_pattern(model: Model, context: Context) -> None:
    """Everything is allowed before; from the group that matched on, the grammar holds."""
    sampler = lazily(model, 'root ::= "time" [,.]', ["a (time)"])
    tell(model, sampler, "once upon a")
    assert len(allowed(model, sampler)) > 500
    assert applied(context, sampler).logit(305) > -INF
    tell(model, sampler, "time")
    assert allowed(model, sampler) == {b",", b"."}
    assert applied(context, sampler).logit(305) == -INF


def test_a_lazy_grammar_begins_in_the_middle_of_a_token(model: Model) -> None:
    """Where the match begins within a piece, the rest of the piece is what the grammar is told."""
    (token,) = low_level.tokenize(model, "time", add_special=False, parse_special=False)[-1:]
    piece = low_level.token_to_piece(model, token, special=True).decode()
    assert piece == " time"
    sampler = lazily(model, 'root ::= "me" "!"', ["me"])
    low_level.sampler_accept(sampler, token)
    assert allowed(model, sampler) == {b"!"}


def test_a_lazy_grammar_waits_for_its_token(model: Model) -> None:
    """The token is part of what the grammar allows."""
    (token,) = low_level.tokenize(model, "time", add_special=False, parse_special=False)[-1:]
    sampler = lazily(model, 'root ::= " time" "!"', [], [token])
    tell(model, sampler, "once upon a")
    low_level.sampler_accept(sampler, token)
    assert allowed(model, sampler) == {b"!"}


def test_a_trigger_that_the_grammar_does_not_allow_is_an_error(model: Model) -> None:
    """llama.cpp ends the process there; here it waits for the next trigger."""
    sampler = lazily(model, 'root ::= "me" "!"', ["(t)ime", "(me)"])
    with pytest.raises(GrammarError, match="trigger"):
        tell(model, sampler, "time")
    assert len(allowed(model, sampler)) > 500
    tell(model, sampler, "me")
    assert allowed(model, sampler) == {b"!"}


def test_a_lazy_grammar_can_be_cloned_and_reset(model: Model) -> None:
    """A clone waits as the original does; a reset waits again."""
    sampler = lazily(model, 'root ::= "time" "!"', ["a (time)"])
    tell(model, sampler, "upon a")
    copy = low_level.sampler_clone(sampler)
    tell(model, copy, "time")
    assert allowed(model, copy) == {b"!"}
    assert len(allowed(model, sampler)) > 500
    low_level.sampler_reset(copy)
    assert len(allowed(model, copy)) > 500
    tell(model, copy, "a time")
    assert allowed(model, copy) == {b"!"}


def test_a_lazy_grammar_stays_out_of_chains(model: Model) -> None:
    """A chain would not look for the trigger."""
    sampler = lazily(model, 'root ::= "x"', ["x"])
    with pytest.raises(SamplerError, match="lazy"):
        low_level.sampler_chain_add(low_level.sampler_chain_init(model.api), sampler)


@pytest.mark.parametrize("pattern", ["(", "[", "a{2,1}", "\ud800", "(?P<x"])
def test_a_pattern_that_is_none(model: Model, pattern: str) -> None:
    """C++ would throw through C."""
    with pytest.raises(GrammarError, match="pattern"):
        lazily(model, 'root ::= "x"', [pattern])
    with pytest.raises(ModelError, match="640"):
        lazily(model, 'root ::= "x"', [], [640])


# -- negative controls ---------------------------------------------------------------------------------------------

SETUP = """
import os
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
def raw(name, *arguments):
    return api.function("llama_sampler_" + name)(*arguments)
"""

ABORTS = {
    "a draw without logits": "raw('sample', low_level.sampler_init_greedy(api).pointer, context.pointer, -1)",
    "a chain that does not choose": "low_level.decode(context, low_level.batch_get_one(context, [5]))\n"
    "raw('sample', low_level.sampler_init_top_k(api, 5).pointer, context.pointer, -1)",
    "a token that a grammar does not allow": "grammar = low_level.sampler_init_grammar(model, 'root ::= \"zz\"')\n"
    "raw('accept', grammar.pointer, 305)",
    "the end of a text that is not over": "grammar = low_level.sampler_init_grammar(model, 'root ::= \"zz\"')\n"
    "raw('accept', grammar.pointer, 2)",
    "a penalty that looks back without end": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (4 << 30, -1))\n"
    "call = api.function('llama_sampler_init_penalties')\n"
    "sizes = [640] * (len(api.ffi.typeof(call).args) - 4)\ncall(*sizes, 2**31 - 1, 1.1, 0, 0)",
    "a pattern that is none": "text = api.ffi.new('char[]', b'(')\n"
    "raw('init_grammar_lazy_patterns', model.vocab, b'root ::= \"x\"', b'root', "
    "api.ffi.new('const char *[]', [text]), 1, api.ffi.NULL, 0)",
}


@pytest.mark.parametrize("code", ABORTS.values(), ids=ABORTS.keys())
def test_c_ends_the_process_over_what_is_refused(run_python: RunPython, code: str) -> None:
    """Were it not so, the checks above could go."""
    done = run_python(SETUP + code + "\nprint('alive')")
    assert done.returncode != 0
    assert "alive" not in done.stdout
