"""What the environment and the config file say: read, checked, and in their order."""

from __future__ import annotations

import os
import sys

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from nativeload import settings
from nativeload.config import NativeLibraryConfig
from nativeload.errors import ConfigError
from nativeload.value import fields_of
from nativeload.variant import GPU_BACKENDS, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

DIGEST = "0123456789abcdef" * 4
COMMIT = "0123456789" * 4
CONFIGURED = {"wants": ((Backend.CUDA, True),), "cpu": "zen4"}

# field -> (a word that is not the default, what it reads as, another word, what that reads as)
WORDS: dict[str, tuple[str, Any, str, Any]] = {
    "path": ("/opt/a.so", "/opt/a.so", "/opt/b.so", "/opt/b.so"),
    "sha256": (DIGEST.upper(), DIGEST, f"sha256:{'a' * 64}", "a" * 64),
    "wants": ("cuda=13", ((Backend.CUDA, 13),), "vulkan=off", ((Backend.VULKAN, False),)),
    "cpu": ("AVX2", "avx2", "zen4", "zen4"),
    "auto_fallback": ("off", False, "1", True),
    "skip_check": ("true", True, "no", False),
    "allow_unverified": ("yes", True, "off", False),
    "search_directories": (f"/a{os.pathsep}/b", ("/a", "/b"), "/c", ("/c",)),
    "packages": ("My_Backend, other", ("my-backend", "other"), "third", ("third",)),
    "pin": (f"b11146@sha256:{DIGEST}", f"b11146@sha256:{DIGEST}", f"b1@sha256:{'a' * 64}", f"b1@sha256:{'a' * 64}"),
    "lock": ("/a/nativeload.lock", "/a/nativeload.lock", "/b.lock", "/b.lock"),
    "repo": ("me/builds", "me/builds", "you/builds", "you/builds"),
    "commit": (COMMIT, COMMIT, "a" * 40, "a" * 40),
    "cache_dir": ("/var/a", "/var/a", "/var/b", "/var/b"),
    "shared_caches": (f"/a{os.pathsep}/b", ("/a", "/b"), "/c", ("/c",)),
    "verify": ("always", "always", "stamp", "stamp"),
    "python": ("qemu-x86_64 python3", "qemu-x86_64 python3", "python3 -I", "python3 -I"),
    "auto_download": ("yes", True, "off", False),
    "endpoint": ("https://a.example", "https://a.example", "https://b.example", "https://b.example"),
    "proxy": ("http://p:1", "http://p:1", "http://q:2", "http://q:2"),
    "timeout": ("2.5", 2.5, "10", 10.0),
    "offline": ("on", True, "0", False),
}
WRONG = {
    "path": "a\0b",
    "sha256": "abc",
    "wants": "opencl",
    "cpu": "avx1024",
    "auto_fallback": "maybe",
    "skip_check": "2",
    "allow_unverified": "perhaps",
    "packages": "-x-",
    "pin": "b11146",
    "repo": "a/b/c",
    "commit": "main",
    "endpoint": "ftp://a.example",
    "verify": "never",
    "proxy": "http://",
    "auto_download": "si",
    "timeout": "soon",
    "offline": "nein",
}


def _toml(word: str) -> str:
    return f"'{word}'"


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file that NATIVELOAD_CONFIG names; write into it."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("NATIVELOAD_CONFIG", str(path))
    return path


def test_every_option_has_a_test_word() -> None:
    """A new option without a word in the table above is one without a test."""
    assert list(settings.OPTIONS) == list(WORDS)


def test_every_option_is_a_field_with_its_own_names() -> None:
    fields = set(fields_of(NativeLibraryConfig()))
    assert set(settings.OPTIONS) == fields - {"library", "selecting_policy", "log_callback", "fixed"}
    variables = [name for names, _, _ in settings.OPTIONS.values() for name in names]
    keys = [key for _, key, _ in settings.OPTIONS.values()]
    assert len(variables) == len(set(variables))
    assert len(keys) == len(set(keys))
    assert all(names[0] == f"NATIVELOAD_{key.upper()}" for names, key, _ in settings.OPTIONS.values())


