"""LoRA adapters and control vectors: what they change, and which files and numbers never reach C."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import AdapterError
from nativeload_llama.library import Api, open_library
from nativeload_llama.low_level import Context, Model, SingleToken
from tests.bindings.gguf_writer import ARRAY, BOOL, STRING, U32, U64, Gguf, Tensor, parse
from tests.bindings.lora import lora, write_lora

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    RunPython = Callable[..., subprocess.CompletedProcess[str]]
    Change = Callable[[Gguf], None]

MODEL = Path(bundled_model()).read_bytes()


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


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    write_lora(tmp_path / "adapter.gguf", bundled_model())
    return str(tmp_path / "adapter.gguf")


def greedy(context: Context, count: int = 12) -> list[int]:
    """Return the likeliest tokens after the beginning of a story."""
    low_level.memory_clear(context)
    tokens = low_level.tokenize(context.model, "Once upon a time", add_special=True, parse_special=False)
    low_level.decode(context, low_level.batch_get_one(context, tokens))
    single, sampler = SingleToken(context), low_level.sampler_init_greedy(context.api)
    found = []
    for _ in range(count):
        found.append(low_level.sampler_sample(sampler, context))
        single.decode(found[-1])
    low_level.sampler_free(sampler)
    return found


def test_an_adapter_changes_the_text_while_it_is_on(model: Model, context: Context, adapter: str) -> None:
    """By its scale; nothing is off, and off is as before."""
    plain = greedy(context)
    loaded = low_level.adapter_lora_init(model, adapter)
    assert greedy(context) == plain
    low_level.set_adapters_lora(context, [(loaded, 1.0)])
    on = greedy(context)
    assert on != plain
    low_level.set_adapters_lora(context, [(loaded, 0.0)])
    assert greedy(context) == plain
    low_level.set_adapters_lora(context, [(loaded, 0.5), (loaded, 0.5)])
    low_level.set_adapters_lora(context, [(loaded, 1.0)])
    assert greedy(context) == on
    low_level.set_adapters_lora(context, [])
    assert greedy(context) == plain
    low_level.adapter_lora_free(loaded)


def test_two_adapters_add_up(model: Model, context: Context, tmp_path: Path) -> None:
    """One that takes away what the other adds leaves the text as it was."""
    write_lora(tmp_path / "a.gguf", bundled_model())
    write_lora(tmp_path / "b.gguf", bundled_model())
    plain = greedy(context)
    both = [low_level.adapter_lora_init(model, str(tmp_path / name)) for name in ("a.gguf", "b.gguf")]
    low_level.set_adapters_lora(context, [(both[0], 1.0), (both[1], -1.0)])
    assert greedy(context) == plain
    low_level.set_adapters_lora(context, [(both[0], 1.0), (both[1], 1.0)])
    assert greedy(context) != plain


def test_adapter_meta(model: Model, tmp_path: Path) -> None:
    """What the file says that is no array, as text of any length."""
    made = lora(bundled_model())
    made.put("general.name", STRING, "ein Märchen ".encode() * 100)
    made.put("general.tags", ARRAY, [b"x"], STRING)
    (tmp_path / "x.gguf").write_bytes(made.to_bytes())
    loaded = low_level.adapter_lora_init(model, str(tmp_path / "x.gguf"))
    assert low_level.adapter_meta(loaded) == {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": "4.000000",
        "general.name": "ein Märchen " * 100,
    }


def test_a_freed_adapter_is_used_no_more(model: Model, context: Context, adapter: str) -> None:
    """Freed twice is freed once."""
    loaded = low_level.adapter_lora_init(model, adapter)
    low_level.adapter_lora_free(loaded)
    low_level.adapter_lora_free(loaded)
    for use in (
        lambda: low_level.set_adapters_lora(context, [(loaded, 1.0)]),
        lambda: low_level.adapter_meta(loaded),
    ):
        with pytest.raises(AdapterError, match="freed"):
            use()


def test_an_adapter_belongs_to_the_model_it_was_loaded_for(api: Api, context: Context, adapter: str) -> None:
    """Another one, also of the same file, has other tensors."""
    other = low_level.model_load_from_file(api, bundled_model())
    loaded = low_level.adapter_lora_init(other, adapter)
    with pytest.raises(AdapterError, match="another model"):
        low_level.set_adapters_lora(context, [(loaded, 1.0)])
    low_level.adapter_lora_free(loaded)
    low_level.model_free(other)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e38])
def test_a_scale_that_cannot_be(model: Model, context: Context, adapter: str, scale: float) -> None:
    """It would make nonsense of every logit."""
    loaded = low_level.adapter_lora_init(model, adapter)
    with pytest.raises(AdapterError, match="scale"):
        low_level.set_adapters_lora(context, [(loaded, scale)])


# -- files that are none -------------------------------------------------------------------------------------------


def test_files_that_are_no_adapters(model: Model, tmp_path: Path) -> None:
    """Not there, a directory, something else, a model, an impossible name: an error with the path and a reason."""
    (tmp_path / "x.bin").write_bytes(b"\x7fELF" + bytes(500))
    for path, reason in (
        (str(tmp_path / "missing.gguf"), "No such file"),
        (str(tmp_path), "directory"),
        (str(tmp_path / "x.bin"), "not a GGUF"),
        (bundled_model(), "adapter"),
        ("a\0b.gguf", "null"),
    ):
        with pytest.raises(AdapterError, match=reason):
            low_level.adapter_lora_init(model, path)


def test_a_model_without_weights_takes_no_adapters(api: Api, adapter: str) -> None:
    """There is nothing to add to."""
    bare = low_level.model_load_from_file(api, bundled_model(), vocab_only=True)
    with pytest.raises(AdapterError, match="without its weights"):
        low_level.adapter_lora_init(bare, adapter)
    low_level.model_free(bare)


def put(key: str, kind: int, value: object) -> Change:
    return lambda made: made.put(key, kind, value)


def reshape(place: int, *more: int) -> Change:
    """Give a tensor more dimensions than two, and the data for them."""

    def change(made: Gguf) -> None:
        tensor = made.tensors[place]
        tensor.shape = (*tensor.shape, *more)
        tensor.data *= more[-1]

    return change


def retype(place: int, kind: int, factor: int = 1) -> Change:
    def change(made: Gguf) -> None:
        made.tensors[place].kind = kind
        made.tensors[place].data *= factor

    return change


def without_rank(made: Gguf) -> None:
    for tensor, shape in zip(made.tensors[:2], ((128, 0), (0, 128)), strict=True):
        tensor.shape, tensor.data = shape, b""


def of_the_embedding(made: Gguf) -> None:
    first, second = made.tensors[:2]
    first.name, first.shape, first.data = b"token_embd.weight.lora_a", (4, 640), bytes(4 * 4 * 640)
    second.name, second.shape, second.data = b"token_embd.weight.lora_b", (4, 128), bytes(4 * 4 * 128)


def of_a_name_within_a_name(made: Gguf) -> None:
    made.tensors.append(Tensor(b"blk.0.attn_q.weight.lora_a.lora_a", (128, 4, 2), 0, bytes(4 * 128 * 4 * 2)))


def without_second(made: Gguf) -> None:
    del made.tensors[1]


def rename(part: bytes, other: bytes) -> Change:
    """Make a pair of matrices one of another tensor."""

    def change(made: Gguf) -> None:
        for tensor in made.tensors[:2]:
            tensor.name = tensor.name.replace(part, other)

    return change


DEADLY: dict[str, Change] = {
    "a type that is a number": put("general.type", U32, 1),
    "an architecture that is a number": put("general.architecture", U32, 1),
    "an adapter type that is a truth": put("adapter.type", BOOL, True),
    "an alpha that is a number without fractions": put("adapter.lora.alpha", U32, 4),
    "a first matrix of three dimensions": reshape(0, 2),
    "a second matrix of three dimensions": reshape(1, 3),
    "a second matrix of four dimensions": reshape(1, 1, 3),
    "a first matrix of whole numbers": retype(0, 26),
    "a second matrix of whole numbers": retype(1, 26),
    "a matrix of doubles": retype(0, 28, 2),
    "matrices of nothing": without_rank,
    "the embedding of a model whose output it is too": of_the_embedding,
}
"""What ends the process, in the library that the tests run on: an assertion, or a function that is not there."""

REFUSED: dict[str, Change] = {
    **DEADLY,
    "an alignment that is a text": put("general.alignment", STRING, b"x"),
    "an alignment of 64 bits": put("general.alignment", U64, 32),
    "a name within a name": of_a_name_within_a_name,
    "no second matrix": without_second,
    "a tensor of another name": lambda made: setattr(made.tensors[0], "name", b"blk.0.attn_q.weight"),
    "a tensor that the model lacks": rename(b"blk.0", b"blk.9"),
    "matrices of another tensor": rename(b"attn_q", b"attn_k"),
    "cut short": lambda made: setattr(made.tensors[-1], "data", made.tensors[-1].data[:100]),
    "another architecture": put("general.architecture", STRING, b"gpt2"),
    "another type": put("general.type", STRING, b"model"),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_is_wrong_is_refused(model: Model, tmp_path: Path, change: Change) -> None:
    """Whoever notices it: nothing of it reaches a decode."""
    made = lora(bundled_model())
    change(made)
    (tmp_path / "x.gguf").write_bytes(made.to_bytes())
    with pytest.raises(AdapterError) as caught:
        low_level.adapter_lora_init(model, str(tmp_path / "x.gguf"))
    assert caught.value.path == str(tmp_path / "x.gguf")
    assert caught.value.reason


RAW = """
import json, os, sys
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
adapter = api.function("llama_adapter_lora_init")(model.pointer, os.fsencode(sys.argv[1]))
assert adapter != api.ffi.NULL, "refused"
api.function("llama_set_adapters_lora")(context.pointer, api.ffi.new("struct llama_adapter_lora *[]", [adapter]), 1,
    api.ffi.new("float[]", [1.0]))
