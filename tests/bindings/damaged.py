"""Which damaged model files are there to try, and what becomes of each of them in a real libllama?

One rule: a name says exactly one file, the same one everywhere and every time: what died once can be looked at again.

Usage: python -m tests.bindings.damaged FOLDER NAME [NAME ...]    writes those files
       python -m tests.bindings.damaged FOLDER < NAMES            opens each of them, and says what became of it
"""

from __future__ import annotations

import math
import random
import signal
import struct
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nativeload_llama import Llama, bundled_model
from nativeload_llama.errors import LlamaError
from tests.bindings.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    F64,
    FORMATS,
    I8,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Field,
    Gguf,
    Tensor,
    padded,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Change = Callable[[Gguf], None]

INTEGERS: tuple[int, ...] = (0, 1, 2, 3, 5, 7, 16, 63, 64, 127, 128, 129, 255, 256, 511, 512, 513, 640, 641, 1000)
INTEGERS += (65_535, 65_536, 1_000_003, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-5, -1e-5, 1e-45, 1e10, -1e10, 3e38, float("inf"), float("-inf"), float("nan"))

ARCHITECTURES = """
clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert
nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe
qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3 codeshell orion internlm2
minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding starcoder2 mamba mamba2 maple
jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe muse-glimmer openelm arctic deepseek
deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa bitnet t5 t5encoder jais jais2 nemotron
nemotron_h nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid
graniteswitch granite_swa chameleon wavtokenizer-dec plm bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee
afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe
dream smallthinker llada llada-moe seed_oss grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1
pangu-embedded mistral3 eagle3 dflash mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder kimi-linear
kimi-k3 glm5-next talkie mellum nanbeige qwen3tts pockettts (unknown)
""".split()  # noqa: SIM905 - these are lists that grow
"""What general.architecture can be (llama-arch.cpp)."""

KEYS = """
vocab_size context_length embedding_length embedding_length_out embedding_length_per_layer_input features_length
block_count leading_dense_block_count feed_forward_length expert_feed_forward_length
expert_shared_feed_forward_length use_parallel_residual tensor_data_layout expert_count expert_used_count
expert_shared_count expert_group_count expert_group_used_count expert_weights_scale expert_weights_norm
expert_gating_func moe_every_n_layers nextn_predict_layers n_deepstack_layers pooling_type logit_scale
decoder_start_token_id decoder_block_count attn_logit_softcapping final_logit_softcapping residual_scale
embedding_scale token_shift_count interleave_moe_layer_step full_attention_interval attention.head_count
attention.head_count_kv attention.max_alibi_bias attention.clamp_kqv attention.key_length attention.value_length
attention.layer_norm_epsilon attention.layer_norm_rms_epsilon attention.group_norm_epsilon
attention.group_norm_groups attention.causal attention.q_lora_rank attention.kv_lora_rank
attention.relative_buckets_count attention.sliding_window attention.sliding_window_pattern attention.scale
attention.temperature_length attention.temperature_scale attention.key_length_mla attention.value_length_mla
attention.key_length_swa attention.value_length_swa attention.indexer.head_count attention.indexer.key_length
attention.indexer.top_k attention.shared_kv_layers attention.recurrent_layers rope.dimension_count
rope.dimension_count_swa rope.dimension_sections rope.freq_base rope.freq_base_swa rope.scale_linear
rope.scaling.type rope.scaling.factor rope.scaling.attn_factor rope.scaling.original_context_length
rope.scaling.finetuned rope.scaling.yarn_log_multiplier rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor
rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow ssm.conv_kernel ssm.inner_size ssm.state_size
ssm.time_step_rank ssm.group_count ssm.dt_b_c_rms wkv.head_size classifier.output_labels classifier.pooling_type
target_layers shortconv.l_cache dense_2_feat_in
""".split()  # noqa: SIM905 - these are lists that grow
"""Keys of an architecture, without its name (llama-arch.cpp)."""

