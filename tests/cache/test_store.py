"""Notes are kept where nobody else can write, or not at all. Runs as root and as anybody: it asks which it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nativeload.cache import LibraryCache, default_root
from nativeload.errors import CacheError, UnsafeCacheError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ACLs rule on Windows, where the profile is private")

NOBODY = 65534
NOTE = {"answer": "42", "words": "two words", "empty": ""}
ROOT = Path(__file__).parents[2]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory of the user's own."""
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each umask that people have."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_note_is_read_as_it_was_written(root: Path) -> None:
    cache = LibraryCache(str(root))
    assert cache.read("probes", "key") is None
    assert cache.write("probes", "key", NOTE) == str(root / "probes" / "key")
    assert cache.read("probes", "key") == NOTE
    assert cache.read("receipts", "key") is None
    assert cache.write("probes", "key", {"answer": "43"})
    assert cache.read("probes", "key") == {"answer": "43"}


def test_notes_are_private_under_every_umask(umask: int, tmp_path: Path) -> None:
    cache = LibraryCache(str(tmp_path / "fresh"))
    path = cache.write("probes", "key", NOTE)
    assert path is not None
    assert [_mode(Path(path)), _mode(Path(path).parent), _mode(tmp_path / "fresh")] == [0o600, 0o700, 0o700]
    assert cache.read("probes", "key") == NOTE


def test_a_cache_makes_its_parents_private_too(umask: int, tmp_path: Path) -> None:
    """What it makes itself must stand its own check: the default umask of many systems, 002, lets a group write."""
    cache = LibraryCache(str(tmp_path / "new" / "newer" / "cache"))
    assert cache.write("probes", "key", NOTE)
    assert cache.read("probes", "key") == NOTE
    assert [_mode(tmp_path / "new") & 0o022, _mode(tmp_path / "new" / "newer") & 0o022] == [0, 0]


def test_nothing_is_left_beside_a_note(root: Path) -> None:
    cache = LibraryCache(str(root))
    for number in range(3):
        cache.write("probes", "key", {"answer": str(number)})
    assert os.listdir(root / "probes") == ["key"]


def test_nothing_is_left_of_a_note_that_cannot_be_written(root: Path) -> None:
    """Here a directory is in the way; a full disk does the same."""
    (root / "probes" / "key").mkdir(parents=True)
    cache = LibraryCache(str(root))
    assert cache.write("probes", "key", NOTE) is None
    assert os.listdir(root / "probes") == ["key"]


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_a_root_that_others_can_write_is_refused(mode: int, root: Path) -> None:
    """A sticky bit does not help: others could put new notes there."""
    cache = LibraryCache(str(root))
    cache.write("probes", "key", NOTE)
    root.chmod(mode)
    for action in (
        cache.check,
        lambda: cache.read("probes", "key"),
        lambda: cache.write("probes", "key", NOTE),
        lambda: cache.forget("probes"),
    ):
        with pytest.raises(UnsafeCacheError, match=f"mode {mode:04o} lets others write") as caught:
            action()
        assert caught.value.hint == f"Run: chmod go-w {root}"
    root.chmod(0o700)
    assert cache.read("probes", "key") == NOTE


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_root_that_others_can_only_read_is_fine(mode: int, root: Path) -> None:
    root.chmod(mode)
    assert LibraryCache(str(root)).check()


@pytest.mark.parametrize(("mode", "safe"), [(0o755, True), (0o1777, True), (0o777, False), (0o775, False)])
def test_a_directory_above_must_be_safe_or_sticky(mode: int, safe: bool, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "between" / "root").mkdir(parents=True, mode=0o700)
    parent.chmod(mode)
    cache = LibraryCache(str(parent / "between" / "root"))
    if safe:
        assert cache.check()
    else:
        with pytest.raises(UnsafeCacheError) as caught:
            cache.check()
        assert caught.value.path == str(parent)


def test_a_root_of_another_user_is_refused(root: Path) -> None:
    """Root gives the directory away; anybody else points at one of root's."""
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
        foreign, owner = root, NOBODY
    else:
        foreign, owner = Path("/etc"), 0
    with pytest.raises(UnsafeCacheError, match=f"owned by uid {owner}"):
        LibraryCache(str(foreign)).check()


def test_a_directory_above_of_another_user_is_refused(tmp_path: Path) -> None:
    """Root's own is fine for everybody; that of a third user for nobody."""
    (tmp_path / "parent" / "root").mkdir(parents=True, mode=0o700)
    cache = LibraryCache(str(tmp_path / "parent" / "root"))
    if os.geteuid() == 0:
        os.chown(tmp_path / "parent", NOBODY, NOBODY)
        with pytest.raises(UnsafeCacheError, match=f"owned by uid {NOBODY}"):
            cache.check()
    else:
        assert Path("/").stat().st_uid == 0
        assert cache.check()


