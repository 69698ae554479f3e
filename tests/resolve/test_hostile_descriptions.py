"""A hostile description is a reason, never a crash and never a candidate."""

from __future__ import annotations

import os

import pytest

from nativeload.resolve import installed
from nativeload.resolve.resolution import Decision, Rejected
from nativeload.variant import Platform
from tests.resolve.conftest import SPLIT, described_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.resolve.conftest import SitePackages


def _reason(site: SitePackages) -> str:
    (found,) = installed.find("llama", Platform.current(), path=site.path)
    assert isinstance(found, Decision)
    assert found.candidate == "nativeload-llama-test 1.0"
    assert isinstance(found.verdict, Rejected)
    return found.verdict.reason


def _table(**changes: Any) -> dict[str, Any]:
    return described_as(SPLIT, **changes)


def _artifact(**changes: Any) -> dict[str, Any]:
    """Describe the split build with its last artifact (a CPU backend) changed."""
    table = _table()
    table["artifacts"][-1] |= changes
    return table


def test_the_description_that_is_changed_below_is_good(site: SitePackages) -> None:
    """The control: each refusal below is of the one thing that was changed."""
    site.add_backend(table=_artifact())
    (found,) = installed.find("llama", Platform.current(), path=site.path)
    assert not isinstance(found, Decision)


HOSTILE_NAMES = [
    "../libx.so",
    "/etc/libx.so",
    "a/b.so",
    "a\\b.so",
    "..",
    ".",
    ".hidden",
    "-rf",
    "",
    "a\0.so",
    "a b.so",
    "\u202elib.so",
    "libx.so\n",
    "C:x.so",
    "x" * 128,
    None,
    5,
    True,
    ["libx.so"],
    {"a": 1},
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
@pytest.mark.parametrize("place", ["name", "label", "directory", "library", "build"])
def test_a_hostile_name_is_refused(place: str, name: object, site: SitePackages) -> None:
    table = _artifact(**{place: name}) if place in ("name", "label") else _table(**{place: name})
    site.add_backend(table=table)
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("name", ["libggml.so", "LIBGGML.SO", "libGGML.so"])
def test_colliding_names_are_refused(name: str, site: SitePackages) -> None:
    """On a file system without case they are one file."""
    site.add_backend(table=_artifact(name=name))
    assert _reason(site) == "not a backend description: two artifacts have one name"


@pytest.mark.parametrize("size", [True, False, 0, -1, (4 << 30) + 1, 10**30, 1.0, "5", None, [5]], ids=repr)
def test_a_hostile_size_is_refused(size: object, site: SitePackages) -> None:
    site.add_backend(table=_artifact(size=size))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, None, 0, True, ["0" * 64]], ids=repr)
def test_a_hostile_digest_is_refused(digest: object, site: SitePackages) -> None:
    site.add_backend(table=_artifact(sha256=digest))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("schema", [0, 2, -1, "1", None, [1], True, 1.0], ids=repr)
def test_an_unknown_schema_is_refused(schema: object, site: SitePackages) -> None:
    site.add_backend(table=_table(schema=schema))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize(
    "requirement",
    [
        "x86_64 :: avx2 :: off",
        "x86_64 :: avx2",
        "avx2",
        "nvidia :: sm_arch :: 90_real",
        "x86_64 :: avx2 :: on :: twice",
        "",
        5,
        None,
        ["x86_64", "avx2", "on"],
    ],
    ids=repr,
)
def test_a_requirement_that_is_not_understood_is_refused(requirement: object, site: SitePackages) -> None:
    """What cannot be checked cannot be kept."""
    site.add_backend(table=_artifact(requirements=["x86_64 :: avx :: on", requirement]))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("requirements", [None, 5, True, "x86_64 :: avx2 :: on", {"a": 1}], ids=repr)
def test_requirements_are_a_list(requirements: object, site: SitePackages) -> None:
    site.add_backend(table=_artifact(requirements=requirements))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize(
    ("role", "label"),
    [
        ("gpu", "sycl"),
        ("gpu", "cpu"),
        ("gpu", ""),
        ("cpu", "pentium"),
        ("cpu", ""),
        ("Core", "x"),
        ("", ""),
        (None, ""),
        (["core"], ""),
    ],
)
def test_a_module_of_a_kind_we_do_not_know_is_refused(role: object, label: str, site: SitePackages) -> None:
    """It could not be ranked; a description newer than this release is not for it."""
    site.add_backend(table=_artifact(role=role, label=label))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("platform", ["linux", "", None, "plan9-x86_64", 5, ["linux-x86_64"]], ids=repr)
def test_an_unknown_platform_is_refused(platform: object, site: SitePackages) -> None:
    site.add_backend(table=_table(platform=platform))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize(
    "artifacts",
    [
        [],
        None,
        {},
        "abc",
        [None],
        [5],
        [{}],
        [[]],
        [{"name": f"lib{n}.so", "role": "core", "size": 1, "sha256": "0" * 64} for n in range(257)],
        [{"name": "libx.so", "role": "runtime", "size": 1, "sha256": "0" * 64}],
    ],
    ids=lambda artifacts: repr(artifacts)[:20],
)
def test_artifacts_are_a_list_with_a_library(artifacts: object, site: SitePackages) -> None:
    site.add_backend(table=_table(artifacts=artifacts))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize("key", ["schema", "library", "build", "platform", "directory", "artifacts"])
def test_every_key_is_needed(key: str, site: SitePackages) -> None:
    table = _table()
    del table[key]
    site.add_backend(table=table)
    assert _reason(site).startswith("not a backend description: ")


def test_no_other_key_is_allowed(site: SitePackages) -> None:
    site.add_backend(table=_table(hooks="evil"))
    assert _reason(site).startswith("not a backend description: ")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b"NaN",
        b"\0",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_description_is_refused(text: bytes, site: SitePackages) -> None:
    site.add_backend(text=text)
    assert _reason(site).startswith("not a backend description: ")


def test_a_huge_description_is_not_read(site: SitePackages) -> None:
    site.add_backend(text=b" " * (1 << 20) + b"{}")
    assert _reason(site) == f"larger than {1 << 20} bytes"


@pytest.mark.skipif(os.name != "posix", reason="FIFOs are of POSIX systems")
def test_a_fifo_in_its_place_does_not_hang(site: SitePackages) -> None:
    path = site.add_backend() / "nativeload_backend.json"
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in _reason(site)
