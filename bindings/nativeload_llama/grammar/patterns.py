r"""Which strings does the regular expression of a JSON schema match, and those of its formats?

One rule: dialects differ in what ``\d``, ``\w`` and ``\s`` are beyond ASCII; a string made here matches in ECMAScript
and in Python alike. What they would read differently, or what is no regular language, is refused.
"""

from __future__ import annotations

import re

from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.code_points import ANY, LAST, SURROGATES, complement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.grammar.automata import Tree
    from nativeload_llama.grammar.code_points import Ranges

    Class = tuple[Ranges, Ranges]  # what every dialect matches, and what some dialect matches

MAX_PATTERN = 2000  # characters
_MAX_DEPTH = 32  # groups within each other
_COUNT = re.compile(r"\{([0-9]{1,6})(,?)([0-9]{0,6})\}")
_CODE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}

_DOT = complement([(10, 10), (13, 13), (0x2028, 0x2029)])
_BLANK: Ranges = ((9, 13), (32, 32))
_BLANKS: Ranges = (*_BLANK, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x180E, 0x180E))
_BLANKS += ((0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF))
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_CLASSES: dict[str, Class] = {
    "d": (((48, 57),), ((48, 57), (0x660, LAST))),
    "w": (_WORD, (*_WORD, (0x80, LAST))),
    "s": (_BLANK, _BLANKS),
}
_CLASSES |= {kind.upper(): (complement(some), complement(every)) for kind, (every, some) in _CLASSES.items()}

_DAY = "(0[1-9]|1[0-9]|2[0-8])"
_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LONG, _SHORT = "(0[13578]|1[02])", "(0[469]|11)"
_DATE = f"({_YEAR}-((0[1-9]|1[0-2])-{_DAY}|({_LONG}|{_SHORT})-(29|30)|{_LONG}-31)|{_LEAP}-02-29)"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_CLOCK})"
_BYTE = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
_HOST = r"[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z0-9]{1,20}(-[a-z0-9]{1,20})?){0,2}"
_SECONDS = "[0-9]{1,6}S"
_MINUTES = f"[0-9]{{1,6}}M({_SECONDS})?"
_CLOCKED = f"T({_SECONDS}|{_MINUTES}|[0-9]{{1,6}}H({_MINUTES})?)"
_DAYS = "[0-9]{1,6}D"
_MONTHS = f"[0-9]{{1,6}}M({_DAYS})?"
_DATED = f"({_DAYS}|{_MONTHS}|[0-9]{{1,4}}Y({_MONTHS})?)"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-%s-%s-[0-9a-f]{12}"

FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P({_DATED}({_CLOCKED})?|{_CLOCKED}|[0-9]{{1,6}}W)$",
    "uuid": "^" + _UUID % ("[0-9a-f]{4}", "[0-9a-f]{4}") + "$",
    "ipv4": rf"^{_BYTE}(\.{_BYTE}){{3}}$",
    "ipv6": "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$",
    "hostname": rf"^[a-z]{{1,20}}\.{_HOST}$",
    "email": rf"^[a-z0-9]{{1,20}}([._+-][a-z0-9]{{1,20}}){{0,2}}@{_HOST}\.[a-z]{{2,10}}$",
    "uri": rf"^https?://{_HOST}\.[a-z]{{2,10}}(/[/A-Za-z0-9._~-]{{0,100}})?$",
    **{
        f"uuid{version}": "^" + _UUID % (f"{version}[0-9a-f]{{3}}", "[89ab][0-9a-f]{3}") + "$"
        for version in range(1, 9)
    },
}
"""What a string of a format is made like here: never more than the standard allows, often less (no year 0000, no leap
second, no ``::`` in an address)."""

UNKNOWN_FORMATS = frozenset(
    {
        "idn-email",
        "idn-hostname",
        "iri",
        "iri-reference",
        "json-pointer",
        "regex",
        "relative-json-pointer",
        "uri-reference",
        "uri-template",
    }
)
"""Formats of the standard that are not made here; every other word is an annotation, as the standard says."""


