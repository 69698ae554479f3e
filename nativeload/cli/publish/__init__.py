"""``nativeload publish``: the steps by which a build gets to a Hub.

One rule: a step is a command of its own, which does the same on a laptop and in CI.
"""

from __future__ import annotations

import click

from nativeload.cli.lazy import LazyGroup

_STEPS = {
    "upload": "Read builds out of directories and put them on a Hub, in one commit.",
}


@click.group("publish", cls=LazyGroup, package=__name__, lines=_STEPS)
def command() -> None:
    """Put a build of a library on a Hub, step by step."""