GENERAL = """
general.type general.alignment general.file_type general.quantization_version general.name general.sampling.temp
general.sampling.top_k split.no split.count split.tensors.count tokenizer.ggml.eot_token_id
tokenizer.ggml.eom_token_id tokenizer.ggml.seperator_token_id tokenizer.ggml.padding_token_id
tokenizer.ggml.cls_token_id tokenizer.ggml.mask_token_id tokenizer.ggml.add_sep_token
tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.precompiled_charsmap tokenizer.ggml.token_type_count
tokenizer.ggml.merges tokenizer.chat_template tokenizer.chat_template.tool_use tokenizer.ggml.fim_pre_token_id
tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id tokenizer.ggml.fim_rep_token_id
tokenizer.ggml.fim_sep_token_id tokenizer.ggml.suppress_tokens tokenizer.ggml.normalizer.lowercase
tokenizer.huggingface.json tokenizer.rwkv.world adapter.type adapter.lora.alpha xielu.alpha_n xielu.beta
""".split()  # noqa: SIM905 - these are lists that grow
"""Keys that are the same for every architecture."""

TOKENIZERS: tuple[str, ...] = (
    "llama",
    "gpt2",
    "bert",
    "t5",
    "rwkv",
    "plamo2",
    "gemma4",
    "hybriddna",
    "whitespace",
    "test",
    "none",
)
TOKENIZERS += ("no_vocab", "", "unknown", "llama\0x", "Llama")

SPLITTERS = """
default llama3 llama-bpe falcon deepseek-llm deepseek-coder deepseek-v3 mpt starcoder gpt-2 jina-v2-code refact
command-r qwen2 qwen35 stablelm2 olmo dbrx smaug-bpe poro-chat chatglm-bpe glm4 viking jais jais-2 tekken smollm
codeshell bloom gpt3-finnish exaone exaone4 exaone-moe chameleon minerva-7b megrez gpt-4o superbpe trillion
bailingmoe seed-coder hunyuan kimi-k2 grok-2 afmoe minimax-m2 gemma4 whitespace youtu tiny_aya roberta-bpe unknown
""".split()  # noqa: SIM905 - these are lists that grow
"""What tokenizer.ggml.pre can be (llama-vocab.cpp)."""

OPTIONAL = (
    ("output.weight", (128, 640)),
    ("output.bias", (640,)),
    ("output_norm.bias", (128,)),
    ("output.scale", (1,)),
    ("rope_freqs.weight", (16,)),
    ("token_embd_norm.weight", (128,)),
    ("position_embd.weight", (128, 512)),
    ("blk.0.attn_q.bias", (128,)),
    ("blk.0.attn_k.bias", (64,)),
    ("blk.0.attn_v.bias", (64,)),
    ("blk.0.attn_output.bias", (128,)),
    ("blk.0.attn_q_norm.weight", (32,)),
    ("blk.0.attn_qkv.weight", (128, 256)),
    ("blk.0.attn_qkv.bias", (256,)),
    ("blk.0.attn_q.scale", (1,)),
    ("blk.0.attn_output.scale", (1,)),
    ("blk.0.attn_q.input_scale", (1,)),
    ("blk.0.ffn_gate.bias", (352,)),
    ("blk.0.ffn_down.bias", (128,)),
    ("blk.0.ffn_down.scale", (1,)),
    ("blk.0.attn_sinks.weight", (4,)),
    ("blk.0.ffn_gate_inp.weight", (128, 4)),
    ("blk.0.ffn_gate_exps.weight", (128, 352, 4)),
    ("blk.5.attn_norm.weight", (128,)),
    ("blk.0.rope_freqs.weight", (16,)),
    ("something.weight", (7,)),
)
"""Tensors that a llama may have and the story model has not."""

SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)}
SIZES |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)}
SIZES |= {16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)}
SIZES |= {23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)}
SIZES |= {34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)}
"""Of each type of tensor: elements and bytes of a block."""

MEMORY, SECONDS = 8 << 30, 20
"""What a child may use, and how long one file may take."""

TEXTS = (
    "",
    "Once upon a time",
    "é 日本 🦊\u200b",
    "\0\x01\t\n\r \x7f",
    "<s></s><unk><0x0A>",
    " " * 40 + "x" * 40 + "\n\n",
)
"""What every model that opens has to tokenize."""


# -- the models that are damaged -----------------------------------------------------------------------------------


