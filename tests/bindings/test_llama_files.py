"""Files that are no model, or not any more: a ModelError with a reason, and never the end of the process."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

Variant = tuple[int, str, int]  # offset, the bytes put there in hex, the length kept

MODEL = Path(bundled_model()).read_bytes()
WHOLE = len(MODEL)
TENSORS_END = MODEL.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4 + 8

# Opens every variant that stdin names and says what became of it, one line before and one line after.
OPEN_ALL = """
import json, os, sys
from pathlib import Path
from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import LlamaError
os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would start gdb
model = Path(bundled_model()).read_bytes()
for offset, put, kept in json.load(sys.stdin):
    put = bytes.fromhex(put)
    Path("variant.gguf").write_bytes((model[:offset] + put + model[offset + len(put):])[:kept])
    print("trying", flush=True)
    try:
        with Llama("variant.gguf", n_threads=1) as llama:
            list(llama.generate([1], max_tokens=3))
            llama.complete("Once", max_tokens=3)
        print("opened", flush=True)
    except LlamaError as error:
        print(type(error).__name__, str(error).replace("\\n", " "), flush=True)
"""


def fates(run_python: RunPython, variants: Iterable[Variant]) -> dict[Variant, str]:
    """Say what became of each variant: ``opened``, an error's name and text, or ``died`` and what was said last."""
    left, found = list(variants), dict[Variant, str]()
    while left:
        done = run_python(OPEN_ALL, stdin=json.dumps(left), seconds=300)
        lines = done.stdout.splitlines()
        said = [line for line in lines if line != "trying"]
        if lines and lines[-1] == "trying":
            said.append(f"died with {done.returncode}: {done.stderr.strip().partition(chr(10))[0]}")
        else:
            assert done.returncode == 0, done.stderr
            assert len(said) == len(left)
        found.update(zip(left, said, strict=False))
        left = left[len(said) :]
    return found


def deaths(found: dict[Variant, str]) -> dict[Variant, str]:
    return {variant: fate for variant, fate in found.items() if fate.startswith("died")}


def value_of(key: str) -> int:
    """Return where the value of a metadata key begins: after the key and the number of its type."""
    return MODEL.index(key.encode()) + len(key) + 4


# -- no model at all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "not a GGUF"), (b"GG", "not a GGUF"), (b"\x7fELF" + bytes(500), "not a GGUF")],
    ids=["missing", "empty", "two bytes", "another format"],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """ModelError has the path and a reason in words."""
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        Llama(path)
    assert caught.value.path == str(path)
    assert caught.value.reason


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(ModelError, match="directory"):
        Llama(tmp_path)


def test_a_path_that_cannot_be_is_no_model() -> None:
    """A path with a NUL byte is refused as any other file that cannot be opened."""
    with pytest.raises(ModelError, match="null"):
        Llama("a\0b.gguf")


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    """Blanks and letters beyond ASCII in a path reach llama.cpp as they are; str and Path are the same."""
    path = tmp_path / "ein Märchen 日本.gguf"
    path.write_bytes(MODEL)
    for given in (path, str(path)):
        with Llama(given, n_threads=1) as llama:
            assert "Märchen" in repr(llama)


def test_after_a_failure_the_next_model_opens(tmp_path: Path) -> None:
    """A file that cannot be loaded leaves nothing behind, and its errors are not told of the next one."""
    (tmp_path / "bad.gguf").write_bytes(MODEL[:5000])
    with pytest.raises(ModelError):
        Llama(tmp_path / "bad.gguf")
    (tmp_path / "worse.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError) as caught:
        Llama(tmp_path / "worse.gguf")
    assert "bad.gguf" not in str(caught.value)
    with Llama(bundled_model(), n_threads=1) as llama:
        assert llama.complete("Once", max_tokens=2, temperature=0)


# -- damaged models ------------------------------------------------------------------------------------------------


def test_a_model_cut_short_is_refused(run_python: RunPython) -> None:
    """Cut at any of 20 lengths, from the magic to one byte less than whole, it is a ModelError with a reason."""
    lengths = [4, 8, 16, 23, 24, 25, 40, 100, 500, 1000, 5000, 9300, 12_000, 14_800, 17_000, 17_600]
    lengths += [50_000, 200_000, 1_000_000, WHOLE - 1]
    found = fates(run_python, [(0, "", length) for length in lengths])
    assert len(found) == 20
    for variant, fate in found.items():
        assert fate.startswith("ModelError"), (variant, fate)
        assert len(fate) > len("ModelError variant.gguf: ")


def test_flipped_bytes_in_the_header_end_no_process(run_python: RunPython) -> None:
    """A wrong byte in any of 100 places of keys, values and tensor table is refused, or the model opens."""
    draw = random.Random(20)
    places = draw.sample([*range(4, 1100), *range(TENSORS_END - 2900, TENSORS_END)], 100)
    variants = [(place, bytes([MODEL[place] ^ draw.randrange(1, 256)]).hex(), WHOLE) for place in places]
    found = fates(run_python, variants)
    assert deaths(found) == {}
    assert sum(fate.startswith("ModelError") for fate in found.values()) > 50


DEADLY = {
    "no layers": (value_of("llama.block_count"), struct.pack("<I", 0)),
    "more layers than llama.cpp has room for": (value_of("llama.block_count"), struct.pack("<I", 513)),
    "two tokens of one text": (MODEL.index(b"<0x41>"), b"<0x42>"),
    "a negative epsilon": (value_of("llama.attention.layer_norm_rms_epsilon"), struct.pack("<f", -1e-5)),
    "a norm of half floats": (TENSORS_END - 12, struct.pack("<I", 1)),
}


@pytest.mark.parametrize("variant", DEADLY.values(), ids=DEADLY.keys())
def test_what_llama_cpp_would_abort_on_is_refused(run_python: RunPython, variant: tuple[int, bytes]) -> None:
    """Values on which llama.cpp's assertions end the process are a ModelError before it sees them."""
    offset, put = variant
    assert MODEL[offset : offset + len(put)] != put
    (fate,) = fates(run_python, [(offset, put.hex(), WHOLE)]).values()
    assert fate.startswith("ModelError")


@pytest.mark.parametrize(
    "key",
    [
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.unknown_token_id",
    ],
)
def test_an_extreme_number_ends_no_process(run_python: RunPython, key: str) -> None:
    """0, 1, the largest and the most negative number in a field are refused, or the model opens all the same."""
    numbers = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    found = fates(run_python, [(value_of(key), struct.pack("<I", number).hex(), WHOLE) for number in numbers])
    assert deaths(found) == {}
