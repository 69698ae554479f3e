"""Which real binaries make up the release that tests publish?

One rule: npm's split builds as they are published, one flavour each; the CUDA 12 backend comes in a package of its own
and is put beside the core that it is made for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BUILD = "b11146"
CUDA_CORE = "node-llama-cpp-linux-x64-cuda/package/bins/linux-x64-cuda"
CUDA12 = "node-llama-cpp-linux-x64-cuda-ext/package/bins/linux-x64-cuda/fallback/libggml-cuda.so"

# The Windows and macOS packages are of the release before (v0.4.0): npm's newest has none of that number for them.
SETS = {
    "linux-x86_64": "node-llama-cpp-linux-x64/package/bins/linux-x64",
    "linux-x86_64+cuda13": CUDA_CORE,
    "linux-x86_64+cuda12": "",  # made by `directories`
    "linux-x86_64+vulkan": "node-llama-cpp-linux-x64-vulkan/package/bins/linux-x64-vulkan",
    "linux-aarch64": "node-llama-cpp-linux-arm64/package/bins/linux-arm64",
    "windows-x86_64": "node-llama-cpp-win-x64/package/bins/win-x64",
    "windows-x86_64+cuda13": "node-llama-cpp-win-x64-cuda/package/bins/win-x64-cuda",
    "macos-arm64+metal": "node-llama-cpp-mac-arm64-metal/package/bins/mac-arm64-metal",
}


def directories(binaries: Path, folder: Path) -> dict[str, Path]:
    """Return a directory for each set; a file that was not fetched fails the test."""
    found = {}
    for name, place in SETS.items():
        path = binaries / place if place else _with_cuda12(binaries, folder / "cuda12")
        assert path.is_dir(), f"{path} is missing: run tools/fetch_real.py"
        found[name] = path
    return found


def _with_cuda12(binaries: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((binaries / CUDA_CORE).iterdir()):
        target = binaries / CUDA12 if file.name == "libggml-cuda.so" else file
        assert target.exists(), f"{target} is missing: run tools/fetch_real.py"
        link = folder / file.name
        if not link.is_symlink():
            link.symlink_to(target)
    return folder


def arguments(binaries: Path, folder: Path) -> list[str]:
    """Return the words of `nativeload publish` for the release."""
    words = ["publish", "upload", "--library", "llama", "--build", BUILD, "--alias", "v0.5.0", "--layout", "b10809"]
    for name, path in directories(binaries, folder).items():
        words += ["--set", f"{name}={path}"]
    return words
