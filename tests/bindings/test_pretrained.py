"""A model comes from a Hub by name or pattern, whole and as the Hub knows it; where there is no Hub, from the cache."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from nativeload.errors import CacheError, ConfigError, IntegrityError, NetworkError
from nativeload_llama.errors import ModelError
from nativeload_llama.pretrained import fetch, parse_hf
from tests.hub import Hub
from tests.scenarios import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Fetch = Callable[..., str]

REPO = "owner/model-GGUF"
BIG = b"GGUF" + bytes(range(256)) * 64
FILES = {
    "README.md": b"# a model\n",
    "model-Q4_K_M.gguf": b"GGUF q4" + BIG,
    "model-Q8_0.gguf": b"GGUF q8" + BIG,
    "parts/model-F16-00001-of-00003.gguf": b"GGUF 1" + BIG,
    "parts/model-F16-00002-of-00003.gguf": b"GGUF 2" + BIG,
    "parts/model-F16-00003-of-00003.gguf": b"GGUF 3" + BIG,
}


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, telemetry or offline switch of the user's; a Hub that is gone is given up at once."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub with one model in three quantizations; every file but the README is large there."""
    with Hub(tmp_path / "hub", lfs_from=1000) as running:
        running.push(REPO, FILES)
        yield running


@pytest.fixture
def get(hub: Hub, tmp_path: Path) -> Fetch:
    """`fetch` from that Hub into a cache of the test's own."""

    def run(filename: str, repo: str = REPO, **more: Any) -> str:
        return fetch(repo, filename, **{"endpoint": hub.url, "cache_dir": tmp_path / "models", **more})

    return run


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_a_file_is_fetched_once(hub: Hub, get: Fetch) -> None:
    first = get("model-Q8_0.gguf")
    assert read(first) == FILES["model-Q8_0.gguf"]
    assert len(hub.gets()) == 1
    assert get("model-Q8_0.gguf") == first
    assert len(hub.gets()) == 1


def test_a_pattern_stands_for_the_one_file_that_it_matches(get: Fetch) -> None:
    assert read(get("*Q8_0.gguf")) == FILES["model-Q8_0.gguf"]
    assert read(get("model-?4*")) == FILES["model-Q4_K_M.gguf"]


def test_several_matches_are_named(hub: Hub, get: Fetch) -> None:
    with pytest.raises(ModelError, match="2 files of the repository match") as caught:
        get("model-*.gguf")
    assert caught.value.path == f"hf:{REPO}/model-*.gguf"
    assert "model-Q4_K_M.gguf, model-Q8_0.gguf" in caught.value.hint
    assert not hub.gets()


@pytest.mark.parametrize("name", ["*Q2_K.gguf", "model-Q2_K.gguf"])
def test_where_nothing_matches_the_error_says_what_there_is(get: Fetch, name: str) -> None:
    with pytest.raises(ModelError, match=r"no .*file") as caught:
        get(name)
    assert "model-Q4_K_M.gguf, model-Q8_0.gguf, parts/model-F16-00001-of-00003.gguf" in caught.value.hint
    assert "README" not in caught.value.hint


@pytest.mark.parametrize(
    "name", ["parts/model-F16-00001-of-00003.gguf", "parts/model-F16-00002-of-00003.gguf", "*F16*", "*-00001-of-*"]
)
def test_a_model_in_parts_comes_whole_and_is_its_first_part(hub: Hub, get: Fetch, name: str) -> None:
    path = get(name)
    assert path.endswith("model-F16-00001-of-00003.gguf")
    for number in (1, 2, 3):
        assert (
            read(path.replace("00001-of", f"0000{number}-of")) == FILES[f"parts/model-F16-0000{number}-of-00003.gguf"]
        )
    assert len(hub.gets()) == 3


def test_a_missing_part_is_an_error(hub: Hub, get: Fetch) -> None:
    hub.push("owner/torn", {"m-00001-of-00002.gguf": BIG})
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf.*no such file"):
        get("*.gguf", "owner/torn")


