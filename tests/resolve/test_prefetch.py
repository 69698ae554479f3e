"""What is carried to a machine without a network: a folder of plain files, held to the pin that machine was told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from nativeload.cli import cli
from nativeload.config import NativeLibraryConfig
from nativeload.errors import (
    ConfigError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    ManifestError,
    NativeLoadError,
    NetworkError,
)
from nativeload.host import Host
from nativeload.manifest import Pin
from nativeload.pins import Pinned
from nativeload.resolve import missing, prefetch, shortlist
from nativeload.resolve.download import Origin
from nativeload.resolve.resolution import Source
from tests.releases import BUILD, CORE, REPO, Release, release
from tests.scenarios import ROOT, STUB_LINUX, WHY_NOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from click.testing import Result

    from tests.hub import Hub

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

LINUX = (*CORE, "libggml-cpu-x64.so", "libggml-cpu-sse42.so", "libggml-cpu-zen4.so")
WINDOWS = ("ggml-base.dll", "ggml.dll", "llama.dll", "ggml-cpu-x64.dll", "ggml-cpu-haswell.dll")
SIZE = 4096  # bytes of every file
RECORDED = ROOT / "tests" / "host" / "recorded"


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes((f"{path.name} {name} ".encode() * SIZE)[:SIZE])
    return path


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Release:
    """A build for Linux, with and without CUDA, and for Windows."""
    plain = _folder(tmp_path / "linux", *LINUX)
    cuda = shutil.copytree(plain, tmp_path / "cuda")
    (cuda / "libggml-cuda.so").write_bytes(b"cuda")
    windows = _folder(tmp_path / "windows", *WINDOWS)
    sets = {"linux-x86_64": plain, "linux-x86_64+cuda": cuda, "windows-x86_64": windows}
    return release(sets, requirements={"libggml-cuda.so": ["nvidia :: cuda_version_lower_bound :: 13.0"]}).push(hub)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _call(*words: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(map(str, words)))


def _done(*words: object) -> Result:
    done = _call(*words)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done


def _refused(*words: object) -> NativeLoadError:
    """Run a command that must end in an error of ours; return it."""
    done = _call(*words)
    assert isinstance(done.exception, NativeLoadError), f"{done.output}\n{done.exception!r}"
    return done.exception


def _prefetch(published: Release, hub: Hub, out: Path, *words: object) -> tuple[object, ...]:
    where = ("--repo", REPO, "--commit", published.commit, "--endpoint", hub.url, "--out", out)
    return ("prefetch", "--pin", published.pin, *where, *words)


def _there(published: Release, out: Path) -> list[str]:
    """Return the files of the build in a folder; every other file must be one that describes them."""
    base = out / REPO / "resolve" / published.commit
    files = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    assert {str(path.relative_to(base)) for path in out.rglob("*") if path.is_file()} == files
    about = {path for path in files if path.startswith("manifests/")}
    assert published.path in about
    assert all(published.manifest.pin.digest in path and not path.endswith(".part") for path in about)
    return sorted(path.removeprefix(f"llama/{BUILD}/") for path in files - about)


def _of(platform: str, *names: str) -> list[str]:
    return [f"{platform}/cpu/{name}" for name in names]


def _cached() -> list[str]:
    """Return the names of the sets in the cache."""
    return sorted(path.name.rpartition("-")[0] for path in _cache().glob(f"llama/{BUILD}/*"))


def _cache() -> Path:
    return Path(os.environ["NATIVELOAD_CACHE"])


def _at(published: Release, out: Path, name: str) -> Path:
    """Return where a folder has a file; the manifest and the list of sets are called by those names."""
    base = out / REPO / "resolve" / published.commit
    if name == "manifest":
        return base / published.path
    if name == "sets":
        (found,) = (path for path in (base / "manifests").iterdir() if path != base / published.path)
        return found
    return next(base / item.path for item in published.manifest.artifacts if item.name == name)


# -- the way on that an error names -----------------------------------------------------------------------------------


def test_the_lines_of_the_error_bring_the_set_to_this_machine(published: Release, hub: Hub, tmp_path: Path) -> None:
    """Run as they are printed, the first one where there is a network, the second one here: then it resolves."""
    hub.stop()
    config = NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)
    with pytest.raises(NetworkError) as caught:
        config.with_auto_download(endpoint=hub.url).resolve()
    lines = caught.value.hint.splitlines()
    (prefetch,) = (line.split("run: ")[1] for line in lines if line.startswith("Where there is a network, run: "))
    hub.start()
    printed = _run(shlex.split(prefetch), tmp_path).stderr
    hub.stop()
    (second,) = (line.split("run: ")[1] for line in lines if line.startswith("Then carry DIR here and run: "))
    assert f"On the other machine: {second}" in printed
    with pytest.raises(LibraryNotFoundError):
        config.resolve()
    _run(shlex.split(second), tmp_path)
    found = config.resolve()
    assert found.chosen is not None
    assert (found.chosen.source, found.verified_by) == (Source.CACHED, "manifest")


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a printed command line in a folder, by the Python of these tests."""
    assert words[0] == "nativeload"
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    ended = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


