"""Has a release come out whose llama.h these bindings do not declare yet?

    python -m tools.find_layout [--release NAME==VERSION [--name BUILD]]

One rule: a release counts only when a committed declaration would change; what it says goes through the same tool as
any other header, so that the diff is all there is to review. pip finds and fetches the newest releases of the two
bindings that carry llama.cpp's headers.

What changed is written to the checkout, with the pin of the sdist, and told as the text of a pull request. pip asks a
source distribution for its metadata, which runs its code: run this where there is nothing to steal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from tools.declarations import HeaderError
from tools.generate_layout import ABI, LIST, ROOT, differences, generate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RELEASES = ("xllamacpp", "llama-cpp-python")
PINS = "tools/real_files.json"


class FindError(Exception):
    """Nothing can be said of a release; the text says why."""


def newest(name: str) -> str:
    """Ask pip for the newest release of a distribution.

    Raises:
        FindError: pip failed, or answered in no way that is known.
    """
    said = _pip("index", "versions", "--no-binary", ":all:", name)
    found = re.search(rf"^{re.escape(name)} \(([\w.]+)\)$", said, re.MULTILINE)
    if found is None:
        raise FindError(f"pip index versions {name} said {said[:200]!r}")
    return f"{name}=={found[1]}"


def download(release: str, folder: Path) -> Path:
    """Let pip fetch the source distribution of a release.

    Raises:
        FindError: pip failed.
    """
    _pip("download", "--no-deps", "--no-binary", ":all:", "-d", str(folder), release)
    (file,) = folder.iterdir()
    return file


def _pip(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FindError("\n".join([f"pip {' '.join(arguments)}", *done.stderr.strip().splitlines()[-8:]]))
    return done.stdout


def look(release: str, sdist: Path, root: Path, *, build: str | None = None) -> str:
    """Write what a release changes below a checkout, and return how a pull request tells of it; nothing: as it was.

    Args:
        release: as in ``xllamacpp==2026.10.11549``.
        sdist: its source distribution.
        root: the checkout.
        build: what a new layout is called where the release does not say, as in ``b12000``.

    Raises:
        FindError: its headers are not understood, or it needs a new layout and does not say which build it is.
    """
    headers = sdist.with_name(f"{release.replace('==', '-')}.tar.gz")  # the name that the list knows it by
    sdist.rename(headers)
    try:
        files = generate(root, headers=headers, name=build, sources=None)
    except HeaderError as error:
        raise FindError(f"{release}: {error}") from error
    changed = {name: text for name, text in files.items() if differences({name: text}, root)}
    if not any(name.startswith(f"{ABI}/layout_") for name in changed):
        return ""
    text = describe(release, changed, root)
    changed[PINS] = pinned(release, headers, (root / PINS).read_text(encoding="utf-8"))
    for name, content in changed.items():
        (root / name).write_text(content, encoding="utf-8", newline="\n")
    return text


def describe(release: str, changed: Mapping[str, str], root: Path) -> str:
    """Tell of a change: one line for the title, then what is left to do."""
    headers = [name for name in changed if name.startswith(f"{ABI}/layout_")]
    new = [name for name in headers if not (root / name).exists()]
    layouts = ", ".join(sorted(re.sub(r".*layout_(\w+)\.h", r"\1", name) for name in headers))
    lines = [f"llama.h of {release}: {'a new layout' if new else 'more of layout'} {layouts}", ""]
    lines += [f"Derived from the source distribution of `{release}` by `tools/find_layout.py`.", ""]
    lines += ["Before this is merged:", ""]
    lines += [f"- [ ] the difference of `{name}` says nothing that the floor gets wrong" for name in headers]
    lines += [f"- [ ] `seen`, `versions` and `requires` in `{LIST}` say what is known of the build"]
    lines += [f"- [ ] the wheel of `{release}` is pinned in `{PINS}` and in `tests/bindings/test_layouts.py`"]
    return "\n".join(lines)


def pinned(release: str, sdist: Path, pins: str) -> str:
    """Add the headers of a release to what `tools/fetch_real.py` fetches, one line a file."""
    rows = json.loads(pins)
    digest = b64encode(hashlib.sha256(sdist.read_bytes()).digest()).decode()
    name = f"headers/{release.replace('==', '-')}"
    row = {"name": name, "client": "sdist", "spec": release, "integrity": f"sha256-{digest}", "headers": True}
    last = max((index for index, each in enumerate(rows) if each.get("headers")), default=len(rows) - 1)
    rows.insert(last + 1, row)
    return "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in rows) + "\n]\n"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Look at the newest releases, or at one; print what changed, and return 0 also where nothing did."""
    parser = argparse.ArgumentParser(prog="python -m tools.find_layout", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--release", help="look at this one instead, as in xllamacpp==2026.10.11549")
    parser.add_argument("--name", help="what a new layout is called where the release does not say, as in b12000")
    options = parser.parse_args(arguments)
    try:
        wanted = [options.release] if options.release else [newest(name) for name in RELEASES]
        said = [text for release in _unknown(wanted, root) if (text := _fetched(release, root, options.name))]
    except (FindError, OSError) as error:
        print(f"find_layout: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(said))
    return 0


def _unknown(releases: Iterable[str], root: Path) -> list[str]:
    """Leave out the releases that a layout is known from."""
    known = {
        name for entry in json.loads((root / LIST).read_text(encoding="utf-8")).values() for name in entry["headers"]
    }
    return [release for release in releases if release.replace("==", "-") not in known]


def _fetched(release: str, root: Path, build: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return look(release, download(release, Path(folder)), root, build=build)


if __name__ == "__main__":
    sys.exit(main())
