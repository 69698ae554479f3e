"""What does a Hugging Face Hub say? A small one on this machine, for tests: the calls its client makes, over real HTTP.

One rule: a commit maps paths to blobs and never changes, and every request is on record.

``python tests/hub.py --port 0 --storage DIR`` prints its URL and serves until it is killed; it goes on where the one
before left the directory. There, GET of ``/__requests__`` returns the record as JSON, and DELETE clears it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import socket
import socketserver
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    Change = tuple[str, "Blob | None"]  # None: the path goes

CHUNK = 1 << 18  # bytes read and sent at a time
LFS_FROM = 1_000_001  # bytes
USER = "tester"
_ATTRIBUTES = b"*.so filter=lfs diff=lfs merge=lfs -text\n"
_RECORD = "/__requests__"
_PATIENCE = 10.0  # seconds that stop() gives answers which are under way


class Blob(NamedTuple):
    """What a commit knows of one file."""

    sha256: str
    git: str  # git's id: of the file itself, or of the pointer that git keeps where the file is with LFS
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub calls this content: the digest of LFS, or git's id."""
        return self.sha256 if self.lfs else self.git

    def described(self) -> dict[str, Any]:
        """Return the file as the tree listing and the commit check describe it."""
        pointer = {"oid": self.sha256, "size": self.size, "pointerSize": len(_pointer(self.sha256, self.size))}
        return {"oid": self.git, "size": self.size} | ({"lfs": pointer} if self.lfs else {})


@dataclass
class Repo:
    """One model repository: its commits and what points to them."""

    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    reader: str | None = None  # the token that may read it; None: anyone
    gated: bool = False  # with a reader: seen by all, but its files are the reader's; otherwise hidden


@dataclass
class Record:
    """One request and what became of it; header names are Written-Like-This."""

    method: str
    path: str
    headers: dict[str, str]
    origin: str  # "hub" or "cdn"
    status: int
    sent: int = 0  # bytes of the body that were handed to the connection


