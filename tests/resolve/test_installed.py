"""Installed distributions are data: found by folder names, known by RECORD, never imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import IntegrityError, LibraryNotFoundError
from nativeload.resolve import installed, resolve
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.installed import distributions
from nativeload.resolve.resolution import Decision, Rejected, Source
from nativeload.variant import Platform, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.resolve.conftest import SitePackages

HERE = Platform.current()
XLLAMACPP = {"xllamacpp/__init__.py": b"", "xllamacpp/xllamacpp.abi3.so": b"library"}
LLAMA_CPP_PYTHON = {
    f"llama_cpp/lib/lib{stem}.so{tail}": stem.encode()
    for stem in ("ggml-base", "ggml-cpu", "ggml", "llama", "llama-common", "mtmd")
    for tail in ("", ".0", ".0.25.3")
}
PYWHISPERCPP = {
    f"pywhispercpp.libs/{name}": name.encode()
    for name in (
        "libggml-684d824a.so.0.13.1",
        "libggml-base-319ad4fb.so.0.13.1",
        "libggml-cpu-67036419.so.0.13.1",
        "libgomp-e985bcbb.so.1.0.0",
        "libwhisper-1ab89ae8.so.1.8.5",
    )
} | {"libwhisper.so.1": b"another copy, at the top"}


def _find(site: SitePackages, library: str = "llama", **named: tuple[str, ...]) -> list[Bundle | Decision]:
    return list(installed.find(library, HERE, path=site.path, **named))


def _one(site: SitePackages, library: str = "llama") -> Bundle:
    (found,) = _find(site, library)
    assert isinstance(found, Bundle)
    return found


def _reason(site: SitePackages, library: str = "llama", **named: tuple[str, ...]) -> str:
    (found,) = _find(site, library, **named)
    assert isinstance(found, Decision)
    assert isinstance(found.verdict, Rejected)
    assert found.source is Source.INSTALLED
    return found.verdict.reason


def _declared(bundle: Bundle) -> dict[str, str | None]:
    return {file.name: file.declared for file in (*bundle.runtime, *bundle.core)}


def _sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


# -- which distributions are here -------------------------------------------------------------------------------------


def test_distributions_are_folder_names(site: SitePackages) -> None:
    site.add("xllamacpp", "1.0", {})
    site.add("Llama_CPP.Python", "0.3.36", {})
    for name in ("~llamacpp-1.0.dist-info", "xllamacpp.egg-info", "xllamacpp-1.0.data"):
        (site.root / name).mkdir()
    found = [(item.name, item.version, item.root) for item in distributions(site.path)]
    assert found == [("llama-cpp-python", "0.3.36", str(site.root)), ("xllamacpp", "1.0", str(site.root))]


def test_the_first_folder_of_the_path_wins(site: SitePackages, tmp_path: Path) -> None:
    """As with imports; a folder listed twice is read once, one that is gone or a file not at all."""
    second = type(site)(tmp_path / "second")
    site.add("a", "1.0", {})
    second.add("a", "2.0", {})
    second.add("b", "3.0", {})
    (tmp_path / "x.zip").touch()
    path = [str(tmp_path / "gone"), str(tmp_path / "x.zip"), *site.path, *second.path, *site.path]
    assert [str(item) for item in distributions(path)] == ["a 1.0", "b 3.0"]


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (("1.9", "1.10"), "1.10"),
        (("2026.9.11063", "2026.10.11549"), "2026.10.11549"),
        (("2.0", "2.0rc1"), "2.0"),
        (("not a version", "0.1"), "0.1"),
        (("1.0", "1!0.1"), "1!0.1"),
    ],
)
def test_of_two_left_over_versions_the_newest_counts(
    versions: tuple[str, str], newest: str, site: SitePackages
) -> None:
    for version in versions:
        site.add("xllamacpp", version, XLLAMACPP)
    assert [item.version for item in distributions(site.path)] == [newest]
    assert _one(site).origin == f"xllamacpp {newest}"


def test_the_current_folder_is_no_place_where_things_are_installed(
    site: SitePackages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m`` and the prompt put it on the path; whoever can write there could plant a package with a RECORD."""
    site.add("xllamacpp", "1.0", XLLAMACPP)
    monkeypatch.chdir(site.root)
    for entry in ("", "."):
        monkeypatch.setattr("sys.path", [entry])
        assert list(installed.find("llama", HERE)) == []
    monkeypatch.setattr("sys.path", [str(site.root)])
    assert len(list(installed.find("llama", HERE))) == 1


