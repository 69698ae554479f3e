"""One function for each C function: what it returns, and what it refuses in C's stead."""

from __future__ import annotations

import sys

import pytest

from nativeload.errors import NotInThisBuild
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ContextError, ModelError, PromptTooLongError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import Context, Model

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

GREEDY: dict[str, Any] = {"temperature": 0, "top_k": 40, "top_p": 1.0, "min_p": 0.0, "seed": 1}


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
    made = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
    yield made
    low_level.free(made)


def decode(context: Context, *tokens: int) -> None:
    buffer = low_level.new_tokens(context.api, len(tokens))
    buffer[0 : len(tokens)] = tokens
    low_level.decode(context, buffer, len(tokens))


def test_version_is_llama_cpps(api: Api) -> None:
    """version() is one that this layout was seen with."""
    assert low_level.version(api) in api.layout.versions


def test_model_load_from_file(model: Model) -> None:
    """A model knows its path, its vocabulary's size and its pointers."""
    assert model.path == bundled_model()
    assert model.n_vocab == 640
    assert model.pointer != model.api.ffi.NULL
    assert model.vocab != model.api.ffi.NULL


def test_model_load_from_file_refuses(api: Api, tmp_path: Any) -> None:
    """llama.cpp's own words follow where it refused the file."""
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(ModelError, match="gguf"):
        low_level.model_load_from_file(api, str(tmp_path / "x.gguf"))


def test_model_free_and_free_may_be_repeated_with_new_ones(api: Api) -> None:
    """What was freed leaves room for the next; a context goes before its model."""
    for _ in range(3):
        model = low_level.model_load_from_file(api, bundled_model(), n_gpu_layers=0)
        context = low_level.init_from_model(model, n_ctx=256, n_batch=8, n_threads=1)
        low_level.free(context)
        low_level.model_free(model)


def test_facts_of_a_model(model: Model) -> None:
    """The training context, what the model can do, and one line about it."""
    assert low_level.model_n_ctx_train(model) == 512
    low_level.check_generates(model)  # has a decoder and needs no encoder pass: nothing is raised
    assert low_level.model_desc(model).startswith("llama")


def test_init_from_model(context: Context) -> None:
    """A context has the sizes that llama.cpp settled on."""
    assert (context.n_ctx, context.n_batch) == (256, 32)


