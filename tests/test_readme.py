"""The pages say what is true: their lines can be pasted, their programs run, their words exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from nativeload import settings
from nativeload.cli import cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIABLES = {variable for variables, _, _ in settings.OPTIONS.values() for variable in variables}


def blocks(page: Path, language: str) -> list[str]:
    return [body for word, body in FENCE.findall(page.read_text("utf-8")) if word == language]


def programs() -> Iterator[object]:
    for page in PAGES:
        for number, body in enumerate(blocks(page, "python"), 1):
            yield pytest.param(body, id=f"{page.name} {number}")


def commands() -> Iterator[tuple[str, str]]:
    """Yield every ``nativeload ...`` line of a page, from its shell blocks and its inline code."""
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = [
            line for language in ("sh", "console") for body in blocks(page, language) for line in body.splitlines()
        ]
        lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
        for line in lines:
            for match in re.finditer(r"(?:^|[\s/])nativeload ((?:[a-z]+)\b[^&|;]*)", line):
                yield page.name, match[1].strip()


def options_of(line: str) -> set[str]:
    """The options of the verb that a line begins with; of its step, where it names one."""
    verb, *words = line.split()
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None, f"there is no verb {verb}"
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(click.Context(command), words[0].split("|")[0])
        assert command is not None, f"{verb} has no {words[0]}"
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def test_the_first_two_shell_blocks_are_one_line_each() -> None:
    """A machine can paste them: the first runs the program, the second runs the tests."""
    first, second, *_ = blocks(ROOT / "README.md", "sh")
    for block in (first, second):
        assert len(block.splitlines()) == 1
        assert not block.startswith("$")
    assert "nativeload run" in first
    assert "pytest" in second


@pytest.mark.parametrize("program", list(programs()))
def test_every_python_program_of_the_pages_runs(program: str, tmp_path: Path) -> None:
    """Pasted into a file, in an empty directory, with warnings shown as Python shows them."""
    path = tmp_path / "example.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_and_option_that_is_documented_exists() -> None:
    """Each ``nativeload VERB --option`` of the pages can be typed."""
    found = list(commands())
    assert {line.split()[0] for _, line in found} >= {"run", "doctor"}
    for page, line in found:
        assert options_of(line), page
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", line):
            assert option in options_of(line), f"{page}: {line}"


def test_every_option_in_the_table_of_options_exists() -> None:
    """A row of docs/options.md names variables, a key and a flag that belong together."""
    keys = {variables[0]: key for variables, key, _ in settings.OPTIONS.values()}
    flags = options_of("resolve")
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("|") and "NATIVELOAD_" in line]
    seen = set()
    for _, variables, key, flag, _ in rows:
        named = re.findall(r"`(NATIVELOAD_\w+)`", variables)
        seen.update(named)
        assert [keys[variable] for variable in named] == re.findall(r"`(\w+)`", key)
        for option in re.findall(r"--[a-z0-9-]+", flag):
            assert option in flags, option
    assert seen == {variable for variable in VARIABLES if variable.startswith("NATIVELOAD_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_is_documented_exists(page: Path) -> None:
    """Each NATIVELOAD_* word of a page is an option's variable, the config file's, or the tests' own."""
    for word in re.findall(r"\bNATIVELOAD_[A-Z0-9_]+", page.read_text("utf-8")):
        assert word in VARIABLES | {"NATIVELOAD_CONFIG"} or word.startswith("NATIVELOAD_TEST_"), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    """Links within the repository lead somewhere."""
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
