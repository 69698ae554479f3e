"""The benchmarks measure what they say: the same work, models of known bytes, and limits that can be missed."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import decode, many
from benchmarks.decode import FLOOR, GENERATE, LOGPROBS, RANDOM, REF, STREAM, THEIRS, Row, chart, judge
from benchmarks.random_model import DECODE, F16, MANY, Q4_0, Format, Shape, n_silent, pieces, write_model
from nativeload import NativeLibraryConfig
from nativeload_llama import Llama
from nativeload_llama.library import open_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ROOT = Path(__file__).parents[1]
SMALL = Shape(n_vocab=600, n_layer=2, n_embd=64, n_head=2, n_ff=96, n_ctx=512, format=Q4_0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "decode.gguf", DECODE)
    write_model(folder / "small.gguf", SMALL)
    return folder


# -- the models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [F16, Q4_0], ids=["F16", "Q4_0"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, kind: Format) -> None:
    shape = SMALL._replace(format=kind)
    first, again, other = (
        write_model(tmp_path / name, shape, seed=seed).read_bytes() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other
    assert len(first) == len(other)
    assert first[:4] == b"GGUF"


def test_a_model_that_is_there_stays_and_no_part_of_one_does(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"mine")
    assert write_model(path, SMALL).read_bytes() == b"mine"
    write_model(tmp_path / "other.gguf", SMALL)
    assert {entry.name for entry in tmp_path.glob("*.gguf*")} == {"model.gguf", "other.gguf"}


def test_the_benchmarks_models_are_as_large_as_the_limits_say() -> None:
    assert (DECODE.n_vocab, DECODE.n_layer, DECODE.n_embd) == (32_000, 1, 64)
    assert DECODE.n_ctx >= 8192
    assert MANY.n_params >= 50_000_000
    assert MANY.format is Q4_0


def test_a_vocabulary_has_no_piece_twice_and_its_words_are_ascii_behind_one_blank() -> None:
    known = [piece for piece, _ in pieces(DECODE.n_vocab)]
    assert len(set(known)) == DECODE.n_vocab
    assert all(re.fullmatch("▁[a-z]{6}", piece) for piece in known[n_silent() :])


@pytest.mark.parametrize("name", ["decode.gguf", "small.gguf"])
def test_what_a_random_model_says_is_ascii_and_never_ends(models: Path, name: str) -> None:
    """At every temperature that is in use: words alone, one blank each, to the last token that was asked for."""
    with Llama(models / name, n_ctx=512, n_threads=1) as llama:
        for temperature in (0.0, 0.8, 1.5):
            text = llama.complete("a b", max_tokens=300, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, seed=3)
            assert text.isascii()
            assert text.count(" ") == 300


@pytest.mark.parametrize("number", [0, 1, 2, 100])
def test_weights_are_what_the_formats_say(number: int) -> None:
    """Read back by the definition of the format, not by our own writer's."""
    block = Q4_0.block(float(number))
    scale = struct.unpack("<e", block[:2])[0]
    low = [((byte & 15) - 8) * scale for byte in block[2:]]
    high = [((byte >> 4) - 8) * scale for byte in block[2:]]
    assert low + high == [number, *[0] * 31]
    assert struct.unpack("<32e", F16.block(float(number))) == (number, *[0] * 31)


# -- decode.py -------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of seconds."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")
    monkeypatch.setattr(decode, "_ROUNDS", {8: 1, 256: 1})
    monkeypatch.setattr(decode, "_LOGPROBS_TOKENS", 8)


def measured(models: Path, folder: Path) -> Iterator[Row]:
    config = NativeLibraryConfig()
    api = open_library(config)
    return decode._measure_random(api, config, models / "decode.gguf", None, folder)


@pytest.mark.usefixtures("few")
def test_every_program_is_measured_at_every_length(models: Path, tmp_path: Path) -> None:
    """The C loop is compiled, writes what generate writes (the benchmark itself insists), and is the measure of all."""
    rows = list(measured(models, tmp_path))
    lengths = [(row.tokens, row.program) for row in rows]
    streams = [(n, program) for n in (8, 256) for program in (FLOOR, GENERATE, STREAM)]
    assert lengths == [*streams, (8, FLOOR), (8, LOGPROBS)]
    assert all(row.ratio == 1 for row in rows if row.program == FLOOR)
    assert all(row.us > 1 and 0 < row.ratio < 20 for row in rows)


@pytest.mark.usefixtures("few")
def test_a_c_loop_that_writes_other_tokens_is_no_floor(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode.CLoop, "_chain", lambda self: self._api.function("llama_sampler_init_greedy")())
    with pytest.raises(AssertionError, match="different tokens"):
        next(measured(models, tmp_path))


