"""The Hub of the tests is one to its own client: what is uploaded comes back, and what is wrong is refused rightly.

Each scenario is a fresh Python, since huggingface_hub reads its environment once; what it hands to `say` comes back.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.hub import Hub
from tests.scenarios import run

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = "acme/native"
READER = "hf_reader"  # a token
SMALL = b'{"schema": 1}\n'
BIG = random.Random(7).randbytes(1_300_000)
SHA256 = {content: hashlib.sha256(content).hexdigest() for content in (SMALL, BIG)}

CLIENT = """
    import hashlib
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    given = json.loads(os.environ["GIVEN"])
    api = HfApi(endpoint=os.environ["HUB"], token=given.get("token", False))
    repo, small = "acme/native", b'{"schema": 1}\\n'

    def sha256(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def commit(files, **more):
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return api.create_commit(repo, operations, commit_message="test", **more).oid

    def fails(action):
        try:
            action()
        except Exception as error:
            response = getattr(error, "response", None)
            return [type(error).__name__, response.status_code if response is not None else None]
"""


@pytest.fixture(autouse=True)
def _client_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache, token or proxy of the user's, and plain HTTP."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    (tmp_path / "big").write_bytes(BIG)


def client(hub: Hub, code: str, **given: str) -> Any:
    """Run the real client against a Hub, in the test's directory, where the file `big` is."""
    return run(CLIENT + code, HUB=hub.url, GIVEN=json.dumps(given))


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.trust_env = False  # no proxy
        yield one


def file_url(hub: Hub, path: str, revision: str = "main") -> str:
    return f"{hub.url}/{REPO}/resolve/{revision}/{path}"


# -- uploading ------------------------------------------------------------------------------------------------------


def test_one_commit_takes_regular_and_lfs_files_and_all_come_back_by_their_commit(hub: Hub) -> None:
    """Small files travel in the commit, a big one by LFS before it; a later commit does not change this one."""
    code = """
    urls = [api.create_repo(repo, exist_ok=True) for _ in range(2)]
    again = fails(lambda: api.create_repo(repo))
    files = {"README.md": b"---\\nlicense: mit\\n---\\n", "linux/manifest.json": small, "linux/lib one.so": "big"}
    first = commit(files)
    second = commit({"linux/manifest.json": b"{}"})
    got = {path: sha256(api.hf_hub_download(repo, path, revision=first)) for path in files}
    say([urls[0].repo_id, urls == [urls[0]] * 2, again, first, second, got])
    """
    name, same, again, first, second, got = client(hub, code)
    assert (name, same, again) == (REPO, True, ["HfHubHTTPError", 409])
    assert got["linux/manifest.json"] == SHA256[SMALL]
    assert got["linux/lib one.so"] == SHA256[BIG]
    assert got == {path: digest for path, digest in hub.files(REPO, first).items() if path != ".gitattributes"}
    assert hub.commit(REPO) == second
    assert hub.read(REPO, "linux/manifest.json") == b"{}"
    assert hub.read(REPO, "linux/manifest.json", first) == SMALL
    puts = [item for item in hub.requests if item.method == "PUT"]
    assert [SHA256[BIG] in item.path for item in puts] == [True]
    assert len(hub.gets()) == 3
    assert hub.bytes_sent("lib%20one.so") == len(BIG)


def test_a_client_with_xet_uploads_through_regular_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told `regular` for every file, it needs no storage of Xet, up or down."""
    code = """
    from huggingface_hub.utils._runtime import is_xet_available
    api.create_repo(repo)
    oid = commit({"lib.so": "big"})
    say([is_xet_available(), sha256(api.hf_hub_download(repo, "lib.so", revision=oid))])
    """
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    with Hub(tmp_path / "hub", lfs_from=None) as hub:
        assert client(hub, code) == [True, SHA256[BIG]]
        assert not [item for item in hub.requests if item.method == "PUT"]


def test_what_is_there_is_not_uploaded_again_and_what_is_deleted_is_gone(hub: Hub) -> None:
    """The same files make no commit; a copy of a big one is no second upload; a folder goes with all that is in it."""
    code = """
    api.create_repo(repo)
    first = commit({"a/lib.so": "big", "a/small": small, "b": small})
    same = commit({"a/lib.so": "big", "a/small": small})
    copied = commit({"copy.so": "big"})
    gone = [CommitOperationDelete("a/"), CommitOperationDelete("b")]
    last = api.create_commit(repo, gone, commit_message="less").oid
    missing = fails(lambda: api.create_commit(repo, [CommitOperationDelete("b")], commit_message="less"))
    say([first, same, copied, last, missing])
    """
    first, same, copied, last, missing = client(hub, code)
    assert first == same
    assert len({first, copied, last}) == 3
    assert missing == ["RemoteEntryNotFoundError", 404]
    assert hub.files(REPO, copied)["copy.so"] == SHA256[BIG]
    assert set(hub.files(REPO)) == {".gitattributes", "copy.so"}
    assert len([item for item in hub.requests if item.method == "PUT"]) == 1


def test_a_commit_on_a_parent_that_is_not_the_newest_is_refused(hub: Hub) -> None:
    """Who publishes beside another hears of it, and nothing is changed."""
    first = hub.push(REPO, {"a": b"1"})
    second = hub.push(REPO, {"a": b"2"})
    code = """
    stale = fails(lambda: commit({"a": b"3"}, parent_commit=given["first"]))
    say([stale, commit({"a": b"4"}, parent_commit=given["second"])])
    """
    stale, third = client(hub, code, first=first, second=second)
    assert stale == ["HfHubHTTPError", 412]
    assert (hub.commit(REPO), hub.read(REPO, "a")) == (third, b"4")


def test_a_tag_names_a_commit_once(hub: Hub) -> None:
    """A second tag of that name is refused, even where the client swallows it; the name serves as a revision."""
    first = hub.push(REPO, {"a": b"1"})
    hub.push(REPO, {"a": b"2"})
    code = """
    api.create_tag(repo, tag="v1", revision=given["first"])
    again = fails(lambda: api.create_tag(repo, tag="v1"))
    api.create_tag(repo, tag="v1", exist_ok=True)
    (tag,) = api.list_repo_refs(repo).tags
    say([again, [tag.name, tag.target_commit], api.model_info(repo, revision="v1").sha,
         Path(api.hf_hub_download(repo, "a", revision="v1")).read_text()])
    """
    assert client(hub, code, first=first) == [["HfHubHTTPError", 409], ["v1", first], first, "1"]


def test_writing_needs_the_token_of_a_hub_that_has_one(tmp_path: Path) -> None:
    """Nobody else makes a repository, uploads, commits or tags; anyone reads."""
    code = """
    def tries():
        return [fails(lambda: api.create_repo("acme/other")), fails(lambda: commit({"a": b"2"})),
                fails(lambda: api.create_tag(repo, tag="v1")), fails(lambda: api.whoami())]
    nobody = tries()
    api.token = "hf_other"
    other = tries()
    api.token = "hf_right"
    say([nobody, other, tries(), api.whoami()["name"]])
    """
    with Hub(tmp_path / "hub", token="hf_right") as hub:  # noqa: S106 - it opens nothing else
        hub.push(REPO, {"a": b"1"})
        nobody, other, right, name = client(hub, code)
        assert nobody == [["HfHubHTTPError", 401]] * 3 + [["ValueError", None]]
        assert other == [["HfHubHTTPError", 403]] * 4
        assert (right, name) == ([None] * 4, "tester")
        assert hub.read(REPO, "a") == b"2"


def test_lfs_storage_takes_only_signed_and_right_bytes(hub: Hub, session: requests.Session) -> None:
    """Neither a URL without its signature, nor a token beside it, nor other bytes than announced leave a blob."""
    hub.push(REPO, {})
    wanted: dict[str, Any] = {"oid": SHA256[BIG], "size": len(BIG)}
    batch = session.post(f"{hub.url}/{REPO}.git/info/lfs/objects/batch", json={"objects": [wanted]}).json()
    href, verify = (batch["objects"][0]["actions"][action]["href"] for action in ("upload", "verify"))
    assert session.put(href.split("?")[0], data=BIG).status_code == 403
    assert session.put(href, data=BIG, headers={"Authorization": "Bearer hf_x"}).status_code == 400
    assert session.put(href, data=BIG[:-1] + b"?").status_code == 400
    assert session.post(verify, json=wanted).status_code == 400
    assert session.put(href, data=BIG).status_code == 200
    assert session.post(verify, json=wanted).status_code == 200


# -- downloading ----------------------------------------------------------------------------------------------------


def test_a_filtered_snapshot_asks_for_those_files_only(hub: Hub) -> None:
    """Others are not fetched; by its commit, a complete snapshot is opened again without a request."""
    commit = hub.push(REPO, {"cpu/lib.so": BIG, "cpu/x.json": SMALL, "cuda/lib.so": b"cuda", "README.md": b"readme"})
    code = """
    root = Path(api.snapshot_download(repo, revision="main", allow_patterns=["cpu/*"]))
    asked = len(api_requests())
    again = api.snapshot_download(repo, revision=root.name, allow_patterns=["cpu/*"])
    say([root.name, sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()),
         sha256(root / "cpu/lib.so"), again == str(root), len(api_requests()) - asked])
    """
    count = """
    import urllib.request
    def api_requests():
        with urllib.request.urlopen(os.environ["HUB"] + "/__requests__") as answer:
            return json.load(answer)
    """
    name, files, digest, same, more = client(hub, count + code)
    assert (name, files, digest) == (commit, ["cpu/lib.so", "cpu/x.json"], SHA256[BIG])
    assert (same, more) == (True, 0)
    assert sorted(item.path.split("/")[-1] for item in hub.gets()) == ["lib.so", "x.json"]
    assert hub.bytes_sent() == len(BIG) + len(SMALL)


def test_what_is_not_there_is_said_in_the_right_class(hub: Hub) -> None:
    """No repository, no revision and no file are three errors, with a token and without one."""
    hub.push(REPO, {"a": b"1"})
    code = """
    def tries():
        return [fails(lambda: api.hf_hub_download("acme/none", "a")), fails(lambda: api.snapshot_download("acme/none")),
                fails(lambda: api.hf_hub_download(repo, "a", revision="v9")),
                fails(lambda: api.snapshot_download(repo, revision="v9")),
                fails(lambda: api.hf_hub_download(repo, "a", revision="0" * 40)),
                fails(lambda: api.hf_hub_download(repo, "b"))]
    nobody = tries()
    api.token = "hf_any"
    say([nobody, tries()])
    """
    nobody, somebody = client(hub, code)
    revision, entry = ["RevisionNotFoundError", 404], ["RemoteEntryNotFoundError", 404]
    assert nobody == [["RepositoryNotFoundError", 401]] * 2 + [revision] * 3 + [entry]
    assert somebody == [["RepositoryNotFoundError", 404]] * 2 + [revision] * 3 + [entry]


def test_a_private_repository_is_hidden_and_a_gated_one_keeps_its_files(hub: Hub) -> None:
    """Without the token, one is not there, and the other only says what it holds; with it, both serve."""
    hub.push(REPO, {"a": b"1"})
    hub.gate(REPO, READER)
    hub.push("acme/gated", {"a": b"1"})
    hub.gate("acme/gated", READER, gated=True)
    code = """
    def tries(name):
        return [fails(lambda: api.model_info(name)), fails(lambda: api.hf_hub_download(name, "a"))]
    answers = []
    for api.token in (False, "hf_other", "hf_reader"):
        answers.append(tries(repo) + tries("acme/gated"))
    api.create_repo("acme/mine", private=True)
    mine = api.model_info("acme/mine").private
    say([answers, mine, fails(lambda: api.model_info("acme/mine", token=False))])
    """
    (nobody, other, reader), mine, hidden = client(hub, code)
    assert nobody == [*[["RepositoryNotFoundError", 401]] * 2, None, ["GatedRepoError", 401]]
    assert other == [*[["RepositoryNotFoundError", 404]] * 2, None, ["GatedRepoError", 403]]
    assert reader == [None] * 4
    assert (mine, hidden) == (True, ["RepositoryNotFoundError", 401])
    assert hub.requests[-1].headers.get("Authorization") is None


def test_lfs_files_come_from_another_origin_without_the_token(tmp_path: Path, session: requests.Session) -> None:
    """Both clients follow the redirect and leave the token behind: there, a request with one would be refused."""
    with Hub(tmp_path / "hub", cdn=True) as hub:
        commit = hub.push(REPO, {"lib.so": BIG, "small": SMALL})
        hub.gate(REPO, READER)
        code = """
    say([sha256(api.hf_hub_download(repo, name, revision=given["commit"])) for name in ("lib.so", "small")])
        """
        assert client(hub, code, token=READER, commit=commit) == [SHA256[BIG], SHA256[SMALL]]
        (moved,) = [item for item in hub.requests if item.origin == "cdn"]
        assert (moved.method, moved.status, "Authorization" in moved.headers) == ("GET", 200, False)
        assert [item.origin for item in hub.gets()] == ["cdn", "hub"]

        session.headers["Authorization"] = f"Bearer {READER}"
        answer = session.get(file_url(hub, "lib.so", commit))
        assert (answer.content == BIG, [item.status_code for item in answer.history]) == (True, [302])
        assert answer.url.startswith(f"{hub.cdn_url}/")
        assert [item.origin for item in hub.gets("lib.so")] == ["cdn", "cdn"]
        assert hub.bytes_sent("lib.so") == 2 * len(BIG)
        assert session.get(answer.url).status_code == 400
        del session.headers["Authorization"]
        assert session.get(answer.url.split("?")[0]).status_code == 403


# -- one request after another --------------------------------------------------------------------------------------


def test_a_range_is_served_as_it_was_asked(hub: Hub, session: requests.Session) -> None:
    """From the middle, to the middle and the last bytes; none of a file's is refused; a Hub may ignore them all."""
    hub.push(REPO, {"lib.so": BIG})
    url, size = file_url(hub, "lib.so"), len(BIG)
    etag = session.head(url).headers["ETag"]
    for asked, part in (("100-199", BIG[100:200]), (f"{size - 5}-", BIG[-5:]), ("-7", BIG[-7:]), ("0-", BIG)):
        answer = session.get(url, headers={"Range": f"bytes={asked}", "If-Range": etag})
        start = BIG.index(part)
        assert (answer.status_code, answer.content == part) == (206, True)
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{size}"
    beyond = session.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert session.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'}).status_code == 200
    hub.ranges = False
    ignored = session.get(url, headers={"Range": "bytes=5-"})
    assert (ignored.status_code, ignored.content == BIG) == (200, True)
    assert hub.gets()[0].headers["Range"] == "bytes=100-199"