def test_the_line_says_what_was_wished_for(published: Release, hub: Hub, out: Path) -> None:
    """Where CUDA is wanted and there is a device, it brings CUDA; the processor is named by what it can do."""
    config = NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit).with_cuda()
    config = config.with_auto_download(endpoint=hub.url).with_offline()
    error = missing(shortlist(config.settled(), Host.compose("linux-x86_64", cpu="avx2", cuda=13)))
    (line,) = (line.split("run: ")[1] for line in error.hint.splitlines() if " prefetch " in line)
    assert line.endswith(" --platform linux-x86_64 --cpu haswell --cuda 13 --out DIR")
    _done(*shlex.split(line)[1:-1], out)
    names = [name.rpartition("/")[2] for name in _there(published, out)]
    assert sorted(names) == sorted([*CORE, "libggml-cpu-sse42.so", "libggml-cuda.so"])


# -- what is brought --------------------------------------------------------------------------------------------------


def test_sets_for_several_platforms_go_into_one_folder(published: Release, hub: Hub, out: Path) -> None:
    """Each file once, laid out as the Hub's own addresses; nothing that is there is fetched again."""
    first = _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64", "--json"))
    assert _there(published, out) == _of("linux-x86_64", *sorted([*CORE, "libggml-cpu-x64.so"]))
    hub.forget()
    both = ("--platform", "linux-x86_64", "--platform", "windows-x86_64", "--cpu", "avx2", "--json")
    second = json.loads(_done(*_prefetch(published, hub, out, *both)).stdout)
    linux = [*CORE, "libggml-cpu-sse42.so", "libggml-cpu-x64.so"]
    windows = ["ggml-base.dll", "ggml-cpu-haswell.dll", "ggml.dll", "llama.dll"]
    assert _there(published, out) == sorted([*_of("linux-x86_64", *linux), *_of("windows-x86_64", *windows)])
    fetched = [item.path.rpartition("/")[2] for item in hub.gets("/llama/b")]
    assert sorted(fetched) == sorted([*windows, "libggml-cpu-sse42.so"])
    assert json.loads(first.stdout)["fetched"] == 4 * SIZE
    assert (second["fetched"], second["present"]) == (5 * SIZE, 3 * SIZE)
    assert [item["variant"] for item in second["sets"]] == ["linux-x86_64-sse42", "windows-x86_64-haswell"]
    hub.forget()
    again = json.loads(_done(*_prefetch(published, hub, out, *both)).stdout)
    assert (again["fetched"], again["present"]) == (0, 8 * SIZE)
    assert hub.gets("/llama/b") == []


def test_a_machine_may_be_described_by_its_record(published: Release, hub: Hub, out: Path) -> None:
    words = ("--host", RECORDED / "zen4.json", "--host", RECORDED / "windows-haswell.json")
    _done(*_prefetch(published, hub, out, *words))
    linux = _of("linux-x86_64", *sorted([*CORE, "libggml-cpu-zen4.so"]))
    assert _there(published, out) == linux + _of("windows-x86_64", *sorted([*WINDOWS[:3], "ggml-cpu-haswell.dll"]))


