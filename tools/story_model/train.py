"""Can a model of a megabyte learn to tell our grammar's stories?  Train its tokenizer and its weights.

The one rule: weights are kept under their GGUF names and in llama.cpp's own conventions from the first step
on, so that writing the file is copying and no tensor is renamed or permuted on the way.

Usage: python -m tools.story_model.train FOLDER    writes FOLDER/tokenizer.model and FOLDER/weights.npz
"""

from __future__ import annotations

import io
import math
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
from torch import Tensor
from torch.nn import functional

from tools.story_model.grammar import stories

Weights = dict[str, Tensor]

SEED = 20
N_STORIES = 25_000
N_HELD_OUT = 500
N_VOCAB = 640  # 3 control tokens, 256 bytes, 381 pieces

BATCH_ROWS = 8
STEPS = 700  # about one pass over the stories
WARMUP_STEPS = 40
PEAK_RATE = 4e-3
WEIGHT_DECAY = 0.1
THREADS = 2


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama; every row is a multiple of 32 because a Q8_0 block is 32 wide."""

    n_vocab: int = N_VOCAB
    n_ctx: int = 512
    n_embd: int = 128
    n_layer: int = 5
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 352
    rope_base: float = 10_000.0
    rms_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head, all of it rotated."""
        return self.n_embd // self.n_head


def train_tokenizer(texts: list[str]) -> bytes:
    """Train a BPE vocabulary; one thread and no sampling, so the same texts give the same bytes."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=N_VOCAB,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        # llama.cpp's SPM tokenizer changes nothing but spaces: no folding, no trimming here either
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def matrix_sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return GGUF name -> (rows, row size) of every 2-D weight; the embedding is the output too."""
    d, kv, ff = shape.n_embd, shape.n_head_kv * shape.head_dim, shape.n_ff
    sizes = {"token_embd.weight": (shape.n_vocab, d)}
    for i in range(shape.n_layer):
        sizes |= {
            f"blk.{i}.attn_q.weight": (d, d),
            f"blk.{i}.attn_k.weight": (kv, d),
            f"blk.{i}.attn_v.weight": (kv, d),
            f"blk.{i}.attn_output.weight": (d, d),
            f"blk.{i}.ffn_gate.weight": (ff, d),
            f"blk.{i}.ffn_up.weight": (ff, d),
            f"blk.{i}.ffn_down.weight": (d, ff),
        }
    return sizes


def initial_weights(shape: Shape) -> Weights:
    """Draw matrices from a normal, smaller where they write into the residual stream; norms start at 1."""
    weights: Weights = {}
    for name, size in matrix_sizes(shape).items():
        writes_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
        deviation = 0.05 / math.sqrt(2 * shape.n_layer) if writes_residual else 0.05
        weights[name] = torch.randn(size) * deviation
    norms = [f"blk.{i}.{part}_norm.weight" for i in range(shape.n_layer) for part in ("attn", "ffn")]
    weights |= {name: torch.ones(shape.n_embd) for name in (*norms, "output_norm.weight")}
    for weight in weights.values():
        weight.requires_grad_()
    return weights


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and pair of dimensions."""
    frequencies = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    angles = torch.outer(torch.arange(shape.n_ctx), frequencies)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate dimension pairs (0,1), (2,3), ...: what llama.cpp calls NORM and does for a llama."""
    n_tokens = heads.shape[-2]
    cos, sin = (part[:n_tokens] for part in table)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def attention(x: Tensor, weights: Weights, prefix: str, shape: Shape, table: tuple[Tensor, Tensor]) -> Tensor:
    """Causal attention in which n_head / n_head_kv query heads share one key and value head."""
    n_rows, n_tokens, _ = x.shape

    def heads(part: str) -> Tensor:
        flat = functional.linear(x, weights[f"{prefix}.attn_{part}.weight"])
        return flat.view(n_rows, n_tokens, -1, shape.head_dim).transpose(1, 2)

    repeats = shape.n_head // shape.n_head_kv
    q, k, v = rotate(heads("q"), table), rotate(heads("k"), table), heads("v")
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    flat = mixed.transpose(1, 2).reshape(n_rows, n_tokens, shape.n_embd)
    return functional.linear(flat, weights[f"{prefix}.attn_output.weight"])


