"""Programs written for llama-cpp-python run here when one import line is changed: what its README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nativeload_llama import bundled_model

if TYPE_CHECKING:
    from pathlib import Path

# What each example of that README does, in programs of our own; MODEL stands for a path. Left out, because they need
# libraries of their own beside libllama: pictures (mtmd), Hugging Face tokenizers (LlamaHFTokenizer), the server, and
# its ctypes floor, of which low_level is the counterpart.
PROGRAMS = {
    "completion": """
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL, n_gpu_layers=-1, seed=1337, n_ctx=512)
        output = llm("Q: Name the planets? A: ", max_tokens=32, stop=["Q:", "\\n"], echo=True)
        assert output["choices"][0]["text"].startswith("Q: Name the planets? A: ")
        assert output["object"] == "text_completion"
        usage = output["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        again = llm.create_completion("Q: Name the planets? A: ", max_tokens=32, stop=["Q:", "\\n"], echo=True)
        assert again["choices"][0]["finish_reason"] in ("stop", "length")
    """,
    "pulling": """
        from llama_cpp import Llama
        assert callable(Llama.from_pretrained)
        import inspect
        assert {"repo_id", "filename"} <= set(inspect.signature(Llama.from_pretrained).parameters)
    """,
    "chat": """
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL, chat_format="llama-2", verbose=False)
        answer = llm.create_chat_completion(
            messages=[
                {"role": "system", "content": "You describe pictures."},
                {"role": "user", "content": "Describe this one."},
            ],
            max_tokens=8,
        )
        assert answer["choices"][0]["message"]["role"] == "assistant"
        parts = llm.create_chat_completion(messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=8)
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        assert isinstance(text, str)
    """,
    "json": """
        import json
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL, chat_format="chatml")
        answer = llm.create_chat_completion(
            messages=[
                {"role": "system", "content": "You output JSON."},
                {"role": "user", "content": "Who won the world series in 2020"},
            ],
            response_format={"type": "json_object", "schema": {
                "type": "object", "properties": {"team_name": {"type": "string", "maxLength": 20}},
                "required": ["team_name"]}},
            temperature=0.7,
        )
        assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"team_name"}
    """,
    "tools": """
        import json
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL, chat_format="chatml-function-calling")
        answer = llm.create_chat_completion(
            messages=[
                {"role": "system", "content": "An assistant that calls functions."},
                {"role": "user", "content": "Extract Jason is 25 years old"},
            ],
            tools=[{"type": "function", "function": {"name": "UserDetail", "parameters": {
                "type": "object", "title": "UserDetail",
                "properties": {"name": {"title": "Name", "type": "string", "maxLength": 12},
                               "age": {"title": "Age", "type": "integer", "minimum": 0, "maximum": 150}},
                "required": ["name", "age"]}}}],
            tool_choice={"type": "function", "function": {"name": "UserDetail"}},
        )
        call = answer["choices"][0]["message"]["tool_calls"][0]
        assert call["function"]["name"] == "UserDetail"
        assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
    """,
    "speculation": """
        from llama_cpp import Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
        llama = Llama(model_path=MODEL, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=10))
        assert llama("Once upon a time", max_tokens=8)["choices"][0]["text"]
    """,
    "embeddings": """
        import llama_cpp
        llm = llama_cpp.Llama(model_path=MODEL, embedding=True)
        embeddings = llm.create_embedding("Hello, world!")
        assert embeddings["data"][0]["object"] == "embedding"
        embeddings = llm.create_embedding(["Hello, world!", "Goodbye, world!"])
        assert [item["index"] for item in embeddings["data"]] == [0, 1]
    """,
    "grammar": """
        from llama_cpp import Llama, LlamaGrammar
        llm = Llama(model_path=MODEL)
        text = llm("Yes or no?", grammar=LlamaGrammar.from_string('root ::= "yes" | "no"'), max_tokens=8)
        assert text["choices"][0]["text"] in ("yes", "no")
    """,
    "state": """
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL)
        llm("Once upon a time", max_tokens=4)
        state = llm.save_state()
        llm.reset()
        llm.load_state(state)
        assert llm.tokenize(b"Once upon") == llm.tokenize("Once upon".encode("utf-8"))
    """,
    "the context": """
        from llama_cpp import Llama
        llm = Llama(model_path=MODEL, n_ctx=256, n_batch=64, n_threads=1, use_mmap=True, use_mlock=False,
                    rope_freq_base=10000.0, flash_attn=False, type_k=1, type_v=1, logits_all=True,
                    last_n_tokens_size=64)
        assert llm("Once", max_tokens=2, logprobs=1)["choices"][0]["logprobs"]["tokens"]
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_import_line_is_all_that_changes(name: str, tmp_path: Path) -> None:
    """``llama_cpp`` becomes ``nativeload_llama``, and the program runs."""
    import textwrap

    program = textwrap.dedent(PROGRAMS[name]).replace("MODEL", repr(bundled_model()))
    program = re.sub(r"^import llama_cpp$", "import nativeload_llama as llama_cpp", program, flags=re.MULTILINE)
    program = re.sub(r"^from llama_cpp\b", "from nativeload_llama", program, flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
