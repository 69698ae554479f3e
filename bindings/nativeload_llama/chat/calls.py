"""How does a model write the calls of functions, and which are in what it wrote?

One rule: text is a call only when all of it is there and of the form; until then none of it is content, and if it never
is, all of it is.
"""

from __future__ import annotations

import json
import re
import secrets

from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    Deltas = list[dict[str, Any]]

_PATIENCE = 160  # letters from a marker within which the arguments must begin
_MARKS = re.compile(r'\\.|["{}]', re.DOTALL)


class ToolFormat(Value, kw_only=True):
    """How a family of models writes calls; a blank stands for up to four of any kind.

    Attributes:
        name: what it is called.
        start, end: once, around all calls.
        before, between, after: around the name and the arguments of each call.
        separator: between calls.
        trigger: the beginning of ``start + before`` by which a call is known.
        marker: the text at which calls are looked for in an answer.
        head: a regular expression from the marker to the arguments, or the object that holds them.
        closers: what may end a call, after its arguments.
        joint: what may lead from one call to the next without a marker.
        leads: what may come before everything, and is no content.
        anchored: whether calls can only be at the beginning of an answer.
        several: whether one answer can hold several calls.
        more: GBNF for what a call may have after its arguments.
        id_letters: how long an id must be, 0 for any length.
    """

    name: str
    start: str = ""
    before: str
    between: str
    after: str
    separator: str = "\n"
    end: str = ""
    trigger: str
    marker: str
    head: str
    closers: tuple[str, ...] = ()
    joint: str = ""
    leads: tuple[str, ...] = ()
    anchored: bool = False
    several: bool = True
    more: str = ""
    id_letters: int = 0

    def written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Return calls, names and arguments, as a model of this family writes them."""
        each = [
            f"{self.before}{name}{self.between}{json.dumps(arguments, ensure_ascii=False)}{self.after}"
            for name, arguments in calls
        ]
        return self.start + self.separator.join(each) + self.end


HERMES = ToolFormat(
    name="hermes",  # Qwen too
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    trigger="<tool_call>\n",
    marker="<tool_call>",
    head=r"<tool_call>\s*(?=\{)",
    closers=("</tool_call>",),
)
LLAMA_3 = ToolFormat(
    name="llama-3",
    before='{"name": "',
    between='", "parameters": ',
    after="}",
    trigger='{"name": "',
    marker="{",
    head=r"(?=\{)",
    closers=(";",),
    leads=("<|python_tag|>",),
    anchored=True,
    several=False,
)
MISTRAL = ToolFormat(
    name="mistral",
    start="[TOOL_CALLS] [",
    before='{"name": "',
    between='", "arguments": ',
    after="}",
    separator=", ",
    end="]",
    trigger="[TOOL_CALLS] ",
    marker="[TOOL_CALLS]",
    head=r"(?:\[TOOL_CALLS\]|,)\s*\[?\s*(?=\{)",
    closers=("]",),
    joint=",",
    more='("," blanks "\\"id\\":" blanks "\\"" [A-Za-z0-9]{9} "\\"")?',
    id_letters=9,
)
MISTRAL_ARGS = ToolFormat(
    name="mistral-args",  # since Small 3.2
    before="[TOOL_CALLS]",
    between="[ARGS]",
    after="",
    separator="",
    trigger="[TOOL_CALLS]",
    marker="[TOOL_CALLS]",
    head=r"\[TOOL_CALLS\]\s*(?P<name>[\w-]+)(?:\[CALL_ID\](?P<id>\w+))?\[ARGS\]\s*(?=\{)",
    id_letters=9,
)
FUNCTIONARY = ToolFormat(
    name="functionary",  # v3.1
    before="<function=",
    between=">",
    after="</function>",
    separator="",
    trigger="<function=",
    marker="<function=",
    head=r"<function=(?P<name>[\w-]+)>\s*(?=\{)",
    closers=("</function>",),
)
FUNCTIONS = ToolFormat(
    name="functions",  # llama-cpp-python's chatml-function-calling
    before="functions.",
    between=":\n",
    after="\n",
    separator="",
    trigger="functions.",
    marker="functions.",
    head=r"functions\.(?P<name>[\w-]+):\s*(?=\{)",
    leads=("message:",),
    anchored=True,
)


def detected(source: str) -> ToolFormat | None:
    """Return the format in which a chat template writes calls, or None where it is none of the known ones."""
    if "[TOOL_CALLS]" in source:
        return MISTRAL_ARGS if "[ARGS]" in source else MISTRAL
    if "<function=" in source:
        return None if "<parameter=" in source else FUNCTIONARY
    if "<tool_call>" in source and "<tool_calls>" not in source:
        return HERMES if '"arguments' in source.replace("\\", "") and '"name' in source.replace("\\", "") else None
    if "functions.NAME:" in source:
        return FUNCTIONS
    return LLAMA_3 if '"parameters": ' in source and "<|start_header_id|>" in source else None


def parse_tool_calls(text: str, form: ToolFormat) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the content and the calls of a whole answer.

    The calls have OpenAI's form, with arguments as JSON text; the content is None where there are only calls.
    """
    stream = ToolCallStream(form)
    content = ""
    calls: Deltas = []
    for delta in (*stream.feed(text), *stream.finish()):
        content += delta.get("content", "")
        calls += [{key: call[key] for key in ("id", "type", "function")} for call in delta.get("tool_calls", ())]
    return content if content or not calls else None, calls


