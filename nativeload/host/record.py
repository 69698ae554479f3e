"""How is a host written down and read back?

One rule: reading is strict: every field must be there, known and of its type, and the error names the field.
"""

from __future__ import annotations

from nativeload.errors import HostError
from nativeload.host.facts import Cpu, Gpu, Libc, Nvidia
from nativeload.value import Value, fields_of
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from typing import Any

    from nativeload.host import Host

    Reader = Callable[[object, str], Any]

SCHEMA = 1
_FILE_BYTES = 1 << 20
_SHOWN = 60
_PAIR = 2
_MOST = (1 << 63) - 1
_HINT = "Correct the field, or record the host again: json.dump(Host.detect().to_dict(), file)."


def write(host: Host) -> dict[str, object]:
    """Return a host as plain values that JSON can hold; lists are sorted where their order means nothing."""
    return {"schema": SCHEMA, **{name: _plain(value) for name, value in fields_of(host).items()}}


def read_file(path: str | os.PathLike[str]) -> object:
    """Return the JSON of a file of at most 1 MiB.

    Raises:
        HostError: it cannot be opened, is too large or is no JSON.
    """
    import json

    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_BYTES + 1)
        if len(data) > _FILE_BYTES:
            raise HostError(f"{path}: larger than {_FILE_BYTES} bytes", hint=_HINT)
        read = json.loads(data, object_pairs_hook=_without_repeats)
        return read["host"] if isinstance(read, dict) and "host" in read else read  # what doctor --json prints
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}", hint="Give the path of a recorded host.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, HostError):
            raise
        raise HostError(f"{path}: no JSON: {error}", hint=_HINT) from error


def read(data: object) -> dict[str, Any]:
    """Return the fields of a host that `write` wrote.

    Raises:
        HostError: naming the field that is unknown, missing or of the wrong type.
    """
    schema = data.get("schema", SCHEMA) if isinstance(data, dict) else SCHEMA
    if type(schema) is not int or schema != SCHEMA:
        raise HostError(f"host.schema: {_shown(schema)} is unknown, this release reads {SCHEMA}", hint=_HINT)
    values = _fields(data, "host", {"schema": lambda value, _: value, **_HOST})
    del values["schema"]
    return values


def _plain(value: object) -> object:
    match value:
        case Value():
            return {name: _plain(each) for name, each in fields_of(value).items()}
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(each) for each in value]
        case str():
            return str(value)
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise HostError(f"{_shown(name)}: written twice in one object", hint=_HINT)
        fields[name] = value
    return fields


def _fields(value: object, where: str, readers: Mapping[str, Reader]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    for name in value:
        if name not in readers:
            raise HostError(f"{where}: unknown field {_shown(name)}", hint=_HINT)
    for name in readers:
        if name not in value:
            raise HostError(f"{where}.{name}: missing", hint=_HINT)
    return {name: reader(value[name], f"{where}.{name}") for name, reader in readers.items()}


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise _wrong(where, "one line of text", value)
    return value


def _feature(value: object, where: str) -> str:
    name = _text(value, where)
    if not name.isascii() or not name.replace("_", "").isalnum() or name != name.lower():
        raise _wrong(where, "a feature name such as avx512_vnni", value)
    return name


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _number(least: int) -> Reader:
    def read_number(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= _MOST:
            raise _wrong(where, f"a whole number of at least {least}", value)
        return value

    return read_number


def _word(kind: type[Platform | Backend] | tuple[str, ...]) -> Reader:
    def read_word(value: object, where: str) -> str:
        words = {str(word): word for word in kind}
        if not isinstance(value, str) or value not in words:
            raise _wrong(where, "one of " + ", ".join(words), value)
        return words[value]

    return read_word


def _optional(reader: Reader) -> Reader:
    return lambda value, where: None if value is None else reader(value, where)


def _several(reader: Reader) -> Reader:
    def read_several(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(reader(each, f"{where}[{index}]") for index, each in enumerate(value))

    return read_several


def _pair(value: object, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != _PAIR:
        raise _wrong(where, "two numbers", value)
    first, second = _several(_COUNT)(value, where)
    return first, second


def _object(kind: type[Cpu | Gpu | Nvidia | Libc], readers: Mapping[str, Reader]) -> Reader:
    return lambda value, where: kind(**_fields(value, where, readers))


def _wrong(where: str, expected: str, value: object) -> HostError:
    return HostError(f"{where}: expected {expected}, found {_shown(value)}", hint=_HINT)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > _MOST:  # repr() of a very long one is an error
        return "a number beyond 64 bits"
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


_COUNT = _number(0)
_CPU = {
    "features": lambda value, where: frozenset(_several(_feature)(value, where)),
    "brand": _optional(_text),
    "source": _text,
    "cores": _number(1),
}
_GPU = {
    "backend": _word(Backend),
    "index": _COUNT,
    "name": _text,
    "compute_capability": _optional(_pair),
    "memory": _optional(_COUNT),
    "uuid": _optional(_text),
}
_HOST = {
    "platform": _word(Platform),
    "cpu": _object(Cpu, _CPU),
    "libc": _optional(_object(Libc, {"name": _word(("glibc", "musl", "other")), "version": _several(_COUNT)})),
    "page_size": _number(1),
    "memory": _optional(_COUNT),
    "nvidia": _optional(_object(Nvidia, {"driver": _text, "cuda": _pair, "visible": _optional(_text)})),
    "gpus": _several(_object(Gpu, _GPU)),
    "notes": _several(_text),
    "translated": _flag,
}