@pytest.mark.parametrize("name", ["n_ctx", "n_batch", "n_threads"])
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_init_from_model_refuses(model: Model, name: str, value: int) -> None:
    """A size outside 1 to 2**31 - 1 never reaches C."""
    with pytest.raises(ContextError, match=f"{name} is {value}"):
        low_level.init_from_model(model, **{"n_ctx": 256, "n_batch": 8, "n_threads": 1, name: value})


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_context_too_large_for_memory_is_refused(run_python: RunPython) -> None:
    """Where llama.cpp cannot have the memory, its words and the size follow, and the next context opens."""
    code = SETUP.format(call="resource.setrlimit(resource.RLIMIT_AS, (SMALL, -1)); make(10_000_000)")
    done = run_python(
        "import resource\n"
        "SMALL = 2 * 2**30\n"
        "def make(n_ctx):\n"
        "    try: low_level.init_from_model(model, n_ctx=n_ctx, n_batch=8, n_threads=1)\n"
        "    finally: low_level.free(low_level.init_from_model(model, n_ctx=256, n_batch=8, n_threads=1))\n"
        + code.replace("error.code)", "error, error.hint)")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")
    assert "(n_ctx=10000000)" in done.stdout
    assert "smaller n_ctx" in done.stdout


def test_memory_clear(context: Context) -> None:
    """A cleared context has room again, and forgets: the same prompt gives the same token."""
    chain = low_level.sampler_chain(context.api, **GREEDY)
    drawn = []
    for _ in range(20):
        low_level.memory_clear(context)
        decode(context, *[5] * 30)
        drawn.append(low_level.sampler_sample(context, chain))
    low_level.sampler_free(context.api, chain)
    assert len(set(drawn)) == 1


def test_tokenize_and_detokenize(model: Model) -> None:
    """Text, and text with markers, in both directions."""
    tokens = low_level.tokenize(model, "Once<s>", add_special=True, parse_special=True)
    assert tokens[0] == 1
    assert tokens[-1] == 1
    assert low_level.detokenize(model, tokens[1:-1], remove_special=False, unparse_special=False) == b"Once"
    assert low_level.detokenize(model, [1], remove_special=False, unparse_special=True) == b"<s>"
    assert low_level.tokenize(model, "", add_special=False, parse_special=False) == []
    assert low_level.detokenize(model, [], remove_special=True, unparse_special=False) == b""


def test_detokenize_makes_room(model: Model) -> None:
    """A text longer than the first guess of its size comes whole."""
    longest = max(range(model.n_vocab), key=lambda token: len(low_level.token_to_piece(model, token)))
    text = low_level.detokenize(model, [longest] * 1000, remove_special=False, unparse_special=True)
    assert len(text) >= 1000 * len(low_level.token_to_piece(model, longest)) - 1


def test_token_to_piece(model: Model) -> None:
    """A token's bytes; a special one has none unless asked for."""
    assert low_level.token_to_piece(model, 1) == b""
    assert low_level.token_to_piece(model, 1, special=True) == b"<s>"
    token = low_level.tokenize(model, "日", add_special=False, parse_special=False)[1]
    assert low_level.token_to_piece(model, token) == "日".encode()[:1]
    assert all(isinstance(low_level.token_to_piece(model, token), bytes) for token in range(model.n_vocab))


def test_vocab_is_eog(model: Model) -> None:
    """The end-of-sequence token ends a generation, a word does not."""
    assert low_level.vocab_is_eog(model, 2) is True
    assert low_level.vocab_is_eog(model, 300) is False


@pytest.mark.parametrize("token", [-1, 640, 2**31 - 1, 2**40])
def test_a_token_outside_the_vocabulary_never_reaches_c(model: Model, context: Context, token: int) -> None:
    """C would abort or read elsewhere."""
    for use in (
        lambda: low_level.token_to_piece(model, token),
        lambda: low_level.vocab_is_eog(model, token),
        lambda: low_level.detokenize(model, [token], remove_special=False, unparse_special=False),
        lambda: low_level.check_prompt(context, [1, token]),
    ):
        with pytest.raises(ModelError, match=str(token)):
            use()


def test_a_model_without_a_vocabulary_has_no_text(model: Model) -> None:
    """Each function that needs one says so; C would abort."""
    bare = Model(model.api, model.path, model.pointer, model.vocab, 0)
    for use in (
        lambda: low_level.tokenize(bare, "x", add_special=False, parse_special=False),
        lambda: low_level.token_to_piece(bare, 1),
        lambda: low_level.detokenize(bare, [1], remove_special=False, unparse_special=False),
    ):
        with pytest.raises(ModelError, match="no vocabulary"):
            use()


def test_check_prompt(context: Context) -> None:
    """Empty, too long, or in order."""
    low_level.check_prompt(context, [5] * 255)
    with pytest.raises(ValueError, match="no tokens"):
        low_level.check_prompt(context, [])
    with pytest.raises(PromptTooLongError, match=r"256.*256"):
        low_level.check_prompt(context, [5] * 256)


def test_new_tokens(api: Api) -> None:
    """An array of tokens of C, all zero."""
    assert list(low_level.new_tokens(api, 3)) == [0, 0, 0]


# -- decoding and sampling -----------------------------------------------------------------------------------------


def test_decode_until_the_context_is_full(context: Context) -> None:
    """Code 1 is a full context: as many tokens fit as it holds, and clearing it makes room."""
    for _ in range(context.n_ctx):
        decode(context, 5)
    with pytest.raises(ContextError, match="full") as caught:
        decode(context, 5)
    assert caught.value.code == 1
    low_level.memory_clear(context)
    decode(context, 5)


@pytest.mark.parametrize("token", [-1, 640, 2**31 - 1])
def test_decode_names_a_bad_batch(context: Context, token: int) -> None:
    """Code -1 is a batch that llama.cpp refuses; its words follow, and the context stays usable."""
    with pytest.raises(ContextError, match=f"not valid.*{token}") as caught:
        decode(context, token)
    assert caught.value.code == -1
    decode(context, 5)


@pytest.mark.parametrize("count", [0, -1])
def test_decode_of_nothing_is_a_bad_batch(context: Context, count: int) -> None:
    """There is nothing to decode in no tokens."""
    with pytest.raises(ContextError) as caught:
        low_level.decode(context, low_level.new_tokens(context.api, 4), count)
    assert caught.value.code == -1


SETUP = """
import os
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ContextError
from nativeload_llama.library import open_library
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
try:
    {call}
except ContextError as error:
    print("refused", error.code)
"""

ABORTS = {
    "more tokens than n_batch": "low_level.decode(context, low_level.new_tokens(api, 64), 33)",
    "more tokens than the array has": "low_level.decode(context, low_level.new_tokens(api, 4), 5)",
    "a draw before any decode": (
        "low_level.sampler_sample(context, "
        "low_level.sampler_chain(api, temperature=0, top_k=1, top_p=1, min_p=0, seed=1))"
    ),
}


@pytest.mark.parametrize("call", ABORTS.values(), ids=ABORTS.keys())
def test_what_c_would_abort_on_is_refused(run_python: RunPython, call: str) -> None:
    """llama.cpp asserts these, which ends the process: they are a ContextError instead."""
    done = run_python(SETUP.format(call=call))
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["refused"]), done.stderr[:300]


