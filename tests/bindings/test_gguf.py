"""The GGUF reader: what a file says, read exactly; what it cannot say, refused in words, at once."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest

from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import ModelError
from nativeload_llama.gguf import TYPES, fault, read
from tests.bindings.damaged import SIZES, build, changes, experts, filled, stories
from tests.bindings.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    F64,
    FORMATS,
    I8,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Field,
    Gguf,
    Tensor,
    padded,
    parse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODEL = Path(bundled_model()).read_bytes()


def small() -> Gguf:
    """A file with a key of every type, an array of every type, and three tensors."""
    made = Gguf()
    values: dict[int, Any] = {U8: 255, I8: -128, U16: 65_535, 3: -32_768, U32: 2**32 - 1, I32: -(2**31), F32: 0.5}
    values |= {BOOL: True, STRING: "Märchen 日本\n".encode(), U64: 2**64 - 1, I64: -(2**63), F64: 1e300}
    for kind, value in values.items():
        made.put(f"one.{kind}", kind, value)
        made.put(f"none.{kind}", ARRAY, [], kind)
        made.put(f"two.{kind}", ARRAY, [value, value], kind)
    made.tensors = [filled("matrix", (64, 3), 8), filled("cube", (2, 3, 4), 0), filled("half", (5,), 1)]
    return made


def write(folder: Path, content: bytes | Gguf) -> Path:
    path = folder / "x.gguf"
    path.write_bytes(content if isinstance(content, bytes) else content.to_bytes())
    return path


def refusal(path: Path) -> str:
    """Return why a file is refused: in one short line without anything that acts on a terminal."""
    with pytest.raises(ModelError) as caught:
        read(path)
    reason = caught.value.reason
    assert caught.value.path == str(path)
    assert reason.isprintable()
    assert len(reason) < 400
    return reason


# -- what is read --------------------------------------------------------------------------------------------------


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    """Numbers of all sizes, booleans, texts, and arrays of them, empty ones too."""
    found = read(write(tmp_path, small())).metadata
    for one in small().fields:
        value = one.value
        if one.kind == STRING:
            value = one.value.decode()
        elif one.kind == ARRAY and one.item == STRING:
            value = [text.decode() for text in one.value]
        assert found[one.key.decode()] == value
        assert type(found[one.key.decode()]) is type(value)
    assert list(found) == [one.key.decode() for one in small().fields]
    assert len(found) == len(small().fields)
    assert "one.4" in found
    assert "one.99" not in found
    assert found.get("one.99", 7) == 7


def test_tensors_are_where_the_file_says(tmp_path: Path) -> None:
    """Name, shape, type, place and size of each; the places are from where the data begins."""
    path, made = write(tmp_path, small()), small()
    found = read(path)
    assert (found.version, found.alignment, found.file_size) == (3, 32, path.stat().st_size)
    assert found.data_offset == len(padded(made.header(), 32))
    assert [(one.name, one.shape, one.type, one.offset, one.size) for one in found.tensors] == [
        ("matrix", (64, 3), "Q8_0", 0, 204),
        ("cube", (2, 3, 4), "F32", 224, 96),
        ("half", (5,), "F16", 320, 10),
    ]


@pytest.mark.parametrize("version", [2, 3])
def test_the_bundled_model_is_read_as_by_a_second_reader(tmp_path: Path, version: int) -> None:
    """All its values and tensors, in both versions of the format."""
    made = parse(MODEL)
    made.version = version
    assert Gguf.to_bytes(parse(MODEL)) == MODEL
    found = read(write(tmp_path, made))
    assert found.version == version
    for one in made.fields:
        values = one.value if isinstance(one.value, list) else [one.value]
        texts = [value.decode() if isinstance(value, bytes) else value for value in values]
        assert found.metadata[one.key.decode()] == (texts if isinstance(one.value, list) else texts[0])
    for read_, tensor in zip(found.tensors, made.tensors, strict=True):
        assert (read_.name, read_.shape, read_.size) == (tensor.name.decode(), tensor.shape, len(tensor.data))


@pytest.mark.shared_data
def test_a_converted_model_is_read(shared_data: Path) -> None:
    """A file that llama.cpp's own converter wrote."""
    found = read(shared_data / "ref260k.gguf")
    assert found.metadata["general.architecture"] == "llama"
    assert len(found.metadata["tokenizer.ggml.tokens"]) == found.metadata["llama.vocab_size"] == 512
    assert found.data_offset + max(one.offset + one.size for one in found.tensors) == found.file_size
    assert len(found.tensor_data("output_norm.weight")) == 64
    assert fault(str(shared_data / "ref260k.gguf")) is None


