"""What do the verbs that open a model share: the options that say which, and how it is opened and announced?

One rule: talk goes to stderr, and a model of a Hub is named ``hf:owner/repo/file.gguf``.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from nativeload.cli.options import config_of
from nativeload.cli.report import summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from nativeload_llama import Llama

MODEL_HINT = "Give a GGUF file or hf:OWNER/REPO/FILE with --model, or leave it out for the bundled story model."


def _finite(_: click.Context, parameter: click.Parameter, value: float) -> float:
    if not value < math.inf:
        raise click.BadParameter(f"{value} is not a finite number.", param=parameter)
    return value


_OPENING = (
    click.option("--model", help="A GGUF file, or hf:OWNER/REPO/FILE[@REVISION] (default: the bundled story model)."),
    click.option("--threads", type=click.IntRange(1, 512), help="CPU threads (default: half of the usable cores)."),
    click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Tokens the context holds."),
    click.option(
        "--gpu-layers", type=click.IntRange(min=-1), help="Layers to keep on GPUs; -1 is all (default: what fits)."
    ),
)
_DRAWING = (
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        default=0.8,
        show_default=True,
        help="0 is greedy.",
        callback=_finite,
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 2), help="The same seed gives the same text."),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which model, and how it is opened: model, threads, n_ctx, gpu_layers."""
    for option in reversed(_OPENING):
        command = option(command)
    return command


def drawing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how tokens are drawn: temperature, seed."""
    for option in reversed(_DRAWING):
        command = option(command)
    return command


def model_path(model: str | None) -> str:
    """Return the path of a model, fetched first where a Hub has it."""
    from nativeload_llama import bundled_model

    if model is None:
        return bundled_model()
    if not model.startswith("hf:"):
        return model
    from nativeload_llama.pretrained import fetch, parse_hf

    repo, filename, revision = parse_hf(model)
    return fetch(repo, filename, revision=revision)


def open_model(
    model: str | None,
    *,
    threads: int | None,
    n_ctx: int | None,
    gpu_layers: int | None,
    said: dict[str, Any],
    **more: Any,
) -> Llama:
    """Open a model and say on stderr which library serves it, and from where."""
    from nativeload_llama import Llama, ModelError

    path = model_path(model)
    try:
        llama = Llama(
            path,
            config=config_of("llama", said),
            n_ctx=n_ctx,
            n_threads=threads,
            n_gpu_layers="auto" if gpu_layers is None else gpu_layers,
            **more,
        )
    except ModelError as error:
        raise error if error.hint else ModelError(error.path, error.reason, hint=MODEL_HINT) from error
    devices = ", ".join(device.name for device in llama.library.devices)
    click.echo(f"{summary(llama.library.resolution)}, on {devices}", err=True)
    click.echo(f"model: {os.path.basename(path)} ({llama.description})", err=True)
    return llama
