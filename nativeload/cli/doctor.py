"""``nativeload doctor``: what has this machine, what is loaded, what is missing?"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

import nativeload
from nativeload.cli.options import config_of, library_argument, library_options
from nativeload.cli.report import console, print_json, trace
from nativeload.errors import LoadError, NativeLoadError
from nativeload.value import Value

if TYPE_CHECKING:
    from rich.console import Console

    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.loading import LoadedLibrary
    from nativeload.resolve.resolution import Resolution

_RUNTIMES = ("libcu", "libnv", "libamdhip", "libroc", "libhip", "libvulkan")
"""Libraries of GPU runtimes: where one is missing, those that were found are named as well."""


@click.command("doctor")
@library_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; its host can be given to `plan --host`.")
@click.option("--probe-again", is_flag=True, help="Forget the kept verdicts of earlier probes first.")
@library_options
def command(library: str, *, as_json: bool, probe_again: bool, **said: Any) -> None:
    """Say what this machine has, load the library, and name what is missing. Exit status 1: it does not load."""
    config = config_of(library, said).settled()
    if probe_again:
        _forget(config)
    findings = _examine(config)
    if as_json:
        print_json(_report(findings))
    else:
        _print(findings)
    sys.exit(0 if findings.loaded else 1)


class _Findings(Value, kw_only=True):
    """What the examination found; ``error`` is why the library does not load."""

    host: Host
    loaded: LoadedLibrary | None
    resolution: Resolution | None
    error: str | None
    warnings: tuple[str, ...]
    wants: list[dict[str, Any]]
    packages: list[dict[str, Any]]


def _examine(config: NativeLibraryConfig) -> _Findings:
    from nativeload.host import Host
    from nativeload.resolve.installed import unaccepted

    loaded, resolution, error, notes = _load(config)
    return _Findings(
        host=Host.detect(brand=True),
        loaded=loaded,
        resolution=resolution,
        error=error,
        warnings=tuple(notes),
        wants=[item for path in _files(config, resolution) for item in _wants(path)],
        packages=[decision.to_dict() for decision in unaccepted(config.packages or ())],
    )


def _forget(config: NativeLibraryConfig) -> None:
    from nativeload.cache import LibraryCache, default_root

    count = LibraryCache(config.cache_dir or default_root()).forget("probes")
    click.echo(f"forgot {count} probe verdicts", err=True)


def _load(
    config: NativeLibraryConfig,
) -> tuple[LoadedLibrary | None, Resolution | None, str | None, list[str]]:
    """Load as a program would; an error is a finding here, and a warning a note."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if config.library == "llama":
                from nativeload_llama.library import open_library

                loaded = open_library(config).loaded
            else:
                loaded = config.load()
        except NativeLoadError as error:
            return None, getattr(error, "resolution", None), str(error), []
    return loaded, loaded.resolution, None, [str(item.message) for item in caught]


def _files(config: NativeLibraryConfig, resolution: Resolution | None) -> list[str]:
    """Return the files to look into: all of a directory that was named, else those of the chosen set."""
    if config.path is not None and os.path.isdir(config.path):
        try:
            names = sorted(os.listdir(config.path))
        except OSError:  # the load has said so already
            return []
        return [os.path.join(config.path, name) for name in names if ".so" in name]
    if config.path is not None:
        return [config.path]
    return [file.path for file in resolution.chosen.files] if resolution and resolution.chosen else []


def _wants(path: str) -> list[dict[str, Any]]:
    """Return what one file wants from outside its directory, and where it was found."""
    from nativeload.elf import read_elf
    from nativeload.needs import find_library, missing_libraries, package_of

    try:
        facts = read_elf(path)
        missing = {item.name: item for item in missing_libraries([path])}
    except LoadError as error:
        return [{"name": os.path.basename(path), "wanted_by": path, "found": None, "package": error.reason}]
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys([*facts.needed, *missing]):
        beside = os.path.join(os.path.dirname(path), name)
        if os.path.exists(beside):
            continue
        place = None if name in missing else find_library(name, machine=facts.machine)
        via = missing[name].wanted_by if name in missing else path
        package = missing[name].package if name in missing else package_of(name)
        found.append({"name": name, "wanted_by": via, "found": place, "package": package})
    return found


