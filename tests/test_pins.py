"""Who says which manifest goes, and what else is known of it: the user, else a lock file, else this release."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import nativeload
from nativeload import NativeLibraryConfig
from nativeload.errors import ConfigError, IntegrityError, ManifestError
from nativeload.manifest import Artifact, Manifest, Pin, canonical
from nativeload.pins import pinned, shipped
from nativeload.resolve.cached import manifest_of
from nativeload.variant import LIBRARIES, Platform, Role

if TYPE_CHECKING:
    from nativeload.pins import Pinned

REPO, COMMIT = "nativeload/llama", "c0" * 20
OTHER_REPO, OTHER_COMMIT = "mirror/llama", "d1" * 20


def manifest(build: str = "b11146", *, library: str = "llama") -> Manifest:
    """Return a small manifest."""
    core = Artifact(
        path="p/libllama.so",
        name="libllama.so",
        platform=Platform.LINUX_X86_64,
        flavours=("cpu",),
        role=Role.CORE,
        label="llama",
        size=1,
        sha256="0" * 64,
    )
    return Manifest(library=library, build=build, repo="ggml-org/llama.cpp", artifacts=(core,))


SHIPPED, LOCKED, MINE = manifest("b11146"), manifest("b11147"), manifest("b11148")


def package_with(folder: Path, *manifests: Manifest, **more: object) -> str:
    """Lay out a package that pins manifests and carries them; return its folder."""
    (folder / "manifests").mkdir(parents=True)
    libraries = {item.library: {"pin": str(item.pin), "repo": REPO, "commit": COMMIT} for item in manifests}
    (folder / "pins.json").write_text(json.dumps({"schema": 1, "libraries": libraries, **more}))
    for item in manifests:
        (folder / "manifests" / f"{item.pin.digest}.json").write_bytes(item.to_bytes())
    return str(folder)


def lock_table(*manifests: Manifest) -> dict[str, Any]:
    """Return a lock of manifests, to spoil."""
    libraries = {
        item.library: {
            "pin": str(item.pin),
            "repo": REPO,
            "commit": COMMIT,
            "manifest": json.loads(item.to_bytes()),
        }
        for item in manifests
    }
    return {"format": 1, "libraries": libraries}


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A package that pins a build of llama."""
    return package_with(tmp_path / "package", SHIPPED)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file of another build."""
    path = tmp_path / "nativeload.lock"
    path.write_text(json.dumps(lock_table(LOCKED)))
    return path


def found(config: NativeLibraryConfig, package: str) -> Pinned:
    """Return what is pinned, which must be something."""
    said = pinned(config, package=package)
    assert said is not None
    return said


# -- who says so ------------------------------------------------------------------------------------------------------


def test_this_release_pins_what_a_download_brings(package: str) -> None:
    """It is not strict: what is installed may serve as well."""
    said = found(NativeLibraryConfig(), package)
    assert (said.pin, said.strict, said.origin) == (SHIPPED.pin, False, "this release")
    assert (said.repo, said.commit, said.manifest) == (REPO, COMMIT, SHIPPED.to_bytes())
    assert manifest_of(said, []) == SHIPPED


def test_a_lock_file_overrides_this_release(package: str, lock: Path) -> None:
    said = found(NativeLibraryConfig(lock=str(lock)), package)
    assert (said.pin, said.strict, said.origin) == (LOCKED.pin, True, str(lock))
    assert (said.repo, said.commit, said.manifest) == (REPO, COMMIT, LOCKED.to_bytes())
    assert manifest_of(said, []) == LOCKED


def test_the_users_pin_overrides_both(package: str, lock: Path) -> None:
    said = found(NativeLibraryConfig(pin=str(MINE.pin), lock=str(lock)), package)
    assert (said.pin, said.strict, said.origin) == (MINE.pin, True, "the pin")
    assert (said.repo, said.commit, said.manifest) == (None, None, None), "nobody knows more of it"
    assert manifest_of(said, []) is None


def test_a_lock_file_is_never_looked_for(package: str, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lock.parent)
    assert found(NativeLibraryConfig(), package).pin == SHIPPED.pin


@pytest.mark.parametrize("said_with_lock", [False, True])
def test_a_pin_that_is_known_gets_what_is_known_of_it(said_with_lock: bool, package: str, lock: Path) -> None:
    """It stays the user's own word, and is strict."""
    known = LOCKED if said_with_lock else SHIPPED
    config = NativeLibraryConfig(pin=str(known.pin), lock=str(lock))
    said = found(config, package)
    assert (said.pin, said.strict, said.origin) == (known.pin, True, "the pin")
    assert (said.repo, said.commit, said.manifest) == (REPO, COMMIT, known.to_bytes())


