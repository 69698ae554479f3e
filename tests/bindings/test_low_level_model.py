"""Loading a model file, asking the model, and writing it back: what is returned, and what is refused in C's stead."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import AbortedError, ModelError
from nativeload_llama.library import Api, open_library
from tests.bindings.gguf_writer import I32, STRING, U16, Gguf, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import Any

    from nativeload_llama.low_level import Model

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

ARCH = "llama"


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.fixture
def load(api: Api) -> Iterator[Callable[..., Model]]:
    """Load the bundled model with options; all are freed at the end."""
    models: list[Model] = []

    def loaded(**options: Any) -> Model:
        models.append(low_level.model_load_from_file(api, bundled_model(), **options))
        return models[-1]

    yield loaded
    for one in models:
        low_level.model_free(one)


# -- loading -------------------------------------------------------------------------------------------------------


def test_a_model_knows_its_path_and_its_vocabulary(model: Model) -> None:
    """And its pointers."""
    assert model.path == bundled_model()
    assert model.n_vocab == 640
    assert model.api.ffi.NULL not in {model.pointer, model.vocab}
    assert (model.vocab_only, model.extra_bufts, model.recurses) == (False, True, False)


def test_refused_in_llama_cpps_words(api: Api, tmp_path: Path) -> None:
    """They follow where it refused the file."""
    damaged = parse(Path(bundled_model()).read_bytes())
    damaged.put("general.architecture", STRING, b"no such thing")
    (tmp_path / "x.gguf").write_bytes(damaged.to_bytes())
    with pytest.raises(ModelError, match="unknown model architecture"):
        low_level.model_load_from_file(api, str(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing.gguf", "No such file"), ("", "a directory"), ("text", "not a GGUF file"), ("a\0b", "null byte")],
)
def test_what_is_no_model_file_never_reaches_c(api: Api, tmp_path: Path, name: str, reason: str) -> None:
    """Whatever stands where the file should be."""
    (tmp_path / "text").write_text("Once upon a time")
    with pytest.raises(ModelError, match=reason):
        low_level.model_load_from_file(api, f"{tmp_path}/{name}")


def test_a_damaged_header_never_reaches_c(api: Api, tmp_path: Path) -> None:
    """No layers: llama.cpp would abort."""
    damaged = parse(Path(bundled_model()).read_bytes())
    damaged.get("llama.block_count").value = 0
    (tmp_path / "x.gguf").write_bytes(damaged.to_bytes())
    with pytest.raises(ModelError, match="block_count"):
        low_level.model_load_from_file(api, str(tmp_path / "x.gguf"))


def test_models_and_contexts_come_and_go(api: Api) -> None:
    """What was freed leaves room for the next; a context goes before its model."""
    for _ in range(3):
        model = low_level.model_load_from_file(api, bundled_model(), n_gpu_layers=0)
        low_level.free(low_level.init_from_model(model, n_ctx=256, n_batch=8, n_threads=1))
        low_level.model_free(model)


READING: list[dict[str, Any]] = [
    {"use_mmap": False},
    {"use_mmap": False, "use_mlock": True},
    {"use_mlock": True},
    {"check_tensors": True},
    {"use_extra_bufts": False},
    {"tensor_split": [3, 1.5]},
    {"tensor_split": []},
    {"split_mode": 1, "main_gpu": 0},
    {"n_gpu_layers": 2**31 - 1},
]


@pytest.mark.parametrize("options", READING, ids=str)
def test_ways_to_load(load: Callable[..., Model], options: dict[str, Any]) -> None:
    """All lead to the same model."""
    model = load(**options)
    assert low_level.model_n_params(model) == 1_004_928
    assert low_level.tokenize(model, "Once", add_special=True, parse_special=False) == [1, 379]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n_gpu_layers": -2}, "n_gpu_layers is -2"),
    ({"n_gpu_layers": 2**31}, "n_gpu_layers is 2147483648"),
    ({"split_mode": 4711}, "split_mode is 4711.*LLAMA_SPLIT_MODE_LAYER"),
    ({"split_mode": -1}, "split_mode is -1"),
    ({"main_gpu": -1}, "main_gpu is -1"),
    ({"main_gpu": 1}, "main_gpu is 1"),
    ({"tensor_split": [float("nan")]}, "tensor_split"),
    ({"tensor_split": [float("inf")]}, "tensor_split"),
    ({"tensor_split": [-1]}, "tensor_split"),
    ({"tensor_split": [1] * 17}, "at most 16"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_options_that_cannot_be(load: Callable[..., Model], options: dict[str, Any], reason: str) -> None:
    """They never reach C."""
    with pytest.raises(ModelError, match=reason):
        load(**options)


@pytest.mark.parametrize("options", [{"n_gpu_layers": 1.5}, {"n_gpu_layer": 1}, {"tensor_split": 3}], ids=str)
def test_options_of_another_kind(load: Callable[..., Model], options: dict[str, Any]) -> None:
    """They are a TypeError, as everywhere in Python."""
    with pytest.raises(TypeError):
        load(**options)


def test_files_of_a_split_model(api: Api, tmp_path: Path) -> None:
    """They are loaded by the first one's name or by a list of names in any folder; each of them is looked at."""
    names = [str(path) for path in split(tmp_path, "m-{:05}-of-00002.gguf")]
    listed = [str(path) for path in split(tmp_path, "part{}.bin")]
    for model in (low_level.model_load_from_file(api, names[0]), low_level.model_load_from_splits(api, listed)):
        assert low_level.model_n_params(model) == 1_004_928
        low_level.model_free(model)
    Path(listed[1]).write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"part2\.bin: not a GGUF file"):
        low_level.model_load_from_splits(api, listed)
    with pytest.raises(ModelError, match="at least one file"):
        low_level.model_load_from_splits(api, [])


