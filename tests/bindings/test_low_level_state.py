"""States: what a context remembered goes on where it was, and bytes that are none never reach C."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ContextError, StateError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import Batch, Context, Model
from tests.bindings import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]
    Make = Callable[..., Context]
    Use = Callable[[], object]

PROMPT = [1, 305, 334, 281]


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
    contexts: list[Context] = []

    def made(of: Model = model, **options: Any) -> Context:
        usual = {"n_ctx": 256, "n_batch": 32, "n_threads": 1}
        contexts.append(low_level.init_from_model(of, **{**usual, **options}))
        return contexts[-1]

    yield made
    for context in contexts:
        low_level.free(context)


def feed(context: Context, *tokens: int, seq: int = 0) -> list[float]:
    """Decode tokens and return the logits of the last one."""
    batch = Batch(context.api, len(tokens))
    first = low_level.memory_seq_pos_max(context, seq) + 1
    for place, token in enumerate(tokens):
        batch.add(token, first + place, (seq,), place == len(tokens) - 1)
    low_level.decode(context, batch)
    return list(low_level.get_logits_ith(context, -1))


def ends(context: Context) -> list[int]:
    return [low_level.memory_seq_pos_max(context, seq) for seq in range(context.n_seq_max)]


def test_a_context_goes_on_from_its_state(make: Make) -> None:
    """All sequences are as they were, in the same context and in another one."""
    context, other = make(n_seq_max=2, n_ctx=512), make(n_seq_max=2, n_ctx=512)
    feed(context, *PROMPT)
    feed(context, 1, 401, seq=1)
    state = low_level.state_get_data(context)
    assert 0 < len(state) <= low_level.state_get_size(context)
    expected = feed(context, 305)
    for one in (context, other):
        low_level.state_set_data(one, state)
        assert ends(one) == [3, 1]
        assert feed(one, 305) == pytest.approx(expected, abs=1e-3)


def test_a_sequence_goes_on_from_its_state(make: Make) -> None:
    """As the same sequence or another one; the others stay."""
    context = make(n_seq_max=3, kv_unified=True)
    feed(context, *PROMPT)
    state = low_level.state_seq_get_data(context, 0)
    assert 0 < len(state) <= low_level.state_seq_get_size(context, 0)
    expected = feed(context, 305)
    feed(context, 1, 401, seq=1)
    low_level.state_seq_set_data(context, 2, state)
    assert ends(context) == [4, 1, 3]
    assert feed(context, 305, seq=2) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_models_of_every_kind_have_states(api: Api, make: Make, tmp_path: Path, kind: str) -> None:
    """A cache, one with a window, a recurrent state, and nothing at all."""
    path = tmp_path / "model.gguf"
    path.write_bytes(kinds.write(kind))
    other = low_level.model_load_from_file(api, str(path))
    context = make(other, embeddings=kind == "bert")
    if kind == "t5":
        low_level.encode(context, low_level.batch_get_one(context, [1, 2]))
    low_level.decode(context, low_level.batch_get_one(context, [1, 2, 3]))
    held = ends(context)
    state = low_level.state_get_data(context)
    low_level.memory_clear(context)
    low_level.state_set_data(context, state)
    assert ends(context) == held
    if kind != "bert":
        part = low_level.state_seq_get_data(context, 0)
        low_level.memory_clear(context)
        low_level.state_seq_set_data(context, 0, part)
        assert ends(context) == held


def test_a_sequence_that_is_none(make: Make) -> None:
    """C asserts it."""
    context = make()

    def uses(seq: int) -> Iterator[Use]:
        yield lambda: low_level.state_seq_get_size(context, seq)
        yield lambda: low_level.state_seq_get_data(context, seq)
        yield lambda: low_level.state_seq_set_data(context, seq, b"")
        yield lambda: low_level.state_seq_save_file(context, "x", seq, [])
        yield lambda: low_level.state_seq_load_file(context, "x", seq)

    for seq in (-1, 1, 300):
        for use in uses(seq):
            with pytest.raises(ContextError, match="sequence"):
                use()


def test_damage_is_refused_and_leaves_nothing(make: Make) -> None:
    """A flipped bit anywhere, a cut, an addition, and the other kind of state: the context is empty, and usable."""
    context = make()
    expected = feed(context, *PROMPT)
    whole, part = low_level.state_get_data(context), low_level.state_seq_get_data(context, 0)
    draw = random.Random(1)
    loads: tuple[tuple[bytes, Callable[[bytes], None]], ...] = (
        (whole, lambda data: low_level.state_set_data(context, data)),
        (part, lambda data: low_level.state_seq_set_data(context, 0, data)),
    )
    for state, load in loads:
        damaged = [state[:size] for size in (0, 1, 31, 32, len(state) - 1)]
        damaged += [state + b"\0", whole if state is part else part]
        for place in [*range(24), *draw.sample(range(len(state)), 60)]:
            bits = 1 << draw.randrange(8)
            damaged.append(state[:place] + bytes([state[place] ^ bits]) + state[place + 1 :])
        for data in damaged:
            with pytest.raises(StateError, match="damaged"):
                load(data)
            assert ends(context) == [-1]
        load(state)
        assert ends(context) == [3]
    low_level.memory_clear(context)
    assert feed(context, *PROMPT) == expected


@pytest.mark.parametrize(
    "options",
    [{"type_k": "q8_0"}, {"n_seq_max": 2}, {"flash_attn": False}],
    ids=["other numbers", "more sequences", "another order"],
)
def test_a_state_of_another_kind_of_context_is_refused(make: Make, options: dict[str, Any]) -> None:
    """llama.cpp's own words follow, and the context is empty."""
    whole, other = make(flash_attn=True), make(**options)
    feed(whole, *PROMPT)
    feed(other, *PROMPT)
    with pytest.raises(StateError, match=r"of another model.*\(.*state"):
        low_level.state_set_data(other, low_level.state_get_data(whole))
    assert set(ends(other)) == {-1}


