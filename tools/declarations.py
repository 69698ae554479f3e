"""What does a set of C headers declare, and what do the headers of several builds declare together?

One rule: what is not understood, or not the same in two builds that are to share a layout, is an error and never a
guess.

Every ``#if``, ``#ifdef`` and ``#elif`` counts as false and every ``#ifndef`` and ``#else`` as true: this leaves the
plain C declarations and drops C++, Windows and compiler branches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# What the low-level floor calls of ggml itself: its registry of backends and devices, and who built it.
GGML_FUNCTIONS = {
    *("ggml_version", "ggml_commit", "ggml_set_abort_callback"),
    *(f"ggml_backend_reg_{word}" for word in ("count", "get", "name")),
    *(f"ggml_backend_dev_{word}" for word in ("count", "get", "by_name", "name", "description", "type", "memory")),
}

COMMENT_OR_STRING = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
EXPORT = re.compile(r"\b(?:LLAMA_API|GGML_API|GGML_BACKEND_API|GGML_CALL|GGML_NORETURN|GGML_RESTRICT|extern)\b")
DEPRECATED = re.compile(r"\b(?:GGML_)?DEPRECATED\s*\(")
ATTRIBUTE = re.compile(r"\b(?:__attribute__|__declspec|GGML_ATTRIBUTE_FORMAT)\s*\(")
INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)")


class HeaderError(Exception):
    """A header says something that this tool does not understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One top-level declaration.

    Attributes:
        kind: ``typedef``, ``struct``, ``enum`` or ``function``.
        name: what it declares: a tag for structs and enums, else an ordinary identifier.
        tag: the struct or enum that a typedef also defines, or an empty string.
        text: its C text in one line, without the last semicolon.
    """

    kind: str
    name: str
    tag: str = ""
    text: str

    @property
    def is_opaque(self) -> bool:
        """Whether it only announces a struct."""
        return self.kind == "struct" and "{" not in self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one header file declares itself, in its own order."""

    declarations: tuple[Declaration, ...]
    constants: Mapping[str, int]
    includes: tuple[str, ...]


def drop_comments(text: str) -> str:
    """Replace every comment by a space, leaving string literals as they are."""
    return COMMENT_OR_STRING.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)


def preprocess(text: str) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Split a header without comments into C code, object-like macros and quoted includes."""
    code: list[str] = []
    macros: dict[str, str] = {}
    includes: list[str] = []
    taken: list[bool] = []
    for line in text.replace("\\\n", " ").splitlines():
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            code += [line] if all(taken) else []
            continue
        word, rest = directive[1], directive[2].strip()
        if word in {"if", "ifdef", "ifndef"}:
            taken.append(word == "ifndef")
        elif word in {"elif", "else"}:
            taken[-1] = word == "else" and not taken[-1]
        elif word == "endif":
            taken.pop()
        elif word == "include" and all(taken) and rest.startswith('"'):
            includes.append(rest.strip('"'))
        elif word == "define" and all(taken) and (macro := re.fullmatch(r"(\w+)\s+(.+)", rest)):
            macros[macro[1]] = macro[2]
    return "\n".join(code), macros, tuple(includes)


def integers(macros: Mapping[str, str]) -> dict[str, int]:
    """Evaluate the macros that are an integer literal or another such macro's name."""
    found: dict[str, int] = {}
    for name, value in macros.items():
        plain = value.strip("() ").rstrip("uUlL")
        if INTEGER.fullmatch(plain):
            found[name] = int(plain, 0)
        elif value in found:
            found[name] = found[value]
    return found


def closing(text: str, start: int) -> int:
    """Find the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise HeaderError(f"unbalanced parenthesis: {text[start : start + 60]!r}")


def unwrap(code: str) -> str:
    """Remove export macros and attributes, and keep the first argument of ``DEPRECATED``."""
    code = re.sub(r"\"(?:\\.|[^\"\\])*\"", '""', code)  # a hint may hold any parenthesis
    for pattern in (DEPRECATED, ATTRIBUTE):
        while found := pattern.search(code):
            end = closing(code, found.end() - 1)
            inside = code[found.end() : end] if pattern is DEPRECATED else ""
            code = code[: found.start()] + inside.rpartition(",")[0] + code[end + 1 :]
    return EXPORT.sub("", code)


def statements(code: str) -> Iterator[str]:
    """Yield what stands between the top-level semicolons; the bodies of inline functions are left out."""
    depth = start = 0
    for index, char in enumerate(code):
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(char, 0)
        if depth:
            continue
        if char == "}" and "(" in code[start:index].partition("{")[0]:
            start = index + 1
        elif char == ";":
            yield tidy(code[start:index])
            start = index + 1


def tidy(text: str) -> str:
    """Write C text in one line with one way of spacing."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s*(\*[* ]*)\s*", lambda found: " " + found[1].replace(" ", ""), text)
    text = re.sub(r"\s*([,;])\s*", r"\1 ", text)
    text = re.sub(r"(?<=\)) \(|(?<=\w) \((?! ?\*)", "(", text)
    return re.sub(r"\( ", "(", re.sub(r" (?=[)\]])", "", text)).strip()