def test_an_array_can_be_had_in_part(tmp_path: Path) -> None:
    """The first elements and how many there are; of what is no array, its value."""
    found = read(bundled_model()).metadata
    assert found.first("tokenizer.ggml.tokens", 2) == (["<unk>", "<s>"], 640)
    assert found.first("llama.block_count", 2) == ([5], None)


def test_floats_of_a_tensor_are_read(tmp_path: Path) -> None:
    """F32 as they are, F16 widened; others, and names that are not there, are refused."""
    made = Gguf()
    made.tensors = [Tensor(b"whole", (2, 2), 0, struct.pack("<4f", 1.5, -2.5, 3e38, 0))]
    made.tensors += [Tensor(b"half", (3,), 1, struct.pack("<3e", 0.5, -65_504, 2**-24)), filled("small", (32,), 8)]
    path = write(tmp_path, made)
    found = read(path)
    assert found.tensor_data("whole").tolist() == pytest.approx([1.5, -2.5, 3e38, 0])
    assert found.tensor_data("half").tolist() == [0.5, -65_504, 2**-24]
    with pytest.raises(ModelError, match="small is of type Q8_0"):
        found.tensor_data("small")
    with pytest.raises(ModelError, match="no tensor none"):
        found.tensor_data("none")
    path.write_bytes(path.read_bytes()[:-96])
    with pytest.raises(ModelError, match="become shorter"):
        found.tensor_data("half")


def test_bytes_that_are_no_text_are_read_all_the_same(tmp_path: Path) -> None:
    """A chat template in another encoding has U+FFFD where it is no UTF-8."""
    made = Gguf()
    made.put("tokenizer.chat_template", STRING, b"a\xff\xfeb")
    assert read(write(tmp_path, made)).metadata["tokenizer.chat_template"] == "a\ufffd\ufffdb"


