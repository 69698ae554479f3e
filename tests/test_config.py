"""Configs are values: every word returns a copy, a wrong word is an error, and the verbs that need a network say so."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest

from nativeload import NativeLibraryConfig, NativeLibraryConfigs
from nativeload.errors import ConfigError, DownloadUnavailableError
from nativeload.value import fields_of
from nativeload.variant import LIBRARIES, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from nativeload.host import Host
    from nativeload.resolve.resolution import LibrarySet

DIGEST = "0123456789abcdef" * 4
PIN = f"b11146@sha256:{DIGEST}"
COMMIT = "0123456789" * 4


def policy(sets: Sequence[LibrarySet], _: Host) -> Iterable[LibrarySet]:
    """Return what came in."""
    return sets


def callback(_: int, __: str) -> None:
    """Take a line."""


# word of LLamaSharp -> (our call, the fields it sets)
CALLS: dict[str, tuple[str, tuple[object, ...], dict[str, object], dict[str, object]]] = {
    "WithLibrary": ("with_library", ("/opt/a.so", DIGEST), {}, {"path": "/opt/a.so", "sha256": DIGEST}),
    "WithLibrary, a Path": ("with_library", (Path("/opt/a.so"),), {}, {"path": "/opt/a.so"}),
    "WithCuda": ("with_cuda", (), {}, {"wants": ((Backend.CUDA, True),)}),
    "WithCuda, off": ("with_cuda", (False,), {}, {"wants": ((Backend.CUDA, False),)}),
    "WithCuda, required": ("with_cuda", ("require",), {}, {"wants": ((Backend.CUDA, "require"),)}),
    "WithCuda, a major": ("with_cuda", (13,), {}, {"wants": ((Backend.CUDA, 13),)}),
    "WithVulkan": ("with_vulkan", (), {}, {"wants": ((Backend.VULKAN, True),)}),
    "Metal": ("with_metal", (), {}, {"wants": ((Backend.METAL, True),)}),
    "ROCm": ("with_rocm", ("require",), {}, {"wants": ((Backend.ROCM, "require"),)}),
    "WithAvx": ("with_avx", ("AVX2",), {}, {"cpu": "avx2"}),
    "WithAvx, a variant": ("with_avx", ("zen4",), {}, {"cpu": "zen4"}),
    "(offline)": ("with_offline", (), {}, {"offline": True}),
    "WithAutoFallback": ("with_auto_fallback", (False,), {}, {"auto_fallback": False}),
    "an unknown llama.h": ("with_allow_unverified", (), {}, {"allow_unverified": True}),
    "SkipCheck": ("with_skip_check", (), {}, {"skip_check": True}),
    "WithSearchDirectory": ("with_search_directory", ("/a",), {}, {"search_directories": ("/a",)}),
    "WithSearchDirectories": (
        "with_search_directories",
        (["/a", Path("/b")],),
        {},
        {"search_directories": ("/a", "/b")},
    ),
    "WithSelectingPolicy": ("with_selecting_policy", (policy,), {}, {"selecting_policy": policy}),
    "WithLogCallback": ("with_log_callback", (callback,), {}, {"log_callback": callback}),
    "WithAutoDownload": (
        "with_auto_download",
        (),
        {"cache_dir": "/c", "endpoint": "https://e", "proxy": "http://p", "timeout": 3.0},
        {"auto_download": True, "cache_dir": "/c", "endpoint": "https://e", "proxy": "http://p", "timeout": 3.0},
    ),
    "a backend package": ("with_backend_package", ("My_Backend",), {}, {"packages": ("my-backend",)}),
    "a lock file": ("with_lock", ("/a/nativeload.lock",), {}, {"lock": "/a/nativeload.lock"}),
    "verify": ("with_verify", ("always",), {}, {"verify": "always"}),
    "a shared cache": ("with_shared_cache", ("/opt/llama-py",), {}, {"shared_caches": ("/opt/llama-py",)}),
    "a pin": (
        "with_pin",
        (PIN,),
        {"repo": "me/builds", "commit": COMMIT},
        {"pin": PIN, "repo": "me/builds", "commit": COMMIT},
    ),
    "a cache": ("with_cache_dir", ("/c",), {}, {"cache_dir": "/c"}),
    "a Python": ("with_python", ("qemu-x86_64 python3",), {}, {"python": "qemu-x86_64 python3"}),
}


def _call(config: NativeLibraryConfig | NativeLibraryConfigs, word: str) -> Any:
    name, given, named, _ = CALLS[word]
    return getattr(config, name)(*given, **named)


@pytest.mark.parametrize("word", CALLS)
def test_a_word_returns_a_copy(word: str) -> None:
    config = NativeLibraryConfig("whisper")
    before = fields_of(config)
    changed = _call(config, word)
    assert fields_of(config) == before
    assert changed is not config
    assert fields_of(changed) == before | CALLS[word][3]


def test_every_word_is_tested() -> None:
    words = {name for name in dir(NativeLibraryConfig) if name.startswith("with_")}
    assert words == {name for name, *_ in CALLS.values()}


def test_words_chain() -> None:
    config = NativeLibraryConfig()
    for word in CALLS:
        config = _call(config, word)
    assert dict(config.wants or ()) == {
        Backend.CUDA: 13,
        Backend.VULKAN: True,
        Backend.METAL: True,
        Backend.ROCM: "require",
    }
    assert config.search_directories == ("/a", "/a", "/b")


def test_the_last_word_on_a_backend_counts() -> None:
    assert NativeLibraryConfig().with_cuda().with_cuda(False).wants == ((Backend.CUDA, False),)


def test_lists_grow_in_the_order_of_their_words() -> None:
    config = NativeLibraryConfig().with_search_directory("/a").with_search_directory("/b")
    assert config.with_search_directories(["/c"]).search_directories == ("/a", "/b", "/c")
    assert config.with_backend_package("a").with_backend_package("b").packages == ("a", "b")


def test_words_can_be_taken_back() -> None:
    config = NativeLibraryConfig().with_library("/a", DIGEST).with_avx("avx").with_cache_dir("/c").with_python("x")
    config = config.with_selecting_policy(policy).with_log_callback(callback)
    back = config.with_library(None).with_avx(None).with_cache_dir(None).with_python(None)
    assert back.with_selecting_policy(None).with_log_callback(None) == NativeLibraryConfig()


def test_a_new_library_forgets_the_old_ones_digest() -> None:
    assert NativeLibraryConfig().with_library("/a", DIGEST).with_library("/b").sha256 is None


def test_auto_download_keeps_what_was_said_before() -> None:
    config = NativeLibraryConfig().with_auto_download(endpoint="https://e", timeout=3.0)
    again = config.with_auto_download(False, proxy="http://p")
    assert (again.auto_download, again.endpoint, again.proxy, again.timeout) == (False, "https://e", "http://p", 3.0)


def test_relative_paths_and_home_are_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.getcwd()
    config = NativeLibraryConfig().with_library("x.so").with_search_directory("d").with_cache_dir("c")
    monkeypatch.chdir("/")
    assert (config.path, config.search_directories, config.cache_dir) == (
        os.path.join(here, "x.so"),
        (os.path.join(here, "d"),),
        os.path.join(here, "c"),
    )


WRONG: list[tuple[str, tuple[object, ...], dict[str, object], str]] = [
    ("with_library", ("",), {}, "path"),
    ("with_library", ("a\0b",), {}, "path"),
    ("with_library", ("/a", "abc"), {}, "sha256"),
    ("with_library", ("/a", ""), {}, "sha256"),
    ("with_library", ("/a", "g" * 64), {}, "sha256"),
    ("with_cuda", ("on",), {}, "with_cuda"),
    ("with_cuda", (9,), {}, "with_cuda"),
    ("with_cuda", (100,), {}, "with_cuda"),
    ("with_cuda", (12.4,), {}, "with_cuda"),
    ("with_cuda", (None,), {}, "with_cuda"),
    ("with_vulkan", (12,), {}, "with_vulkan"),
    ("with_metal", ("required",), {}, "with_metal"),
    ("with_rocm", ("",), {}, "with_rocm"),
    ("with_avx", ("avx1024",), {}, "cpu"),
    ("with_avx", ("",), {}, "cpu"),
    ("with_search_directory", ("",), {}, "path"),
    ("with_search_directories", (["/a", ""],), {}, "path"),
    ("with_backend_package", ("",), {}, "package"),
    ("with_backend_package", ("../evil",), {}, "package"),
    ("with_pin", ("b11146",), {}, "pin"),
    ("with_pin", ("",), {}, "pin"),
    ("with_pin", (PIN,), {"commit": "main"}, "commit"),
    ("with_pin", (PIN,), {"commit": ""}, "commit"),
    ("with_cache_dir", ("",), {}, "path"),
    ("with_auto_download", (), {"timeout": 0}, "timeout"),
    ("with_auto_download", (), {"timeout": -1.0}, "timeout"),
    ("with_auto_download", (), {"timeout": float("nan")}, "timeout"),
    ("with_auto_download", (), {"cache_dir": ""}, "path"),
]


@pytest.mark.parametrize(("name", "given", "named", "option"), WRONG)
def test_a_wrong_word_is_an_error_that_names_its_option(
    name: str, given: tuple[object, ...], named: dict[str, object], option: str
) -> None:
    """An empty digest or commit, too: who writes one means to be checked."""
    with pytest.raises(ConfigError) as caught:
        getattr(NativeLibraryConfig(), name)(*given, **named)
    assert caught.value.option == option


@pytest.mark.parametrize("library", ["", "LLama", "llama.cpp", "mtmd"])
def test_a_library_is_one_of_three(library: str) -> None:
    with pytest.raises(ConfigError, match="none of llama, whisper, ggml") as caught:
        NativeLibraryConfig(library)
    assert caught.value.option == "library"


def test_a_config_is_a_value() -> None:
    config = NativeLibraryConfig().with_cuda().with_avx("avx2")
    assert config == NativeLibraryConfig().with_cuda().with_avx("avx2")
    assert hash(config) == hash(NativeLibraryConfig().with_cuda().with_avx("avx2"))
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    with pytest.raises(AttributeError, match="frozen"):
        config.cpu = "avx"  # type: ignore[misc]


def test_saying_something_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read by the verbs, not by the words."""
    monkeypatch.setenv("NATIVELOAD_CPU", "nonsense")
    config = NativeLibraryConfig().with_cuda()
    assert config.cpu is None
    with pytest.raises(ConfigError, match="NATIVELOAD_CPU"):
        config.settled()


