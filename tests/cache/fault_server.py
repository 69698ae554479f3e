"""What can a server, a proxy or a network do wrong? A small one on this machine that does it on demand, for tests.

One rule: each request gets the next answer of the script (the last one again and again), and is on record.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self


# Signs nothing but these tests: CN "nativeload tests", localhost and 127.0.0.1, 2020 to 2120.
_KEY = (
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2sRJ6bCMHCojq/4cPTx6mAlWlCndHEzg+EsVUBqP+JahRANCAATn0YeYKQCOyvO8"
    "+anDEYFHWGdgmW7zWBLz9x+IIPZIOFYst33/X5lDYKDXupdVxQ+UaacJ9PMBtJMDYBO1D2DE"
)
_CERTIFICATE = (
    "MIIBhjCCASugAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBuYXRpdmVsb2FkIHRlc3RzMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAx"
    "MDAwMDAwWjAbMRkwFwYDVQQDDBBuYXRpdmVsb2FkIHRlc3RzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE59GHmCkAjsrzvPmpwxGBR1hnYJlu"
    "81gS8/cfiCD2SDhWLLd9/1+ZQ2Cg17qXVcUPlGmnCfTzAbSTA2ATtQ9gxKNeMFwwHQYDVR0OBBYEFLw0lGKv3+JD/sq19PS/2uG/3KMAMA8GA1Ud"
    "EwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAKBggqhkjOPQQDAgNJADBGAiEAtRY5qo1IUJMH"
    "dONNG7wDDK+flvL+LovVpAq6GFfNvp8CIQDYWxfOGb4n8jHxTLA1hgD+sH+874Bi18PUUwiZmw7TQw=="
)
CERTIFICATE_PEM = ssl.DER_cert_to_PEM_cert(base64.b64decode(_CERTIFICATE))
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class Request(NamedTuple):
    """What a client sent; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What the server does with one request.

    Attributes:
        ranges: answer a Range with a 206 where the status is 200 and If-Range, if sent, is the ETag.
        length: the Content-Length, or None for none; -1 is the true one.
        chunk: bytes in each chunk of a chunked body; 0 sends it plain.
        cut: how many bytes of the body are sent before the end; None sends all.
        end: what then happens: ``close``, ``reset`` (RST) or ``stall`` (nothing, until the client goes).
        every: seconds between bytes from ``slow_from`` on, of the head too if that is negative; 0 does not wait.
        endless: the body again and again.
        raw: sent as it is, in place of everything.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: int | None = -1
    chunk: int = 0
    cut: int | None = None
    end: str = "close"
    every: float = 0.0
    slow_from: int = 0
    endless: bool = False
    raw: bytes | None = None


class FaultServer:
    """A server on a free port of 127.0.0.1.

    Attributes:
        port: the one it listens on.
        requests: all of them, in order.
        connections: how many were made.
    """

    def __init__(self, *script: Answer, tls: bool = False, tunnel: bool = False) -> None:
        """Listen.

        Args:
            script: the answers.
            tls: speak TLS, with a certificate that nobody knows.
            tunnel: answer CONNECT as a proxy does; other requests get the script.
        """
        self.requests: list[Request] = []
        self.connections = 0
        self._script = iter(script)
        self._last = Answer(status=500)
        self._scheme, self._tunnel = "https" if tls else "http", tunnel
        self._context = _server_context() if tls else None
        self._stop, self._turn = threading.Event(), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.target for request in self.requests]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def hang_up(self) -> None:
        """Take no further connection, and end those there are."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # accept() returns

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            request = _read_request(connection)
            if request is not None:
                with self._turn:
                    self.requests.append(request)
                    self._last = answer = next(self._script, self._last)
                if request.method == "CONNECT" and self._tunnel:
                    self._pump(connection, request.target)
                else:
                    self._send(connection, answer, request)
        except OSError:  # the client went, which is what many tests want
            pass
        finally:
            connection.close()

    def _send(self, connection: socket.socket, answer: Answer, request: Request) -> None:
        head, body = (b"", answer.raw) if answer.raw is not None else _composed(answer, request)
        if answer.every and answer.slow_from < 0:
            self._drip(connection, head + body, answer.every)
        else:
            connection.sendall(head)
            parts = itertools.repeat(body) if answer.endless else iter([body])
            for part in parts:
                fast = part[: answer.slow_from] if answer.every else part
                connection.sendall(fast)
                self._drip(connection, part[len(fast) :], answer.every)
                if self._stop.is_set():
                    return
        if answer.end == "stall":
            while not self._stop.is_set() and not select.select([connection], [], [], 0.02)[0]:
                continue
        elif answer.end == "reset":
            time.sleep(0.05)  # else RST overtakes the bytes, and throws them away
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _drip(self, connection: socket.socket, data: bytes, every: float) -> None:
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            if self._stop.wait(every):
                return

    def _pump(self, connection: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as other:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while not self._stop.is_set():
                for ready in select.select([connection, other], [], [], 0.02)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    (other if ready is connection else connection).sendall(data)


def _read_request(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if data.startswith(b"\x16\x03"):
            return Request("a TLS hello", "", {})
        more = connection.recv(1 << 16)
        if not more:
            return None
        data += more
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    pairs = (line.partition(":")[::2] for line in lines[1:])
    return Request(method, target, {name.strip().lower(): value.strip() for name, value in pairs})


def _composed(answer: Answer, request: Request) -> tuple[bytes, bytes]:
    """Return the head and the body of an answer."""
    status, body, headers = answer.status, answer.body, dict(answer.headers)
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    fresh = request.headers.get("if-range") in {None, headers.get("ETag")}
    if asked and answer.ranges and status == 200 and fresh:
        start, whole = int(asked[1]), len(body)
        status, body = (206, body[start:]) if start < whole else (416, b"")
        headers |= {"Content-Range": f"bytes {start}-{whole - 1}/{whole}" if start < whole else f"bytes */{whole}"}
    if answer.chunk:
        headers["Transfer-Encoding"] = "chunked"
    elif answer.length is not None:
        headers["Content-Length"] = str(len(body) if answer.length < 0 else answer.length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if answer.cut is not None:
        body = body[: answer.cut]
    if answer.chunk:
        pieces = [body[at : at + answer.chunk] for at in range(0, len(body), answer.chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        body += b"0\r\n\r\n" if answer.cut is None and not answer.endless else b""
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1"), body


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"-----BEGIN PRIVATE KEY-----\n{_KEY}\n-----END PRIVATE KEY-----\n{CERTIFICATE_PEM}")
        file.flush()
        context.load_cert_chain(file.name)
    return context


def write_certificate(folder: Path) -> Path:
    """Write the certificate of all servers that speak TLS; return its path."""
    path = folder / "certificate.pem"
    path.write_text(CERTIFICATE_PEM)
    return path


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Give a port to which connections are neither made nor refused: its queue is full, and nobody accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield int(listener.getsockname()[1])
