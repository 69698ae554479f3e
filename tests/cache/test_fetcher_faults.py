"""Whatever a server, a proxy or a network does, a fetch ends: with the right bytes, or soon and with a reason."""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import hashlib
import io
import itertools
import os
import random
import re
import socket
import threading
import time
import traceback
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import requests

from nativeload.cache import fetch_sockets
from nativeload.cache.fetch_http import HttpFetcher, Patience
from nativeload.errors import ConfigError, IntegrityError, NetworkError
from nativeload.value import replace
from tests.cache.fault_server import (
    Answer,
    FaultServer,
    black_hole,
    closed_port,
    write_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = random.Random(1).randbytes(200_000)
OTHER = random.Random(2).randbytes(200_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
QUICK = Patience(connect=1.0, waits=(0.01, 0.02, 0.03))
SECRET = "hf_secret"  # noqa: S105
TOKEN = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No descriptor and no thread outlives a fetch."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Got:
    """One fetch and what came of it."""

    def __init__(self, url: str, *, size: int | None = len(BODY), digest: str = DIGEST, **options: Any) -> None:
        self.steps: list[int] = []
        self.into = io.BytesIO()
        options = {"timeout": 2.0, "patience": QUICK, **options}
        started = time.monotonic()
        try:
            HttpFetcher(**options).fetch(url, self.into, size=size, sha256=digest, progress=self.steps.append)
        finally:
            self.seconds = time.monotonic() - started

    @property
    def body(self) -> bytes:
        return self.into.getvalue()


def _refused(url: str, **options: Any) -> tuple[NetworkError, float]:
    started = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        Got(url, **options)
    return caught.value, time.monotonic() - started


def _ranges(server: FaultServer) -> list[str | None]:
    return [request.headers.get("range") for request in server.requests]


# -- bodies -----------------------------------------------------------------------------------------------------------

FRAMES: dict[str, dict[str, Any]] = {"length": {}, "chunked": {"chunk": 4096}, "unframed": {"length": None}}


@pytest.mark.parametrize("frame", FRAMES)
def test_every_way_to_end_a_body_is_understood(frame: str) -> None:
    with FaultServer(Answer(BODY, **FRAMES[frame])) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert sum(got.steps) == len(BODY)
    assert _ranges(server) == [None]


@pytest.mark.parametrize("endless", [False, True], ids=["one byte", "endless"])
@pytest.mark.parametrize("frame", FRAMES)
def test_too_long_a_body_is_read_no_further(frame: str, *, endless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 64 KiB past the size are taken from the socket, and nothing past it is written."""
    received = 0
    real = socket.SocketIO.readinto

    def counted(self: socket.SocketIO, into: Any) -> int | None:
        nonlocal received
        count = real(self, into)
        received += count or 0
        return count

    monkeypatch.setattr(socket.SocketIO, "readinto", counted)
    framing = FRAMES[frame] | ({"length": 1 << 40} if endless and frame == "length" else {})
    body = BODY if endless else BODY + b"x"
    with FaultServer(Answer(body, endless=endless, **framing)) as server, pytest.raises(IntegrityError) as caught:
        Got(server.url)
    assert caught.value.actual == f"more than {len(BODY)} bytes"
    assert len(server.requests) == 1
    assert len(BODY) < received <= len(BODY) + (64 << 10)


@pytest.mark.parametrize("frame", ["length", "chunked"])
def test_a_short_body_that_is_whole_is_final(frame: str) -> None:
    """The server kept its promise: it has other bytes, and asking again brings the same."""
    with FaultServer(Answer(BODY[:-1], **FRAMES[frame])) as server, pytest.raises(IntegrityError) as caught:
        Got(server.url)
    assert caught.value.actual == f"{len(BODY) - 1} bytes"
    assert len(server.requests) == 1


def test_a_large_body_announced_too_short_is_not_fetched() -> None:
    body = bytes(8 << 20)
    into = io.BytesIO()
    with FaultServer(Answer(body)) as server, pytest.raises(IntegrityError, match=f"found {len(body)} bytes"):
        HttpFetcher().fetch(server.url, into, size=len(body) + 1, sha256=DIGEST)
    assert len(into.getvalue()) < len(body) / 4


def test_wrong_bytes_are_final() -> None:
    with FaultServer(Answer(OTHER)) as server, pytest.raises(IntegrityError) as caught:
        Got(server.url)
    assert caught.value.actual == f"sha256 {hashlib.sha256(OTHER).hexdigest()}"
    assert len(server.requests) == 1


@pytest.mark.parametrize("end", ["close", "reset", "stall"])
@pytest.mark.parametrize("cut", [0, 1, HALF, len(BODY) - 1])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_body_that_is_cut_off_is_resumed(frame: str, cut: int, end: str) -> None:
    answer = Answer(BODY, headers={"ETag": '"one"'}, **FRAMES[frame])
    with FaultServer(dataclasses.replace(answer, cut=cut, end=end), answer) as server:
        got = Got(server.url, timeout=0.15)
    assert got.body == BODY
    assert min(got.steps) > 0
    first, again = server.requests
    assert "range" not in first.headers
    if cut and end != "reset":
        assert again.headers["range"] == f"bytes={cut}-"
        assert again.headers["if-range"] == '"one"'
    assert sum(got.steps) == len(BODY)


def test_three_further_tries_may_each_bring_a_piece() -> None:
    with FaultServer(*[Answer(BODY, cut=50_000)] * 4) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert _ranges(server) == [None, "bytes=50000-", "bytes=100000-", "bytes=150000-"]


def test_after_three_further_tries_it_is_over() -> None:
    with FaultServer(Answer(BODY, cut=100)) as server:
        error, _ = _refused(server.url)
    assert len(server.requests) == 4
    assert error.reason == f"the connection was closed after 400 of {len(BODY)} bytes (4 tries)"


def test_tries_wait_longer_each_time_and_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred machines that lost the same server do not come back in one moment."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with FaultServer(Answer(BODY, cut=0)) as server:
        for _ in range(4):
            _refused(server.url, patience=Patience())
    assert len(waited) == len(set(waited)) == 12
    for wait, base in zip(waited, (0.2, 0.5, 1.0) * 4, strict=True):
        assert 0.75 * base <= wait <= 1.25 * base


@pytest.mark.parametrize("end", ["reset", "stall"])
def test_nothing_is_missing_when_the_end_is_lost_after_the_last_byte(end: str) -> None:
    framings: list[dict[str, Any]] = [{"length": None}, {"chunk": 1000, "cut": len(BODY)}, {"length": len(BODY) + 5}]
    for framing in framings:
        with FaultServer(Answer(BODY, end=end, **framing)) as server:
            assert Got(server.url, timeout=0.2).body == BODY
        assert len(server.requests) == 1


def test_a_server_that_ignores_ranges_starts_again() -> None:
    """The static file server of Python is one. A splice would be half as long again, with a wrong digest."""
    with FaultServer(Answer(BODY, cut=HALF), Answer(BODY, ranges=False)) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]
    assert -HALF in got.steps
    assert sum(got.steps) == len(BODY)


def _part(start: int, **changes: Any) -> Answer:
    headers = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} | changes.pop("headers", {})
    return Answer(BODY[start:], status=206, headers=headers, **changes)


MISFITS = {
    "earlier": _part(HALF - 10),
    "later": _part(HALF + 10),
    "another total": _part(HALF, headers={"Content-Range": f"bytes {HALF}-{len(BODY) - 1}/{len(BODY) + 1}"}),
    "another end": _part(HALF, headers={"Content-Range": f"bytes {HALF}-{len(BODY) - 2}/{len(BODY)}"}),
    "no total": _part(HALF, headers={"Content-Range": f"bytes {HALF}-{len(BODY) - 1}/*"}),
    "another unit": _part(HALF, headers={"Content-Range": f"lines {HALF}-{len(BODY) - 1}/{len(BODY)}"}),
    "other digits": _part(HALF, headers={"Content-Range": f"bytes {HALF}-{len(BODY) - 1}/{len(BODY)}\xb2"}),
    "nothing said": Answer(BODY[HALF:], status=206),
    "several parts": Answer(BODY, status=206, headers={"Content-Type": "multipart/byteranges; boundary=x"}),
    "another file": _part(HALF, headers={"ETag": '"two"'}),
    "another weak mark": _part(HALF, headers={"ETag": 'W/"one"'}),
    "another day": _part(HALF, headers={"Last-Modified": "Fri, 20 Nov 2026 10:00:00 GMT"}),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_part_that_does_not_fit_is_never_spliced(misfit: str) -> None:
    """The part is of the bytes of another file, so a splice would show; and no further part is asked for."""
    marks = {"ETag": '"one"', "Last-Modified": "Thu, 19 Nov 2026 10:00:00 GMT"}
    whole = Answer(BODY, headers=marks)
    cut = dataclasses.replace(whole, cut=HALF)
    part = dataclasses.replace(MISFITS[misfit], body=OTHER[HALF:])
    with FaultServer(cut, part, cut, whole) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-", None, None]
    assert sum(got.steps) == len(BODY)


def test_the_part_that_fits_is_taken() -> None:
    """The control of the test above: the same part without the misfit."""
    with FaultServer(Answer(BODY, cut=HALF, headers={"ETag": '"one"'}), _part(HALF)) as server:
        assert Got(server.url).body == BODY
    assert len(server.requests) == 2


def test_a_file_that_changed_in_between_is_fetched_anew() -> None:
    """If-Range names the first file; the server has the second one now, and sends it whole."""
    old = Answer(OTHER, cut=HALF, headers={"ETag": '"old"'})
    new = Answer(BODY, headers={"ETag": '"new"'})
    with FaultServer(old, dataclasses.replace(new, cut=HALF + 7), new) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert [request.headers.get("if-range") for request in server.requests] == [None, '"old"', '"new"']
    assert _ranges(server) == [None, f"bytes={HALF}-", f"bytes={HALF + 7}-"]


@pytest.mark.parametrize("etag", ['W/"weak"', "bare", '"a" "b"', '"tab\there"', ""])
def test_only_a_strong_mark_is_sent_back(etag: str) -> None:
    answer = Answer(BODY, headers={"ETag": etag} if etag else {})
    with FaultServer(dataclasses.replace(answer, cut=HALF), answer) as server:
        assert Got(server.url).body == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]
    assert "if-range" not in server.requests[1].headers


def test_a_range_that_is_refused_is_not_asked_for_again() -> None:
    with FaultServer(Answer(BODY, cut=HALF), Answer(status=416), Answer(BODY, cut=HALF), Answer(BODY)) as server:
        assert Got(server.url).body == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-", None, None]


def test_a_416_to_a_plain_request_is_final() -> None:
    with FaultServer(Answer(BODY, cut=HALF), Answer(status=416)) as server:
        error, _ = _refused(server.url)
    assert error.status == 416
    assert len(server.requests) == 3


def test_a_promise_that_was_broken_is_forgotten() -> None:
    """An answer that announced too few bytes, and was cut off before the first, says nothing of the next one."""
    with FaultServer(Answer(BODY, length=600, cut=0), Answer(BODY)) as server:
        assert Got(server.url).body == BODY


def test_a_part_that_is_itself_cut_off_is_resumed() -> None:
    """Even where that part's own length kept its promise."""
    short = dataclasses.replace(_part(HALF), body=BODY[HALF : HALF + 1000])
    with FaultServer(Answer(BODY, cut=HALF), short, Answer(BODY)) as server:
        assert Got(server.url).body == BODY
    assert _ranges(server)[2] == f"bytes={HALF + 1000}-"


def test_a_manifest_that_is_cut_off_starts_again() -> None:
    """Nobody knows how long it should be, so its parts could not be checked to fit."""
    with FaultServer(Answer(BODY, cut=HALF), Answer(BODY)) as server:
        got = Got(server.url, size=None)
    assert got.body == BODY
    assert _ranges(server) == [None, None]
    assert -HALF in got.steps


def test_a_short_page_without_a_length_is_named_at_once() -> None:
    """A body that ends with the connection promises nothing; a portal's page is no cut-off library."""
    page = b"<!doctype html><title>Please log in</title>"
    with FaultServer(Answer(page, length=None)) as server, pytest.raises(IntegrityError, match="captive portal"):
        Got(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "identity, gzip", "x-unknown"])
def test_encoded_bytes_are_refused_undecoded(coding: str) -> None:
    bomb = b"\x1f\x8b\x08" + bytes(1000)
    with FaultServer(Answer(bomb, headers={"Content-Encoding": coding})) as server:
        error, _ = _refused(server.url, headers={"accept-encoding": "gzip"})
    assert "encoded" in error.reason
    assert [request.headers["accept-encoding"] for request in server.requests] == ["identity"]


def test_bytes_said_to_be_as_they_are_are_taken() -> None:
    with FaultServer(Answer(BODY, headers={"Content-Encoding": "Identity"})) as server:
        assert Got(server.url).body == BODY


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "identity", "chunked, chunked"])
def test_an_unknown_transfer_encoding_is_refused(coding: str) -> None:
    """The bytes would be written with their chunk sizes in between."""
    with FaultServer(Answer(BODY, headers={"Transfer-Encoding": coding})) as server:
        error, _ = _refused(server.url)
    assert "transfer encoding" in error.reason