def test_a_state_of_another_model_is_refused(api: Api, make: Make, tmp_path: Path) -> None:
    """Its architecture, or its shapes, do not fit."""
    path = tmp_path / "model.gguf"
    path.write_bytes(kinds.write("gpt2"))
    context, other = make(), make(low_level.model_load_from_file(api, str(path)))
    feed(context, *PROMPT)
    uses: tuple[Use, ...] = (
        lambda: low_level.state_set_data(other, low_level.state_get_data(context)),
        lambda: low_level.state_seq_set_data(other, 0, low_level.state_seq_get_data(context, 0)),
    )
    for use in uses:
        with pytest.raises(StateError, match="another model"):
            use()


def test_a_state_that_does_not_fit_is_refused(make: Make) -> None:
    """A sequence longer than the other context has room for."""
    large, small = make(n_ctx=512), make(n_ctx=256)
    for _ in range(10):
        feed(large, *[5] * 30)
    with pytest.raises(StateError, match="no room"):
        low_level.state_seq_set_data(small, 0, low_level.state_seq_get_data(large, 0))
    assert ends(small) == [-1]
    feed(small, *PROMPT)


def test_positions_that_no_decode_gives_are_refused(make: Make) -> None:
    """Bytes with a digest of their own are C's to judge; positions that it would overflow with are not."""
    context = make()
    feed(context, *PROMPT)
    raw = low_level.state_seq_get_data(context, 0)[:-32]
    place = raw.index(b"\x03\0\0\0\x01\0\0\0\0\0\0\0")  # position 3, in one sequence, which is 0
    for position in (b"\xff\xff\xff\x7f", b"\0\0\0\x40"):
        made = raw[:place] + position + raw[place + 4 :]
        state = made + hashlib.sha256(b"nlsequence\x01" + made).digest()
        with pytest.raises(StateError, match="position"):
            low_level.state_seq_set_data(context, 0, state)
        assert ends(context) == [-1]
    feed(context, *PROMPT)


# -- files ---------------------------------------------------------------------------------------------------------


