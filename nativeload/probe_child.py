"""What runs in the probe's child process: open a set, list its devices, run the caller's check, answer.

One rule: the child finds nothing out by itself. Files, order and check come in on stdin; each line it answers begins
with the parent's nonce, so that nothing a library prints is taken for an answer.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Read the request, open the set, answer, and leave without running the library's destructors."""
    request = json.loads(sys.stdin.buffer.read())
    # What a library prints goes to stderr; answers go to the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", closefd=True)
    os.dup2(2, 1)

    def answer(word: str, value: object) -> None:
        answers.write(f"{request['nonce']} {json.dumps({word: value})}\n")
        answers.flush()

    try:
        answer("done", _probe(request, lambda step: answer("step", step)))
    except Exception as error:  # noqa: BLE001 - every failure is an answer, and the parent decides
        answer("error", {"kind": type(error).__name__, "reason": getattr(error, "reason", str(error))})
    answers.flush()
    os._exit(0)


def _probe(request: dict[str, Any], step: Any) -> dict[str, Any]:
    from nativeload.opening import devices, open_set
    from nativeload.resolve.resolution import LibraryFile
    from nativeload.variant import Role

    files = [LibraryFile(path=item["path"], role=Role(item["role"]), label=item["label"]) for item in request["files"]]
    handles = open_set(files, step, externals=request["externals"])
    facts: dict[str, Any] = {}
    if request["check"]:
        step("check")
        module, _, name = request["check"].partition(":")
        facts = getattr(__import__(module, fromlist=[name]), name)(handles)
    return {"devices": [device.to_dict() for device in devices(handles)], "facts": facts}
