"""``nativeload run``: text from a model."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import click

from nativeload.cli.options import config_of, library_options
from nativeload.cli.report import summary

_MODEL_HINT = "Give a GGUF file with --model, or leave it out for the bundled story model."
_FIRST_PROMPT = "Once upon a time"


def _finite(_: click.Context, parameter: click.Parameter, value: float) -> float:
    if not value < math.inf:
        raise click.BadParameter(f"{value} is not a finite number.", param=parameter)
    return value


@click.command("run")
@click.argument("prompt", required=False)
@click.option("--model", type=click.Path(), help="A GGUF file (default: the bundled story model).")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens at most.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True, help="0 is greedy.", callback=_finite
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), help="The same seed gives the same text.")
@click.option("--threads", type=click.IntRange(1, 512), help="CPU threads (default: half of the usable cores).")
@click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Tokens the context holds.")
@click.option("--echo/--no-echo", default=True, help="Print the prompt before its continuation.")
@library_options
def command(
    *,
    prompt: str | None,
    model: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    threads: int | None,
    n_ctx: int | None,
    echo: bool,
    **said: Any,
) -> None:
    """Continue PROMPT ('-' reads it from stdin); what was chosen and from where is said on stderr."""
    from nativeload_llama import Llama, ModelError, bundled_model

    text = _prompt(prompt, model)
    config = config_of("llama", said)
    try:
        llama = Llama(model or bundled_model(), config=config, n_ctx=n_ctx, n_threads=threads)
    except ModelError as error:
        raise error if error.hint else ModelError(error.path, error.reason, hint=_MODEL_HINT) from error
    with llama:
        devices = ", ".join(device.name for device in llama.library.devices)
        click.echo(f"{summary(llama.library.resolution)}, on {devices}", err=True)
        click.echo(f"model: {os.path.basename(model or bundled_model())} ({llama.description})", err=True)
        _stream(
            text if echo else "",
            llama.stream(text, max_tokens=max_tokens, temperature=temperature, seed=seed),
        )


def _prompt(prompt: str | None, model: str | None) -> str:
    if prompt == "-":
        if sys.stdin is None:
            raise click.UsageError("There is no stdin to read the prompt from.")
        try:
            return sys.stdin.read()
        except KeyboardInterrupt:
            sys.exit(130)
    if prompt is None and model is not None:
        raise click.UsageError("Give a PROMPT for this model ('-' reads it from stdin).")
    return _FIRST_PROMPT if prompt is None else prompt


def _stream(first: str, pieces: Any) -> None:
    """Write pieces as they come; a reader that goes away ends the run quietly, as does Ctrl-C."""
    try:
        click.echo(first, nl=False)
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        click.echo()
        sys.exit(130)
