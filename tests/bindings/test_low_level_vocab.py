"""Texts and tokens, one function for each C function: what they return, and what is refused in C's stead."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ModelError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import Model
from tests.bindings.gguf_writer import ARRAY, BOOL, F32, I32, STRING, U32, Gguf, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model(), vocab_only=True)
    yield loaded
    low_level.model_free(loaded)


@pytest.fixture
def opened(api: Api, tmp_path: Path) -> Iterator[Callable[..., Model]]:
    """Write a vocabulary into a file and load it; all are freed at the end."""
    models: list[Model] = []

    def load(written: Gguf, **options: Any) -> Model:
        path = tmp_path / f"{len(models)}.gguf"
        path.write_bytes(written.to_bytes())
        models.append(low_level.model_load_from_file(api, str(path), vocab_only=True, **options))
        return models[-1]

    yield load
    for one in models:
        low_level.model_free(one)


def bytewise(pre: str) -> Gguf:
    """Return a BPE vocabulary of all bytes and two merges, whose texts are cut up as ``pre`` says."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + place) for place in range(256 - len(plain))]
    made = Gguf()
    made.put("general.architecture", STRING, b"llama")
    made.put("tokenizer.ggml.model", STRING, b"gpt2")
    made.put("tokenizer.ggml.pre", STRING, pre.encode())
    made.put("tokenizer.ggml.tokens", ARRAY, [*(one.encode() for one in letters), b"<|end|>", b"aa", b"aaaa"], STRING)
    made.put("tokenizer.ggml.token_type", ARRAY, [1] * 256 + [3, 1, 1], I32)
    made.put("tokenizer.ggml.merges", ARRAY, [b"a a", b"aa aa"], STRING)
    made.put("tokenizer.ggml.eos_token_id", U32, 256)
    made.put("tokenizer.ggml.add_bos_token", BOOL, False)
    return made


# -- text and tokens -----------------------------------------------------------------------------------------------


def test_tokenize_and_detokenize(model: Model) -> None:
    """Text, and text with markers, in both directions."""
    tokens = low_level.tokenize(model, "Once<s>", add_special=True, parse_special=True)
    assert tokens[0] == 1
    assert tokens[-1] == 1
    assert low_level.detokenize(model, tokens[1:-1], remove_special=False, unparse_special=False) == b"Once"
    assert low_level.detokenize(model, [1], remove_special=False, unparse_special=True) == b"<s>"
    assert low_level.tokenize(model, "", add_special=False, parse_special=False) == []
    assert low_level.detokenize(model, [], remove_special=True, unparse_special=False) == b""


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\U0001f600", "日本語", "\r\n\t", "x" * 100_000])
def test_any_text_can_be_tokenized(model: Model, text: str) -> None:
    """And comes back; a surrogate as a question mark."""
    tokens = low_level.tokenize(model, text, add_special=False, parse_special=False)
    raw = low_level.detokenize(model, tokens, remove_special=False, unparse_special=False)
    assert raw.decode().removeprefix(" ") == text.encode("utf-8", "replace").decode()


def test_detokenize_makes_room(model: Model) -> None:
    """A text longer than the first guess of its size comes whole."""
    longest = max(range(model.n_vocab), key=lambda token: len(low_level.token_to_piece(model, token)))
    text = low_level.detokenize(model, [longest] * 1000, remove_special=False, unparse_special=True)
    assert len(text) >= 1000 * len(low_level.token_to_piece(model, longest)) - 1


def test_token_to_piece(model: Model) -> None:
    """A token's bytes; a special one has none unless asked for."""
    assert low_level.token_to_piece(model, 1) == b""
    assert low_level.token_to_piece(model, 1, special=True) == b"<s>"
    assert low_level.token_to_piece(model, 3 + 0xE4) == b"\xe4"


def test_a_long_piece_comes_whole(opened: Callable[..., Model]) -> None:
    """Longer than the first guess of its size."""
    written = bytewise("gpt-2")
    written.get("tokenizer.ggml.tokens").value[-1] = b"a" * 1000
    written.put("tokenizer.ggml.merges", ARRAY, [b"a a"], STRING)
    assert low_level.token_to_piece(opened(written), 258) == b"a" * 1000


def test_a_vocabulary_without_an_end_token_that_it_wants(opened: Callable[..., Model]) -> None:
    """An override can want it: C would abort. Without special tokens, a text is tokenized."""
    written = bytewise("gpt-2")
    written.fields = [one for one in written.fields if one.key != b"tokenizer.ggml.eos_token_id"]
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        written.get(key).value = written.get(key).value[:8]
    written.put("tokenizer.ggml.merges", ARRAY, [], STRING)
    model = opened(written, kv_overrides={"tokenizer.ggml.add_eos_token": True})
    with pytest.raises(ModelError, match="at the end of a sequence"):
        low_level.tokenize(model, "!", add_special=True, parse_special=False)
    assert low_level.tokenize(model, "!", add_special=False, parse_special=False) == [0]