def test_without_a_word_it_is_for_a_machine_like_this_one(published: Release, hub: Hub, out: Path) -> None:
    _done(*_prefetch(published, hub, out, "--cpu", "sse42"))
    assert _there(published, out) == _of("linux-x86_64", *sorted([*CORE, "libggml-cpu-sse42.so"]))


def test_cuda_is_brought_where_it_is_said(published: Release, hub: Hub, out: Path) -> None:
    """Not to a driver that is too old for it: then nothing is brought, and the reason is in the error."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64", "--cuda", 13))
    assert "linux-x86_64/cuda/libggml-cuda.so" in _there(published, out)
    error = _refused(*_prefetch(published, hub, out, "--platform", "linux-x86_64", "--cuda", 12))
    assert isinstance(error, ConfigError)
    assert "needs a driver for CUDA 13.0" in str(error)
    error = _refused(*_prefetch(published, hub, out, "--platform", "linux-aarch64"))
    assert "b11146 has no set for linux-aarch64" in str(error)


def test_everything_is_a_mirror(published: Release, hub: Hub, out: Path) -> None:
    done = json.loads(_done(*_prefetch(published, hub, out, "--all", "--json")).stdout)
    everything = [item.path.removeprefix(f"llama/{BUILD}/") for item in published.manifest.artifacts]
    assert _there(published, out) == sorted(everything)
    assert done["fetched"] == sum(item.size for item in published.manifest.artifacts)
    assert done["sets"] == []


def test_an_interrupted_prefetch_goes_on(published: Release, hub: Hub, out: Path) -> None:
    """What came right stays, what did not leaves nothing, and the next one fetches only what is missing."""
    path = next(item.path for item in published.manifest.artifacts if item.name == "libllama.so")
    hub.corrupt(REPO, path, lambda data: bytes(len(data)))
    words = _prefetch(published, hub, out, "--platform", "linux-x86_64")
    assert isinstance(_refused(*words), IntegrityError)
    left = {file.name for file in out.rglob("*") if file.is_file()}
    assert left == {"libggml-base.so", "libggml.so", "libggml-cpu-x64.so"}
    hub.heal()
    hub.forget()
    _done(*words)
    assert [item.path for item in hub.gets("/llama/b")] == [item.path for item in hub.gets(path)]
    assert len(_there(published, out)) == 4


@pytest.mark.parametrize("damage", ["one bit", "cut short", "a link", "a pipe"])
def test_what_is_wrong_in_the_folder_is_fetched_again(damage: str, published: Release, hub: Hub, out: Path) -> None:
    words = _prefetch(published, hub, out, "--platform", "linux-x86_64")
    _done(*words)
    path = _at(published, out, "libggml.so")
    right = path.read_bytes()
    _spoil(path, damage)
    hub.forget()
    _done(*words)
    assert [item.path.rpartition("/")[2] for item in hub.gets("/llama/b")] == ["libggml.so"]
    assert path.read_bytes() == right
    assert not path.is_symlink()


def _spoil(path: Path, damage: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if damage == "a pipe":
        os.mkfifo(path)
    elif damage == "a link":
        (path.parents[8] / "elsewhere").write_bytes(data)
        path.symlink_to(path.parents[8] / "elsewhere")
    elif damage != "gone":
        path.write_bytes(data[:-1] if damage == "cut short" else bytes([data[0] ^ 1]) + data[1:])


def test_two_prefetches_into_one_folder_do_not_disturb_each_other(published: Release, hub: Hub, out: Path) -> None:
    pinned = Pinned(pin=Pin.parse(published.pin), repo=REPO, commit=published.commit, origin="a test", strict=True)
    origin = Origin(repo=REPO, commit=published.commit, endpoint=hub.url)
    errors: list[BaseException] = []

    def bring() -> None:
        try:
            prefetch.prefetch(published.raw, pinned, origin, str(out), [], everything=True)
        except BaseException as error:  # noqa: BLE001 - a thread's errors are lost otherwise
            errors.append(error)

    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(_there(published, out)) == len(published.manifest.artifacts)
    _done("import", out, "--sha256", published.pin)


def test_a_file_that_another_prefetch_puts_in_place_meanwhile_is_no_error(
    published: Release, hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes in a new file: the one that was just looked at is not the one that is there now."""
    words = _prefetch(published, hub, out, "--platform", "linux-x86_64")
    _done(*words)
    real = hashlib.file_digest

    def digest(file: FileIO, name: str) -> object:
        path = Path(f"/proc/self/fd/{file.fileno()}").resolve()
        found = real(file, name)
        copy = path.with_name("copy")
        shutil.copy(path, copy)
        copy.replace(path)
        return found

    monkeypatch.setattr(hashlib, "file_digest", digest)
    _done(*words)
    assert len(_there(published, out)) == 4


