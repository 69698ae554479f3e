"""A manifest is exactly of the form and exactly the pinned bytes, or it is refused: soon, and by one kind of error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from nativeload import cpu_variants
from nativeload import manifest as module
from nativeload.errors import IntegrityError, ManifestError
from nativeload.manifest import Artifact, Manifest, Pin, canonical, read
from nativeload.requirement import Requirement
from nativeload.value import replace
from nativeload.variant import LIBRARIES, Platform, Role

if TYPE_CHECKING:
    from collections.abc import Callable

BUILD = "b11146"
SHA = "0123456789abcdef" * 4
SLOWEST = 0.1 if sys.gettrace() is None else 0.5  # seconds of processor time; coverage has its own

HOSTILE_NAMES = [
    "../x",
    "..",
    ".",
    "a..b",
    "/abs",
    "a/b",
    "a\\b",
    "C:x",
    "C:\\x",
    "\\\\server\\share",
    "x:stream",
    "CON",
    "con.dll",
    "NUL.tar.gz",
    "Com1.so",
    "lpt9",
    "aux.",
    "x.",
    "x ",
    " x",
    "x\0y",
    "x\ny",
    "x\r",
    "x\ty",
    "x\x1b[31m",
    "lib\u200fllama.so",
    "lib\u202ellama.so",
    "libll\u00e4ma.so",
    "liblla\u0308ma.so",
    "lib\uff0fllama.so",
    "\ud800",
    "",
    "x" * 128,
    "x" * 256,
    "x" * 100_000,
    ".hidden",
    "-rf",
    "~root",
    "$HOME",
    "%PATH%",
    "a*",
    "a|b",
]


def artifact(name: str = "libllama.so.0", **more: Any) -> Artifact:
    """Return a core file of Linux."""
    facts: dict[str, Any] = {
        "path": f"llama/{BUILD}/linux-x86_64/cpu/{name}",
        "name": name,
        "platform": Platform.LINUX_X86_64,
        "flavours": ("cpu",),
        "role": Role.CORE,
        "label": "llama",
        "size": 4096,
        "sha256": SHA,
    }
    return Artifact(**(facts | more))


def sample() -> Manifest:
    """Return a manifest that uses every field."""
    requirements = (
        "libc :: glibc_lower_bound :: 2.34",
        "nvidia :: sm_arch :: 86_real",
        "nvidia :: sm_arch :: 75_virtual",
    )
    return Manifest(
        library="llama",
        build=BUILD,
        aliases=("v0.5.0",),
        revision=2,
        repo="ggml-org/llama.cpp",
        commit="ab" * 20,
        layout="b10809",
        artifacts=(
            artifact("libgomp.so.1", role=Role.RUNTIME, label="gomp"),
            artifact("libllama.so.0", flavours=("cpu", "cuda"), needs=("libc.so.6", "libstdc++.so.6")),
            artifact(
                "libggml-cuda.so",
                flavours=("cuda",),
                role=Role.GPU,
                label="cuda",
                needs=("libcudart.so.13",),
                requirements=tuple(map(Requirement.parse, requirements)),
            ),
            artifact(
                "libggml-cpu-haswell.so",
                flavours=("cpu", "cuda"),
                role=Role.CPU,
                label="haswell",
                requirements=(Requirement("x86_64", "avx2", "on"),),
            ),
            artifact("llama.dll", platform=Platform.WINDOWS_X86_64, path="llama/windows/llama.dll"),
        ),
        licences=("MIT",),
    )


def table() -> dict[str, Any]:
    """Return the sample as JSON has it, to spoil."""
    made: dict[str, Any] = json.loads(sample().to_bytes())
    return made


def spoiled(path: str, value: object) -> bytes:
    """Return the sample with one value replaced, by its path: ``artifacts.0.size``."""
    whole = table()
    *parents, last = path.split(".")
    target: Any = whole
    for name in parents:
        target = target[int(name) if name.isdecimal() else name]
    target[last] = value
    return canonical(whole)


def parsed(raw: bytes) -> Manifest:
    """Parse bytes by the pin they have: what a hostile publisher would pin."""
    return Manifest.parse(raw, Pin(BUILD, hashlib.sha256(raw).hexdigest()), "origin")


def refusal(raw: bytes) -> ManifestError:
    """Return the error that bytes of a right digest are refused with, in time."""
    start = time.process_time()
    with pytest.raises(ManifestError) as caught:
        parsed(raw)
    assert time.process_time() - start < SLOWEST
    assert caught.value.origin == "origin"
    assert len(str(caught.value)) < 1000, "an error is for people: it does not repeat a megabyte"
    return caught.value


# -- what is right ----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written() -> None:
    made = sample()
    again = Manifest.parse(made.to_bytes(), made.pin, "here")
    assert again == made
    assert again.to_bytes() == made.to_bytes()
    assert again.pin == made.pin
    assert again.platforms == (Platform.LINUX_X86_64, Platform.WINDOWS_X86_64)
    assert again.flavours(Platform.LINUX_X86_64) == ("cpu", "cuda")
    assert again.flavours(Platform.WINDOWS_X86_64) == ("cpu",)
    assert again.flavours(Platform.MACOS_ARM64) == ()


def test_what_nobody_told_is_null() -> None:
    made = replace(sample(), commit=None, layout=None, aliases=(), licences=())
    assert parsed(made.to_bytes()) == made
    assert json.loads(made.to_bytes())["upstream"] == {"repo": "ggml-org/llama.cpp", "commit": None}


def test_the_canonical_text_is_these_bytes() -> None:
    """Pins of years ago hold only while no release writes a manifest differently."""
    made = Manifest(library="whisper", build="v1.9.3", repo="r", artifacts=(artifact("x", path="p"),))
    artifact_line = (
        '{"flavours":["cpu"],"label":"llama","name":"x","needs":[],"path":"p","platform":"linux-x86_64",'
        f'"requirements":[],"role":"core","sha256":"{SHA}","size":4096}}'
    )
    assert made.to_bytes().decode().splitlines() == [
        '{"aliases":[],',
        '"artifacts":[',
        artifact_line,
        "],",
        '"build":"v1.9.3",',
        '"layout":null,',
        '"library":"whisper",',
        '"licences":[],',
        '"revision":1,',
        '"schema":1,',
        '"upstream":{"commit":null,"repo":"r"}}',
    ]
    assert made.to_bytes().endswith(b"}}\n")
    assert made.pin == Pin("v1.9.3", hashlib.sha256(made.to_bytes()).hexdigest())


def test_the_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    whole = table()
    shuffled = dict(reversed(whole.items())) | {"upstream": dict(reversed(whole["upstream"].items()))}
    assert list(shuffled) != list(whole)
    assert canonical(shuffled) == canonical(whole) == sample().to_bytes()


def test_the_canonical_text_is_ascii() -> None:
    assert canonical({"x": "\u00e4\u200f\ud800"}) == b'{"x":"\\u00e4\\u200f\\ud800"}\n'


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("platform", list(Platform))
def test_every_library_and_platform_has_manifests(library: str, platform: Platform) -> None:
    made = replace(sample(), library=library, artifacts=(artifact(platform=platform),))
    assert parsed(made.to_bytes()).platforms == (platform,)


@pytest.mark.parametrize(("role", "label"), [("cpu", word) for word in (*cpu_variants.X86_64, *cpu_variants.ARM64)])
def test_every_variant_of_ggml_is_a_label(role: str, label: str) -> None:
    made = replace(sample(), artifacts=(artifact(role=Role(role), label=label),))
    assert parsed(made.to_bytes()).artifacts[0].label == label


@pytest.mark.parametrize(
    "name",
    ["libllama.so.0", "libstdc++.so.6", "llama.dll", "libggml-cpu-armv8.2_1.so", "a", "x" * 127, "conch.dll", "com10"],
)
def test_names_from_the_field_are_fine(name: str) -> None:
    made = replace(sample(), artifacts=(artifact(name, path=f"a/{name}"),))
    assert parsed(made.to_bytes()).artifacts[0].name == name


def test_the_largest_that_is_allowed_is_allowed() -> None:
    """Each cap on its edge: a file of 4 GiB, a set of 8 GiB, 1024 artifacts."""
    half = [artifact(f"x{number}", size=module.FILE_LIMIT) for number in range(2)]
    assert len(parsed(replace(sample(), artifacts=tuple(half)).to_bytes()).artifacts) == 2
    many = tuple(artifact(f"x{number}", path=f"x{number}", flavours=("c",)) for number in range(module.COUNT_LIMIT))
    raw = replace(sample(), artifacts=many).to_bytes()
    assert len(raw) < module.SIZE_LIMIT
    assert len(parsed(raw).artifacts) == module.COUNT_LIMIT


def test_equal_names_are_fine_in_other_sets() -> None:
    """Two platforms, and two flavours, each have their own libggml.so."""
    items = (
        artifact("libggml.so", path="a", flavours=("cpu",)),
        artifact("libggml.so", path="b", flavours=("cuda",)),
        artifact("libggml.so", path="c", platform=Platform.LINUX_AARCH64),
    )
    assert len(parsed(replace(sample(), artifacts=items).to_bytes()).artifacts) == 3


# -- the pin comes first ----------------------------------------------------------------------------------------------


def test_nothing_is_parsed_before_its_digest_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []

    def loads(*given: object, **_: object) -> None:
        called.append(given)
        raise ValueError("parsed")

    monkeypatch.setattr(json, "loads", loads)
    for raw in (b"{ this is no JSON", b"\xff\xfe", b"", b"[" * 100_000, sample().to_bytes() + b" "):
        with pytest.raises(IntegrityError, match="the pinned manifest") as caught:
            Manifest.parse(raw, sample().pin, "https://mirror/manifest")
        assert caught.value.path == "https://mirror/manifest"
        assert sample().pin.digest in caught.value.expected
        assert hashlib.sha256(raw).hexdigest() in caught.value.actual
    assert called == []
    with pytest.raises(ManifestError):  # the control: right bytes are parsed, and this stand-in is what would do it
        Manifest.parse(sample().to_bytes(), sample().pin, "here")
    assert len(called) == 1


def test_a_manifest_of_another_build_is_refused() -> None:
    """Its digest is right, and its pin says another build: one of the two would be shown wrongly everywhere."""
    raw = sample().to_bytes()
    with pytest.raises(ManifestError, match="it describes b11146, and the pin says b11147"):
        Manifest.parse(raw, Pin("b11147", hashlib.sha256(raw).hexdigest()), "here")


def test_a_pin_prints_as_it_was_read() -> None:
    text = f"{BUILD}@sha256:{SHA}"
    assert str(Pin.parse(text)) == text
    assert Pin.parse(text) == Pin(BUILD, SHA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        BUILD,
        SHA,
        f"{BUILD}@sha256:",
        f"@sha256:{SHA}",
        f"{BUILD}@sha256:{SHA[1:]}",
        f"{BUILD}@sha256:{SHA}0",
        f"{BUILD}@sha256:{SHA.upper()}",
        f"{BUILD}@sha256:{SHA}\n",
        f" {BUILD}@sha256:{SHA}",
        f"{BUILD}@sha256:{'g' * 64}",
        f"{BUILD}@md5:{SHA[:32]}",
        f"{BUILD}@sha1:{SHA[:40]}",
        f"{BUILD}@sha512:{SHA * 2}",
        f"{BUILD}@SHA256:{SHA}",
        f"{BUILD}@sha256:{SHA}@sha256:{SHA}",
        f"../x@sha256:{SHA}",
        f"a/b@sha256:{SHA}",
        f".b@sha256:{SHA}",
        f"-b@sha256:{SHA}",
        f"b\0@sha256:{SHA}",
        f"{'b' * 128}@sha256:{SHA}",
        "x" * 1_000_000,
    ],
    ids=lambda text: repr(text)[:60],
)
def test_what_is_no_pin_is_refused(text: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Pin.parse(text)
    assert len(str(caught.value)) < 600


# -- hostile words ----------------------------------------------------------------------------------------------------


def named(*words: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [*HOSTILE_NAMES, *words], ids=lambda name: repr(name)[:40])


@named()
def test_a_name_that_is_no_plain_file_is_refused(name: str) -> None:
    refusal(spoiled("artifacts.0.name", name))


@named("a//b", "a/", "a/../b", "a/./b", "a/.git/b", "a/con/b", "a/b.", "/".join(["a" * 100] * 6))
def test_a_path_that_leaves_the_repository_is_refused(name: str) -> None:
    if name == "a/b":
        assert parsed(spoiled("artifacts.0.path", name)).artifacts[0].path == name  # a path may have parts
    else:
        refusal(spoiled("artifacts.0.path", name))


@pytest.mark.parametrize("field", ["build", "aliases", "layout", "upstream.commit"])
def test_hostile_words_elsewhere_are_refused(field: str) -> None:
    for name in ("../x", "..", "/abs", "a/b", "a\\b", "C:x", "x\0", "x\n", "\u200fx", "", "x" * 128, ".x", "-x"):
        refusal(spoiled(field, [name] if field == "aliases" else name))


@pytest.mark.parametrize("build", ["con", "nul.x", "b1."])
def test_a_build_that_is_no_directory_on_windows_is_refused(build: str) -> None:
    """It is one: <cache>/llama/<build>; and ``b1.`` would be the directory of ``b1``."""
    raw = spoiled("build", build)
    with pytest.raises(ManifestError, match="Windows"):
        Manifest.parse(raw, Pin(build, hashlib.sha256(raw).hexdigest()), "origin")


@pytest.mark.parametrize("text", ["", "x\ny", "x\0", "\u202ex", "\u200f", "x" * 257, "\ud800", "\x1b[2J", "\u2028"])
def test_text_for_people_is_one_printable_line(text: str) -> None:
    for field in ("upstream.repo", "licences", "artifacts.0.needs"):
        refusal(spoiled(field, text if field == "upstream.repo" else [text]))


@pytest.mark.parametrize("digest", ["", "0", SHA[:32], SHA[:40], SHA * 2, SHA.upper(), SHA[:-1] + "g", SHA + "\n", 0])
def test_a_digest_is_a_whole_sha256_in_lower_case(digest: object) -> None:
    """Empty, md5, sha1 and sha512 are none, and are refused rather than ignored."""
    refusal(spoiled("artifacts.0.sha256", digest))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "avx2",
        "x86_64 :: avx2",
        "x86_64 :: avx2 :: on :: more",
        "x86_64::avx2::on",
        "x86_64 ::  :: on",
        "X86_64 :: avx2 :: on",
        "x86_64 :: avx2 :: on\n",
        "x86_64 :: avx-2 :: on",
        "x86_64 :: \u0661 :: on",
        f"x86_64 :: {'a' * 65} :: on",
        1,
        None,
        ["x86_64", "avx2", "on"],
    ],
    ids=repr,
)
def test_a_requirement_is_a_triple(text: object) -> None:
    refusal(spoiled("artifacts.0.requirements", [text]))


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("library", "bash"),
        ("library", "Llama"),
        ("artifacts.0.platform", "linux-riscv64"),
        ("artifacts.0.platform", "Linux-x86_64"),
        ("artifacts.0.role", "plugin"),
        ("artifacts.0.role", "CORE"),
        ("artifacts.0.label", "Llama"),
        ("artifacts.0.label", "a/b"),
        ("artifacts.0.label", "../x"),
        ("artifacts.2.label", "opencl"),  # its role is gpu
        ("artifacts.2.label", "cpu"),
        ("artifacts.2.label", "haswell"),
        ("artifacts.3.label", "z80"),  # its role is cpu
        ("artifacts.3.label", "cuda"),
        ("artifacts.0.flavours", ["CPU"]),
        ("artifacts.0.flavours", ["a/b"]),
        ("artifacts.0.flavours", ["cpu", "cpu"]),
        ("artifacts.0.flavours", []),
    ],
    ids=str,
)
def test_an_unknown_word_is_refused(field: str, word: object) -> None:
    refusal(spoiled(field, word))


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-1", "1.0", "1.5", "1e3", "1e400", "0x10", "01", "NaN", "Infinity", "-Infinity"),
        *("true", "false", "null", '"4096"', "[4096]"),
        *("4294967297", "9" * 19, "9" * 20, "1" + "0" * 400, "-1" + "0" * 400, "9" * 500_000),
    ],
    ids=lambda number: number[:20],
)
@pytest.mark.parametrize("field", ["artifacts.0.size", "revision", "schema"])
def test_a_number_is_a_positive_whole_one_within_its_cap(field: str, number: str) -> None:
    raw = spoiled(field, "here").replace(b'"here"', number.encode())
    assert number.encode() in raw
    refusal(raw)


def test_a_set_has_a_cap_too() -> None:
    """Each file is within its own; together they are not. Another flavour counts for itself."""
    items = [artifact(f"x{number}", size=module.FILE_LIMIT) for number in range(2)]
    refusal(replace(sample(), artifacts=(*items, artifact("y", size=1))).to_bytes())
    other = artifact("y", size=1, flavours=("other",))
    assert parsed(replace(sample(), artifacts=(*items, other)).to_bytes())


@pytest.mark.parametrize("second", ["libllama.so.0", "LIBLLAMA.so.0", "libllama.SO.0"])
def test_two_files_of_one_name_are_refused(second: str) -> None:
    """A file system may see one file where the list has two; which one would be a matter of order."""
    items = (artifact(), artifact(second, path="elsewhere"))
    refusal(replace(sample(), artifacts=items).to_bytes())
    overlapping = (artifact(flavours=("cuda", "cpu")), artifact(second, path="elsewhere", flavours=("vulkan", "cpu")))
    refusal(replace(sample(), artifacts=overlapping).to_bytes())


@pytest.mark.parametrize("second", ["a/x", "A/x", "a/X"])
def test_two_files_of_one_path_are_refused(second: str) -> None:
    items = (artifact("x", path="a/x"), artifact("y", path=second, platform=Platform.MACOS_ARM64))
    refusal(replace(sample(), artifacts=items).to_bytes())


@pytest.mark.parametrize(("first", "second"), [("a/x", "a/x/y"), ("a/b/x/y", "a/b"), ("a/x", "A/X/y"), ("A", "a/x")])
def test_a_file_is_no_directory_of_another_one(first: str, second: str) -> None:
    """No folder or web server could hold both: a prefetch would fail half way."""
    items = (artifact("x", path=first), artifact("y", path=second))
    refusal(replace(sample(), artifacts=items).to_bytes())


def test_a_name_that_only_begins_like_another_one_is_fine() -> None:
    items = (artifact("x", path="a/x"), artifact("y", path="a/x.so"), artifact("z", path="a/x-1/y"))
    assert parsed(replace(sample(), artifacts=items).to_bytes())


def test_too_many_of_anything_are_refused() -> None:
    one = table()["artifacts"][0]
    refusal(spoiled("artifacts", [one] * (module.COUNT_LIMIT + 1)))
    refusal(spoiled("artifacts", []))
    refusal(spoiled("artifacts", [0] * 100_000))
    refusal(spoiled("aliases", ["v1"] * 17))
    refusal(spoiled("licences", ["MIT"] * 65))
    refusal(spoiled("artifacts.0.flavours", [f"f{number}" for number in range(17)]))
    refusal(spoiled("artifacts.0.needs", ["x"] * 257))
    refusal(spoiled("artifacts.0.requirements", ["x86_64 :: avx2 :: on"] * 257))


# -- hostile structure ------------------------------------------------------------------------------------------------

LEVELS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "the manifest": lambda whole: whole,
    "upstream": lambda whole: whole["upstream"],
    "an artifact": lambda whole: whole["artifacts"][1],
}


@pytest.mark.parametrize("level", LEVELS)
def test_a_missing_key_is_refused(level: str) -> None:
    for key in LEVELS[level](table()):
        whole = table()
        del LEVELS[level](whole)[key]
        refusal(canonical(whole))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("key", ["extra", "Size", "", "sha512", "critical", "__class__", "\u202e", "x" * 100_000])
def test_an_unknown_key_is_refused(level: str, key: str) -> None:
    """What a newer release added may be what makes it safe."""
    whole = table()
    LEVELS[level](whole)[key] = 1
    refusal(canonical(whole))


@pytest.mark.parametrize("level", LEVELS)
def test_a_key_that_is_there_twice_is_refused(level: str) -> None:
    """Readers differ on which one counts: a reviewer may see another manifest than the loader."""
    for key, value in LEVELS[level](table()).items():
        whole = table()
        LEVELS[level](whole)["twin"] = value
        raw = canonical(whole)
        assert raw.count(b'"twin"') == 1
        assert "twice" in refusal(raw.replace(b'"twin"', json.dumps(key).encode())).message


@pytest.mark.parametrize("value", [None, True, 1, "text", {}, {"0": "x"}, [[]], [None], [1], [{}], [["x"]]], ids=repr)
def test_a_list_is_a_list_of_what_belongs_there(value: object) -> None:
    for field in ("artifacts", "aliases", "licences"):
        refusal(spoiled(field, value))
    for field in ("flavours", "needs", "requirements"):
        refusal(spoiled(f"artifacts.0.{field}", value))


@pytest.mark.parametrize("value", [None, True, 1, [], ["x"], {}, {"x": 1}, [[]]], ids=repr)
def test_a_word_is_text(value: object) -> None:
    for field in ("library", "build", "upstream.repo", "upstream"):
        refusal(spoiled(field, value))
    for field in ("path", "name", "platform", "role", "label", "sha256"):
        refusal(spoiled(f"artifacts.0.{field}", value))
    if value is not None:
        refusal(spoiled("layout", value))
        refusal(spoiled("upstream.commit", value))


@pytest.mark.parametrize("schema", [2, 99, 9 * 10**17])
def test_a_newer_schema_says_upgrade(schema: int) -> None:
    """Whatever else is in it: nothing of a newer one is judged by today's rules."""
    for raw in (spoiled("schema", schema), json.dumps({"schema": schema, "anything": 1}).encode()):
        error = refusal(raw)
        assert str(schema) in error.message
        assert "upgrade nativeload" in error.hint.lower()


