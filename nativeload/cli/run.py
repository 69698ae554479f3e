"""``nativeload run``: text from a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nativeload.cli.models import drawing_options, model_options, open_model
from nativeload.cli.options import library_options

if TYPE_CHECKING:
    from nativeload_llama import Llama

_FIRST_PROMPT = "Once upon a time"


@click.command("run")
@click.argument("prompt", required=False)
@model_options
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens at most.")
@drawing_options
@click.option("--echo/--no-echo", default=True, help="Print the prompt before its continuation.")
@click.option("--verbose", is_flag=True, help="Say on stderr how fast it went.")
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
    gpu_layers: int | None,
    echo: bool,
    verbose: bool,
    **said: Any,
) -> None:
    """Continue PROMPT ('-' reads it from stdin); what was chosen and from where is said on stderr."""
    text = _prompt(prompt, model)
    with open_model(
        model, threads=threads, n_ctx=n_ctx, gpu_layers=gpu_layers, said=said, no_perf=not verbose
    ) as llama:
        pieces = llama.stream(text, max_tokens=max_tokens, temperature=temperature, seed=seed)
        _stream(text if echo else "", pieces)
        if verbose:
            _say_speed(llama)


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


def _say_speed(llama: Llama) -> None:
    """Say how long the prompt and the text took, as llama.cpp measured it."""
    speed = llama.speed()
    for what, count, milliseconds in (
        ("prompt", speed.n_p_eval, speed.t_p_eval_ms),
        ("text", speed.n_eval, speed.t_eval_ms),
    ):
        rate = f", {1000 * count / milliseconds:.1f} tokens/s" if milliseconds else ""
        click.echo(f"{what}: {count} tokens in {milliseconds:.1f} ms{rate}", err=True)
    click.echo(f"load: {speed.t_load_ms:.1f} ms", err=True)
