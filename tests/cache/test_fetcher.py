"""Bytes are taken with their digest or not at all: from folders, into files, and what wrong bytes are called."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import pytest

from nativeload.cache.fetch_http import HttpFetcher
from nativeload.cache.fetcher import MANIFEST_LIMIT, Fetcher, FolderFetcher, fetcher_for, masked
from nativeload.errors import CacheError, ConfigError, IntegrityError, NetworkError
from tests.cache.fault_server import Answer, FaultServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Give = Callable[[bytes], tuple[Fetcher, str]]

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 256000\n"


@pytest.fixture(params=["http", "file"])
def give(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Give]:
    """Offer bytes over HTTP and in a folder: ``fetcher, url = give(body)``."""
    servers: list[FaultServer] = []

    def offer(body: bytes) -> tuple[Fetcher, str]:
        if request.param == "file":
            (tmp_path / "offered.so").write_bytes(body)
            url = (tmp_path / "offered.so").as_uri()
        else:
            servers.append(FaultServer(Answer(body)).__enter__())
            url = servers[-1].url + "/offered.so"
        return fetcher_for(url, timeout=2), url

    yield offer
    for server in servers:
        server.__exit__()


# -- both fetchers ----------------------------------------------------------------------------------------------------


def test_the_bytes_arrive_and_are_counted(give: Give, tmp_path: Path) -> None:
    fetcher, url = give(BODY)
    steps: list[int] = []
    with (tmp_path / "got").open("w+b") as into:
        assert fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST, progress=steps.append) == len(BODY)
        into.seek(0)
        assert into.read() == BODY
    assert sum(steps) == len(BODY)
    assert min(steps) > 0


def test_what_the_file_held_before_goes(give: Give) -> None:
    """A longer file from an attempt at another place leaves nothing behind the end."""
    fetcher, url = give(BODY)
    into = io.BytesIO(b"x" * (len(BODY) + 9))
    into.seek(7)
    fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST)
    assert into.getvalue() == BODY


def test_an_empty_file_is_a_file(give: Give) -> None:
    fetcher, url = give(b"")
    assert fetcher.fetch(url, io.BytesIO(), size=0, sha256=hashlib.sha256().hexdigest()) == 0
    with pytest.raises(IntegrityError):
        fetcher.fetch(url, io.BytesIO(), size=0, sha256=DIGEST)


@pytest.mark.parametrize(
    ("body", "expected", "actual"),
    [
        (BODY + b"x", "256000 bytes", "more than 256000 bytes|256001 bytes"),
        (BODY[:-1], "256000 bytes", "255999 bytes"),
        (b"", "256000 bytes", "0 bytes"),
        (BODY[:1000] + b"\xff" + BODY[1001:], f"sha256 {DIGEST}", "sha256 [0-9a-f]{64}"),
    ],
    ids=["one byte more", "one byte less", "nothing", "one byte wrong"],
)
def test_other_bytes_are_refused_and_both_are_named(give: Give, body: bytes, expected: str, actual: str) -> None:
    fetcher, url = give(body)
    into = io.BytesIO()
    with pytest.raises(IntegrityError) as caught:
        fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST)
    assert caught.value.expected == expected
    assert re.fullmatch(actual, caught.value.actual)
    assert caught.value.path == url
    assert len(into.getvalue()) <= len(BODY)


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, DIGEST.upper(), "sha256:" + DIGEST, "g" * 64, None, DIGEST + "\n"]
)
def test_without_a_digest_nothing_is_opened(digest: Any, tmp_path: Path) -> None:
    """An empty digest is no digest that everything has."""
    there = tmp_path / "there"
    there.write_bytes(BODY)
    with FaultServer(Answer(BODY)) as server:
        for url in (server.url, there.as_uri()):
            into = io.BytesIO(b"kept")
            with pytest.raises(IntegrityError, match="a sha256 in hex"):
                fetcher_for(url).fetch(url, into, size=len(BODY), sha256=digest)
            assert into.getvalue() == b"kept"
        assert server.connections == 0


def test_a_negative_size_is_refused(give: Give) -> None:
    fetcher, url = give(BODY)
    with pytest.raises(IntegrityError, match="a size in bytes"):
        fetcher.fetch(url, io.BytesIO(), size=-1, sha256=DIGEST)


def test_a_file_of_unknown_size_is_bounded(give: Give) -> None:
    """A manifest: its digest is known, its size is not."""
    fetcher, url = give(BODY)
    assert fetcher.fetch(url, io.BytesIO(), size=None, sha256=DIGEST) == len(BODY)
    assert fetcher.fetch(url, io.BytesIO(), size=None, sha256=DIGEST, limit=len(BODY)) == len(BODY)
    into = io.BytesIO()
    with pytest.raises(IntegrityError, match="at most 255999 bytes"):
        fetcher.fetch(url, into, size=None, sha256=DIGEST, limit=len(BODY) - 1)
    assert len(into.getvalue()) < len(BODY)


def test_the_bound_of_a_manifest_is_a_mebibyte(give: Give) -> None:
    assert MANIFEST_LIMIT == 1 << 20
    fits = b"m" * MANIFEST_LIMIT
    fetcher, url = give(fits)
    assert fetcher.fetch(url, io.BytesIO(), size=None, sha256=hashlib.sha256(fits).hexdigest()) == len(fits)
    fetcher, url = give(fits + b"m")
    with pytest.raises(IntegrityError):
        fetcher.fetch(url, io.BytesIO(), size=None, sha256=hashlib.sha256(fits + b"m").hexdigest())


WRONG = [
    (b"<!DOCTYPE html><html><head><title>Log in", "an HTML page (a proxy or captive portal?): <!DOCTYPE html>"),
    (b"\xef\xbb\xbf \r\n <HTML>\x1b[31m\xe9\x00 please", "an HTML page (a proxy or captive portal?): "),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "an XML document (a storage server's error?): <?xml"),
    (b'{"error": "Repository not found"}', 'a JSON error: {"error": "Repository not found"}'),
    (LFS, "a Git LFS pointer, not the file: version https://git-lfs.github.com/spec/v1\\noid"),
]


@pytest.mark.parametrize("size", [len(BODY), None, 90], ids=["size", "manifest", "too long"])
@pytest.mark.parametrize(("body", "said"), WRONG, ids=["html", "odd html", "xml", "json", "lfs"])
def test_what_is_plainly_something_else_is_named(give: Give, body: bytes, said: str, size: int | None) -> None:
    fetcher, url = give(body + b" " * 200)
    with pytest.raises(IntegrityError) as caught:
        fetcher.fetch(url, io.BytesIO(), size=size, sha256=DIGEST)
    assert said in caught.value.actual
    assert caught.value.actual.isascii()
    assert caught.value.actual.isprintable()


def test_only_the_beginning_is_shown(give: Give) -> None:
    fetcher, url = give(b"<html>" + "\u00e9".encode() * 5000)
    with pytest.raises(IntegrityError) as caught:
        fetcher.fetch(url, io.BytesIO(), size=None, sha256=DIGEST)
    assert caught.value.actual.partition("?): ")[2] == "<html>" + "\\xe9" * 74


def test_what_looks_wrong_and_has_the_digest_is_right(give: Give) -> None:
    """A manifest is JSON, and a model card may be HTML."""
    page = b"<html>{}</html>"
    fetcher, url = give(page)
    assert fetcher.fetch(url, io.BytesIO(), size=None, sha256=hashlib.sha256(page).hexdigest()) == len(page)
    with pytest.raises(IntegrityError) as caught:
        fetcher.fetch(url, io.BytesIO(), size=None, sha256=DIGEST)
    assert caught.value.actual.startswith(f"sha256 {hashlib.sha256(page).hexdigest()}, an HTML page")


class _Failing(io.BytesIO):
    """A file on a full or broken disk: it takes so many bytes."""

    name = "/cache/tmp/libllama.so.0"

    def __init__(self, code: int, after: int = 1000) -> None:
        super().__init__()
        self._code, self._after = code, after

    def write(self, data: Any) -> int:
        if self.tell() >= self._after:
            raise OSError(self._code, os.strerror(self._code))
        return super().write(data[: self._after - self.tell()])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_not_the_network(give: Give, code: int) -> None:
    """Trying again, or elsewhere, would only fill the disk again."""
    fetcher, url = give(BODY)
    with pytest.raises(CacheError) as caught:
        fetcher.fetch(url, _Failing(code), size=len(BODY), sha256=DIGEST)
    assert caught.value.path == "/cache/tmp/libllama.so.0"
    assert os.strerror(code) in str(caught.value)
    assert "of 256000 bytes" in str(caught.value)


@pytest.mark.parametrize("buffering", [0, 1 << 20], ids=["unbuffered", "buffered"])
def test_a_real_limit_is_met_even_when_it_shows_at_the_end(give: Give, tmp_path: Path, buffering: int) -> None:
    """What a buffer still holds was not written: flushing it is part of the fetch."""
    fetcher, url = give(BODY)
    path = tmp_path / "limited"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    into = open(path, "wb", buffering=buffering)  # noqa: SIM115 - closing it fails, and is part of the test
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CacheError) as caught:
            fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        into.close()
    assert caught.value.path == str(path)


def test_a_file_may_take_a_few_bytes_at_a_time(give: Give) -> None:
    class Small(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(data[:777])

    fetcher, url = give(BODY)
    into = Small()
    fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST)
    assert into.getvalue() == BODY


def test_a_file_that_takes_nothing_is_an_error(give: Give) -> None:
    class Blocked(io.BytesIO):
        def write(self, data: Any) -> int:
            return 0

    fetcher, url = give(BODY)
    with pytest.raises(CacheError):
        fetcher.fetch(url, Blocked(), size=len(BODY), sha256=DIGEST)


def test_a_pipe_is_no_file_to_fetch_into(give: Give) -> None:
    """It could not be emptied to start again."""
    fetcher, url = give(BODY)
    read, write = os.pipe()
    with os.fdopen(read, "rb"), os.fdopen(write, "wb") as into, pytest.raises(CacheError):
        fetcher.fetch(url, into, size=len(BODY), sha256=DIGEST)


def test_an_error_of_the_listener_is_the_listeners(give: Give) -> None:
    def cancel(_: int) -> None:
        raise OSError(errno.ENOSPC, "not the disk's")

    fetcher, url = give(BODY)
    with pytest.raises(OSError, match="not the disk's") as caught:
        fetcher.fetch(url, io.BytesIO(), size=len(BODY), sha256=DIGEST, progress=cancel)
    assert not isinstance(caught.value, CacheError)


# -- which fetcher ----------------------------------------------------------------------------------------------------


def test_the_scheme_says_which_fetcher() -> None:
    assert isinstance(fetcher_for("https://huggingface.co"), HttpFetcher)
    assert isinstance(fetcher_for("HTTP://mirror.example:8080/hub"), HttpFetcher)
    assert isinstance(fetcher_for("file:///mnt/mirror"), FolderFetcher)


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://host/x", "/mnt/mirror", "hub.example", "", "data:,x", "s3://user:secret@b", "http//x", "https://[x"],
)
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fetcher_for(endpoint).fetch(endpoint, io.BytesIO(), size=1, sha256=DIGEST)
    assert "secret" not in str(caught.value)


def test_a_fetcher_knows_its_own_urls_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BODY)
    with pytest.raises(ConfigError):
        HttpFetcher().fetch((tmp_path / "x").as_uri(), io.BytesIO(), size=len(BODY), sha256=DIGEST)
    with pytest.raises(ConfigError):
        FolderFetcher().fetch("http://127.0.0.1/x", io.BytesIO(), size=len(BODY), sha256=DIGEST)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:8443/a/b?sig=secret#secret", "https://host:8443/a/b"),
        ("http://host", "http://host"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://user:se/cret@host/x", "'http'://..."),
        ("http://[bad/secret", "'http'://..."),
        ("http://host/a\u202eb\x1b", "http://host/a\\u202eb\\x1b"),
        ("file:///a/b%20c", "file:///a/b%20c"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_the_network_is_imported_when_it_is_used(tmp_path: Path) -> None:
    """A folder needs no requests; and importing the fetchers, or making one, does not bring it either."""
    (tmp_path / "x").write_bytes(BODY)
    code = (
        "import io, sys; from nativeload.cache.fetcher import fetcher_for; fetcher_for('https://huggingface.co')\n"
        "fetcher_for(sys.argv[1]).fetch(sys.argv[1], io.BytesIO(), size=256000, sha256=sys.argv[2])\n"
        "print({'requests', 'urllib3', 'huggingface_hub'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, (tmp_path / "x").as_uri(), DIGEST]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


# -- folders ----------------------------------------------------------------------------------------------------------


def _take(url: str, into: BinaryIO | None = None) -> int:
    return FolderFetcher().fetch(url, into or io.BytesIO(), size=len(BODY), sha256=DIGEST)


@pytest.mark.parametrize("name", ["a b", "100%", "a#b?c", "\u00e9\u4f60", "a\\b", "..x"])
def test_any_file_name_can_be_written_as_a_url(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BODY)
    assert _take((tmp_path / name).as_uri()) == len(BODY)
    assert _take((tmp_path / name).as_uri().replace("file://", "file://localhost")) == len(BODY)


def test_a_name_that_is_no_utf8_is_found(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(path, "wb") as file:
        file.write(BODY)
    assert _take(tmp_path.as_uri() + "/%FF%FE") == len(BODY)


@pytest.mark.parametrize(
    "url",
    [
        "file://otherhost/x",
        "file:relative",
        "file:///x?y",
        "file:///x#y",
        "file:///x%00y",
        "file:///a/../x",
        "file:///a/%2e%2e/x",
        "file:///a/..%5cx",
    ],
)
def test_urls_that_name_no_file_here_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        _take(url)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="No such file or directory") as caught:
        _take((tmp_path / "absent").as_uri())
    assert caught.value.status == 404


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BODY)
    (tmp_path / "x").chmod(0)
    if os.geteuid() == 0:
        assert _take((tmp_path / "x").as_uri()) == len(BODY)
        return
    with pytest.raises(NetworkError, match="Permission denied"):
        _take((tmp_path / "x").as_uri())


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "socket", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    """A FIFO without a writer would hang whoever opens it; a link leads anywhere."""
    path = tmp_path / "x"
    url = path.as_uri()
    bound = socket.socket(socket.AF_UNIX)
    if kind == "link":
        (tmp_path / "real").write_bytes(BODY)
        path.symlink_to("real")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        bound.bind(str(path))
    else:
        url = "file:///dev/zero"
    with bound, pytest.raises(NetworkError, match="not a regular file"):
        _take(url)


@pytest.mark.parametrize("becomes", ["link", "fifo"])
def test_a_file_replaced_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    path, real = tmp_path / "x", os.lstat
    path.write_bytes(BODY)

    def replaced_after(asked: Any) -> os.stat_result:
        found = real(asked)
        path.unlink()
        if becomes == "link":
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(path)
        return found

    monkeypatch.setattr(os, "lstat", replaced_after)
    with pytest.raises(NetworkError):
        _take(path.as_uri())


def test_a_large_file_of_another_size_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(b"<html>")
        file.truncate(1 << 30)
    into = io.BytesIO()
    with pytest.raises(IntegrityError, match="1073741824 bytes, an HTML page"):
        FolderFetcher().fetch(path.as_uri(), into, size=2 << 30, sha256=DIGEST)
    assert len(into.getvalue()) <= 1 << 18


def test_a_file_that_grows_is_bounded(tmp_path: Path) -> None:
    """Its size was right when it was opened."""
    path = tmp_path / "x"
    path.write_bytes(BODY)

    class Appending(io.BytesIO):
        def write(self, data: Any) -> int:
            with path.open("ab") as file:
                file.write(BODY)
            return super().write(data)

    with pytest.raises(IntegrityError, match="more than 256000 bytes"):
        _take(path.as_uri(), Appending())


def test_an_error_while_reading_is_not_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO from a network file system that went away."""
    (tmp_path / "x").write_bytes(BODY)
    real = os.fdopen

    class Broken:
        def __init__(self, descriptor: int) -> None:
            self._file = real(descriptor, "rb", buffering=0)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def fileno(self) -> int:
            return self._file.fileno()

        def read(self, _: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdopen", lambda descriptor, *_, **__: Broken(descriptor))
    with pytest.raises(NetworkError, match="Input/output error"):
        _take((tmp_path / "x").as_uri())


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BODY)
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for size in (len(BODY), 1, 1 << 30):
        for name in ("x", "absent"):
            url = (tmp_path / name).as_uri()
            try:
                FolderFetcher().fetch(url, io.BytesIO(), size=size, sha256=DIGEST)
            except (IntegrityError, NetworkError):
                continue
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() <= threads
