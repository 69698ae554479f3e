"""A digest is of the bytes that are there now, or it is an error."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nativeload.cache import Stamp, sha256_of
from nativeload.errors import IntegrityError

ROOT = Path(__file__).parents[2]
CHUNK = 1 << 20

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no FIFOs and no symbolic links for everyone")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_the_digest_is_hashlibs(size: int, tmp_path: Path) -> None:
    content = bytes(index % 251 for index in range(997)) * (size // 997 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    digest, stamp = sha256_of(str(path))
    assert digest == hashlib.sha256(content[:size]).hexdigest()
    assert stamp == Stamp.of(str(path))
    assert stamp.size == size


def test_a_stamp_is_what_the_file_system_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    found = path.stat()
    stamp = Stamp.of(str(path))
    assert stamp.words() == f"{found.st_dev} {found.st_ino} 3 {found.st_mtime_ns} {found.st_ctime_ns}"


@posix_only
def test_a_stamp_is_of_the_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert Stamp.of(str(tmp_path / "link")) == Stamp.of(str(tmp_path / "file"))


def test_nothing_there_is_an_os_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(OSError, match=path.name):
            Stamp.of(str(path))
        with pytest.raises(OSError, match=path.name):
            sha256_of(str(path))


@posix_only
def test_a_fifo_is_refused_without_hanging(tmp_path: Path) -> None:
    """In a child with a time limit, so that a hang is a failure and not a hung test run."""
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import sys; from nativeload.cache import sha256_of\n"
        "try: sha256_of(sys.argv[1])\n"
        "except OSError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "fifo")]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20, env=environ)
    assert run.stdout == f"{tmp_path / 'fifo'} is not a regular file\n"


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    """A file that takes 40 ms to read, and a real writer that writes all the while."""
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 64 << 20)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            with path.open("r+b") as file:
                file.write(os.urandom(8))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(IntegrityError) as caught:
            sha256_of(str(path))
    finally:
        done.set()
        writer.join()
    assert caught.value.path == str(path)
    assert caught.value.actual == "a file that changed while it was read"
    assert sha256_of(str(path))[0] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_is_replaced_while_it_is_hashed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, same mtime, another inode: as an upgrade by rename does it."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(bytes(1 << 16))
    other.write_bytes(b"x" * (1 << 16))
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    first = Stamp.of(str(path))
    real = Stamp.of
    seen: list[Stamp] = []

    def of(name: str) -> Stamp:
        if seen:
            os.replace(other, path)
        seen.append(real(name))
        return seen[-1]

    monkeypatch.setattr(Stamp, "of", of)
    with pytest.raises(IntegrityError):
        sha256_of(str(path))
    assert seen[0] == first
    assert seen[1] != first