@pytest.mark.parametrize("field", list(settings.OPTIONS))
def test_an_argument_beats_the_environment_beats_the_file_beats_the_default(
    field: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_value, second, second_value = WORDS[field]
    variables, key, _ = settings.OPTIONS[field]
    default = getattr(NativeLibraryConfig(), field)
    monkeypatch.delenv("NATIVELOAD_CACHE")  # the tests' own
    assert getattr(NativeLibraryConfig().settled(), field) is default is None
    config_file.write_text(f"{key} = {_toml(first)}\n", encoding="utf-8")
    assert getattr(NativeLibraryConfig().settled(), field) == first_value
    monkeypatch.setenv(variables[0], second)
    assert getattr(NativeLibraryConfig().settled(), field) == second_value
    given = NativeLibraryConfig(**{field: first_value})
    settled = getattr(given.settled(), field)
    assert settled == (first_value + second_value if field == "wants" else first_value)


@pytest.mark.parametrize("field", [name for name, (names, _, _) in settings.OPTIONS.items() if len(names) > 1])
def test_our_own_variable_comes_before_the_hubs(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, first_value, second, second_value = WORDS[field]
    ours, theirs = settings.OPTIONS[field][0]
    monkeypatch.setenv(theirs, second)
    assert settings.read(os.environ)[field] == second_value
    monkeypatch.setenv(ours, first)
    assert settings.read(os.environ)[field] == first_value


@pytest.mark.parametrize("field", list(settings.OPTIONS))
def test_an_empty_variable_says_nothing(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATIVELOAD_CACHE")
    monkeypatch.setenv(settings.OPTIONS[field][0][0], "")
    assert settings.read(os.environ) == {}


def test_options_without_a_wrong_word_take_any_text() -> None:
    free = {"search_directories", "lock", "cache_dir", "shared_caches", "python"}
    assert set(settings.OPTIONS) == set(WRONG) | free


@pytest.mark.parametrize("field", [field for field in WRONG if field != "path"])
def test_a_wrong_word_names_its_variable(field: str) -> None:
    variable = settings.OPTIONS[field][0][0]
    with pytest.raises(ConfigError) as caught:
        settings.read({variable: WRONG[field]})
    assert caught.value.option == variable
    assert str(caught.value).startswith(f"{variable}: ")


@pytest.mark.parametrize("field", [field for field in WRONG if field != "path"])
def test_a_wrong_word_names_its_file_and_key(field: str, config_file: Path) -> None:
    key = settings.OPTIONS[field][1]
    config_file.write_text(f"{key} = {_toml(WRONG[field])}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        NativeLibraryConfig().settled()
    assert caught.value.option == f"{config_file}: {key}"


def test_a_path_with_a_nul_byte_is_refused() -> None:
    for word in ("", "a\0b"):
        with pytest.raises(ConfigError, match="an empty path, or one with a NUL byte"):
            settings.path_word(word)


def test_a_relative_path_is_fixed_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert settings.path_word("x.so") == os.path.join(os.getcwd(), "x.so")
    assert settings.path_word("a/../b") == os.path.join(os.getcwd(), "b")
    if os.name == "posix":
        assert settings.path_word("~/x.so") == "/home/me/x.so"


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("auto", ()),
        ("cpu", tuple((backend, False) for backend in GPU_BACKENDS)),
        ("cuda", ((Backend.CUDA, True),)),
        ("cuda=1", ((Backend.CUDA, True),)),
        ("cuda=0", ((Backend.CUDA, False),)),
        ("cuda=12", ((Backend.CUDA, 12),)),
        ("cuda=require,vulkan=off", ((Backend.CUDA, "require"), (Backend.VULKAN, False))),
        (" metal , rocm=on ", ((Backend.METAL, True), (Backend.ROCM, True))),
    ],
)
def test_backends_are_said_in_one_word(word: str, expected: object) -> None:
    assert settings.backend_word(word) == expected


@pytest.mark.parametrize(
    "word",
    ["", "CUDA", "cuda,", "cuda=5", "cuda=100", "cuda=sometimes", "vulkan=12", "cuda=-1", "cuda=12.4", "cuda=01"],
)
def test_a_wrong_backend_word_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        settings.backend_word(word)


def test_a_backend_said_twice_is_refused() -> None:
    """Off and required at once has no meaning; neither half of it may win in silence."""
    for word in ("cuda=require,cuda=off", "cuda,cuda=13"):
        with pytest.raises(ConfigError, match="cuda"):
            settings.backend_word(word)


@pytest.mark.parametrize("word", ["0", "-1", "nan", "inf", "-inf", "", "1s"])
def test_a_timeout_is_a_positive_number(word: str) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        settings.seconds_word(word)


@pytest.mark.parametrize(
    "word", ["", "b1", "b1@sha256:", f"@sha256:{DIGEST}", f"b1@sha256:{DIGEST.upper()}", f"b1@md5:{DIGEST}", DIGEST]
)
def test_a_pin_is_a_build_and_a_digest(word: str) -> None:
    with pytest.raises(ConfigError, match="pin"):
        settings.pin_word(word)


@pytest.mark.parametrize("word", ["main", "v1.0", COMMIT[:39], COMMIT + "0", "g" * 40, COMMIT.replace("1", "A")])
def test_a_commit_is_forty_digits(word: str) -> None:
    with pytest.raises(ConfigError, match="commit"):
        settings.commit_word(word)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_speaks_toml(config_file: Path) -> None:
    """Switches, numbers and lists may be written as such."""
    config_file.write_text(
        "auto_fallback = false\nskip_check = true\ntimeout = 2.5\nsearch_directories = ['/a', '/b']\n"
        "packages = ['one', 'Two_Three']\n",
        encoding="utf-8",
    )
    assert settings.read(os.environ | {"NATIVELOAD_CACHE": ""}) == {
        "auto_fallback": False,
        "skip_check": True,
        "timeout": 2.5,
        "search_directories": ("/a", "/b"),
        "packages": ("one", "two-three"),
    }


def test_backends_may_be_a_list(config_file: Path) -> None:
    config_file.write_text("backend = ['cuda=13', 'vulkan=off']\n", encoding="utf-8")
    assert settings.read(os.environ)["wants"] == ((Backend.CUDA, 13), (Backend.VULKAN, False))


@pytest.mark.parametrize("line", ["pth = '/a'", "cache_dir = '/a'", "[llama]\npath = '/a'", "Path = '/a'"])
def test_an_unknown_key_is_an_error_that_lists_the_known(line: str, config_file: Path) -> None:
    config_file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key") as caught:
        NativeLibraryConfig().settled()
    assert caught.value.option == str(config_file)
    assert all(key in caught.value.hint for _, key, _ in settings.OPTIONS.values())


@pytest.mark.parametrize("key", ["path", "python", "cache"])
def test_a_value_of_another_kind_is_an_error(key: str, config_file: Path) -> None:
    """A table is no path: nothing is guessed from its text."""
    config_file.write_text(f"[{key}]\nx = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=key):
        settings.read({"NATIVELOAD_CONFIG": str(config_file)})


@pytest.mark.parametrize("content", [b"path = ", b"path = '/a'\npath = '/b'\n", b"path = '\xff\xfe'\n", b"\0"])
def test_a_broken_file_is_an_error_that_names_it(content: bytes, config_file: Path) -> None:
    config_file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        NativeLibraryConfig().settled()
    assert caught.value.option == str(config_file)


def test_a_named_file_must_exist(config_file: Path) -> None:
    config_file.unlink()
    with pytest.raises(ConfigError, match="does not exist") as caught:
        NativeLibraryConfig().settled()
    assert caught.value.option == "NATIVELOAD_CONFIG"


def test_a_directory_is_no_config_file(config_file: Path) -> None:
    config_file.unlink()
    config_file.mkdir()
    with pytest.raises(ConfigError):
        NativeLibraryConfig().settled()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="XDG names directories on Linux and macOS")
def test_the_users_own_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert settings.read(os.environ).get("cpu") is None
    folder = tmp_path / "xdg" / "nativeload"
    folder.mkdir(parents=True)
    assert settings.read(os.environ).get("cpu") is None
    (folder / "config.toml").write_text("cpu = 'zen4'\nbackend = 'cuda'\n", encoding="utf-8")
    said = settings.read(os.environ)
    assert {name: said[name] for name in CONFIGURED} == CONFIGURED


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="XDG names directories on Linux and macOS")
def test_without_a_folder_platformdirs_is_not_asked(tmp_path: Path) -> None:
    assert settings.config_file_path({"XDG_CONFIG_HOME": str(tmp_path / "none")}) is None


@pytest.mark.parametrize("xdg", [None, "", "  ", "/srv/config", "relative/config", " /padded ", "~/config"])
def test_the_short_look_agrees_with_platformdirs(xdg: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that platformdirs names must be among those looked at first, on Linux and on macOS."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", xdg)
    monkeypatch.setattr(sys, "platform", "linux")
    assert Unix("nativeload", appauthor=False).user_config_dir in settings.posix_config_directories(os.environ)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert MacOS("nativeload", appauthor=False).user_config_dir in settings.posix_config_directories(os.environ)


# -- what belongs together --------------------------------------------------------------------------------------------


def test_an_arguments_path_is_not_held_against_anothers_digest(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text(f"sha256 = '{DIGEST}'\n", encoding="utf-8")
    given = NativeLibraryConfig().with_library("/opt/a.so")
    assert given.settled().sha256 is None
    monkeypatch.setenv("NATIVELOAD_SHA256", DIGEST)
    assert given.settled().sha256 is None
    assert given.with_library("/opt/a.so", "a" * 64).settled().sha256 == "a" * 64


def test_a_variables_path_is_not_held_against_the_files_digest(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's digest is of the file's path."""
    config_file.write_text(f"path = '/opt/file.so'\nsha256 = '{DIGEST}'\n", encoding="utf-8")
    settled = NativeLibraryConfig().settled()
    assert (settled.path, settled.sha256) == ("/opt/file.so", DIGEST)
    monkeypatch.setenv("NATIVELOAD_PATH", "/opt/variable.so")
    settled = NativeLibraryConfig().settled()
    assert (settled.path, settled.sha256) == ("/opt/variable.so", None)


def test_backends_are_merged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an argument says of one backend leaves what the environment says of the others."""
    monkeypatch.setenv("NATIVELOAD_BACKEND", "cpu")
    wants = dict(NativeLibraryConfig().with_cuda("require").settled().wants or ())
    assert wants == {
        Backend.CUDA: "require",
        Backend.VULKAN: False,
        Backend.METAL: False,
        Backend.ROCM: False,
    }


def test_settling_twice_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, (names, _, _) in settings.OPTIONS.items():
        monkeypatch.setenv(names[0], WORDS[field][0])
    once = NativeLibraryConfig().settled()
    assert once.settled() == once
    assert {field: getattr(once, field) for field in WORDS} == {field: word[1] for field, word in WORDS.items()}
