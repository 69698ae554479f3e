"""How long may an HTTP operation take, when the other side decides how slowly bytes come?

One rule: no wait outlives the clock. A socket's own timeout bounds each wait and not their sum: a status line, the size
of a chunk or a trailer that comes one byte at a time would never end. So each read here asks how much time is left.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool

_ADDRESSES = 4  # of a host that has many, so many are tried: each has its share of the time


class Clock:
    """What is being waited for, and until when.

    Attributes:
        phase: ``connect``, ``greet`` (a proxy's answer, TLS) or ``talk``.
    """

    def __init__(self, total: float, *, connect: float, read: float) -> None:
        """Start.

        Args:
            total: seconds for everything.
            connect: seconds for each connection, and again for what precedes the first request on it.
            read: seconds for the head of an answer, and for each read of its body.
        """
        self.total, self.connect, self.read = total, connect, read
        self.phase = "connect"
        self._end = self._until = time.monotonic() + total

    @property
    def left(self) -> float:
        """Seconds left for everything; not above zero when it is over."""
        return self._end - time.monotonic()

    def enter(self, phase: str, seconds: float) -> None:
        """Give what comes next so many seconds."""
        self.phase = phase
        self._until = min(self._end, time.monotonic() + seconds)

    def wait(self) -> float:
        """Return how many seconds the next wait may take.

        Raises:
            TimeoutError: none.
        """
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds


class _TimedFile(io.RawIOBase):
    """What a socket sends, read by the clock."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        self._sock.settimeout(self._clock.wait())
        return self._file.readinto(into)

    def close(self) -> None:
        self._file.close()
        super().close()


class _TimedSocket:
    """A socket whose file reads by the clock; the rest is the socket's own. Both are closed at the end."""

    def __init__(self, sock: socket.socket, clock: Clock, end: contextlib.ExitStack) -> None:
        self._sock, self._clock, self._end = sock, clock, end
        end.callback(sock.close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, *_: Any, **__: Any) -> Any:
        """Return what http.client reads a status line, headers and a body from."""
        file = io.BufferedReader(_TimedFile(self._sock, self._clock))
        self._end.callback(file.close)
        return file


def timed_adapter(clock: Clock) -> HTTPAdapter:
    """Return an adapter of requests whose connections keep to the clock (those through a SOCKS proxy only roughly).

    Closing it closes them all: urllib3 leaves that to the garbage collector, for idle ones and where a head is bad.
    """
    from requests.adapters import HTTPAdapter
    from urllib3 import ProxyManager

    end = contextlib.ExitStack()
    pools = _timed_pools(clock, end)

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:
            super().init_poolmanager(*args, **more)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **more)
            if type(manager) is ProxyManager:  # SOCKS has connections of its own
                manager.pool_classes_by_scheme = pools
            return manager

        def close(self) -> None:
            super().close()
            end.close()

    return Adapter()


def _timed_pools(clock: Clock, end: contextlib.ExitStack) -> dict[str, type[HTTPConnectionPool]]:
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import NewConnectionError

    def connected(connection: HTTPConnection, host: str) -> Any:
        try:
            return _TimedSocket(_connect(host, connection.port or 0, clock), clock, end)
        except OSError as error:
            raise NewConnectionError(connection, "not connected") from error

    class Plain(HTTPConnection):
        def _new_conn(self) -> Any:
            return connected(self, self._dns_host)

        def connect(self) -> None:
            super().connect()
            clock.enter("talk", clock.read)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> Any:
            return connected(self, self._dns_host)

        def connect(self) -> None:
            super().connect()
            self.sock: Any = _TimedSocket(self.sock, clock, end)
            clock.enter("talk", clock.read)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(host: str, port: int, clock: Clock) -> socket.socket:
    """Connect within the clock's time for it, however many addresses the host has and however long names take."""
    clock.enter("connect", clock.connect)
    addresses = _looked_up(host, port, clock.wait())
    failed: OSError = OSError("the host has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(clock.wait() / (len(addresses) - number))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clock.enter("greet", clock.connect)
            sock.settimeout(clock.wait())
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


def _looked_up(host: str, port: int, seconds: float) -> list[Any]:
    """Return a host's first addresses, both families by turns; getaddrinfo() knows no timeout, so a thread waits."""
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)
        except UnicodeError:  # a label too long, or empty
            found.append(socket.gaierror(socket.EAI_NONAME, "no host name"))

    thread = threading.Thread(target=look, name="nativeload-lookup", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there may be no more threads
        look()
    else:
        thread.join(seconds)
    if not found:
        raise TimeoutError("the name lookup timed out")
    if isinstance(found[0], OSError):
        raise found[0]
    by_family: dict[int, list[Any]] = {}
    for entry in found[0]:
        by_family.setdefault(entry[0], []).append(entry)
    turns = itertools.zip_longest(*by_family.values())
    return [entry for turn in turns for entry in turn if entry is not None][:_ADDRESSES]
