"""From a real release to text: published to a Hub, fetched by pin, carried where there is no network.

The binaries are npm's (tests/real_release.py); the Hub is tests/hub.py; every client is a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from nativeload import Host
from tests.hub import Hub
from tests.real_release import SETS, arguments
from tests.scenarios import ROOT, run
from tests.test_real_bundles import EMULATED, REFERENCE, emulated, fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real_bundle

REPO = "nativeload/llama"
LOAD = """
    import sys
    sockets = []
    sys.addaudithook(lambda event, _: sockets.append(event) if event.startswith("socket.") else None)
    from nativeload import NativeLibraryConfig
    from nativeload_llama import Llama, bundled_model
    config = NativeLibraryConfig().with_pin(os.environ["PIN"], repo=os.environ["REPO"], commit=os.environ["COMMIT"])
    if os.environ.get("ENDPOINT"):
        config = config.with_auto_download(endpoint=os.environ["ENDPOINT"], cache_dir=os.environ["CACHE"])
    else:
        config = config.with_cache_dir(os.environ["CACHE"])
    with Llama(os.environ.get("MODEL") or bundled_model(), config=config, n_threads=1) as llama:
        chosen = llama.library.resolution.chosen
        said = {"cpu": chosen.cpu.label, "source": str(chosen.source), "build": chosen.build}
        said["verified"] = llama.library.resolution.verified_by
        if os.environ.get("MODEL"):
            said["tokens"] = list(llama.generate([1], temperature=0, max_tokens=32))
        else:
            said["text"] = llama.complete("Once upon a time", temperature=0, max_tokens=30)
    network = {"huggingface_hub", "requests", "urllib3", "filelock", "socket"}
    say(said | {"sockets": sockets, "network": sorted(network & set(sys.modules))})
"""


class Published:
    """The release on a Hub."""

    def __init__(self, hub: Hub, pin: str, commit: str) -> None:
        self.hub, self.pin, self.commit = hub, pin, commit

    def load(self, cache: Path, *, endpoint: str | None = None, **more: Any) -> dict[str, Any]:
        """Load by pin in a process of its own, fetching what is missing where an endpoint is given."""
        words: dict[str, Any] = {
            "PIN": self.pin,
            "REPO": REPO,
            "COMMIT": self.commit,
            "CACHE": cache,
            "ENDPOINT": endpoint or "",
        }
        said: dict[str, Any] = run(LOAD, **words, **more)
        return said

    def options(self) -> list[str]:
        """Return the words that say the same to the command line."""
        return ["--pin", self.pin, "--repo", REPO, "--commit", self.commit]


def nativeload(*words: str, before: tuple[str, ...] = (), **environ: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "bindings")])
    command = [*before, sys.executable, "-m", "nativeload", *words]
    env = {**os.environ, "PYTHONPATH": path, "NO_PROXY": "127.0.0.1", **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def good(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed; it must have ended well."""
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Publish the release, once for this module, by the command line and the real client."""
    folder = tmp_path_factory.mktemp("release")
    with Hub(folder / "hub") as hub:
        environ: dict[str, Any] = {
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "t",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        words = [*arguments(binaries, folder), "--repo", REPO, "--endpoint", hub.url, "--json"]
        said = json.loads(good(nativeload(*words, **environ)))
        assert set(said) == {"pin", "repo", "commit"}
        assert said["repo"] == REPO
        commits = [record for record in hub.requests if record.method == "POST" and "/commit/" in record.path]
        assert len(commits) == 1
        yield Published(hub, said["pin"], said["commit"])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache of the test's own."""
    folder = tmp_path / "own-cache"
    folder.mkdir(mode=0o700)
    return folder


def test_equal_bytes_are_stored_once(published: Published) -> None:
    """CPU backends of four Linux flavours are the same files: one artifact, one path."""
    files = published.hub.files(REPO, published.commit)
    stored = [path for path in files if path.startswith("llama/")]
    assert len({(path.split("/")[2], files[path]) for path in stored}) == len(stored)
    assert len([path for path in stored if "libggml-cpu-" in path and "linux-x86_64" in path]) == 14
    assert len(SETS) == 8


def test_from_a_pin_to_text(published: Published, cache: Path, tmp_path: Path) -> None:
    """At most 8 MB are fetched; the second run makes no request; a Hub that is gone changes nothing for it."""
    hub = published.hub
    hub.forget()
    first = published.load(cache, endpoint=hub.url)
    assert (first["source"], first["build"], first["verified"]) == ("download", "b11146", "manifest")
    assert len(first["text"]) > 60
    assert hub.bytes_sent() <= 8e6
    names = [record.path.rpartition("/")[2] for record in hub.gets()]
    assert len(names) == len(set(names)) == 5  # the manifest, three of the core, one CPU backend
    hub.forget()
    second = published.load(cache, endpoint=hub.url)
    assert hub.requests == []
    assert (second["source"], second["text"]) == ("cached", first["text"])
    assert second["sockets"] == []
    assert second["network"] == []
    hub.stop()
    try:
        assert published.load(cache, endpoint=hub.url)["text"] == first["text"]
        assert published.load(cache)["text"] == first["text"]
        _without_cache(published, tmp_path)
    finally:
        hub.start()


