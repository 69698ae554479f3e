"""publish, prefetch, import and cache as a person or a script uses them: words, output, exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from nativeload import Host
from tests.hub import Hub
from tests.scenarios import ROOT, STUB_LINUX, WHY_NOT, cpu_module, stub_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

REPO = "me/llama"
TOKEN = "s-e-c-r-e-t"  # noqa: S105 - of a Hub that lives as long as this module


def nativeload(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "bindings")])
    env = {**os.environ, "PYTHONPATH": path, "NO_PROXY": "127.0.0.1", **environ}
    command = [sys.executable, "-m", "nativeload", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def said(*words: str, **environ: str) -> Any:
    """Return the JSON that a command printed; it must have ended well."""
    done = nativeload(*words, "--json", **environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundle(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split build of stubs with two CPU backends, and a file that is none of it."""
    folder = tmp_path_factory.mktemp("bundle")
    module = cpu_module(build)
    stub_bundle(build, folder, {"libggml-cpu-x64.so": module, "libggml-cpu-sse42.so": module})
    (folder / "readme.txt").write_text("not a library")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("hub"), token=TOKEN) as running:
        yield running


def publish(hub: Hub, bundle: Path, *more: str, token: str = TOKEN, json_too: bool = True) -> Any:
    words = ["publish", "upload", "--library", "llama", "--build", "b7", "--set", f"linux-x86_64={bundle}"]
    words += ["--repo", REPO, "--endpoint", hub.url, *more, *(["--json"] if json_too else [])]
    return nativeload(*words, HF_TOKEN=token, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HOME=str(bundle))


@pytest.fixture(scope="module")
def published(hub: Hub, bundle: Path) -> dict[str, str]:
    done = publish(hub, bundle)
    assert done.returncode == 0, done.stderr
    table: dict[str, str] = json.loads(done.stdout)
    return table


def options(published: dict[str, str], hub: Hub) -> list[str]:
    words = ["--pin", published["pin"], "--repo", published["repo"], "--commit", published["commit"]]
    return [*words, "--endpoint", hub.url]


@pytest.fixture
def folder(published: dict[str, str], hub: Hub, tmp_path: Path) -> Path:
    out = tmp_path / "folder"
    words = ["prefetch", *options(published, hub), "--platform", "linux-x86_64", "--cpu", "none", "--out", str(out)]
    assert nativeload(*words).returncode == 0
    return out


# -- publish --------------------------------------------------------------------------------------------------------


def test_publish_prints_pin_repo_and_commit_and_nothing_else(hub: Hub, published: dict[str, str]) -> None:
    assert list(published) == ["pin", "repo", "commit"]
    assert published["pin"].startswith("b7@sha256:")
    assert published["repo"] == REPO
    assert len(published["commit"]) == 40
    files = hub.files(REPO, published["commit"])
    assert f"manifests/{published['pin'].partition(':')[2]}.json" in files
    assert "llama/b7/linux-x86_64/cpu/libggml-base.so" in files
    assert not any("readme" in path for path in files)


def test_publish_says_what_it_left_out(hub: Hub, bundle: Path, published: dict[str, str]) -> None:
    """On stderr; and the same build again is the same pin, with nothing sent."""
    done = publish(hub, bundle)
    assert "linux-x86_64 cpu: 3 core, 2 cpu; left out: readme.txt" in done.stderr
    assert json.loads(done.stdout)["pin"] == published["pin"]


def test_publish_for_people(hub: Hub, bundle: Path, published: dict[str, str]) -> None:
    done = publish(hub, bundle, json_too=False)
    assert f"pin     {published['pin']}" in done.stdout