def test_memory_is_bounded() -> None:
    body = BODY * 200
    answer = Answer(body)
    with FaultServer(answer) as server, open(os.devnull, "wb") as null:

        class Nowhere(io.BytesIO):
            def write(self, data: Any) -> int:
                return null.write(data)

        HttpFetcher().fetch(server.url, Nowhere(), size=len(body), sha256=hashlib.sha256(body).hexdigest())  # imports
        tracemalloc.start()
        try:
            HttpFetcher().fetch(server.url, Nowhere(), size=len(body), sha256=hashlib.sha256(body).hexdigest())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(body) == 40_000_000
    assert peak < 3 << 20


# -- slow ones --------------------------------------------------------------------------------------------------------


def test_the_limits_are_what_they_are() -> None:
    """A link of 32 KiB/s may finish: 7 MB get 60 s + 214 s."""
    patience = Patience()
    assert (patience.connect, patience.total, patience.link) == (5.0, 60.0, 32 * 1024)
    assert (patience.window, patience.slowest, patience.longest_wait) == (30.0, 1024.0, 20.0)


def test_a_server_that_never_answers_is_asked_twice() -> None:
    with FaultServer(Answer(raw=b"", end="stall")) as server:
        error, seconds = _refused(server.url, timeout=0.2)
    assert len(server.requests) == 2
    assert "no answer" in error.reason
    assert 0.4 <= seconds < 1.5