def test_from_env_fixes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATIVELOAD_CPU", "avx")
    config = NativeLibraryConfig.from_env("whisper")
    monkeypatch.setenv("NATIVELOAD_CPU", "avx2")
    assert (config.library, config.cpu, config.settled().cpu) == ("whisper", "avx", "avx")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_download_of_what_nobody_pinned_names_the_ways_on(library: str) -> None:
    config = NativeLibraryConfig(library)
    with pytest.raises(DownloadUnavailableError, match="this release pins no build") as caught:
        config.download_native_library(filename="libllama.so", build="b11146", timeout=3.0)
    assert all(word in caught.value.hint for word in ("with_pin(", "with_lock(", "backend package"))
    with pytest.raises(DownloadUnavailableError):
        config.download_native_library(use_cuda=True, avx_level="avx2", os="linux")
    with pytest.raises(DownloadUnavailableError):
        config.download_best_native_library(proxy="http://p")
    with pytest.raises(ConfigError, match="beos"):
        config.download_native_library(os="beos")


def test_nothing_has_loaded_before_load() -> None:
    if "nativeload.loading" not in sys.modules:
        assert not NativeLibraryConfig("ggml").library_has_loaded
    assert NativeLibraryConfig("ggml").library_has_loaded is False


# -- several at once --------------------------------------------------------------------------------------------------


