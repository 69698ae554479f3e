"""``nativeload gguf``: what does a model file say about itself?

One rule: the file is from outside: what would act on a terminal is written as an escape, unless --get asks for it raw.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from nativeload.cli.report import console, print_json

if TYPE_CHECKING:
    from nativeload_llama.gguf import GGUFFile, GGUFTensor

_LONGEST_TEXT = 160  # characters of a value, unless --all
_MOST_ELEMENTS = 8
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


@click.command("gguf")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--tensors/--no-tensors", default=True, help="List the tensors.")
@click.option("--all", "whole", is_flag=True, help="Print long texts and arrays to their end.")
@click.option("--get", "key", metavar="KEY", help="Print the value of one key as it is, and nothing else.")
def command(file: str, *, as_json: bool, tensors: bool, whole: bool, key: str | None) -> None:
    """Print the metadata and the tensors of a GGUF FILE; no library is opened and no weights are read."""
    from nativeload_llama.gguf import read

    gguf = read(file)
    if key is not None:
        click.echo(_raw(gguf, key))
    elif as_json:
        print_json(_report(gguf, tensors=tensors, whole=whole))
    else:
        _print(gguf, tensors=tensors, whole=whole)


def _raw(gguf: GGUFFile, key: str) -> str:
    from nativeload_llama.errors import ModelError

    if key not in gguf.metadata:
        raise ModelError(gguf.path, f"there is no key {key}", hint="`nativeload gguf FILE` lists those there are.")
    value = gguf.metadata[key]
    return value if isinstance(value, str) else json.dumps(_jsonable(value), ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    """Return a value that JSON has: it has no NaN and no infinity."""
    if isinstance(value, list):
        return [_jsonable(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# -- shortening ----------------------------------------------------------------------------------------------------


def _shown(gguf: GGUFFile, key: str, *, whole: bool) -> str:
    """Return a value for people: one line, with how much was left out."""
    elements, count = gguf.metadata.first(key, 1 << 62 if whole else _MOST_ELEMENTS)
    if count is None:
        return _text(elements[0], whole=whole)
    rest = count - len(elements)
    texts = [json.dumps(one, ensure_ascii=False) if isinstance(one, str) else one for one in elements]
    listed = ", ".join([*(_text(one, whole=whole) for one in texts), *([f"... ({rest:,} more)"] if rest else ())])
    return f"[{listed}]"


def _text(value: object, *, whole: bool) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else str(value)  # most are 32 bits
    if isinstance(value, bool):
        text = "true" if value else "false"  # as --json and --get have it
    left = 0 if whole else len(text) - _LONGEST_TEXT
    more = f"... ({left:,} more characters)" if left > 0 else ""
    return _harmless(text[:_LONGEST_TEXT] if more else text) + more


def _harmless(text: str) -> str:
    """Write line ends, control characters and what turns text around as escapes."""
    return "".join(
        one if one.isprintable() else _ESCAPES.get(one) or one.encode("unicode_escape").decode() for one in text
    )


def _json_value(gguf: GGUFFile, key: str, *, whole: bool) -> Any:
    """Return a value for programs; what is longer than people are shown is its beginning and its length."""
    elements, count = gguf.metadata.first(key, 1 << 62 if whole else _MOST_ELEMENTS)
    values = [_json_text(one, whole=whole) for one in elements]
    if count is None:
        return values[0]
    return values if len(values) == count else {"first": values, "length": count}


def _json_text(value: Any, *, whole: bool) -> Any:
    if isinstance(value, str) and not whole and len(value) > _LONGEST_TEXT:
        return {"first": value[:_LONGEST_TEXT], "length": len(value)}
    return _jsonable(value)


# -- the whole file ------------------------------------------------------------------------------------------------


def _totals(tensors: tuple[GGUFTensor, ...]) -> dict[str, Any]:
    parameters = sum(math.prod(one.shape) for one in tensors)
    size = sum(one.size for one in tensors)
    types = Counter(one.type for one in tensors)
    return {
        "tensors": len(tensors),
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": round(8 * size / parameters, 3) if parameters else None,
        "types": dict(types.most_common()),
    }


def _split(gguf: GGUFFile) -> dict[str, Any] | None:
    """Say which part of a split model the file is, by its name or its keys, and which parts are not beside it."""
    named = re.search(r"(.*)-(\d{5})-of-(\d{5})\.gguf$", os.path.basename(gguf.path))
    count = gguf.metadata.get("split.count", 0)
    if not named and (not isinstance(count, int) or count <= 1):
        return None
    number = gguf.metadata.get("split.no", 0)
    if not named:
        return {"part": number + 1 if isinstance(number, int) else None, "of": count, "missing": None}
    parts = range(1, min(int(named[3]), 1 << 16) + 1)
    names = [f"{named[1]}-{part:05}-of-{named[3]}.gguf" for part in parts]
    beside = os.path.dirname(gguf.path)
    missing = [name for name in names if not os.path.exists(os.path.join(beside, name))]
    return {"part": int(named[2]), "of": int(named[3]), "missing": missing}


def _report(gguf: GGUFFile, *, tensors: bool, whole: bool) -> dict[str, Any]:
    report = {
        "path": gguf.path,
        "version": gguf.version,
        "file_size": gguf.file_size,
        "alignment": gguf.alignment,
        "data_offset": gguf.data_offset,
        "split": _split(gguf),
        "metadata": {key: _json_value(gguf, key, whole=whole) for key in gguf.metadata},
        "totals": _totals(gguf.tensors),
    }
    if tensors:
        report["tensors"] = [
            {"name": one.name, "shape": list(one.shape), "type": one.type, "offset": one.offset, "size": one.size}
            for one in gguf.tensors
        ]
    return report


def _print(gguf: GGUFFile, *, tensors: bool, whole: bool) -> None:
    out = console()
    title = f"{_harmless(gguf.path)}: GGUF version {gguf.version}, {gguf.file_size:,} bytes"
    out.print(escape(title), style="bold", soft_wrap=True)
    if split := _split(gguf):
        missing = f"; not beside it: {', '.join(split['missing'])}" if split["missing"] else ""
        out.print(escape(f"part {split['part']} of {split['of']} of a split model{missing}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for key in gguf.metadata:
        table.add_row(escape(_harmless(key)), escape(_shown(gguf, key, whole=whole)))
    out.print(table)
    if tensors and gguf.tensors:
        out.print(_tensor_table(gguf.tensors))
    out.print(escape(_summary(_totals(gguf.tensors))), soft_wrap=True)


def _tensor_table(tensors: tuple[GGUFTensor, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("tensor", "shape", "type", "size"):
        table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
    for one in tensors:
        shape = " x ".join(map(str, one.shape)) or "1"
        table.add_row(escape(_harmless(one.name)), shape, one.type, f"{one.size:,}")
    return table


def _summary(totals: dict[str, Any]) -> str:
    types = ", ".join(f"{count} {kind}" for kind, count in totals["types"].items())
    bits = f", {totals['bits_per_weight']:.2f} bits per weight" if totals["parameters"] else ""
    counted = f"{totals['tensors']} tensors{f' ({types})' if types else ''}, {totals['parameters']:,} parameters"
    return f"{counted}, {totals['bytes']:,} bytes{bits}"