def test_a_prefetch_needs_a_pin_and_a_place(published: Release, hub: Hub, out: Path) -> None:
    error = _refused("prefetch", "--out", out, "--endpoint", hub.url)
    assert isinstance(error, DownloadUnavailableError)
    assert "Three ways on" in error.hint
    assert "Say --repo owner/name and --commit" in _refused("prefetch", "--pin", published.pin, "--out", out).hint
    error = _refused(*_prefetch(published, hub, out, "--offline"))
    assert isinstance(error, DownloadUnavailableError)
    assert hub.requests == []
    assert not out.exists()


# -- import -----------------------------------------------------------------------------------------------------------


def test_every_set_that_was_asked_for_is_imported(published: Release, hub: Hub, out: Path) -> None:
    """Also those of other machines: the cache may be one that they share. A second import changes nothing."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64", "--platform", "windows-x86_64"))
    hub.stop()
    words = ("import", out, "--sha256", published.pin, "--json")
    said = json.loads(_done(*words).stdout)
    assert _cached() == ["linux-x86_64-x64", "windows-x86_64-x64"]
    assert sorted(item["variant"] for item in said["sets"]) == _cached()
    assert all(Path(item["directory"]).is_dir() for item in said["sets"])
    before = sorted((path, path.lstat().st_ino) for path in _cache().glob("llama/**/*"))
    assert json.loads(_done(*words).stdout) == said
    assert sorted((path, path.lstat().st_ino) for path in _cache().glob("llama/**/*")) == before
    config = NativeLibraryConfig().with_pin(published.pin)
    assert config.resolve().to_dict()["variant"] == "linux-x86_64-x64"
    assert config.plan(Host.compose("windows-x86_64")).to_dict()["source"] == "cached"


def test_an_import_mends_what_is_damaged_and_leaves_what_is_right(published: Release, hub: Hub, out: Path) -> None:
    """A damaged set is put away and brought anew; one that is right is not touched."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64", "--cpu", "none"))
    _done("import", out, "--sha256", published.pin)
    (core,) = _cache().glob("llama/*/linux-x86_64-x64-*/libllama.so")
    good, before = core.read_bytes(), core.stat()
    _done("import", out, "--sha256", published.pin)
    assert core.stat() == before
    core.chmod(0o600)
    core.write_bytes(good[::-1])
    _done("import", out, "--sha256", published.pin)
    assert core.read_bytes() == good
    assert len(list(_cache().glob("quarantine/*"))) == 1


def test_of_a_mirror_the_best_set_for_this_machine_is_imported(published: Release, hub: Hub, out: Path) -> None:
    _done(*_prefetch(published, hub, out, "--all"))
    _done("import", out, "--sha256", published.pin, "--cpu", "sse42")
    assert _cached() == ["linux-x86_64-sse42"]
    _done("import", out, "--sha256", published.pin, "--cpu", "none")
    assert _cached() == ["linux-x86_64-sse42"]


@pytest.mark.parametrize("form", ["{build}@sha256:{digest}", "sha256:{digest}", "{digest}"])
def test_the_pin_may_be_said_by_its_digest(form: str, published: Release, hub: Hub, out: Path) -> None:
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    digest = published.manifest.pin.digest
    _done("import", out, "--sha256", form.format(build=BUILD, digest=digest))
    assert _cached() == ["linux-x86_64-x64"]


