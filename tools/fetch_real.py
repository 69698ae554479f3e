"""Fetch the real published binaries that the tests marked real_bundle read.

    python tools/fetch_real.py DIR [--only NAME]

One rule: a file counts when its digest is the one pinned here, a folder when it was renamed into place whole.
npm and pip fetch everything, from wherever they are configured to. What is in place is not fetched again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One published file: how it is asked for, which bytes it must be, and where it goes.

    Attributes:
        name: for ``--only``, and the folder it is unpacked to.
        client: ``npm``, ``wheel``, ``sdist``, or ``installed``: wheels installed together into one folder.
        spec: what the client is asked for; several wheels stand side by side.
        integrity: ``<algorithm>-<base64 of the digest>``, as npm writes it; several in the same order.
        python: the Python version whose wheel is meant, where that is part of the file's name.
    """

    name: str
    client: str
    spec: str
    integrity: str
    python: str = "3.11"

    @property
    def place(self) -> str:
        """The result, relative to DIR: a folder, or the archive itself for a source distribution."""
        return f"sdists/{self.name.removeprefix('sdist-')}.tar.gz" if self.client == "sdist" else self.name


def _sha256(hexadecimal: str) -> str:
    return "sha256-" + base64.b64encode(bytes.fromhex(hexadecimal)).decode()


WANTED = (
    Wanted(
        name="node-llama-cpp-linux-x64",
        client="npm",
        spec="@node-llama-cpp/linux-x64@3.22.1",
        integrity="sha512-5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==",
    ),
    Wanted(
        name="node-llama-cpp-linux-x64-cuda",
        client="npm",
        spec="@node-llama-cpp/linux-x64-cuda@3.22.1",
        integrity="sha512-8rQCjyNNLZJUFit+YpjwlC4hwkKgOMIkB2wuycKBf8NU2O3ySKbiWZQ8aw9ku2nUTXjSnUIrE6KB88itduTBuA==",
    ),
    Wanted(
        name="node-llama-cpp-linux-arm64",
        client="npm",
        spec="@node-llama-cpp/linux-arm64@3.22.1",
        integrity="sha512-W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==",
    ),
    Wanted(
        name="node-llama-cpp-linux-x64-vulkan",
        client="npm",
        spec="@node-llama-cpp/linux-x64-vulkan@3.22.1",
        integrity="sha512-bBxqU+JOcBu1nb5Qj2zcMci+JByT1E8EajHvYodyNfVIPkEhXh+/HMwR1/BT7xP08YK0hks+kM8fglER0P8JEg==",
    ),
    Wanted(
        name="node-llama-cpp-linux-x64-cuda-ext",
        client="npm",
        spec="@node-llama-cpp/linux-x64-cuda-ext@3.22.1",
        integrity="sha512-4e5ajkiM2aR2WAdB/N/ACk4weEhHvOAIrzxZPsIX0xDFW5+6hhShuy1/vs88SK9NGdgAco9IyE28eYS0H1efpA==",
    ),
    Wanted(
        name="node-llama-cpp-win-x64",
        client="npm",
        spec="@node-llama-cpp/win-x64@3.21.1",
        integrity="sha512-JcIpCnra7bAd7JNWA8ehdn2DIRaTMuj+fBC8bw+5rKSNzszWFbuj2XA05c5QHovonDMBLN1ePXE/hcfZtzXoUQ==",
    ),
    Wanted(
        name="node-llama-cpp-win-x64-cuda",
        client="npm",
        spec="@node-llama-cpp/win-x64-cuda@3.21.1",
        integrity="sha512-PLz70neFEMkQTlmJqG1ujUtCSgHasLPMxQ9rLkqQVmZYAXqkRj+45TIHCjdn3XqUeaoun0vrO9rRaxZ8NVq9jg==",
    ),
    Wanted(
        name="node-llama-cpp-mac-arm64-metal",
        client="npm",
        spec="@node-llama-cpp/mac-arm64-metal@3.21.1",
        integrity="sha512-6MIDAZV7DXD9R1+jEXWJkFuolni3GATGE6mmuyFYc6ZmtOh9djAy15df0T0AXK3sCmVKL+fQcOAWZezxx4MvQQ==",
    ),
    Wanted(
        name="xllamacpp-2026.8.10566",
        client="wheel",
        spec="xllamacpp==2026.8.10566",
        integrity=_sha256("39ffbf01f979dd90b35397261429c4e7c720f79fd37124d58927f4c152453ca0"),
    ),
    Wanted(
        name="xllamacpp-2026.9.11063",
        client="wheel",
        spec="xllamacpp==2026.9.11063",
        integrity=_sha256("329ac1478b66be40d8338d15272bcd9aebfe09834ca4daf7813cc2c8c1bdad90"),
    ),
    Wanted(
        name="xllamacpp-2026.10.11549",
        client="wheel",
        spec="xllamacpp==2026.10.11549",
        integrity=_sha256("c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261"),
    ),
    Wanted(
        name="pywhispercpp-1.5.1",
        client="wheel",
        spec="pywhispercpp==1.5.1",
        integrity=_sha256("a70839d9a1f569e1e5424f27ed01a32133d658beae4cd1459eb39de1e0483bba"),
    ),
    Wanted(
        name="sdist-xllamacpp-2026.9.11063",
        client="sdist",
        spec="xllamacpp==2026.9.11063",
        integrity=_sha256("37ad3d0389f1d65b68e7d341df86d55077158950a764801be94f955024afb759"),
    ),
    Wanted(
        name="sdist-xllamacpp-2026.10.11549",
        client="sdist",
        spec="xllamacpp==2026.10.11549",
        integrity=_sha256("c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"),
    ),
    Wanted(
        name="nvidia-13",
        client="installed",
        spec="nvidia-cublas==13.10.0.20 nvidia-cuda-runtime==13.5.37",
        integrity=" ".join(
            map(
                _sha256,
                (
                    "dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84",
                    "df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d",
                ),
            )
        ),
    ),
    Wanted(
        name="nvidia-12",
        client="installed",
        spec="nvidia-cublas-cu12==12.9.3.13 nvidia-cuda-runtime-cu12==12.9.79",
        integrity=" ".join(
            map(
                _sha256,
                (
                    "d7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72",
                    "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
                ),
            )
        ),
    ),
)