low_level.decode(context, low_level.batch_get_one(context, [5, 6]))
print("alive")
"""


@pytest.mark.parametrize("change", DEADLY.values(), ids=DEADLY.keys())
def test_c_ends_the_process_over_what_is_refused(run_python: RunPython, tmp_path: Path, change: Change) -> None:
    """Were it not so, the checks could go."""
    made = lora(bundled_model())
    change(made)
    (tmp_path / "x.gguf").write_bytes(made.to_bytes())
    done = run_python(RAW, str(tmp_path / "x.gguf"))
    assert done.returncode < 0, (done.returncode, done.stdout, done.stderr)


TRY_ALL = """
import json, os, sys
from pathlib import Path
os.environ["GGML_NO_BACKTRACE"] = "1"
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import AdapterError
from nativeload_llama.library import open_library
api = open_library()
model = low_level.model_load_from_file(api, bundled_model())
context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
whole = Path(sys.argv[1]).read_bytes()
said = []
for place in json.load(sys.stdin):
    for bits in (1, 0x80, 0xff):
        Path("x.gguf").write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        try:
            adapter = low_level.adapter_lora_init(model, "x.gguf")
        except AdapterError:
            said.append("refused")
            continue
        low_level.set_adapters_lora(context, [(adapter, 1.0)])
        low_level.memory_clear(context)
        low_level.decode(context, low_level.batch_get_one(context, [5, 6]))
        low_level.set_adapters_lora(context, [])
        low_level.adapter_lora_free(adapter)
        said.append("loaded")
