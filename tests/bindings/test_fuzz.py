"""Whatever is asked of a Llama, Python lives: calls that hypothesis makes up, in children that are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama import Llama

HERE = Path(__file__).parent


def fuzzed(seed: int, calls: int) -> tuple[int, Counter[str], Counter[str], str]:
    """Run one child; its end by a signal, or by an error that is not ours, fails the test."""
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz_calls.py"), str(seed), str(calls)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed} ended with {done.returncode}: {done.stderr[-3000:]}"
    said = json.loads(done.stdout)
    return said["calls"], Counter(said["verbs"]), Counter(said["ended"]), said["after"]


def check(llama: Llama, seeds: range, calls: int) -> None:
    total, verbs, ended = 0, Counter[str](), Counter[str]()
    for seed in seeds:
        count, made, how, after = fuzzed(seed, calls)
        total, verbs, ended = total + count, verbs + made, ended + how
        assert after == llama.complete("The cat", temperature=0, max_tokens=12)
    sys.stdout.write(f"{total} calls in {len(seeds)} children, 0 signals: {dict(ended)}; {dict(verbs)}\n")
    assert total >= calls * len(seeds)
    assert len(verbs) >= 17
    assert ended["result"] > total / 20


def test_a_thousand_calls_end_in_results_or_errors_of_ours(llama: Llama) -> None:
    """And the Llama writes the same text afterwards."""
    check(llama, range(2), 500)


@pytest.mark.fuzz
def test_ten_thousand_calls(llama: Llama) -> None:
    """The same, longer, with other seeds."""
    check(llama, range(10, 20), 1000)