# -- the packages we know ---------------------------------------------------------------------------------------------


def test_xllamacpps_module_is_the_library(site: SitePackages) -> None:
    site.add("xllamacpp", "2026.10.11549", XLLAMACPP)
    bundle = _one(site)
    assert _declared(bundle) == {"xllamacpp.abi3.so": _sha(b"library")}
    assert (bundle.origin, bundle.vouched, bundle.own, bundle.build) == (
        "xllamacpp 2026.10.11549",
        "RECORD",
        False,
        None,
    )
    assert bundle.directory == str(site.root / "xllamacpp")
    assert _find(site, "whisper") == _find(site, "ggml") == []


@pytest.mark.parametrize("names", [[], ["xllamacpp.abi3.so", "xllamacpp.cpython-311-x86_64-linux-gnu.so"]])
def test_xllamacpp_has_one_module(names: list[str], site: SitePackages) -> None:
    site.add("xllamacpp", "1.0", {f"xllamacpp/{name}": b"" for name in names})
    assert _reason(site) == f"RECORD vouches for {len(names)} xllamacpp modules, not one"


def test_xllamacpps_windows_module_exports_nothing(site: SitePackages) -> None:
    site.add("xllamacpp", "1.0", {"xllamacpp/xllamacpp.pyd": b""})
    (found,) = installed.find("llama", Platform.WINDOWS_X86_64, path=site.path)
    assert isinstance(found, Decision)
    assert found.verdict == Rejected("its Windows module exports no C functions")


def test_llama_cpp_pythons_three_copies_are_one_file(site: SitePackages) -> None:
    site.add("llama_cpp_python", "0.3.36", LLAMA_CPP_PYTHON)
    bundle = _one(site)
    assert _declared(bundle) == {
        f"lib{stem}.so.0": _sha(stem.encode()) for stem in ("ggml-base", "ggml-cpu", "ggml", "llama")
    }
    assert [file.label for file in bundle.core] == ["ggml-base", "ggml-cpu", "ggml", "llama"]
    assert bundle.origin == "llama-cpp-python 0.3.36"


def test_pywhispercpps_hashed_names_are_understood(site: SitePackages) -> None:
    site.add("pywhispercpp", "1.5.1", PYWHISPERCPP)
    assert _find(site) == []
    bundle = _one(site, "whisper")
    assert [file.label for file in bundle.core] == ["ggml-base", "ggml-cpu", "ggml", "whisper"]
    assert [(file.name, file.role) for file in bundle.runtime] == [("libgomp-e985bcbb.so.1.0.0", Role.RUNTIME)]
    assert all(declared == _sha(name.encode()) for name, declared in _declared(bundle).items())


def test_a_package_without_its_library_says_so(site: SitePackages) -> None:
    site.add("llama_cpp_python", "0.3.36", {"llama_cpp/lib/libggml.so": b""})
    assert _reason(site) == "RECORD vouches for no llama library in llama_cpp/lib"


def test_files_elsewhere_in_a_package_are_not_its_library(site: SitePackages) -> None:
    site.add("llama_cpp_python", "0.3.36", {"llama_cpp/libllama.so": b"", "llama_cpp/lib/deep/libllama.so": b""})
    assert "vouches for no llama library" in _reason(site)


def test_an_unknown_package_is_not_looked_at(site: SitePackages) -> None:
    site.add("numpy", "2.0", {"numpy/libllama.so": b""})
    assert _find(site) == []


def test_the_real_one_is_understood() -> None:
    """The package of the extra `cpu`, as pip left it in this environment."""
    found = [item for item in installed.find("llama", HERE) if isinstance(item, Bundle)]
    foreign = [bundle for bundle in found if bundle.origin.startswith("xllamacpp ")]
    if not foreign:
        pytest.skip("xllamacpp is not installed")
    (file,) = foreign[0].core
    assert Path(file.path).is_file()
    assert file.declared is not None
    assert len(file.declared) == 64


# -- RECORD -----------------------------------------------------------------------------------------------------------


def test_without_record_nothing_can_be_verified(site: SitePackages) -> None:
    (site.add("xllamacpp", "1.0", XLLAMACPP) / "RECORD").unlink()
    assert _reason(site) == "its RECORD cannot be read (No such file or directory): it is not verifiable"


def test_a_file_without_a_hash_is_not_used(site: SitePackages) -> None:
    site.add("xllamacpp", "1.0", XLLAMACPP, unhashed=["xllamacpp/xllamacpp.abi3.so"])
    assert _reason(site) == "RECORD vouches for 0 xllamacpp modules, not one"