@pytest.mark.shared_data
@pytest.mark.usefixtures("few")
def test_a_real_model_is_measured(shared_data: Path, tmp_path: Path) -> None:
    config = NativeLibraryConfig()
    rows = list(decode._measure_ref(open_library(config), config, shared_data / "ref260k.gguf", tmp_path))
    assert [(row.model, row.tokens, row.program) for row in rows] == [
        (REF, n, program) for n in (32, 256) for program in (FLOOR, GENERATE)
    ]


def good() -> list[Row]:
    """Rows that miss nothing, by a little."""
    rows = [Row(REF, 256, GENERATE, 60, 0.81)]
    for n, ratio in ((256, 0.94), (1024, 0.92), (4096, 0.901)):
        rows += [
            Row(RANDOM, n, FLOOR, 300, 1),
            Row(RANDOM, n, GENERATE, 310, 0.951),
            Row(RANDOM, n, STREAM, 330, ratio),
        ]
        rows.append(Row(RANDOM, n, THEIRS + STREAM, 300 + n, 0.1))
    return [*rows, Row(RANDOM, 64, LOGPROBS, 999, 0.3), Row(RANDOM, 64, THEIRS + LOGPROBS, 26_000, 0.01)]


def test_rows_within_all_limits_miss_none() -> None:
    """Of llama-cpp-python's, nothing is expected."""
    assert judge(good()) == []


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (0, {"ratio": 0.79}, "ref260k, 256 tokens, generate: 0.790 x the C loop, not 0.8"),
        (2, {"ratio": 0.949}, "32k vocabulary, 256 tokens, generate: 0.949 x the C loop, not 0.95"),
        (11, {"ratio": 0.899}, "4096 tokens, create_completion(stream=True): 0.899 x the C loop, not 0.9"),
        (3, {"ratio": 0.96}, "create_completion(stream=True) falls from 0.960 to 0.901 x the C loop"),
        (-2, {"us": 1001}, "logprobs=3 takes 1001 us a token, not 1000"),
    ],
)
def test_each_limit_can_be_missed(place: int, change: dict[str, Any], words: str) -> None:
    rows = good()
    rows[place] = rows[place]._replace(**change)
    missed = judge(rows)
    assert len(missed) == 1
    assert words in missed[0]


@pytest.mark.parametrize("peer", [True, False], ids=["with llama-cpp-python", "alone"])
def test_the_chart_is_svg_that_stays_within_its_frame(peer: bool) -> None:
    rows = [row for row in good() if peer or not row.program.startswith(THEIRS)]
    drawn = ET.fromstring(chart(rows))  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    lines = drawn.findall(f"{space}polyline")
    assert len(lines) == (3 if peer else 2)
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) == 3
        assert all(70 <= x <= 470 and 60 <= y <= 320 for x, y in points)
    words = {text.text for text in drawn.findall(f"{space}text")}
    assert {"256", "1,024", "4,096", FLOOR, STREAM} <= words
    assert (THEIRS + STREAM in words) is peer


# -- many.py ---------------------------------------------------------------------------------------------------------


def test_many_texts_are_the_ones_written_one_by_one(models: Path) -> None:
    ticks = iter(range(100))
    with Llama(models / "small.gguf", n_ctx=128, n_threads=1) as llama:
        result = many.measure(llama, 3, 5, 2, lambda: float(next(ticks)))
    assert result == many.Result(in_sequence=1, at_once=1, texts=3, equal=3)


def test_prompts_differ() -> None:
    assert len(set(many.prompts(60))) == 60


@pytest.mark.parametrize(
    ("result", "missed"),
    [
        (many.Result(1.71, 1, 16, 16), []),
        (many.Result(1.69, 1, 16, 16), ["at once is 1.69 x in sequence, not 1.7"]),
        (many.Result(3, 1, 16, 15), ["15 of 16 texts are equal"]),
    ],
)
def test_too_little_gain_or_another_text_is_a_miss(result: many.Result, missed: list[str]) -> None:
    assert result.missed == missed


# -- the page --------------------------------------------------------------------------------------------------------


def test_every_command_of_the_page_can_be_typed() -> None:
    """Each program is there, and knows the options that stand behind it."""
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    lines = re.findall(r"^python (benchmarks/\w+\.py)(.*)$", page, re.MULTILINE)
    assert [program for program, _ in lines] == [f"benchmarks/{name}.py" for name in ("decode", "many", "cold_start")]
    for program, rest in lines:
        known = subprocess.run(
            [sys.executable, program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in known, f"{program} {option}"