def split(folder: Path, pattern: str) -> list[Path]:
    """Write the bundled model as two files."""
    whole = parse(Path(bundled_model()).read_bytes())
    paths = []
    for number, tensors in enumerate((whole.tensors[:20], whole.tensors[20:])):
        part = Gguf(list(whole.fields) if number == 0 else [], tensors)
        part.put("split.no", U16, number)
        part.put("split.count", U16, 2)
        part.put("split.tensors.count", I32, len(whole.tensors))
        paths.append(folder / pattern.format(number + 1))
        paths[-1].write_bytes(part.to_bytes())
    return paths


# -- progress ------------------------------------------------------------------------------------------------------


def test_progress_rises_to_the_end(load: Callable[..., Model]) -> None:
    """It is told fractions, and going on needs no answer."""
    seen: list[float] = []
    load(progress=seen.append)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


def test_progress_that_says_no_ends_the_load(load: Callable[..., Model]) -> None:
    """At once: it is not asked again."""
    seen: list[float] = []

    def half(fraction: float) -> bool:
        seen.append(fraction)
        return fraction < 0.5

    with pytest.raises(AbortedError, match="progress"):
        load(progress=half)
    assert [one for one in seen if one >= 0.5] == seen[-1:]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_what_progress_raises_ends_the_load(load: Callable[..., Model], error: type[BaseException]) -> None:
    """It is raised again, after C has cleaned up; nothing is printed."""

    def raising(fraction: float) -> bool:
        raise error("at", fraction)

    with pytest.raises(error, match="at"):
        load(progress=raising)


@pytest.mark.skipif(sys.platform == "win32", reason="needs an interval timer")
def test_ctrl_c_ends_a_load_that_nobody_watches(run_python: RunPython) -> None:
    """A signal is handled between two tensors, and nothing stays loaded."""
    code = """
import random, signal, traceback
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library
api = open_library()
signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(1)
within = 0
for _ in range(3000):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.004))
        low_level.model_free(low_level.model_load_from_file(api, bundled_model()))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        within += any(frame.name == "_conclude" for frame in traceback.extract_tb(error.__traceback__))
    if within == 3:
        break
print("within", within)
print(low_level.model_load_from_file(api, bundled_model()).n_vocab)
"""
    done = run_python(code)
    assert done.stdout.splitlines() == ["within 3", "640"], done.stderr


