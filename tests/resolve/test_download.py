"""A missing set is fetched: its files and no others, each held to the manifest; it is here whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import (
    ConfigError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    ManifestError,
    NetworkError,
)
from nativeload.resolve.resolution import Source
from nativeload.value import replace
from tests.cache.fault_server import Answer, FaultServer, black_hole, closed_port
from tests.hub import Hub
from tests.releases import BUILD, CORE, REPO, Release, release
from tests.scenarios import STUB_LINUX, WHY_NOT, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nativeload.resolve.resolution import Resolution

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

NEEDED = (*CORE, "libggml-cpu-sse42.so")  # of a machine that has SSE 4.2: every x86-64 of this century
SIZE = 4096  # bytes of every file: a wrong one cannot be told by its size
WINDOWS = ("ggml-base.dll", "ggml.dll", "llama.dll", "ggml-cpu-x64.dll", "ggml-cpu-haswell.dll")
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4096\n"


def _content(name: str, size: int = SIZE) -> bytes:
    return (name.encode() * size)[:size]


def _folder(path: Path, *names: str, size: int = SIZE) -> Path:
    """Lay out a build; what is in the files is nobody's business before they are opened."""
    path.mkdir()
    for name in names:
        (path / name).write_bytes(_content(name, size))
    return path


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Release:
    """A build for Linux with two CPU backends, and for Windows."""
    linux = _folder(tmp_path / "linux", *NEEDED, "libggml-cpu-x64.so")
    windows = _folder(tmp_path / "windows", *WINDOWS)
    return release({"linux-x86_64": linux, "windows-x86_64": windows}).push(hub)


@pytest.fixture
def config(published: Release, hub: Hub) -> NativeLibraryConfig:
    """What fetches it."""
    return _pinned(published).with_auto_download(endpoint=hub.url)


def _pinned(published: Release) -> NativeLibraryConfig:
    return NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)


def _said(published: Release, tmp_path: Path) -> dict[str, Any]:
    """Return the environment that says the pin, with nothing of the user's about Hubs and two places for caches."""
    words = {"PIN": published.pin, "REPO": REPO, "COMMIT": published.commit}
    folders = {"HF_HOME": tmp_path / "hf", "FIRST": tmp_path / "first", "SECOND": tmp_path / "second"}
    return {f"NATIVELOAD_{name}": word for name, word in words.items()} | folders


def _path(published: Release, name: str) -> str:
    """Return where a repository has a file; the manifest is called by its own name."""
    if name == "manifest":
        return published.path
    return next(item.path for item in published.manifest.artifacts if item.name == name)


def _asked(hub: Hub) -> list[str]:
    """Return the names of the files that were asked for; every request must be such a GET."""
    paths = [item.path for item in hub.requests if item.method == "GET" and "/resolve/" in item.path]
    assert len(paths) == len(hub.requests), [(item.method, item.path) for item in hub.requests]
    return sorted(path.rpartition("/")[2] for path in paths)


def _cache() -> Path:
    return Path(os.environ["NATIVELOAD_CACHE"])


def _kept() -> set[str]:
    """Return everything in the cache but its locks."""
    cache = _cache()
    return {str(path.relative_to(cache)) for path in cache.rglob("*")} - {
        str(path.relative_to(cache)) for path in [cache / "locks", *(cache / "locks").glob("*")]
    }