# -- one token -----------------------------------------------------------------------------------------------------


def test_what_a_token_is(model: Model) -> None:
    """Its text, score and attributes, and what it is for."""
    assert [low_level.vocab_get_text(model, token) for token in (0, 2, 3, 259)] == [
        "<unk>",
        "</s>",
        "<0x00>",
        "\u2581a",
    ]
    assert low_level.vocab_get_score(model, 639) == -380.0
    assert [low_level.vocab_get_attr(model, token) for token in (0, 1, 3, 639)] == [1, 8, 32, 4]
    assert [low_level.vocab_is_control(model, token) for token in (0, 1, 639)] == [False, True, False]
    assert [low_level.vocab_is_eog(model, token) for token in (0, 1, 2, 639)] == [False, False, True, False]


@pytest.mark.parametrize("token", [-1, 640, 2**31 - 1, -(2**31), 2**64])
def test_a_token_outside_the_vocabulary_is_refused(model: Model, token: int) -> None:
    """C would abort or read elsewhere."""
    for use in (
        lambda: low_level.token_to_piece(model, token),
        lambda: low_level.vocab_is_eog(model, token),
        lambda: low_level.vocab_is_control(model, token),
        lambda: low_level.vocab_get_text(model, token),
        lambda: low_level.vocab_get_score(model, token),
        lambda: low_level.vocab_get_attr(model, token),
        lambda: low_level.detokenize(model, [1, token], remove_special=False, unparse_special=False),
        lambda: low_level.check_tokens(model, [1, token]),
    ):
        with pytest.raises(ModelError, match=str(token)):
            use()


def test_a_model_without_a_vocabulary_has_no_text(model: Model) -> None:
    """Each function that needs one says so; C would abort. There are no special tokens either."""
    bare = Model(model.api, model.path, model.pointer, model.vocab, 0)
    for use in (
        lambda: low_level.tokenize(bare, "x", add_special=False, parse_special=False),
        lambda: low_level.token_to_piece(bare, 1),
        lambda: low_level.detokenize(bare, [1], remove_special=False, unparse_special=False),
        lambda: low_level.detokenize(bare, [], remove_special=False, unparse_special=False),
        lambda: low_level.vocab_is_eog(bare, 1),
        lambda: low_level.vocab_get_text(bare, 1),
        lambda: low_level.check_tokens(bare, []),
    ):
        with pytest.raises(ModelError, match="no vocabulary"):
            use()
    assert [getattr(low_level, name)(bare) for name in SPECIAL] == [-1] * len(SPECIAL)
    assert low_level.bos(bare) == -1
    assert not low_level.vocab_get_add_bos(bare)


# -- the vocabulary ------------------------------------------------------------------------------------------------

