"""How do the bytes of one URL come over HTTP, when servers and networks fail in every way there is?

One rule: whatever the other side does, the call ends: with the right bytes, or with an error that says what happened.
"""

from __future__ import annotations

import contextlib
import random
import re
import time

from nativeload.cache.fetch_request import Asker, Trouble, is_proxy, refusal, shown, words
from nativeload.cache.fetch_sockets import Clock, timed_adapter
from nativeload.cache.fetcher import MANIFEST_LIMIT, TIMEOUT, Incoming, masked, printable, scheme_of
from nativeload.errors import ConfigError, NetworkError
from nativeload.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from requests import Response
    from urllib3 import BaseHTTPResponse

_FURTHER = {"down": 1, "cut": 3, "busy": 3, "whole": 1}  # how often each kind of trouble is met with another try
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_PART = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_MARKS = ("ETag", "Last-Modified")  # what tells one state of a file from another
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class Patience(Value, kw_only=True):
    """How long is waited for what, in seconds where nothing else is said.

    Attributes:
        connect: for a connection; `HttpFetcher`'s timeout where that is less.
        total: for everything, and on top of it the time that the bytes take at ``link``.
        link: bytes per second of the slowest network that may finish.
        window: how long bytes may come slower than ``slowest``.
        slowest: bytes per second.
        waits: before each further try, a quarter more or less.
        longest_wait: the most that is given to a server's Retry-After.
    """

    connect: float = 5.0
    total: float = 60.0
    link: float = 32 * 1024.0
    window: float = 30.0
    slowest: float = 1024.0
    waits: tuple[float, ...] = (0.2, 0.5, 1.0)
    longest_wait: float = 20.0


