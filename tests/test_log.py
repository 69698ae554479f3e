"""Lines go to the callback, else to stdlib logging where the program uses it; nothing is printed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from nativeload import log
from tests.scenarios import STUB_LINUX, WHY_NOT, run, stub_bundle, watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_callback_gets_the_level_and_the_line_and_logging_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """With a callback the line goes there alone, under logging's numbers."""
    lines: list[tuple[int, str]] = []
    with caplog.at_level(logging.DEBUG):
        log.emit(lambda level, line: lines.append((level, line)), "nativeload.llama", log.WARNING, "100 % full")
    assert lines == [(logging.WARNING, "100 % full")]
    assert caplog.records == []


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_without_a_callback_logging_gets_the_line_under_its_logger(
    caplog: pytest.LogCaptureFixture, level: str
) -> None:
    """The logger's name says who spoke; a percent sign in the line is no format."""
    with caplog.at_level(logging.DEBUG):
        log.emit(None, "nativeload.llama", getattr(log, level), "100 %s full")
    assert caplog.record_tuples == [("nativeload.llama", getattr(logging, level), "100 %s full")]


def test_logging_is_not_imported_for_a_line() -> None:
    """A program without logging has no handler, and does not pay for the import."""
    code = """
    import subprocess
    bare = "import sys; from nativeload import log; log.emit(None, 'x', 40, 'x'); print('logging' in sys.modules)"
    say(subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True).stdout.strip())
    """
    assert run(code) == "False"


def test_a_program_that_imported_logging_and_set_it_up_nowhere_sees_nothing() -> None:
    """logging's last resort would print errors to stderr: it is not reached."""
    ended = watch("import logging; from nativeload import log; log.emit(None, 'nativeload.llama', 40, 'x'); say(1)")
    assert (ended.stdout, ended.stderr) == ("", "")


@pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)
def test_a_load_says_what_it_opened(build: Callable[..., Path], tmp_path: Path) -> None:
    """One line at INFO names the library and the set, to the callback and through logging alike."""
    code = """
    from nativeload import NativeLibraryConfig
    import logging
    lines = []
    class Keep(logging.Handler):
        def emit(self, record):
            lines.append([record.levelno, record.getMessage()])
    logging.getLogger("nativeload").addHandler(Keep())
    logging.getLogger("nativeload").setLevel(logging.DEBUG)
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
    if os.environ["HOW"] == "callback":
        config = config.with_log_callback(lambda level, line: lines.append([level, line]))
    config.load()
    say(lines)
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    expected = [[logging.INFO, f"loaded llama from {bundle} [x64]"]]
    assert run(code, LIBRARY=bundle, HOW="callback") == expected
    assert run(code, LIBRARY=bundle, HOW="logging") == expected
