"""LoRA adapters and control vectors change what all contexts of a model compute, and go off again without a trace."""

from __future__ import annotations

import math
import os
import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nativeload_llama import bundled_model
from nativeload_llama.adapters import load_lora, lora_adapters, set_control_vector, set_lora
from nativeload_llama.embedding import embed
from nativeload_llama.errors import AdapterError, BusyError, StateError
from nativeload_llama.gguf import read
from nativeload_llama.opened import OpenedModel
from nativeload_llama.state import load_state, save_state
from tests.bindings import gguf_writer as gguf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

N_EMBD, N_FF, LAYERS = 128, 352, 5  # of the story model
TEXT = "Once upon a time, there was a little dog"
LAST = f"blk.{LAYERS - 1}.ffn_down.weight"
QUERY = "blk.1.attn_q.weight"


@pytest.fixture
def llama(_one_cache: None) -> Iterator[OpenedModel]:
    """The story model."""
    with OpenedModel(bundled_model(), n_threads=1) as opened:
        yield opened


def numbers(count: int, seed: int = 3) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(0, 1) for _ in range(count)]


def tensor(name: str, shape: tuple[int, ...], values: Sequence[float]) -> gguf.Tensor:
    return gguf.Tensor(name.encode(), shape, gguf.TENSOR_F32, struct.pack(f"<{len(values)}f", *values))


def lora(
    path: Path,
    base: str = LAST,
    sizes: tuple[int, int] = (N_FF, N_EMBD),
    *,
    into: Sequence[float] | None = None,
    **changed: str,
) -> Path:
    """Write a LoRA adapter of rank 1: what a tensor gives, ``into`` is added to, times a number that depends on x."""
    words = {"general_type": "adapter", "general_architecture": "llama", "adapter_type": "lora", **changed}
    made = gguf.Gguf()
    for key, value in words.items():
        made.put(key.replace("_", ".", 1), gguf.STRING, value.encode())
    made.put("adapter.lora.alpha", gguf.F32, 1.0)
    made.tensors = [
        tensor(f"{base}.lora_a", (sizes[0], 1), numbers(sizes[0])),
        tensor(f"{base}.lora_b", (1, sizes[1]), into or numbers(sizes[1], seed=4)),
    ]
    path.write_bytes(made.to_bytes())
    return path


def vector(path: Path, rows: Mapping[str, Sequence[float]], architecture: bytes = b"controlvector") -> Path:
    """Write a control vector."""
    made = gguf.Gguf()
    made.put("general.architecture", gguf.STRING, architecture)
    made.tensors = [tensor(name, (len(row),), row) for name, row in rows.items()]
    path.write_bytes(made.to_bytes())
    return path


def normed(row: Sequence[float]) -> list[float]:
    """Return what the model's last step makes of a vector: of length sqrt(n), times its weights."""
    weights = read(bundled_model()).tensor_data("output_norm.weight")
    size = math.sqrt(sum(value * value for value in row) / len(row))
    return [value / size * weight for value, weight in zip(row, weights, strict=True)]


def write(llama: OpenedModel, count: int = 24) -> list[int]:
    return list(llama.generate(llama.tokenize(TEXT), max_tokens=count, temperature=0))


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


# -- LoRA -------------------------------------------------------------------------------------------------------------


def test_an_adapter_does_what_its_matrices_say(llama: OpenedModel, tmp_path: Path) -> None:
    """So strong that nothing else counts, each token's vector is the adapter's own, one way or the other."""
    into = numbers(N_EMBD, seed=9)
    set_lora(llama, {lora(tmp_path / "a", into=into): 1e6})
    expected = normed(into)
    for row in embed(llama, TEXT):
        sign = 1 if alike(row, expected) > 0 else -1
        assert [sign * value for value in row] == pytest.approx(expected, abs=0.02)


def test_twice_the_scale_is_twice_the_matrix(llama: OpenedModel, tmp_path: Path) -> None:
    into = numbers(N_EMBD, seed=9)
    one = lora(tmp_path / "one", into=into)
    two = lora(tmp_path / "two", into=[2 * value for value in into])
    plain = embed(llama, TEXT)
    set_lora(llama, {one: 0.2})
    double = embed(llama, TEXT)
    set_lora(llama, {two: 0.1})
    same = embed(llama, TEXT)
    assert max(abs(a - b) for x, y in zip(double, same, strict=True) for a, b in zip(x, y, strict=True)) < 1e-4
    assert max(abs(a - b) for x, y in zip(double, plain, strict=True) for a, b in zip(x, y, strict=True)) > 0.1


def test_adapters_are_swapped_while_the_model_is_open(llama: OpenedModel, tmp_path: Path) -> None:
    first, second = lora(tmp_path / "first", QUERY, (N_EMBD, N_EMBD)), lora(tmp_path / "second")
    plain = write(llama)
    set_lora(llama, {first: 4.0})
    assert lora_adapters(llama) == {str(first): 4.0}
    one = write(llama)
    set_lora(llama, {first: 4.0, second: 0.5})
    assert lora_adapters(llama) == {str(first): 4.0, str(second): 0.5}
    both = write(llama)
    assert len({tuple(plain), tuple(one), tuple(both)}) == 3
    set_lora(llama, {first: 4.0})
    assert write(llama) == one
    set_lora(llama, {})
    assert lora_adapters(llama) == {}
    assert write(llama) == plain
    set_lora(llama, {first: 0})
    assert write(llama) == plain