def test_the_pin_may_be_said_by_the_environment_or_a_lock_file(
    published: Release, hub: Hub, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    entry = {"pin": published.pin, "repo": REPO, "commit": published.commit, "manifest": json.loads(published.raw)}
    (tmp_path / "lock").write_text(json.dumps({"format": 1, "libraries": {"llama": entry}}))
    _done("import", out, "--lock", tmp_path / "lock", "--cache", tmp_path / "by-lock")
    monkeypatch.setenv("NATIVELOAD_PIN", published.pin)
    _done("import", out, "--cache", tmp_path / "by-pin")
    for name in ("by-lock", "by-pin"):
        assert len(list((tmp_path / name).glob(f"llama/{BUILD}/*"))) == 1


def test_a_folder_does_not_say_what_it_should_be(published: Release, hub: Hub, out: Path) -> None:
    """Without a pin nothing is imported; with another one it is not found, or refused."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    error = _refused("import", out)
    assert "nobody says which build of llama this should be" in str(error)
    assert "--sha256 BUILD@sha256:DIGEST" in error.hint
    other = "0" * 64
    for pin in (f"{BUILD}@sha256:{other}", other):
        assert f"no manifest {other} is in this folder" in str(_refused("import", out, "--sha256", pin))
    assert isinstance(_refused("import", out, "--sha256", f"b1@sha256:{published.manifest.pin.digest}"), ManifestError)
    error = _refused("import", out, "--sha256", published.pin, "--library", "whisper")
    assert "the folder holds llama, and whisper was asked for" in str(error)
    assert not list(_cache().glob("llama/*/*"))


@pytest.mark.parametrize("damage", ["one bit", "cut short", "gone", "a link", "a pipe"])
@pytest.mark.parametrize("name", ["libggml-base.so", "libggml-cpu-x64.so"])
def test_a_folder_with_a_wrong_file_brings_nothing(
    name: str, damage: str, published: Release, hub: Hub, out: Path
) -> None:
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    path = _at(published, out, name)
    _spoil(path, damage)
    error = _refused("import", out, "--sha256", published.pin)
    assert isinstance(error, IntegrityError if damage in {"one bit", "cut short"} else NetworkError)
    assert name in str(error)
    assert _cached() == []
    assert list((_cache() / "tmp").iterdir()) == []
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig().with_pin(published.pin).resolve()


@pytest.mark.parametrize(
    "wishes",
    [
        [["llama/b11146/linux-x86_64/cpu/libllama.so"]],
        [["llama/b11146/linux-x86_64/cpu/libllama.so", "llama/b11146/windows-x86_64/cpu/llama.dll"]],
        [["../../../../etc/passwd"]],
        [["/etc/passwd"]],
        [[]],
        [[f"llama/{BUILD}/linux-x86_64/cpu/{name}" for name in LINUX]],
    ],
    ids=["a part", "two platforms", "a way out", "a root", "nothing", "too much"],
)
def test_a_list_of_what_are_no_sets_is_refused(
    wishes: list[list[str]], published: Release, hub: Hub, out: Path
) -> None:
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    _at(published, out, "sets").write_text(json.dumps({"sets": wishes}))
    assert isinstance(_refused("import", out, "--sha256", published.pin), IntegrityError)
    assert not list(_cache().glob("llama/*/*"))


NO_LISTS = ("", "[", "[]", "{}", "[" * 99999, "\xff", '{"sets": 1}', '{"sets": [1]}', '{"sets": [[1]]}')
TOO_LONG = (json.dumps({"sets": [["a"] * 300]}), '{"sets": []}' + " " * (1 << 21))


@pytest.mark.parametrize("text", [*NO_LISTS, *TOO_LONG], ids=lambda text: f"{text[:12]} {len(text)}")
def test_a_list_that_is_none_is_refused(text: str, published: Release, hub: Hub, out: Path) -> None:
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    _at(published, out, "sets").write_text(text, encoding="latin-1")
    error = _refused("import", out, "--sha256", published.pin)
    assert isinstance(error, ManifestError)
    assert error.hint == "Prefetch the folder again."
    assert not list(_cache().glob("llama/*/*"))


def test_a_folder_whose_manifest_was_altered_with_its_files_is_refused(published: Release, hub: Hub, out: Path) -> None:
    """All of it fits together, and none of it is what was pinned: under the pin's own name, under its true one, and
    under its true one with the pin's name kept."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    library, manifest = _at(published, out, "libllama.so"), _at(published, out, "manifest")
    evil = b"evil" * (SIZE // 4)
    right = hashlib.sha256(library.read_bytes()).hexdigest()
    altered = published.raw.replace(right.encode(), hashlib.sha256(evil).hexdigest().encode())
    assert altered != published.raw
    library.write_bytes(evil)
    manifest.write_bytes(altered)
    for pin in (published.pin, published.manifest.pin.digest):
        assert isinstance(_refused("import", out, "--sha256", pin), IntegrityError)
    manifest.rename(manifest.with_name(f"{hashlib.sha256(altered).hexdigest()}.json"))
    assert "no manifest" in str(_refused("import", out, "--sha256", published.pin))
    manifest.write_bytes(published.raw)
    assert isinstance(_refused("import", out, "--sha256", published.pin), IntegrityError)
    assert not list(_cache().glob("llama/*/*"))


@pytest.mark.parametrize("name", ["manifest", "sets"])
def test_a_pipe_in_the_folder_is_not_waited_for(name: str, published: Release, hub: Hub, out: Path) -> None:
    """What was carried here may have been made by anybody."""
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    path = _at(published, out, name)
    path.unlink()
    os.mkfifo(path)
    command = [sys.executable, "-m", "nativeload", "import", str(out), "--sha256", published.pin]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode in {1, 2}
    assert ended.stderr.startswith("error: ")


# -- a mirror ---------------------------------------------------------------------------------------------------------


def _served(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Serve a folder by Python's own web server, which knows no ranges; return it and its URL."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
    assert found
    return server, found[0]


@pytest.fixture(params=["file", "http"])
def mirror(request: pytest.FixtureRequest, published: Release, hub: Hub, out: Path) -> Iterator[str]:
    """A folder with everything, as an address."""
    _done(*_prefetch(published, hub, out, "--all"))
    hub.stop()
    if request.param == "file":
        yield out.as_uri()
        return
    server, url = _served(out)
    try:
        yield url
    finally:
        server.kill()
        server.communicate()


def test_a_folder_is_a_mirror(mirror: str, published: Release, out: Path) -> None:
    """Any web server, or none; what it serves is held to the pin as a Hub's bytes are."""
    config = NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)
    config = config.with_auto_download(endpoint=mirror)
    path = _at(published, out, "libllama.so")
    right = path.read_bytes()
    path.write_bytes(bytes(len(right)))
    with pytest.raises(IntegrityError, match=r"libllama\.so: expected sha256 "):
        config.with_avx("none").resolve()
    assert _cached() == []
    path.write_bytes(right)
    assert config.with_avx("none").resolve().to_dict()["variant"] == "linux-x86_64-sse42"
    found = config.download_native_library(os="windows-x86_64")
    assert found.to_dict()["variant"] == "windows-x86_64-x64"
    _at(published, out, "libggml-cpu-x64.so").unlink()
    with pytest.raises(NetworkError):
        config.with_avx("x64").resolve()
    assert _cached() == ["linux-x86_64-sse42", "windows-x86_64-x64"]


def test_a_folder_may_be_prefetched_from_a_mirror(mirror: str, published: Release, tmp_path: Path) -> None:
    """What goes one step further is the same."""
    words = ("--repo", REPO, "--commit", published.commit, "--endpoint", mirror, "--platform", "linux-x86_64")
    _done("prefetch", "--pin", published.pin, *words, "--out", tmp_path / "second")
    assert _there(published, tmp_path / "second") == _of("linux-x86_64", *sorted([*CORE, "libggml-cpu-x64.so"]))
    _done("import", tmp_path / "second", "--sha256", published.pin)
    assert _cached() == ["linux-x86_64-x64"]


def test_a_folder_with_odd_signs_in_its_name_is_a_mirror(published: Release, hub: Hub, tmp_path: Path) -> None:
    """A blank, a percent, a question mark, a number sign, and letters of two languages."""
    out = tmp_path / "out 100% ?#ü字"
    _done(*_prefetch(published, hub, out, "--platform", "linux-x86_64"))
    hub.stop()
    config = NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)
    assert config.with_auto_download(endpoint=out.as_uri()).with_avx("x64").resolve().verified
    _done("import", out, "--sha256", published.pin, "--cache", tmp_path / "second")
