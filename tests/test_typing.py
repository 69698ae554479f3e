"""What a program's own type checker sees of the package: every type, in strict mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = """
from typing import assert_type
from nativeload import NativeLibraryConfig
from nativeload_llama import (
    ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk, Embedding, Llama, LlamaGrammar, LlamaState,
    Stream,
)

llama = Llama("model.gguf", n_ctx=512, n_gpu_layers="auto", config=NativeLibraryConfig().with_auto_download())
assert_type(llama, Llama)
assert_type(Llama.from_pretrained("owner/repo", "*Q8_0.gguf", n_ctx=512), Llama)
assert_type(llama.tokenize("x"), list[int])
assert_type(llama.detokenize([1]), str)
assert_type(llama.complete("x", temperature=0.5, max_tokens=3), str)
assert_type(llama.stream("x", seed=1), Stream[str])
assert_type(llama("x", max_tokens=3), Completion)
assert_type(llama.create_completion("x"), Completion)
assert_type(llama.create_completion("x", stream=True), Stream[CompletionChunk])
assert_type(llama.create_completion("x").choices[0].text, str)
assert_type(llama.create_completion("x").usage.total_tokens, int)
assert_type(llama.create_chat_completion([{"role": "user", "content": "x"}]), ChatCompletion)
assert_type(llama.create_chat_completion([], stream=True), Stream[ChatCompletionChunk])
assert_type(llama.create_chat_completion([]).choices[0].message.content, str | None)
assert_type(llama.generate_many(["x"]), list[Completion])
assert_type(llama.generate_many(["x"], stream=True), Stream[tuple[int, str]])
assert_type(llama.create_embedding("x"), Embedding)
assert_type(llama.save_state(), LlamaState)
assert_type(LlamaGrammar.from_json_schema({"type": "string"}), LlamaGrammar)
for piece in llama.stream("x"):
    assert_type(piece, str)
"""
WRONG = {
    'llama.complete("x", temprature=0.5)': "temprature",
    'llama.create_completion("x", stop=5)': "stop",
    'llama.generate("x", top_k="many")': "top_k",
    'llama.create_chat_completion("x")': "create_chat_completion",
    "llama.no_such_verb()": "no_such_verb",
}


def mypy(program: str, folder: Path) -> str:
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300).stdout


def test_a_strict_program_sees_every_type(tmp_path: Path) -> None:
    """assert_type() agrees with each verb, and each wrong use is an error of its line."""
    assert mypy(PROGRAM, tmp_path) == ""
    said = mypy(PROGRAM + "\n".join(WRONG), tmp_path).splitlines()
    start = len(PROGRAM.splitlines())
    for number, word in enumerate(WRONG.values(), start + 1):
        assert any(f"program.py:{number}:" in line and word in line for line in said), (word, said)
