"""``nativeload gguf``: a model file on paper, as JSON, and one value for a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nativeload.cli.gguf import command
from nativeload_llama import bundled_model
from nativeload_llama.errors import ModelError
from tests.bindings.gguf_writer import ARRAY, F32, STRING, U16, U32, Gguf, Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

TEMPLATE = "{% for m in messages %}\n\t{{ m['content'] }}\n{% endfor %}" + "x" * 300


def call(*arguments: object) -> str:
    """Return what the verb prints; its errors are raised."""
    done = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


def report(*arguments: object) -> dict[str, Any]:
    found = json.loads(call(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with a long text, a long array, hostile names and numbers that JSON has not."""
    made = Gguf()
    made.put("general.architecture", STRING, b"llama")
    made.put("tokenizer.chat_template", STRING, TEMPLATE.encode())
    made.put("tokenizer.ggml.tokens", ARRAY, [b"token %d" % one for one in range(1000)], STRING)
    made.put("hostile", STRING, "\x1b[2J\u202ered[/bold][red]".encode())
    made.put("\x1b[31mkey", U32, 7)
    made.put("numbers", ARRAY, [float("nan"), float("inf"), 1e-5], F32)
    made.tensors = [Tensor(b"a.weight", (32, 2), 8, bytes(68)), Tensor(b"b[red]", (3,), 0, bytes(12))]
    path = tmp_path / "x.gguf"
    path.write_bytes(made.to_bytes())
    return path


def test_the_bundled_model_on_paper() -> None:
    """What it is, every key, every tensor, and what it comes to; nothing is broken where there is no terminal."""
    lines = [line.rstrip() for line in call(bundled_model()).splitlines()]
    assert lines[0] == f"{bundled_model()}: GGUF version 3, 1,089,408 bytes"
    assert "general.name                            nativeload stories" in lines
    assert "llama.rope.freq_base                    10000" in lines
    assert "tokenizer.ggml.add_bos_token            true" in lines
    assert "llama.attention.layer_norm_rms_epsilon  1e-05" in lines
    tokens = next(line for line in lines if line.startswith("tokenizer.ggml.tokens"))
    assert tokens.endswith('["<unk>", "<s>", "</s>", "<0x00>", "<0x01>", "<0x02>", "<0x03>", "<0x04>", ... (632 more)]')
    assert "token_embd.weight         128 x 640  Q8_0  87,040" in lines
    assert "output_norm.weight        128        F32      512" in lines
    total = "47 tensors (36 Q8_0, 11 F32), 1,004,928 parameters, 1,071,872 bytes, 8.53 bits per weight"
    assert lines[-1] == total
    assert call(bundled_model(), "--no-tensors").splitlines()[-1] == total
    assert "token_embd.weight" not in call(bundled_model(), "--no-tensors")


def test_long_values_are_shortened_and_say_so(model: Path) -> None:
    """Texts after 160 characters, arrays after eight elements; --all prints them to their end."""
    text, whole = call(model), call(model, "--all")
    assert f"... ({len(TEMPLATE) - 160:,} more characters)" in text
    assert "x" * 200 not in text
    assert "... (992 more)" in text
    assert "x" * 300 in whole
    assert '"token 999"]' in whole
    assert "more" not in whole


def test_nothing_of_the_file_acts_on_a_terminal(model: Path) -> None:
    """Control characters, line ends and what turns text around are escapes; brackets are no markup."""
    for arguments in ((), ("--all",)):
        text = call(model, *arguments)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\x1b[2J\\u202ered[/bold][red]" in text
        assert "\\x1b[31mkey" in text
        assert "messages %}\\n\\t{{" in text
        assert "b[red]" in text


def test_json_has_the_same(model: Path) -> None:
    """One object with exactly these keys; what is long is its beginning and its length, unless --all."""
    found = report(bundled_model())
    keys = ["path", "version", "file_size", "alignment", "data_offset", "split", "metadata", "totals", "tensors"]
    assert list(found) == keys
    assert list(report(bundled_model(), "--no-tensors")) == keys[:-1]
    assert found["metadata"]["llama.block_count"] == 5
    assert found["tensors"][0] == {
        "name": "token_embd.weight", "shape": [128, 640], "type": "Q8_0", "offset": 0, "size": 87_040
    }  # fmt: skip
    assert found["totals"] == {
        "tensors": 47,
        "parameters": 1_004_928,
        "bytes": 1_071_872,
        "bits_per_weight": 8.533,
        "types": {"Q8_0": 36, "F32": 11},
    }
    short, whole = report(model)["metadata"], report(model, "--all")["metadata"]
    assert short["tokenizer.ggml.tokens"] == {"first": [f"token {one}" for one in range(8)], "length": 1000}
    assert short["tokenizer.chat_template"] == {"first": TEMPLATE[:160], "length": len(TEMPLATE)}
    assert whole["tokenizer.chat_template"] == TEMPLATE
    assert len(whole["tokenizer.ggml.tokens"]) == 1000
    assert whole["numbers"][:2] == ["nan", "inf"]


def test_one_value_for_a_script(model: Path) -> None:
    """Texts as they are, all else as JSON."""
    assert call(model, "--get", "tokenizer.chat_template") == f"{TEMPLATE}\n"
    assert call(bundled_model(), "--get", "llama.block_count") == "5\n"
    assert call(bundled_model(), "--get", "tokenizer.ggml.add_bos_token") == "true\n"
    assert call(bundled_model(), "--get", "general.languages") == '["en"]\n'
    with pytest.raises(ModelError, match="there is no key x"):
        call(model, "--get", "x")


def test_a_split_model_is_named_as_one(tmp_path: Path, model: Path) -> None:
    """By its name, with the parts that are not there; or by its keys."""
    for part in (1, 3):
        (tmp_path / f"x-0000{part}-of-00003.gguf").write_bytes(model.read_bytes())
    path = tmp_path / "x-00001-of-00003.gguf"
    assert "part 1 of 3 of a split model; not beside it: x-00002-of-00003.gguf" in call(path)
    assert report(path)["split"] == {"part": 1, "of": 3, "missing": ["x-00002-of-00003.gguf"]}
    assert report(model)["split"] is None
    made = Gguf()
    made.put("split.count", U16, 4)
    made.put("split.no", U16, 1)
    model.write_bytes(made.to_bytes())
    assert "part 2 of 4 of a split model" in call(model)


def test_a_file_without_tensors_has_no_bits_per_weight(tmp_path: Path) -> None:
    """A vocabulary alone, as llama.cpp's converter can write it."""
    path = tmp_path / "x.gguf"
    path.write_bytes(Gguf().to_bytes())
    assert call(path).splitlines()[-1] == "0 tensors, 0 parameters, 0 bytes"
    assert report(path)["totals"]["bits_per_weight"] is None


def test_what_is_no_gguf_file_is_an_error(tmp_path: Path) -> None:
    """In words; the whole command ends with 1 and says it on stderr alone."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a GGUF file"):
        call(path)
    code = "import sys; from nativeload.cli.gguf import command; from nativeload.cli import cli, main\n"
    code += "cli.get_command = lambda *_: command; sys.argv = ['nativeload', 'gguf', sys.argv[1]]; main()"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {path}: not a GGUF file\n"


def test_no_library_is_opened(tmp_path: Path) -> None:
    """The report needs no libllama, no cffi and none of the weights."""
    code = "import sys; from nativeload.cli.gguf import command\ncommand([sys.argv[1]], standalone_mode=False)\n"
    code += "print(*sorted({'_cffi_backend', 'nativeload.loading', 'nativeload_llama.llama'} & set(sys.modules)))"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code, bundled_model()],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""
