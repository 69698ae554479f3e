"""What the user names is used, or raises; nothing is looked at in its place."""

from __future__ import annotations

import os

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import ConfigError, IntegrityError, LibraryNotFoundError, LoadError
from nativeload.resolve import explicit, resolve, shortlist
from nativeload.resolve.resolution import Rejected, Source
from nativeload.variant import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from nativeload.resolve.bundle import Bundle

HERE = Platform.current()
NOBODY = 65534
SPLIT = ("libggml-base.so", "libggml.so", "libllama.so", "libllama-common.so", "libggml-cpu-x64.so", "README")
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes and FIFOs are of POSIX systems")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A split build."""
    path = tmp_path / "folder"
    path.mkdir(mode=0o755)
    for name in SPLIT:
        (path / name).touch()
    return path


def _find(path: Path, sha256: str | None = None, library: str = "llama") -> Bundle:
    return explicit.find(library, str(path), HERE, sha256=sha256)


def _core(bundle: Bundle) -> list[str]:
    return [file.name for file in bundle.core]


def test_a_directory_is_a_whole_build(folder: Path) -> None:
    bundle = _find(folder)
    assert _core(bundle) == ["libggml-base.so", "libggml.so", "libllama.so"]
    assert [file.label for file in bundle.cpus] == ["x64"]
    assert (bundle.source, bundle.origin, bundle.directory) == (Source.EXPLICIT, str(folder), str(folder))
    assert (bundle.build, bundle.vouched, bundle.own) == (None, None, False)


def test_a_file_of_a_split_build_brings_its_siblings(folder: Path) -> None:
    bundle = _find(folder / "libllama.so")
    assert _core(bundle) == ["libggml-base.so", "libggml.so", "libllama.so"]
    assert [file.label for file in bundle.cpus] == ["x64"]
    assert (bundle.origin, bundle.directory) == (str(folder / "libllama.so"), str(folder))


def test_the_named_file_is_the_one_that_is_used(folder: Path) -> None:
    """Another build's libllama beside it is no clash: the user has said which."""
    (folder / "libllama.v9.so").touch()
    assert _core(_find(folder / "libllama.v9.so"))[-1] == "libllama.v9.so"
    assert _core(_find(folder / "libllama.so"))[-1] == "libllama.so"
    with pytest.raises(LoadError, match="two builds in one place"):
        _find(folder)