def test_sampler_chain_greedy_is_one_sampler(api: Api) -> None:
    """Temperature 0 needs no other sampler; otherwise they come in a fixed order and end in the draw."""
    ffi, count, get = api.ffi, api.function("llama_sampler_chain_n"), api.function("llama_sampler_chain_get")
    name = api.function("llama_sampler_name")

    def names(**options: Any) -> list[str]:
        chain = low_level.sampler_chain(api, **{**GREEDY, **options})
        found = [ffi.string(name(get(chain, number))).decode().lstrip("?") for number in range(count(chain))]
        low_level.sampler_free(api, chain)
        return found

    assert names() == ["greedy"]
    assert [word.split("-")[0] for word in names(temperature=0.5)] == ["top", "top", "min", "temp", "dist"]


def test_sampler_chain_keeps_its_seed(api: Api) -> None:
    """The seed reaches the draw."""
    chain = low_level.sampler_chain(api, **{**GREEDY, "temperature": 1.0, "seed": 4711})
    assert api.function("llama_sampler_get_seed")(chain) == 4711
    low_level.sampler_free(api, chain)


def test_sampler_sample_draws_from_the_last_logits(context: Context) -> None:
    """Greedy takes the token with the largest logit."""
    decode(context, *low_level.tokenize(context.model, "Once upon a", add_special=True, parse_special=False))
    logits = context.api.function("llama_get_logits_ith")(context.pointer, -1)
    likeliest = max(range(context.model.n_vocab), key=lambda token: float(logits[token]))
    chain = low_level.sampler_chain(context.api, **GREEDY)
    assert low_level.sampler_sample(context, chain) == likeliest
    low_level.sampler_free(context.api, chain)


# -- functions that are not there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_model_quantize", "no_such_function"])
def test_an_absent_function_is_not_in_this_build(api: Api, name: str) -> None:
    """Declared and not exported, or not even declared: the same error, naming function and library."""
    with pytest.raises(NotInThisBuild, match=name) as caught:
        api.function(name)
    assert caught.value.function == name
    assert caught.value.path == api.loaded.path