def test_files_bring_back_states_and_tokens(make: Make, tmp_path: Path) -> None:
    """Of a context and of a sequence; names may have any letters."""
    context = make(n_seq_max=2, kv_unified=True)
    expected = feed(context, *PROMPT)
    folder = tmp_path / "states"
    folder.mkdir()
    whole, part = str(folder / "Stand 日本.bin"), str(folder / "part.bin")
    low_level.state_save_file(context, whole, PROMPT)
    low_level.state_seq_save_file(context, part, 0, PROMPT[:2])
    loads: tuple[Callable[[], bool], ...] = (
        lambda: low_level.state_load_file(context, whole) == PROMPT,
        lambda: low_level.state_seq_load_file(context, part, 1) == PROMPT[:2],
    )
    for load in loads:
        low_level.memory_clear(context)
        assert load()
        assert max(ends(context)) == 3
    low_level.memory_clear(context)
    assert feed(context, *PROMPT) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["Stand 日本.bin", "part.bin"]
    assert (folder / "part.bin").stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_a_file_that_is_none_is_refused(make: Make, tmp_path: Path) -> None:
    """Not there, a directory, a pipe, another kind, cut, flipped anywhere: the context is empty then."""
    context = make()
    feed(context, *PROMPT)
    good, part, bad = (str(tmp_path / name) for name in ("good", "part", "bad"))
    low_level.state_save_file(context, good, PROMPT)
    low_level.state_seq_save_file(context, part, 0, PROMPT)
    whole = Path(good).read_bytes()
    contents = [b"", whole[:5], whole[:20], whole[:-1], whole + b"x", Path(part).read_bytes(), b"ggsn" + bytes(100)]
    contents += [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in range(0, 120, 3)]
    for content in contents:
        Path(bad).write_bytes(content)
        with pytest.raises(StateError):
            low_level.state_load_file(context, bad)
        assert ends(context) == [-1]
    names = [str(tmp_path / "missing"), str(tmp_path), "a\0b"]
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
        names.append(str(tmp_path / "pipe"))
    for name in names:
        with pytest.raises(StateError):
            low_level.state_load_file(context, name)
        with pytest.raises(StateError):
            low_level.state_seq_load_file(context, name, 0)
    assert low_level.state_load_file(context, good) == PROMPT


def test_a_file_of_tokens_that_the_model_lacks_is_refused(make: Make, tmp_path: Path) -> None:
    """Tokens are checked when they come back; what is no 32-bit number cannot be written."""
    context, path = make(), str(tmp_path / "x")
    feed(context, *PROMPT)
    low_level.state_save_file(context, path, [640])
    with pytest.raises(StateError, match="does not have"):
        low_level.state_load_file(context, path)
    for tokens in ([2**31], ["x"]):
        with pytest.raises(StateError, match="none"):
            low_level.state_save_file(context, path, tokens)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_leaves_nothing(make: Make, tmp_path: Path) -> None:
    """No directory, or something in its place; what was there before stays."""
    context = make()
    feed(context, *PROMPT)
    folder = tmp_path / "states"
    folder.mkdir()
    for path in (folder / "missing" / "x", folder):
        with pytest.raises(StateError):
            low_level.state_save_file(context, str(path), PROMPT)
    with pytest.raises(StateError):
        low_level.state_save_file(context, "a\0b", PROMPT)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.glob("states*")) == [folder]


# -- a negative control --------------------------------------------------------------------------------------------

FLIPPED = """
import os, resource
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
low_level.decode(context, low_level.batch_get_one(context, [5, 6]))
raw = bytearray(low_level.state_seq_get_data(context, 0)[:-32])
place = raw.index(bytes([2, 0, 0, 0]))  # how many cells there are
raw[place + 3] = 0x40
call = api.function("llama_state_seq_set_data")
print("read", call(context.pointer, api.ffi.new("uint8_t[]", bytes(raw)), len(raw), 0))
"""


def test_c_notices_most_flipped_bits_by_itself(run_python: RunPython) -> None:
    """This library refuses a count of cells that its cache does not have; those before build 11549 ask for the room."""
    done = run_python("import resource\nresource.setrlimit(resource.RLIMIT_AS, (3 << 30, -1))\n" + FLIPPED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["read", "0"]