def in_place(wanted: Wanted, directory: Path) -> bool:
    """Is the result there? For a wheel that is the folder and the file it came from."""
    kept = wanted.client != "wheel" or any((directory / "wheels").glob(f"{wanted.name}-*.whl"))
    return kept and (directory / wanted.place).exists()


class FetchError(Exception):
    """Something was not fetched; the text says what and why."""


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is not in place yet; return 0 when all of it is."""
    parser = argparse.ArgumentParser(description="Fetch the real published binaries that tests read.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--only", choices=[wanted.name for wanted in WANTED], metavar="NAME")
    options = parser.parse_args(arguments)
    failed = 0
    for wanted in WANTED:
        if options.only not in (None, wanted.name) or in_place(wanted, options.directory):
            continue
        print(f"{wanted.name}: fetching {wanted.spec}", flush=True)
        try:
            fetch(wanted, options.directory)
        except (FetchError, OSError) as e:
            failed += 1
            print(f"{wanted.name}: FAILED: {e}", file=sys.stderr)
    if failed:
        print(f"{failed} not fetched", file=sys.stderr)
    return 1 if failed else 0


def fetch(wanted: Wanted, directory: Path) -> None:
    """Bring one file into place, or leave nothing of it there.

    Raises:
        FetchError: the client failed, or the bytes are not the pinned ones.
        OSError: the directory cannot be written.
    """
    place = directory / wanted.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory) as scratch:
        work = Path(scratch)
        if wanted.client == "installed":
            _install(wanted, work, work / "installed")
            (work / "installed").rename(place)
            return
        archive = _download(wanted, work)
        check(archive, wanted.integrity)
        if wanted.client == "sdist":
            archive.replace(place)
            return
        unpack(archive, work / "unpacked")
        if wanted.client == "wheel":  # installers under test are handed the wheel itself
            kept = directory / "wheels"
            kept.mkdir(exist_ok=True)
            archive.replace(kept / archive.name)
        if not place.exists():
            (work / "unpacked").rename(place)


def _install(wanted: Wanted, work: Path, folder: Path) -> None:
    """Install several wheels, each checked, into a new folder."""
    wheels = []
    for index, (spec, integrity) in enumerate(zip(wanted.spec.split(), wanted.integrity.split(), strict=True)):
        (work / str(index)).mkdir()
        one = Wanted(name=wanted.name, client="wheel", spec=spec, integrity=integrity)
        wheels.append(_download(one, work / str(index)))
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


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tgz or a wheel into a new folder; a member that would land elsewhere is refused.

    Raises:
        FetchError: the archive is broken or a member escapes the folder.
    """
    folder.mkdir()
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                _refuse_escapes(wheel.namelist(), folder)
                wheel.extractall(folder)  # noqa: S202 - its names were checked, and zipfile makes no links
        else:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter="data")  # refuses links, devices and paths that lead outside
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise FetchError(f"{archive.name}: {e}") from e


