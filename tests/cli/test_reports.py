"""``resolve``, ``plan`` and ``doctor``: the same trace on paper and as JSON, and exit statuses that can be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nativeload
from nativeload.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECORDED = sorted((Path(__file__).parents[1] / "host" / "recorded").glob("*.json"))
KEYS = ["library", "build", "variant", "source", "verified", "directory", "files", "decisions"]


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nativeload", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def report(*arguments: str, status: int = 0, **environment: str) -> dict[str, Any]:
    done = call(*arguments, "--json", **environment)
    assert done.returncode == status, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


# -- resolve -------------------------------------------------------------------------------------------------------


def test_resolve_json_has_exactly_these_keys() -> None:
    """One object; its files and decisions have exactly their keys too."""
    said = report("resolve")
    assert list(said) == KEYS
    assert said["library"] == "llama"
    assert said["source"] == "installed"
    assert said["verified"] is True
    assert [sorted(file) for file in said["files"]] == [["name", "sha256", "size"]]
    assert os.path.getsize(os.path.join(said["directory"], said["files"][0]["name"])) == said["files"][0]["size"]
    for decision in said["decisions"]:
        assert list(decision) == ["source", "candidate", "accepted", "reason"]
    assert [decision["accepted"] for decision in said["decisions"]].count(True) == 1


def test_resolve_names_the_file() -> None:
    """Without options: the outcome in one line, and each file of the set with its size."""
    said, (first, *files) = report("resolve"), call("resolve").stdout.splitlines()
    assert first.startswith("llama: ")
    assert "verified by RECORD" in first
    assert len(files) == len(said["files"])
    assert said["files"][0]["name"] in files[0]
    assert f"{said['files'][0]['size']:,} bytes" in files[0]


def test_resolve_explain_gives_every_reason() -> None:
    """The trace on paper has every candidate and reason of the JSON one, unbroken."""
    text = call("resolve", "--explain").stdout
    for decision in report("resolve")["decisions"]:
        assert f"{decision['candidate']}: {decision['reason']}" in text


def test_resolve_opens_nothing() -> None:
    """No library is mapped and no child is started."""
    code = (
        "import sys\n"
        "def watch(event, given):\n"
        "    if event in ('ctypes.dlopen', 'os.fork', 'subprocess.Popen', 'os.posix_spawn', 'socket.connect'):\n"
        "        if given and given[0]: print(event, given[0], file=sys.stderr)\n"
        "sys.addaudithook(watch)\n"
        "sys.argv = ['nativeload', VERB]\n"
        "from nativeload.cli import main\n"
        "main()\n"
    )
    for verb in ("resolve", "plan"):
        command = [sys.executable, "-c", f"VERB = {verb!r}\n{code}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_resolve_that_finds_nothing() -> None:
    """Exit status 1; the trace is on stderr, and with --json also one object on stdout."""
    done = call("resolve", "whisper")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no usable whisper library was found" in done.stderr
    assert "no source had a candidate" in done.stderr
    assert "Traceback" not in done.stderr
    said = report("resolve", "whisper", status=1)
    assert list(said) == KEYS
    assert said["source"] is None
    assert said["files"] == []


def test_resolve_of_a_path_that_is_not_there() -> None:
    """What was named and is missing is an error with its path; with --json there is still one object on stdout."""
    done = call("resolve", "--path", "/nowhere/libllama.so")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/nowhere/libllama.so" in done.stderr
    assert list(report("resolve", "--path", "/nowhere/libllama.so", status=1)) == KEYS


# -- plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", RECORDED, ids=lambda path: path.stem)
def test_plan_for_a_recorded_host(host: Path) -> None:
    """Every recorded host gets a plan with reasons; status 1 says that nothing there is usable."""
    done = call("plan", "--host", str(host), "--json")
    said = json.loads(done.stdout)
    assert list(said) == KEYS
    assert said["decisions"]
    assert all(decision["reason"] for decision in said["decisions"])
    assert done.returncode == (1 if said["source"] is None else 0)
    assert "Traceback" not in done.stderr


def test_plan_exits_1_when_nothing_is_usable() -> None:
    """An installed package of this platform serves no other, and the reason is printed without being asked for."""
    other = "apple-m1" if sys.platform != "darwin" else "haswell"
    (host,) = [path for path in RECORDED if path.stem == other]
    done = call("plan", "--host", str(host))
    assert done.returncode == 1
    assert "nothing usable" in done.stdout
    assert "installed packages are for" in done.stdout


def test_plan_for_this_host_is_the_same_with_and_without_a_file(tmp_path: Path) -> None:
    """What doctor --json recorded, whole or its host alone, plans as this machine does."""
    whole = tmp_path / "doctor.json"
    whole.write_text(call("doctor", "--json").stdout, encoding="utf-8")
    alone = tmp_path / "host.json"
    alone.write_text(json.dumps(json.loads(whole.read_text("utf-8"))["host"]), encoding="utf-8")
    here = report("plan")
    assert report("plan", "--host", str(whole)) == here
    assert report("plan", "--host", str(alone)) == here


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"host": 1}', "\x00", '{"schema": 99}'], ids=repr)
def test_plan_for_a_host_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    """An error that names the file, never a traceback."""
    path = tmp_path / "host.json"
    if content is not None:
        path.write_text(content)
    done = call("plan", "--host", str(path))
    assert done.returncode in {1, 2}
    assert "host.json" in done.stderr
    assert "Traceback" not in done.stderr


# -- doctor --------------------------------------------------------------------------------------------------------


def test_doctor_json_is_one_report() -> None:
    """The host can be read back; the resolution is resolve's; what is loaded has its devices."""
    said = report("doctor")
    assert said["nativeload"] == nativeload.__version__
    assert Host.from_dict(said["host"]).platform == Host.detect().platform
    assert list(said["resolution"]) == KEYS
    assert said["loaded"]["devices"]
    assert said["loaded"]["llama_version"]
    assert (said["error"], said["warnings"], said["missing"]) == (None, [], [])


def test_doctor_on_paper_says_the_same() -> None:
    """CPU, trace, loaded library and devices, each in words."""
    said, text = report("doctor"), call("doctor").stdout
    assert f"nativeload {nativeload.__version__} on {said['host']['platform']}" in text
    assert said["loaded"]["path"] in text
    for device in said["loaded"]["devices"]:
        assert f"device {device['name']}: {device['description']}" in text
    for note in said["host"]["notes"]:
        assert note in text
    assert "no library is missing" in text


def test_doctor_exits_1_when_nothing_loads() -> None:
    """The finding is in the report, in both forms, and stdout stays one object."""
    said = report("doctor", "--path", "/nowhere/libllama.so", status=1)
    assert "/nowhere/libllama.so" in said["error"]
    assert said["loaded"] is None
    text = call("doctor", "--path", "/nowhere/libllama.so")
    assert text.returncode == 1
    assert "does not load" in text.stdout
    assert "Traceback" not in text.stderr


def test_doctor_probe_again_forgets_the_verdicts() -> None:
    """The verdict kept by an earlier run is dropped and made anew; the count is talk, on stderr."""
    assert call("doctor").returncode == 0
    done = call("doctor", "--probe-again", "--json")
    assert "forgot 1 probe verdict" in done.stderr
    assert json.loads(done.stdout)["error"] is None
    assert "forgot 1 probe verdict" in call("doctor", "--probe-again").stderr


def test_doctor_on_a_directory_with_nothing_in_it(tmp_path: Path) -> None:
    """An empty directory is a finding, not a traceback."""
    done = call("doctor", "--path", str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in done.stdout
    assert "Traceback" not in done.stderr