class RefusalError(Exception):
    """The answer is an error: its status, its X-Error-Code, and further headers."""

    def __init__(self, status: int, text: str, code: str = "", **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.code = status, text, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Repositories:
    """What a Hub holds, in a directory: blobs under their SHA-256, and one file that says what they are to whom."""

    def __init__(self, storage: Path, *, token: str | None = None) -> None:
        self.storage, self.token = storage, token
        self._lock = threading.RLock()
        (storage / "blobs").mkdir(parents=True, exist_ok=True)
        self._repos = self._saved()

    def __getitem__(self, name: str) -> Repo:
        return self._repos[name]

    def __contains__(self, name: str) -> bool:
        return name in self._repos

    # -- blobs ------------------------------------------------------------------------------------------------------

    def at(self, sha256: str) -> Path:
        """Return where a blob is, or would be."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise RefusalError(400, "not a SHA-256")
        return self.storage / "blobs" / sha256

    def keep(self, source: _Source, size: int, sha256: str | None = None) -> str:
        """Write so many bytes to the blobs and return their SHA-256, which must be this one where it is given."""
        digest, left = hashlib.sha256(), size
        number, name = tempfile.mkstemp(dir=self.storage)
        try:
            with open(number, "wb") as target:
                while left and (chunk := source.read(min(CHUNK, left))):
                    digest.update(chunk)
                    target.write(chunk)
                    left -= len(chunk)
            if left or sha256 not in {None, digest.hexdigest()}:
                raise RefusalError(400, "these are not the announced bytes")
            os.replace(name, self.at(digest.hexdigest()))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        return digest.hexdigest()

    def plain(self, content: bytes) -> Blob:
        """Keep the content of a regular file."""
        return Blob(self.keep(io.BytesIO(content), len(content)), _git_id(content), len(content), lfs=False)

    def pointed(self, sha256: str, size: int) -> Blob:
        """Return the blob of a file that is with LFS."""
        held = self.at(sha256)
        if not held.exists() or held.stat().st_size != size:
            raise RefusalError(400, f"a pointer to {sha256} of {size} bytes, which was not uploaded")
        return Blob(sha256, _git_id(_pointer(sha256, size)), size, lfs=True)

    # -- commits ----------------------------------------------------------------------------------------------------

    def create(self, repo: str, reader: str | None = None) -> bool:
        """Make a repository unless it is there; like the real one it starts with a commit of .gitattributes."""
        with self._lock:
            if repo in self._repos:
                return False
            self._repos[repo] = Repo(reader=reader)
            self.advance(repo, "main", "initial commit", [(".gitattributes", self.plain(_ATTRIBUTES))])
            return True

    def advance(
        self, repo: str, branch: str, summary: str, changes: Iterable[Change], parent: str | None = None
    ) -> str:
        """Put one commit on a branch and return it; no blob removes the path, or the folder if it ends with a slash."""
        with self._lock:
            held = self._repos[repo]
            head = held.branches.get(branch)
            if head is None and held.commits:
                raise RefusalError(404, f"no branch {branch}", "RevisionNotFound")
            if parent not in {None, head}:
                raise RefusalError(412, f"{branch} has moved on: it is at {head}")
            tree = dict(held.commits[head]) if head else {}
            for path, blob in changes:
                _change(tree, path, blob)
            whole = json.dumps([head, summary, tree]).encode()
            commit = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
            held.commits[commit] = tree
            held.branches[branch] = commit
            self._save()
            return commit

    def tag(self, repo: str, tag: str, revision: str = "main") -> None:
        """Name a commit; a tag never moves."""
        with self._lock:
            commit, _ = self.revision(repo, revision)
            if tag in self._repos[repo].tags:
                raise RefusalError(409, f"the tag {tag} exists")
            self._repos[repo].tags[tag] = commit
            self._save()

    def revision(self, repo: str, name: str) -> tuple[str, Mapping[str, Blob]]:
        """Return the commit that a branch, a tag or a commit's own id means, and its files."""
        with self._lock:
            held = self._repos[repo]
            commit = held.branches.get(name) or held.tags.get(name) or name
            if commit not in held.commits:
                raise RefusalError(404, f"no revision {name}", "RevisionNotFound")
            return commit, held.commits[commit]

    # -- rights -----------------------------------------------------------------------------------------------------

    def gate(self, repo: str, token: str | None, *, gated: bool) -> None:
        """Let only this token read it; None: everybody."""
        with self._lock:
            self._repos[repo].reader, self._repos[repo].gated = token, gated
            self._save()

    def permit(self, repo: str, authorization: str | None, *, files: bool = False, write: bool = False) -> None:
        """Refuse who may not see a repository, have its files or write to it, as the real one does."""
        held = self._repos.get(repo)
        stranger = held is not None and held.reader is not None and authorization != f"Bearer {held.reader}"
        if held is None or (stranger and not held.gated):  # a hidden one answers as if it was not there
            raise RefusalError(404 if authorization else 401, f"no repository {repo}", "RepoNotFound")
        if stranger and (files or write):
            raise RefusalError(403 if authorization else 401, f"{repo} is gated", "GatedRepo")
        if write:
            self.permit_writing(authorization)

    def permit_writing(self, authorization: str | None) -> None:
        """Refuse who has not the token that writing needs."""
        if self.token is not None and authorization != f"Bearer {self.token}":
            raise RefusalError(403 if authorization else 401, "writing needs another token")

    # -- the next process -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        new = self.storage / "state.json.new"
        new.write_text(json.dumps({name: vars(repo) for name, repo in self._repos.items()}))
        new.replace(self.storage / "state.json")

    def _saved(self) -> dict[str, Repo]:
        saved = self.storage / "state.json"
        repos = {name: Repo(**held) for name, held in json.loads(saved.read_text()).items()} if saved.exists() else {}
        for repo in repos.values():
            for tree in repo.commits.values():
                tree.update({path: Blob(*blob) for path, blob in tree.items()})
        return repos


def _change(tree: dict[str, Blob], path: str, blob: Blob | None) -> None:
    if blob is not None:
        tree[path] = blob
        return
    gone = [known for known in tree if known == path or (path.endswith("/") and known.startswith(path))]
    if not gone:
        raise RefusalError(404, f"{path}: A file with this name doesn't exist", "EntryNotFound")
    for known in gone:
        del tree[known]


class Hub:
    """A Hub on 127.0.0.1: a context manager with `url`, `requests`, and ways to disturb what it serves.

    Args:
        storage: the directory of its blobs and of its state.
        port: 0 takes a free one, and keeps it over stop() and start().
        token: what writing needs as a bearer token; None lets anyone write.
        cdn: LFS files are a redirect to another origin (another port), whose URLs are signed and refuse a token.
        lfs_from: bytes from which the client is told to upload by LFS; None: never, as a client with hf_xet needs it.
        delay: seconds before each answer.
    """

    def __init__(
        self,
        storage: Path,
        *,
        port: int = 0,
        token: str | None = None,
        cdn: bool = False,
        lfs_from: int | None = LFS_FROM,
        delay: float = 0.0,
    ) -> None:
        self.repositories = Repositories(storage, token=token)
        self.lfs_from, self.delay = lfs_from, delay
        self.ranges = True  # False: a Range is ignored, as plain web servers may do
        self.signature = secrets.token_hex(8)  # in the URLs that need no token
        self.stopping = threading.Event()
        self.faults: list[BaseException] = []  # its own; leaving the context raises the first
        self._ports = {"hub": port, "cdn": 0} if cdn else {"hub": port}
        self._servers: list[_Server] = []
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._altered: dict[tuple[str, str], Callable[[bytes], bytes]] = {}
        self._cuts: dict[tuple[str, str], int] = {}

    # -- being there ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None and self.faults:
            raise self.faults[0]

    def start(self) -> None:
        """Listen, on the same ports as before."""
        self.stopping.clear()
        for origin, port in self._ports.items():
            server = _Server(self, origin, port)
            self._servers.append(server)
            self._ports[origin] = server.server_address[1]
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: nothing listens, and each connection is closed, also those in the middle of an answer."""
        self.stopping.set()
        while self._servers:
            self._servers.pop().end()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['hub']}"

    @property
    def cdn_url(self) -> str | None:
        """The other origin, or None."""
        return f"http://127.0.0.1:{self._ports['cdn']}" if "cdn" in self._ports else None

    # -- what was asked ---------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Record]:
        """Every request so far, each on record before its answer goes out."""
        with self._lock:
            return list(self._records)

    def note(self, record: Record) -> None:
        """Put a request on record."""
        with self._lock:
            self._records.append(record)

    def forget(self) -> None:
        """Clear the record."""
        with self._lock:
            self._records.clear()

    def gets(self, part: str = "") -> list[Record]:
        """Return the GETs of files whose path has this part; a redirect is left out, as its target is a GET itself."""
        found = (item for item in self.requests if item.method == "GET" and "/resolve/" in item.path)
        return [item for item in found if part in item.path and item.status != HTTPStatus.FOUND]

    def bytes_sent(self, part: str = "") -> int:
        """Return how many bytes those GETs were sent."""
        return sum(item.sent for item in self.gets(part))

    # -- what it holds ----------------------------------------------------------------------------------------------

    def push(self, repo: str, files: Mapping[str, bytes | Path]) -> str:
        """Commit these files without a client, to a repository that is made where there is none; return the commit."""
        held = self.repositories
        changes: list[Change] = []
        for path, given in files.items():
            with io.BytesIO(given) if isinstance(given, bytes) else given.open("rb") as source:
                size = source.seek(0, io.SEEK_END)
                source.seek(0)
                lfs = self.wants_lfs(size)
                changes.append(
                    (path, held.pointed(held.keep(source, size), size) if lfs else held.plain(source.read()))
                )
        held.create(repo)
        return held.advance(repo, "main", "push", changes)

    def wants_lfs(self, size: int) -> bool:
        """Return whether a file of this size is to be with LFS."""
        return self.lfs_from is not None and size >= self.lfs_from

    def commit(self, repo: str) -> str:
        """Return the newest commit of main."""
        return self.repositories[repo].branches["main"]

    def files(self, repo: str, commit: str = "main") -> dict[str, str]:
        """Return the SHA-256 of each path in a commit."""
        return {path: blob.sha256 for path, blob in self.repositories.revision(repo, commit)[1].items()}

    def read(self, repo: str, path: str, commit: str = "main") -> bytes:
        """Return the true bytes of a file."""
        return self.repositories.at(self.files(repo, commit)[path]).read_bytes()

    def gate(self, repo: str, token: str | None, *, gated: bool = False) -> None:
        """Let only this token read a repository: private (hidden from others) or gated; None opens it to all."""
        self.repositories.gate(repo, token, gated=gated)

    # -- disturbances -----------------------------------------------------------------------------------------------

    def corrupt(self, repo: str, path: str, how: Callable[[bytes], bytes]) -> None:
        """Alter what each GET of this file is served, whatever the commit; all that is said of the file stays true."""
        with self._lock:
            self._altered[repo, path] = how

    def cut(self, repo: str, path: str, after: int) -> None:
        """Break the connection of the next GET of this file after so many bytes of the body."""
        with self._lock:
            self._cuts[repo, path] = after

    def heal(self) -> None:
        """Serve what is held."""
        with self._lock:
            self._altered.clear()
            self._cuts.clear()

    def served(self, repo: str, path: str, blob: Blob) -> tuple[BinaryIO, int, int | None]:
        """Return what a GET is served: the content, its size, and where to break it off."""
        with self._lock:
            how, cut = self._altered.get((repo, path)), self._cuts.pop((repo, path), None)
        there = self.repositories.at(blob.sha256)
        if how is None:
            return there.open("rb"), blob.size, cut
        altered = how(there.read_bytes())
        return io.BytesIO(altered), len(altered), cut


class _Server(socketserver.ThreadingTCPServer):
    """One origin; it knows its connections, since a kept-alive one outlives shutdown()."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Hub, origin: str, port: int) -> None:
        self.hub, self.origin = hub, origin
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):  # that one is a client's, or stop()'s
            self.hub.faults.append(error)
            super().handle_error(request, client_address)

    def end(self) -> None:
        """Close the port and every connection, and see their threads out."""
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(lambda: not self._open, _PATIENCE):
                raise TimeoutError("an answer does not end")