def test_all_means_all() -> None:
    assert [config.library for config in NativeLibraryConfig.all().configs] == list(LIBRARIES)
    assert [config.library for config in NativeLibraryConfig.all("ggml", "llama").configs] == ["ggml", "llama"]


@pytest.mark.parametrize("word", CALLS)
def test_a_word_acts_on_all(word: str) -> None:
    several = NativeLibraryConfig.all()
    changed = _call(several, word)
    assert isinstance(changed, NativeLibraryConfigs)
    assert several == NativeLibraryConfig.all()
    for library in LIBRARIES:
        assert changed[library] == _call(NativeLibraryConfig(library), word)


def test_all_has_no_other_words() -> None:
    several: Any = NativeLibraryConfig.all()
    for name in ("with_nonsense", "load", "resolve", "path"):
        with pytest.raises(AttributeError):
            getattr(several, name)
    with pytest.raises(KeyError):
        NativeLibraryConfig.all("llama")["whisper"]


def test_for_each_calls_with_each() -> None:
    seen: list[str] = []
    NativeLibraryConfig.all().for_each(lambda config: seen.append(config.library))
    assert seen == list(LIBRARIES)


def test_several_survive_pickling() -> None:
    several = NativeLibraryConfig.all().with_cuda()
    assert pickle.loads(pickle.dumps(several)) == several  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    "named",
    [
        {"path": b"/lib"},
        {"path": ""},
        {"sha256": "zz"},
        {"wants": "cuda"},
        {"wants": (("opencl", True),)},
        {"wants": ((Backend.CUDA, "maybe"),)},
        {"cpu": 512},
        {"auto_fallback": "no"},
        {"skip_check": "off"},
        {"allow_unverified": "off"},
        {"offline": "0"},
        {"auto_download": 1},
        {"search_directories": "/a"},
        {"packages": "foo"},
        {"packages": ("-",)},
        {"pin": "x"},
        {"commit": "main"},
        {"repo": "a/b/c"},
        {"repo": "../x"},
        {"endpoint": "ftp://a"},
        {"endpoint": "https://a b"},
        {"shared_caches": "/a"},
        {"verify": "never"},
        {"proxy": 123},
        {"timeout": 1e300},
        {"endpoint": "http://h:99999"},
        {"python": Path("/usr/bin/python3")},
        {"python": "python 'x"},
        {"python": " "},
        {"timeout": -1},
    ],
    ids=lambda named: f"{next(iter(named.items()))}",
)
def test_the_constructor_reads_its_words_as_the_methods_do(named: dict[str, Any]) -> None:
    """A config that exists is one whose values can be: a truthy "off" would skip the check it forbids."""
    with pytest.raises(ConfigError):
        NativeLibraryConfig(**named)


def test_the_constructor_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = NativeLibraryConfig(path="lib.so", search_directories=("there",), cache_dir="~")
    assert config.path == str(tmp_path / "lib.so")
    assert config.search_directories == (str(tmp_path / "there"),)
    assert config.cache_dir == str(Path.home())


def test_what_from_env_read_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed at that moment: what the environment says later does not reach it, nor its copies."""
    monkeypatch.setenv("NATIVELOAD_CPU", "avx2")
    config = NativeLibraryConfig.from_env()
    monkeypatch.setenv("NATIVELOAD_CPU", "avx")
    monkeypatch.setenv("NATIVELOAD_PATH", "/elsewhere")
    assert (config.settled().cpu, config.settled().path) == ("avx2", None)
    assert config.with_cuda().settled().path is None
    assert NativeLibraryConfig().settled().path == "/elsewhere"