def tree(pattern: str, where: str) -> Tree:
    """Return what a pattern matches; as JSON Schema has it, unanchored sides match anything.

    Raises:
        GrammarError: `where` has a pattern that is not understood, or not regular.
    """
    if len(pattern) > MAX_PATTERN:
        raise GrammarError(f"the pattern has {len(pattern)} characters, and may have {MAX_PATTERN}", where=where)
    reader = _Reader(pattern, where)
    found = reader.branches(depth=0)
    if reader.place < len(pattern):
        raise reader.error("a ) without its (")
    return found


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self.place = text, where, 0

    def error(self, reason: str) -> GrammarError:
        hint = "Patterns may have characters, classes, groups, |, repetitions, and ^ and $ at their ends."
        return GrammarError(f"the pattern {self.text!r}: {reason}", where=self.where, hint=hint)

    def at(self, *texts: str) -> bool:
        return self.text.startswith(texts, self.place)

    def take(self, text: str) -> bool:
        found = self.text.startswith(text, self.place)
        self.place += len(text) if found else 0
        return found

    def branches(self, depth: int) -> Tree:
        if depth > _MAX_DEPTH:
            raise self.error(f"more than {_MAX_DEPTH} groups within each other")
        found = [self.branch(depth)]
        while self.take("|"):
            found.append(self.branch(depth))
        return ("any", *found) if len(found) > 1 else found[0]

    def branch(self, depth: int) -> Tree:
        """Read what stands between two bars; the outermost ones have anchors, or match anything at their ends."""
        anything: Tree = ("times", ("set", ANY), 0, None)
        found: list[Tree] = [] if depth or self.take("^") else [anything]
        while self.place < len(self.text) and not self.at("|", ")"):
            if not depth and self.take("$"):
                if self.place < len(self.text) and not self.at("|"):
                    raise self.error("$ stands before its end")
                return ("all", *found)
            found.append(self.repeated(self.atom(depth)))
        return ("all", *found) if depth else ("all", *found, anything)

    def atom(self, depth: int) -> Tree:
        if self.take("("):
            if self.at("?") and not self.take("?:"):
                raise self.error("a group of a kind that is not regular, or has a name")
            found = self.branches(depth + 1)
            if not self.take(")"):
                raise self.error("a ( without its )")
            return found
        if self.take("["):
            return ("set", self.chars())
        if self.take("."):
            return ("set", _DOT)
        if self.at(*"^$*+?{}]"):
            raise self.error(f"{self.text[self.place]!r} stands where it has no meaning")
        return ("set", self.one()[0])

    def one(self) -> Class:
        """Read a character, or the name of a class."""
        if self.place >= len(self.text):
            raise self.error("it ends within a class")
        char = self.text[self.place]
        if char != "\\":
            self.place += 1
            return self.single(ord(char))
        name = self.text[self.place + 1 : self.place + 2]
        if name in _CLASSES:
            self.place += 2
            return _CLASSES[name]
        if found := _CODE.match(self.text, self.place):
            self.place = found.end()
            return self.single(int(found[1] or found[2], 16))
        if name in _CONTROLS or (name.isascii() and name and not name.isalnum() and name != "_"):
            self.place += 2
            return self.single(_CONTROLS.get(name, ord(name)))
        raise self.error(f"the escape \\{name} is not known")

    def single(self, code: int) -> Class:
        if not code or SURROGATES[0] <= code <= SURROGATES[1]:
            raise self.error("NUL, or half a surrogate pair")
        return ((code, code),), ((code, code),)

    def chars(self) -> Ranges:
        negated = self.take("^")
        every: list[tuple[int, int]] = []
        some: list[tuple[int, int]] = []
        begin = self.place
        while not self.at("]"):
            if self.at("["):
                raise self.error("a [ within a class: write \\[")
            if self.at("-") and self.place > begin and not self.at("-]"):
                raise self.error("a - within a class: write \\-")
            first = self.one()
            if self.at("-") and not self.at("-]"):
                self.place += 1
                first = self.range(first, self.one())
            every += first[0]
            some += first[1]
        if self.place == begin:
            raise self.error("an empty class")
        self.place += 1
        return complement(some) if negated else complement(complement(every))

    def range(self, first: Class, last: Class) -> Class:
        ends = (*first[1], *last[1])
        if len(ends) != 2 or any(low != high for low, high in ends) or ends[0] > ends[1]:  # noqa: PLR2004
            raise self.error("a range that runs backwards, or whose ends are classes")
        made: Ranges = ((ends[0][0], ends[1][0]),)
        return made, made

    def repeated(self, found: Tree) -> Tree:
        least, most = 1, 1
        if self.at(*"*+?"):
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.text[self.place]]  # type: ignore[assignment]
            self.place += 1
        elif counted := _COUNT.match(self.text, self.place):
            self.place = counted.end()
            least = int(counted[1])
            most = int(counted[3]) if counted[3] else None if counted[2] else least  # type: ignore[assignment]
        else:
            return found
        if most is not None and most < least:
            raise self.error("a repetition that runs backwards")
        self.take("?")  # a lazy repetition matches the same texts
        return ("times", found, least, most)