def _refuse_escapes(names: list[str], folder: Path) -> None:
    # zipfile would silently move such a member inside; a wheel that has one is not the wheel we mean.
    root = os.path.realpath(folder)
    for name in names:
        if not os.path.realpath(os.path.join(root, name)).startswith(root + os.sep):
            raise FetchError(f"a member leaves the folder: {name!r}")


def _download(wanted: Wanted, work: Path) -> Path:
    """Let the client put its one file into a folder of its own."""
    folder = work / "download"
    folder.mkdir()
    if wanted.client == "npm":
        _run(["npm", "pack", "--loglevel=error", wanted.spec], folder)
    elif wanted.client == "wheel":
        # The pinned wheels are those of one platform: a build for another host would fail its digest below.
        kind = ["--only-binary", ":all:", "--python-version", wanted.python, "--implementation", "cp"]
        kind += ["--abi", f"cp{wanted.python.replace('.', '')}", "--abi", "abi3"]
        kind += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 5)]
        _run([sys.executable, "-m", "pip", "download", "--no-deps", *kind, "-d", ".", wanted.spec], folder)
    else:
        # pip asks a source distribution for its metadata, which runs its build backend: isolation would fetch
        # that anew, so a throw-away environment has what these two need.
        python = _throw_away_environment(work / "venv")
        kind = ["--no-binary", ":all:", "--no-build-isolation"]
        _run([python, "-m", "pip", "download", "--no-deps", *kind, "-d", ".", wanted.spec], folder)
    files = list(folder.iterdir())
    if len(files) != 1:
        raise FetchError(f"{wanted.spec}: the client left {sorted(file.name for file in files)}")
    return files[0]


def _throw_away_environment(folder: Path) -> str:
    _run([sys.executable, "-m", "venv", str(folder)], folder.parent)
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "install", "cython>=3.1", "setuptools>=61", "versioneer[toml]", "wheel"], folder)
    return python


def _run(command: list[str], folder: Path) -> None:
    """Run a client, showing what it said only when it failed."""
    program = shutil.which(command[0])
    if program is None:
        raise FetchError(f"{command[0]} is not installed")
    done = subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise FetchError("\n  ".join([f"{' '.join(command)}: exit status {done.returncode}", *said]))


if __name__ == "__main__":
    if platform.system() == "Windows":
        sys.exit("fetch_real: these files are for Linux, and so is this tool")
    sys.exit(main())