def test_the_parts_of_one_model_are_of_one_commit(hub: Hub, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes new parts while the first old one is on its way."""
    first, second = "parts/model-F16-00001-of-00003.gguf", "parts/model-F16-00002-of-00003.gguf"
    whole = hub.repositories.revision
    pushed: list[str] = []

    def push_meanwhile(repo: str, name: str) -> Any:
        if hub.gets(first) and not pushed:
            pushed.append("")
            hub.push(REPO, {second: b"GGUF of the next commit" + BIG})
        return whole(repo, name)

    monkeypatch.setattr(hub.repositories, "revision", push_meanwhile)
    path = get(first)
    assert pushed
    assert read(path.replace("00001-of", "00002-of")) == FILES[second]


def test_additional_files_come_along(hub: Hub, get: Fetch) -> None:
    path = get("model-Q8_0.gguf", additional_files=["README.md", "*Q4*"])
    assert read(path.replace("model-Q8_0.gguf", "README.md")) == FILES["README.md"]
    assert read(path.replace("Q8_0", "Q4_K_M")) == FILES["model-Q4_K_M.gguf"]
    hub.forget()
    with pytest.raises(ModelError, match="no file of the repository matches"):
        get("model-Q8_0.gguf", additional_files=["*.mmproj"])
    assert not hub.gets()


def test_a_revision_is_a_tag_or_a_commit(hub: Hub, get: Fetch) -> None:
    old = hub.commit(REPO)
    hub.repositories.tag(REPO, "v1")
    hub.push(REPO, {"model-Q8_0.gguf": b"GGUF newer" + BIG})
    assert read(get("model-Q8_0.gguf", revision="v1")) == FILES["model-Q8_0.gguf"]
    assert read(get("model-Q8_0.gguf", revision=old)) == FILES["model-Q8_0.gguf"]
    assert read(get("model-Q8_0.gguf")) == b"GGUF newer" + BIG
    with pytest.raises(ModelError, match=r"@v9: the repository has no such revision"):
        get("model-Q8_0.gguf", revision="v9")


def test_a_directory_of_ones_own_gets_the_files_themselves(get: Fetch, tmp_path: Path) -> None:
    path = get("*F16*", local_dir=tmp_path / "mine")
    assert path == str(tmp_path / "mine/parts/model-F16-00001-of-00003.gguf")
    assert not (tmp_path / "mine/parts/model-F16-00003-of-00003.gguf").is_symlink()


@pytest.mark.parametrize("where", [{}, {"local_dir": "mine"}])
def test_what_is_not_what_the_hub_knows_is_deleted(
    hub: Hub, get: Fetch, tmp_path: Path, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same number of other bytes, which huggingface_hub takes."""
    monkeypatch.chdir(tmp_path)
    hub.corrupt(REPO, "model-Q8_0.gguf", lambda raw: raw[::-1])
    with pytest.raises(IntegrityError, match=r"expected [0-9a-f]{64}, found [0-9a-f]{64}") as caught:
        get("model-Q8_0.gguf", **where)
    assert "deleted" in str(caught.value)
    hub.heal()
    assert read(get("model-Q8_0.gguf", **where)) == FILES["model-Q8_0.gguf"]


def test_what_is_cut_off_is_no_model(hub: Hub, get: Fetch) -> None:
    hub.corrupt(REPO, "model-Q8_0.gguf", lambda raw: raw[:100])
    with pytest.raises(NetworkError, match=r"model-Q8_0\.gguf"):
        get("model-Q8_0.gguf")


@pytest.mark.parametrize("name", ["model-Q8_0.gguf", "*Q8_0.gguf", "*F16*"])
@pytest.mark.parametrize("how", ["offline", "gone", "local"])
def test_where_there_is_no_hub_the_cache_has_to_do(
    hub: Hub, get: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    from huggingface_hub import constants

    where = {"local_dir": tmp_path / "mine"} if how == "local" else {}
    path = get(name, **where)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    hub.stop()
    assert get(name, **where) == path


@pytest.mark.parametrize("name", ["model-Q8_0.gguf", "*Q8_0.gguf"])
def test_a_hub_that_is_gone_and_a_cache_that_has_nothing(hub: Hub, get: Fetch, name: str) -> None:
    get("README.md")
    url = hub.url
    hub.stop()
    with pytest.raises((NetworkError, ModelError)) as caught:
        get(name)
    if isinstance(caught.value, NetworkError):
        assert caught.value.url.startswith(f"{url}/{REPO}")
        assert "not in the cache" in caught.value.hint
    else:  # the cache has the repository, and nothing of it matches
        assert "*" in name


def test_offline_says_so(get: Fetch, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE") as caught:
        get("model-Q8_0.gguf")
    assert "Fetch it once while online" in caught.value.hint
    assert not hub.requests


@pytest.mark.parametrize("name", ["model.gguf", "*.gguf"])
def test_no_such_repository(get: Fetch, name: str) -> None:
    with pytest.raises(ModelError, match="no such repository, or one that is private") as caught:
        get(name, "owner/nothing")
    assert "hf auth login" in caught.value.hint


@pytest.mark.parametrize("name", ["model-Q8_0.gguf", "*Q8_0.gguf"])
def test_a_private_repository_opens_with_its_token(hub: Hub, get: Fetch, name: str) -> None:
    hub.gate(REPO, "hf_secret")
    with pytest.raises(ModelError, match="no such repository, or one that is private"):
        get(name)
    assert read(get(name, token="hf_secret")) == FILES["model-Q8_0.gguf"]  # noqa: S106 - of this Hub


def test_a_gated_repository_says_what_to_do(hub: Hub, get: Fetch) -> None:
    hub.gate(REPO, "hf_secret", gated=True)
    with pytest.raises(ModelError, match="gated") as caught:
        get("model-Q8_0.gguf")
    assert "Accept its conditions" in caught.value.hint


def test_a_token_of_the_environment_goes_to_no_other_hub(hub: Hub, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    get("*Q8_0.gguf")
    assert hub.requests
    assert {request.headers.get("Authorization") for request in hub.requests} == {None}


def test_a_token_of_the_environment_goes_to_huggingface_hubs_own(hub: Hub, tmp_path: Path) -> None:
    code = """
    import os
    from nativeload_llama.pretrained import fetch
    say(fetch(os.environ["REPO"], "*Q8_0.gguf"))
    """
    hub.gate(REPO, "hf_mine")
    words: dict[str, Any] = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_mine", "HF_HOME": tmp_path / "home", "REPO": REPO}
    ended = watch(code, **words, HF_HUB_DISABLE_TELEMETRY=1)
    assert read(ended.value) == FILES["model-Q8_0.gguf"]
    assert ended.value.startswith(str(tmp_path / "home"))
    assert (ended.stdout, ended.stderr) == ("", "")  # bars are for terminals


@pytest.mark.parametrize("token", ["hf_sec\nret", "hf_secret\x00", "hf_s\u00e9cret", "hf secret"])
def test_a_token_that_cannot_be_sent_is_not_quoted(hub: Hub, get: Fetch, token: str) -> None:
    with pytest.raises(ValueError, match="no token") as caught:
        get("model-Q8_0.gguf", token=token)
    assert "ret" not in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["model-Q8_0.gguf", "*Q8_0.gguf"])
def test_nor_is_one_of_the_environment(hub: Hub, tmp_path: Path, name: str) -> None:
    code = """
    import os, traceback
    from nativeload_llama.pretrained import fetch
    try:
        fetch(os.environ["REPO"], os.environ["NAME"])
    except ValueError:
        say(traceback.format_exc())
    """
    words: dict[str, Any] = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_s\u00e9cret", "HF_HOME": tmp_path / "home"}
    ended = watch(code, **words, REPO=REPO, NAME=name, HF_HUB_DISABLE_TELEMETRY=1)
    assert "the token has a character that no token has" in ended.value
    assert "hf_s" not in ended.value + ended.stdout + ended.stderr


@pytest.mark.parametrize("repo", ["", "a/b/c", "../up", "owner/-model", "owner/mo del"])
@pytest.mark.parametrize("name", ["model.gguf", "*.gguf"])
def test_a_name_that_no_repository_has(get: Fetch, hub: Hub, repo: str, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        get(name, repo)
    assert "\n" not in caught.value.reason
    assert not hub.requests


@pytest.mark.parametrize("name", ["../outside.gguf", "parts/../../outside.gguf", "/etc/passwd"])
def test_nothing_is_written_outside(get: Fetch, tmp_path: Path, name: str) -> None:
    for where in ({}, {"local_dir": tmp_path / "mine"}):
        with pytest.raises((ModelError, NetworkError)):
            get(name, **where)
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1", "http://user:secret@127.0.0.1:99999999"])
def test_an_endpoint_that_is_none(get: Fetch, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint") as caught:
        get("model-Q8_0.gguf", endpoint=endpoint)
    assert "secret" not in str(caught.value)


def test_a_folder_is_no_hub(get: Fetch, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="file://"):
        get("model-Q8_0.gguf", endpoint=tmp_path.as_uri())


def test_a_cache_that_cannot_be_written(get: Fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(CacheError, match="file"):
        get("model-Q8_0.gguf", cache_dir=tmp_path / "file" / "cache")


def test_a_hub_that_fails(hub: Hub, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hub import RefusalError

    def fail(*_: object) -> Any:
        raise RefusalError(503, "out for lunch")

    monkeypatch.setattr(hub.repositories, "revision", fail)
    with pytest.raises(NetworkError) as caught:
        get("model-Q8_0.gguf")
    assert caught.value.status == 503
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), NetworkError)  # noqa: S301 - its own


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:owner/repo/model.gguf", ("owner/repo", "model.gguf", None)),
        ("hf:owner/repo/folder/model.gguf@v1", ("owner/repo", "folder/model.gguf", "v1")),
        ("hf:owner/repo/*Q8_0.gguf@refs/pr/1", ("owner/repo", "*Q8_0.gguf", "refs/pr/1")),
        ("hf:owner/repo/odd@name.gguf", ("owner/repo", "odd@name.gguf", None)),
        ("hf:owner/repo/odd@name.gguf@main", ("owner/repo", "odd@name.gguf", "main")),
    ],
)
def test_an_address_of_a_file_on_a_hub(text: str, expected: tuple[str, str, str | None]) -> None:
    assert parse_hf(text) == expected


@pytest.mark.parametrize(
    "text", ["", "hf:", "model.gguf", "hf:owner/repo", "hf:owner/repo/", "hf:/repo/x.gguf", "hf:owner//x.gguf",
             "hf:owner/repo/folder/", "hf:owner/repo/x.gguf@", "https://huggingface.co/o/r/x.gguf", "HF:o/r/x.gguf"],
)  # fmt: skip
def test_what_is_no_address_of_a_file_on_a_hub(text: str) -> None:
    with pytest.raises(ModelError, match="no address of a file on a Hub") as caught:
        parse_hf(text)
    assert "hf:owner/repo/file.gguf" in caught.value.hint