def test_a_link_of_ones_own_is_judged_by_its_target(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    cache = LibraryCache(str(link))
    assert cache.write("probes", "key", NOTE)
    assert LibraryCache(str(root)).read("probes", "key") == NOTE
    root.chmod(0o770)
    with pytest.raises(UnsafeCacheError):
        cache.check()


def test_a_link_of_another_user_is_refused(root: Path, tmp_path: Path) -> None:
    """Only root can make one to try; for anybody else, root's own links stand in."""
    if os.geteuid() == 0:
        link = tmp_path / "link"
        link.symlink_to(root)
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    else:
        link = Path("/bin")  # a link on most systems, and root's on all
    with pytest.raises(UnsafeCacheError):
        LibraryCache(str(link)).check()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_root_that_cannot_be_made_is_no_cache(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = LibraryCache(str(tmp_path / name))
    assert not cache.check()
    assert cache.read("probes", "key") is None
    assert cache.write("probes", "key", NOTE) is None
    assert cache.forget("probes") == 0
    assert cache.digest(str(tmp_path / "file"))[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_root_that_cannot_be_written_is_only_read(root: Path) -> None:
    """Root writes through a mode; everybody else goes on without keeping the note."""
    cache = LibraryCache(str(root))
    cache.write("probes", "key", NOTE)
    (root / "probes").chmod(0o500)
    written = cache.write("probes", "other", NOTE)
    (root / "probes").chmod(0o700)
    assert (written is not None) == (os.geteuid() == 0)
    assert cache.read("probes", "key") == NOTE


def test_without_a_root_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = LibraryCache(None)
    assert not cache.check()
    assert cache.write("probes", "key", NOTE) is None
    assert cache.read("probes", "key") is None
    assert cache.forget("probes") == 0
    assert set(os.listdir(tmp_path)) == {"cache"}  # the tests' own


def test_a_value_is_one_line(root: Path) -> None:
    """A line break in a value, such as a library's stderr, cannot forge another key."""
    cache = LibraryCache(str(root))
    cache.write("probes", "key", {"reason": "first\nstatus ok\r\nend\n", "status": "signal"})
    assert cache.read("probes", "key") == {"reason": "first status ok  end ", "status": "signal"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"end", b"answer 42\n", b"answer 42\nend", b"\xff\nend\n", b"x" * (1 << 20) + b"\nend\n"]
)
def test_a_damaged_note_is_none(content: bytes, root: Path) -> None:
    cache = LibraryCache(str(root))
    cache.write("probes", "key", NOTE)
    (root / "probes" / "key").write_bytes(content)
    assert cache.read("probes", "key") is None


def test_a_note_is_never_read_through_a_link(root: Path, tmp_path: Path) -> None:
    cache = LibraryCache(str(root))
    cache.write("probes", "key", NOTE)
    (root / "probes" / "key").rename(tmp_path / "elsewhere")
    (root / "probes" / "key").symlink_to(tmp_path / "elsewhere")
    assert cache.read("probes", "key") is None
    assert cache.write("probes", "key", {"answer": "43"})
    assert (tmp_path / "elsewhere").read_text() == "answer 42\nwords two words\nempty \nend\n"
    assert cache.read("probes", "key") == {"answer": "43"}


def test_a_fifo_in_a_notes_place_does_not_hang(root: Path) -> None:
    (root / "probes").mkdir(mode=0o700)
    os.mkfifo(root / "probes" / "key")
    code = (
        "import sys; from nativeload.cache import LibraryCache; print(LibraryCache(sys.argv[1]).read('probes', 'key'))"
    )
    command = [sys.executable, "-c", code, str(root)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20, env=environ)
    assert run.stdout == "None\n"


def test_forget_removes_the_notes_of_one_kind(root: Path) -> None:
    cache = LibraryCache(str(root))
    for key in ("a", "b"):
        cache.write("probes", key, NOTE)
    cache.write("receipts", "a", NOTE)
    assert cache.forget("probes") == 2
    assert cache.forget("probes") == 0
    assert cache.forget("nothing") == 0
    assert cache.read("probes", "a") is None
    assert cache.read("receipts", "a") == NOTE


def test_what_cannot_be_forgotten_is_an_error(root: Path) -> None:
    (root / "probes" / "key").mkdir(parents=True)
    (root / "receipts").touch()
    cache = LibraryCache(str(root))
    for kind in ("probes", "receipts"):
        with pytest.raises(CacheError) as caught:
            cache.forget(kind)
        assert str(root / kind) in caught.value.path


@pytest.mark.parametrize(("home", "expected"), [("mine", True), ("/", False), ("", False), ("gone", False)])
def test_the_default_is_in_the_home_directory(
    home: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never in /tmp, never in the current directory, and a home that does not exist is not made."""
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / home) if home in {"mine", "gone"} else home)
    assert default_root() == (str(tmp_path / "mine" / ".llama-py") if expected else None)
    monkeypatch.setenv("HOME", "relative")
    assert default_root() is None


def test_a_fresh_root_is_refused_where_it_would_not_be_safe(tmp_path: Path) -> None:
    """Before anything is made: a home that its group can write is no place for a cache."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o775)
    cache = LibraryCache(str(home / ".llama-py"))
    for action in (cache.check, cache.check_usable, lambda: cache.write("probes", "key", NOTE)):
        with pytest.raises(UnsafeCacheError, match="0775"):
            action()
    assert os.listdir(home) == []


def test_a_named_root_that_cannot_serve_is_an_error(root: Path) -> None:
    """Every start would probe again, and nobody would know why."""
    (root / "file").touch()
    LibraryCache(str(root)).check_usable()
    LibraryCache(str(root / "new")).check_usable()
    LibraryCache(None).check_usable()
    for path, reason in (("file", "not a directory"), ("file/below", "cannot be made")):
        with pytest.raises(CacheError, match=reason):
            LibraryCache(str(root / path)).check_usable()