def _report(findings: _Findings) -> dict[str, Any]:
    return {
        "nativeload": nativeload.__version__,
        "python": sys.version.split()[0],
        "host": findings.host.to_dict(),
        "resolution": findings.resolution.to_dict() if findings.resolution else None,
        "loaded": _loaded(findings.loaded) if findings.loaded else None,
        "error": findings.error,
        "warnings": list(findings.warnings),
        "missing": [item for item in findings.wants if item["found"] is None],
        "wants": findings.wants,
        "packages": findings.packages,
    }


def _loaded(loaded: LoadedLibrary) -> dict[str, Any]:
    facts = {key: loaded.facts.get(key) for key in ("llama_version", "ggml_version", "ggml_commit")}
    return {"path": loaded.path, "devices": [device.to_dict() for device in loaded.devices], **facts}


def _print(findings: _Findings) -> None:
    out = console()
    _print_host(out, findings.host)
    if findings.resolution:
        out.print("\n[bold]resolution[/bold]")
        out.print(trace(findings.resolution))
    _print_wants(out, findings.wants)
    for item in findings.packages:
        out.print(escape(f"package {item['candidate']}: {item['reason']}"), soft_wrap=True)
    for note in findings.warnings:
        out.print(f"[yellow]warning[/yellow] {escape(note)}", soft_wrap=True)
    if findings.loaded:
        words = _loaded(findings.loaded)
        out.print(f"\n[bold]loaded[/bold] {escape(words['path'])}", soft_wrap=True)
        if findings.loaded.facts:
            said = f"llama.cpp {words['llama_version']}, ggml {words['ggml_version']} ({words['ggml_commit']})"
            out.print(escape(f"  {said}"))
        for device in words["devices"]:
            out.print(
                escape(f"  device {device['name']}: {device['description']} ({device['backend']}, {device['kind']})")
            )
    if findings.error:
        out.print(f"\n[red]does not load[/red] {escape(findings.error)}", soft_wrap=True)


def _print_host(out: Console, host: Host) -> None:
    table = Table(
        title=f"nativeload {nativeload.__version__} on {host.platform}",
        show_header=False,
        title_justify="left",
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row(
        "CPU",
        escape(f"{host.cpu.brand or 'unknown'}, {host.cpu.cores} usable cores (from {host.cpu.source})"),
    )
    table.add_row("features", " ".join(sorted(host.cpu.features)) or "baseline")
    if host.libc:
        table.add_row("libc", f"{host.libc.name} {'.'.join(map(str, host.libc.version))}")
    if host.memory:
        table.add_row("memory", f"{host.memory / 2**30:.1f} GiB")
    for gpu in host.gpus:
        table.add_row(str(gpu.backend), escape(gpu.name))
    for note in host.notes:
        table.add_row("note", escape(note))
    out.print(table)


def _print_wants(out: Console, wants: list[dict[str, Any]]) -> None:
    """Name every missing library, and those found for a file that also misses one: a runtime is whole or it is not."""
    lacking = {item["wanted_by"] for item in wants if item["found"] is None}
    if not lacking:
        out.print("no library is missing" if wants else "")
        return
    out.print("\n[bold]missing libraries[/bold]")
    for item in wants:
        wanter = os.path.basename(item["wanted_by"])
        if item["found"] is None:
            hint = f": {item['package']}" if item["package"] else ""
            line = f"[red]missing[/red] {escape(item['name'])}, wanted by {escape(wanter)}{escape(hint)}"
            out.print(f"  {line}", soft_wrap=True)
        elif item["wanted_by"] in lacking and item["name"].startswith(_RUNTIMES):
            line = f"[green]found[/green] {escape(item['name'])}, wanted by {escape(wanter)}: {escape(item['found'])}"
            out.print(f"  {line}", soft_wrap=True)