def logits(tokens: Tensor, weights: Weights, shape: Shape, table: tuple[Tensor, Tensor]) -> Tensor:
    """Run the llama: one row of next-token scores for each token."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (shape.n_embd,), weights[f"{name}_norm.weight"], shape.rms_eps)

    x = functional.embedding(tokens, weights["token_embd.weight"])
    for i in range(shape.n_layer):
        prefix = f"blk.{i}"
        x = x + attention(norm(x, f"{prefix}.attn"), weights, prefix, shape, table)
        y = norm(x, f"{prefix}.ffn")
        gate = functional.silu(functional.linear(y, weights[f"{prefix}.ffn_gate.weight"]))
        up = functional.linear(y, weights[f"{prefix}.ffn_up.weight"])
        x = x + functional.linear(gate * up, weights[f"{prefix}.ffn_down.weight"])
    return functional.linear(norm(x, "output"), weights["token_embd.weight"])


def packed_rows(texts: list[str], tokenizer: spm.SentencePieceProcessor, width: int) -> Tensor:
    """Lay stories end to end in rows; a row begins where a story begins, as a prompt does."""
    rows: list[list[int]] = []
    row: list[int] = []
    for ids in tokenizer.encode(texts, add_bos=True, add_eos=True):
        row += ids
        if len(row) >= width:
            rows.append(row[:width])  # the story cut here is not continued in the next row
            row = []
    return torch.tensor(rows)


def loss_of(rows: Tensor, weights: Weights, shape: Shape, table: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    scores = logits(rows[:, :-1], weights, shape, table)
    return functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())


def rate_at(step: int) -> float:
    """Warm up in a line, then fall along a cosine to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return PEAK_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def optimizer_of(weights: Weights) -> torch.optim.AdamW:
    """Build AdamW; norms and the embedding do not decay."""
    decaying = [name for name, weight in weights.items() if weight.ndim == 2 and name != "token_embd.weight"]
    others = [name for name in weights if name not in decaying]
    groups = [
        {"params": [weights[name] for name in decaying], "weight_decay": WEIGHT_DECAY},
        {"params": [weights[name] for name in others], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)


def train(rows: Tensor, held_out: Tensor, shape: Shape) -> Weights:
    """Fit the weights, printing the loss as it falls."""
    weights, table = initial_weights(shape), rope_table(shape)
    print(f"{sum(weight.numel() for weight in weights.values())} parameters", flush=True)
    optimizer = optimizer_of(weights)
    order = torch.cat([torch.randperm(len(rows)) for _ in range(STEPS * BATCH_ROWS // len(rows) + 1)])
    started = time.monotonic()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step)
        batch = rows[order[step * BATCH_ROWS : (step + 1) * BATCH_ROWS]]
        loss = loss_of(batch, weights, shape, table)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == STEPS - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:6.0f} s", flush=True)
    with torch.no_grad():
        print(f"held-out loss {loss_of(held_out, weights, shape, table).item():.4f}")
    return weights


def main(folder: Path) -> None:
    """Make the corpus, train on it, and leave tokenizer and weights in the folder."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    shape = Shape()
    texts = list(islice(stories(SEED), N_STORIES))
    tokenizer_model = train_tokenizer(texts[:20_000])
    tokenizer = spm.SentencePieceProcessor(model_proto=tokenizer_model)
    # one token more than the context: every position of it has a next token to learn
    rows = packed_rows(texts, tokenizer, shape.n_ctx + 1)
    held_out = packed_rows(list(islice(stories(SEED + 1), N_HELD_OUT)), tokenizer, shape.n_ctx + 1)
    print(f"{len(texts)} stories, {rows.numel()} tokens", flush=True)
    weights = train(rows, held_out, shape)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    np.savez(folder / "weights.npz", **{name: weight.detach().numpy() for name, weight in weights.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
