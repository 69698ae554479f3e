"""Would llama.cpp end the process over this model file?

One rule: refused is what was seen to end a process (an assertion, a C++ exception that passes through C, a call of
NULL, a loop without an end), and damage that the header itself shows. Anything else is left to llama.cpp, which refuses
it with an error. Nothing here is read from the tensors' data.
"""

from __future__ import annotations

import os

from nativeload_llama.gguf import (
    BOOL,
    F32,
    FORMATS,
    I8,
    I32,
    STRING,
    TYPES,
    U8,
    U16,
    U32,
    DamageError,
    Header,
    mapped,
    printable,
)
from nativeload_llama.gguf.vocabulary import TOKENS
from nativeload_llama.gguf.vocabulary import faults as vocabulary_faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LAYERS, _MAX_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS, llama-hparams.h
_USUAL_EXPERTS = 512  # LLAMA_MAX_EXPERTS of the oldest builds known here
_ALIGNMENT = 32  # TENSOR_ALIGNMENT, ggml-impl.h: what lies in a mapped file is used where it lies
_WHOLE_KINDS, _FLOAT_KINDS = frozenset({U32, I32, BOOL}), frozenset({F32})
_NVFP4 = 40
_MOST_HEADS, _LONGEST_REASON = 65_535, 300
_ARRAYS = {
    TOKENS: {STRING},
    "tokenizer.ggml.merges": {STRING},
    "tokenizer.ggml.scores": {I32, F32},
    "tokenizer.ggml.token_type": {I32},
    "tokenizer.ggml.suppress_tokens": {I32},
    "tokenizer.ggml.precompiled_charsmap": {U8, I8},
}
_WHOLE_ARRAYS: tuple[str, ...] = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
_WHOLE_ARRAYS += ("attention.sliding_window", "attention.sliding_window_pattern", "attention.recurrent_layers")
_WHOLE_ARRAYS += ("rope.dimension_sections", "attention.compress_ratios", "deepstack_mapping", "target_layers")
_WHOLE_ARRAYS += ("expert_used_count",)
_SCALINGS = {"none", "linear", "yarn", "longrope"}
_SECTIONED = {"qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "qwen3tts"}
"""Architectures that divide by the sum of rope.dimension_sections."""

_MIXED = {"jamba", "plamo2", "nemotron_h", "nemotron_h_moe", "granitehybrid", "lfm2", "lfm2moe"}
"""Architectures whose layers without attention are those without heads of keys and values."""

_UNTURNED = {"gpt2", "gptj", "mpt", "refact", "bloom", "mamba", "mamba2", "jamba", "jina-bert-v2", "t5", "t5encoder"}
_UNTURNED |= {"jais", "arwkv7", "nemotron_h", "nemotron_h_moe", "kimi-linear", "kimi-k3", "glm5-next"}
"""Architectures without a rotation; in the others, one of no dimensions never ends."""

_OF_EXPERTS = {"bailingmoe2", "grovemoe", "llada-moe", "smallthinker", "glm4moe", "lfm2moe"}
"""Architectures that are nothing without experts."""

_TURNED_HEADS = (
    " apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5"
    " ernie4_5-moe exaone falcon granite granite_swa granitemoe graniteswitch grok grovemoe hunyuan-dense hunyuan-moe"
    " hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder mellum minicpm mistral3 olmo"
    " olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3tts qwen3vl"
    " qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 xverse "
)
"""Architectures that assert that the rotation takes a whole head."""

_SAME_HEADS = _TURNED_HEADS + (
    "afmoe bailingmoe2 bert bitnet bloom chatglm cohere2 command-r dflash eagle3 eurobert glm4 glm4moe gpt2 gptneox"
    " granitehybrid jais jina-bert-v2 jina-bert-v3 laguna minimax-01 minimax-m2 minimax-m3 modern-bert mpt muse-glimmer"
    " nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe openelm phi2 phi3 phimoe qwen"
    " qwen35 qwen35moe qwen3next qwen4exp refact spark2_5 stablelm starcoder t5 t5encoder"
    " bailingmoe exaone-moe exaone4 gemma gemma-embedding gemma2 gemma3 gemma3n gpt-oss jamba lfm2 lfm2moe talkie "
)
"""Architectures that assert that keys and values have one length, or that cannot do with two."""


def fault_of(path: str) -> str | None:
    """Return the first fault of a model file, or of the files that it is split into."""
    try:
        with mapped(path) as data:
            header = Header(data, keep=TOKENS)
            if reason := next(_faults(header), None):
                return printable(reason, _LONGEST_REASON)
            count = _split_count(header)
    except DamageError as damage:
        return str(damage)
    except (OSError, ValueError):
        return None  # whoever opens it will say so
    return _fault_of_parts(path, count) if count > 1 else None


def _faults(header: Header) -> Iterator[str]:
    for key in header.fields:
        if "\0" in key:
            yield f"the key {key} has a NUL byte"
    architecture = header.word("general.architecture")
    yield from _kind_faults(header, architecture)
    yield from _size_faults(header, architecture)
    yield from _head_faults(header, architecture)
    yield from _expert_faults(header, architecture)
    yield from _rope_faults(header, architecture)
    yield from _tensor_faults(header)
    if _split_count(header) <= 1:
        yield from _missing_faults(header, architecture)
    yield from vocabulary_faults(header)


def _layered(header: Header, key: str, layers: int, default: int) -> list[int]:
    """Return what is said for each layer, or once for all: as 32 bits without a sign, which llama.cpp makes of it."""
    found = [one & 0xFFFFFFFF for one in header.numbers(key, _WHOLE_KINDS)] or [default]
    return found if len(found) == layers else found[:1] * layers


def _kind_faults(header: Header, architecture: str) -> Iterator[str]:
    """Many builds assert the types of what they take from arrays."""
    for key, kinds in _ARRAYS.items():
        field = header.fields.get(key)
        if field is not None and (field.count is None or field.kind not in kinds):
            yield f"{key} is not an array of the right type"
    wrong = dict.fromkeys(_WHOLE_ARRAYS, frozenset({F32, STRING}))
    wrong["classifier.output_labels"] = frozenset(FORMATS)
    for key, refused in wrong.items():
        field = header.fields.get(f"{architecture}.{key}")
        if field is not None and field.count is not None and field.kind in refused:
            yield f"{architecture}.{key} is an array of the wrong type"


def _size_faults(header: Header, architecture: str) -> Iterator[str]:
    key = f"{architecture}.block_count"
    layers = header.number(key, 1)
    if not 1 <= layers <= _MAX_LAYERS:
        yield f"{key} is {layers}, and must be between 1 and {_MAX_LAYERS}"
    key = f"{architecture}.nextn_predict_layers"
    if header.number(key, 0) > layers:
        yield f"{key} is {header.number(key, 0)}, and there are {layers} layers"
    for key in header.fields:
        if key.endswith("epsilon"):
            for value in header.numbers(key, _FLOAT_KINDS):
                if not value >= 0:
                    yield f"{key} is {value}, and must be 0 or more"


def _head_faults(header: Header, architecture: str) -> Iterator[str]:
    layers, place = header.number(f"{architecture}.block_count", 1), f"{architecture}.attention"
    heads = _layered(header, f"{place}.head_count", layers, 0)
    shared = _layered(header, f"{place}.head_count_kv", layers, 0)
    if f"{place}.head_count_kv" not in header.fields:
        shared = heads
    length = header.number(f"{architecture}.embedding_length", 0) // (heads[0] or 1)
    keys, values = header.number(f"{place}.key_length", length), header.number(f"{place}.value_length", length)
    turned = header.number(f"{architecture}.rope.dimension_count", keys)
    sizes = {"head_count": max(heads), "head_count_kv": max(shared), "key_length": keys, "value_length": values}
    for what, number in sizes.items():
        if number > _MOST_HEADS:  # products of these overflow into numbers that fit the tensors
            yield f"{place}.{what} is {number}, and must be {_MOST_HEADS} or less"
    for layer, (all_, groups) in enumerate(zip(heads, shared, strict=True)):
        if groups and all_ % groups:
            yield f"layer {layer} has {all_} heads, which {groups} heads of keys and values do not divide"
    if architecture in _MIXED and all(shared):
        yield f"{place}.head_count_kv is 0 for none of the layers, and {architecture} has some without attention"
    if heads[0] and keys != values and f" {architecture} " in _SAME_HEADS:
        yield f"{place}: keys have the length {keys}, and values {values}"
    unturned = not turned and architecture not in _UNTURNED and not architecture.startswith("rwkv")
    if heads[0] and keys and (turned > keys or turned % 2 or unturned):
        yield f"{architecture}.rope.dimension_count is {turned}, and keys have the length {keys}"
    if heads[0] and turned != values and f" {architecture} " in _TURNED_HEADS:
        yield f"{architecture}.rope.dimension_count is {turned}, and heads have the length {values}"


def _expert_faults(header: Header, architecture: str) -> Iterator[str]:
    experts = header.number(f"{architecture}.expert_count", 0)
    if experts == 1 and architecture.startswith("hunyuan"):
        return  # llama.cpp takes one for none there
    layers = header.number(f"{architecture}.block_count", 1)
    used = max(_layered(header, f"{architecture}.expert_used_count", layers, 0))
    groups = header.number(f"{architecture}.expert_group_count", 0)
    group_used = header.number(f"{architecture}.expert_group_used_count", 0)
    if experts > _MAX_EXPERTS:
        yield f"{architecture}.expert_count is {experts}, and must be {_MAX_EXPERTS} or less"
    if used > experts or (experts and not used):
        yield f"{architecture}.expert_used_count is {used}, and there are {experts} experts"
    if not experts and architecture in _OF_EXPERTS:
        yield f"{architecture}.expert_count is 0, and must be above 0"
    if groups > max(0, experts - 1) or (groups > 1 and (experts % groups or not 0 < group_used < groups)):
        yield f"{group_used} of {groups} groups of {experts} experts cannot be used"


def _rope_faults(header: Header, architecture: str) -> Iterator[str]:
    key = f"{architecture}.rope.scaling.type"
    if key in header.fields and (word := header.word(key)) not in _SCALINGS:
        yield f"{key} is {word!r}, and must be one of {', '.join(sorted(_SCALINGS))}"
    key = f"{architecture}.rope.dimension_sections"
    sections = header.numbers(key, _WHOLE_KINDS)
    if any(not 0 <= one < 1 << 31 for one in sections):
        yield f"{key} is {sections}, and must be 0 or more"
    if architecture in _SECTIONED and not any(sections[:3]):
        yield f"{key} is {sections}, and one of its first three must be above 0"


# -- tensors -------------------------------------------------------------------------------------------------------

_NEVER = {"Q8_1", "Q8_K", "F64"}
"""Types that ggml has for its own use: a multiplication by one calls a function that is not there."""

_WHOLE = {"I8", "I16", "I32", "I64"}
_WEIGHTS: tuple[str, ...] = ("token_embd", "position_embd", "token_types", "output", "cls", "attn_", "ffn_", "ssm_")
_WEIGHTS += ("time_mix_", "channel_mix_", "shortcon", "nextn", "per_layer", "rope_f", "post_", "layer_out", "exp_probs")
_TABLES = ("ffn_gate_tid2eid",)
"""What no whole numbers may be in, and what they are in."""

_PLAIN_WHOLE = {"ssm_a", "ssm_d"}
_PLAIN_ENDS = ("norm.weight", ".bias", ".scale", ".input_scale")
_PLAIN: tuple[str, ...] = ("rope_f", "attn_sinks", "exp_probs_b", "ssm_conv1d", "shortconv.conv", "layer_output_scale")
_PLAIN += ("time_mix_first", "time_mix_lerp", "time_mix_ln", "channel_mix_lerp")
"""What is added, multiplied or convolved, which ggml does with floats alone."""


def _tensor_faults(header: Header) -> Iterator[str]:
    if header.tensors and header.data_offset % _ALIGNMENT:
        yield f"general.alignment is {header.alignment}, and the tensors do not lie at multiples of {_ALIGNMENT} bytes"
    for name, shape, number, offset, _ in header.tensors:
        kind = TYPES.get(number, ("", 1, 0))[0]
        place = name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 1 else name
        if "\0" in name:
            yield f"the name of the tensor {name} has a NUL byte"
        if 0 in shape:
            yield f"{name} has no elements"
        if offset % _ALIGNMENT:
            yield f"{name} does not lie at a multiple of {_ALIGNMENT} bytes"
        if kind in _NEVER or (kind in _WHOLE and place.startswith(_WEIGHTS) and not place.startswith(_TABLES)):
            yield f"{name} is of type {kind}, which no weights can be of"
        plain = place.endswith(_PLAIN_ENDS) or place.startswith(_PLAIN) or place in _PLAIN_WHOLE or len(shape) == 1
        if plain and kind not in {"F32", "", *_WHOLE}:
            yield f"{name} is of type {kind}, and must be of type F32"


def _missing_faults(header: Header, architecture: str) -> Iterator[str]:
    """What the tensors of all files together must have."""
    types = {name: number for name, _, number, *_ in header.tensors}
    if types.get("token_embd.weight") == _NVFP4 and "output.weight" not in types:
        yield "token_embd.weight is of type NVFP4, and serves as output.weight too"
    experts = header.number(f"{architecture}.expert_count", 0)
    sizes = {shape[-1] for name, shape, *_ in header.tensors if "exps" in name and shape}
    if experts > _USUAL_EXPERTS and experts not in sizes:
        yield f"{architecture}.expert_count is {experts}, and no tensor has so many"


def _split_count(header: Header) -> int:
    values = header.numbers("split.count", frozenset({U16}))
    return int(values[0]) if values else 0


def _fault_of_parts(path: str, count: int) -> str | None:
    """Return the first fault of the other files of a split model, which llama.cpp opens by their names."""
    ending = f"-00001-of-{count:05}.gguf"
    for part in range(2, count + 1) if path.endswith(ending) else ():
        name = f"{path.removesuffix(ending)}-{part:05}-of-{count:05}.gguf"
        if not os.path.isfile(name):
            return f"the file {os.path.basename(name)} is not there"
        try:
            with mapped(name) as data:
                header = Header(data)
                field = header.fields.get("split.no")
                if field is not None and (field.kind, field.count) != (U16, None):
                    return f"split.no of {os.path.basename(name)} is no 16-bit number"
                if reason := next(_tensor_faults(header), None):
                    return f"{os.path.basename(name)}: {printable(reason, _LONGEST_REASON)}"
        except DamageError as damage:
            return f"{os.path.basename(name)}: {damage}"
    return None