@pytest.mark.parametrize("raw", [b"null", b"[]", b"1", b'"x"', b"{}", b'{"schema": "1"}', b'{"schema": [1]}'])
def test_what_is_no_manifest_at_all_is_refused(raw: bytes) -> None:
    refusal(raw)


DEEP = 100_000
GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{ this is no JSON",
    "cut off": sample().to_bytes()[:-20],
    "two of them": sample().to_bytes() * 2,
    "something after it": sample().to_bytes() + b"x",
    "NUL after it": sample().to_bytes() + b"\0",
    "deep lists": b"[" * DEEP,
    "deep closed lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep inside": spoiled("artifacts.0.needs", "here").replace(b'"here"', b"[" * DEEP + b"]" * DEEP),
    "deep enough to be read": spoiled("artifacts.0.name", "here").replace(b'"here"', b"[" * 800 + b"]" * 800),
    "deep key": spoiled("library", "here").replace(b'"here"', b'{"a":' * 800 + b"1" + b"}" * 800),
    "byte order mark": b"\xef\xbb\xbf" + sample().to_bytes(),
    "UTF-16": sample().to_bytes().decode().encode("utf-16"),
    "UTF-16 without a mark": sample().to_bytes().decode().encode("utf-16-le"),
    "UTF-32": sample().to_bytes().decode().encode("utf-32"),
    "invalid UTF-8": spoiled("upstream.repo", "here").replace(b"here", b"\xff\xfe"),
    "overlong UTF-8": spoiled("upstream.repo", "here").replace(b"here", b"\xc0\xaf"),
    "UTF-8 that is not ASCII": spoiled("upstream.repo", "here").replace(b"here", "\u00e4".encode()),
    "over a megabyte": sample().to_bytes() + b" " * module.SIZE_LIMIT,
    "many keys": json.dumps({f"k{number}": 0 for number in range(70_000)}).encode(),
    "many duplicate keys": b"{" + b'"a":1,' * 150_000 + b'"a":1}',
    "HTML": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "gzip": b"\x1f\x8b\x08" + b"\0" * 100,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused(what: str) -> None:
    refusal(GARBAGE[what])


def sized(size: int) -> bytes:
    """Return a manifest of so many bytes: long lists of needs, and a repository's name that fills what is left."""
    whole = table() | {"artifacts": [table()["artifacts"][0] | {"path": f"p{n}", "name": f"n{n}"} for n in range(100)]}
    whole["upstream"]["repo"] = "r"
    for item in whole["artifacts"]:
        item["needs"] = ["x" * 50] * 256
    while (room := size - len(canonical(whole))) < 0:
        del next(item for item in whole["artifacts"] if item["needs"])["needs"][: 1 - room // 60]
    whole["upstream"]["repo"] += "r" * room
    return canonical(whole)


def test_what_is_too_large_is_refused_for_that() -> None:
    """One byte less, it is a good one."""
    largest, larger = sized(module.SIZE_LIMIT), sized(module.SIZE_LIMIT + 1)
    assert [len(largest), len(larger)] == [module.SIZE_LIMIT, module.SIZE_LIMIT + 1]
    assert parsed(largest).to_bytes() == largest
    assert "larger than" in refusal(larger).message


def test_a_text_that_is_not_canonical_is_refused() -> None:
    """Else the manifest in a lock file, which is written canonically, is not the one of its pin."""
    raw = json.dumps(table()).encode()
    assert raw != sample().to_bytes()
    with pytest.raises(ManifestError):
        parsed(raw)


def test_refusing_takes_little_memory() -> None:
    """64 MiB is what a small container can spare."""
    tracemalloc.start()
    try:
        for raw in GARBAGE.values():
            with pytest.raises(ManifestError):
                parsed(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_paths_of_many_parts_take_little_memory() -> None:
    """Within every other cap: 1024 artifacts, 512 signs in a path, a megabyte of text."""
    one = table()["artifacts"][0]
    paths = [f"{number:04d}/{'a/' * 251}x" for number in range(module.COUNT_LIMIT)]
    items = [one | {"path": path, "name": f"n{number}"} for number, path in enumerate(paths)]
    raw = canonical(table() | {"artifacts": items})
    assert len(raw) < module.SIZE_LIMIT
    tracemalloc.start()
    try:
        with contextlib.suppress(ManifestError):
            parsed(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_error_names_what_is_wrong() -> None:
    whole = table()
    del whole["schema"]
    assert "schema" in str(refusal(json.dumps(whole).encode()))
    assert "libgomp.so.1" in str(refusal(spoiled("artifacts.0.sha256", "")))
    assert "aliases" in str(refusal(spoiled("aliases", None)))


# -- any bytes at all -------------------------------------------------------------------------------------------------

TOKENS = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b".", b"e9", b"null", b"true", b"NaN", b"\0"]
TOKENS += [b"\xff", b"\n", b"..", b"/", b"\\u202e", b'"schema": 1, ', b"99999999999999999999", b"con", b"A", b" "]


def mutant(good: bytes, chance: random.Random) -> bytes:
    """Return bytes with one to three changes such as hostile and broken writers make."""
    raw = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(raw))
        end = min(len(raw), at + chance.choice((1, 1, 2, 8, 64)))
        match chance.randrange(6):
            case 0:
                raw[at] ^= 1 << chance.randrange(8)
            case 1:
                del raw[at:end]
            case 2:
                raw[at:at] = raw[at:end]
            case 3:
                raw[at:at] = chance.choice(TOKENS)
            case 4:
                raw[at : at + 1] = chance.choice(TOKENS)
            case _:
                start = chance.randrange(len(raw))
                raw[at:end] = raw[start : start + end - at]
        if not raw:
            break
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_bytes_are_they_are_a_manifest_or_refused(seed: int) -> None:
    """Every mutant's digest is right, as if somebody had pinned it; no other error, and nothing that is half read."""
    chance, good = random.Random(seed), sample().to_bytes()
    outcomes = {"refused": 0, "read": 0}
    for _ in range(1500):
        raw = mutant(good, chance)
        pin = Pin(BUILD, hashlib.sha256(raw).hexdigest())
        try:
            made = Manifest.parse(raw, pin, "mutant")
        except ManifestError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert made.to_bytes() == raw
        assert read(raw, "again") == made
        for item in made.artifacts:
            assert set(item.name) <= module._NAME
            assert ".." not in item.path
            assert item.path[0] != "/"
            assert type(item.size) is int
            assert 0 < item.size <= module.FILE_LIMIT
    assert outcomes["refused"] > 500, outcomes
    assert outcomes["read"] > 50, "mutants that are all refused prove nothing of what is read"
