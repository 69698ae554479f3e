"""``nativeload bench``: which library, CPU backend and device is the fastest here?

One rule: each candidate runs in a process of its own, as a program would use it, and the machine's noise is met with
the median of several rounds that take turns.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress
from rich.table import Table

from nativeload import settings
from nativeload.cli.models import model_path
from nativeload.cli.options import config_of, some_library_options
from nativeload.cli.report import console, print_json
from nativeload.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nativeload.resolve.resolution import LibrarySet

_TIMEOUT = 600.0  # seconds for one candidate and round
_BOOT = "import sys; sys.path[:0] = sys.argv[1:]; from nativeload.cli.bench_child import main; main()"


class Candidate(Value):
    """One set on one kind of device; ``path`` is what names it alone: its directory, or the library itself."""

    name: str
    origin: str
    path: str
    source: str
    variant: str
    cpu: str | None
    gpu: str | None
    gpu_layers: int

    @property
    def label(self) -> str:
        """What it is, for people."""
        where = f" ({self.gpu})" if self.gpu and self.gpu_layers else " (on the CPU)" if self.gpu else ""
        return f"{self.variant}, {os.path.basename(self.origin)}{where}"


class Measured(Value):
    """What came of a candidate: tokens a second, or the reason why not."""

    candidate: Candidate
    prompt: float = 0.0
    text: float = 0.0
    failed: str = ""


@click.command("bench")
@click.option("--model", help="A GGUF file, or hf:OWNER/REPO/FILE (default: the bundled story model).")
@click.option("--threads", type=click.IntRange(1, 512), help="CPU threads (default: half of the usable cores).")
@click.option(
    "--prompt", "n_prompt", type=click.IntRange(1, 65536), default=256, show_default=True, help="Prompt tokens."
)
@click.option("--tokens", "n_text", type=click.IntRange(1, 65536), default=64, show_default=True, help="Text tokens.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How often each is measured.")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Write a chart to this SVG file.")
@click.option("--pin", "remember", is_flag=True, help="Use the fastest from now on: write it to the config file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@some_library_options(*(field for field in settings.OPTIONS if field != "pin"))
def command(
    *,
    model: str | None,
    threads: int | None,
    n_prompt: int,
    n_text: int,
    rounds: int,
    plot: str | None,
    remember: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Measure prompt and text speed of every library, CPU backend and device that this machine can use."""
    if plot is not None and not os.path.isdir(os.path.dirname(os.path.abspath(plot))):
        raise click.FileError(plot, "there is no such directory")  # said before minutes of measuring, not after
    job = {"model": os.path.abspath(model_path(model)), "threads": threads, "n_prompt": n_prompt, "n_text": n_text}
    found = candidates(said)
    _say_limits(said)
    measured = sorted(_measure_all(found, said, job, rounds), key=lambda one: (-one.text, one.failed))
    if as_json:
        print_json([_row(one) for one in measured])
    else:
        console().print(_table(measured, job))
    if plot is not None:
        _draw(plot, measured)
    if remember:
        _remember(measured, said)
    if all(one.failed for one in measured):
        sys.exit(1)


def candidates(said: dict[str, Any]) -> list[Candidate]:
    """List what this machine can use, best first by nativeload's own ranking."""
    from nativeload.resolve import shortlist

    sets = [one for one in shortlist(config_of("llama", said).settled()).sets if one.source != "download"]
    found = [_candidate(one, layers) for one in sets for layers in ((-1, 0) if one.gpu else (0,))]
    unique = {(one.origin, one.cpu, one.gpu if one.gpu_layers else None): one for one in reversed(found)}
    return list(reversed(unique.values()))


def _candidate(chosen: LibrarySet, layers: int) -> Candidate:
    cpu = chosen.cpu.label if chosen.cpu else None
    path = chosen.main.path if cpu is None else chosen.directory  # a split build is named as a whole
    return Candidate(str(chosen), chosen.origin, path, str(chosen.source), chosen.variant, cpu, chosen.gpu, layers)


def _say_limits(said: dict[str, Any]) -> None:
    """Say what was not measured because the environment or the config file (so an earlier --pin) leaves it out."""
    config = config_of("llama", said).settled()
    limits = [f"{key} = {value}" for key, value in (("path", config.path), ("cpu", config.cpu)) if value]
    if limits and not (said.get("path") or said.get("cpu")):
        words = " and ".join(limits)
        click.echo(f"only what {words} allows is measured: the environment or the config file says so", err=True)