def test_llama_cpp_agrees_on_the_size_of_every_type(tmp_path: Path) -> None:
    """The second tensor lies where the first one ends, by our table: llama.cpp, which wants them so, does not mind."""
    names = {kind: name for kind, (name, *_) in TYPES.items()}
    assert {kind: tuple(rest) for kind, (_, *rest) in TYPES.items()} == SIZES
    for kind in sorted(TYPES):
        made = stories().copy()
        made.tensors = [filled("token_types.x", (256, 3), kind), *made.tensors]
        path = write(tmp_path, made)
        assert names[kind] == read(path).tensors[0].type
        if names[kind] not in {"Q8_1", "Q8_K", "F64", "I8", "I16", "I32", "I64"}:  # refused before
            with pytest.raises(ModelError, match=r"expected 48, got 47|wrong number of tensors"):
                Llama(path, n_threads=1)
    made.tensors[0].data += bytes(32)  # the control: more than the type needs
    with pytest.raises(ModelError, match=r"expected 216|expected 224"):
        Llama(write(tmp_path, made), n_threads=1)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GG", "cut short"),
        (b"\x7fELF" + bytes(500), "not a GGUF"),
        (b"Once upon a time", "not a GGUF"),
        (b"GGUF", "cut short"),
        (b"GGUF" + bytes(100), "version 0"),
        (b"GGUF\1\0\0\0" + bytes(100), "version 1, which"),
        (b"GGUF\0\0\0\3" + bytes(100), "big-endian"),
        (b"GGUF\4\0\0\0" + bytes(100), "version 4"),
        (b"GGUF\3\0\0\0" + b"\xff" * 100, "it has 18,446,744,073,709,551,615 tensors"),
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(write(tmp_path, content))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nothing there, a directory, a pipe (which would never end), a path that cannot be."""
    assert "directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in refusal(tmp_path / "pipe")
    with pytest.raises(ModelError, match="null"):
        read("a\0b")


def test_cut_at_every_boundary_it_is_refused(tmp_path: Path) -> None:
    """After each key, type, length, value, name, dimension and offset, and one byte before; and within the data."""
    made = small()
    whole = made.to_bytes()
    ends, place = {4, 8, 16, 24}, 24
    for one in made.fields:
        sizes = [8, len(one.key), 4] + ([4, 8] if one.kind == ARRAY else [])
        values = [Field(b"", one.item if one.kind == ARRAY else one.kind, value).to_bytes() for value in values_of(one)]
        for size in [*sizes, *(len(value) - 12 for value in values)]:
            place += size
            ends.add(place)
    for tensor in made.tensors:
        for size in [8, len(tensor.name), 4, *(8 for _ in tensor.shape), 4, 8]:
            place += size
            ends.add(place)
    assert place == len(made.header())
    for end in sorted({*ends, *(end - 1 for end in ends), len(padded(made.header(), 32)), len(whole) - 32}):
        reason = refusal(write(tmp_path, whole[:end]))
        assert "cut short" in reason or reason.startswith("damaged: it says that")


def values_of(one: Field) -> list[Any]:
    return list(one.value) if one.kind == ARRAY else [one.value]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("structure: claims 9223372036854775808 tensors", "it has 9,223,372,036,854,775,808 tensors"),
        ("structure: claims 1048577 fields", "it has 1,048,577 keys"),
        ("structure: claims 31 fields", "damaged"),
        ("structure: alignment 31", "alignment is 31"),
        ("structure: alignment 0", "alignment is 0"),
        ("extra: general.alignment = 1.0 of type 6", "alignment is 0"),
        ("fields: llama.block_count twice", "llama.block_count is there twice"),
        ("fields: llama.block_count empty key", "a key is empty"),
        ("fields: llama.block_count of type 99", "llama.block_count is of type 99"),
        ("fields: tokenizer.ggml.tokens claims 1048576", "tokenizer.ggml.tokens has 1,048,576"),
        ("fields: tokenizer.ggml.tokens claims 18446744073709551615", "tokenizer.ggml.tokens has"),
        ("fields: tokenizer.ggml.scores claims 18446744073709551615", "cut short"),
        ("fields: tokenizer.ggml.tokens claims 641", "damaged"),
        ("tensors: blk.0.attn_q.weight twice", "blk.0.attn_q.weight is there twice"),
        ("tensors: blk.0.attn_q.weight of type 99", "type 99, which is not known"),
        ("tensors: blk.0.attn_q.weight at 0", "within another"),
        ("tensors: blk.0.attn_q.weight at 1", "within another"),
        ("tensors: blk.0.attn_q.weight at 1099511627776", "after the file"),
        ("tensors: blk.0.attn_q.weight at 18446744073709551584", "after the file"),
        ("tensors: blk.0.attn_q.weight of shape (9223372036854775808, 128)", "has the shape"),
        ("tensors: blk.0.attn_q.weight of shape (127, 128)", "has the shape"),
        ("tensors: blk.0.attn_q.weight of shape (128, 4611686018427387904)", "has the shape"),
        ("tensors: blk.0.attn_q.weight of shape (128, 2147483648)", "after the file"),
    ],
)
def test_damage_is_refused_in_words(tmp_path: Path, change: str, reason: str) -> None:
    assert reason in refusal(write(tmp_path, build(f"stories {change}")))


def test_names_from_the_file_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    """A key with escape sequences, and one of 100,000 letters, are in no error as they are."""
    for key in (b"\x1b[2J\x1b]0;x\x07" * 3, b"k" * 100_000, "\u202eabc".encode()):
        made = Gguf([Field(key, U32, 1), Field(key, U32, 1)])
        assert "twice" in refusal(write(tmp_path, made))


def test_flipped_bits_are_read_or_refused(tmp_path: Path) -> None:
    """A thousand times one to eight wrong bits in a header: a file or a ModelError, and nothing else."""
    draw = random.Random(3)
    header, refused = len(stories().header()), 0
    for _ in range(1000):
        raw = bytearray(MODEL)
        for _ in range(draw.choice((1, 1, 2, 8))):
            raw[draw.randrange(header)] ^= 1 << draw.randrange(8)
        try:
            list(read(write(tmp_path, bytes(raw))).metadata.values())
        except ModelError:
            refused += 1
    assert 100 < refused < 900


def test_hostile_sizes_cost_nothing(tmp_path: Path) -> None:
    """A gigabyte of nothing, with the counts that make the most of it, is refused in less than two seconds."""
    counts = struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1s", 1, b"k") + struct.pack("<IIQ", ARRAY, STRING, 2**26)
    many = struct.pack("<IQQ", 3, 0, 2**18)
    tensors = struct.pack("<IQQ", 3, 2**18, 0)
    for content in (b"GGUF" + counts, b"GGUF" + many, b"GGUF" + tensors, b"GGUF", b""):
        path = write(tmp_path, content)
        os.truncate(path, 1 << 30)
        begun = time.perf_counter()
        refusal(path)
        assert fault(str(path))
        assert time.perf_counter() - begun < 2


# -- what llama.cpp would end the process over ---------------------------------------------------------------------


def test_a_large_vocabulary_is_looked_at_quickly(tmp_path: Path) -> None:
    """128,000 tokens and 280,000 merges, as the largest models have them, cost no more than a tenth of a second."""
    made = stories().copy()
    made.put("tokenizer.ggml.model", STRING, b"gpt2")
    made.put("tokenizer.ggml.tokens", ARRAY, [b"token %d" % one for one in range(128_000)], STRING)
    made.put("tokenizer.ggml.merges", ARRAY, [b"%d a%d" % (one, one) for one in range(280_000)], STRING)
    path = write(tmp_path, made)
    assert fault(str(path)) is None
    assert fastest(lambda: fault(str(path))) < 0.15  # 0.045 s on an idle core: this is for busy ones
    assert fastest(lambda: read(path)) < 0.1


def fastest(call: Any) -> float:
    """Return the seconds of processor time of the fastest of five calls."""
    times = []
    for _ in range(5):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)


FAULTS = {
    "fields: llama.block_count = 0": "must be between 1 and 512",
    "fields: llama.block_count = 513": "must be between 1 and 512",
    "fields: llama.attention.layer_norm_rms_epsilon = nan": "must be 0 or more",
    "fields: llama.attention.layer_norm_rms_epsilon = -1e-05": "must be 0 or more",
    "extra: llama.nextn_predict_layers = 7 of type 4": "there are 5 layers",
    "extra: llama.expert_count = 5 of type 4": "expert_used_count is 0",
    "extra: llama.expert_count = 65535 of type 4": "must be 1024 or less",
    "extra: llama.expert_used_count = 1 of type 4": "there are 0 experts",
    "extra: llama.expert_group_count = 2 of type 4": "cannot be used",
    "architecture: architecture smallthinker": "expert_count is 0",
    "architecture: architecture paddleocr": "first three must be above 0",
    "architecture: architecture jamba": "without attention",
    "extra: llama.rope.scaling.type = b'lora' of type 8": "must be one of linear, longrope, none, yarn",
    "extra: llama.rope.dimension_sections = 4 of type 5 -1": "must be 0 or more",
    "fields: llama.attention.head_count_kv = 3": "do not divide",
    "fields: llama.attention.head_count_kv = 2147483650": "must be 65535 or less",
    "rescaled: key 16": "keys have the length 16",
    "rescaled: turned 16": "heads have the length 32",
    "architecture: architecture gemma, turned 0": "keys have the length 32",
    "architecture: architecture gemma, turned 31": "keys have the length 32",
    "architecture: architecture gemma, key 16": "keys have the length 16",
    "rescaled: embedding 0": "has no elements",
    "extra: llama.classifier.output_labels = 1 of type 4 1": "array of the wrong type",
    "fields: tokenizer.ggml.tokens = as text": "not an array of the right type",
    "fields: tokenizer.ggml.tokens = [3] = b'K'": "tokens have the text of another one",
    "fields: tokenizer.ggml.tokens = first 0": "tokens is empty",
    "tokenizer: token 198 renamed": "no token for the byte",
    "tokenizer: tokenizer bert default no merges": "of type byte",
    "tokenizer: tokenizer rwkv default no merges": "is no token itself",
    "tokenizer: tokenizer gpt2 whitespace odd merges": "pre is whitespace",
    "tokenizer: tokenizer t5 charsmap 1": "leads out of itself",
    "structure: aligned to 8": "multiples of 32 bytes",
    "tensors: token_embd.weight of type 28": "no weights can be of",
    "tensors: blk.0.attn_q.weight of type 24": "no weights can be of",
    "tensors: blk.0.attn_norm.weight of type 1": "must be of type F32",
    "tensors: with blk.0.attn_q.bias of type 1": "must be of type F32",
    "tensors: with rope_freqs.weight of type 1": "must be of type F32",
    "tensors: with output.weight of type 9": "no weights can be of",
    "fields: llama.block_count renamed": "NUL byte",
}


@pytest.mark.parametrize("change", FAULTS)
def test_what_would_end_the_process_is_said_in_words(tmp_path: Path, change: str) -> None:
    """Each kind of header over which some build of llama.cpp was seen to end its process."""
    known = changes("stories")
    name = change if change in known else next(one for one in known if one.startswith(change))
    reason = fault(str(write(tmp_path, build(f"stories {name}"))))
    assert reason is not None
    assert FAULTS[change] in reason


def test_models_without_a_fault_have_none(tmp_path: Path) -> None:
    """Plain ones, one with experts, and what looks like a fault and is none."""
    assert fault(bundled_model()) is None
    assert fault(str(write(tmp_path, experts()))) is None
    made = stories().copy()
    made.tensors += [filled("blk.0.ssm_alpha.weight", (256, 2), 12), filled("blk.0.ssm_dt.weight", (32, 2), 8)]
    made.tensors += [filled("blk.0.ffn_gate_tid2eid.weight", (4, 640), 26), filled("d2t", (640,), 27)]
    made.tensors += [filled("cls.output.weight", (128, 1), 1)]
    made.put("llama.attention.head_count_kv", ARRAY, [2, 2, 0, 4, 1], U32)
    assert fault(str(write(tmp_path, made))) is None


def test_every_part_of_a_split_model_is_looked_at(tmp_path: Path) -> None:
    """llama.cpp opens the other parts by itself: one that is missing or has a fault is a fault of the first."""
    first, second = stories().copy(), Gguf(tensors=[filled("blk.0.attn_q.bias", (128,), 0)])
    first.put("split.count", U16, 2)
    second.put("split.no", U16, 1)
    paths = [tmp_path / f"x-0000{part}-of-00002.gguf" for part in (1, 2)]
    paths[0].write_bytes(first.to_bytes())
    assert "x-00002-of-00002.gguf is not there" in str(fault(str(paths[0])))
    paths[1].write_bytes(second.to_bytes())
    assert fault(str(paths[0])) is None
    second.put("split.no", U32, 1)
    paths[1].write_bytes(second.to_bytes())
    assert "no 16-bit number" in str(fault(str(paths[0])))
    second.put("split.no", U16, 1)
    second.tensors[0] = filled("blk.0.attn_q.bias", (128,), 1)
    paths[1].write_bytes(second.to_bytes())
    assert "x-00002-of-00002.gguf: blk.0.attn_q.bias is of type F16" in str(fault(str(paths[0])))
    paths[1].write_bytes(second.to_bytes()[:50])
    assert "cut short" in str(fault(str(paths[0])))


def test_what_is_not_there_is_no_fault(tmp_path: Path) -> None:
    """Whoever opens the file says so, in the system's words."""
    assert fault(str(tmp_path / "missing.gguf")) is None
    assert FORMATS.keys() == {*range(8), 10, 11, 12}