class HttpFetcher:
    """Fetches over HTTP through requests; proxies and certificates are as the environment says."""

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        timeout: float = TIMEOUT,
        patience: Patience | None = None,
    ) -> None:
        """Take the options.

        Args:
            headers: sent to the scheme, host and port of the URL; where that redirects to another, only User-Agent is.
            proxy: used for all these requests, whatever the environment says; None asks the environment.
            timeout: seconds for a connection (5 at most), for the head of an answer, and for each read.
            patience: the other limits.

        Raises:
            ConfigError: a header that cannot be sent, or a proxy that is none. Values are not shown: they are secrets.
        """
        self._headers = {"User-Agent": _user_agent()}
        for name, value in (headers or {}).items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError("headers", f"{printable(name)}: its name or value cannot be sent")
            self._headers = {key: kept for key, kept in self._headers.items() if key.lower() != name.lower()}
            self._headers[name] = value
        self._proxy, self._timeout, self._patience = proxy, timeout, patience or Patience()
        if proxy is not None and not is_proxy(proxy):
            raise ConfigError("proxy", f"{shown(proxy)} is no proxy URL", hint="Give http://host:port")

    def fetch(
        self,
        url: str,
        into: BinaryIO,
        *,
        size: int | None,
        sha256: str,
        limit: int = MANIFEST_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Fetch a URL; see `Fetcher.fetch`. What was cut off on the way is asked for from where it ended.

        Raises:
            IntegrityError, NetworkError, CacheError, ConfigError: as there.
        """
        if scheme_of(url) not in {"http", "https"}:
            raise ConfigError("endpoint", f"{masked(url)} is no http or https URL")
        incoming = Incoming(url, into, size=size, sha256=sha256, limit=limit, progress=progress)
        patience = self._patience
        total = patience.total + (limit if size is None else size) / patience.link
        clock = Clock(total, connect=min(self._timeout, patience.connect), read=self._timeout)
        with contextlib.closing(timed_adapter(clock)) as adapter:
            asker = Asker(adapter, clock, url, headers=self._headers, proxy=self._proxy)
            transfer = _Transfer(incoming, asker, clock, patience)
            while (trouble := transfer.attempt()) is not None:
                transfer.wait(trouble)
        return incoming.check()


def _user_agent() -> str:
    from nativeload import __version__

    return f"nativeload/{__version__}"


class _Transfer:
    """One fetch: as many attempts as its troubles allow."""

    def __init__(self, incoming: Incoming, asker: Asker, clock: Clock, patience: Patience) -> None:
        self._incoming, self._asker, self._clock, self._patience = incoming, asker, clock, patience
        self._parts = True  # whether this server's parts can be relied on
        self._marks: dict[str, str | None] = {}
        self._met = dict.fromkeys(_FURTHER, 0)

    def attempt(self) -> Trouble | None:
        """Fetch what is missing; None where all that was promised came."""
        start = self._incoming.got if self._parts and self._incoming.size is not None else 0
        wanted = {"Range": f"bytes={start}-"} if start else {}
        if start and _STRONG_ETAG.fullmatch(self._marks["ETag"] or ""):
            wanted["If-Range"] = self._marks["ETag"] or ""
        answer = self._asker.ask(wanted)
        if isinstance(answer, Trouble):
            trouble: Trouble | None = answer
        else:
            with contextlib.closing(answer):
                trouble = self._refused(answer, start) or self._body(answer.raw)
        if trouble is not None and self._asker.via:
            trouble = replace(trouble, reason=f"{trouble.reason} (redirected to {self._asker.via})")
        return trouble

    def wait(self, trouble: Trouble) -> None:
        """Wait until the next attempt.

        Raises:
            NetworkError: there is none.
        """
        # A server that was there a moment ago, and is not now, is not simply down.
        kind = "cut" if trouble.kind == "down" and self._incoming.got else trouble.kind
        reason, used = trouble.reason, self._met.get(kind, 0)
        waits = self._patience.waits
        wait = waits[min(used, len(waits) - 1)] * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
        wait = 0.0 if kind == "whole" else max(wait, min(trouble.wait, self._patience.longest_wait))
        if used >= _FURTHER.get(kind, 0):
            tries = sum(self._met.values()) + 1
            reason += f" ({tries} tries)" if tries > 1 else ""
        elif self._clock.left <= 0:
            reason = f"not done within {self._clock.total:.0f} s: {reason}"
        elif self._clock.left <= wait:
            reason += f"; {wait:.0f} s before another try would be past the {self._clock.total:.0f} s for this file"
        else:
            self._met[kind] += 1
            time.sleep(wait)
            return
        raise NetworkError(self._incoming.url, reason, status=trouble.status, hint=trouble.hint)

    def _refused(self, answer: Response, start: int) -> Trouble | None:
        """Say why the body that follows is not what is wanted; None where it is."""
        status = answer.status_code
        if status == 200:  # noqa: PLR2004 - the whole file
            if self._incoming.got:
                self._incoming.restart()
            self._marks = {name: answer.headers.get(name) for name in _MARKS}
        elif start and status in {206, 416}:
            if status == 416 or not self._continues(answer, start):  # noqa: PLR2004
                self._parts = False
                return Trouble(kind="whole", reason="the part that was asked for did not come", status=status)
        else:
            return refusal(answer, self._asker.through)
        coding = answer.headers.get("Content-Encoding", "").strip().lower()
        if coding not in {"", "identity"}:
            reason = f"the bytes come encoded ({printable(coding, 40)}), unasked"
            return Trouble(kind="final", reason=reason, status=status)
        if answer.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
            return Trouble(kind="final", reason="the bytes come in an unknown transfer encoding", status=status)
        return None

    def _continues(self, answer: Response, start: int) -> bool:
        """Whether a partial answer is the missing end of the same file; else the two would be spliced."""
        size = self._incoming.size or 0
        part = _PART.fullmatch(answer.headers.get("Content-Range", "").strip())
        marks = [(self._marks[name], answer.headers.get(name)) for name in _MARKS]
        same = all(before == now for before, now in marks if before and now)
        return same and part is not None and tuple(map(int, part.groups())) == (start, size - 1, size)

    def _body(self, raw: BaseHTTPResponse) -> Trouble | None:
        """Take a body; None where it came as far as the server promised, right or wrong."""
        from urllib3.exceptions import HTTPError

        incoming, clock, patience = self._incoming, self._clock, self._patience
        length: int | None = raw.length_remaining
        whole = not incoming.got
        short = whole and length is not None and length < (incoming.size or 0)
        incoming.promised = length if short else None
        looked_at, seen = time.monotonic(), incoming.got
        while True:
            clock.enter("talk", clock.read)
            try:
                chunk = raw.read1(incoming.room, decode_content=False)  # one recv(): read() would wait for all of it
            except (HTTPError, OSError) as error:
                return None if incoming.full else self._cut(words(error))
            if not chunk:
                break
            incoming.add(chunk)
            if (passed := time.monotonic() - looked_at) >= patience.window:
                if incoming.got - seen < passed * patience.slowest and not incoming.full:
                    return self._cut(f"slower than {patience.slowest:.0f} bytes per second")
                looked_at, seen = time.monotonic(), incoming.got
        # A body that ends with the connection was promised by nobody: short, it was cut off, or is plainly another.
        promised = whole and (raw.chunked or length is not None or bool(incoming.looks))
        return None if promised or incoming.full or incoming.size is None else self._cut("the connection was closed")

    def _cut(self, reason: str) -> Trouble:
        of = "" if self._incoming.size is None else f" of {self._incoming.size}"
        return Trouble(kind="cut", reason=f"{reason} after {self._incoming.got}{of} bytes")
