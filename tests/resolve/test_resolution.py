"""The trace: one form for every report."""

from __future__ import annotations

import pytest

from nativeload.resolve.resolution import (
    Accepted,
    Decision,
    LibraryFile,
    LibrarySet,
    Rejected,
    Resolution,
    Source,
    Unknown,
)
from nativeload.value import replace
from nativeload.variant import Platform, Role

FILES = (
    LibraryFile(path="/lib/libggml.so", role=Role.CORE, label="ggml", size=1, sha256="1" * 64),
    LibraryFile(path="/lib/libllama.so", role=Role.CORE, label="llama", size=2, sha256="2" * 64),
    LibraryFile(path="/lib/libggml-cuda.so", role=Role.GPU, label="cuda", size=3, sha256="3" * 64),
    LibraryFile(path="/lib/libggml-cpu-zen4.so", role=Role.CPU, label="zen4", size=4, sha256="4" * 64),
)
SET = LibrarySet(
    library="llama",
    platform=Platform.LINUX_X86_64,
    source=Source.INSTALLED,
    origin="pkg 1.0",
    directory="/lib",
    files=FILES,
    build="b1",
)
DECISIONS = (
    Decision(Source.EXPLICIT, "/dir", Rejected("empty")),
    Decision(Source.INSTALLED, str(SET), Accepted("best")),
    Decision(Source.CACHED, "b1@sha256:0", Unknown("not here")),
)


def test_a_resolution_as_json() -> None:
    resolution = Resolution(library="llama", chosen=SET, decisions=DECISIONS, verified_by="RECORD")
    assert resolution.to_dict() == {
        "library": "llama",
        "build": "b1",
        "variant": "linux-x86_64-cuda-zen4",
        "source": "installed",
        "verified": True,
        "directory": "/lib",
        "files": [
            {"name": "libggml.so", "size": 1, "sha256": "1" * 64},
            {"name": "libllama.so", "size": 2, "sha256": "2" * 64},
            {"name": "libggml-cuda.so", "size": 3, "sha256": "3" * 64},
            {"name": "libggml-cpu-zen4.so", "size": 4, "sha256": "4" * 64},
        ],
        "decisions": [
            {"source": "explicit", "candidate": "/dir", "accepted": False, "reason": "empty"},
            {"source": "installed", "candidate": "pkg 1.0 [cuda + zen4]", "accepted": True, "reason": "best"},
            {"source": "cached", "candidate": "b1@sha256:0", "accepted": None, "reason": "not here"},
        ],
    }


def test_nothing_chosen_as_json() -> None:
    assert Resolution(library="ggml", chosen=None, decisions=()).to_dict() == {
        "library": "ggml",
        "build": None,
        "variant": None,
        "source": None,
        "verified": False,
        "directory": None,
        "files": [],
        "decisions": [],
    }


def test_the_words_of_json_are_plain_strings() -> None:
    """An enum member would print as itself in some formats."""
    table = Resolution(library="llama", chosen=SET, decisions=DECISIONS).to_dict()
    assert type(table["source"]) is str
    assert {type(decision["source"]) for decision in table["decisions"]} == {str}


def test_the_trace_as_text() -> None:
    resolution = Resolution(library="llama", chosen=SET, decisions=DECISIONS)
    assert resolution.explain().splitlines() == [
        "  explicit: /dir: rejected: empty",
        "  installed: pkg 1.0 [cuda + zen4]: accepted: best",
        "  cached: b1@sha256:0: unknown: not here",
    ]
    assert Resolution(library="llama", chosen=None, decisions=()).explain() == "  no source had a candidate"


def test_the_id_of_a_set_is_of_its_bytes() -> None:
    """The order, the place and the source do not matter; a name or a byte does."""
    elsewhere = tuple(replace(file, path=f"/other/{file.name}") for file in reversed(FILES))
    same = replace(SET, files=elsewhere, origin="other", source=Source.EXPLICIT, directory="/other")
    assert same.set_id == SET.set_id
    assert SET.set_id == "a3c56e2f54e3f0d84085493717c3f00c9631df18cec5d4d1633d1bca32f03b46"  # it names cached verdicts
    others = {
        SET.set_id,
        replace(SET, files=FILES[1:]).set_id,
        replace(SET, files=(replace(FILES[0], sha256="f" * 64), *FILES[1:])).set_id,
        replace(SET, files=(replace(FILES[0], path="/lib/libggml.so.0"), *FILES[1:])).set_id,
    }
    assert len(others) == 4


@pytest.mark.parametrize(
    ("files", "text", "variant"),
    [
        (FILES, "pkg 1.0 [cuda + zen4]", "linux-x86_64-cuda-zen4"),
        (FILES[:2], "pkg 1.0", "linux-x86_64"),
        (FILES[:3], "pkg 1.0 [cuda]", "linux-x86_64-cuda"),
        ((*FILES[:2], FILES[3]), "pkg 1.0 [zen4]", "linux-x86_64-zen4"),
    ],
)
def test_a_set_is_shown_with_its_modules(files: tuple[LibraryFile, ...], text: str, variant: str) -> None:
    shown = replace(SET, files=files)
    assert (str(shown), shown.variant, shown.main.name) == (text, variant, "libllama.so")


def test_sources_and_roles_are_in_order() -> None:
    assert list(Source) == ["explicit", "installed", "cached", "download"]
    assert list(Role) == ["runtime", "core", "gpu", "cpu"]