SPECIAL = {
    "vocab_bos": ("bos", 1),
    "vocab_eos": ("eos", 2),
    "vocab_eot": ("eot", -1),
    "vocab_sep": ("seperator", -1),
    "vocab_pad": ("padding", -1),
    "vocab_mask": ("mask", -1),
    "vocab_fim_pre": ("fim_pre", -1),
    "vocab_fim_suf": ("fim_suf", -1),
    "vocab_fim_mid": ("fim_mid", -1),
    "vocab_fim_pad": ("fim_pad", -1),
    "vocab_fim_rep": ("fim_rep", -1),
    "vocab_fim_sep": ("fim_sep", -1),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_tokens(api: Api, model: Model, name: str) -> None:
    """Each function returns its own token, or -1."""
    key, token = SPECIAL[name]
    assert getattr(low_level, name)(model) == token
    overrides = {f"tokenizer.ggml.{key}_token_id": 77}
    other = low_level.model_load_from_file(api, bundled_model(), vocab_only=True, kv_overrides=overrides)
    assert getattr(low_level, name)(other) == 77
    low_level.model_free(other)


def test_what_the_vocabulary_is(model: Model) -> None:
    """Its kind, the newline, and what a text gets before and behind it."""
    assert low_level.vocab_type(model) == 1
    assert low_level.vocab_nl(model) == 13
    assert low_level.vocab_cls(model) == low_level.bos(model) == 1
    added = [low_level.vocab_get_add_bos(model), low_level.vocab_get_add_eos(model), low_level.vocab_get_add_sep(model)]
    assert added == [True, False, False]


# -- long lines ----------------------------------------------------------------------------------------------------

# What is cut up by std::regex in every llama.cpp, a line that is one match of it, and its tokens.
LONG = {
    "letters": ("tekken", "a" * 60_000, 15_000),
    "signs": ("gpt-4o", "!" * 60_000, 60_000),
    "white space": ("deepseek-v3", "\n" * 60_000, 60_000),
    "words": ("exaone-moe", "ab cd " * 10_000, 60_000),
}


@pytest.mark.parametrize(("pre", "text", "count"), LONG.values(), ids=LONG.keys())
def test_a_long_line_is_tokenized(opened: Callable[..., Model], pre: str, text: str, count: int) -> None:
    """std::regex recurses for each character of it: on a stack of 8 MB that ends the process."""
    try:
        model = opened(bytewise(pre))
    except ModelError as error:
        pytest.skip(f"this llama.cpp is older than {pre}: {error.reason}")
    assert model.recurses
    tokens = low_level.tokenize(model, text, add_special=False, parse_special=False)
    assert len(tokens) == count
    assert low_level.detokenize(model, tokens, remove_special=False, unparse_special=False).decode() == text


def test_many_short_lines_need_no_large_stack(opened: Callable[..., Model]) -> None:
    """However long the text is."""
    text = ("ab cd " * 20 + "\n") * 10_000
    tokens = low_level.tokenize(opened(bytewise("tekken")), text, add_special=False, parse_special=False)
    assert len(tokens) == len(text)


def test_a_line_that_no_stack_can_hold_is_refused(opened: Callable[..., Model]) -> None:
    """More than a million characters without a break."""
    with pytest.raises(ModelError, match="a line of 2000000 characters") as caught:
        low_level.tokenize(opened(bytewise("tekken")), "a" * 2_000_000, add_special=False, parse_special=False)
    assert "Break the line" in str(caught.value)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_some_vocabularies_need_no_regular_expression(opened: Callable[..., Model], pre: str) -> None:
    """Lines may have any length there."""
    model = opened(bytewise(pre))
    assert not model.recurses
    assert len(low_level.tokenize(model, "a" * 2_000_000, add_special=False, parse_special=False)) == 500_000


def test_an_override_of_the_pre_tokenizer_counts(opened: Callable[..., Model]) -> None:
    """What it needs is known by it, and no more by the file."""
    assert opened(bytewise("gpt-2"), kv_overrides={"tokenizer.ggml.pre": "tekken"}).recurses
    assert not opened(bytewise("tekken"), kv_overrides={"tokenizer.ggml.pre": "gpt-2"}).recurses


@pytest.mark.skipif(sys.platform == "win32", reason="needs an interval timer")
def test_ctrl_c_waits_for_the_thread_with_the_large_stack(opened: Callable[..., Model]) -> None:
    """C is done with the model before anybody can free it."""
    model = opened(bytewise("tekken"))
    text = "a" * 500_000
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            low_level.tokenize(model, text, add_special=False, parse_special=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert low_level.tokenize(model, "aaaa", add_special=False, parse_special=False) == [258]


def test_no_room_for_a_large_stack_is_refused(run_python: RunPython, tmp_path: Path) -> None:
    """The process goes on."""
    (tmp_path / "x.gguf").write_bytes(bytewise("tekken").to_bytes())
    code = f"""
import resource
from nativeload_llama import low_level
from nativeload_llama.errors import ModelError
from nativeload_llama.library import open_library
model = low_level.model_load_from_file(open_library(), {str(tmp_path / "x.gguf")!r}, vocab_only=True)
resource.setrlimit(resource.RLIMIT_AS, (2**29, -1))
try:
    low_level.tokenize(model, "a" * 900_000, add_special=False, parse_special=False)
except ModelError as error:
    print("refused", "stack" in error.reason)
print(low_level.tokenize(model, "aaaa", add_special=False, parse_special=False))
"""
    done = run_python(code)
    assert done.stdout.splitlines() == ["refused True", "[258]"], done.stderr


def test_the_bundled_model_and_its_file_agree(model: Model) -> None:
    """Texts and scores of all tokens, read by another reader."""
    written = parse(Path(bundled_model()).read_bytes())
    texts = [low_level.vocab_get_text(model, token) for token in range(model.n_vocab)]
    assert [text.encode() for text in texts] == written.get("tokenizer.ggml.tokens").value
    scores = [low_level.vocab_get_score(model, token) for token in range(model.n_vocab)]
    assert written.get("tokenizer.ggml.scores").item == F32
    assert scores == written.get("tokenizer.ggml.scores").value
