"""A group of commands each of which is a module, imported when it is called: help and other commands stay fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Commands by name, with the line that the help has for each.

    Args:
        package: where the modules are; each has a ``command``.
        lines: name -> line of help, in the order shown.
        modules: name -> module, where a name is no module's name.
    """

    def __init__(
        self, *args: Any, package: str, lines: dict[str, str], modules: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._package, self._lines, self._modules = package, lines, modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lines:
            return None
        command = import_module(f"{self._package}.{self._modules.get(cmd_name, cmd_name)}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._lines.items()))
