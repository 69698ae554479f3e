"""How does the text of a chat template become something that can be run safely?

One rule: whatever a template does, or is, ends in a prompt or in a TemplateError with its line, never in a hang or a
crash.
"""

from __future__ import annotations

import threading

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

from nativeload_llama.chat.sandbox import COMPARISONS, LimitError, RefusalError, Sandbox
from nativeload_llama.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LONGEST = 1 << 17  # letters of a template; the longest of the 73 that llama.cpp's repository has is 51,034
_HINT = "Another template can be chosen: chat_format names a known one, chat_template is one of your own."


class Program:
    """A compiled template.

    Attributes:
        names: the variables and functions that it speaks of.

    Args:
        source: the template.
        label: what it is called in errors.

    Raises:
        TemplateError: it is no template, or too long.
    """

    def __init__(self, source: str, label: str) -> None:
        if len(source) > _LONGEST:
            raise TemplateError(f"{label}: {len(source)} letters long, and at most {_LONGEST} are read")
        self._label, self._sandbox, self._lock = label, Sandbox(), threading.Lock()
        try:
            tree = self._sandbox.parse(source)
            self.names = frozenset(name.name for name in tree.find_all(nodes.Name))
            code = self._sandbox.compile(_Metered().visit(tree))
            self._template = Template.from_code(self._sandbox, code, self._sandbox.globals)
        except TemplateSyntaxError as error:
            raise TemplateError(f"{label}, line {error.lineno}: {_printable(error.message)}") from error
        except Exception as error:  # the compilers' own limits: RecursionError, MemoryError, SyntaxError, ValueError
            raise TemplateError(f"{label}: {_reason(error)}") from error

    def run(self, values: Mapping[str, Any]) -> str:
        """Render; values are JSON's, and nothing else.

        Raises:
            TemplateError: the template refuses the values in its own words, fails, or takes too much.
        """
        with self._lock:
            try:
                self._sandbox.refill(values)
                context = self._template.new_context(dict(values))
                return self._sandbox.concat(self._template.root_render_func(context))
            except RefusalError as error:
                raise TemplateError(f"{self._label} refuses these messages: {_printable(error)}", hint=_HINT) from error
            except Exception as error:  # a stranger's code: it may fail in any way
                raise TemplateError(f"{self._label}{self._line(error)}: {_reason(error)}", hint=_HINT) from error
            finally:
                self._sandbox.refill({})

    def _line(self, error: Exception) -> str:
        line, place = "", error.__traceback__
        while place is not None:
            if place.tb_frame.f_globals is self._template.root_render_func.__globals__:
                line = f", line {self._template.get_corresponding_lineno(place.tb_lineno)}"
            place = place.tb_next
        return line


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = f"not allowed: {error}" if isinstance(error, LimitError) else str(error)
    return _printable(text) or type(error).__name__


def _printable(text: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:500])


class _Metered(NodeTransformer):
    """Puts a call of the sandbox wherever Jinja's compiled code would loop, compare or make a value by itself."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - NodeTransformer's names
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("turn", lineno=node.lineno), lineno=node.lineno))
        if node.test is not None:  # tried for elements that never reach the body
            node.test = nodes.And(_call("turn", lineno=node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", *node.nodes, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        first, line = node.ops[0], node.lineno
        if len(node.ops) > 1:
            node.expr = _call("seen", node.expr, lineno=line)
            for operand in node.ops:
                operand.expr = _call("seen", operand.expr, lineno=line)
            return node
        if first.op in COMPARISONS and isinstance(first.expr, nodes.Const):
            return node  # costs no more than the constant is long
        return _call("compared", nodes.Const(first.op, lineno=line), node.expr, first.expr, lineno=line)

    def visit_List(self, node: nodes.Expr) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        fixed = all(isinstance(child, nodes.Const) for child in node.iter_child_nodes())
        return node if fixed else _call("seen", node, lineno=node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self.visit_List(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):  # hashed before the mapping is there
                pair.key = _call("seen", pair.key, lineno=node.lineno)
        return _call("seen", node, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("seen", node, lineno=node.lineno) if isinstance(node.arg, nodes.Slice) else node


def _call(name: str, *values: nodes.Expr, lineno: int) -> nodes.Filter:
    """Return the call of one of the sandbox's own filters; no template can spell its name, nor is it folded away."""
    first, *others = values or (nodes.Const(None, lineno=lineno),)
    return nodes.Filter(first, f"<{name}>", others, [], None, None, lineno=lineno)


__all__ = ["Program"]