print(said.count("refused"), said.count("loaded"))
"""


def test_flipped_bytes_in_the_header_end_no_process(run_python: RunPython, adapter: str) -> None:
    """Each byte before the data, three times: refused, or used all the same."""
    end = len(lora(bundled_model()).header())
    done = run_python(TRY_ALL, adapter, stdin=json.dumps(list(range(end))))
    assert done.returncode == 0, done.stderr[-500:]
    refused, loaded = map(int, done.stdout.split())
    assert refused > loaded > 0


def test_the_embedding_can_be_adapted_where_the_output_is_another(api: Api, tmp_path: Path) -> None:
    """In a model with a tensor of its own for the output; its matrices have their dimensions the other way round."""
    whole = parse(MODEL)
    whole.tensors.append(Tensor(b"output.weight", (128, 640), 8, whole.tensor("token_embd.weight").data))
    (tmp_path / "model.gguf").write_bytes(whole.to_bytes())
    model = low_level.model_load_from_file(api, str(tmp_path / "model.gguf"))
    context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
    made = lora(bundled_model())
    of_the_embedding(made)
    for tensor in made.tensors[:2]:
        tensor.data = lora(bundled_model()).tensors[0].data * 10
        tensor.data = tensor.data[: 16 * tensor.shape[1]]
    (tmp_path / "x.gguf").write_bytes(made.to_bytes())
    plain = greedy(context)
    low_level.set_adapters_lora(context, [(low_level.adapter_lora_init(model, str(tmp_path / "x.gguf")), 1.0)])
    assert greedy(context) != plain
    made.tensors[1].shape, made.tensors[1].data = (8, 128), bytes(4 * 8 * 128)
    (tmp_path / "x.gguf").write_bytes(made.to_bytes())
    with pytest.raises(AdapterError, match="matrices"):
        low_level.adapter_lora_init(model, str(tmp_path / "x.gguf"))
    low_level.free(context)


# -- control vectors -----------------------------------------------------------------------------------------------


def test_a_control_vector_changes_the_text_while_it_is_on(model: Model, context: Context) -> None:
    """In the layers of its range; None is as before, and so are layers without one."""
    width, plain = low_level.model_n_embd(model), greedy(context)
    low_level.set_adapter_cvec(context, [0.5] * width * 4, width, 1, 4)
    assert greedy(context) != plain
    low_level.set_adapter_cvec(context, [0.5] * width * 4, width, 8, 9)
    assert greedy(context) == plain
    low_level.set_adapter_cvec(context, [0.0] * width, width, 1, 4)
    assert greedy(context) == plain
    low_level.set_adapter_cvec(context, [0.5] * width, width, 1, 4)
    assert greedy(context) != plain
    low_level.set_adapter_cvec(context, None, width, 1, 4)
    assert greedy(context) == plain


def test_a_control_vector_that_does_not_fit(context: Context) -> None:
    """Another width, no layers or too many, NaN, and layers that cannot be."""
    for data, n_embd, start, end in (
        ([0.5] * 64, 64, 1, 4),
        ([], 128, 1, 4),
        ([0.5] * 100, 128, 1, 4),
        ([0.5] * 128 * 5, 128, 1, 4),
        ([float("nan")] * 128, 128, 1, 4),
        ([1e38] * 128, 128, 1, 4),
        ([0.5] * 128, 128, -1, 4),
        ([0.5] * 128, 128, 1, 2**31),
    ):
        with pytest.raises(AdapterError, match="control vector"):
            low_level.set_adapter_cvec(context, data, n_embd, start, end)
