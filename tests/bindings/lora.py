"""How do tests get a LoRA adapter for a small model?

One rule: the same model gives the same adapter; what a test wants to be wrong is wrong in the file.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

from nativeload_llama import gguf
from tests.bindings.gguf_writer import F32, STRING, TENSOR_F32, Gguf, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TENSORS = ("blk.0.attn_q.weight", "blk.0.attn_output.weight", "blk.1.ffn_down.weight")


def lora(model: str | Path, *, tensors: Sequence[str] = TENSORS, rank: int = 4, size: float = 0.3) -> Gguf:
    """Return an adapter for some tensors of a model, large enough to change what it says.

    Args:
        model: a GGUF file of architecture llama.
        tensors: of the model.
        rank: of the adapter.
        size: of the numbers in its matrices.
    """
    draw = random.Random(len(tensors))
    shapes = {tensor.name: tensor.shape for tensor in gguf.read(model).tensors}

    def matrix(name: str, *shape: int) -> Tensor:
        numbers = [draw.uniform(-size, size) for _ in range(shape[0] * shape[1])]
        return Tensor(name.encode(), shape, TENSOR_F32, struct.pack(f"<{len(numbers)}f", *numbers))

    made = Gguf()
    for key, value in {"general.type": b"adapter", "general.architecture": b"llama", "adapter.type": b"lora"}.items():
        made.put(key, STRING, value)
    made.put("adapter.lora.alpha", F32, float(rank))
    for name in tensors:
        columns, rows = shapes[name][:2]
        made.tensors += [matrix(f"{name}.lora_a", columns, rank), matrix(f"{name}.lora_b", rank, rows)]
    return made


def write_lora(path: Path, model: str | Path) -> None:
    """Write an adapter for a model."""
    path.write_bytes(lora(model).to_bytes())