def test_what_was_computed_with_others_is_forgotten(llama: OpenedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "a")
    write(llama)
    held = list(llama._session.held)
    assert held
    set_lora(llama, {})  # as it is
    set_control_vector(llama, None)
    assert llama._session.held == held
    set_lora(llama, {path: 1.0})
    assert llama._session.held == []
    write(llama)
    set_lora(llama, {load_lora(llama, path): 1})  # the same
    assert llama._session.held
    set_control_vector(llama, {1: numbers(N_EMBD)})
    assert llama._session.held == []
    write(llama)
    set_control_vector(llama, {1: numbers(N_EMBD)})  # the same
    assert llama._session.held


def test_a_file_is_loaded_once_and_again_when_it_changed(llama: OpenedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "a", QUERY, (N_EMBD, N_EMBD))
    loaded = load_lora(llama, path)
    assert loaded.path == str(path)
    assert loaded.metadata["adapter.type"] == "lora"
    for scale in (1.0, 0.5, 0.0):
        set_lora(llama, {str(path): scale})
        set_lora(llama, {loaded: scale})
    assert len(llama._native.adapters) == 1
    set_lora(llama, {path: 1.0})
    before = embed(llama, TEXT, pooling="mean")
    path.unlink()
    lora(path, QUERY, (N_EMBD, N_EMBD), into=numbers(N_EMBD, seed=77))
    os.utime(path, ns=(1, 1))
    set_lora(llama, {path: 1.0})
    assert len(llama._native.adapters) == 2
    assert alike(embed(llama, TEXT, pooling="mean"), before) < 0.9999


@pytest.mark.parametrize("early", [True, False])
def test_all_contexts_use_the_same_adapters(llama: OpenedModel, tmp_path: Path, early: bool) -> None:
    """Those that were there, and those that come later."""
    plain = embed(llama, TEXT, pooling="last")
    if not early:
        llama.close()
        llama = OpenedModel(bundled_model(), n_threads=1)
    with llama:
        set_lora(llama, {lora(tmp_path / "a"): 1.0})
        set_control_vector(llama, {2: numbers(N_EMBD)})
        both = embed(llama, TEXT, pooling="last")
        set_control_vector(llama, None)
        adapted = embed(llama, TEXT, pooling="last")
        assert max(alike(plain, both), alike(plain, adapted), alike(both, adapted)) < 0.999
        set_lora(llama, {})
        assert embed(llama, TEXT, pooling="last") == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 1e300, "1"])
def test_a_scale_that_is_none(llama: OpenedModel, tmp_path: Path, scale: Any) -> None:
    path = lora(tmp_path / "a")
    set_lora(llama, {path: 0.5})
    with pytest.raises(AdapterError, match="finite"):
        set_lora(llama, {path: scale})
    assert lora_adapters(llama) == {str(path): 0.5}
    with pytest.raises(AdapterError, match="finite"):
        set_control_vector(llama, {1: numbers(N_EMBD)}, scale=scale)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-64])


@pytest.mark.parametrize(
    "broken",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"GGUF and nothing else"),
        lambda path: path.write_bytes(Path(bundled_model()).read_bytes()),
        _truncated,
        lambda path: lora(path, general_architecture="bert"),
        lambda path: lora(path, general_type="model"),
        lambda path: lora(path, adapter_type="dora"),
        lambda path: lora(path, "blk.99.attn_q.weight", (N_EMBD, N_EMBD)),
        lambda path: lora(path, QUERY, (64, N_EMBD)),
        lambda path: lora(path, QUERY, (N_EMBD, 64)),
    ],
)
def test_what_is_no_adapter_of_this_model(llama: OpenedModel, tmp_path: Path, broken: Callable[[Path], object]) -> None:
    """Nothing has changed then."""
    good, path = lora(tmp_path / "good", QUERY, (N_EMBD, N_EMBD)), lora(tmp_path / "bad")
    set_lora(llama, {good: 2.0})
    expected, held = write(llama), list(llama._session.held)
    broken(path)
    with pytest.raises(AdapterError, match="bad"):
        set_lora(llama, {good: 1.0, path: 1.0})
    with pytest.raises(AdapterError, match="bad"):
        load_lora(llama, path)
    assert lora_adapters(llama) == {str(good): 2.0}
    assert llama._session.held == held
    assert write(llama) == expected


def test_names_that_cannot_be(llama: OpenedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "a")
    with pytest.raises(AdapterError, match="twice"):
        set_lora(llama, {path: 1.0, load_lora(llama, path): 2.0})
    with pytest.raises(AdapterError, match="null"):
        set_lora(llama, {"nul\0byte": 1.0})
    with pytest.raises(AdapterError):
        set_control_vector(llama, "nul\0byte")


