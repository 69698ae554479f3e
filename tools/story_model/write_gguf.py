"""How do trained weights and a tokenizer become a file that llama.cpp loads?

The one rule: the same two inputs give the same bytes, so the hash of the file names the model.

Usage: python -m tools.story_model.write_gguf FOLDER FILE.gguf    reads what tools.story_model.train left
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import gguf
import numpy as np
import sentencepiece as spm

from tools.story_model.train import Shape

LARGEST_FILE = 1_500_000
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def add_identity(writer: gguf.GGUFWriter) -> None:
    """Say what the model is, whose it is and what it may be used for."""
    writer.add_name("nativeload stories")
    writer.add_author("the nativeload authors")
    writer.add_license("MIT")
    writer.add_description(
        "A tiny model that tells small children's stories, trained from a grammar in this repository"
    )
    writer.add_languages(["en"])
    writer.add_tags(["text-generation"])


def add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Write the sizes llama.cpp needs to build the graph."""
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def token_type(tokenizer: spm.SentencePieceProcessor, token: int) -> gguf.TokenType:
    """Name a token's kind; llama.cpp prints control tokens only when asked and decodes byte tokens."""
    if tokenizer.is_unknown(token):
        return gguf.TokenType.UNKNOWN
    if tokenizer.is_control(token):
        return gguf.TokenType.CONTROL
    if tokenizer.is_byte(token):
        return gguf.TokenType.BYTE
    return gguf.TokenType.NORMAL


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: spm.SentencePieceProcessor) -> None:
    """Write the vocabulary; an SPM tokenizer merges by score, so scores must survive exactly."""
    tokens = range(tokenizer.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([tokenizer.id_to_piece(token).encode() for token in tokens])
    writer.add_token_scores([tokenizer.get_score(token) for token in tokens])
    writer.add_token_types([token_type(tokenizer, token) for token in tokens])
    writer.add_bos_token_id(tokenizer.bos_id())
    writer.add_eos_token_id(tokenizer.eos_id())
    writer.add_unk_token_id(tokenizer.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def add_weights(writer: gguf.GGUFWriter, path: Path) -> None:
    """Write matrices as Q8_0 and norms as they are."""
    with np.load(path) as weights:
        for name in weights.files:
            weight = weights[name].astype(np.float32)
            if weight.ndim == 2:
                writer.add_tensor(name, gguf.quants.quantize(weight, Q8_0), raw_dtype=Q8_0)
            else:
                writer.add_tensor(name, weight)


def main(folder: Path, target: Path) -> None:
    """Write the file and print its size and hash."""
    tokenizer = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    writer = gguf.GGUFWriter(target, "llama")
    add_identity(writer)
    add_shape(writer, Shape())
    add_tokenizer(writer, tokenizer)
    add_weights(writer, folder / "weights.npz")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = target.read_bytes()
    assert len(content) <= LARGEST_FILE, f"{target} has {len(content)} bytes"
    print(f"{target}  {len(content)} bytes  sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