def test_a_head_that_drips_is_not_waited_for() -> None:
    """A byte every 30 ms never exceeds a timeout of 200 ms, which is all that requests looks at."""
    drip = Answer(b"x", every=0.03, slow_from=-1)
    with FaultServer(drip) as server:
        error, seconds = _refused(server.url, timeout=0.2)
        assert "no answer" in error.reason
        assert seconds < 1.2
        started = time.monotonic()
        assert requests.get(server.url, timeout=0.2).content == b"x"
        assert time.monotonic() - started > 1.0


DRIPS = {
    "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5;" + b"x" * 1000,
    "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n" + b"X-Trailer: x\r\n" * 999,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 999,
    "headers": b"HTTP/1.1 200 OK\r\n" + b"X-Header: x\r\n" * 999,
}


@pytest.mark.parametrize("kind", DRIPS)
def test_nothing_else_that_drips_is_waited_for(kind: str) -> None:
    fast = 60 if kind in {"chunk size", "trailer"} else 10
    with FaultServer(Answer(raw=DRIPS[kind], every=0.02, slow_from=fast)) as server:
        _, seconds = _refused(server.url, timeout=0.15)
    assert seconds < 2.5


@pytest.mark.parametrize("kind", ["trailer", "continue"])
def test_nothing_else_that_floods_is_taken_for_ever(kind: str) -> None:
    raw = {
        "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "continue": b"",
    }[kind]
    flood = {"trailer": b"X: y\r\n", "continue": b"HTTP/1.1 100 Continue\r\n\r\n"}[kind]

    class Flood(FaultServer):
        def _send(self, connection: socket.socket, answer: Answer, request: Any) -> None:
            connection.sendall(raw)
            while not self._stop.is_set():
                connection.sendall(flood * 1000)

    with Flood() as server:
        _, seconds = _refused(server.url, timeout=0.15)
    assert seconds < 2.5


