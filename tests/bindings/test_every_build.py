"""Every llama.h of the year: each real build is driven through all that the bindings do, and agrees with the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT
from tests.test_real_bundles import REFERENCE, STORIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

pytestmark = [
    pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT),
    pytest.mark.real_bundle,
    pytest.mark.shared_data,
]

# The same, where each token costs those that were drawn before, and where no pair may come twice (DRY). Their samplers
# have other parameters in August 2026 than before: a wrong one would show here.
PENALISED = [461, 392, 401, 400, 300, 395, 360, 411, 288, 424, 276, 388, 285, 382, 465, 466, 361, 323, 430, 283, 445]
PENALISED += [458, 389, 473, 460, 327, 456, 339, 402, 423, 314, 379]
DRY = [461, 461, 401, 401, 461, 392, 300, 1, 455, 473, 361, 422, 472, 446, 461, 410, 460, 453, 465, 465, 466, 473, 453]
DRY += [473, 292, 300, 446, 459, 459, 469, 276, 306]

HERE = Path(__file__).parent


def npm(version: str, *, latest: bool = False) -> str:
    name = "node-llama-cpp-linux-x64" if latest else f"node-llama-cpp-linux-x64-{version}"
    return f"{name}/package/bins/linux-x64"


def wheel(version: str) -> str:
    return f"xllamacpp-{version}/xllamacpp/xllamacpp.abi3.so"


# library -> its layout of llama.h
BUILDS = {
    npm("3.17.1"): "b8672",
    npm("3.18.1"): "b8672",
    wheel("2026.4.8672"): "b8672",
    wheel("2026.4.8929"): "b8672",
    wheel("2026.5.9093"): "b8672",
    wheel("2026.5.9294"): "b9294",
    wheel("2026.6.9538"): "b9538",
    wheel("2026.6.9713"): "b9713",
    wheel("2026.7.9873"): "b9713",
    npm("3.19.0"): "b9713",
    wheel("2026.7.10068"): "b9713",
    npm("3.19.1"): "b9713",
    wheel("2026.8.10229"): "b10229",
    npm("3.20.0"): "b10566",
    wheel("2026.8.10566"): "b10566",
    wheel("2026.9.10809"): "b10809",
    npm("3.21.1"): "b10809",
    wheel("2026.9.11063"): "b10809",
    npm("3.22.1", latest=True): "b10809",
    wheel("2026.10.11549"): "b11549",
}


@pytest.mark.parametrize(("library", "layout"), BUILDS.items(), ids=[name.partition("/")[0] for name in BUILDS])
def test_a_build_does_all_that_the_bindings_offer(
    library: str, layout: str, binaries: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Tokens, greedy text, samplers, state, embeddings, progress, cancelling and LoRA, with one binding."""
    from tests.bindings.lora import write_lora

    place = binaries / library
    assert place.exists(), f"{place} is missing: run tools/fetch_real.py"
    lora = tmp_path / "lora.gguf"
    model = shared_data / "ref260k.gguf"
    write_lora(lora, model)
    from nativeload_llama import bundled_model

    command = [sys.executable, "-W", "error", str(HERE / "every_build.py"), str(place), str(model), bundled_model()]
    done = subprocess.run(
        [*command, str(lora), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["layout"] == layout
    assert said["greedy"] == REFERENCE
    assert said["sizes"] == [768, 96, 48, 3, 1, 2]
    assert said["sampled"] == said["sampled_again"] != REFERENCE
    assert said["penalised"] == PENALISED
    assert said["dry"] == DRY
    assert said["state"] is True
    assert said["embeddings"][:2] == [64, 1.0]
    assert said["logprobs"] is True
    assert said["many"] == [8, 8]
    assert said["lora"] == [True, True, True]
    assert said["cancel"] is True
    assert said["perf"] is True
    assert said["absent"] == "NotInThisBuild"
    assert said["progress"] == [0.0, 1.0, True]
    assert said["stopped"] == "AbortedError"
    assert said["text"] == "Once upon a time, naïve 日本 😀"
    assert STORIES["The cat"].startswith(said["story"])
    for answer in said["json"]:
        assert json.loads(answer)["b"] in {"x", "y"}