def _measure_all(
    found: Sequence[Candidate], said: dict[str, Any], job: dict[str, Any], rounds: int
) -> Iterable[Measured]:
    speeds: dict[Candidate, list[dict[str, float]]] = {one: [] for one in found}
    failed: dict[Candidate, str] = {}
    from rich.console import Console

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(found) * rounds)
        for _ in range(rounds):
            for one in found:
                progress.update(task, description=one.label)
                if one not in failed:
                    answer = _ask(one, said, job)
                    if isinstance(answer, str):
                        failed[one] = answer
                    else:
                        speeds[one].append(answer)
                progress.advance(task)
    for one in found:
        if one in failed:
            yield Measured(one, failed=failed[one])
        else:
            prompt, text = (statistics.median(each[key] for each in speeds[one]) for key in ("prompt", "text"))
            yield Measured(one, prompt, text)


def _ask(one: Candidate, said: dict[str, Any], job: dict[str, Any]) -> dict[str, float] | str:
    """Measure one candidate in a child; return its speeds, or how the child ended."""
    from nativeload.child import ask

    request = json.dumps({**job, "said": said, "name": one.name, "gpu_layers": one.gpu_layers})
    command = [sys.executable, "-c", _BOOT, *(path for path in sys.path if path)]
    ended = ask(command, request.encode(), os.environ, seconds=_TIMEOUT)
    if ended.code == 0:
        answer: dict[str, float] = json.loads(ended.stdout)
        return answer
    if ended.code is None:
        return f"not finished after {_TIMEOUT:.0f} s"
    if ended.code < 0:
        return f"ended by {signal.Signals(-ended.code).name}"
    return (ended.stderr.decode("utf-8", "replace").strip().splitlines() or ["failed and did not say why"])[-1]


def _row(one: Measured) -> dict[str, Any]:
    item = one.candidate
    return {
        "variant": item.variant,
        "origin": item.origin,
        "source": item.source,
        "cpu": item.cpu,
        "gpu": item.gpu if item.gpu_layers else None,
        "prompt_tokens_per_second": round(one.prompt, 2) or None,
        "text_tokens_per_second": round(one.text, 2) or None,
        "failed": one.failed or None,
    }


def _table(measured: Sequence[Measured], job: dict[str, Any]) -> Table:
    threads = "1 thread" if job["threads"] == 1 else f"{job['threads'] or 'the usual'} threads"
    table = Table(title=f"{os.path.basename(job['model'])}, {threads}", title_justify="left")
    for head, side in (("library", "left"), ("prompt t/s", "right"), ("text t/s", "right"), ("of the best", "right")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    best = measured[0].text if measured else 0.0
    for one in measured:
        if one.failed:
            table.add_row(one.candidate.label, "", "", one.failed)
        else:
            table.add_row(one.candidate.label, f"{one.prompt:.1f}", f"{one.text:.1f}", f"{one.text / best:.0%}")
    return table


def _draw(plot: str, measured: Sequence[Measured]) -> None:
    from nativeload.cli.bars import bars

    try:
        with open(plot, "w", encoding="utf-8") as file:
            file.write(bars([(one.candidate.label, one.prompt, one.text) for one in measured if not one.failed]))
    except OSError as error:
        raise click.FileError(plot, error.strerror or str(error)) from error
    click.echo(f"the chart is in {plot}", err=True)


def _remember(measured: Sequence[Measured], said: dict[str, Any]) -> None:
    """Write what chooses the fastest candidate to the config file."""
    from nativeload.cli.config_file import write

    best = next((one.candidate for one in measured if not one.failed), None)
    if best is None:
        raise click.ClickException("nothing could be measured, so there is nothing to remember")
    values: dict[str, str] = {}
    if best.cpu is not None:
        values["cpu"] = best.cpu
    if any(one.candidate.gpu for one in measured):
        values["backend"] = best.gpu if best.gpu and best.gpu_layers else "cpu"
    if said.get("path"):
        values["path"] = os.path.abspath(os.path.expanduser(str(said["path"])))
    elif not _is_chosen(best, values):
        values["path"] = best.path
    if not values:
        click.echo(f"{best.label} is what is used anyway: there is nothing to choose", err=True)
        return
    path = write(values)
    click.echo(f"{', '.join(f'{key} = {value}' for key, value in values.items())}: written to {path}", err=True)


def _is_chosen(best: Candidate, values: dict[str, str]) -> bool:
    """Return whether a library is the one that a program gets with these words in the config file, and no option."""
    from nativeload.resolve import shortlist

    sets = shortlist(config_of("llama", dict(values)).settled()).sets
    return bool(sets) and _candidate(sets[0], best.gpu_layers).path == best.path