def declared(text: str) -> Declaration | None:
    """Name a statement, or return None for one that is no declaration of ours (static data, for one)."""
    head, brace, _ = text.partition("{")
    tag = re.match(r"(?:typedef )?(struct|enum|union) (\w+) ?$", head)
    if text.startswith("typedef "):
        pointer = None if brace else re.search(r"\(\*(\w+)\)", text)
        name = pointer[1] if pointer else re.findall(r"\w+", re.sub(r"\[\w*\]", "", text))[-1]
        return Declaration(kind="typedef", name=name, tag=tag[2] if tag and brace else "", text=text)
    if tag:
        return Declaration(kind=tag[1], name=tag[2], text=text)
    function = re.match(r"(?!static)[\w *]+?(\w+)\(.*\)$", text)
    return Declaration(kind="function", name=function[1], text=text) if function and not brace else None


def parse(text: str, *, strict: bool = False) -> Header:
    """Read one header.

    Raises:
        HeaderError: `strict`, and a statement is none of typedef, struct, enum and function.
    """
    code, macros, includes = preprocess(drop_comments(text))
    found: list[Declaration] = []
    for statement in statements(unwrap(code)):
        declaration = declared(statement)
        if declaration is not None:
            found.append(declaration)
        elif strict and statement:
            raise HeaderError(f"not understood: {statement[:200]!r}")
    return Header(declarations=tuple(found), constants=integers(macros), includes=includes)


def in_order(name: str, sources: Mapping[str, str], seen: dict[str, Header] | None = None) -> dict[str, Header]:
    """Parse a header and all that it includes, the included ones first."""
    headers = {} if seen is None else seen
    header = parse(sources[name], strict=name == "llama.h")
    for included in header.includes:
        if included not in headers and included in sources:
            in_order(included, sources, headers)
    headers[name] = header
    return headers


def by_value(text: str) -> set[str]:
    """Name the struct tags that a declaration uses other than through a pointer."""
    return set(re.findall(r"\bstruct (\w+)\b(?! ?\*)", text))


def needed(roots: Iterable[Declaration], available: Sequence[Declaration]) -> set[Declaration]:
    """Collect what the roots need of the available declarations, and what that needs in turn.

    A struct's definition is needed where it is used by value; behind a pointer it stays opaque.
    """
    todo, found = list(roots), set[Declaration]()
    while todo:
        text = todo.pop().text
        words, enums, values = (
            set(re.findall(r"\w+", text)),
            set(re.findall(r"\benum (\w+)", text)),
            by_value(text),
        )
        for one in available:
            wanted = {"typedef": words, "enum": enums, "struct": values}.get(one.kind, set[str]())
            if one not in found and not one.is_opaque and (one.name in wanted or one.tag in values):
                found.add(one)
                todo.append(one)
    return found