def test_a_body_that_drips_is_given_up() -> None:
    patience = replace(QUICK, window=0.2, slowest=1000.0)
    with FaultServer(Answer(BODY, every=0.005, slow_from=100)) as server:
        error, seconds = _refused(server.url, patience=patience)
    assert "slower than 1000 bytes per second" in error.reason
    assert len(server.requests) == 4
    assert 0.8 <= seconds < 2.5


def test_a_slow_moment_is_not_the_end() -> None:
    """What drips once may be fast when it is asked again; and what comes fast enough is left alone."""
    patience = replace(QUICK, window=0.2, slowest=1000.0)
    with FaultServer(Answer(BODY, every=0.005, slow_from=HALF), Answer(BODY)) as server:
        assert Got(server.url, patience=patience).body == BODY
    assert len(server.requests) == 2
    with FaultServer(Answer(BODY[:200], every=0.002)) as server:
        got = Got(
            server.url,
            size=200,
            digest=hashlib.sha256(BODY[:200]).hexdigest(),
            patience=replace(patience, slowest=100.0),
        )
    assert len(server.requests) == 1
    assert got.seconds > 0.4


def test_the_deadline_is_for_everything_together() -> None:
    patience = replace(QUICK, total=0.6, link=1e9, slowest=0.0)
    with FaultServer(Answer(BODY, every=0.01, slow_from=HALF)) as server:
        error, seconds = _refused(server.url, patience=patience)
    assert error.reason.startswith("not done within 1 s: timed out after")
    assert 0.4 < seconds < 1.0


def test_a_slow_link_may_finish() -> None:
    """The same with the time that the bytes need on the slowest link: half a second and 200 B at 200 B/s."""
    patience = replace(QUICK, total=0.1, link=200.0, slowest=0.0)
    with FaultServer(Answer(BODY[:200], every=0.003)) as server:
        got = Got(server.url, size=200, digest=hashlib.sha256(BODY[:200]).hexdigest(), patience=patience)
    assert got.seconds > 0.5


# -- servers that are not there ---------------------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record each connection that is tried."""
    tried: list[tuple[str, int]] = []
    real = fetch_sockets._connect

    def counted(host: str, port: int, clock: fetch_sockets.Clock) -> socket.socket:
        tried.append((host, port))
        return real(host, port, clock)

    monkeypatch.setattr(fetch_sockets, "_connect", counted)
    return tried


def test_a_hub_that_is_down_is_tried_twice_and_fails_in_seconds(attempts: list[Any]) -> None:
    """With the patience that users get."""
    error, seconds = _refused(f"http://127.0.0.1:{closed_port()}/x", patience=Patience(), timeout=10.0)
    assert error.reason == "no connection: Connection refused (2 tries)"
    assert len(attempts) == 2
    assert seconds < 2