class ToolCallStream:
    """Reads an answer while it is written: content at once, each call when it is whole."""

    def __init__(self, form: ToolFormat) -> None:
        self._form, self._head = form, re.compile(form.head)
        self._start = self._beginning if form.anchored else self._content
        self._state, self._held, self._count = self._start, "", 0
        self._opened, self._place, self._depth, self._quoted = -1, 0, 0, False  # how far the arguments were read

    def feed(self, text: str) -> Deltas:
        """Return what became certain, in order: ``{"content": text}`` or ``{"tool_calls": [call]}`` each."""
        self._held += text
        deltas: Deltas = []
        while (more := self._state()) is not None:
            deltas += more
        return deltas

    def finish(self) -> Deltas:
        """Return what was held back: a call that is not whole is content."""
        rest, self._held = self._held, ""
        return [{"content": rest}] if rest and not (self._count and rest.isspace()) else []

    # Each state returns what it made of the held text, or None while it needs more.

    def _rest(self) -> Deltas | None:
        """An answer in which no call can come any more."""
        return self._taken(len(self._held)) or None

    def _content(self) -> Deltas | None:
        """Content, up to a marker; blanks before one are no content, and what might become one waits."""
        marker = self._form.marker
        place = self._held.find(marker)
        if place >= 0:
            deltas = self._taken(len(self._held[:place].rstrip()))
            self._state, self._held = self._call, self._held.lstrip()
            return deltas
        ends = (len(self._held) - n for n in range(min(len(marker) - 1, len(self._held)), 0, -1))
        sure = next((end for end in ends if marker.startswith(self._held[end:])), len(self._held))
        return self._taken(len(self._held[:sure].rstrip())) or None

    def _beginning(self) -> Deltas | None:
        """The first letters of an answer that is either calls or content."""
        begun, led = self._held.lstrip(), False
        for lead in self._form.leads:
            led, begun = led or begun.startswith(lead), begun.removeprefix(lead).lstrip()
        if begun.startswith(self._form.marker):
            self._state, self._held = self._call, begun
        elif any(word.startswith(begun) for word in (*self._form.leads, self._form.marker)):
            return None
        else:
            self._state, self._held = self._rest, begun if led else self._held
        return []

    def _call(self) -> Deltas | None:
        """A call, from its marker to the end of its arguments."""
        head = self._head.match(self._held)
        if head is None:
            waits = "{" not in self._held[1:] and len(self._held) < _PATIENCE
            return None if waits else self._no_call(1)
        if self._opened < 0:
            self._opened = self._place = head.end()
        end = self._end()
        if end < 0:
            return None
        call = _read(self._held[self._opened : end], head.groupdict(), strict=self._form.anchored)
        if call is None:
            return self._no_call(end)
        self._forget(end)
        self._state = self._tail
        length = self._form.id_letters
        call["id"] = call["id"] or (secrets.token_hex(length)[:length] if length else f"call_{secrets.token_hex(12)}")
        self._count += 1
        return [{"tool_calls": [{"index": self._count - 1, **call}]}]

    def _tail(self) -> Deltas | None:
        """What comes between a call and the next one, or content."""
        rest = self._held.lstrip()
        for closer in self._form.closers:
            if rest.startswith(closer):
                self._state, self._held = self._start, rest.removeprefix(closer)
                return []
            if closer.startswith(rest):
                return None
        following = bool(self._form.joint) and rest.startswith(self._form.joint)
        self._state, self._held = (self._call, rest) if following else (self._start, self._held)
        return []

    def _no_call(self, end: int) -> Deltas:
        deltas = self._taken(end)
        self._forget(0)
        self._state = self._rest if self._form.anchored else self._content
        return deltas

    def _forget(self, end: int) -> None:
        self._held = self._held[end:]
        self._opened, self._place, self._depth, self._quoted = -1, 0, 0, False

    def _taken(self, length: int) -> Deltas:
        text, self._held = self._held[:length], self._held[length:]
        return [{"content": text}] if text else []

    def _end(self) -> int:
        """Return where the arguments end, or -1; every letter is looked at once, in however many pieces they come."""
        for mark in _MARKS.finditer(self._held, self._place):
            self._place = mark.end()
            if mark[0] == '"':
                self._quoted = not self._quoted
            elif mark[0] in {"{", "}"} and not self._quoted:
                self._depth += 1 if mark[0] == "{" else -1
                if self._depth == 0:
                    return self._place
        self._place = max(self._place, len(self._held) - self._held.endswith("\\"))
        return -1


def _read(text: str, head: dict[str, str | None], *, strict: bool) -> dict[str, Any] | None:
    """Return a call in OpenAI's form, without an id where it has none; None where it is no call."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        name, known, arguments = head.get("name"), head.get("id"), value
        if name is None:
            name, known = value.get("name"), value.get("id")
            arguments = value.get("arguments", value.get("parameters", None if strict else {}))
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    written = json.dumps(arguments, ensure_ascii=False)
    if not written.isascii() and written != written.encode("utf-8", "replace").decode():
        written = json.dumps(arguments)  # half of a surrogate pair, which UTF-8 cannot hold
    identity = known if isinstance(known, str) else ""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": written}}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


__all__ = [
    "FUNCTIONARY",
    "FUNCTIONS",
    "HERMES",
    "LLAMA_3",
    "MISTRAL",
    "MISTRAL_ARGS",
    "ToolCallStream",
    "ToolFormat",
    "detected",
    "parse_tool_calls",
]