def test_a_file_alone_is_self_contained(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    bundle = _find(tmp_path / "libllama.so")
    assert (_core(bundle), bundle.cpus) == (["libllama.so"], ())


def test_a_file_of_any_other_name_is_self_contained(folder: Path) -> None:
    (folder / "xllamacpp.abi3.so").touch()
    bundle = _find(folder / "xllamacpp.abi3.so")
    assert (_core(bundle), bundle.cpus, bundle.core[0].label) == (["xllamacpp.abi3.so"], (), "llama")


def test_a_file_in_a_split_build_with_a_digest(folder: Path) -> None:
    """The user vouches for the one file; the rest of the set stays unverified."""
    resolution = resolve(NativeLibraryConfig().with_library(folder / "libllama.so", EMPTY).with_cuda(False))
    assert resolution.chosen is not None
    assert [file.declared for file in resolution.chosen.files] == [None, None, EMPTY, None]
    assert not resolution.verified


def test_a_digest_verifies_a_file(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    resolution = resolve(NativeLibraryConfig().with_library(tmp_path / "libllama.so", EMPTY))
    assert (resolution.verified, resolution.verified_by) == (True, "sha256")
    with pytest.raises(IntegrityError) as caught:
        resolve(NativeLibraryConfig().with_library(tmp_path / "libllama.so", "0" * 64))
    assert (caught.value.expected, caught.value.actual) == (f"sha256 {'0' * 64}", f"sha256 {EMPTY}")


def test_without_a_digest_nobody_vouches(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    resolution = resolve(NativeLibraryConfig().with_library(tmp_path / "libllama.so"))
    assert not resolution.verified
    assert "not verified" in resolution.explain()


def test_a_digest_is_for_a_file(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _find(folder, EMPTY)
    assert caught.value.option == "sha256"
    assert str(folder) in caught.value.hint


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("absent.so", "absent/libllama.so", "link"):
        with pytest.raises(LoadError, match="no such file or directory") as caught:
            _find(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


@posix_only
def test_a_fifo_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "libllama.so")
    with pytest.raises(LoadError, match="neither a regular file nor a directory"):
        _find(tmp_path / "libllama.so")


def test_a_directory_without_the_library_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="no llama library in this directory"):
        _find(tmp_path / "empty")
    with pytest.raises(LoadError, match="no whisper library in this directory"):
        _find(folder, library="whisper")
    assert _core(_find(folder, library="ggml")) == ["libggml-base.so", "libggml.so"]


@posix_only
def test_a_directory_that_cannot_be_listed_is_an_error(folder: Path) -> None:
    """Root lists it all the same."""
    folder.chmod(0o300)
    try:
        if os.geteuid() == 0:
            assert _core(_find(folder))
        else:
            with pytest.raises(LoadError, match="Permission denied"):
                _find(folder)
    finally:
        folder.chmod(0o700)


def test_what_is_named_is_never_replaced(tmp_path: Path) -> None:
    """A path that holds nothing raises, although search directories and installed packages might have a library."""
    config = NativeLibraryConfig().with_search_directory(tmp_path).with_library(tmp_path / "absent.so")
    for verb in (config.plan, config.resolve, config.dry_run):
        with pytest.raises(LoadError, match="no such file"):
            verb()


def test_a_path_is_the_only_source_asked(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    found = shortlist(NativeLibraryConfig().with_library(folder).with_search_directory(other))
    assert {item.origin for item in found.sets} == {str(folder)}
    assert all(decision.candidate.startswith(str(folder)) for decision in found.decisions)


# -- search directories -----------------------------------------------------------------------------------------------


def test_a_search_directory_is_looked_into(folder: Path) -> None:
    bundle = explicit.search("llama", str(folder), HERE)
    assert bundle is not None
    assert (bundle.source, bundle.origin) == (Source.EXPLICIT, str(folder))
    assert explicit.search("whisper", str(folder), HERE) is None


def test_search_directories_are_asked_in_order(folder: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir(mode=0o755)
    (second / "libllama.so").touch()
    for order in ([folder, second], [second, folder]):
        config = NativeLibraryConfig().with_search_directories(order)
        assert resolve(config).to_dict()["directory"] == str(order[0])


def test_a_search_directory_without_the_library_moves_on(folder: Path, tmp_path: Path) -> None:
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir(mode=0o755)
    config = NativeLibraryConfig().with_search_directories([absent, empty, folder])
    resolution = resolve(config)
    assert resolution.to_dict()["directory"] == str(folder)
    reasons = {decision.candidate: decision.verdict for decision in resolution.decisions}
    assert reasons[str(absent)] == Rejected("no such directory")
    assert reasons[str(empty)] == Rejected("no llama library in this directory")


def test_a_search_directory_with_two_builds_raises(folder: Path) -> None:
    (folder / "libllama.v9.so").touch()
    with pytest.raises(LoadError, match="two builds"):
        resolve(NativeLibraryConfig().with_search_directory(folder))


@posix_only
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_search_directory_that_others_can_write_raises(mode: int, folder: Path) -> None:
    folder.chmod(mode)
    with pytest.raises(LoadError, match="others can write to this search directory") as caught:
        resolve(NativeLibraryConfig().with_search_directory(folder))
    assert caught.value.path == str(folder)


@posix_only
def test_a_search_directory_below_one_that_others_can_write_raises(tmp_path: Path, folder: Path) -> None:
    """Who can rename its parent can put another in its place; a sticky parent such as /tmp does not let them."""
    parent = tmp_path / "parent"
    parent.mkdir()
    folder = folder.rename(parent / "folder")
    parent.chmod(0o1777)
    assert explicit.search("llama", str(folder), HERE) is not None
    parent.chmod(0o777)
    with pytest.raises(LoadError, match="others can write"):
        explicit.search("llama", str(folder), HERE)


@posix_only
def test_a_search_directory_of_another_user_raises(folder: Path) -> None:
    """Root's own is good for everybody; root gives one away to see it refused."""
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        with pytest.raises(LoadError, match="others can write"):
            explicit.search("llama", str(folder), HERE)
    else:
        assert explicit.search("llama", "/etc", HERE) is None


def test_nothing_anywhere_is_said_with_every_reason(tmp_path: Path, only_site: object) -> None:
    with pytest.raises(LibraryNotFoundError) as caught:
        resolve(NativeLibraryConfig().with_search_directory(tmp_path / "absent"))
    assert "no such directory" in str(caught.value)