def indented(text: str) -> str:
    """Write a declaration with one member of its braces a line."""
    head, brace, rest = text.partition("{")
    if not brace:
        return f"{text};"
    if "enum" in head.split():
        body, _, tail = rest.rpartition("}")
        members = (member.strip() for member in body.split(","))
        return "\n".join([f"{head}{{", *(f"    {member}," for member in members if member), f"}}{tail};"])
    lines: list[str] = []
    depth = 0
    for piece in re.findall(r"\}[^;]*;|[^{};]+[{;]", f"{text};"):
        depth -= piece.startswith("}")
        lines.append("    " * depth + piece.strip())
        depth += piece.endswith("{")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a binding needs of one build, or of several that share a layout: llama.h whole, of ggml what that needs."""

    declarations: tuple[Declaration, ...]
    constants: Mapping[str, int]


def read_interface(sources: Mapping[str, str]) -> Interface:
    """Collect the declarations that a binding needs of one build.

    Raises:
        HeaderError: a statement of llama.h is not understood, or ggml lacks a function that the binding calls.
    """
    headers = in_order("llama.h", sources)
    llama = headers.pop("llama.h")
    ggml = list(dict.fromkeys(one for header in headers.values() for one in header.declarations))
    calls = [one for one in ggml if one.kind == "function" and one.name in GGML_FUNCTIONS]
    if missing := GGML_FUNCTIONS - {one.name for one in calls}:
        raise HeaderError(f"ggml no longer declares {', '.join(sorted(missing))}")
    used = needed((*llama.declarations, *calls), ggml)
    kept = [one for one in ggml if one in used or one in calls] + list(llama.declarations)
    words = {word for one in kept for word in re.findall(r"\w+", one.text)}
    constants = {key: value for header in headers.values() for key, value in header.constants.items() if key in words}
    declared = tuple(one for one in kept if not one.is_opaque)
    return Interface(declarations=declared, constants={**constants, **llama.constants})


def merged(builds: Sequence[Interface]) -> Interface:
    """Unite what builds of one layout declare, oldest first: the newest in its order, then what it no longer has.

    Raises:
        HeaderError: two of them do not declare something alike.
    """
    newest = builds[-1]
    found = {(one.kind, one.name): one for one in newest.declarations}
    constants = dict(newest.constants)
    for build in reversed(builds[:-1]):
        for one in build.declarations:
            key = (one.kind, one.name)
            found[key] = united(one, found[key]) if key in found else one
        for name, value in build.constants.items():
            if constants.setdefault(name, value) != value and not name.endswith("_VERSION"):  # of files: no layout
                raise HeaderError(f"{name} is {value} and {constants[name]}")
    return Interface(declarations=tuple(found.values()), constants=constants)


def united(old: Declaration, new: Declaration) -> Declaration:
    """Declare once what two builds declare.

    An enum may have got members, and a pointer in a struct another type: nobody who has only these declarations can
    know which one a binary wants, so it becomes ``void *``.

    Raises:
        HeaderError: they differ in any other way.
    """
    if signature(old) == signature(new):
        return new
    text = ""
    if new.kind == "enum":
        older, newer = members(old.text), members(new.text)
        moved = {name for name, value in older.items() if newer.get(name) != value}
        text = "" if any(not name.endswith("_COUNT") for name in moved) else new.text
    elif "{" in new.text:
        fields = [re.split(r"(?<=[;{])", one.text) for one in (old, new)]
        pairs = zip(*fields, strict=True) if len(fields[0]) == len(fields[1]) else [("", "-")]
        text = "".join(after if before == after else as_void(before, after) for before, after in pairs)
    if not text or "\0" in text:
        raise HeaderError(f"builds of one layout differ: {old.text!r} and {new.text!r}")
    return Declaration(kind=new.kind, name=new.name, tag=new.tag, text=text)


def as_void(old: str, new: str) -> str:
    """Declare a member that is one pointer or another as ``void *``; a NUL stands for what is not two pointers."""
    pointer = re.compile(r" ?(?:const )?(?:struct )?\w+ \*\w+;")
    both = pointer.fullmatch(old) and pointer.fullmatch(new)
    return f" void *{new.rpartition('*')[2]}" if both else "\0"


def signature(one: Declaration) -> str:
    """Return a function's types without its parameters' names, so that it is the same where its calls are the same."""
    head, _, rest = one.text.partition("(")
    if one.kind != "function":
        return one.text
    named = re.compile(r"^((?!(?:const )?(?:enum|struct|unsigned) \w+$).*[\w*])(?:(?<=\*)| )\w+$")
    arguments = (named.sub(r"\1", each.strip()) for each in top_level(rest[:-1]))
    return re.sub(r"\bint\b", "int32_t", f"{head}({', '.join(arguments)})")


def members(text: str) -> dict[str, str]:
    """Return what each member of an enum is: its value's text, or how far it is from the last one with a value."""
    found: dict[str, str] = {}
    base, steps = "", 0
    for member in text.partition("{")[2].rpartition("}")[0].split(","):
        name, _, value = (part.strip() for part in member.partition("="))
        base, steps = (value, 0) if value else (base, steps + 1)
        found |= {name: f"{base} + {steps}"} if name else {}
    return found


def top_level(text: str) -> Iterator[str]:
    """Split at the commas that are in no parentheses."""
    depth = start = 0
    for index, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and not depth:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def render_header(name: str, interface: Interface, note: str) -> str:
    """Write the declarations of one layout as a C header."""
    kept = interface.declarations
    defined = {one.tag or one.name for one in kept if "{" in one.text}
    opaque = {tag for one in kept for tag in re.findall(r"\bstruct (\w+)", one.text)} - defined
    lines = [f"/* {note} Layout {name}. */", "", "typedef struct _IO_FILE FILE;", ""]
    lines += [f"#define {key} {value}" for key, value in interface.constants.items()]
    lines += ["", *(f"struct {tag};" for tag in sorted(opaque)), ""]
    lines += [indented(one.text) for one in kept]
    return "\n".join(lines) + "\n"
