"""How resolutions look on paper.

One rule: the same trace everywhere, unbroken when it goes to a file or a pipe.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

if TYPE_CHECKING:
    from nativeload.resolve.resolution import Decision, Resolution

_MARKS = {True: "[green]accepted[/green]", False: "[red]rejected[/red]", None: "[yellow]unknown[/yellow]"}


def console() -> Console:
    """Return a console on stdout that never breaks a line where there is no terminal."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(width=None if terminal else 10_000, highlight=False, emoji=False)


def print_json(value: object) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def summary(resolution: Resolution) -> str:
    """Return the outcome in one line."""
    chosen = resolution.chosen
    if chosen is None:
        return f"{resolution.library}: nothing usable"
    proof = f"verified by {resolution.verified_by}" if resolution.verified else "not verified"
    build = f" build {chosen.build}" if chosen.build else ""
    return f"{resolution.library}:{build} {chosen.variant} from {chosen.source} {chosen.origin} ({proof})"


def trace(resolution: Resolution) -> Tree:
    """Return every decision as a tree, by source and by the place where the candidates lie."""
    tree = Tree(escape(summary(resolution)), guide_style="dim")
    branches: dict[tuple[str, str], Tree] = {}
    origins = {item.candidate.rpartition(": ")[0] for item in resolution.decisions} - {""}
    for decision in resolution.decisions:
        source = str(decision.source)
        if (source, "") not in branches:
            branches[source, ""] = tree.add(source)
        origin = next(
            (place for place in origins if f"{decision.candidate} ".startswith((f"{place} ", f"{place}: "))), ""
        )
        if (source, origin) not in branches:
            branches[source, origin] = branches[source, ""].add(escape(origin))
        branches[source, origin].add(_line(decision, decision.candidate.removeprefix(origin).lstrip(": ")))
    if not resolution.decisions:
        tree.add("no source had a candidate")
    return tree


def _line(decision: Decision, candidate: str) -> str:
    mark = _MARKS[decision.to_dict()["accepted"]]
    return f"{mark} {escape(f'{candidate}: ' if candidate else '')}{escape(decision.verdict.reason)}"


def print_resolution(resolution: Resolution, *, as_json: bool, explain: bool) -> None:
    """Print a resolution: JSON, the whole trace, or the chosen files."""
    if as_json:
        print_json(resolution.to_dict())
        return
    out = console()
    if explain:
        out.print(trace(resolution))
        return
    out.print(escape(summary(resolution)), soft_wrap=True)
    for file in resolution.chosen.files if resolution.chosen else ():
        out.print(escape(f"  {file.path}  {file.size:,} bytes"), soft_wrap=True)
    for backend, reason in resolution.shortfall:
        click.echo(f"warning: {backend} preferred, but {reason}", err=True)
