"""How is a choice written to the user's config file?

One rule: what else stands there stays as it is, comments too, and the file is whole at every moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from typing import TYPE_CHECKING

from nativeload.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def write(values: Mapping[str, str]) -> str:
    """Set texts in the config file that `nativeload.settings` reads; return its path.

    Raises:
        ConfigError: the file is no TOML, or cannot be written.
    """
    path = _path()
    try:
        text = _read(path)
        for key, value in values.items():
            text = _with(text, key, value)
        tomllib.loads(text)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        whole = f"{path}.{os.getpid()}"
        with open(whole, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(whole, path)
    except (OSError, ValueError) as error:
        raise ConfigError(path, str(error)) from error
    return path


def _path() -> str:
    import platformdirs

    named = os.environ.get("NATIVELOAD_CONFIG")
    return named or os.path.join(platformdirs.user_config_dir("nativeload", appauthor=False), "config.toml")


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        text = file.read()
        tomllib.loads(text)
        return text
    return ""


def _with(text: str, key: str, value: str) -> str:
    """Return a TOML text in which a key has a value: in its line if it has one, else in a line of its own."""
    line = f"{key} = {json.dumps(value)}"
    pattern = re.compile(rf"^{re.escape(key)}\s*=.*$", re.MULTILINE)
    if pattern.search(text):
        return pattern.sub(lambda _: line, text, count=1)
    return f"{line}\n{text}"