@pytest.mark.parametrize(
    "line",
    [
        '"xllamacpp/xllamacpp.abi3,x.so",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0',
        "xllamacpp/xllamacpp.abi3.so,md5=1B2M2Y8AsgTpgAmY7PhCfg,0",
        "xllamacpp/xllamacpp.abi3.so",
        "xllamacpp/xllamacpp.abi3.so,",
        ",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0",
        "",
        ",,",
        "/xllamacpp/xllamacpp.abi3.so,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0",
        "xllamacpp/../xllamacpp/xllamacpp.abi3.so,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0",
    ],
)
def test_a_line_that_is_not_understood_vouches_for_nothing(line: str, site: SitePackages) -> None:
    """A quoted name holds a comma or a quote: no file of ours does."""
    site.add("xllamacpp", "1.0", XLLAMACPP, record=[line])
    assert _reason(site) == "RECORD vouches for 0 xllamacpp modules, not one"


@pytest.mark.parametrize("digest", ["sha256=", "sha256=!!!", "sha256=abc", "sha256=\u00e9"])
def test_a_broken_hash_is_never_the_files(digest: str, only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP, record=[f"xllamacpp/xllamacpp.abi3.so,{digest},7"])
    with pytest.raises((IntegrityError, LibraryNotFoundError)):
        resolve(NativeLibraryConfig())


@pytest.mark.parametrize("content", [b"xllamacpp/\xff\xfe.so,sha256=x,0\n", b"\xff" * 10, b"\0" * 10])
def test_a_record_that_is_no_text_rejects_its_package_only(content: bytes, site: SitePackages) -> None:
    (site.add("xllamacpp", "1.0", XLLAMACPP) / "RECORD").write_bytes(content)
    site.add("llama_cpp_python", "0.3.36", LLAMA_CPP_PYTHON)
    found = {item.origin if isinstance(item, Bundle) else item.candidate: item for item in _find(site)}
    assert isinstance(found["llama-cpp-python 0.3.36"], Bundle)
    assert isinstance(found["xllamacpp 1.0"], Decision)


def test_windows_line_ends_are_line_ends(site: SitePackages) -> None:
    info = site.add("xllamacpp", "1.0", XLLAMACPP)
    (info / "RECORD").write_bytes((info / "RECORD").read_bytes().replace(b"\n", b"\r\n"))
    assert _declared(_one(site)) == {"xllamacpp.abi3.so": _sha(b"library")}


# -- one flipped bit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "library", "files", "broken"),
    [
        ("xllamacpp", "llama", XLLAMACPP, "xllamacpp/xllamacpp.abi3.so"),
        ("llama_cpp_python", "llama", LLAMA_CPP_PYTHON, "llama_cpp/lib/libggml-base.so.0"),
        ("pywhispercpp", "whisper", PYWHISPERCPP, "pywhispercpp.libs/libgomp-e985bcbb.so.1.0.0"),
    ],
)
def test_one_flipped_bit_is_final(
    name: str, library: str, files: Mapping[str, bytes], broken: str, only_site: SitePackages
) -> None:
    """No other package takes its place: here a good search directory's worth of them would."""
    only_site.add(name, "1.0", files)
    config = NativeLibraryConfig(library)
    assert resolve(config).verified_by == "RECORD"
    path = only_site.root / broken
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    for verb in (config.resolve, config.plan):
        with pytest.raises(IntegrityError) as caught:
            verb()
        assert caught.value.path == str(path)
        assert caught.value.expected == f"sha256 {_sha(files[broken])}"


def test_a_file_outside_the_set_may_change(only_site: SitePackages) -> None:
    """Only what would be opened is held against RECORD."""
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    (only_site.root / "xllamacpp/__init__.py").write_bytes(b"changed")
    assert resolve(NativeLibraryConfig()).verified


def test_a_second_good_package_does_not_hide_a_broken_one(only_site: SitePackages) -> None:
    """The broken one ranks first by its name; the good one must not be used in silence."""
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    only_site.add("llama_cpp_python", "0.3.36", LLAMA_CPP_PYTHON)
    assert resolve(NativeLibraryConfig()).to_dict()["directory"] == str(only_site.root / "llama_cpp/lib")
    (only_site.root / "llama_cpp/lib/libllama.so.0").write_bytes(b"LLAMA")
    with pytest.raises(IntegrityError):
        resolve(NativeLibraryConfig())