def test_the_same_build_with_another_digest_is_another_pin(package: str) -> None:
    twin = Pin(SHIPPED.build, "f" * 64)
    said = found(NativeLibraryConfig(pin=str(twin)), package)
    assert (said.pin, said.repo, said.commit, said.manifest) == (twin, None, None, None)


def test_a_named_repository_goes_with_its_own_commit(package: str) -> None:
    """A commit is one of its repository: that of another repository is no commit there."""
    config = NativeLibraryConfig().with_pin(str(SHIPPED.pin), repo=OTHER_REPO, commit=OTHER_COMMIT)
    said = found(config, package)
    assert (said.repo, said.commit, said.manifest) == (OTHER_REPO, OTHER_COMMIT, SHIPPED.to_bytes())
    said = found(NativeLibraryConfig().with_pin(str(SHIPPED.pin), repo=OTHER_REPO), package)
    assert (said.repo, said.commit) == (OTHER_REPO, None)
    said = found(NativeLibraryConfig().with_pin(str(SHIPPED.pin), repo=REPO), package)
    assert (said.repo, said.commit) == (REPO, COMMIT)
    said = found(NativeLibraryConfig().with_pin(str(SHIPPED.pin), commit=OTHER_COMMIT), package)
    assert (said.repo, said.commit) == (REPO, OTHER_COMMIT)


def test_the_bytes_may_come_from_another_repository(package: str, lock: Path) -> None:
    """The digest does not change, nor who said it."""
    elsewhere = NativeLibraryConfig(repo=OTHER_REPO, commit=OTHER_COMMIT)
    said = found(elsewhere, package)
    assert (said.pin, said.strict, said.origin) == (SHIPPED.pin, False, "this release")
    assert (said.repo, said.commit, said.manifest) == (OTHER_REPO, OTHER_COMMIT, SHIPPED.to_bytes())
    said = found(elsewhere.with_lock(lock), package)
    assert (said.pin, said.strict, said.origin) == (LOCKED.pin, True, str(lock))
    assert (said.repo, said.commit) == (OTHER_REPO, OTHER_COMMIT)
    assert found(NativeLibraryConfig(repo=OTHER_REPO), package).commit is None


def test_a_commit_that_is_said_counts(package: str) -> None:
    assert found(NativeLibraryConfig(commit=OTHER_COMMIT), package).commit == OTHER_COMMIT


# -- this release -----------------------------------------------------------------------------------------------------


def test_a_library_without_an_entry_is_pinned_by_nobody(package: str) -> None:
    assert pinned(NativeLibraryConfig("whisper"), package=package) is None
    assert shipped("whisper", package) is None


def test_several_libraries_have_each_their_own(tmp_path: Path) -> None:
    whisper = manifest("v1.9.3", library="whisper")
    package = package_with(tmp_path / "package", SHIPPED, whisper)
    assert found(NativeLibraryConfig("whisper"), package).pin == whisper.pin
    assert found(NativeLibraryConfig("llama"), package).pin == SHIPPED.pin


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_real_package_pins_nothing_yet(library: str) -> None:
    """Nothing is published: what asks for a download is told exactly that."""
    assert shipped(library) is None
    assert pinned(NativeLibraryConfig(library)) is None
    table = json.loads((Path(nativeload.__file__).parent / "pins.json").read_text())
    assert table == {"schema": 1, "libraries": {}}


def test_a_manifest_of_the_package_that_was_changed_is_refused(package: str) -> None:
    kept = Path(package, "manifests", f"{SHIPPED.pin.digest}.json")
    kept.write_bytes(SHIPPED.to_bytes().replace(b'"revision":1', b'"revision":2'))
    assert kept.read_bytes() != SHIPPED.to_bytes()
    with pytest.raises(IntegrityError, match="the pinned manifest"):
        manifest_of(found(NativeLibraryConfig(), package), [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, "\ufeff\ufeff{}", '{"schema": 1, "libraries": {"llama": []}}']
    + [json.dumps({"schema": 1, "libraries": {"llama": entry}}) for entry in ({}, {"pin": "x"}, "x", 1)],
    ids=lambda text: text[:40],
)
def test_a_damaged_package_says_so(text: str, package: str) -> None:
    Path(package, "pins.json").write_text(text)
    with pytest.raises(ManifestError) as caught:
        shipped("llama", package)
    assert caught.value.origin == os.path.join(package, "pins.json")


