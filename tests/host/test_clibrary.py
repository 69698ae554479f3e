"""How a driver's library is opened and refuses."""

from __future__ import annotations

import ctypes

import pytest

from nativeload.host.clibrary import CLibrary, DriverError, decoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_absent_library_is_said_in_a_few_words() -> None:
    with pytest.raises(DriverError, match=r"^libnone\.so\.7 not found, libnone\.so not found$"):
        CLibrary("libnone.so.7", "libnone.so")


def test_a_file_that_is_no_library_is_said_in_the_loaders_words(tmp_path: Path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("no library")
    with pytest.raises(DriverError, match=r"libtext\.so") as caught:
        CLibrary(str(path))
    assert "not found" not in str(caught.value)


def test_the_first_name_that_opens_is_used(build: Callable[..., str]) -> None:
    path = build("hip", COUNT=1)
    assert CLibrary("libnone.so.7", path).name == path


def test_a_missing_function_and_a_status_are_errors_that_name_it(build: Callable[..., str]) -> None:
    library = CLibrary(build("hip", COUNT=1, STATUS=100))
    with pytest.raises(DriverError, match="has no function hipNothing"):
        library.call("hipNothing")
    with pytest.raises(DriverError, match=r"^hipGetDeviceCount of .*libhip\.so failed with 100$"):
        library.call("hipGetDeviceCount", ctypes.byref(ctypes.c_int()))


def test_foreign_bytes_become_one_line() -> None:
    assert decoded(b" NVIDIA\xff\n4090 ") == "NVIDIA\ufffd 4090"