@cache
def stories() -> Gguf:
    """The bundled model."""
    return parse(Path(bundled_model()).read_bytes())


@cache
def bpe() -> Gguf:
    """The bundled model with a BPE vocabulary: its tokens as they are, and a few merges."""
    model = stories().copy()
    model.put("tokenizer.ggml.model", STRING, b"gpt2")
    model.put("tokenizer.ggml.merges", ARRAY, [b"h e", b"t he", b"\xc4\xa0 t"], STRING)
    return model


@cache
def experts() -> Gguf:
    """A llama of two layers with four experts each, and random weights."""
    model = stories().copy()
    model.put("llama.block_count", U32, 2)
    model.put("llama.expert_count", U32, 4)
    model.put("llama.expert_used_count", U32, 2)
    model.put("llama.feed_forward_length", U32, 64)
    kept = [one for one in model.tensors if not one.name.startswith((b"blk.2", b"blk.3", b"blk.4"))]
    model.tensors = [one for one in kept if b"ffn" not in one.name or b"norm" in one.name]
    for layer in range(2):
        shapes = {"gate_inp": (128, 4), "gate_exps": (128, 64, 4), "up_exps": (128, 64, 4), "down_exps": (64, 128, 4)}
        for name, shape in shapes.items():
            model.tensors.append(filled(f"blk.{layer}.ffn_{name}.weight", shape, 0))
    return model


MODELS = {"stories": stories, "bpe": bpe, "experts": experts}