def test_the_answer_to_head_says_what_the_client_wants_to_know(hub: Hub, session: requests.Session) -> None:
    """The commit, the size, and the digest: of LFS for a big file, of git for a small one."""
    commit = hub.push(REPO, {"lib.so": BIG, "small": SMALL})
    big, small = (session.head(file_url(hub, name)) for name in ("lib.so", "small"))
    git = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL, usedforsecurity=False).hexdigest()
    assert [answer.headers["X-Repo-Commit"] for answer in (big, small)] == [commit] * 2
    assert [answer.headers["ETag"] for answer in (big, small)] == [f'"{SHA256[BIG]}"', f'"{git}"']
    assert [int(answer.headers["Content-Length"]) for answer in (big, small)] == [len(BIG), len(SMALL)]
    missing = session.head(file_url(hub, "none"))
    assert (missing.status_code, missing.headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert missing.headers["X-Repo-Commit"] == commit


def test_altered_bytes_reach_the_client_until_they_are_healed(hub: Hub, session: requests.Session) -> None:
    """The real client notices another size and nothing else; what the Hub says of the file stays true."""
    hub.push(REPO, {"lib.so": BIG, "other": b"x"})
    hub.corrupt(REPO, "lib.so", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    url = file_url(hub, "lib.so")
    assert session.get(url).content == BIG[:-1] + bytes([BIG[-1] ^ 1])
    assert session.get(file_url(hub, "other")).content == b"x"
    download = """
    say([fails(lambda: api.hf_hub_download(repo, "lib.so", force_download=True)),
         sha256(api.hf_hub_download(repo, "lib.so")) if given["open"] else None])
    """
    error, digest = client(hub, download, open="1")
    assert error is None
    assert digest != SHA256[BIG]
    hub.corrupt(REPO, "lib.so", lambda content: content + b"!")
    assert client(hub, download, open="") == [["OSError", None], None]
    assert session.head(url).headers["Content-Length"] == str(len(BIG))
    hub.heal()
    assert session.get(url).content == BIG


def test_a_connection_that_breaks_once_breaks_in_the_body(hub: Hub, session: requests.Session) -> None:
    """The size was announced, some bytes came, the record knows how many; the next GET is whole."""
    hub.push(REPO, {"lib.so": BIG})
    hub.cut(REPO, "lib.so", after=1000)
    with session.get(file_url(hub, "lib.so"), stream=True) as answer:
        assert answer.headers["Content-Length"] == str(len(BIG))
        assert answer.raw.read(1000) == BIG[:1000]
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(answer.iter_content(4096))
    assert hub.bytes_sent() == 1000
    assert session.get(file_url(hub, "lib.so")).content == BIG


# -- gone, and back -------------------------------------------------------------------------------------------------


def test_a_hub_that_stops_is_gone_and_comes_back_with_all_it_had(hub: Hub, session: requests.Session) -> None:
    """Its port refuses, an idle connection is closed and one in use is broken; later it serves at the same URL."""
    hub.push(REPO, {"lib.so": BIG})
    url = file_url(hub, "lib.so")
    assert session.get(url).content == BIG  # leaves a connection in the pool
    address = ("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))
    hub.corrupt(REPO, "lib.so", lambda content: content * 40)  # more than fits between two sockets
    with socket.create_connection(address) as idle, session.get(url, stream=True) as used:
        idle.settimeout(5)
        idle.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 404 ")
        hub.stop()
        assert [idle.recv(1 << 16) for _ in range(2)][-1] == b""  # the body may have been on its way
        with pytest.raises(requests.exceptions.RequestException):
            list(used.iter_content(1 << 16))
    for _ in range(2):
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    hub.heal()
    hub.forget()
    hub.start()
    assert session.get(url).content == BIG
    assert [item.status for item in hub.requests] == [200]


def test_a_delay_holds_each_answer_back_and_no_stop(hub: Hub, session: requests.Session) -> None:
    """A client that waits less gives up, and stopping does not wait for the rest."""
    hub.push(REPO, {"a": b"1"})
    hub.delay = 60.0
    with pytest.raises(requests.exceptions.ReadTimeout):
        session.get(file_url(hub, "a"), timeout=0.2)
    hub.stop()
    hub.delay = 0.0
    hub.start()
    assert session.get(file_url(hub, "a")).content == b"1"


def test_many_clients_at_once_get_their_own_bytes_and_are_all_counted(hub: Hub) -> None:
    """Requests do not mix, and the record misses none."""
    files = {f"f{number}": bytes([number]) * 70_000 for number in range(8)}
    hub.push(REPO, files)
    wrong: list[str] = []

    def fetch(name: str) -> None:
        with requests.Session() as session:
            session.trust_env = False
            wrong.extend(name for _ in range(10) if session.get(file_url(hub, name)).content != files[name])

    threads = [threading.Thread(target=fetch, args=(name,)) for name in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (len(hub.gets()), len(hub.gets("/f3"))) == (80, 10)
    assert hub.bytes_sent() == 80 * 70_000


def test_a_fault_of_the_hub_itself_fails_the_test_that_uses_it(
    tmp_path: Path, session: requests.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a client could take for a broken network is raised where the Hub ends."""

    def fault(_: bytes) -> bytes:
        raise ZeroDivisionError

    hub = Hub(tmp_path / "hub")
    hub.push(REPO, {"a": b"1"})
    hub.corrupt(REPO, "a", fault)
    hub.start()
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get(file_url(hub, "a"))
    with pytest.raises(ZeroDivisionError):
        hub.__exit__(None)
    assert "ZeroDivisionError" in capsys.readouterr().err


# -- as a program ---------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Any]:
    """Start the Hub as a program, and again after it was killed."""
    started: list[subprocess.Popen[str]] = []

    def start(port: int = 0) -> tuple[str, int]:
        command = [sys.executable, str(Path(__file__).with_name("hub.py")), "--port", str(port)]
        command += ["--storage", str(tmp_path / "storage")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
        assert started[-1].stdout is not None
        return started[-1].stdout.readline().strip(), started[-1].pid

    def end() -> None:
        one = started.pop()
        one.kill()
        one.communicate()

    start.end = end  # type: ignore[attr-defined]
    yield start
    while started:
        end()


def test_the_program_keeps_its_state_and_shows_its_record(program: Any, session: requests.Session) -> None:
    """Killed and started again on its port and directory it goes on; the record is read and cleared over HTTP."""
    url, _ = program()
    created = session.post(f"{url}/api/repos/create", json={"name": "native", "organization": "acme"})
    assert created.json()["url"] == f"{url}/{REPO}"
    file = f"{url}/{REPO}/resolve/main/.gitattributes"
    content = session.get(file, headers={"x-mark": "1"}).content
    record = session.get(f"{url}/__requests__").json()
    assert [(item["method"], item["status"]) for item in record] == [("POST", 200), ("GET", 200)]
    assert (record[1]["headers"]["X-Mark"], record[1]["sent"]) == ("1", len(content))
    session.delete(f"{url}/__requests__")
    assert session.get(f"{url}/__requests__").json() == []
    commit = session.get(f"{url}/api/models/{REPO}").json()["sha"]
    program.end()
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get(file)
    again, _ = program(int(url.rsplit(":", 1)[1]))
    assert again == url
    assert session.get(file).content == content
    assert session.get(f"{url}/api/models/{REPO}/revision/main").json()["sha"] == commit


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/status")
def test_a_big_file_is_never_in_memory(program: Any, session: requests.Session, tmp_path: Path) -> None:
    """160 MB go in and out, and the program's memory never held a third of them."""
    size = 160 << 20
    big = tmp_path / "bigger"
    with big.open("wb") as file:
        file.truncate(size)
    digest = hashlib.sha256()
    for _ in range(160):
        digest.update(bytes(1 << 20))
    url, pid = program()
    session.post(f"{url}/api/repos/create", json={"name": "native", "organization": "acme"})
    item: dict[str, Any] = {"oid": digest.hexdigest(), "size": size}
    batch = session.post(f"{url}/{REPO}.git/info/lfs/objects/batch", json={"objects": [item]}).json()
    with big.open("rb") as file:
        assert session.put(batch["objects"][0]["actions"]["upload"]["href"], data=file).status_code == 200
    lines = [
        {"key": "header", "value": {"summary": "big"}},
        {"key": "lfsFile", "value": {"path": "big", "algo": "sha256", **item}},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    assert session.post(f"{url}/api/models/{REPO}/commit/main", data=body).status_code == 200
    with session.get(f"{url}/{REPO}/resolve/main/big", stream=True) as answer:
        assert sum(len(chunk) for chunk in answer.iter_content(1 << 20)) == size
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["VmHWM"].split()[0]) * 1024 < size // 3
