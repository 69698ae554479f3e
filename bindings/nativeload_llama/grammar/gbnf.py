"""Which rules does llama.cpp make of a GBNF text?

One rule: the reading is llama.cpp's own, symbol by symbol (llama-grammar.cpp, b8672 to b11549), so that what is judged
here is what C++ will walk; a text that any of those builds would not read, or would die of reading, is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from nativeload.value import Value
from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.code_points import LAST, SURROGATES, complement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nativeload_llama.grammar.code_points import Ranges

    Element = int | Ranges

MAX_TEXT = 1_000_000  # characters: one of a thousand alternatives of a thousand characters
MAX_NAME = 128  # characters: every repetition makes rules that carry their rule's name
MAX_PARENTHESES = 64  # C++ recurses per level, with 800 bytes a time; a thread of musl has 128 KiB
MAX_REPETITIONS = 2000  # MAX_REPETITION_THRESHOLD; newer builds take 2000 itself, older ones do not
MAX_ELEMENTS = 100_000  # of 8 bytes; llama_sampler_clone looks at all of them for each place of each stack

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_BLANKS = r"[ \t\r\n]*"
_COUNTS = re.compile(rf"\{{{_BLANKS}(?P<least>[0-9]+){_BLANKS}(?P<comma>,?){_BLANKS}(?P<most>[0-9]*){_BLANKS}\}}")
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\"\[\]]))')
_LETTERS = {"t": "\t", "r": "\r", "n": "\n"}
_LONGEST_COUNT = 9  # digits
_EXAMPLE = 'For example: root ::= "yes" | "no"'


class Rules(Value, eq=False):
    """The rules of a grammar, repetitions and parentheses already turned into rules of their own.

    Attributes:
        alternatives: for each rule its alternatives: elements, which are rule numbers or sets of code points.
        names: of the rules; those that were made here have the name of the rule they stand in.
        lines: where they stand in the text, from 1.
        root: the number of the rule to begin with.
    """

    alternatives: tuple[tuple[tuple[Element, ...], ...], ...]
    names: tuple[str, ...]
    lines: tuple[int, ...]
    root: int


def read(text: str, root: str) -> Rules:
    """Read a GBNF text.

    Raises:
        GrammarError: llama.cpp could not read it.
    """
    _check_text(text)
    reader = _Reader(text)
    while reader.place < len(text):
        reader.rule()
    return reader.rules(root)


def _check_text(text: str) -> None:
    if not text.strip():
        raise GrammarError("the grammar is empty", hint=_EXAMPLE)
    if len(text) > MAX_TEXT:
        raise GrammarError(f"the grammar has {len(text)} characters, and may have {MAX_TEXT}")
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            raise GrammarError("a NUL character, where C would end the text", where=f"line {number}")
        if not line.isascii() and any(SURROGATES[0] <= ord(char) <= SURROGATES[1] for char in line):
            raise GrammarError("half a surrogate pair is no character", where=f"line {number}")


class _Reader:
    """A place in a text, and the rules so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.newlines = [place for place, char in enumerate(text) if char == "\n"]
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.lines: list[int] = []
        self.found: list[tuple[tuple[Element, ...], ...] | None] = []
        self.elements = 0
        self.depth = 0
        self.place = 0
        self.spaces(newlines=True)

    def line(self) -> int:
        return bisect_left(self.newlines, self.place) + 1

    def error(self, reason: str, hint: str = "") -> GrammarError:
        return GrammarError(reason, where=f"line {self.line()}", hint=hint)

    def expected(self, what: str) -> GrammarError:
        if self.place >= len(self.text):
            return self.error(f"the grammar ends where {what} should be")
        return self.error(f"{self.text[self.place : self.place + 12]!r} stands where {what} should be")

    def spaces(self, *, newlines: bool) -> None:
        found = (_SPACES if newlines else _SPACE).match(self.text, self.place)
        self.place = found.end() if found else self.place

    def name(self) -> str:
        found = _NAME.match(self.text, self.place)
        if not found:
            raise self.expected("the name of a rule")
        if len(found[0]) > MAX_NAME:
            raise self.error(f"the name of a rule has {len(found[0])} characters, and may have {MAX_NAME}")
        self.place = found.end()
        return found[0]

    def number(self, name: str) -> int:
        """Return the number of a rule by its name, a new one where the name is new."""
        if name not in self.numbers:
            self.numbers[name] = self.made(name)
        return self.numbers[name]

    def made(self, name: str) -> int:
        self.names.append(name)
        self.lines.append(self.line())
        self.found.append(None)
        return len(self.names) - 1

    def count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            hint = "Repetitions are written out in rules: make their counts smaller."
            raise self.error(f"the grammar has more than {MAX_ELEMENTS} elements", hint)

    def rule(self) -> None:
        line, name = self.line(), self.name()
        number = self.number(name)
        self.spaces(newlines=False)
        if not self.text.startswith("::=", self.place):
            raise self.expected("::=")
        if self.found[number] is not None:
            raise self.error(f"the rule {name} is defined twice", "llama.cpp would use the last one alone: remove one.")
        self.place += 3
        self.spaces(newlines=True)
        self.lines[number] = line
        self.found[number] = self.alternatives(name, nested=False)
        if self.place < len(self.text) and self.text[self.place] not in "\r\n":
            raise self.expected("the end of the rule")
        self.spaces(newlines=True)

    def alternatives(self, name: str, *, nested: bool) -> tuple[tuple[Element, ...], ...]:
        found = [self.sequence(name, nested=nested)]
        while self.text.startswith("|", self.place):
            self.place += 1
            self.spaces(newlines=True)
            found.append(self.sequence(name, nested=nested))
        return tuple(found)

    def sequence(self, name: str, *, nested: bool) -> tuple[Element, ...]:
        """Read what stands between two bars: symbols, each with its repetitions."""
        found: list[Element] = []
        start, made = 0, 1  # the last symbol begins here, and made so many rules
        while self.place < len(self.text):
            begun = self.text[self.place]
            if begun in "*+?{":
                least, most = self.repetition(nested=nested)
                made = self.repeat(found, start, least, most, made=made, name=name)
                continue
            symbol = self.symbol(name, begun)
            if symbol is None:
                break
            start, (new, made) = len(found), symbol
            found += new
            self.count(_weight(new))
            self.spaces(newlines=nested)
        self.count(1)
        return tuple(found)

    def symbol(self, name: str, begun: str) -> tuple[list[Element], int] | None:
        """Read one symbol: its elements, and how many rules it made; None where none stands."""
        if begun == '"':
            return self.literal(), 1
        if begun == "[":
            return [self.chars()], 1
        if begun == ".":
            self.place += 1
            return [complement(())], 1
        if begun == "(":
            return self.group(name)
        if begun in "<!":
            hint = "Write the token's text as a literal."
            raise self.error("a token literal: llama.cpp can end the process over one that follows text", hint)
        if _NAME.match(begun):
            return [self.number(self.name())], 1
        return None

    def group(self, name: str) -> tuple[list[Element], int]:
        if self.depth == MAX_PARENTHESES:
            raise self.error(f"more than {MAX_PARENTHESES} parentheses within each other", "Give inner ones a rule.")
        self.place += 1
        self.spaces(newlines=True)
        before, self.depth = len(self.names), self.depth + 1
        number = self.made(name)
        self.found[number] = self.alternatives(name, nested=True)
        if not self.text.startswith(")", self.place):
            raise self.expected(")")
        self.place, self.depth = self.place + 1, self.depth - 1
        return [number], len(self.names) - before

    def literal(self) -> list[Element]:
        self.place += 1
        found: list[Element] = []
        while not self.text.startswith('"', self.place):
            char = self.char("the end of a literal")
            same = ((char, char),)
            found.append(same if 0 < char < SURROGATES[0] else self.matching(same))
        self.place += 1
        return found

    def chars(self) -> Ranges:
        self.place += 1
        negated = self.text.startswith("^", self.place)
        self.place += negated
        if self.text.startswith("]", self.place):
            raise self.error("an empty character class", "For ] itself write [\\]].")
        ranges = []
        while not self.text.startswith("]", self.place):
            first = last = self.char("the end of a character class")
            if self.text.startswith("-", self.place) and not self.text.startswith("-]", self.place):
                self.place += 1
                last = self.char("the end of a character range")
            if last < first:
                raise self.error(f"the character range {chr(first)!r} to {chr(last)!r} runs backwards")
            ranges.append((first, last))
        self.place += 1
        return self.matching(complement(ranges) if negated else ranges)

    def matching(self, ranges: list[tuple[int, int]] | Ranges) -> Ranges:
        """Return what of some ranges can occur in a text."""
        found = complement(complement(ranges))
        if not found:
            raise self.error("a character that no text can have: NUL, half a surrogate pair, or none at all")
        return found

    def char(self, what: str) -> int:
        if self.place >= len(self.text):
            raise self.expected(what)
        char = self.text[self.place]
        if char != "\\":
            self.place += 1
            return ord(char)
        found = _ESCAPE.match(self.text, self.place)
        if not found:
            hint = r"There are \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH."
            raise self.error(f"no escape of GBNF: {self.text[self.place : self.place + 2]}", hint)
        self.place = found.end()
        if found[4]:
            return ord(_LETTERS.get(found[4], found[4]))
        code = int(found[1] or found[2] or found[3], 16)
        if code > LAST:
            raise self.error(f"{found[0]} is no character: the last one is \\U0010FFFF")
        return code

    def repetition(self, *, nested: bool) -> tuple[int, int | None]:
        """Read ``* + ? {m} {m,} {m,n}``: how often at least, and at most (None: no limit)."""
        mark = self.text[self.place]
        if mark != "{":
            self.place += 1
            self.spaces(newlines=nested)
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[mark]
        found = _COUNTS.match(self.text, self.place)
        if (
            not found
            or (not nested and ("\n" in found[0] or "\r" in found[0]))
            or (found["most"] and not found["comma"])
        ):
            raise self.error("a repetition is not of the form {2}, {2,} or {2,5}")
        if max(len(found["least"]), len(found["most"])) > _LONGEST_COUNT:
            raise self.error(f"a repetition of {MAX_REPETITIONS} or more", _NESTING)
        self.place = found.end()
        self.spaces(newlines=nested)
        least = int(found["least"])
        return least, (int(found["most"]) if found["most"] else None) if found["comma"] else least

    def repeat(self, found: list[Element], start: int, least: int, most: int | None, *, made: int, name: str) -> int:
        """Repeat the last symbol as llama.cpp does, in new rules; return how many rules it counts then."""
        symbol = tuple(found[start:])
        if not symbol:
            raise self.error("nothing stands before a repetition")
        if most is not None and most < least:
            raise self.error(f"a repetition of at least {least} and at most {most}")
        times = most or least or 1
        if made * times >= MAX_REPETITIONS or least >= MAX_REPETITIONS:
            raise self.error(f"a repetition of {MAX_REPETITIONS} or more, with those inside it", _NESTING)
        optional = 1 if most is None else most - least
        self.count(_weight(symbol) * (max(least - 1, 0) + optional) + 3 * optional)
        found[start:] = symbol * least
        last: int | None = None
        for _ in range(optional):
            number = self.made(name)
            rest = number if most is None else last
            self.found[number] = ((*symbol, *(() if rest is None else (rest,))), ())
            last = number
        if last is not None:
            found.append(last)
        return made * times

    def rules(self, root: str) -> Rules:
        for number, found in enumerate(self.found):
            if found is None:
                raise GrammarError(
                    f"the rule {self.names[number]} is used and not defined", where=f"line {self.lines[number]}"
                )
        if root not in self.numbers:
            raise GrammarError(f"there is no rule {root} to begin with", hint=_EXAMPLE)
        alternatives = tuple(found for found in self.found if found is not None)
        return Rules(alternatives, tuple(self.names), tuple(self.lines), self.numbers[root])


_NESTING = "Repeat a rule that repeats: ten ::= x{10}, then ten{0,300}."


def _weight(symbol: Iterable[Element]) -> int:
    """Return how many elements llama.cpp keeps for a symbol; the end of a range is counted with its beginning."""
    return sum(1 if isinstance(element, int) else len(element) for element in symbol)