# -- metadata in place of the file's -------------------------------------------------------------------------------


def test_overrides_are_read_in_place_of_the_file(load: Callable[..., Model]) -> None:
    """Of each type: int, bool, float, text."""
    model = load(
        kv_overrides={
            "llama.context_length": 100,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.eos_token_id": 5,
            "llama.rope.scaling.factor": 4,
            "llama.rope.scaling.type": "linear",
        }
    )
    assert low_level.model_n_ctx_train(model) == 100
    assert (low_level.bos(model), low_level.vocab_bos(model), low_level.vocab_eos(model)) == (-1, 1, 5)
    assert low_level.model_rope_freq_scale_train(model) == 0.25


BAD_OVERRIDES: list[tuple[str, Any, str]] = [
    ("llama.block_count", 1, "cannot be overridden"),
    ("llama.attention.head_count", 0, "cannot be overridden"),
    ("general.architecture", "qwen2", "cannot be overridden"),
    ("split.count", 3, "cannot be overridden"),
    ("tokenizer.ggml.model", "bert", "cannot be overridden"),
    ("", 1, "cannot be overridden"),
    ("context_length", 1, "cannot be overridden"),
    ("llama.context_length", 0, "between 1 and"),
    ("llama.context_length", 2**31, "between 1 and"),
    ("llama.context_length", True, "must be int"),
    ("llama.context_length", 1.0, "must be int"),
    ("llama.context_length", "512", "must be int"),
    ("tokenizer.ggml.add_bos_token", 1, "must be bool"),
    ("tokenizer.ggml.bos_token_id", -1, "between 0 and"),
    ("tokenizer.ggml.bos_token_id", 640, "the vocabulary has 640 tokens"),
    ("llama.rope.freq_base", float("nan"), "between"),
    ("llama.rope.freq_base", 0.0, "between"),
    ("llama.rope.freq_base", 1e39, "between"),
    ("llama.attention.layer_norm_rms_epsilon", -1e-5, "between"),
    ("llama.rope.scaling.type", "unspecified", "none, linear"),
    ("llama.expert_used_count", 2, "the model has 0 experts"),
    ("tokenizer.ggml.pre", "x" * 128, "127 bytes"),
    ("general.name", "a\0b", "NUL"),
    ("tokenizer.ggml." + "x" * 128 + "_token_id", 1, "127 bytes"),
]


@pytest.mark.parametrize(("key", "value", "reason"), BAD_OVERRIDES)
def test_overrides_that_cannot_be(load: Callable[..., Model], key: str, value: Any, reason: str) -> None:
    """llama.cpp would abort, cut them off, or pass them over with a warning."""
    with pytest.raises(ModelError, match=reason) as caught:
        load(kv_overrides={key: value})
    assert caught.value.path == bundled_model()


def test_every_override_that_is_listed_is_taken(load: Callable[..., Model]) -> None:
    """The smallest value of each can be loaded, and the model be used."""
    from nativeload_llama.low_level import overrides

    given: dict[str, Any] = {}
    for pattern, kind, allowed in (
        *overrides._TOKENIZER,
        *((f"llama.{key}", *rest) for key, *rest in overrides._MODEL),
    ):
        key = pattern.replace("tokenizer.ggml.?*_token_id", "tokenizer.ggml.eot_token_id").replace("?*", "x")
        if key.endswith("expert_used_count"):
            continue  # the model has none
        least = allowed[0] if isinstance(allowed, tuple) else {bool: True, str: "default"}[kind]
        given[key] = least
    model = load(kv_overrides=given)
    context = low_level.init_from_model(model, n_ctx=256, n_batch=8, n_threads=1)
    low_level.decode(context, low_level.batch_get_one(context, [5, 6]))
    low_level.free(context)


