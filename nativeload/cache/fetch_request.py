"""Who answers a request for a URL, through which proxy and redirects, and if nobody does, why?

One rule: what the first server is told in confidence is told to no other, and shown in no error.

requests serves without a session: a session reads the whole body of a redirect, and .netrc for its target, even where
it is told not to follow.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from nativeload.cache.fetcher import masked, printable
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

    from nativeload.cache.fetch_sockets import Clock

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}  # each connection has its own times
_PORTS = {"http": 80, "https": 443}
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_ENVIRONMENT = "It comes from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY; NO_PROXY names hosts to reach without it."
_CERTIFICATES = "Set REQUESTS_CA_BUNDLE to your network's certificates, if it has its own."
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


class Trouble(Value, kw_only=True):
    """Why a request brought nothing, or not all.

    Attributes:
        kind: ``down`` (no connection, no answer), ``cut`` (on the way), ``busy`` (the server says so), ``whole`` (the
            server cannot give a part), ``final``.
        reason: in words.
        status: the HTTP status, where there is one.
        wait: seconds that the server asks for.
        hint: what to do.
    """

    kind: str
    reason: str
    status: int | None = None
    wait: float = 0.0
    hint: str = ""


class Asker:
    """Asks for one URL, as often as needed.

    Attributes:
        via: where redirects led, as it may be shown; empty where there were none.
        through: the proxy, as it may be shown; empty where there was none.
    """

    def __init__(
        self, adapter: HTTPAdapter, clock: Clock, url: str, *, headers: Mapping[str, str], proxy: str | None
    ) -> None:
        self._adapter, self._clock, self._url, self._proxy = adapter, clock, url, proxy
        self.via = self.through = ""
        self._headers = dict(headers)
        login, at, _ = urlsplit(url).netloc.rpartition("@")
        if at and "authorization" not in {name.lower() for name in headers}:
            self._headers["Authorization"] = f"Basic {base64.b64encode(unquote_to_bytes(login)).decode()}"

    def ask(self, wanted: Mapping[str, str]) -> Response | Trouble:
        """Send a GET and follow redirects; the answer's body is not read, and the caller closes it.

        Args:
            wanted: headers of this request alone.
        """
        url, self.via = self._url, ""
        seen: list[str] = []
        trusted = True
        while True:
            request = _prepared(url)
            if isinstance(request, Trouble):
                return request
            url = request.url or ""
            if url in seen or len(seen) > _MOST_REDIRECTS:
                what = "in a circle" if url in seen else f"more than {_MOST_REDIRECTS} times"
                return Trouble(kind="final", reason=f"the server redirects {what}")
            seen.append(url)
            trusted = trusted and _origin(url) == _origin(seen[0])  # once left, never told again
            told = self._headers if trusted else {k: v for k, v in self._headers.items() if k.lower() == "user-agent"}
            request.headers.update({**told, **_PLAIN, **wanted})
            answer = self._send(request, url)
            if isinstance(answer, Trouble) or answer.status_code not in _REDIRECTS:
                return answer
            with contextlib.closing(answer):
                target = _target(url, answer)
            if isinstance(target, Trouble):
                return target
            url, self.via = target, masked(target)

    def _send(self, request: PreparedRequest, url: str) -> Response | Trouble:
        import requests
        from requests.utils import select_proxy
        from urllib3.exceptions import HTTPError

        clock, self.through = self._clock, ""
        clock.enter("connect", clock.connect)
        try:
            with requests.Session() as session:  # knows the environment's proxies, NO_PROXY and REQUESTS_CA_BUNDLE
                found = session.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
            proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else found["proxies"]
            if proxy := select_proxy(url, proxies):
                self.through = shown(proxy)
                if not is_proxy(proxy):  # requests would fail on it in ways that are hard to foresee
                    return Trouble(kind="final", reason=f"the proxy {self.through} is no URL", hint=_ENVIRONMENT)
            timeout, verify = (clock.connect, clock.read), found["verify"] or True
            return self._adapter.send(request, stream=True, timeout=timeout, verify=verify, proxies=proxies)
        except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            passing = isinstance(error, requests.ConnectionError | requests.Timeout)
            return self._failure(error, passing=passing)

    def _failure(self, error: Exception, *, passing: bool) -> Trouble:
        """Say why there is no answer; the exception's own text would show URLs, and with them secrets."""
        import ssl

        cause, phase, proxy = _cause(error), self._clock.phase, self.through
        named, hint = f"the proxy {proxy}", ""
        if proxy:
            hint = "It was given to nativeload." if self._proxy else _ENVIRONMENT
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason, hint = f"its certificate is not accepted: {cause.verify_message}", _CERTIFICATES
            return Trouble(kind="final", reason=reason, hint=hint)
        if refused := _TUNNEL.search(str(cause)):
            kind = "final" if refused[1] in {"401", "403", "407"} else "down"
            return Trouble(kind=kind, reason=f"{named} answers {refused[1]}", status=int(refused[1]), hint=hint)
        if not passing:
            through = f" through {named}" if proxy else ""
            if proxy.startswith("socks"):
                hint = "SOCKS needs a package more: pip install pysocks."
            return Trouble(kind="final", reason=f"it cannot be asked{through}: {words(error)}", hint=hint)
        if phase == "connect":
            reason = f"{named} cannot be reached" if proxy else "no connection"
            return Trouble(kind="down", reason=f"{reason}: {words(error)}", hint=hint)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Trouble(kind="final", reason=f"TLS failed: {words(error)}", hint=hint)
        if isinstance(cause, TimeoutError):
            silent = f"{named} does not answer" if phase == "greet" and proxy else "no answer"
            return Trouble(kind="down", reason=silent, hint=hint)
        return Trouble(kind="cut", reason=words(error))


