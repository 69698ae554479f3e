"""Which grammars may reach llama.cpp?

One rule: llama.cpp gets no grammar that it would die of, or not come back from. It can throw through C, recurse until
the stack is full, and fill the memory: what is accepted here does none of it in any build that these bindings know.
"""

from __future__ import annotations

import os
from functools import lru_cache

from nativeload.value import Value
from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.json_terms import JSON_GBNF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["JSON_GBNF", "LlamaGrammar", "check_gbnf"]

_LARGEST_FILE = 4_000_000  # bytes: the characters that a grammar may have, in UTF-8


def check_gbnf(text: str, root: str = "root") -> None:
    """Refuse a grammar that llama.cpp cannot read, or cannot walk safely.

    Args:
        text: the grammar, in GBNF.
        root: the rule to begin with.

    Raises:
        GrammarError: with the line at fault.
        TypeError: not text.
    """
    if not isinstance(text, str) or not isinstance(root, str):
        raise TypeError("a grammar is text")
    _checked(text, root)


@lru_cache(maxsize=32)
def _checked(text: str, root: str) -> None:
    from nativeload_llama.grammar import gbnf, gbnf_cost

    gbnf_cost.check(gbnf.read(text, root))


class LlamaGrammar(Value):
    """A grammar for a model's text, checked when it is made.

    Attributes:
        gbnf: its text; the rule to begin with is ``root``.
    """

    gbnf: str

    _root = "root"

    def __post_init__(self) -> None:
        check_gbnf(self.gbnf, self._root)

    @classmethod
    def from_string(cls, text: str, verbose: bool = False) -> LlamaGrammar:  # noqa: ARG003 - llama-cpp-python's word
        """Return a grammar from GBNF text; ``verbose`` does nothing.

        Raises:
            GrammarError: llama.cpp could not use it safely.
        """
        return cls(text)

    @classmethod
    def from_file(cls, file: str | Path, verbose: bool = False) -> LlamaGrammar:  # noqa: ARG003 - as above
        """Return a grammar from a GBNF file in UTF-8.

        Raises:
            GrammarError: the file cannot be read, or llama.cpp could not use the grammar safely.
        """
        try:
            with open(file, "rb") as opened:
                raw = opened.read(_LARGEST_FILE + 1)
            text = raw.decode("utf-8-sig")
        except OSError as error:
            raise GrammarError(error.strerror or str(error), where=os.fspath(file)) from error
        except ValueError as error:  # not UTF-8, or a NUL in the path
            raise GrammarError(str(error), where=repr(file)) from error
        return cls(text)

    @classmethod
    def from_json_schema(
        cls,
        schema: object,
        verbose: bool = False,  # noqa: ARG003 - as above
        *,
        order: Sequence[str] = (),
        max_string: int | None = None,
        max_items: int | None = None,
    ) -> LlamaGrammar:
        """Return the grammar of a JSON schema: its text, a mapping, or a class with ``model_json_schema()``.

        The other arguments are those of `nativeload_llama.grammar.json_schema.to_gbnf`.

        Raises:
            GrammarError: the schema asks for something that cannot be promised.
        """
        from nativeload_llama.grammar.json_schema import to_gbnf

        return cls(to_gbnf(schema, order=order, max_string=max_string, max_items=max_items))
