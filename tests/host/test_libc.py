"""Which C library a process has mapped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nativeload.host import libc
from nativeload.host.facts import Libc

MAPS_ALPINE = """\
55d0c4a00000-55d0c4a01000 r--p 00000000 08:01 1234   /usr/local/bin/python3.12
7f1e2a000000-7f1e2a014000 r--p 00000000 08:01 5678   /lib/ld-musl-x86_64.so.1
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0      [stack]
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.36", (2, 36)),
        ("2.4.1", (2, 4, 1)),
        ("2.36.9000-dev", (2, 36, 9000)),
        ("2.17-326.el7", (2, 17)),
        ("", ()),
        ("x.1", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text: str, version: tuple[int, ...]) -> None:
    assert libc.parse_version(text) == version


def test_musl_is_known_by_its_loader() -> None:
    """It has no function that tells its version."""
    assert libc.from_maps(MAPS_ALPINE) == Libc(name="musl", version=())


def test_neither_glibc_nor_musl_is_other() -> None:
    assert libc.from_maps("7f1e2a000000-7f1e2a014000 r--p 00000000 08:01 5678   /system/bin/linker64\n").name == "other"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a choice of C libraries")
def test_this_process_names_its_own() -> None:
    """As getconf does, where there is a glibc."""
    found = libc.detect()
    told = subprocess.run(["getconf", "GNU_LIBC_VERSION"], check=False, capture_output=True, text=True)
    if told.returncode == 0:
        assert found == Libc(name="glibc", version=libc.parse_version(told.stdout.split()[1]))
    else:
        assert found.name != "glibc"


def test_without_glibcs_function_the_maps_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    monkeypatch.setattr(libc, "MAPS", os.devnull)
    assert libc.detect() == Libc(name="other")