def test_a_package_that_lost_its_pins_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        shipped("llama", str(tmp_path))
    assert "install it again" in caught.value.hint


@pytest.mark.parametrize("how", ["no manifest", "libraries is a list", "libraries is text", "another schema"])
def test_a_package_that_is_damaged_otherwise_says_so_too(how: str, package: str) -> None:
    pins = Path(package, "pins.json")
    if how == "no manifest":
        Path(package, "manifests", f"{SHIPPED.pin.digest}.json").unlink()
    elif how == "another schema":
        pins.write_text(pins.read_text().replace('"schema": 1', '"schema": 2'))
    else:
        pins.write_text(json.dumps({"schema": 1, "libraries": ["llama"] if how.endswith("list") else "llama"}))
    with pytest.raises((ManifestError, ConfigError)):
        shipped("llama", package)


# -- lock files -------------------------------------------------------------------------------------------------------


def locked(lock: Path, table: object, package: str) -> Pinned | None:
    """Write a lock file and read it."""
    lock.write_text(table if isinstance(table, str) else json.dumps(table))
    return pinned(NativeLibraryConfig(lock=str(lock)), package=package)


@pytest.mark.parametrize(
    "number", [2, 0, -1, 9 * 10**17, "1", None, [1], {}, True], ids=lambda number: repr(number)[:20]
)
def test_a_lock_of_another_format_says_upgrade(number: object, lock: Path, package: str) -> None:
    with pytest.raises(ManifestError, match="and this release reads 1") as caught:
        locked(lock, lock_table(LOCKED) | {"format": number}, package)
    assert caught.value.origin == str(lock)
    assert "upgrade nativeload" in caught.value.hint.lower()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", [1.0, 1.5, 10**400, float("nan")], ids=lambda number: repr(number)[:20])
def test_a_format_is_a_whole_number(number: object, lock: Path, package: str) -> None:
    with pytest.raises(ManifestError):
        locked(lock, lock_table(LOCKED) | {"format": number}, package)


