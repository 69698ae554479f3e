"""A backend package is a description beside files; RECORD vouches for both, and nothing of it is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import IntegrityError, LibraryNotFoundError
from nativeload.resolve import installed, resolve, shortlist
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.installed import unaccepted
from nativeload.resolve.resolution import Decision, Rejected
from nativeload.variant import Platform, Role
from tests.resolve.conftest import SPLIT, described_as, record_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.resolve.conftest import SitePackages

HERE = Platform.current()
OTHER = next(platform for platform in Platform if platform is not HERE)
DIST = "nativeload-llama-test 1.0"


def _find(site: SitePackages, *packages: str) -> list[Bundle | Decision]:
    return list(installed.find("llama", HERE, packages=packages, path=site.path))


def _reason(site: SitePackages, *packages: str) -> str:
    (found,) = _find(site, *packages)
    assert isinstance(found, Decision)
    assert found.candidate == DIST
    assert isinstance(found.verdict, Rejected)
    return found.verdict.reason


def _table(**changes: Any) -> dict[str, Any]:
    return described_as(SPLIT, **changes)


def test_a_backend_package_is_a_set(site: SitePackages) -> None:
    files = {"libgomp.so.1": b"gomp"} | SPLIT | {"libggml-cuda.so": b"cuda"}
    folder = site.add_backend(files=files)
    (bundle,) = _find(site)
    assert isinstance(bundle, Bundle)
    assert (bundle.origin, bundle.build, bundle.vouched, bundle.own) == (DIST, "b11146", "RECORD", True)
    assert bundle.directory == str(folder / "set")
    assert [file.name for file in bundle.runtime] == ["libgomp.so.1"]
    assert [file.name for file in bundle.core] == ["libggml-base.so", "libggml.so", "libllama.so"]
    assert [file.label for file in bundle.gpus] == ["cuda"]
    assert {file.label: file.needs for file in bundle.cpus} == {
        "x64": frozenset(),
        "haswell": {"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"},
    }
    found = {file.path for file in (*bundle.core, *bundle.cpus, *bundle.gpus, *bundle.runtime)}
    assert found == {str(folder / "set" / name) for name in files}


@pytest.mark.skipif(not HERE.is_x86, reason="the set's CPU backends are x86's")
def test_it_is_chosen_and_verified(only_site: SitePackages) -> None:
    only_site.add_backend()
    resolution = resolve(NativeLibraryConfig().with_avx("none"))
    assert resolution.verified_by == "RECORD"
    assert resolution.to_dict()["build"] == "b11146"
    assert resolution.chosen is not None
    assert [file.name for file in resolution.chosen.files][-1] == "libggml-cpu-x64.so"
    assert not any(name.startswith("nativeload_llama_test") for name in sys.modules)


@pytest.mark.skipif(not HERE.is_x86, reason="the set's CPU backends are x86's")
def test_one_flipped_bit_of_a_library_is_final(only_site: SitePackages) -> None:
    folder = only_site.add_backend()
    only_site.add("xllamacpp", "1.0", {"xllamacpp/xllamacpp.abi3.so": b"good"})
    (folder / "set" / "libggml.so").write_bytes(b"gGml")
    with pytest.raises(IntegrityError) as caught:
        resolve(NativeLibraryConfig())
    assert caught.value.path == str(folder / "set" / "libggml.so")


def test_one_flipped_bit_of_the_description_is_final(site: SitePackages) -> None:
    """Even one that leaves it valid JSON, and before it is parsed."""
    path = site.add_backend() / "nativeload_backend.json"
    for changed in (path.read_bytes().replace(b"b11146", b"b11147"), b"{", path.read_bytes() + b" "):
        path.write_bytes(changed)
        with pytest.raises(IntegrityError) as caught:
            _find(site)
        assert caught.value.path == str(path)


def test_a_file_that_nobody_declared_is_final(site: SitePackages) -> None:
    """A library of the set could open it."""
    folder = site.add_backend()
    (folder / "set" / "libevil.so").touch()
    with pytest.raises(IntegrityError) as caught:
        _find(site)
    assert caught.value.path == str(folder / "set" / "libevil.so")
    assert caught.value.expected == "declared files only"


def test_record_and_the_description_must_agree(site: SitePackages) -> None:
    table = _table()
    table["artifacts"][0]["sha256"] = "0" * 64
    site.add_backend(table=table)
    with pytest.raises(IntegrityError) as caught:
        _find(site)
    assert caught.value.path.endswith("libggml-base.so")
    assert caught.value.expected == f"sha256 {'0' * 64}"


def test_a_file_that_record_does_not_name_is_final(site: SitePackages) -> None:
    """RECORD vouches, not the description alone."""
    name, description = "nativeload_llama_test", json.dumps(_table()).encode()
    content = {f"{name}/set/{path}": data for path, data in SPLIT.items()} | {
        f"{name}/nativeload_backend.json": description
    }
    line = f"{name}/nativeload_backend.json,{record_hash(description)},{len(description)}"
    site.add(name, "1.0", content, record=[line])
    with pytest.raises(IntegrityError, match="RECORD None"):
        _find(site)


def test_a_set_that_lost_a_file_is_passed_over_with_its_reason(only_site: SitePackages) -> None:
    """A broken installation has nothing to offer; that is no reason to refuse the one beside it."""
    folder = only_site.add_backend()
    (folder / "set" / "libllama.so").unlink()
    with pytest.raises(LibraryNotFoundError) as caught:
        resolve(NativeLibraryConfig().with_skip_check())
    reasons = {decision.verdict.reason for decision in caught.value.resolution.decisions}
    assert reasons == {f"{folder / 'set' / 'libllama.so'}: No such file or directory"}


def test_a_missing_folder_is_a_reason(site: SitePackages) -> None:
    folder = site.add_backend()
    (folder / "set").rename(folder / "gone")
    assert _reason(site) == "No such file or directory"


def test_a_set_for_another_platform_is_a_reason(site: SitePackages) -> None:
    site.add_backend(table=_table(platform=str(OTHER)))
    assert _reason(site) == f"made for {OTHER}, and this is {HERE}"


def test_a_set_of_another_library_is_no_candidate(site: SitePackages) -> None:
    site.add_backend(table=_table(library="whisper"))
    assert _find(site) == []


@pytest.mark.parametrize("names", [[], ["a/nativeload_backend.json", "b/nativeload_backend.json"]])
def test_there_is_one_description(names: list[str], site: SitePackages) -> None:
    site.add("nativeload_llama_test", "1.0", dict.fromkeys(names, b"{}"))
    assert _reason(site) == f"RECORD vouches for {len(names)} nativeload_backend.json, not one"


def test_a_description_may_lie_at_the_top(site: SitePackages) -> None:
    content = {f"set/{path}": data for path, data in SPLIT.items()}
    site.add("nativeload_top", "1.0", content | {"nativeload_backend.json": json.dumps(_table()).encode()})
    (bundle,) = _find(site)
    assert isinstance(bundle, Bundle)
    assert bundle.directory == str(site.root / "set")


# -- who is accepted --------------------------------------------------------------------------------------------------


def test_only_our_own_names_are_accepted_unasked(site: SitePackages) -> None:
    site.add_backend("my_backend")
    assert _find(site) == []
    (bundle,) = _find(site, "my-backend")
    assert isinstance(bundle, Bundle)
    assert bundle.origin == "my-backend 1.0"


@pytest.mark.parametrize("name", ["nativeloadx", "nativeload", "xnativeload-llama"])
def test_a_name_that_only_looks_like_ours_is_not(name: str, site: SitePackages) -> None:
    site.add_backend(name)
    assert _find(site) == []


def test_the_user_names_a_package_in_any_spelling(only_site: SitePackages) -> None:
    only_site.add_backend("my_backend")
    config = NativeLibraryConfig().with_avx("none")
    with pytest.raises(LibraryNotFoundError):
        resolve(config)
    found = shortlist(config.with_backend_package("My.Backend").with_skip_check())
    assert {item.origin for item in found.sets} == {"my-backend 1.0"}


def test_a_named_package_that_is_not_there_is_a_reason(site: SitePackages) -> None:
    (found,) = _find(site, "my-backend")
    assert isinstance(found, Decision)
    assert found.candidate == "my-backend"
    assert found.verdict == Rejected("named as a backend package, but not installed")


def test_a_named_package_without_a_description_is_a_reason(site: SitePackages) -> None:
    site.add("numpy", "2.0", {"numpy/__init__.py": b""})
    (found,) = _find(site, "numpy")
    assert isinstance(found, Decision)
    assert found.verdict == Rejected("RECORD vouches for 0 nativeload_backend.json, not one")


def test_doctor_can_name_what_is_not_accepted(site: SitePackages) -> None:
    """One that could be accepted, beside ours, a known one, one without a description and two broken ones."""
    site.add_backend("my_backend")
    site.add_backend("nativeload_x")
    site.add("xllamacpp", "1.0", {"xllamacpp/nativeload_backend.json": b"{}"})
    site.add("numpy", "2.0", {"numpy/__init__.py": b""})
    (site.add("broken", "1.0", {}) / "RECORD").unlink()
    (site.add("binary", "1.0", {}) / "RECORD").write_bytes(b"\xff\xfe,sha256=x,1\n")
    (found,) = unaccepted(path=site.path)
    assert found.candidate == "my-backend 1.0"
    assert isinstance(found.verdict, Rejected)
    assert "with_backend_package('my-backend')" in found.verdict.reason
    assert list(unaccepted(["my-backend"], path=site.path)) == []


def test_a_role_is_told_in_the_set(site: SitePackages) -> None:
    site.add_backend()
    (bundle,) = _find(site)
    assert isinstance(bundle, Bundle)
    assert {file.role for file in bundle.core} == {Role.CORE}
    assert {file.role for file in bundle.cpus} == {Role.CPU}
    assert all(Path(file.path).is_absolute() for file in (*bundle.core, *bundle.cpus))