# -- what a model is -----------------------------------------------------------------------------------------------

FACTS = {
    "model_desc": "llama ?B Q8_0",
    "model_size": 1_071_872,
    "model_n_params": 1_004_928,
    "model_n_ctx_train": 512,
    "model_n_embd": 128,
    "model_n_embd_inp": 128,
    "model_n_embd_out": 128,
    "model_n_layer": 5,
    "model_n_head": 4,
    "model_n_head_kv": 2,
    "model_n_swa": 0,
    "model_rope_type": 0,
    "model_rope_freq_scale_train": 1.0,
    "model_has_encoder": False,
    "model_has_decoder": True,
    "model_is_recurrent": False,
    "model_is_hybrid": False,
    "model_is_diffusion": False,
    "model_decoder_start_token": -1,
    "model_n_cls_out": 1,
    "model_chat_template": None,
    "check_generates": None,
}
SHAPES = [name for name in FACTS if "_n_" in name and name != "model_n_params"]
SHAPES += ["model_rope_type", "model_rope_freq_scale_train", "model_decoder_start_token"]


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_a_model(model: Model, name: str) -> None:
    """Each function says what the file says."""
    assert getattr(low_level, name)(model) == FACTS[name]


def test_a_model_without_weights_can_only_tokenize(load: Callable[..., Model]) -> None:
    """It has a vocabulary and metadata; asked for its shape, C would abort or say nothing of worth."""
    bare = load(vocab_only=True)
    assert bare.vocab_only
    assert low_level.tokenize(bare, "Once", add_special=True, parse_special=False) == [1, 379]
    assert low_level.model_meta(bare)["general.architecture"] == ARCH
    for name in SHAPES:
        with pytest.raises(ModelError, match="vocab_only"):
            getattr(low_level, name)(bare)
    with pytest.raises(ModelError, match="without weights"):
        low_level.init_from_model(bare, n_ctx=256, n_batch=8, n_threads=1)


def test_metadata(model: Model) -> None:
    """All of it, by key and by place; arrays are not among it."""
    meta = low_level.model_meta(model)
    assert len(meta) == low_level.model_meta_count(model) == 25
    assert meta["llama.context_length"] == "512"
    assert meta["general.name"] == "nativeload stories"
    assert "tokenizer.ggml.tokens" not in meta
    for place, (key, value) in enumerate(meta.items()):
        assert low_level.model_meta_key_by_index(model, place) == key
        assert low_level.model_meta_val_str_by_index(model, place) == value
        assert low_level.model_meta_val_str(model, key) == value
    assert low_level.model_meta_val_str(model, "no.such.key") is None
    assert low_level.model_meta_val_str(model, "general.name\0") is None


@pytest.mark.parametrize("place", [-1, 25, 2**31])
def test_metadata_has_an_end(model: Model, place: int) -> None:
    """Beyond it is an IndexError."""
    for ask in (low_level.model_meta_key_by_index, low_level.model_meta_val_str_by_index):
        with pytest.raises(IndexError, match=str(place)):
            ask(model, place)


def test_long_metadata_and_chat_templates_come_whole(api: Api, tmp_path: Path) -> None:
    """However long; what is no UTF-8 becomes U+FFFD."""
    template = "{% for message in messages %}" + "\u00e4" * 5000
    written = parse(Path(bundled_model()).read_bytes())
    written.put("tokenizer.chat_template", STRING, template.encode())
    written.put("tokenizer.chat_template.tool_use", STRING, b"tools \xff")
    (tmp_path / "x.gguf").write_bytes(written.to_bytes())
    model = low_level.model_load_from_file(api, str(tmp_path / "x.gguf"))
    assert low_level.model_chat_template(model) == template
    assert low_level.model_chat_template(model, "tool_use") == "tools \ufffd"
    assert low_level.model_chat_template(model, "rag") is None
    assert low_level.model_chat_template(model, "a\0b") is None
    assert low_level.model_meta(model)["tokenizer.chat_template"] == template
    low_level.model_free(model)