def test_a_name_that_nobody_knows_is_tried_twice(attempts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error, seconds = _refused("http://hub.invalid/x", patience=Patience(), timeout=10.0)
    assert error.reason == "no connection: the host name is not known (2 tries)"
    assert len(attempts) == 2
    assert seconds < 2


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """getaddrinfo() knows no timeout: the resolver's own are tens of seconds."""
    back = threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        back.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    error, seconds = _refused("http://hub.invalid/x", patience=replace(QUICK, connect=0.2))
    back.set()
    assert "the name lookup timed out" in error.reason
    assert seconds < 1.5


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..invalid", ".invalid"])
def test_a_name_that_can_be_none_is_an_error_like_others(host: str) -> None:
    _refused(f"http://{host}/x")


def test_a_network_that_swallows_everything_is_bounded(attempts: list[Any]) -> None:
    with black_hole() as port:
        error, seconds = _refused(f"http://127.0.0.1:{port}/x", patience=replace(QUICK, connect=0.3))
    assert error.reason == "no connection: timed out (2 tries)"
    assert len(attempts) == 2
    assert 0.6 <= seconds < 1.5


def test_the_timeout_bounds_the_connection_too() -> None:
    with black_hole() as port:
        _, seconds = _refused(f"http://127.0.0.1:{port}/x", patience=Patience(), timeout=0.2)
    assert seconds < 1.5


def _resolving_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have one IPv4 address per port, in order."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_many_silent_addresses_take_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub has eight; each of them with a connect timeout of its own would be most of a minute."""
    with black_hole() as port:
        _resolving_to(monkeypatch, *[port] * 8)
        _, seconds = _refused("http://hub.invalid/x", patience=replace(QUICK, connect=0.3))
    assert seconds < 1.8


def test_a_silent_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 that leads nowhere is common."""
    with black_hole() as port, FaultServer(Answer(BODY)) as server:
        _resolving_to(monkeypatch, port, server.port)
        assert Got("http://hub.invalid/x", patience=replace(QUICK, connect=0.6)).body == BODY


def test_both_families_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four addresses of one family do not keep the other from being tried."""
    six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", number, 0, 0)) for number in range(5)]
    four = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in range(3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: six + four)
    assert fetch_sockets._looked_up("host", 1, 1.0) == [six[0], four[0], six[1], four[1]]


def test_names_are_looked_up_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    assert fetch_sockets._looked_up("127.0.0.1", 80, 1.0)[0][4] == ("127.0.0.1", 80)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_server_that_hangs_up_is_asked_four_times(end: str) -> None:
    with FaultServer(Answer(raw=b"", end=end)) as server:
        _refused(server.url)
    assert len(server.requests) == 4


def test_a_server_that_goes_away_in_the_middle_is_given_more_time(attempts: list[Any]) -> None:
    """It was there a moment ago, so it may come back: it is not simply down."""
    with FaultServer(Answer(BODY, cut=HALF)) as server:

        def stop() -> None:
            while not server.requests:
                time.sleep(0.001)
            server.hang_up()

        stopped = threading.Thread(target=stop)
        stopped.start()
        error, _ = _refused(server.url, patience=replace(QUICK, waits=(0.1,)))
        stopped.join()
    assert "no connection" in error.reason
    assert len(attempts) == 4


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "long status": b"HTTP/1.1 200 " + b"x" * 70_000,
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "status 42": b"HTTP/1.1 42 OK\r\n\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\nab",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
    "negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nab",
    "long chunk line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 70_000,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_not_http_is_an_error_like_others(kind: str) -> None:
    with FaultServer(Answer(raw=GARBAGE[kind])) as server:
        error, _ = _refused(server.url)
    assert str(error).isascii()


def test_damaged_answers_lead_to_known_errors_only() -> None:
    """Two hundred heads, each with some bytes changed, doubled or taken out."""
    chance = random.Random(3)
    heads = [
        b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: "a"\r\nContent-Type: text/plain\r\n\r\n123456789',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\xc3\xa9?q\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nX-Error-Message: \x1b[0m\xff\r\nContent-Length: 0\r\n\r\n",
    ]
    script = []
    for _ in range(200):
        head = bytearray(chance.choice(heads))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(head))
            head[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        script.append(Answer(raw=bytes(head)))
    digest = hashlib.sha256(b"123456789").hexdigest()
    ends: set[str] = set()
    printed = ""
    patience = replace(QUICK, waits=(0.0,), longest_wait=0.0)
    with FaultServer(*script, Answer(b"123456789")) as server:
        while len(server.requests) <= len(script):
            try:
                ends.add(Got(server.url, size=9, digest=digest, patience=patience, timeout=0.3).body.decode())
            except (NetworkError, IntegrityError) as error:
                ends.add(type(error).__name__)
                printed += str(error)
    assert ends == {"123456789", "NetworkError", "IntegrityError"}
    assert printed.replace("\n", "").isprintable()
    assert printed.isascii()


# -- what servers say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_speaks_of_the_token(status: int) -> None:
    with FaultServer(Answer(status=status)) as server:
        error, _ = _refused(server.url + "/org/name/x.so", headers=TOKEN)
    assert error.status == status
    assert "token" in error.reason
    assert "HF_TOKEN" in error.hint
    assert SECRET not in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_named(status: int) -> None:
    headers = {"X-Error-Message": "Entry not found\x1b[31m"}
    with FaultServer(Answer(status=status, headers=headers)) as server:
        error, _ = _refused(server.url + "/org/name/resolve/abc/libllama.so.0")
    assert error.status == status
    assert error.reason.startswith("libllama.so.0 is not there")
    assert "Entry not found\\x1b[31m" in error.reason
    assert len(server.requests) == 1


BUSY = [408, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_server_is_asked_again(status: int) -> None:
    with FaultServer(*[Answer(status=status)] * 3, Answer(BODY)) as server:
        assert Got(server.url).body == BODY
    with FaultServer(Answer(status=status)) as server:
        error, _ = _refused(server.url)
    assert error.status == status
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "status", [201, 202, 203, 204, 206, 226, 300, 304, 305, 400, 402, 405, 409, 418, 451, 501, 505, 999]
)
def test_any_other_status_is_final(status: int) -> None:
    headers = {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"} if status == 206 else {}
    with FaultServer(Answer(BODY, status=status, headers=headers)) as server:
        error, _ = _refused(server.url)
    assert error.status == status
    assert len(server.requests) == 1


def _busy(retry_after: str) -> Answer:
    return Answer(status=429, headers={"Retry-After": retry_after})


def _date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_server_is_given_the_time_it_asks_for(kind: str) -> None:
    """A date has whole seconds: one and a half from now is at least half a second away."""
    with FaultServer(_busy("1" if kind == "seconds" else _date(1.6)), Answer(BODY)) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert 0.5 < got.seconds < 2.5
    assert kind == "date" or got.seconds >= 1.0


@pytest.mark.parametrize("wanted", ["1000000000", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_that_asks_for_too_much_is_given_less(wanted: str) -> None:
    with FaultServer(_busy(wanted)) as server:
        _, seconds = _refused(server.url, patience=replace(QUICK, longest_wait=0.1))
    assert len(server.requests) == 4
    assert 0.3 <= seconds < 2.0


@pytest.mark.parametrize("wanted", ["1e9", "-5", "soon", "", "0x10", "\xb2", "Fri, 31 Dec 1999 23:59:59 GMT", "1, 2"])
def test_a_wish_that_makes_no_sense_is_no_wish(wanted: str) -> None:
    with FaultServer(_busy(wanted), Answer(BODY)) as server:
        got = Got(server.url)
    assert got.seconds < 1


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    with FaultServer(_busy("15")) as server:
        error, seconds = _refused(server.url, patience=replace(QUICK, total=3.0))
    assert "15 s before another try would be past the" in error.reason
    assert error.status == 429
    assert seconds < 1
    assert len(server.requests) == 1


# -- redirects and secrets --------------------------------------------------------------------------------------------


def _redirect(location: str, status: int = 302, **more: Any) -> Answer:
    return Answer(b"moved", status=status, headers={"Location": location}, **more)


PRIVATE = {**TOKEN, "Cookie": "session=1", "X-Api-Key": "key", "User-Agent": "nativeload-test"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_secrets_go_to_the_first_server_only(status: int) -> None:
    """Another port is another server; the control is that the first one was told them."""
    with FaultServer(Answer(BODY)) as far, FaultServer(_redirect(far.url + "/blob?sig=1", status)) as first:
        assert Got(first.url, headers=PRIVATE).body == BODY
    told, not_told = first.requests[0].headers, far.requests[0].headers
    assert {name.lower(): value for name, value in PRIVATE.items()}.items() <= told.items()
    assert set(not_told) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
    assert not_told["user-agent"] == "nativeload-test"
    assert far.requests[0].target == "/blob?sig=1"


def test_the_same_server_under_another_name_is_another() -> None:
    with FaultServer() as server:
        server._script = iter([_redirect(f"http://localhost:{server.port}/"), Answer(BODY)])
        assert Got(server.url, headers=TOKEN).body == BODY
    assert [request.headers.get("authorization") for request in server.requests] == [TOKEN["Authorization"], None]


def test_the_same_server_is_told_again() -> None:
    with FaultServer(_redirect("/other/place"), Answer(BODY)) as server:
        assert Got(server.url + "/a/b", headers=PRIVATE).body == BODY
    assert [request.headers["authorization"] for request in server.requests] == [TOKEN["Authorization"]] * 2
    assert server.paths == ["/a/b", "/other/place"]


def test_whoever_sends_us_back_does_not_make_us_tell() -> None:
    """Otherwise the other server could choose what is done with the token on the first one."""
    with FaultServer() as far, FaultServer(_redirect(far.url), Answer(BODY)) as first:
        far._script = iter([_redirect(first.url + "/chosen")])
        assert Got(first.url, headers=TOKEN).body == BODY
    assert [request.headers.get("authorization") for request in first.requests] == [TOKEN["Authorization"], None]


def test_a_resumed_transfer_asks_the_first_server_again() -> None:
    """An address that was signed for a minute may have expired."""
    with FaultServer(Answer(BODY, cut=HALF), Answer(BODY)) as far, FaultServer() as first:
        first._script = iter([_redirect(far.url + "/1"), _redirect(far.url + "/2")])
        assert Got(first.url, headers=TOKEN).body == BODY
    assert far.paths == ["/1", "/2"]
    assert _ranges(far) == _ranges(first) == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("hops", [5, 6])
def test_redirects_are_counted(hops: int) -> None:
    with FaultServer(*[_redirect(f"/{number}") for number in range(hops)], Answer(BODY)) as server:
        if hops == 5:
            assert Got(server.url).body == BODY
        else:
            error, _ = _refused(server.url)
            assert "more than 5 times" in error.reason
    assert len(server.requests) == 6


@pytest.mark.parametrize("location", ["/", "http://127.0.0.1:{port}/", "//127.0.0.1:{port}"])
def test_a_circle_is_noticed(location: str) -> None:
    with FaultServer() as server:
        server._script = itertools.repeat(_redirect(location.format(port=server.port)))
        error, _ = _refused(server.url + "/")
    assert "in a circle" in error.reason
    assert len(server.requests) == 1


LOCATIONS = ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x", "http://", "http://[x", "//", "http://:80/"]
LOCATIONS += ["http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://\xff/", "data:,x", "http://*.x/"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_redirects_lead_to_http_servers_only(location: str) -> None:
    with FaultServer(_redirect(location)) as server:
        error, _ = _refused(server.url)
    assert len(server.requests) == 1
    assert "http" in location or location == "//" or error.reason.endswith("which is refused")
    assert str(error).isascii()


def test_a_redirect_to_nowhere_is_said() -> None:
    with FaultServer(Answer(status=302)) as server:
        error, _ = _refused(server.url)
    assert error.reason == "the server redirects to nowhere"


def test_the_body_of_a_redirect_is_not_read() -> None:
    """A session of requests reads all of it, to use the connection again."""
    with FaultServer(Answer(BODY)) as far, FaultServer(_redirect(far.url, endless=True, length=1 << 40)) as server:
        got = Got(server.url)
    assert got.body == BODY
    assert got.seconds < 1


def test_a_login_in_a_redirect_is_not_sent() -> None:
    with FaultServer(Answer(BODY)) as far, FaultServer(_redirect(f"http://a:b@127.0.0.1:{far.port}/")) as first:
        assert Got(first.url).body == BODY
    assert "authorization" not in far.requests[0].headers


def test_a_login_in_the_url_is_sent_to_its_server() -> None:
    """A mirror behind a password; a token given as a header goes before it."""
    with FaultServer(Answer(BODY)) as server:
        url = server.url.replace("//", "//us%40er:p%3Aw@")
        assert Got(url).body == BODY
        assert Got(url, headers={"authorization": "Bearer x"}).body == BODY
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Basic {base64.b64encode(b'us@er:p:w').decode()}", "Bearer x"]


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is requests itself, which sends what is there."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    with FaultServer(Answer(BODY)) as far, FaultServer(_redirect(far.url), Answer(b"control")) as server:
        assert Got(server.url).body == BODY
        requests.get(server.url, timeout=2)
    assert "authorization" not in server.requests[0].headers
    assert "authorization" not in far.requests[0].headers
    assert server.requests[1].headers["authorization"].startswith("Basic ")


LEAKY = [
    Answer(status=404),
    Answer(status=503),
    Answer(BODY, cut=10),
    Answer(OTHER),
    Answer(raw=b"", end="reset"),
    _redirect("http://user:SECRET@127.0.0.1:1/x?sig=SECRET#SECRET"),
    _redirect("file:///x?SECRET"),
    _redirect("http://SECRET:SECRET@[x"),
    Answer(BODY, headers={"Content-Encoding": "gzip"}),
    Answer(raw=b"", end="stall"),
]


@pytest.mark.parametrize("answer", LEAKY)
def test_no_error_shows_a_secret(answer: Answer) -> None:
    """Nor do the errors behind it, which a traceback prints: those of requests hold the whole URL."""
    private = {"Authorization": "Bearer SECRET"}
    with FaultServer(answer) as server:
        url = server.url.replace("//", "//user:SECRET@") + "/x?sig=SECRET#SECRET"
        with pytest.raises((NetworkError, IntegrityError)) as caught:
            Got(url, headers=private, timeout=0.2)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["http://user:SECRET@127.0.0.1:1/x?SECRET", "http://nowhere.invalid/?SECRET", "http://[SECRET/"]
)
def test_no_error_about_a_connection_shows_a_secret(url: str) -> None:
    with pytest.raises((NetworkError, ConfigError)) as caught:
        Got(url, patience=replace(QUICK, connect=0.2))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer SECRET\n"),
        ("Authorization", "Bearer SECRET\r\nX: y"),
        ("Authorization", "Bearer SECRET\u00e9"),
        ("Authorization", " SECRET"),
        ("Author ization", "SECRET"),
        ("", "SECRET"),
        ("X\r\nY", "SECRET"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_unseen(name: str, value: str) -> None:
    """A token read from a file often ends in a newline."""
    with pytest.raises(ConfigError) as caught:
        HttpFetcher(headers={name: value})
    assert "SECRET" not in str(caught.value)
    assert caught.value.option == "headers"


def test_a_fetcher_does_not_show_its_headers() -> None:
    assert SECRET not in repr(HttpFetcher(headers=TOKEN))


def test_the_user_agent_is_ours() -> None:
    with FaultServer(Answer(BODY)) as server:
        Got(server.url)
    assert re.fullmatch(r"nativeload/\d.*", server.requests[0].headers["user-agent"])


# -- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_environments_proxy_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(Answer(BODY)) as proxy:
        monkeypatch.setenv(name, proxy.url.replace("//", "//user:pass@"))
        assert Got("http://hub.invalid/x", headers=TOKEN).body == BODY
    assert proxy.paths == ["http://hub.invalid/x"]
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {base64.b64encode(b'user:pass').decode()}"


def test_no_proxy_names_those_to_reach_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(Answer(BODY)) as server, FaultServer(Answer(BODY)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert Got(server.url).body == BODY
        assert proxy.requests == []
        monkeypatch.setenv("NO_PROXY", "example.org")
        assert Got(server.url).body == BODY
    assert len(proxy.requests) == 1


def test_a_proxy_given_for_the_call_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NO_PROXY too; and the environment is as it was."""
    with FaultServer(Answer(BODY)) as server, FaultServer(Answer(BODY)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,*")
        before = dict(os.environ)
        assert Got(server.url + "/x", proxy=proxy.url).body == BODY
        assert dict(os.environ) == before
        assert proxy.paths == [server.url + "/x"]
        assert Got(server.url).body == BODY
        monkeypatch.delenv("NO_PROXY")
        assert Got(server.url + "/y", proxy=proxy.url).body == BODY
        assert proxy.paths == [server.url + "/x", server.url + "/y"]
    assert len(server.requests) == 1


def test_redirects_find_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY is looked at for each server, not once."""
    with FaultServer(Answer(BODY)) as near, FaultServer(_redirect(near.url)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert Got("http://hub.invalid/x", headers=TOKEN).body == BODY
    assert len(proxy.requests) == len(near.requests) == 1


@pytest.mark.parametrize("given", [True, False], ids=["given", "environment"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_named(scheme: str, *, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://user:SECRET@127.0.0.1:{closed_port()}"
    if not given:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
    error, seconds = _refused(f"{scheme}://hub.invalid/x", proxy=proxy if given else None)
    shown = proxy.replace("SECRET", "***")
    assert error.reason == f"the proxy {shown} cannot be reached: Connection refused (2 tries)"
    assert ("HTTPS_PROXY" in error.hint) != given
    assert "SECRET" not in str(error)
    assert seconds < 2


def test_a_proxy_that_wants_a_password_is_named() -> None:
    with FaultServer(Answer(status=407)) as proxy:
        error, _ = _refused("http://hub.invalid/x", proxy=proxy.url)
        assert proxy.url in error.reason
        assert error.status == 407
        error, _ = _refused("https://hub.invalid/x", proxy=proxy.url)
    assert error.reason == f"the proxy {proxy.url} answers 407"
    assert error.status == 407
    assert len(proxy.requests) == 2


def test_a_proxy_that_is_busy_is_asked_again() -> None:
    with FaultServer(Answer(status=503)) as proxy:
        error, _ = _refused("https://hub.invalid/x", proxy=proxy.url)
    assert "answers 503" in error.reason
    assert len(proxy.requests) == 2


def test_a_proxy_that_drips_is_not_waited_for() -> None:
    drip = Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X-Header: x\r\n" * 999, every=0.02, slow_from=-1)
    with FaultServer(drip) as proxy:
        error, seconds = _refused("https://hub.invalid/x", proxy=proxy.url, patience=replace(QUICK, connect=0.3))
    assert error.reason.startswith(f"the proxy {proxy.url} does not answer")
    assert seconds < 1.5


@pytest.mark.parametrize("value", ["http://[SECRET", "http://user:SECRET@", "http://user:SECRET@host:x"])
def test_a_proxy_that_is_none_is_an_error_like_others(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    error, _ = _refused("http://hub.invalid/x")
    assert "proxy" in error.reason
    if "@" in value:
        assert "SECRET" not in str(error)
    with pytest.raises(ConfigError) as caught:
        HttpFetcher(proxy=value)
    assert caught.value.option == "proxy"
    assert caught.value.__context__ is None or "@" not in value


@pytest.mark.parametrize("value", ["", "ftp://host:1", "http://", "http://ho st:1", "http://host:1\n", "http://host:0"])
def test_a_proxy_argument_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError):
        HttpFetcher(proxy=value)


def test_a_proxy_may_be_written_without_a_scheme() -> None:
    with FaultServer(Answer(BODY)) as proxy:
        assert Got("http://hub.invalid/x", proxy=f"127.0.0.1:{proxy.port}").body == BODY


def test_a_socks_proxy_that_cannot_be_used_is_said() -> None:
    """It needs a package that nativeload does not bring."""
    error, _ = _refused("http://hub.invalid/x", proxy=f"socks5://127.0.0.1:{closed_port()}")
    assert "socks5" in error.reason


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the servers' certificate be the network's own."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(write_certificate(tmp_path)))


def test_an_unknown_certificate_is_final() -> None:
    with FaultServer(Answer(BODY), tls=True) as server:
        error, _ = _refused(server.url, headers=TOKEN)
    assert "certificate" in error.reason
    assert "REQUESTS_CA_BUNDLE" in error.hint
    assert server.connections == 1
    assert server.requests == []


@pytest.mark.usefixtures("known")
def test_the_networks_own_certificate_can_be_known() -> None:
    with FaultServer(Answer(BODY, cut=HALF), Answer(BODY), tls=True) as server:
        assert Got(server.url).body == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]


@pytest.mark.usefixtures("known")
def test_a_certificate_for_another_host_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(Answer(BODY), tls=True) as server:
        _resolving_to(monkeypatch, server.port)
        error, _ = _refused("https://hub.invalid/x")
    assert "certificate" in error.reason
    assert server.connections == 1


@pytest.mark.usefixtures("known")
def test_the_clock_runs_under_tls_too() -> None:
    with FaultServer(Answer(BODY, every=0.02, slow_from=-1), tls=True) as server:
        error, seconds = _refused(server.url, timeout=0.2)
        assert "no answer" in error.reason
        assert seconds < 1.5
    with FaultServer(Answer(BODY, cut=HALF, end="stall"), Answer(BODY), tls=True) as server:
        assert Got(server.url, timeout=0.3).body == BODY


def test_a_server_that_does_not_speak_tls_is_said() -> None:
    with FaultServer(Answer(status=400)) as server:
        error, _ = _refused(server.url.replace("http", "https"))
    assert error.reason.startswith("TLS failed: ")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("known")
def test_no_redirect_leads_out_of_tls() -> None:
    with FaultServer(Answer(BODY)) as plain, FaultServer(_redirect(plain.url), tls=True) as server:
        error, _ = _refused(server.url)
    assert "from https to http" in error.reason
    assert plain.connections == 0


@pytest.mark.usefixtures("known")
def test_a_redirect_may_lead_into_tls() -> None:
    with FaultServer(Answer(BODY), tls=True) as server, FaultServer(_redirect(server.url)) as plain:
        assert Got(plain.url, headers=TOKEN).body == BODY
    assert "authorization" not in server.requests[0].headers


@pytest.mark.usefixtures("known")
def test_a_tunnel_hides_the_token_from_the_proxy() -> None:
    with FaultServer(Answer(BODY), tls=True) as server, FaultServer(tunnel=True) as proxy:
        assert Got(server.url + "/x", headers=TOKEN, proxy=proxy.url.replace("//", "//user:pass@")).body == BODY
    (connect,) = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", f"127.0.0.1:{server.port}")
    assert "authorization" not in connect.headers
    assert connect.headers["proxy-authorization"].startswith("Basic ")
    assert server.requests[0].headers["authorization"] == TOKEN["Authorization"]
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.usefixtures("known")
def test_a_proxy_may_speak_tls_itself() -> None:
    with FaultServer(Answer(BODY), tls=True) as server, FaultServer(tls=True, tunnel=True) as proxy:
        assert Got(server.url, proxy=proxy.url).body == BODY
    assert len(proxy.requests) == len(server.requests) == 1


def test_a_bundle_of_certificates_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with FaultServer(Answer(BODY), tls=True) as server:
        error, _ = _refused(server.url)
    assert "/nowhere/ca.pem" in error.reason
    assert "tries" not in error.reason
    assert server.connections == 0
