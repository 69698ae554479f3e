"""What a context held comes back as it was, only where it belongs, and nothing damaged gets to llama.cpp."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nativeload.value import replace
from nativeload_llama import bundled_model
from nativeload_llama.errors import BusyError, ModelError, StateError
from nativeload_llama.opened import OpenedModel
from nativeload_llama.state import LlamaState, load_state, save_state
from tests.bindings import gguf_writer as gguf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMPT = "Once upon a time, there was a little dog"


@pytest.fixture
def llama(_one_cache: None) -> Iterator[OpenedModel]:
    """The story model."""
    with OpenedModel(bundled_model(), n_threads=1) as opened:
        yield opened


@pytest.fixture
def state(llama: OpenedModel) -> LlamaState:
    """What the story model holds after some tokens."""
    write(llama, llama.tokenize(PROMPT), 16)
    return save_state(llama)


def write(llama: OpenedModel, prompt: list[int], count: int = 32) -> list[int]:
    """Return the likeliest continuation."""
    return list(llama.generate(prompt, max_tokens=count, temperature=0))


def sealed(header: bytes, blob: bytes = b"") -> bytes:
    """Return a file with the right digest."""
    body = b"nlstate\x01" + len(header).to_bytes(8, "little") + header + blob
    return body + hashlib.sha256(body).digest()


def test_a_story_goes_on_where_it_was(llama: OpenedModel) -> None:
    prompt = llama.tokenize(PROMPT)
    begun = prompt + write(llama, prompt, 16)
    state = save_state(llama)
    expected = write(llama, begun)
    write(llama, llama.tokenize("Something else altogether"))
    load_state(llama, state)
    assert llama._session.held == list(state.tokens)
    going = llama._generation(begun, 32, {"temperature": 0})
    assert list(going.tokens()) == expected
    assert going.cached == state.n_tokens == len(begun) - 1


def test_so_it_does_in_another_llama(state: LlamaState, llama: OpenedModel, tmp_path: Path) -> None:
    begun = [*state.tokens, llama.tokenize("and", add_special=False)[0]]
    expected = write(llama, begun)
    state.save(tmp_path / "story")
    for one in (LlamaState.load(tmp_path / "story"), pickle.loads(pickle.dumps(state))):  # noqa: S301 - its own
        with OpenedModel(bundled_model(), n_threads=1, n_ctx=300) as other:
            load_state(other, one)
            going = other._generation(begun, 32, {"temperature": 0})
            assert list(going.tokens()) == expected
            assert going.cached == state.n_tokens
        assert one.to_bytes() == state.to_bytes()


def test_nothing_is_a_state_too(llama: OpenedModel) -> None:
    nothing = save_state(llama)
    assert nothing.tokens == ()
    expected = write(llama, llama.tokenize(PROMPT))
    load_state(llama, LlamaState.from_bytes(nothing.to_bytes()))
    assert llama._session.held == []
    assert write(llama, llama.tokenize(PROMPT)) == expected


def test_a_file_is_private_and_whole(state: LlamaState, tmp_path: Path) -> None:
    path = tmp_path / "story"
    path.write_text("what was there before")
    state.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("story")] == ["story"]
    assert path.read_bytes() == state.to_bytes()


@pytest.mark.parametrize("name", ["missing/story", "", ".", "nul\0byte"])
def test_a_file_that_cannot_be_written(state: LlamaState, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StateError):
        state.save(str(tmp_path) + "/" + name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name in ("missing", "fifo", "empty", ".", "nul\0byte"):
        with pytest.raises(StateError):
            LlamaState.load(f"{tmp_path}/{name}")
    with pytest.raises(StateError, match="no saved state"):
        LlamaState.load(bundled_model())


def test_no_damage_gets_through(state: LlamaState) -> None:
    raw, numbers = state.to_bytes(), random.Random(5)
    places = {
        *range(40),
        *(len(raw) - back for back in range(1, 40)),
        *(numbers.randrange(len(raw)) for _ in range(300)),
    }
    for place in sorted(places):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << numbers.randrange(8)
        with pytest.raises(StateError):
            LlamaState.from_bytes(bytes(flipped))
        with pytest.raises(StateError):
            LlamaState.from_bytes(raw[:place])
    with pytest.raises(StateError):
        LlamaState.from_bytes(raw + b"\0")


def test_a_pickle_that_was_damaged_is_refused(state: LlamaState) -> None:
    raw = pickle.dumps(state)
    place = raw.index(state.blob) + len(state.blob) // 2
    with pytest.raises(StateError, match="damaged"):
        pickle.loads(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])  # noqa: S301


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"tokens":[1]}',
        b'{"tokens":[1.5],"about":{}}',
        b'{"tokens":[true],"about":{"adapters":{},"build":{},"model":{},"options":{}}}',
        b'{"tokens":"","about":{"adapters":{},"build":{},"model":{},"options":{}}}',
        b'{"tokens":[],"about":{"adapters":{},"build":{},"model":{},"options":[]}}',
        b'{"tokens":[],"about":{"adapters":{},"build":{},"model":{},"options":{"a":1}}}',
        b'{"tokens":[],"about":{"adapters":{},"build":{},"model":{}}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_somebody_made(header: bytes) -> None:
    with pytest.raises(StateError):
        LlamaState.from_bytes(sealed(header))


def test_a_header_longer_than_the_file() -> None:
    body = b"nlstate\x01" + (1 << 40).to_bytes(8, "little") + b"{}"
    with pytest.raises(StateError, match="damaged"):
        LlamaState.from_bytes(body + hashlib.sha256(body).digest())


def test_a_blob_that_somebody_made(state: LlamaState, llama: OpenedModel) -> None:
    """The context is empty then, and as good as new."""
    expected = write(llama, llama.tokenize(PROMPT))
    header = json.dumps({"tokens": list(state.tokens), "about": state.about}).encode()
    shorter = json.dumps({"tokens": list(state.tokens[:-2]), "about": state.about}).encode()
    for raw in (
        sealed(header),
        sealed(header, bytes(64)),
        sealed(header, state.blob[:-9]),
        sealed(shorter, state.blob),
    ):
        with pytest.raises(StateError):
            load_state(llama, LlamaState.from_bytes(raw))
        assert llama._session.held == []
        assert write(llama, llama.tokenize(PROMPT)) == expected


def test_tokens_that_the_model_does_not_have(state: LlamaState, llama: OpenedModel) -> None:
    strange = replace(state, tokens=(*state.tokens[:-1], 1_000_000))
    with pytest.raises(ModelError):
        load_state(llama, strange)
    load_state(llama, state)


def _other_name(made: gguf.Gguf) -> None:
    made.put("general.name", gguf.STRING, b"another")


def _other_weights(made: gguf.Gguf) -> None:
    tensor = made.tensors[0]
    tensor.data = bytes(byte ^ 1 if place % 34 > 1 else byte for place, byte in enumerate(tensor.data))


@pytest.mark.parametrize("change", [_other_name, _other_weights])
def test_a_state_of_another_model(state: LlamaState, tmp_path: Path, change: Callable[[gguf.Gguf], None]) -> None:
    with open(bundled_model(), "rb") as file:
        made = gguf.parse(file.read())
    change(made)
    (tmp_path / "other.gguf").write_bytes(made.to_bytes())
    with OpenedModel(tmp_path / "other.gguf", n_threads=1) as other:
        write(other, other.tokenize(PROMPT), 3)
        held = list(other._session.held)
        with pytest.raises(StateError, match="another model"):
            load_state(other, state)
        assert other._session.held == held


def test_the_same_model_under_another_name(state: LlamaState, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    with open(bundled_model(), "rb") as file:
        copy.write_bytes(file.read())
    with OpenedModel(copy, n_threads=1) as other:
        copy.unlink()  # what cannot be read any more says nothing
        load_state(other, state)
        assert other._session.held == list(state.tokens)


def test_a_state_of_another_build(state: LlamaState, llama: OpenedModel) -> None:
    build = {**state.about["build"], "llama_version": "0.0.1-dev"}
    with pytest.raises(StateError, match=r"another build of llama\.cpp \(llama_version was '0.0.1-dev', is "):
        load_state(llama, replace(state, about={**state.about, "build": build}))


def test_a_state_of_other_options(state: LlamaState) -> None:
    said = r"other options \(rope_freq_base was not there, is '5000.0'\)"
    with (
        OpenedModel(bundled_model(), n_threads=1, rope_freq_base=5000.0) as other,
        pytest.raises(StateError, match=said),
    ):
        load_state(other, state)


def test_a_state_that_is_too_long(llama: OpenedModel) -> None:
    write(llama, llama.tokenize("The cat sat on the mat. " * 40), 1)
    state = save_state(llama)
    with (
        OpenedModel(bundled_model(), n_threads=1, n_ctx=256) as other,
        pytest.raises(StateError, match="the context holds 256") as caught,
    ):
        load_state(other, state)
    assert f"n_ctx={state.n_tokens}" in caught.value.hint


def test_not_in_the_middle_of_a_story(llama: OpenedModel, state: LlamaState) -> None:
    words = llama.generate(llama.tokenize(PROMPT), max_tokens=20, temperature=0)
    next(words)
    for call in (lambda: save_state(llama), lambda: load_state(llama, state)):
        with pytest.raises(BusyError):
            call()
    rest = list(words)
    assert len(rest) == 19
    load_state(llama, state)


def test_a_story_of_another_thread_is_waited_for(llama: OpenedModel, state: LlamaState) -> None:
    prompt = llama.tokenize(PROMPT)
    expected = write(llama, prompt, 60)
    words = llama.generate(prompt, max_tokens=60, temperature=0)
    begun, found = threading.Event(), list[int]()

    def tell() -> None:
        for word in words:
            found.append(word)
            begun.set()

    thread = threading.Thread(target=tell)
    thread.start()
    begun.wait()
    load_state(llama, state)
    assert found == expected
    thread.join()
    assert llama._session.held == list(state.tokens)


def test_only_a_state_is_loaded(llama: OpenedModel) -> None:
    with pytest.raises(TypeError, match="not bytes"):
        load_state(llama, b"")  # type: ignore[arg-type]


def test_it_says_what_it_is(state: LlamaState) -> None:
    assert repr(state).startswith(f"<LlamaState {state.n_tokens} tokens of 'llama ")
    about: dict[str, Any] = state.about
    assert set(about) == {"model", "build", "options", "adapters"}
