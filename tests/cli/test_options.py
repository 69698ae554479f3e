"""The words of the command line: helps, options, their environment variables, and wrong words."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import nativeload
from nativeload import settings
from nativeload.cli import cli
from nativeload.cli.options import _OPTIONS, _SWITCHES
from nativeload.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

VERBS = ("run", "chat", "gguf", "bench", "resolve", "plan", "doctor", "prefetch", "import", "cache", "publish")
LOADING = ("run", "chat", "resolve", "plan", "doctor")
REPORTING = ("resolve", "plan", "doctor")
VARIABLES = {option: settings.OPTIONS[field][0][0] for option, (field, _) in {**_OPTIONS, **_SWITCHES}.items()}


def invoke(*arguments: str, **environment: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(cli, list(arguments), env=dict(environment))
    return result.exit_code, result.output, result.exception


def help_of(verb: str) -> str:
    status, text, _ = invoke(verb, "--help")
    assert status == 0
    return " ".join(text.split())


# -- help ----------------------------------------------------------------------------------------------------------


def test_the_first_help_names_every_verb() -> None:
    """``nativeload``, ``-h`` and ``--help`` list the verbs with one line each."""
    status, text, _ = invoke("--help")
    assert status == 0
    assert invoke("-h")[1] == text
    assert re.findall(r"^  (\w+)  +\w", text.partition("Commands:")[2], re.MULTILINE) == list(VERBS)


@pytest.mark.parametrize("verb", LOADING)
def test_every_library_option_is_shown_with_its_variable(verb: str) -> None:
    """The environment variable that says the same stands behind the option's help."""
    text = help_of(verb)
    for option, variable in VARIABLES.items():
        shown = " / ".join(option.split("/"))
        assert re.search(rf"{re.escape(shown)} .*?\[{variable}\]", text), option


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb: str) -> None:
    """No option is shown without a word about it."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    steps = [command]
    if isinstance(command, click.Group):
        named = [
            command.get_command(click.Context(command), name) for name in command.list_commands(click.Context(command))
        ]
        steps += [step for step in named if step is not None]
        assert len(steps) == len(named) + 1
    for parameter in [each for step in steps for each in step.params]:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("verb", REPORTING)
def test_all_that_report_can_report_as_json(verb: str) -> None:
    """--json is an option of each of them."""
    assert "--json" in help_of(verb)


@pytest.mark.parametrize("start", [["-m", "nativeload"], ["-c", "from nativeload.cli import main; main()"]])
def test_version(start: list[str]) -> None:
    """``python -m nativeload`` and the console script are one program."""
    done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"nativeload, version {nativeload.__version__}\n")


def test_an_unknown_verb_is_a_usage_error() -> None:
    """Exit status 2, the word named."""
    status, text, _ = invoke("reslove")
    assert status == 2
    assert "reslove" in text


@pytest.mark.parametrize("verb", REPORTING)
def test_an_unknown_library_is_a_usage_error(verb: str) -> None:
    """The three that there are stand in the message."""
    status, text, _ = invoke(verb, "lama")
    assert status == 2
    assert "llama" in text
    assert "whisper" in text


# -- words ---------------------------------------------------------------------------------------------------------

WRONG = {
    "--sha256": "abc",
    "--backend": "cudda",
    "--cpu": "zen99",
    "--package": "not a name!",
    "--path": "",
    "--pin": "b11146",
    "--repo": "a/b/c",
    "--commit": "main",
    "--endpoint": "ftp://mirror",
    "--timeout": "soon",
}


@pytest.mark.parametrize("verb", REPORTING)
@pytest.mark.parametrize(("option", "word"), list(WRONG.items()))
def test_a_wrong_word_names_the_option(verb: str, option: str, word: str) -> None:
    """ConfigError carries the option as it was typed."""
    _, _, error = invoke(verb, option, word)
    assert isinstance(error, ConfigError)
    assert error.option == option
    assert word in str(error)


@pytest.mark.parametrize(("option", "word"), [item for item in WRONG.items() if item[1]])
def test_a_wrong_word_in_the_environment_names_the_variable(option: str, word: str) -> None:
    """The same word in the variable is refused in the same words, naming the variable."""
    _, _, by_flag = invoke("plan", option, word)
    _, _, by_variable = invoke("plan", **{VARIABLES[option]: word})
    assert isinstance(by_flag, ConfigError)
    assert isinstance(by_variable, ConfigError)
    assert by_variable.option == VARIABLES[option]
    assert str(by_variable).replace(VARIABLES[option], option) == str(by_flag)


def test_a_wrong_word_ends_with_status_2() -> None:
    """As a process: exit status 2, one line and its hint on stderr, nothing on stdout."""
    command = [sys.executable, "-m", "nativeload", "resolve", "--cpu", "zen99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --cpu: ")


def test_flag_and_variable_say_the_same(tmp_path: Path) -> None:
    """Every option with a word of its own gives the same plan as a flag and as a variable."""
    words = {
        "--path": str(tmp_path),
        "--backend": "cuda,vulkan=off",
        "--cpu": "avx2",
        "--package": "xllamacpp",
        "--search-directory": str(tmp_path),
        "--cache": str(tmp_path),
        "--python": f"{sys.executable} -I",
    }
    for option, word in words.items():
        by_flag, by_variable = (
            invoke("plan", "--json", option, word),
            invoke("plan", "--json", **{VARIABLES[option]: word}),
        )
        assert by_flag[:2] == by_variable[:2], option
        assert str(by_flag[2]) == str(by_variable[2]), option


@pytest.mark.parametrize(
    ("flag", "variable", "word"),
    [
        ("--fallback", "NATIVELOAD_AUTO_FALLBACK", "on"),
        ("--no-fallback", "NATIVELOAD_AUTO_FALLBACK", "off"),
        ("--skip-check", "NATIVELOAD_SKIP_CHECK", "1"),
        ("--no-skip-check", "NATIVELOAD_SKIP_CHECK", "0"),
        ("--allow-unverified", "NATIVELOAD_ALLOW_UNVERIFIED", "1"),
        ("--no-allow-unverified", "NATIVELOAD_ALLOW_UNVERIFIED", "0"),
    ],
)
def test_switch_and_variable_say_the_same(flag: str, variable: str, word: str) -> None:
    """A switch is a flag and its opposite; the variable takes a word."""
    assert invoke("plan", "--json", flag)[:2] == invoke("plan", "--json", **{variable: word})[:2]


def test_the_flag_wins_over_the_variable(tmp_path: Path) -> None:
    """What the command line says is used; the variable is the one thing said less loudly."""
    said, overruled = tmp_path / "said", tmp_path / "overruled"
    said.mkdir()
    overruled.mkdir()
    result = invoke("plan", "--explain", "--path", str(said), NATIVELOAD_PATH=str(overruled))
    text = result[1] + str(result[2])
    assert str(said) in text
    assert str(overruled) not in text