def test_a_dry_run_prints_the_manifest_and_uploads_nothing(hub: Hub, bundle: Path, published: dict[str, str]) -> None:
    hub.forget()
    done = nativeload("publish", "upload", "--build", "b7", "--set", f"linux-x86_64={bundle}", "--dry-run")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert {item["name"] for item in table["artifacts"]} == {
        *("libggml-base.so", "libggml.so", "libllama.so", "libggml-cpu-x64.so", "libggml-cpu-sse42.so"),
    }
    stored = hub.read(REPO, f"manifests/{published['pin'].partition(':')[2]}.json", published["commit"])
    assert stored.decode() == done.stdout
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--set", "linux-x86_64"], "is not a set"),
        (["--set", "beos-ppc=."], "is not a set"),
        (["--set", "linux-x86_64=/nowhere"], "is not a directory"),
        (["--set", "linux-x86_64=."], "no llama library"),
        (["--set", "windows-x86_64={bundle}"], "made for linux-x86_64, and the set is for windows-x86_64"),
        (["--set", "linux-x86_64={bundle}", "--set", "linux-x86_64={bundle}"], "given twice"),
        (["--set", "linux-x86_64={bundle}", "--build", "../b7"], "is no build of llama"),
        (["--set", "linux-x86_64={bundle}", "--build", "v0.5.0"], "--build b11146 --alias v0.5.0"),
        (["--set", "linux-x86_64={bundle}", "--library", "whisper", "--build", "b7"], "is no build of whisper"),
        (["--set", "linux-x86_64={bundle}", "--repo", "a/b/c"], "--repo"),
        (["--set", "linux-x86_64={bundle}", "--repo", "a/b", "--endpoint", "ftp://x"], "--endpoint"),
    ],
)
def test_publish_refuses_what_is_wrong_in_words(bundle: Path, tmp_path: Path, words: list[str], text: str) -> None:
    given = [word.format(bundle=bundle) for word in words]
    build = [] if "--build" in given else ["--build", "b7"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bindings")])}
    command = [sys.executable, "-m", "nativeload", "publish", "upload", *build, *given, "--dry-run"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_with_undeclared_instructions_is_not_published(build: Callable[..., Path], tmp_path: Path) -> None:
    """AVX2 in the file that says SSE 4.2: the machine code decides."""
    stub_bundle(build, tmp_path, {"libggml-cpu-sse42.so": build("avx2.c", "stub-avx2.so")})
    done = nativeload("publish", "upload", "--build", "b7", "--set", f"linux-x86_64={tmp_path}", "--dry-run")
    assert done.returncode == 1
    assert "libggml-cpu-sse42.so" in done.stderr
    assert "avx2" in done.stderr


def test_publish_without_the_right_token_says_so(hub: Hub, bundle: Path) -> None:
    done = publish(hub, bundle, token="w-r-o-n-g")  # noqa: S106
    assert done.returncode == 1
    assert "hf auth login" in done.stderr
    assert "w-r-o-n-g" not in done.stderr
    assert done.stdout == ""


def test_publish_to_a_hub_that_is_gone_says_so(bundle: Path) -> None:
    words = ["publish", "upload", "--build", "b7", "--set", f"linux-x86_64={bundle}", "--repo", REPO]
    done = nativeload(*words, "--endpoint", "http://127.0.0.1:9", HF_HOME=str(bundle))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: http://127.0.0.1:9/me/llama")


# -- prefetch and import --------------------------------------------------------------------------------------------


def test_prefetch_speaks_json(published: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    words = [
        "prefetch",
        *options(published, hub),
        "--platform",
        "linux-x86_64",
        "--cpu",
        "avx2",
        "--out",
        str(tmp_path),
    ]
    table = said(*words)
    assert table["pin"] == published["pin"]
    assert [item["variant"] for item in table["sets"]] == ["linux-x86_64-sse42"]
    assert len(table["sets"][0]["files"]) == 4
    assert (table["fetched"] > 0, table["present"]) == (True, 0)
    again = said(*words)
    assert (again["fetched"], again["present"]) == (0, table["fetched"])


def test_prefetch_without_a_target_is_for_this_machine(published: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    table = said("prefetch", *options(published, hub), "--out", str(tmp_path / "a"))
    here = Host.detect()
    assert table["sets"][0]["platform"] == str(here.platform)


def test_a_word_counts_for_the_platforms_it_speaks_of(published: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    """--cpu avx2 says nothing of a Mac, and --cuda nothing either; one platform it must fit."""
    words = [
        "prefetch",
        *options(published, hub),
        "--out",
        str(tmp_path),
        "--platform",
        "linux-x86_64",
        "--cpu",
        "avx2",
    ]
    table = said(*words, "--platform", "linux-x86_64")
    assert [item["variant"] for item in table["sets"]] == ["linux-x86_64-sse42"]
    done = nativeload(*words, "--platform", "macos-arm64")
    assert "has no set for macos-arm64" in done.stderr, "it got as far as that"
    only = ["prefetch", *options(published, hub), "--out", str(tmp_path), "--platform", "macos-arm64", "--cpu", "avx2"]
    assert "'avx2' says nothing about macos-arm64" in nativeload(*only).stderr


def test_prefetch_for_a_recorded_host(published: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    host = tmp_path / "host.json"
    host.write_text(json.dumps(Host.compose("linux-x86_64").to_dict()))
    table = said("prefetch", *options(published, hub), "--host", str(host), "--out", str(tmp_path / "a"))
    assert [item["variant"] for item in table["sets"]] == ["linux-x86_64-x64"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--platform", "macos-arm64"], "has no set for macos-arm64"),
        (["--platform", "linux-x86_64", "--cuda", "13"], "cuda was asked for, and cannot be had"),
        (["--platform", "linux-x86_64", "--cpu", "zen99"], "zen99"),
        (["--platform", "linux-aarch64", "--cpu", "avx2"], "says nothing about linux-aarch64"),
        (["--offline"], "offline"),
        (["--no-auto-download"], "switched off"),
        (["--path", "/lib"], "a path names what is here already"),
        (["--out", "/dev/null/x"], "Choose another --out"),
        (["--commit", "0" * 40], "is not there"),
    ],
)
def test_prefetch_says_what_cannot_be_had(
    published: dict[str, str], hub: Hub, tmp_path: Path, words: list[str], text: str
) -> None:
    out = tmp_path / "out"
    done = nativeload("prefetch", *options(published, hub), "--out", str(out), *words)
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists() or list(out.rglob("*.so")) == []


def test_prefetch_without_a_pin_names_the_ways_on(tmp_path: Path) -> None:
    done = nativeload("prefetch", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "this release pins no build of llama" in done.stderr
    assert "Three ways on" in done.stderr


def test_import_needs_to_be_told_what_it_should_be(folder: Path) -> None:
    done = nativeload("import", str(folder))
    assert done.returncode == 1
    assert "nobody says which build" in done.stderr
    assert "--sha256" in done.stderr


def test_import_takes_a_pin_or_its_digest(published: dict[str, str], folder: Path, tmp_path: Path) -> None:
    pin = published["pin"]
    for number, word in enumerate((pin, pin.partition("@")[2], pin.partition(":")[2])):
        cache = tmp_path / f"cache-{number}"
        table = said("import", str(folder), "--sha256", word, "--cache", str(cache))
        assert table["pin"] == pin
        assert all(os.path.isdir(item["directory"]) for item in table["sets"])
        assert all(item["directory"].startswith(str(cache)) for item in table["sets"])


def test_import_refuses_two_words_for_one_thing(published: dict[str, str], folder: Path) -> None:
    """--sha256 and NATIVELOAD_PIN say different pins: which one is meant?"""
    other = f"b7@sha256:{'0' * 64}"
    done = nativeload("import", str(folder), "--sha256", published["pin"], NATIVELOAD_PIN=other)
    assert done.returncode == 2
    assert other in done.stderr
    assert published["pin"] in done.stderr


@pytest.mark.parametrize("word", ["b7", "0" * 63, "b7@sha256:zz", "0" * 64])
def test_import_refuses_another_pin(folder: Path, tmp_path: Path, word: str) -> None:
    done = nativeload("import", str(folder), "--sha256", word, "--cache", str(tmp_path / "cache"))
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").glob("llama/*"))


def test_a_shared_cache_is_made_and_used_without_a_write(
    published: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """An operator imports once; others read: everything is readable to all, and nothing changes."""
    shared = tmp_path / "shared"
    words = ["--sha256", published["pin"], "--shared"]
    assert nativeload("import", str(folder), *words).returncode == 2
    assert said("import", str(folder), *words, "--cache", str(shared))["sets"]
    assert all(path.stat().st_mode & 0o004 for path in shared.rglob("*") if "locks" not in path.parts)
    before = {str(path): path.stat().st_mtime_ns for path in shared.rglob("*")}
    found = said("resolve", "--pin", published["pin"], "--shared-cache", str(shared))
    assert (found["source"], found["verified"]) == ("cached", True)
    assert found["directory"].startswith(str(shared))
    assert {str(path): path.stat().st_mtime_ns for path in shared.rglob("*")} == before


# -- cache ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(published: dict[str, str], folder: Path, tmp_path: Path) -> Path:
    place = tmp_path / "filled"
    assert nativeload("import", str(folder), "--sha256", published["pin"], "--cache", str(place)).returncode == 0
    return place


def test_cache_list(cache: Path) -> None:
    table = said("cache", "list", "--cache", str(cache))
    assert table["cache"] == str(cache)
    sets = {item["name"].rpartition("-")[0]: item for item in table["sets"]}
    assert "linux-x86_64-x64" in sets
    assert all((item["library"], item["build"]) == ("llama", "b7") for item in sets.values())
    text = nativeload("cache", "list", "--cache", str(cache)).stdout
    assert all(item["name"] in text for item in sets.values())


def test_cache_verify_finds_one_flipped_bit(cache: Path) -> None:
    assert nativeload("cache", "verify", "--cache", str(cache)).returncode == 0
    path = next(cache.glob("llama/b7/linux-x86_64-x64-*/libllama.so"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    done = nativeload("cache", "verify", "--cache", str(cache))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert str(path) in line


def test_cache_remove_by_name_and_by_build(cache: Path) -> None:
    names = [item["name"] for item in said("cache", "list", "--cache", str(cache))["sets"]]
    done = nativeload("cache", "remove", "nonsense", "--cache", str(cache))
    assert done.returncode == 1
    assert "nothing was removed" in done.stderr
    assert nativeload("cache", "remove", names[0], "--cache", str(cache)).returncode == 0
    assert [item["name"] for item in said("cache", "list", "--cache", str(cache))["sets"]] == names[1:]
    if names[1:]:
        assert nativeload("cache", "remove", "llama/b7", "--cache", str(cache)).returncode == 0
    assert said("cache", "list", "--cache", str(cache))["sets"] == []


def test_cache_gc_keeps_what_is_of_use(cache: Path) -> None:
    before = said("cache", "list", "--cache", str(cache))
    done = said("cache", "gc", "--cache", str(cache))
    assert done["sets"] == 0
    assert said("cache", "list", "--cache", str(cache)) == before
    assert said("cache", "gc", "--unused-for", "0", "--cache", str(cache))["sets"] == len(before["sets"])
    assert said("cache", "list", "--cache", str(cache))["sets"] == []
    assert list(cache.glob("manifests/*")) == []


def test_cache_refuses_a_cache_that_others_can_write(cache: Path) -> None:
    cache.chmod(0o777)
    done = nativeload("cache", "list", "--cache", str(cache))
    assert done.returncode == 1
    assert "chmod go-w" in done.stderr
    cache.chmod(0o700)


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert said("cache", "list", "--cache", str(tmp_path / "none"))["sets"] == []
    assert not (tmp_path / "none").exists()
