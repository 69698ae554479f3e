"""A set is put away for its own faults alone, and what cannot be fetched gives way to what is here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload.cache import LibraryCache
from nativeload.cache.sets import read_manifest, remove_tree
from nativeload.cli import cli
from nativeload.config import NativeLibraryConfig
from nativeload.errors import CacheError, IntegrityError, NetworkError, PreferenceWarning
from nativeload.resolve.resolution import LibraryFile
from nativeload.variant import Role
from tests.cache.fault_server import closed_port
from tests.releases import CORE, REPO, Release, release
from tests.scenarios import STUB_LINUX, WHY_NOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nativeload.resolve.resolution import LibrarySet
    from tests.hub import Hub

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

CPUS = ("libggml-cpu-x64.so", "libggml-cpu-sse42.so")


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Release:
    folder = tmp_path / "build"
    folder.mkdir()
    for name in (*CORE, *CPUS):
        (folder / name).write_bytes(name.encode() * 99)
    return release({"linux-x86_64": folder}).push(hub)


@pytest.fixture
def config(published: Release, hub: Hub) -> NativeLibraryConfig:
    pinned = NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)
    return pinned.with_auto_download(endpoint=hub.url)


def _cache() -> Path:
    return Path(os.environ["NATIVELOAD_CACHE"])


# -- who is at fault --------------------------------------------------------------------------------------------------


def test_a_wrong_runtime_of_this_machine_is_no_fault_of_the_set(
    config: NativeLibraryConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set stays where it is, and the error does not speak of it."""
    good = config.resolve().chosen
    assert good is not None
    wheel = tmp_path / "libcudart.so.13"
    wheel.write_bytes(b"damaged")
    runtime = LibraryFile(path=str(wheel), role=Role.RUNTIME, label="libcudart.so.13", declared="0" * 64)

    def helped(sets: tuple[LibrarySet, ...], *_: object) -> Iterator[LibrarySet]:
        from nativeload.value import replace

        yield from (replace(item, files=(runtime, *item.files)) for item in sets)

    monkeypatch.setattr("nativeload.resolve.candidates._with_cuda_runtime", helped)
    with pytest.raises(IntegrityError, match=r"libcudart\.so\.13") as caught:
        config.resolve()
    assert "quarantine" not in caught.value.hint
    assert "Reinstall the package" in caught.value.hint
    assert os.path.isdir(good.directory)
    assert not list(_cache().glob("quarantine/*"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_machine_in_trouble_is_no_fault_of_the_set(
    number: int, config: NativeLibraryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of files, or a failing disk: nothing is put away, and the next run finds all of it."""
    good = config.resolve().chosen
    assert good is not None
    real = LibraryCache.digest

    def fail(self: LibraryCache, path: str, **how: bool) -> object:
        if path.endswith("libllama.so"):
            raise OSError(number, os.strerror(number))
        return real(self, path, **how)

    with monkeypatch.context() as broken:
        broken.setattr(LibraryCache, "digest", fail)
        with pytest.raises(CacheError, match=os.strerror(number)):
            config.resolve()
    assert config.resolve().chosen is not None
    assert not list(_cache().glob("quarantine/*"))


def test_a_manifest_that_cannot_be_opened_now_is_not_absent(
    config: NativeLibraryConfig, hub: Hub, published: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that is out of files would fetch it again, or say that it is not here."""
    config.resolve()
    hub.forget()

    def fail(*_: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("nativeload.cache.sets.read_regular", fail)
    with pytest.raises(CacheError, match="Too many open files"):
        read_manifest(str(_cache()), published.manifest.pin.digest)
    with pytest.raises(CacheError):
        config.resolve()
    assert hub.requests == []


# -- what serves where something cannot be fetched ------------------------------------------------------------------


def test_a_lesser_set_that_is_here_serves_where_the_hub_is_down(config: NativeLibraryConfig, hub: Hub) -> None:
    """Allowing a download must not make a start fail that works without; what happened is in the trace."""
    config.with_avx("x64").resolve()
    hub.stop()
    with pytest.warns(
        PreferenceWarning, match=r"\[x64\] is used: llama b11146 \[sse42\] cannot be fetched: libggml-cpu"
    ):
        found = config.resolve()
    assert found.to_dict()["variant"] == "linux-x86_64-x64"
    (reason,) = [item.verdict.reason for item in found.decisions if item.candidate.endswith("[sse42]")]
    assert reason.startswith("cannot be fetched: ")
    hub.start()
    assert config.resolve().to_dict()["variant"] == "linux-x86_64-sse42"


def test_a_network_that_failed_once_is_not_asked_again(config: NativeLibraryConfig, hub: Hub) -> None:
    """There is one more set that could be fetched; nothing is here."""
    config.resolve()
    for path in _cache().glob("llama/*/*"):
        remove_tree(str(path))
    hub.stop()
    with pytest.raises(NetworkError) as caught:
        config.resolve()
    assert "libggml-cpu-sse42.so" in caught.value.url
    assert "nativeload prefetch" in caught.value.hint


def test_a_mirror_that_lacks_the_best_set_serves_a_lesser_one(
    config: NativeLibraryConfig, published: Release, hub: Hub, tmp_path: Path
) -> None:
    """A folder that was prefetched for lesser processors is a mirror for this one too."""
    from click.testing import CliRunner

    words = ["prefetch", "--pin", published.pin, "--repo", REPO, "--commit", published.commit, "--endpoint", hub.url]
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, [*words, "--platform", "linux-x86_64", "--cpu", "none", "--out", str(out)])
    assert done.exit_code == 0, done.output
    hub.stop()
    mirror = config.with_auto_download(endpoint=out.as_uri())
    with pytest.warns(PreferenceWarning, match="cannot be fetched"):
        assert mirror.resolve().to_dict()["variant"] == "linux-x86_64-x64"
    (cpu,) = out.rglob("libggml-cpu-x64.so")
    cpu.unlink()
    empty = mirror.with_cache_dir(tmp_path / "empty")
    with pytest.raises(NetworkError, match=r"libggml-cpu-sse42\.so") as caught:
        empty.resolve()
    assert caught.value.status == 404
    assert "--all" in caught.value.hint


def test_a_commit_that_is_wrong_says_so(config: NativeLibraryConfig, published: Release) -> None:
    wrong = config.with_pin(published.pin, repo=REPO, commit="0" * 40)
    with pytest.raises(NetworkError) as caught:
        wrong.resolve()
    assert "Check the repository and the commit" in caught.value.hint


def test_no_password_is_in_the_line_to_paste(config: NativeLibraryConfig) -> None:
    endpoint = f"http://user:s3cret@127.0.0.1:{closed_port()}"
    with pytest.raises(NetworkError) as caught:
        config.with_auto_download(endpoint=endpoint).resolve()
    assert "nativeload prefetch" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_another_pin_takes_no_commit_of_the_one_before(config: NativeLibraryConfig, published: Release) -> None:
    """Neither from the config, nor from an environment that pins something else."""
    other = f"b1@sha256:{'0' * 64}"
    assert config.with_pin(other).commit is None
    os.environ["NATIVELOAD_PIN"], os.environ["NATIVELOAD_COMMIT"] = published.pin, "1" * 40
    try:
        assert NativeLibraryConfig().with_pin(other).settled().commit is None
        assert NativeLibraryConfig().with_pin(published.pin).settled().commit == "1" * 40
    finally:
        del os.environ["NATIVELOAD_PIN"], os.environ["NATIVELOAD_COMMIT"]