def _files(resolution: Resolution) -> dict[str, bytes]:
    assert resolution.chosen is not None
    directory = Path(resolution.chosen.directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# -- what is fetched --------------------------------------------------------------------------------------------------


def test_exactly_what_this_machine_needs_is_fetched_once(
    config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """The manifest, the core and one CPU backend: one GET each, and nothing before or after them."""
    found = config.resolve()
    assert _asked(hub) == sorted([published.path.rpartition("/")[2], *NEEDED])
    assert hub.bytes_sent() == len(published.raw) + len(NEEDED) * SIZE
    assert found.chosen is not None
    assert (found.chosen.source, found.verified_by, found.chosen.build) == (Source.DOWNLOAD, "manifest", BUILD)
    assert [file.name for file in found.chosen.files] == list(NEEDED)
    assert _files(found) == {name: _content(name) for name in NEEDED}
    hub.forget()
    again = config.resolve()
    assert again.chosen is not None
    assert (again.chosen.source, again.chosen.set_id) == (Source.CACHED, found.chosen.set_id)
    assert hub.requests == []


def test_what_is_fetched_cannot_be_changed_by_accident(config: NativeLibraryConfig) -> None:
    """Files are read-only, and so is their directory: exactly the set's files are in it."""
    found = config.resolve().chosen
    assert found is not None
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(found.directory).iterdir()}
    assert modes == dict.fromkeys(NEEDED, 0o400)
    assert stat.S_IMODE(Path(found.directory).stat().st_mode) == 0o500
    assert found.directory == str(_cache() / "llama" / BUILD / f"linux-x86_64-sse42-{found.set_id[:16]}")


def test_a_better_set_is_fetched_where_it_may_be_and_the_lesser_one_serves_where_not(
    config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """The ceiling brought the x64 set; without it the sse42 one is better, and only its own download brings it."""
    config.with_avx("x64").resolve()
    hub.forget()
    for lesser in (_pinned(published), config.with_offline(), config.with_auto_download(False)):
        found = lesser.resolve()
        assert found.to_dict()["variant"] == "linux-x86_64-x64"
        (why,) = [item.verdict.reason for item in found.decisions if "[sse42]" in item.candidate]
        assert why.startswith("not in the cache, and nothing can be fetched: ")
    assert hub.requests == []
    assert config.plan().to_dict()["source"] == "download"
    assert hub.requests == []
    assert config.resolve().to_dict()["variant"] == "linux-x86_64-sse42"
    assert _asked(hub) == ["libggml-cpu-sse42.so"]


def test_a_fetch_is_announced_to_the_log_and_prints_nothing(
    config: NativeLibraryConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    config.with_log_callback(lambda level, line: lines.append(line)).resolve()
    assert lines == [f"fetching llama {BUILD} [sse42] ({len(NEEDED) * SIZE:,} bytes) from {REPO}"]
    assert capfd.readouterr() == ("", "")


# -- wrong bytes ------------------------------------------------------------------------------------------------------


def _flipped(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one bit": (_flipped, "expected "),
    "short, though complete": (lambda data: data[:-1], "expected "),
    "nothing": (lambda data: b"", "expected "),
    "one byte more": (lambda data: data + b"\0", "expected "),
    "much more": (lambda data: data * 500, "more than "),
    "other bytes": (lambda data: bytes(len(data)), "expected "),
    "a web page": (lambda data: b"<!DOCTYPE html><title>Sign in</title>" + b" " * 9000, "HTML page"),
    "a short web page": (lambda data: b"<html><body>Sign in</body></html>", "HTML page"),
    "a pointer": (lambda data: LFS_POINTER, "Git LFS pointer"),
    "an error": (lambda data: b'{"error": "rate limited"}', "JSON error"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["manifest", "libggml.so", "libggml-cpu-sse42.so"])
def test_wrong_bytes_are_final_and_nothing_of_them_stays(
    name: str, wrong: str, config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """They are asked for once, nothing else is tried, and no set is there, not even an unfinished one."""
    how, words = WRONG[wrong]
    path = _path(published, name)
    hub.corrupt(REPO, path, how)
    with pytest.raises(IntegrityError) as caught:
        config.resolve()
    assert path in caught.value.path
    assert words in str(caught.value)
    assert len(hub.gets(path)) == 1
    assert _kept() == (set() if name == "manifest" else {"manifests", published.path, "tmp"})
    hub.heal()
    assert _files(config.resolve()) == {each: _content(each) for each in NEEDED}


def test_a_file_in_another_ones_place_is_refused(config: NativeLibraryConfig, published: Release, hub: Hub) -> None:
    """Right digest, right size, wrong name: each file is held to its own digest."""
    hub.corrupt(REPO, _path(published, "libllama.so"), lambda _: _content("libggml.so"))
    with pytest.raises(IntegrityError, match=r"libllama\.so: expected sha256"):
        config.resolve()
    assert _kept() == {"manifests", published.path, "tmp"}


def test_wrong_bytes_end_the_command_with_a_status_and_a_hint(
    config: NativeLibraryConfig, published: Release, hub: Hub, tmp_path: Path
) -> None:
    """The trace of Python is nobody's business; what is wrong with which file is."""
    hub.corrupt(REPO, _path(published, "libllama.so"), lambda _: b"<html>")
    said = {"PIN": published.pin, "REPO": REPO, "COMMIT": published.commit, "ENDPOINT": hub.url, "AUTO_DOWNLOAD": "1"}
    environ = os.environ | {f"NATIVELOAD_{name}": word for name, word in said.items()} | {"PYTHONPATH": _root()}
    command = [sys.executable, "-m", "nativeload", "resolve"]
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert "an HTML page (a proxy or captive portal?): <html>" in ended.stderr
    assert "Traceback" not in ended.stderr


def _root() -> str:
    return str(Path(__file__).parents[2])


def test_another_pin_is_another_manifest(config: NativeLibraryConfig, published: Release, hub: Hub) -> None:
    """A digest that the repository does not have is not there; a build that is not the manifest's is refused."""
    digest = published.manifest.pin.digest
    where = {"repo": REPO, "commit": published.commit}
    absent = config.with_pin(f"{BUILD}@sha256:{hashlib.sha256(b'another').hexdigest()}", **where)
    with pytest.raises(NetworkError, match="is not there") as caught:
        absent.resolve()
    assert caught.value.status == 404
    renamed = config.with_pin(f"b9@sha256:{digest}", **where)
    with pytest.raises(ManifestError, match=f"it describes {BUILD}, and the pin says b9"):
        renamed.resolve()
    other = replace(config, library="whisper")
    with pytest.raises(ConfigError, match="is a build of llama, and whisper was asked for"):
        other.resolve()
    assert not list(_cache().glob("llama/*/*"))


def test_a_manifest_put_in_the_place_of_the_pinned_one_is_not_even_read(
    config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """Its files have the digests that it says: the pin decides, not the repository."""
    evil = published.manifest.__replace__(revision=2).to_bytes()
    hub.corrupt(REPO, published.path, lambda _: evil)
    with pytest.raises(IntegrityError, match=f"sha256 {hashlib.sha256(evil).hexdigest()}"):
        config.resolve()
    assert _asked(hub) == [published.path.rpartition("/")[2]]
    assert _kept() == set()


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_was_cut_goes_on_where_it_ended(ranges: bool, hub: Hub, tmp_path: Path) -> None:
    """The next request asks for the rest; a server that knows no ranges gives all of it again."""
    size, cut = 300_000, 100_000
    published = release({"linux-x86_64": _folder(tmp_path / "large", *NEEDED, size=size)}).push(hub)
    hub.ranges = ranges
    hub.cut(REPO, _path(published, "libllama.so"), cut)
    found = _pinned(published).with_auto_download(endpoint=hub.url).resolve()
    assert _files(found) == {name: _content(name, size) for name in NEEDED}
    first, second = hub.gets("libllama.so")
    assert (first.headers.get("Range"), second.headers["Range"]) == (None, f"bytes={cut}-")
    assert [first.status, second.status] == [200, 206 if ranges else 200]
    assert second.sent == (size - cut if ranges else size)
    assert len(hub.gets()) == 1 + len(NEEDED) + 1


@pytest.mark.parametrize("missing", ["the manifest", "the set"])
def test_a_hub_that_is_not_there_is_an_error_in_seconds(
    missing: str, config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """Its text says which line to run where there is a network, and which line then here."""
    if missing == "the set":
        config.with_avx("none").download_native_library(os="windows-x86_64")
    hub.stop()
    start = time.monotonic()
    with pytest.raises(NetworkError, match="no connection") as caught:
        config.resolve()
    assert time.monotonic() - start < 5
    assert (published.path in caught.value.url) == (missing == "the manifest")
    first, second = str(caught.value).splitlines()[1:]
    assert first.startswith(f"Where there is a network, run: nativeload prefetch --library llama --pin {published.pin}")
    assert first.endswith(" --out DIR")
    assert second == f"Then carry DIR here and run: nativeload import DIR --sha256 {published.pin}"
    hub.start()
    assert config.resolve().verified


def test_a_network_that_swallows_everything_is_given_up_after_the_timeout(published: Release) -> None:
    with black_hole() as port:
        config = _pinned(published).with_auto_download(endpoint=f"http://127.0.0.1:{port}", timeout=0.3)
        start = time.monotonic()
        with pytest.raises(NetworkError, match="no connection"):
            config.resolve()
        assert time.monotonic() - start < 3


def test_a_repository_that_is_closed_to_us_says_how_to_open_it(
    config: NativeLibraryConfig, hub: Hub, published: Release
) -> None:
    hub.gate(REPO, "hf_somebodys", gated=True)
    with pytest.raises(NetworkError) as caught:
        config.resolve()
    assert caught.value.status == 401
    assert "Set HF_TOKEN" in caught.value.hint
    assert "nativeload prefetch" in caught.value.hint


def test_a_proxy_and_a_timeout_are_for_these_downloads_alone(published: Release, tmp_path: Path) -> None:
    """Everything comes through the proxy that was named, by a name that only it knows; nothing else of the process is
    other than before, neither then nor where the proxy is not there."""
    code = """
    import huggingface_hub.constants as constants, huggingface_hub.utils._http as http, requests, socket
    from nativeload import NativeLibraryConfig
    def state():
        shared = [http._GLOBAL_CLIENT, http._GLOBAL_CLIENT_FACTORY, socket.getdefaulttimeout(), os.getcwd()]
        words = {name: value for name, value in vars(constants).items() if name.isupper()}
        return repr([dict(os.environ), words, shared, os.umask(os.umask(0o22)), vars(requests.adapters)])
    def through(proxy, folder):
        words = {"endpoint": "http://hub.invalid", "proxy": proxy, "timeout": 2.0, "cache_dir": folder}
        return NativeLibraryConfig().with_auto_download(**words)
    before = state()
    good = through(os.environ["PROXY"], os.environ["FIRST"]).resolve()
    between = state()
    dead = attempt(through(os.environ["DEAD"], os.environ["SECOND"]).resolve)
    say([good.verified, between == before, state() == before, dead])
    """
    answers = [Answer(body=published.raw), *(Answer(body=_content(name)) for name in reversed(NEEDED))]
    with FaultServer(*answers) as proxy:
        env = _said(published, tmp_path) | {"PROXY": proxy.url, "DEAD": f"http://user:secret@127.0.0.1:{closed_port()}"}
        *good, dead = run(code, **env)
        assert good == [True, True, True]
        assert len(proxy.paths) == 1 + len(NEEDED)
        assert all(path.startswith(f"http://hub.invalid/{REPO}/resolve/{published.commit}/") for path in proxy.paths)
    assert dead["error"] == "NetworkError"
    assert re.search(r"the proxy http://user:\*\*\*@127\.0\.0\.1:\d+ cannot be reached", dead["text"])
    assert "It was given to nativeload." in dead["text"]
    assert "secret" not in str(dead)


def test_a_token_goes_to_the_hub_it_is_for_and_to_nobody_else(published: Release, tmp_path: Path) -> None:
    """Neither to the storage behind the Hub, nor to an endpoint that is not huggingface_hub's own; and where such an
    endpoint is named, huggingface_hub's own hears nothing at all."""
    code = """
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig()
    other = config.with_auto_download(endpoint=os.environ["OTHER"], cache_dir=os.environ["FIRST"]).resolve()
    own = config.with_auto_download(cache_dir=os.environ["SECOND"]).resolve()
    say([own.verified, other.verified])
    """
    with Hub(tmp_path / "own", cdn=True, lfs_from=1) as own, Hub(tmp_path / "other", lfs_from=1) as other:
        for each in (own, other):
            published.push(each)
        assert own.commit(REPO) == other.commit(REPO)
        own.gate(REPO, "hf_mine", gated=True)
        env = _said(published, tmp_path) | {"HF_ENDPOINT": own.url, "HF_TOKEN": "hf_mine", "OTHER": other.url}
        assert run(code, **env) == [True, True]
        assert {each.headers.get("Authorization") for each in other.requests} == {None}
        assert len(_asked(other)) == 1 + len(NEEDED)
        assert len(_asked(own)) == 2 * (1 + len(NEEDED))
        told = {(each.origin, each.headers.get("Authorization")) for each in own.requests}
        assert told == {("hub", "Bearer hf_mine"), ("cdn", None)}


def test_a_token_that_shall_not_go_by_itself_stays(published: Release, tmp_path: Path) -> None:
    """huggingface_hub's own switch, HF_HUB_DISABLE_IMPLICIT_TOKEN, holds for these downloads too."""
    code = """
    from nativeload import NativeLibraryConfig
    say(NativeLibraryConfig().with_auto_download().resolve().verified)
    """
    with Hub(tmp_path / "own") as own:
        published.push(own)
        hugging_face = {"HF_ENDPOINT": own.url, "HF_TOKEN": "hf_mine", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        assert run(code, **(_said(published, tmp_path) | hugging_face))
        assert {each.headers.get("Authorization") for each in own.requests} == {None}


def test_where_an_endpoint_is_named_nobody_else_is_asked(published: Release, hub: Hub, tmp_path: Path) -> None:
    """Counted by the interpreter: the only address that is connected to, or looked up, is the endpoint's."""
    code = """
    import sys
    asked = set()
    def note(event, args):
        if event in ("socket.connect", "socket.getaddrinfo"):
            asked.add(str(args[1][:2] if event == "socket.connect" else args[:2]))
    sys.addaudithook(note)
    from nativeload import NativeLibraryConfig
    say([NativeLibraryConfig().with_auto_download(endpoint=os.environ["ENDPOINT"]).resolve().verified, sorted(asked)])
    """
    verified, asked = run(code, ENDPOINT=hub.url, **_said(published, tmp_path))
    assert verified
    assert asked == [f"('127.0.0.1', {hub.url.rpartition(':')[2]})"]


# -- the verbs --------------------------------------------------------------------------------------------------------


def test_the_best_set_for_this_machine_is_fetched_on_request(published: Release, hub: Hub, tmp_path: Path) -> None:
    """The words of LLamaSharp: nothing is opened, and the config that asked is as it was."""
    config = _pinned(published)
    found = config.download_best_native_library(endpoint=hub.url, cache_dir=tmp_path / "elsewhere", timeout=5)
    assert found.chosen is not None
    assert (found.chosen.source, found.chosen.variant) == (Source.DOWNLOAD, "linux-x86_64-sse42")
    assert found.chosen.directory.startswith(str(tmp_path / "elsewhere"))
    assert config.auto_download is None
    assert _kept() == set()
    hub.forget()
    again = config.download_native_library(endpoint=hub.url, cache_dir=tmp_path / "elsewhere")
    assert (again.chosen and again.chosen.set_id) == found.chosen.set_id
    assert hub.requests == []


@pytest.mark.parametrize(
    ("level", "best"), [(None, "x64"), ("avx", "x64"), ("avx2", "haswell"), ("zen4", "haswell"), ("none", "x64")]
)
def test_a_set_for_another_platform_suits_the_least_machine_that_the_words_mean(
    level: str | None, best: str, published: Release, hub: Hub
) -> None:
    found = _pinned(published).download_native_library(os="windows-x86_64", avx_level=level, endpoint=hub.url)
    assert found.to_dict()["variant"] == f"windows-x86_64-{best}"
    names = sorted([*WINDOWS[:3], f"ggml-cpu-{best}.dll"])
    assert sorted(_files(found)) == names
    assert _asked(hub) == sorted([published.path.rpartition("/")[2], *names])


def test_a_platform_that_nobody_built_for_is_said(published: Release, hub: Hub) -> None:
    config = _pinned(published)
    with pytest.raises(LibraryNotFoundError, match="it has nothing for linux-aarch64, only for linux-x86_64, windows"):
        config.download_native_library(os="linux-aarch64", endpoint=hub.url)
    with pytest.raises(ConfigError, match="'beos' is none of linux-x86_64"):
        config.download_native_library(os="beos", endpoint=hub.url)
    with pytest.raises(ConfigError, match="says nothing about"):
        config.download_native_library(os="windows-x86_64", avx_level="apple_m1", endpoint=hub.url)


def test_a_build_is_held_to_the_word_for_it(hub: Hub, tmp_path: Path) -> None:
    """The pin decides; its build, or an alias of it, may be said beside it, another one is a mistake."""
    plain = release({"linux-x86_64": _folder(tmp_path / "aliased", *NEEDED)})
    published = Release(plain.manifest.__replace__(aliases=("v0.5.0",)), plain.files).push(hub)
    config = _pinned(published)
    with pytest.raises(ConfigError, match=f"'b1' was asked for, and the pin says {BUILD}"):
        config.download_native_library(build="b1", endpoint=hub.url)
    assert not list(_cache().glob("llama/*/*"))
    for word in (BUILD, "v0.5.0"):
        assert config.download_native_library(build=word, endpoint=hub.url).verified


def test_a_set_may_be_asked_for_by_a_file_it_has(published: Release, hub: Hub) -> None:
    config = _pinned(published)
    found = config.download_native_library(filename="libggml-cpu-x64.so", endpoint=hub.url)
    assert found.to_dict()["variant"] == "linux-x86_64-x64"
    assert (
        config.download_native_library(filename="libllama.so", endpoint=hub.url).to_dict()["variant"].endswith("sse42")
    )
    with pytest.raises(LibraryNotFoundError):
        config.download_native_library(filename="libllama.dylib", endpoint=hub.url)


def test_cuda_may_be_wished_for_another_machine(hub: Hub, tmp_path: Path) -> None:
    """A machine that is described has what is wished for it; without the wish it has no GPU."""
    plain = _folder(tmp_path / "plain", *CORE, "libggml-cpu-x64.so")
    cuda = _folder(tmp_path / "cuda", *CORE, "libggml-cpu-x64.so", "libggml-cuda.so")
    published = release({"linux-x86_64": plain, "linux-x86_64+cuda": cuda}).push(hub)
    config = _pinned(published)
    for wish, gpu in ((True, "cuda"), (None, None), (False, None)):
        found = config.download_native_library(os="linux-x86_64", use_cuda=wish, endpoint=hub.url)
        assert found.chosen is not None
        assert found.chosen.gpu == gpu
    assert len(hub.gets("libggml-cuda.so")) == 1


def test_what_nobody_pinned_or_allowed_cannot_be_fetched(published: Release, hub: Hub) -> None:
    with pytest.raises(DownloadUnavailableError, match=r"Three ways on: a pin .* a lock file .* a backend package"):
        NativeLibraryConfig().download_best_native_library(endpoint=hub.url)
    with pytest.raises(DownloadUnavailableError, match="offline"):
        _pinned(published).with_offline().download_best_native_library(endpoint=hub.url)
    nowhere = NativeLibraryConfig().with_pin(published.pin)
    with pytest.raises(LibraryNotFoundError, match="--repo REPOSITORY --commit COMMIT"):
        nowhere.download_best_native_library(endpoint=hub.url)
    assert hub.requests == []


@pytest.mark.parametrize("damaged", [False, True])
def test_what_another_set_of_the_build_has_is_not_fetched_again(
    config: NativeLibraryConfig, hub: Hub, damaged: bool
) -> None:
    """Only the other CPU backend comes: the core is taken from beside, unless it is not what it should be."""
    first = config.with_avx("x64").resolve().chosen
    assert first is not None
    if damaged:
        core = Path(first.directory, "libllama.so")
        core.chmod(0o600)
        core.write_bytes(core.read_bytes()[::-1])
    hub.forget()
    second = config.with_avx("sse42").resolve()
    assert second.chosen is not None
    assert second.verified_by == "manifest"
    assert _asked(hub) == sorted(["libggml-cpu-sse42.so", *(["libllama.so"] if damaged else [])])