def _without_cache(published: Published, tmp_path: Path) -> None:
    """With Hub and cache gone it fails soon, and says the very lines that help."""
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    words = ["run", *published.options(), "--auto-download", "--endpoint", published.hub.url, "--cache", str(empty)]
    started = time.monotonic()
    done = nativeload(*words)
    assert time.monotonic() - started < 5
    assert done.returncode == 1
    (line,) = re.findall(
        r"^Where there is a network, run: (nativeload prefetch .*) --out DIR$", done.stderr, re.MULTILINE
    )
    (bring,) = re.findall(r"^Then carry DIR here and run: (nativeload import) DIR (.*)$", done.stderr, re.MULTILINE)
    published.hub.start()
    folder = str(tmp_path / "carried")
    good(nativeload(*shlex.split(line)[1:], "--out", folder))
    published.hub.stop()
    good(nativeload(*shlex.split(bring[0])[1:], folder, *shlex.split(bring[1]), "--cache", str(empty)))
    assert "Once upon a time" in good(
        nativeload("run", "--pin", published.pin, "--cache", str(empty), "--threads", "1")
    )


def test_without_a_pin_the_ways_on_are_named(published: Published, cache: Path) -> None:
    """This release pins nothing: with_auto_download() alone says so."""
    done = nativeload("resolve", "whisper", "--auto-download", "--endpoint", published.hub.url, "--cache", str(cache))
    assert done.returncode == 1
    assert "this release pins no build" in done.stderr
    for way in ("a pin", "a lock file", "a backend package"):
        assert way in done.stderr


@pytest.mark.qemu
@pytest.mark.shared_data
@pytest.mark.parametrize(("processor", "variant"), EMULATED)
def test_an_older_processor_fetches_its_own_backend_alone(
    published: Published, cache: Path, shared_data: Path, processor: str, variant: str
) -> None:
    """Under qemu, each from its own empty cache: one CPU backend comes, and the tokens are the known ones."""
    python = emulated(processor)
    published.hub.forget()
    said = published.load(
        cache,
        endpoint=published.hub.url,
        python=python,
        NATIVELOAD_PYTHON=shlex.join(python),
        MODEL=fetched(shared_data, "ref260k.gguf"),
    )
    assert (said["cpu"], said["tokens"]) == (variant, REFERENCE)
    backends = [record.path.rpartition("/")[2] for record in published.hub.gets("libggml-cpu-")]
    assert backends == [f"libggml-cpu-{variant}.so"]


# -- carried to where there is no network ---------------------------------------------------------------------------

TARGETS = {
    "linux-x86_64": (["--platform", "linux-x86_64", "--cpu", "sse42"], "linux-x86_64-sse42"),
    "linux-aarch64": (["--platform", "linux-aarch64"], "linux-aarch64-armv8.0_1"),
    "windows-x86_64": (["--platform", "windows-x86_64", "--cuda", "13"], "windows-x86_64-cuda13-sse42"),
    "macos-arm64": (["--platform", "macos-arm64"], "macos-arm64-metal-apple_m1"),
}
NO_NETWORK = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")


@pytest.fixture(scope="module")
def folder(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four platforms, fetched by four commands."""
    out = tmp_path_factory.mktemp("carried") / "folder"
    cache = tmp_path_factory.mktemp("unused")
    for words, _ in TARGETS.values():
        options = [*published.options(), "--endpoint", published.hub.url, "--cache", str(cache), "--out", str(out)]
        good(nativeload("prefetch", *words, *options))
    assert list(cache.iterdir()) == []
    return out


def test_a_folder_is_imported_without_a_network(
    published: Published, folder: Path, cache: Path, tmp_path: Path
) -> None:
    """Into an empty home: text on this machine, and the plan for each other one names what was imported."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environ = {"HOME": str(home), "NATIVELOAD_CACHE": str(home / ".llama-py")}
    said = good(nativeload("import", str(folder), "--sha256", published.pin, before=NO_NETWORK, **environ))
    assert [label for _, label in TARGETS.values() if label in said] == [label for _, label in TARGETS.values()]
    words = ["run", "--pin", published.pin, "--threads", "1"]
    assert "Once upon a time" in good(nativeload(*words, before=NO_NETWORK, **environ))
    for platform, (_, label) in TARGETS.items():
        host = tmp_path / f"{platform}.json"
        composed = Host.compose(platform, cpu="sse42" if platform == "linux-x86_64" else None, cuda=_cuda(platform))
        host.write_text(json.dumps(composed.to_dict()))
        words = ["plan", "--json", "--pin", published.pin, "--host", str(host)]
        plan = json.loads(good(nativeload(*words, before=NO_NETWORK, **environ)))
        assert (plan["variant"], plan["source"], plan["verified"]) == (label, "cached", True)
        assert plan["directory"].startswith(str(home))


def _cuda(platform: str) -> int | None:
    return 13 if platform.startswith("windows") else None


def test_an_altered_file_is_refused(published: Published, folder: Path, cache: Path, tmp_path: Path) -> None:
    """One byte of one file: nothing of its set gets into the cache."""
    altered = tmp_path / "altered"
    shutil.copytree(folder, altered)
    (path,) = altered.rglob("libggml-cpu-sse42.so")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = nativeload("import", str(altered), "--sha256", published.pin, "--cache", str(cache))
    assert done.returncode == 1
    assert "libggml-cpu-sse42.so" in done.stderr
    assert list(cache.glob("llama/*/linux-x86_64-*")) == []
    assert list(cache.glob("tmp/*")) == []


def test_a_folder_is_a_mirror(published: Published, folder: Path, tmp_path: Path) -> None:
    """Behind any static web server, and as file://: the same set is fetched from it."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        (port,) = re.findall(r"port (\d+)", server.stdout.readline())
        for number, endpoint in enumerate((f"http://127.0.0.1:{port}", folder.as_uri())):
            cache = tmp_path / f"cache-{number}"
            cache.mkdir(mode=0o700)
            said = published.load(cache, endpoint=endpoint, NATIVELOAD_CPU="sse42")
            assert (said["cpu"], said["source"]) == ("sse42", "download")
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