def refusal(answer: Response, through: str) -> Trouble:
    """Say what a status means that brings no bytes; ``through`` is the proxy, if any."""
    status, said = answer.status_code, printable(answer.headers.get("X-Error-Message", ""), 120)
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    phrase += f": {said}" if said else ""
    if status in {401, 403}:
        hint = "Set HF_TOKEN to a token that may read it. A Hub answers 401, too, for what does not exist."
        return Trouble(
            kind="final", reason=f"the token is missing or not accepted ({phrase})", status=status, hint=hint
        )
    if status in {404, 410}:
        name = masked(answer.url or "").rpartition("/")[2]
        return Trouble(kind="final", reason=f"{name} is not there ({phrase})", status=status)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        hint = "Write its user and password into the proxy's URL: http://user:password@host:port"
        return Trouble(
            kind="final", reason=f"the proxy {through} wants a password ({phrase})", status=status, hint=hint
        )
    if status in _BUSY:
        wait = _retry_after(answer.headers.get("Retry-After", ""))
        return Trouble(kind="busy", reason=f"the server answers {phrase}", status=status, wait=wait)
    return Trouble(kind="final", reason=f"the server answers {phrase}", status=status)


def words(error: BaseException) -> str:
    """Say what happened to a connection, without anything from outside but the system's own words."""
    import socket
    import ssl

    match _cause(error):
        case socket.gaierror():
            return "the host name is not known"
        case TimeoutError() as cause:
            return str(cause) or "timed out"
        case RemoteDisconnected() | IncompleteRead() | ssl.SSLEOFError():
            return "the connection was closed"
        case ssl.SSLError() as cause:
            return cause.reason or "TLS"
        case HTTPException():
            return "the answer is not HTTP"
        case OSError() as cause:
            return cause.strerror or str(cause)
        case _:
            return type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    """Return the system's or http.client's own error, of which requests and urllib3 make theirs."""
    from requests import RequestException

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError | HTTPException) and not isinstance(link, RequestException):
            return link
        link = link.__cause__ or link.__context__
    return None


def _prepared(url: str) -> PreparedRequest | Trouble:
    import requests

    try:  # an `auth` that adds none keeps requests from taking the URL's own: a redirect could bring one
        request = requests.Request("GET", url, auth=lambda untouched: untouched).prepare()
        _origin(request.url or "")  # a port may be none
    except ValueError:  # requests.exceptions.InvalidURL is one
        return Trouble(kind="final", reason=f"{masked(url)} is no URL")
    return request


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def _target(url: str, answer: Response) -> str | Trouble:
    """Return where a redirect leads."""
    status = answer.status_code
    try:  # http.client takes header bytes for Latin-1
        target = urljoin(url, answer.headers["Location"].encode("latin-1").decode())
        scheme = urlsplit(target).scheme
    except (KeyError, ValueError):
        return Trouble(kind="final", reason="the server redirects to nowhere", status=status)
    if scheme not in _PORTS or (scheme == "http" and urlsplit(url).scheme == "https"):
        what = f"from https to {masked(target)}" if scheme in _PORTS else f"to {printable(scheme, 20)}:"
        return Trouble(kind="final", reason=f"the server redirects {what}, which is refused", status=status)
    return target


def _retry_after(value: str) -> float:
    """Return the seconds that a Retry-After asks for: a number, or until a date; zero where it is neither."""
    from email.utils import parsedate_to_datetime

    if re.fullmatch(r"[0-9]+", value.strip()):
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def is_proxy(proxy: str) -> bool:
    """Whether a text is the address of a proxy, with or without its scheme."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        named = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and proxy.isprintable() and " " not in proxy


def shown(proxy: str) -> str:
    """Return a proxy's address without its password."""
    login, at, place = proxy.rpartition("@")
    if not at:
        return printable(proxy)
    scheme, colon, user = login.rpartition("://") if login.count("://") == 1 else ("", "", login)
    return printable(f"{scheme}{colon}{user.partition(':')[0]}:***@{place}")
