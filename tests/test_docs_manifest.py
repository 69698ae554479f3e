"""What docs/ says of manifests is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nativeload import manifest
from nativeload.errors import ManifestError
from nativeload.variant import LIBRARIES, Platform, Role

ROOT = Path(__file__).parents[1]
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
RECORDED: dict[str, Any] = json.loads((ROOT / "tests" / "resolve" / "recorded" / "b11146.json").read_text())


def test_the_recorded_manifest_is_of_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(RECORDED, SCHEMA)


def test_the_example_of_the_page_is_of_the_schema_and_can_be_read() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "manifest.md").read_text(), re.DOTALL)
    table = json.loads(example.replace("<64 hex digits>", "0" * 64))
    jsonschema.validate(table, SCHEMA)
    assert manifest.read(manifest.canonical(table), "the page").build == "b11146"


def test_the_words_and_limits_are_those_of_the_code() -> None:
    artifact = SCHEMA["$defs"]["artifact"]["properties"]
    assert SCHEMA["properties"]["schema"]["const"] == manifest.SCHEMA
    assert SCHEMA["properties"]["library"]["enum"] == list(LIBRARIES)
    assert artifact["platform"]["enum"] == list(Platform)
    assert artifact["role"]["enum"] == list(Role)
    assert artifact["size"]["maximum"] == manifest.FILE_LIMIT
    assert SCHEMA["properties"]["artifacts"]["maxItems"] == manifest.COUNT_LIMIT
    assert manifest.SIZE_LIMIT == (1 << 20)


def _changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    table = json.loads(json.dumps(RECORDED))
    place = table
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return dict(table)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("library",), "lama"),
        (("build",), "../b1"),
        (("revision",), 0),
        (("extra",), 1),
        (("upstream", "commit"), 7),
        (("artifacts",), []),
        (("artifacts", 0, "name"), ".hidden"),
        (("artifacts", 0, "size"), 0),
        (("artifacts", 0, "size"), 1 << 33),
        (("artifacts", 0, "sha256"), "0" * 63),
        (("artifacts", 0, "platform"), "beos-ppc"),
        (("artifacts", 0, "flavours"), []),
        (("artifacts", 0, "flavours"), ["cpu", "cpu"]),
        (("artifacts", 0, "requirements"), ["avx2"]),
    ],
)
def test_what_the_schema_refuses_the_code_refuses(path: tuple[str | int, ...], value: object) -> None:
    table = _changed(path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(table, SCHEMA)
    with pytest.raises(ManifestError):
        manifest.read(manifest.canonical(table), "a changed one")