@pytest.mark.parametrize("number", [-1, 1, 2**32])
def test_labels_of_a_classifier(model: Model, number: int) -> None:
    """This one has a score without a label, and no other."""
    assert low_level.model_cls_label(model, 0) is None
    with pytest.raises(ModelError, match=f"label {number}"):
        low_level.model_cls_label(model, number)


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_model_is_written_back(load: Callable[..., Model], api: Api, folder: Path) -> None:
    """The file that was there is replaced when the new one is whole; it gives the same tokens."""
    target = folder / "saved.gguf"
    target.write_text("old")
    low_level.model_save_to_file(load(use_extra_bufts=False), str(target))
    assert sorted(os.listdir(folder)) == ["saved.gguf"]
    again = low_level.model_load_from_file(api, str(target))
    assert low_level.model_n_params(again) == FACTS["model_n_params"]
    assert low_level.tokenize(again, "Once upon", add_special=True, parse_special=False) == [1, 379, 380]
    low_level.model_free(again)


def test_a_model_is_written_over_the_file_that_it_has_mapped(api: Api, folder: Path) -> None:
    """The old file stays mapped, under no name."""
    path = folder / "x.gguf"
    path.write_bytes(Path(bundled_model()).read_bytes())
    model = low_level.model_load_from_file(api, str(path), use_extra_bufts=False)
    for _ in range(2):
        low_level.model_save_to_file(model, str(path))
    low_level.model_free(model)


def test_models_that_cannot_be_written(load: Callable[..., Model], folder: Path) -> None:
    """Without weights, or with weights that may have been repacked: C would abort or call NULL."""
    for options in ({}, {"vocab_only": True}, {"vocab_only": True, "use_extra_bufts": False}):
        with pytest.raises(ModelError, match="use_extra_bufts=False"):
            low_level.model_save_to_file(load(**options), str(folder / "x.gguf"))
    assert os.listdir(folder) == []


def test_architectures_that_cannot_be_written(
    load: Callable[..., Model], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp aborts on some, and which they are changes: only those are written that every build can write."""
    monkeypatch.setattr("nativeload_llama.low_level.model._SAVED", frozenset({"qwen2"}))
    with pytest.raises(ModelError, match="architecture llama cannot be written"):
        low_level.model_save_to_file(load(use_extra_bufts=False), str(folder / "x.gguf"))
    assert os.listdir(folder) == []


@pytest.mark.parametrize("place", ["no/such/folder/x.gguf", ".", "a\0b"])
def test_places_that_cannot_be_written(load: Callable[..., Model], folder: Path, place: str) -> None:
    """Nothing is left behind."""
    with pytest.raises(ModelError):
        low_level.model_save_to_file(load(use_extra_bufts=False), f"{folder}/{place}")
    assert os.listdir(folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_leaves_the_old_file(run_python: RunPython, folder: Path) -> None:
    """What C could not finish never takes the name."""
    (folder / "x.gguf").write_text("old")
    code = f"""
import os, resource
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import ModelError
from nativeload_llama.library import open_library
model = low_level.model_load_from_file(open_library(), bundled_model(), use_extra_bufts=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, -1))
try:
    low_level.model_save_to_file(model, {str(folder / "x.gguf")!r})
except ModelError as error:
    print("refused", error.path)
print(sorted(os.listdir({str(folder)!r})))
"""
    done = run_python(code)
    assert done.stdout.splitlines() == [f"refused {folder}/x.gguf", "['x.gguf']"], done.stderr
    assert (folder / "x.gguf").read_text() == "old"


def test_two_threads_load_at_once(api: Api) -> None:
    """Each gets its own model, and its own progress."""
    seen: dict[int, int] = {}

    def run(number: int) -> None:
        for _ in range(5):
            calls: list[float] = []
            low_level.model_free(low_level.model_load_from_file(api, bundled_model(), progress=calls.append))
            seen[number] = len(calls)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3
    assert len(set(seen.values())) == 1