class _Handler(BaseHTTPRequestHandler):
    """One connection: each request finds its route, and each refusal is an answer."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def answer(self) -> None:
        self.unread = int(self.headers.get("Content-Length", 0))
        self.authorization = self.headers.get("Authorization")
        self.hub, self.held = self.server.hub, self.server.hub.repositories
        self.hub.stopping.wait(self.hub.delay)
        try:
            self._route(urlsplit(self.path).path)
        except RefusalError as refusal:
            told = {"X-Error-Code": refusal.code} if refusal.code else {}
            told |= {"X-Error-Message": refusal.text, **refusal.headers}
            self._say({"error": refusal.text}, refusal.status, told)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Print nothing: there is the record."""

    def _route(self, path: str) -> None:
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RefusalError(411, "no chunked bodies here")
        for methods, pattern, act in _CDN if self.server.origin == "cdn" else _ROUTES:
            if self.command in methods.split() and (found := re.fullmatch(pattern, path)):
                act(self, **{name: unquote(part) for name, part in found.groupdict().items()})
                return
        raise RefusalError(404, f"nothing here is called {path}")

    # -- the request's body, and the answer -------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """Return some of the body."""
        chunk = self.rfile.read(min(size, self.unread))
        self.unread = self.unread - len(chunk) if chunk else 0
        return chunk

    def _json(self) -> Any:
        return json.loads(self.read(self.unread))

    def _say(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, io.BytesIO(body), len(body))

    def _send(
        self, status: int, headers: Mapping[str, str], body: BinaryIO, size: int, *, cut: int | None = None
    ) -> None:
        while self.read(CHUNK):  # a body that nobody wanted would be read as the next request
            pass
        asked = {name.title(): value for name, value in self.headers.items()}
        record = Record(self.command, self.path, asked, self.server.origin, status)
        if self.path != _RECORD:
            self.hub.note(record)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()
        left = 0 if self.command == "HEAD" else size if cut is None else min(cut, size)
        while left and (chunk := body.read(min(CHUNK, left))):
            record.sent += len(chunk)  # first: who has the last byte may look at once
            left -= len(chunk)
            self.wfile.write(chunk)
        if cut is not None:
            self.close_connection = True

    # -- files ------------------------------------------------------------------------------------------------------

    def _resolve(self, repo: str, rev: str, path: str) -> None:
        self.held.permit(repo, self.authorization, files=True)
        commit, tree = self.held.revision(repo, rev)
        if path not in tree:
            raise RefusalError(404, f"no {path} in {commit}", "EntryNotFound", X_Repo_Commit=commit)
        blob = tree[path]
        told = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"'}
        if blob.lfs:
            told |= {"X-Linked-ETag": told["ETag"], "X-Linked-Size": str(blob.size)}
        if blob.lfs and self.hub.cdn_url:
            there = f"{self.hub.cdn_url}/{repo}/resolve/{commit}/{quote(path)}?Signature={self.hub.signature}"
            self._send(302, {**told, "Location": there}, io.BytesIO(), 0)
        else:
            self._file(repo, path, blob, told)

    def _resolve_signed(self, repo: str, rev: str, path: str) -> None:
        self._signed()
        blob = self.held.revision(repo, rev)[1][path]
        self._file(repo, path, blob, {"ETag": f'"{blob.sha256}"'})

    def _file(self, repo: str, path: str, blob: Blob, told: dict[str, str]) -> None:
        told |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes" if self.hub.ranges else "none"}
        if self.command == "HEAD":
            self._send(200, told, io.BytesIO(), blob.size)
            return
        content, size, cut = self.hub.served(repo, path, blob)
        with content:
            part = self._range(size, told["ETag"])
            if part is None:
                self._send(200, told, content, size, cut=cut)
                return
            told["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
            content.seek(part.start)
            self._send(206, told, content, len(part), cut=cut)

    def _range(self, size: int, etag: str) -> range | None:
        """Return which part is wanted, if one is."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not any(asked.groups()) or not self.hub.ranges:
            return None
        if self.headers.get("If-Range", etag) != etag:
            return None
        first, last = asked.groups()
        part = range(int(first), min(int(last or size) + 1, size)) if first else range(max(size - int(last), 0), size)
        if not part:
            raise RefusalError(416, f"no such range in {size} bytes", Content_Range=f"bytes */{size}")
        return part

    # -- reading the API --------------------------------------------------------------------------------------------

    def _whoami(self) -> None:
        if self.authorization is None:
            raise RefusalError(401, "no token")
        self.held.permit_writing(self.authorization)
        self._say({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def _info(self, repo: str, rev: str = "main") -> None:
        self.held.permit(repo, self.authorization)
        commit, tree = self.held.revision(repo, rev)
        held = self.held[repo]
        siblings = [{"rfilename": path} for path in sorted(tree)]
        gated = held.reader is not None and held.gated
        about = {"private": held.reader is not None and not gated, "gated": "manual" if gated else False}
        self._say({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [], **about})

    def _tree(self, repo: str, rev: str) -> None:
        self.held.permit(repo, self.authorization)
        _, tree = self.held.revision(repo, rev)
        deep = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        folders = sorted({str(parent) for path in tree for parent in Path(path).parents} - {"."})
        listing: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": _git_id(path.encode()), "size": 0} for path in folders
        ]
        listing += [{"type": "file", "path": path, **blob.described()} for path, blob in sorted(tree.items())]
        self._say([item for item in listing if deep or "/" not in item["path"]])

    def _refs(self, repo: str) -> None:
        self.held.permit(repo, self.authorization)
        held = self.held[repo]
        told = {
            kind: [{"name": name, "ref": f"refs/{short}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for kind, short, refs in (("branches", "heads", held.branches), ("tags", "tags", held.tags))
        }
        self._say({**told, "converts": []})

    # -- writing ----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        self.held.permit_writing(self.authorization)
        asked = self._json()
        if asked.get("type", "model") != "model":
            raise RefusalError(400, "only models live here")
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        private = asked.get("visibility") == "private"
        if private and self.authorization is None:
            raise RefusalError(401, "a private repository needs a token")
        reader = self.authorization.removeprefix("Bearer ") if private and self.authorization else None
        new = self.held.create(repo, reader)
        told = {"url": f"{self.hub.url}/{repo}", "name": repo}
        self._say(told if new else {**told, "error": f"{repo} exists"}, 200 if new else 409)

    def _preupload(self, repo: str, rev: str) -> None:
        self.held.permit(repo, self.authorization, write=True)
        _, tree = self.held.revision(repo, rev)
        files = []
        for item in self._json()["files"]:
            mode = "lfs" if self.hub.wants_lfs(item["size"]) else "regular"
            there = tree[item["path"]].etag if item["path"] in tree else None
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": there})
        self._say({"files": files})

    def _batch(self, repo: str) -> None:
        self.held.permit(repo, self.authorization, write=True)
        root = f"{self.hub.url}/{repo}.git/info/lfs"
        objects = []
        for item in self._json()["objects"]:
            there = {
                "upload": {"href": f"{root}/objects/{item['oid']}?Signature={self.hub.signature}"},
                "verify": {"href": f"{root}/verify"},
            }
            known = self.held.at(item["oid"]).exists()
            objects.append({"oid": item["oid"], "size": item["size"], **({} if known else {"actions": there})})
        self._say({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def _put(self, repo: str, oid: str) -> None:
        self._signed()
        self.held.keep(self, self.unread, oid)
        self._send(200, {}, io.BytesIO(), 0)

    def _verify(self, repo: str) -> None:
        self.held.permit(repo, self.authorization, write=True)
        asked = self._json()
        self.held.pointed(asked["oid"], asked["size"])
        self._say({})

    def _signed(self) -> None:
        """Storage wants its signature and, as S3 does, no second kind of credentials."""
        if parse_qs(urlsplit(self.path).query).get("Signature") != [self.hub.signature]:
            raise RefusalError(403, "this URL is not signed")
        if self.authorization is not None:
            raise RefusalError(400, "a token has no business here: the URL is signed")

    def _commit(self, repo: str, rev: str) -> None:
        self.held.permit(repo, self.authorization, write=True)
        header: dict[str, Any] = {}
        changes: list[Change] = []
        with tempfile.TemporaryFile(dir=self.held.storage) as body:
            while chunk := self.read(CHUNK):
                body.write(chunk)
            body.seek(0)
            for line in body:
                item = json.loads(line)
                if item["key"] == "header":
                    header = item["value"]
                else:
                    changes.append(self._change(item["key"], item["value"]))
        commit = self.held.advance(repo, rev, header["summary"], changes, header.get("parentCommit"))
        self._say({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _change(self, key: str, value: Mapping[str, Any]) -> Change:
        match key:
            case "file":
                return value["path"], self.held.plain(base64.b64decode(value["content"]))
            case "lfsFile":
                return value["path"], self.held.pointed(value["oid"], value["size"])
            case "deletedFile":
                return value["path"], None
            case "deletedFolder":
                return value["path"].rstrip("/") + "/", None
        raise RefusalError(400, f"no change is called {key}")

    def _tag(self, repo: str, rev: str) -> None:
        self.held.permit(repo, self.authorization, write=True)
        self.held.tag(repo, self._json()["tag"], rev)
        self._say({})

    # -- the record -------------------------------------------------------------------------------------------------

    def _requests(self) -> None:
        if self.command == "DELETE":
            self.hub.forget()
        self._say([asdict(item) for item in self.hub.requests])


_REPO, _REV = "(?P<repo>[^/]+/[^/]+)", "(?P<rev>[^/]+)"
_API, _FILE = f"/api/models/{_REPO}", f"/{_REPO}/resolve/{_REV}/(?P<path>.+)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET HEAD", _FILE, _Handler._resolve),
    ("GET", "/api/whoami-v2", _Handler._whoami),
    ("GET", _API, _Handler._info),
    ("GET", f"{_API}/revision/{_REV}", _Handler._info),
    ("GET", f"{_API}/tree/{_REV}", _Handler._tree),
    ("GET", f"{_API}/refs", _Handler._refs),
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", lambda handler: handler._say({"errors": [], "warnings": []})),
    ("POST", f"{_API}/preupload/{_REV}", _Handler._preupload),
    ("POST", f"/{_REPO}[.]git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", f"/{_REPO}[.]git/info/lfs/objects/(?P<oid>[0-9a-f]+)", _Handler._put),
    ("POST", f"/{_REPO}[.]git/info/lfs/verify", _Handler._verify),
    ("POST", f"{_API}/commit/{_REV}", _Handler._commit),
    ("POST", f"{_API}/tag/{_REV}", _Handler._tag),
    ("GET DELETE", _RECORD, _Handler._requests),
)
_CDN: tuple[tuple[str, str, Callable[..., None]], ...] = (("GET HEAD", _FILE, _Handler._resolve_signed),)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on this machine, for tests.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--storage", type=Path, required=True, help="directory of its blobs and state")
    parser.add_argument("--token", help="what writing needs (default: nothing)")
    parser.add_argument("--cdn", action="store_true", help="LFS files are redirects to another port")
    parser.add_argument("--no-lfs", action="store_true", help="every upload is a regular one: for clients with hf_xet")
    given = parser.parse_args()
    lfs_from = None if given.no_lfs else LFS_FROM
    with Hub(given.storage, port=given.port, token=given.token, cdn=given.cdn, lfs_from=lfs_from) as hub:
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
