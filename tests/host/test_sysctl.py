"""The macOS kernel's names, from a stand-in of sysctlbyname, since no test runs on macOS."""

from __future__ import annotations

import ctypes

import pytest

from nativeload.host import features, sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def apple_m1(build: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    library = ctypes.CDLL(build("sysctl"))
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)


@pytest.mark.usefixtures("apple_m1")
def test_numbers_and_texts_are_read_and_unknown_names_are_none() -> None:
    assert sysctl.number("sysctl.proc_translated") == 1
    assert sysctl.number("hw.optional.arm.FEAT_I8MM") == 0
    assert sysctl.number("hw.optional.avx2_0") is None
    assert sysctl.text("machdep.cpu.brand_string") == "Apple M1"
    assert sysctl.text("machdep.nothing") is None


@pytest.mark.usefixtures("apple_m1")
def test_the_features_of_an_apple_m1() -> None:
    assert features.from_sysctl(sysctl.number) == {"asimdhp", "asimddp"}
