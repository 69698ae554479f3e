"""Small files are hashed on every start; large ones go by a receipt whose stamp must still hold."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from nativeload.cache import LibraryCache, Stamp, store
from nativeload.errors import UnsafeCacheError

FAKE = "f" * 64


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> LibraryCache:
    return LibraryCache(str(tmp_path / "cache"))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and as settled."""
    monkeypatch.setattr(store, "HASH_ALWAYS_BELOW", 4)
    monkeypatch.setattr(store, "_SETTLED", 0)
    path = tmp_path / "library.so"
    path.write_bytes(b"content")
    return path


def _receipts(cache: LibraryCache) -> list[Path]:
    return sorted(Path(cache.root or "").glob("receipts/*"))


def _forge(cache: LibraryCache, path: Path, **changes: str) -> None:
    """Write a receipt that says something else than the truth, to see whether it is believed."""
    note = {"path": str(path), "stamp": Stamp.of(str(path)).words(), "sha256": FAKE} | changes
    assert cache.write("receipts", store._receipt_key(str(path)), note)


def test_the_limit_is_64_mib() -> None:
    assert store.HASH_ALWAYS_BELOW == 64 * 1024 * 1024


def test_a_small_file_is_hashed_every_time(cache: LibraryCache, tmp_path: Path) -> None:
    """No receipt is written, and none is believed."""
    path = tmp_path / "library.so"
    path.write_bytes(b"content")
    assert cache.digest(str(path))[0] == _sha(b"content")
    assert _receipts(cache) == []
    _forge(cache, path)
    assert cache.digest(str(path))[0] == _sha(b"content")


def test_a_large_file_goes_by_its_receipt(cache: LibraryCache, large: Path) -> None:
    assert cache.digest(str(large))[0] == _sha(b"content")
    (receipt,) = _receipts(cache)
    stamp = Stamp.of(str(large)).words()
    written = f"path {large}\nstamp {stamp}\nsha256 {_sha(b'content')}\nend\n"
    assert receipt.read_text(encoding="utf-8") == written
    _forge(cache, large)
    assert cache.digest(str(large))[0] == FAKE


def test_the_limit_itself_counts_as_large(cache: LibraryCache, tmp_path: Path, large: Path) -> None:
    for size, expected in ((3, 0), (4, 1)):
        path = tmp_path / f"{size}"
        path.write_bytes(b"x" * size)
        assert cache.digest(str(path))[0] == _sha(b"x" * size)
        assert len(_receipts(cache)) == expected


def test_a_restored_mtime_is_noticed(cache: LibraryCache, large: Path) -> None:
    """Same size, same mtime, other bytes: ctime tells, which no program can set back."""
    cache.digest(str(large))
    before = large.stat()
    time.sleep(0.05)  # ctime moves in ticks of some milliseconds
    with large.open("r+b") as file:
        file.write(b"CONTENT")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = large.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert cache.digest(str(large))[0] == _sha(b"CONTENT")


@pytest.mark.parametrize("position", range(5))
def test_each_number_of_a_stamp_counts(position: int, cache: LibraryCache, large: Path) -> None:
    stamp = Stamp.of(str(large)).words().split()
    stamp[position] = str(int(stamp[position]) + 1)
    _forge(cache, large, stamp=" ".join(stamp))
    assert cache.digest(str(large))[0] == _sha(b"content")


def test_a_file_changed_a_moment_ago_gets_no_receipt(
    cache: LibraryCache, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within one tick of the clock would leave the same stamp."""
    monkeypatch.setattr(store, "_SETTLED", 2_000_000_000)
    assert cache.digest(str(large))[0] == _sha(b"content")
    assert _receipts(cache) == []
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600_000_000_000)  # the clock was set back
    assert cache.digest(str(large))[0] == _sha(b"content")
    assert _receipts(cache) == []
    monkeypatch.setattr(time, "time_ns", lambda: now() + 2_000_000_000)
    assert cache.digest(str(large))[0] == _sha(b"content")
    assert len(_receipts(cache)) == 1


def test_two_seconds_are_enough() -> None:
    assert store._SETTLED == 2_000_000_000


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"end\n",
        b"\nend\n",
        b"stamp 1 2 3 4 5\nsha256 " + b"f" * 64,  # cut short
        b"sha256 " + b"f" * 64 + b"\nend\n",
        b"\xff\xfe\nend\n",
        b"\0" * 64,
        b"x" * (2 << 20) + b"\nend\n",
    ],
    ids=lambda damage: repr(damage[:12]),
)
def test_a_damaged_receipt_means_hashing_again(damage: bytes, cache: LibraryCache, large: Path) -> None:
    cache.digest(str(large))
    (receipt,) = _receipts(cache)
    receipt.write_bytes(damage)
    assert cache.digest(str(large))[0] == _sha(b"content")
    assert f"sha256 {_sha(b'content')}\n" in receipt.read_text(encoding="utf-8")


@pytest.mark.parametrize("digest", ["", "short", "F" * 64, "g" * 64])
def test_a_receipt_without_a_digest_means_hashing_again(digest: str, cache: LibraryCache, large: Path) -> None:
    _forge(cache, large, sha256=digest)
    assert cache.digest(str(large))[0] == _sha(b"content")


def test_a_receipt_is_of_the_file_behind_a_link(cache: LibraryCache, large: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.so"
    link.symlink_to(large)
    cache.digest(str(large))
    _forge(cache, large)
    assert cache.digest(str(link))[0] == FAKE
    assert len(_receipts(cache)) == 1


def test_a_receipt_too_large_to_be_ours_is_not_read(cache: LibraryCache, large: Path) -> None:
    _forge(cache, large, padding="x" * (1 << 20))
    assert cache.digest(str(large))[0] == _sha(b"content")


def test_without_a_cache_everything_is_hashed(large: Path) -> None:
    cache = LibraryCache(None)
    assert cache.digest(str(large))[0] == _sha(b"content")
    large.write_bytes(b"CONTENT")
    assert cache.digest(str(large))[0] == _sha(b"CONTENT")


@pytest.mark.skipif(os.name != "posix", reason="modes rule on POSIX systems")
def test_a_cache_that_others_can_write_vouches_for_nothing(cache: LibraryCache, large: Path) -> None:
    """Not even by silence: a planted receipt must not be believed, and the user must know."""
    cache.digest(str(large))
    _forge(cache, large)
    Path(cache.root or "").chmod(0o777)
    with pytest.raises(UnsafeCacheError):
        cache.digest(str(large))


def test_an_absent_file_is_an_os_error(cache: LibraryCache, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.digest(str(tmp_path / "absent"))
