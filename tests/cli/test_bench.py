"""``nativeload bench``: every library that can serve here is measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from nativeload.cli.bars import bars
from nativeload.cli.bench import Measured, _remember, candidates
from nativeload.cli.config_file import _with, write
from nativeload.errors import ConfigError
from tests.scenarios import STUB_LINUX, WHY_NOT

if TYPE_CHECKING:
    from pathlib import Path

BENCH = [
    sys.executable,
    "-m",
    "nativeload",
    "bench",
    "--threads",
    "1",
    "--rounds",
    "1",
    "--prompt",
    "32",
    "--tokens",
    "8",
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_the_installed_library_is_measured(tmp_path: Path) -> None:
    """Its speeds as a table or as JSON, and as a chart."""
    chart = tmp_path / "chart.svg"
    done = bench("--json", "--plot", str(chart))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["source"] for row in rows] == ["installed"] * len(rows)
    assert all(row["prompt_tokens_per_second"] > 0 and row["text_tokens_per_second"] > 0 for row in rows)
    assert ET.parse(chart).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file
    assert "xllamacpp" in bench().stdout


def test_one_library_without_variants_has_nothing_to_remember(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is written for it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = bench("--pin")
    assert done.returncode == 0
    assert "nothing to choose" in done.stderr
    assert not (tmp_path / "config").exists()


@pytest.mark.real_bundle
@pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)
def test_every_cpu_backend_is_measured_and_the_fastest_remembered(
    binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config file says it from then on."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    bundle = binaries / "node-llama-cpp-linux-x64/package/bins/linux-x64"
    done = bench("--path", str(bundle), "--json", "--pin")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"x64", "sse42", "haswell"} <= {row["cpu"] for row in rows}
    assert not any(row["failed"] for row in rows)
    said = tomllib.loads((tmp_path / "nativeload" / "config.toml").read_text("utf-8"))
    assert said == {"cpu": rows[0]["cpu"], "path": str(bundle)}
    resolved = subprocess.run(
        [sys.executable, "-m", "nativeload", "resolve", "--json"], capture_output=True, text=True, check=True
    )
    assert rows[0]["cpu"] in json.loads(resolved.stdout)["variant"]


@pytest.mark.real_bundle
@pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)
def test_what_is_remembered_is_what_a_program_gets(
    binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build found by --search-directory is named by its path: its CPU backend alone would choose nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    bundle = binaries / "node-llama-cpp-linux-x64/package/bins/linux-x64"
    said = {"search_directories": str(bundle)}
    found = {one.cpu: one for one in candidates(said)}
    _remember([Measured(found["haswell"], 1.0, 2.0)], said)
    assert tomllib.loads((tmp_path / "nativeload" / "config.toml").read_text("utf-8")) == {
        "cpu": "haswell",
        "path": str(bundle),
    }
    assert next(one.cpu for one in candidates({})) == "haswell"
    said_now = bench("--json").stderr
    assert f"only what path = {bundle} and cpu = haswell allows is measured" in said_now


def test_a_chart_that_cannot_be_written_is_said_before_measuring() -> None:
    """With its name."""
    done = bench("--plot", "/no/such/place/chart.svg")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/place/chart.svg" in done.stderr


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    """A model that is none; the library is not to blame, every row says the reason, and the verb fails."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    done = bench("--model", str(bad), "--json")
    assert done.returncode == 1
    assert all("not a GGUF file" in row["failed"] for row in json.loads(done.stdout))
    assert "nothing could be measured" in bench("--model", str(bad), "--pin").stderr


def test_the_rest_of_the_config_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments and other keys are kept; a key that is there is replaced; a file that is no TOML is left alone."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("NATIVELOAD_CONFIG", str(path))
    path.write_text('# mine\ncpu = "avx2"  # the old one\nbackend = "cpu"\n', encoding="utf-8")
    assert write({"cpu": "zen4", "path": "/a b"}) == str(path)
    assert tomllib.loads(path.read_text("utf-8")) == {"cpu": "zen4", "path": "/a b", "backend": "cpu"}
    assert "# mine" in path.read_text("utf-8")
    path.write_text("cpu = = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        write({"cpu": "zen4"})
    assert path.read_text("utf-8") == "cpu = = 5\n"
    assert not list(tmp_path.glob("config.toml.*"))
    assert _with("", "cpu", 'a"b') == 'cpu = "a\\"b"\n'


def test_a_chart_of_nothing_is_a_chart() -> None:
    """And labels are escaped."""
    assert ET.fromstring(bars([])) is not None  # noqa: S314
    assert "a &lt;b&gt;" in bars([("a <b>", 1.0, 2.0)])


def test_a_long_name_is_not_cut_off() -> None:
    """The chart is as broad as its names need, and says that its two kinds of bars have two scales."""
    label = "linux-x86_64+cuda13-sapphirerapids, nativeload-llama-cuda13 2026.10.11549 (on the CPU)"
    chart = ET.fromstring(bars([(label, 20000.0, 10.0)]))  # noqa: S314 - our own text
    bar = chart.findall("{http://www.w3.org/2000/svg}rect")[-1]
    assert float(bar.attrib["x"]) > 6.5 * len(label)
    assert float(chart.attrib["viewBox"].split()[2]) > float(bar.attrib["x"]) + float(bar.attrib["width"]) + 60
    assert "20,000.0" in (text := ET.tostring(chart, "unicode"))
    assert "scale of its own" in text