def test_a_lock_without_a_format_is_none(lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    del table["format"]
    with pytest.raises(ManifestError, match="format None"):
        locked(lock, table, package)


@pytest.mark.parametrize("libraries", [{}, {"whisper": {}}, [], None, "llama", 1], ids=repr)
def test_a_lock_without_the_library_is_an_error(libraries: object, lock: Path, package: str) -> None:
    """It does not fall through to what this release pins: a project that locks, locks everything it uses."""
    with pytest.raises(ManifestError, match="does not lock llama"):
        locked(lock, {"format": 1, "libraries": libraries}, package)


def test_a_manifest_that_is_not_the_pinned_one_is_refused_where_it_is_read(lock: Path, package: str) -> None:
    """Somebody edited the manifest in the lock file, or the pin, and not the other."""
    table = lock_table(LOCKED)
    table["libraries"]["llama"]["manifest"]["artifacts"][0]["sha256"] = "1" * 64
    said = locked(lock, table, package)
    assert said is not None
    assert said.pin == LOCKED.pin
    with pytest.raises(IntegrityError) as caught:
        manifest_of(said, [])
    assert caught.value.path == str(lock)


@pytest.mark.parametrize("value", [{}, {"schema": 1}, {"x": {"y": [None, True]}}], ids=repr)
def test_a_manifest_that_is_another_is_refused_where_it_is_read(value: object, lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    table["libraries"]["llama"]["manifest"] = value
    said = locked(lock, table, package)
    assert said is not None
    with pytest.raises(IntegrityError):
        manifest_of(said, [])


@pytest.mark.parametrize(
    "value",
    [None, 1, True, "x", [], [[]], {"x": float("nan")}, {"x": 1.5}, {"x": 10**400}],
    ids=lambda value: repr(value)[:20],
)
def test_a_manifest_that_is_none_is_refused_at_once(value: object, lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    table["libraries"]["llama"]["manifest"] = value
    with pytest.raises(ManifestError) as caught:
        locked(lock, table, package)
    assert caught.value.origin == str(lock)


def test_how_a_lock_is_laid_out_does_not_matter(lock: Path, package: str) -> None:
    """Editors and formatters change blanks and the order of keys; the pin is that of the canonical text."""
    table = lock_table(LOCKED)
    table["libraries"]["llama"]["manifest"] = dict(reversed(table["libraries"]["llama"]["manifest"].items()))
    said = locked(lock, json.dumps(table, indent=8), package)
    assert said is not None
    assert said.manifest == LOCKED.to_bytes() == canonical(table["libraries"]["llama"]["manifest"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pin", ""),
        ("pin", None),
        ("pin", 1),
        ("pin", "b11146"),
        ("pin", "b11146@sha256:"),
        ("pin", f"../x@sha256:{'0' * 64}"),
        ("repo", ""),
        ("repo", None),
        ("repo", "../../x"),
        ("repo", "a/b/c"),
        ("repo", "https://evil/x"),
        ("repo", "a/b?x"),
        ("commit", ""),
        ("commit", None),
        ("commit", "main"),
        ("commit", "c0" * 19),
        ("commit", "C0" * 20),
        ("commit", 10**39),
        ("extra", "x"),
    ],
    ids=str,
)
def test_an_entry_is_exactly_of_the_form(key: str, value: object, lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    table["libraries"]["llama"][key] = value
    with pytest.raises(ManifestError):
        locked(lock, table, package)


@pytest.mark.parametrize("key", ["pin", "repo", "commit", "manifest"])
def test_an_entry_has_all_its_keys(key: str, lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    del table["libraries"]["llama"][key]
    with pytest.raises(ManifestError, match="an entry has the keys commit, manifest, pin, repo") as caught:
        locked(lock, table, package)
    assert caught.value.origin == str(lock)


def test_a_wrong_pin_in_a_lock_names_the_file(lock: Path, package: str) -> None:
    table = lock_table(LOCKED)
    table["libraries"]["llama"]["pin"] = "b11146"
    with pytest.raises(ManifestError) as caught:
        locked(lock, table, package)
    assert caught.value.origin == str(lock)


@pytest.mark.parametrize("key", ["pin", "llama", "format"])
def test_a_key_that_is_there_twice_is_refused(key: str, lock: Path, package: str) -> None:
    """A lock file is reviewed: what the reviewer reads first must not be what is dropped."""
    text = json.dumps(lock_table(LOCKED))
    assert text.count(f'"{key}": ') == 1
    with pytest.raises(ManifestError):
        locked(lock, text.replace(f'"{key}": ', f'"{key}": 1, "{key}": '), package)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe\xfd",
        b"\xc0\xaf",
        b"{}\0",
        b"9" * 10_000,
        b'{"format": ' + b"9" * 10_000 + b"}",
        b"{}" + b" " * (8 << 20),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_hostile_lock_is_refused(raw: bytes, lock: Path, package: str) -> None:
    lock.write_bytes(raw)
    with pytest.raises(ManifestError) as caught:
        pinned(NativeLibraryConfig(lock=str(lock)), package=package)
    assert caught.value.origin == str(lock)
    assert ("larger than" in caught.value.message) == (len(raw) > 8 << 20)


def deep_lock(depth: int) -> str:
    """Return a lock whose manifest is so many objects in one another."""
    whole = lock_table(LOCKED)
    whole["libraries"]["llama"]["manifest"] = "here"
    return json.dumps(whole).replace('"here"', '{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("depth", [*range(900, 1010, 10), 5_000, 50_000])
def test_a_lock_of_any_depth_is_refused(depth: int, lock: Path, package: str) -> None:
    """What the reader of JSON still takes may be too deep for its writer."""
    with pytest.raises((ManifestError, IntegrityError)):  # noqa: PT012 - which of the two steps refuses is no matter
        said = locked(lock, deep_lock(depth), package)
        assert said is not None
        manifest_of(said, [])


def test_a_lock_that_cannot_be_read_is_an_error_with_a_hint(tmp_path: Path, package: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("missing.lock", "folder", "missing/x.lock"):
        with pytest.raises(ConfigError) as caught:
            pinned(NativeLibraryConfig(lock=str(tmp_path / name)), package=package)
        assert caught.value.option == str(tmp_path / name)
        assert "name a lock file" in caught.value.hint.lower()