def filled(name: str, shape: tuple[int, ...], kind: int) -> Tensor:
    """Make a tensor with random contents that are no NaN: half floats and floats of about 0.004."""
    block, size = SIZES.get(kind, (1, 4))
    elements = math.prod(shape)
    count = -(-elements // block) * size
    draw = random.Random(f"{name} {shape} {kind}")
    if kind == 0:
        data = struct.pack(f"<{elements}f", *(draw.uniform(-0.01, 0.01) for _ in range(elements)))
    else:
        data = (bytes((0x3B,)) + bytes((0x1C,))) * (count // 2 + 1)
    return Tensor(name.encode(), shape, kind, data[:count])


WHOLE = {"heads": 4, "shared": 2, "key": 32, "value": 32, "turned": 32, "embedding": 128, "forward": 64, "layers": 1}
"""Sizes of a model that is small and right."""


# -- the changes ---------------------------------------------------------------------------------------------------


def numbers(kind: int, value: Any) -> list[Any]:
    """Return what a number could be instead."""
    if kind in {F32, F64}:
        return [one for one in FLOATS if one != value]
    if kind == BOOL:
        return [not value]
    return sorted({*INTEGERS, max(0, value - 1), value + 1, value * 2, value // 2, 2**31 + value} - {value})


def other_values(one: Field, layers: int) -> Iterator[tuple[str, int, Any, int]]:
    """Yield a label, a type and a value that a field could have instead."""
    if one.kind == STRING:
        for text in (b"", b"\xff\xfe\xc3", b"x" * 70_000, b"%s%n%d" * 20, b"\0", one.value[:3], b"{% for x in y %}"):
            yield f"text {text[:12]!r} {len(text)}", STRING, text, 0
    elif one.kind == ARRAY:
        yield from other_arrays(one)
    else:
        for number in numbers(one.kind, one.value):
            yield f"{number}", one.kind, number, 0
    simple = one.value if isinstance(one.value, (int, float)) else 1
    for kind in FORMATS:
        if kind != one.kind:
            number = simple if kind in {F32, F64} else bool(simple) if kind == BOOL else int(simple) % 128
            yield f"as type {kind}", kind, number, 0
    yield "as text", STRING, b"llama", 0
    elements: list[tuple[int, Any]] = [(U32, 1), (U32, 2**31), (I32, 4), (F32, float("nan")), (BOOL, True), (U64, 3)]
    for item, element in [*elements, (STRING, b"x")]:
        for count in (0, 1, layers, layers + 1, 512, 513):
            yield f"as {count} of type {item} {element}", ARRAY, [element] * count, item


def other_arrays(one: Field) -> Iterator[tuple[str, int, Any, int]]:
    """Yield what an array could be instead: another length, another order, other elements."""
    values = one.value
    for count in (0, 1, len(values) // 2, len(values) - 1):
        yield f"first {count}", ARRAY, values[:count], one.item
    yield "one more", ARRAY, [*values, values[-1]], one.item
    yield "twice", ARRAY, [*values, *values], one.item
    yield "reversed", ARRAY, values[::-1], one.item
    elements: list[Any] = [b"", b"\xff", b"x" * 70_000, b"<0xZZ>", b"<0x4", b"\0", values[-1]]
    if one.item != STRING:
        elements = [0, 1, 2, 5, 6, 7] if one.item not in {F32, F64} else list(FLOATS)
        elements += [-1, -(2**31), 2**31 - 1, 99] if one.item == I32 else []
    for element in elements:
        for place in (0, 1, 2, 3, 13, 258, 259, 300, -1):
            changed = list(values)
            if place < len(values):
                changed[place] = element
                yield f"[{place}] = {str(element)[:12]}", ARRAY, changed, one.item
        yield f"all {str(element)[:12]}", ARRAY, [element] * len(values), one.item


def put(key: str, kind: int, value: object, item: int, model: Gguf) -> None:
    """Set a field."""
    model.put(key, kind, value, item)


def change_field(index: int, what: str, value: object, model: Gguf) -> None:
    """Change one thing about a field."""
    setattr(model.fields[index], what, value)


def drop_field(index: int, model: Gguf) -> None:
    """Take a field away."""
    model.fields.pop(index)


def repeat_field(index: int, model: Gguf) -> None:
    """Write a field twice."""
    model.fields.append(model.fields[index])


def move_field(index: int, model: Gguf) -> None:
    """Write a field last."""
    model.fields.append(model.fields.pop(index))


def field_changes(model: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield changes of fields that the model has."""
    layers = model.get("llama.block_count").value
    for index, one in enumerate(model.fields):
        key = one.key.decode()
        yield f"without {key}", partial(drop_field, index)
        yield f"{key} twice", partial(repeat_field, index)
        yield f"{key} last", partial(move_field, index)
        yield f"{key} empty key", partial(change_field, index, "key", b"")
        yield f"{key} renamed", partial(change_field, index, "key", b"\xff\0" * 40)
        yield f"{key} of type 99", partial(change_field, index, "kind", 99)
        if one.kind == ARRAY:
            for claimed in (len(one.value) - 1, len(one.value) + 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
                yield f"{key} claims {claimed}", partial(change_field, index, "claimed", claimed)
        for label, kind, value, item in other_values(one, layers):
            yield f"{key} = {label}", partial(put, key, kind, value, item)


def extra_changes(model: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield fields that the model could have as well."""
    known = {one.key for one in model.fields}
    layers = model.get("llama.block_count").value
    arrays: list[tuple[int, Any]] = [(U32, 0), (U32, 1), (U32, 99), (I32, -1), (F32, 1.0), (F32, float("nan"))]
    arrays += [(BOOL, True), (STRING, b"a b"), (STRING, b""), (U8, 1), (I8, -1), (U64, 2**63)]
    texts = (b"", b"yarn", b"longrope", b"none", b"linear", b"x" * 5000, b"\xff", b"{{ messages }}", b"lora")
    for key in [*(f"llama.{key}" for key in KEYS), *GENERAL]:
        if key.encode() in known:
            continue
        simple: list[tuple[int, Any]] = [(U32, one) for one in INTEGERS] + [(F32, one) for one in FLOATS]
        simple += [(BOOL, True), (BOOL, False), (U16, 2), *((STRING, one) for one in texts)]
        for kind, value in simple:
            yield f"{key} = {str(value)[:16]} of type {kind}", partial(put, key, kind, value, 0)
        for item, element in arrays:
            for count in (0, 1, 4, layers, 300, 513):
                yield f"{key} = {count} of type {item} {element}", partial(put, key, ARRAY, [element] * count, item)


def tokenizer_changes(model: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield other kinds of vocabulary."""
    merges = {"no": None, "empty": [], "odd": [b"", b" ", b"a", b"a b c", b"\xff \xfe", b"h e", b" x"], "few": [b"h e"]}
    for name in TOKENIZERS:
        for label, words in merges.items():
            for splitter in SPLITTERS if name == "gpt2" and label == "odd" else ("default", "llama3", ""):
                yield f"tokenizer {name} {splitter} {label} merges", partial(retokenize, name, splitter, words)
    for seed in range(40):
        yield f"tokenizer t5 charsmap {seed}", partial(normalize, seed)
    words = model.get("tokenizer.ggml.tokens").value
    for missing in (*range(3, 259, 15), 13, 35, 68, 258):
        changed = [*words[:missing], b"other", *words[missing + 1 :]]
        yield f"token {missing} renamed", partial(put, "tokenizer.ggml.tokens", ARRAY, changed, STRING)
    for flag in ("bos", "eos", "sep"):
        for key in ("bos_token_id", "eos_token_id", "seperator_token_id", "unknown_token_id"):
            for number in (0, 639, 640, 2**31, 2**32 - 1):
                yield f"adds {flag}, {key} = {number}", partial(add_token, flag, key, number)


def add_token(flag: str, key: str, number: int, model: Gguf) -> None:
    """Let every text get a token."""
    model.put(f"tokenizer.ggml.add_{flag}_token", BOOL, value=True)
    model.put(f"tokenizer.ggml.{key}", U32, number)


def retokenize(name: str, splitter: str, merges: list[bytes] | None, model: Gguf) -> None:
    """Give the model another kind of vocabulary."""
    model.put("tokenizer.ggml.model", STRING, name.encode())
    model.put("tokenizer.ggml.pre", STRING, splitter.encode())
    if merges is not None:
        model.put("tokenizer.ggml.merges", ARRAY, merges, STRING)


def normalize(seed: int, model: Gguf) -> None:
    """Give the model a unigram vocabulary, whose normalizer goes through a random table."""
    draw = random.Random(seed)
    units = [draw.choice((0, index, index | draw.randrange(4) << 8)) for index in range(draw.choice((256, 512)))]
    if seed % 2:
        units[draw.randrange(len(units))] |= draw.randrange(2 ** (16 if seed % 4 == 1 else 31)) << 10 & 0xFFFFFFFF
    texts = draw.choice((b"a\0b\0", b"ab\0", b"ab", b"\0" * 600))
    blob = struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts
    retokenize("t5", "default", None, model)
    model.put("tokenizer.ggml.precompiled_charsmap", ARRAY, list(blob), U8)


def architecture_changes(_: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield the model as one of another architecture: by name alone, and with all its keys; with some keys more."""
    states = {"ssm.conv_kernel": 4, "ssm.inner_size": 256, "ssm.state_size": 16, "ssm.time_step_rank": 8}
    states |= {"ssm.group_count": 1, "wkv.head_size": 32}
    left = ("epsilon", "scal", "rope", "freq", "head_count")
    more: dict[str, list[tuple[str, int, Any]]] = {
        "": [],
        " and a window": [("attention.sliding_window", U32, 16), ("attention.layer_norm_epsilon", F32, 1e-5)],
        " and experts": [("expert_count", U32, 4), ("expert_used_count", U32, 2)],
        " and states": [(key, U32, number) for key, number in states.items()],
        " and zeros": [(key, U32, 0) for key in KEYS if "." in key and not any(part in key for part in left)],
    }
    for name in [*ARCHITECTURES, "", "llama2", "LLAMA", "llama\0"]:
        yield f"architecture {name} by name", partial(put, "general.architecture", STRING, name.encode(), 0)
        for label, fields in more.items():
            yield f"architecture {name}{label}", partial(rename, name, fields)
        for size, number in (("key", 16), ("key", 64), ("value", 16), ("turned", 0), ("turned", 31), ("turned", 64)):
            yield f"architecture {name}, {size} {number}", partial(rescale_as, name, WHOLE | {size: number})


def rescale_as(name: str, sizes: dict[str, int], model: Gguf) -> None:
    """Make it a model of another architecture, of other sizes, and with the keys that many of them want."""
    rescale(sizes, model)
    rename(name, [("attention.layer_norm_epsilon", F32, 1e-5), ("attention.sliding_window", U32, 64)], model)


def rename(name: str, fields: list[tuple[str, int, Any]], model: Gguf) -> None:
    """Make it a model of another architecture."""
    model.put("general.architecture", STRING, name.encode())
    for one in model.fields:
        one.key = name.encode() + one.key.removeprefix(b"llama") if one.key.startswith(b"llama.") else one.key
    for key, kind, value in fields:
        model.put(f"{name}.{key}", kind, value)


def change_tensor(index: int, what: str, value: object, model: Gguf) -> None:
    """Change one thing about a tensor."""
    setattr(model.tensors[index], what, value)


def drop_tensor(index: int, model: Gguf) -> None:
    """Take a tensor away."""
    model.tensors.pop(index)


def add_tensor(name: str, shape: tuple[int, ...], kind: int, model: Gguf) -> None:
    """Write a tensor more."""
    model.tensors.append(filled(name, shape, kind))


def repeat_tensor(index: int, model: Gguf) -> None:
    """Write a tensor twice."""
    model.tensors.append(model.tensors[index])


def move_tensor(index: int, model: Gguf) -> None:
    """Write a tensor first."""
    model.tensors.insert(0, model.tensors.pop(index))


def tensor_changes(model: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield tensors that are missing, twice, of other types, shapes, names and places, and tensors to add."""
    for index, one in enumerate(model.tensors):
        name, told = one.name.decode(), index in {0, 1, 6, len(model.tensors) - 1}
        yield f"without {name}", partial(drop_tensor, index)
        yield f"{name} twice", partial(repeat_tensor, index)
        yield f"{name} first", partial(move_tensor, index)
        for label in (b"", b"x" * 63, b"x" * 64, b"\xff\0\xfe", b"blk.9.attn_q.weight", b"blk.x.attn_q.weight"):
            yield f"{name} named {label!r:.20}", partial(change_tensor, index, "name", label)
        for kind in (*range(46), 99, 2**31, 2**32 - 1):
            yield f"{name} of type {kind}", partial(retype, index, kind)
            if told:
                yield f"{name} said to be of type {kind}", partial(change_tensor, index, "kind", kind)
        for shape in other_shapes(one.shape):
            yield f"{name} of shape {shape}", partial(change_tensor, index, "shape", shape)
            if told:
                yield f"{name} filled to shape {shape}", partial(reshape, index, shape)
        for offset in (0, 1, 16, 32, 2**31, 2**40, 2**63, 2**64 - 32, 2**64 - 1):
            yield f"{name} at {offset}", partial(change_tensor, index, "offset", offset)
    for added, shape in OPTIONAL:
        for kind in sorted(SIZES):
            yield f"with {added} of type {kind}", partial(add_tensor, added, shape, kind)


def other_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return other shapes: permuted, longer, shorter, with numbers that cannot be."""
    found = [shape[::-1], (), shape[:1], (*shape, 1), (*shape, 2), (*shape, 1, 1), (*shape, 1, 1, 1), (1, *shape)]
    for place, now in enumerate(shape):
        numbers_ = (0, 1, now - 1, now + 1, now * 2, 32, 2**31, 2**62, 2**63, 2**64 - 1)
        found += [(*shape[:place], number, *shape[place + 1 :]) for number in numbers_]
    return list(dict.fromkeys(one for one in found if one != shape))


def retype(index: int, kind: int, model: Gguf) -> None:
    """Give a tensor another type, and contents of the right size."""
    one = model.tensors[index]
    model.tensors[index] = filled(one.name.decode(), one.shape, kind) if kind in SIZES else replace(one, kind=kind)


def reshape(index: int, shape: tuple[int, ...], model: Gguf) -> None:
    """Give a tensor another shape, and contents of the right size where that is not huge."""
    one = model.tensors[index]
    huge = math.prod(shape) > 2**21
    model.tensors[index] = replace(one, shape=shape) if huge else filled(one.name.decode(), shape, one.kind)


def rescaled_changes(_: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield models whose tensors agree with sizes that cannot be, or that llama.cpp has not thought of."""
    sizes = {
        "heads": 4,
        "shared": 2,
        "key": 32,
        "value": 32,
        "turned": 32,
        "embedding": 128,
        "forward": 64,
        "layers": 1,
    }
    others: dict[str, tuple[int, ...]] = {"heads": (0, 1, 2, 3, 5, 6, 8, 128), "shared": (0, 1, 3, 4, 5, 8, 64)}
    others |= dict.fromkeys(("key", "value", "turned"), (0, 1, 2, 16, 31, 33, 64, 512))
    others |= {"embedding": (0, 1, 2, 31, 100, 127, 256), "forward": (0, 1, 2, 31, 100, 256), "layers": (1, 2, 30)}
    for one, numbers_ in others.items():
        for first in numbers_:
            yield f"{one} {first}", partial(rescale, sizes | {one: first})
            for two in (name for name in others if name > one):
                for second in others[two]:
                    yield f"{one} {first}, {two} {second}", partial(rescale, sizes | {one: first, two: second})


def rescale(sizes: dict[str, int], model: Gguf) -> None:
    """Make a llama of these sizes, of floats."""
    keys = {"heads": "attention.head_count", "shared": "attention.head_count_kv", "key": "attention.key_length"}
    keys |= {"value": "attention.value_length", "turned": "rope.dimension_count", "embedding": "embedding_length"}
    keys |= {"forward": "feed_forward_length", "layers": "block_count"}
    for name, number in sizes.items():
        model.put(f"llama.{keys[name]}", U32, number)
    width, forward, key = sizes["embedding"], sizes["forward"], sizes["key"]
    shapes = {"token_embd": (width, 640), "output_norm": (width,)}
    for layer in range(sizes["layers"]):
        shapes |= {
            f"blk.{layer}.attn_norm": (width,),
            f"blk.{layer}.attn_q": (width, key * sizes["heads"]),
            f"blk.{layer}.attn_k": (width, key * sizes["shared"]),
            f"blk.{layer}.attn_v": (width, sizes["value"] * sizes["shared"]),
            f"blk.{layer}.attn_output": (key * sizes["heads"], width),
            f"blk.{layer}.ffn_norm": (width,),
            f"blk.{layer}.ffn_gate": (width, forward),
            f"blk.{layer}.ffn_up": (width, forward),
            f"blk.{layer}.ffn_down": (forward, width),
        }
    model.tensors = [filled(f"{name}.weight", shape, 0) for name, shape in shapes.items()]


def claim(what: str, count: int, model: Gguf) -> None:
    """Say something about the whole file that may not be so."""
    setattr(model, what, count)


def align(alignment: int, model: Gguf) -> None:
    """Lay the tensors at multiples of another number."""
    model.put("general.alignment", U32, alignment)
    model.alignment = min(alignment, 2**20)


def structure_changes(model: Gguf) -> Iterator[tuple[str, Change]]:
    """Yield other versions, counts and alignments."""
    for version in (0, 1, 2, 4, 0x03000000, 0x00010003, 2**32 - 1):
        yield f"version {version}", partial(claim, "version", version)
    for magic in (b"GGJT", b"FUGG", b"gguf", b"\0\0\0\0"):
        yield f"magic {magic!r}", partial(change_magic, magic)
    for what, count in (("fields", len(model.fields)), ("tensors", len(model.tensors))):
        for number in (0, 1, count - 1, count + 1, 2**16, 2**20 + 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1):
            yield f"claims {number} {what}", partial(claim, f"n_{what}", number)
    for alignment in (0, 1, 2, 8, 16, 31, 33, 64, 4096, 2**20, 2**31, 2**32 - 1):
        yield f"alignment {alignment}", partial(put, "general.alignment", U32, alignment, 0)
        yield f"aligned to {alignment}", partial(align, alignment)
    for lists in (("fields",), ("tensors",), ("fields", "tensors")):
        yield f"no {' and no '.join(lists)}", partial(leave_out, lists)


def change_magic(magic: bytes, model: Gguf) -> None:
    """Begin with other bytes."""
    model.magic = magic


def leave_out(lists: tuple[str, ...], model: Gguf) -> None:
    """Leave the fields or the tensors out."""
    for name in lists:
        setattr(model, name, [])


# -- the files -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Gguf], Iterator[tuple[str, Change]]]] = {
    "fields": field_changes,
    "extra": extra_changes,
    "tokenizer": tokenizer_changes,
    "architecture": architecture_changes,
    "tensors": tensor_changes,
    "structure": structure_changes,
    "rescaled": rescaled_changes,
}


@cache
def changes(model: str) -> dict[str, Change]:
    """Return every change of a model by its name."""
    made = MODELS[model]()
    return {f"{kind}: {label}": change for kind, yielded in KINDS.items() for label, change in yielded(made)}


def catalogue() -> list[str]:
    """Name every file with one change."""
    return [f"{model} {name}" for model in MODELS for name in changes(model)]


def drawn(seed: int, count: int) -> list[str]:
    """Name files with several changes, cut short, or with wrong bytes."""
    names = []
    for index in range(count):
        model = ("stories", "stories", "bpe", "experts")[index % 4]
        names.append(f"{model} {('several', 'bytes', 'cut', 'header')[index // 4 % 4]} {seed}/{index}")
    return names


def build(name: str) -> bytes:
    """Return the bytes of the file of that name."""
    model, _, rest = name.partition(" ")
    made = MODELS[model]()
    kind = rest.partition(" ")[0]
    if kind in {"several", "bytes", "cut", "header"}:
        draw = random.Random(name)
        return _drawn(made, list(changes(model).values()), kind, draw)
    made = made.copy()
    changes(model)[rest](made)
    return made.to_bytes()


def _drawn(model: Gguf, known: list[Change], kind: str, draw: random.Random) -> bytes:
    made = model.copy()
    if kind in {"several", "header"}:
        for _ in range(draw.choice((1, 2, 2, 3, 4))):
            change = draw.choice(known)
            try:
                change(made)
            except (IndexError, StopIteration, struct.error, AttributeError):
                continue  # another change has taken what this one is about
    try:
        raw = bytearray(made.to_bytes())
    except struct.error:
        raw = bytearray(model.to_bytes())
    header = len(padded(model.header(), 32))
    if kind == "cut":
        return bytes(raw[: draw.randrange(draw.choice((header, len(raw))))])
    if kind in {"bytes", "header"}:
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            end = len(raw) if kind == "bytes" and draw.random() < 0.5 else min(header, len(raw))
            raw[draw.randrange(4, end)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(raw)


# -- a child that opens them ---------------------------------------------------------------------------------------


def fate(path: str) -> str:
    """Open a file, tokenize, generate; return ``opened`` or the error."""
    try:
        with Llama(path, n_threads=1) as llama:
            prompt = [1] if llama.n_vocab > 1 else [0]
            for text in TEXTS:
                tokens = llama.tokenize(text)
                llama.detokenize(tokens)
                llama.detokenize(llama.tokenize(text, add_special=False, parse_special=True), special=True)
                prompt = tokens[:8] or prompt
            list(llama.generate(prompt, max_tokens=4, temperature=0))
            list(llama.generate(prompt, max_tokens=4, seed=1))
            list(llama.generate(prompt, max_tokens=2, seed=1, top_k=0, top_p=0.9, min_p=0.1))
            llama.detokenize(range(min(llama.n_vocab, 1000)), special=True)
    except LlamaError as error:
        return f"{type(error).__name__}: {error}"
    return "opened"


def limit_memory() -> None:
    """Let what wants to fill the machine's memory die alone."""
    if sys.platform == "win32":
        return
    import resource

    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def say(line: str) -> None:
    """Write a line at once: the next thing may be the end."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Write or open files, as the module's text says."""
    folder, *names = sys.argv[1:]
    path = Path(folder) / "damaged.gguf"
    for index, name in enumerate(names):
        (Path(folder) / f"{index}.gguf").write_bytes(build(name))
    if names:
        return
    limit_memory()
    for line in sys.stdin:
        path.write_bytes(build(line.rstrip("\n")))
        say("trying")
        if sys.platform != "win32":
            signal.alarm(SECONDS)
        say(ascii(fate(str(path)))[1:-1])
        if sys.platform != "win32":
            signal.alarm(0)


if __name__ == "__main__":
    main()