def test_not_in_the_middle_of_a_story(llama: OpenedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "a")
    words = llama.generate(llama.tokenize(TEXT), max_tokens=10, temperature=0)
    next(words)
    with pytest.raises(BusyError):
        set_lora(llama, {path: 1.0})
    with pytest.raises(BusyError):
        set_control_vector(llama, {1: numbers(N_EMBD)})
    assert len(list(words)) == 9
    set_lora(llama, {path: 1.0})


def test_a_state_belongs_to_its_adapters(llama: OpenedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "a")
    write(llama)
    plain = save_state(llama)
    set_lora(llama, {path: 0.5})
    write(llama)
    adapted = save_state(llama)
    with pytest.raises(StateError, match="other adapters"):
        load_state(llama, plain)
    set_control_vector(llama, {1: numbers(N_EMBD)})
    with pytest.raises(StateError, match=r"other adapters \(control vector"):
        load_state(llama, adapted)
    set_control_vector(llama, None)
    set_lora(llama, {path: 0.25})
    with pytest.raises(StateError, match=r"other adapters \(lora .* was '0.5', is '0.25'\)"):
        load_state(llama, adapted)
    set_lora(llama, {path: 0.5})
    load_state(llama, adapted)
    set_lora(llama, {path: 0.0})  # as none
    load_state(llama, plain)


# -- control vectors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e6, -1e6])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_control_vector_leads_where_it_points(
    llama: OpenedModel, tmp_path: Path, scale: float, from_file: bool
) -> None:
    """So strong that nothing else counts, each token's vector is the control vector's own."""
    row = numbers(N_EMBD)
    last = LAYERS - 1
    given: Any = vector(tmp_path / "v", {f"direction.{last}": row}) if from_file else {last: row}
    set_control_vector(llama, given, scale=scale)
    expected = normed([value * scale for value in row])
    for found in embed(llama, TEXT):
        assert found == pytest.approx(expected, abs=0.02)
    set_control_vector(llama, None)
    assert min(alike(found, expected) for found in embed(llama, TEXT)) < 0.5


def test_only_some_layers(llama: OpenedModel) -> None:
    rows = {layer: numbers(N_EMBD, seed=layer) for layer in range(1, LAYERS)}
    plain = embed(llama, TEXT, pooling="mean")
    set_control_vector(llama, rows, layers=(2, 3))
    some = embed(llama, TEXT, pooling="mean")
    set_control_vector(llama, {2: rows[2], 3: rows[3]})
    assert embed(llama, TEXT, pooling="mean") == pytest.approx(some, abs=1e-4)
    set_control_vector(llama, rows)
    assert alike(embed(llama, TEXT, pooling="mean"), some) < 0.9999
    set_control_vector(llama, None)
    assert embed(llama, TEXT, pooling="mean") == pytest.approx(plain, abs=1e-4)


def test_what_is_written_changes_and_comes_back(llama: OpenedModel) -> None:
    plain = write(llama)
    set_control_vector(llama, {3: numbers(N_EMBD)}, scale=3)
    steered = write(llama)
    assert steered != plain
    set_control_vector(llama, None)
    assert write(llama) == plain


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({0: [0.0] * N_EMBD}, "layer 0"),
        ({LAYERS: [0.0] * N_EMBD}, "layer 5, and this model's are 1 to 4"),
        ({1: [0.0] * 64}, "64 numbers, and this model's have 128"),
        ({1: []}, "0 numbers"),
        ({1: [math.nan] * N_EMBD}, "finite"),
        ({1: [1e39] * N_EMBD}, "finite"),
        ({}, "no directions"),
    ],
)
def test_what_is_no_control_vector_of_this_model(llama: OpenedModel, given: dict[int, list[float]], said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        set_control_vector(llama, given)


@pytest.mark.parametrize("layers", [(0, 2), (3, 2), (1, LAYERS), (-1, -1)])
def test_layers_that_the_model_does_not_have(llama: OpenedModel, layers: tuple[int, int]) -> None:
    with pytest.raises(AdapterError, match="1 to 4"):
        set_control_vector(llama, {1: numbers(N_EMBD)}, layers=layers)


def test_what_is_no_file_of_a_control_vector(llama: OpenedModel, tmp_path: Path) -> None:
    row = numbers(N_EMBD)
    cases: dict[str, str | Path] = {
        "architecture": vector(tmp_path / "a", {"direction.1": row}, b"llama"),
        "no direction of a layer": vector(tmp_path / "b", {"direction.1": row, "something": row}),
        "no direction": vector(tmp_path / "c", {"direction.\u0661": row}),
        "shape": vector(tmp_path / "d", {"direction.1": row[:-1]}),
        "layer 0": vector(tmp_path / "e", {"direction.0": row}),
        "layer 99": vector(tmp_path / "f", {"direction.99": row}),
        "no directions": vector(tmp_path / "g", {}),
        "No such file": tmp_path / "missing",
        "general.architecture": bundled_model(),
    }
    for said, path in cases.items():
        with pytest.raises(AdapterError, match=said) as caught:
            set_control_vector(llama, path)
        assert caught.value.path == str(path)
