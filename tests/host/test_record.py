"""Reading a recorded host is strict and its errors name the field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nativeload.errors import HostError
from nativeload.host import Host

RECORDED = Path(__file__).parent / "recorded"


def record() -> dict[str, Any]:
    """Return a good record to spoil."""
    data: dict[str, Any] = json.loads((RECORDED / "two-nvidia.json").read_text())
    return data


def spoiled(path: str, value: object) -> dict[str, Any]:
    """Return a record with one value replaced, by its path: ``gpus.0.index``."""
    data = record()
    *parents, last = path.split(".")
    target: Any = data
    for name in parents:
        target = target[int(name) if name.isdecimal() else name]
    target[last] = value
    return data


def test_a_recorded_host_reads_and_writes_back_the_same(recorded: Path) -> None:
    host = Host.from_file(recorded)
    assert host.to_dict() == json.loads(recorded.read_text())
    assert Host.from_dict(host.to_dict()) == host


def test_a_detected_host_survives_json() -> None:
    host = Host.detect(gpu=False)
    assert Host.from_dict(json.loads(json.dumps(host.to_dict()))) == host


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "host.schema: 2 is unknown, this release reads 1"),
        ("schema", True, "host.schema: True is unknown"),
        ("schema", "1", "host.schema: '1' is unknown"),
        ("colour", "red", "host: unknown field 'colour'"),
        ("cpu.turbo", 1, "host.cpu: unknown field 'turbo'"),
        ("gpus.1.colour", 1, r"host.gpus\[1\]: unknown field 'colour'"),
        ("platform", "plan9-mips", "host.platform: expected one of linux-x86_64, .*, found 'plan9-mips'"),
        ("platform", ["linux-x86_64"], "host.platform: expected one of .*, found a list"),
        ("cpu", None, "host.cpu: expected an object, found None"),
        ("cpu.cores", 0, "host.cpu.cores: expected a whole number of at least 1, found 0"),
        ("cpu.cores", True, "host.cpu.cores: expected a whole number of at least 1, found True"),
        ("cpu.cores", 4.0, "host.cpu.cores: expected a whole number of at least 1, found 4.0"),
        ("cpu.features", "avx2", "host.cpu.features: expected a list, found 'avx2'"),
        ("cpu.features", ["avx", "../avx2"], r"host.cpu.features\[1\]: expected a feature name"),
        ("cpu.features", ["AVX2"], r"host.cpu.features\[0\]: expected a feature name"),
        ("cpu.features", [""], r"host.cpu.features\[0\]: expected a feature name"),
        ("cpu.brand", 5, "host.cpu.brand: expected one line of text, found 5"),
        ("cpu.source", "a\x1b[31m", r"host.cpu.source: expected one line of text, found 'a\\x1b"),
        ("libc.name", "uclibc", "host.libc.name: expected one of glibc, musl, other, found 'uclibc'"),
        ("libc.version", [2, "36"], r"host.libc.version\[1\]: expected a whole number"),
        ("memory", -1, "host.memory: expected a whole number of at least 0, found -1"),
        pytest.param(
            "memory",
            10**6000,
            "host.memory: expected a whole number of at least 0, found a number beyond 64 bits",
            id="memory-huge",
        ),
        ("memory", float("nan"), "host.memory: expected a whole number of at least 0, found nan"),
        ("nvidia.cuda", [13], "host.nvidia.cuda: expected two numbers, found a list"),
        ("gpus", {}, "host.gpus: expected a list, found a dict"),
        (
            "gpus.0.backend",
            "opengl",
            r"host.gpus\[0\].backend: expected one of cpu, cuda, .*, found 'opengl'",
        ),
        ("gpus.0.compute_capability", "8.9", r"host.gpus\[0\].compute_capability: expected two numbers"),
        ("notes", ["two\nlines"], r"host.notes\[0\]: expected one line of text"),
        ("notes", ["x" * 5000 + "\n"], r"found 'x{59}\.\.\.\n"),
        ("translated", 1, "host.translated: expected true or false, found 1"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(HostError, match=message) as caught:
        Host.from_dict(spoiled(path, value))
    assert caught.value.hint.startswith("Correct the field, or record the host again")


@pytest.mark.parametrize("name", [*record(), "cpu.features", "nvidia.visible", "gpus.0.uuid", "libc.version"])
def test_a_missing_field_is_named(name: str) -> None:
    data = record()
    *parents, last = name.split(".")
    target: Any = data
    for parent in parents:
        target = target[int(parent) if parent.isdecimal() else parent]
    del target[last]
    where = "host." + name.replace(".0.", "[0].")
    with pytest.raises(HostError) as caught:
        Host.from_dict(data)
    assert caught.value.args[0] == f"{where}: missing"


@pytest.mark.parametrize("data", [None, 1, "host", [], (), {}, {"schema": 1}, {1: 2}])
def test_what_is_no_record_at_all(data: object) -> None:
    with pytest.raises(HostError, match=r"^host"):
        Host.from_dict(data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"schema": 1, "schema": 1}',
        b'{"schema": ' + b"9" * 5000 + b"}",
        b"{" + b" " * (1 << 20) + b"}",
        b"null",
    ],
    ids=["empty", "cut", "not UTF-8", "deep", "written twice", "long number", "too large", "null"],
)
def test_a_hostile_file_is_a_host_error(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "host.json"
    path.write_bytes(text)
    with pytest.raises(HostError) as caught:
        Host.from_file(path)
    assert caught.value.hint


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(HostError, match=str(path)) as caught:
            Host.from_file(os.fspath(path))
        assert caught.value.hint == "Give the path of a recorded host."


def test_an_object_with_very_many_fields_is_read_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text(json.dumps({str(number): 0 for number in range(60_000)}))
    with pytest.raises(HostError, match="unknown field '0'"):
        Host.from_file(path)
