"""``nativeload chat``: a conversation with a model."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nativeload.cli.models import drawing_options, model_options, open_model
from nativeload.cli.options import library_options

if TYPE_CHECKING:
    from nativeload_llama import Llama

_HELP = """\
/save FILE    write the conversation
/load FILE    go on with one that was written
/system TEXT  begin anew with this system message
/clear        begin anew
/quit         end (Ctrl-D does too)
Ctrl-C stops an answer."""


@click.command("chat")
@model_options
@click.option("--system", help="A system message to begin with.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens of one answer at most (default: no limit).")
@drawing_options
@library_options
def command(
    *,
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    seed: int | None,
    threads: int | None,
    n_ctx: int | None,
    gpu_layers: int | None,
    **said: Any,
) -> None:
    """Talk with a model; /help says what else can be typed.

    Lines may also come from a file or a pipe: each one is answered.
    """
    from nativeload_llama import LlamaError

    with open_model(model, threads=threads, n_ctx=n_ctx, gpu_layers=gpu_layers, said=said) as llama:
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        chat = Chat(llama, system, options)
        with _history():
            while (line := _line()) is not None:
                try:
                    if not chat.take(line):
                        return
                except LlamaError as error:  # a conversation outlives a line that is too long; a script does not
                    if not _terminal():
                        raise
                    click.echo(f"error: {error}", err=True)


class Chat:
    """One conversation.

    Args:
        llama: the model.
        system: a system message, or None.
        options: of every answer.
    """

    def __init__(self, llama: Llama, system: str | None, options: dict[str, Any]) -> None:
        self._llama, self._options = llama, options
        self._messages: list[dict[str, str]] = []
        self._begin(system)

    def _begin(self, system: str | None) -> None:
        self._system = system
        self._messages = [{"role": "system", "content": system}] if system else []

    def take(self, line: str) -> bool:
        """Answer a line, or do what it commands; return whether to go on."""
        text = line.strip()
        if text.startswith("/"):
            return self._command(*text.partition(" ")[::2])
        if text:
            self._answer(text)
        return True

    def _command(self, word: str, rest: str) -> bool:
        rest = rest.strip()
        if word in {"/quit", "/exit"}:
            return False
        if word == "/clear":
            self._begin(self._system)
        elif word == "/system":
            self._begin(rest or None)
        elif word == "/save":
            self._save(rest)
        elif word == "/load":
            self._load(rest)
        else:
            click.echo(_HELP if word == "/help" else f"There is no {word}.\n{_HELP}", err=True)
        return True

    def _answer(self, text: str) -> None:
        """Write an answer; Ctrl-C stops it, and what was written stays in the conversation."""
        self._messages.append({"role": "user", "content": text})
        written: list[str] = []
        try:
            for chunk in self._chunks():
                piece = str(chunk)
                written.append(piece)
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            click.echo(" [stopped]", nl=False, err=True)
        except BaseException:
            self._messages.pop()  # a question without an answer would stand before the next one
            raise
        click.echo()
        self._messages.append({"role": "assistant", "content": "".join(written)})

    def _chunks(self) -> Any:
        """Begin an answer; where the conversation does not fit any more, its oldest exchange is left out."""
        from nativeload_llama import PromptTooLongError

        while True:
            try:
                return self._llama.create_chat_completion(self._messages, stream=True, **self._options)
            except PromptTooLongError:
                first = 1 if self._system else 0
                if len(self._messages) < first + 3:
                    raise
                del self._messages[first : first + 2]
                click.echo("[the context is full: the oldest exchange is left out]", err=True)

    def _save(self, path: str) -> None:
        if not path:
            click.echo("/save needs a FILE.", err=True)
            return
        try:
            with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
                json.dump({"messages": self._messages}, file, ensure_ascii=False, indent=1)
        except OSError as error:
            click.echo(f"{path}: {error.strerror or error}", err=True)
        else:
            click.echo(f"[{len(self._messages)} messages are in {path}]", err=True)

    def _load(self, path: str) -> None:
        if not path:
            click.echo("/load needs a FILE.", err=True)
            return
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                messages = _checked(json.load(file))
        except OSError as error:
            click.echo(f"{path}: {error.strerror or error}", err=True)
        except ValueError as error:
            click.echo(f"{path}: not a saved conversation: {error}", err=True)
        else:
            self._messages = messages
            self._system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
            click.echo(f"[{len(messages)} messages]", err=True)


def _checked(saved: object) -> list[dict[str, str]]:
    """Return the messages of a saved conversation.

    Raises:
        ValueError: it is none.
    """
    messages = saved.get("messages") if isinstance(saved, dict) else None
    if not isinstance(messages, list):
        raise ValueError("no messages")  # noqa: TRY004 - it was read from a file
    for message in messages:
        if not (isinstance(message, dict) and set(message) == {"role", "content"}):
            raise ValueError("a message without role and content")
        if not all(isinstance(value, str) for value in message.values()):
            raise ValueError("a message that is not text")
    return messages


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _line() -> str | None:
    """Read a line, or None at the end; Ctrl-C drops what was typed, or ends what is no terminal."""
    terminal = _terminal()
    while True:
        try:
            if terminal:
                return input("> ")
            line = sys.stdin.readline() if sys.stdin is not None else ""
        except KeyboardInterrupt:
            if not terminal:
                sys.exit(130)
            click.echo(" (Ctrl-D ends)", err=True)
        except EOFError:
            click.echo()
            return None
        else:
            return line or None


@contextlib.contextmanager
def _history() -> Any:
    """Let a terminal's lines be edited and recalled, also in the next conversation."""
    if not _terminal():
        yield
        return
    import platformdirs

    try:
        import readline
    except ImportError:  # Windows' Python has none, and its console edits lines itself
        yield
        return
    folder = platformdirs.user_state_dir("nativeload", appauthor=False)
    path = os.path.join(folder, "chat_history")
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(path)
            os.chmod(path, 0o600)
        except OSError as error:
            click.echo(f"warning: the lines typed are not kept: {error}", err=True)
