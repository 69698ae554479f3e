"""Would llama.cpp end the process over this vocabulary?

One rule: as in `faults`. Most of it is found out in the middle of a text: llama_tokenize() lets exceptions pass.
"""

from __future__ import annotations

from nativeload_llama.gguf import BOOL, I8, STRING, U8, Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = "tokenizer.ggml.tokens"
_BYTE = 6  # LLAMA_TOKEN_TYPE_BYTE
_UTF8 = (*range(0xC0), *range(0xC2, 0xF5))  # the bytes that a text can have
_BPE = {"gpt2", "hybriddna", "whitespace"}
# tokenizer model -> tokens that every text gets unless add_..._token says otherwise, and what those are by default
_DEFAULTS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "llama": (("bos",), {"bos": 1, "eos": 2}),
    "bert": (("bos", "seperator"), {"bos": 101, "seperator": 102}),
    "t5": (("eos",), {"eos": 1}),
    "gemma4": (("bos",), {}),
    **dict.fromkeys(_BPE, (("bos",), {"bos": 11, "eos": 11})),  # some of them add none
}
_NO_BEGINNING = {"chatglm-bpe", "glm4", "glm5"}


def faults(header: Header) -> Iterator[str]:
    """Yield what is wrong with the vocabulary; the header has kept its tokens."""
    model, count = header.word("tokenizer.ggml.model"), len(header.kept)
    field = header.fields.get(TOKENS)
    if field is None or field.kind != STRING or field.count is None:
        return
    if not count:
        yield f"{TOKENS} is empty"
    words = _as_c_sees_them(header.kept)
    known = set(words)
    if len(known) != count:
        yield f"{count - len(known)} tokens have the text of another one"
    if model == "llama":
        yield from _byte_faults(known)
    elif model == "bert":
        yield from _type_faults(header, count)
    elif model == "rwkv":
        yield from _prefix_faults(words)
    elif model == "t5":
        yield from _charsmap_faults(header)
    if header.word("tokenizer.ggml.pre") == "whitespace" and model in _BPE - {"whitespace"}:
        yield f"tokenizer.ggml.pre is whitespace, and tokenizer.ggml.model is {model}"
    yield from _special_faults(header, model, count)


def _as_c_sees_them(words: list[bytes]) -> list[bytes]:
    """Return the tokens that llama.cpp makes of these: cut at a NUL, and none empty."""
    if b"\0".join(words).count(b"\0") >= max(1, len(words)):
        words = [word.partition(b"\0")[0] for word in words]
    return [word or b"[EMPTY_%d]" % index for index, word in enumerate(words)] if b"" in words else words


def _byte_faults(known: set[bytes]) -> Iterator[str]:
    """A character that is no token is taken apart into bytes, and each of them must be one."""
    for byte in _UTF8:
        if b"<0x%02X>" % byte not in known and bytes((byte,)) not in known:
            yield f"the vocabulary has no token for the byte 0x{byte:02X}"
            return


def _type_faults(header: Header, count: int) -> Iterator[str]:
    field = header.fields.get("tokenizer.ggml.token_type")
    if field is not None and field.kind != STRING and _BYTE in field.values(header.data)[:count]:
        yield "a token is of type byte, and a vocabulary of words has none"


def _prefix_faults(words: list[bytes]) -> Iterator[str]:
    """Where a token's first byte is none itself, the tokenizer never gets past it."""
    plain = [_first_byte(word) for word in words]
    firsts = {first for first, _ in plain}
    single = {first for first, alone in plain if alone}
    for first in sorted(firsts - single):
        yield f"tokens begin with the byte 0x{first:02X}, and it is no token itself"


def _first_byte(word: bytes) -> tuple[int, bool]:
    r"""Return the byte that a token begins with, and whether it is all of it: ``\x41`` and ``\n`` are one byte."""
    if word[:1] != b"\\" or len(word) == 1:
        return word[0], len(word) == 1
    if word[1:2] != b"x":
        return b"\t\n\r"[b"tnr".index(word[1:2])] if word[1:2] in b"tnr" else word[1], len(word) == 2  # noqa: PLR2004
    digits = [(one - 87 if one >= 97 else one - 48) for one in word[2:4]]  # noqa: PLR2004 - as llama.cpp does it
    return sum(one << shift for one, shift in zip(digits, (4, 0), strict=False)) & 0xFF, len(word) <= 4  # noqa: PLR2004


def _charsmap_faults(header: Header) -> Iterator[str]:
    """A place outside of the normalizer's table is an exception in the middle of a text."""
    field = header.fields.get("tokenizer.ggml.precompiled_charsmap")
    if field is None or field.count is None or field.kind not in {U8, I8} or field.count < 4:  # noqa: PLR2004
        return
    raw = header.data[field.place : field.place + field.count]
    length = int.from_bytes(raw[:4], "little")
    size, texts = length // 4, raw[4 + length :]
    if not texts:
        return  # refused with an error
    units = memoryview(raw[4 : 4 + 4 * size]).cast("I")
    for index, unit in enumerate(units):
        if unit >> 31:
            continue  # the place of a text, looked at where a unit leads to it
        base = index ^ (unit >> 10 << ((unit & 512) >> 6))
        if base | 0xFF >= size or (unit >> 8 & 1 and units[base] & 0x7FFFFFFF >= len(texts)):
            yield "tokenizer.ggml.precompiled_charsmap leads out of itself"
            return
    if texts[-1:] != b"\0":
        yield "tokenizer.ggml.precompiled_charsmap has a text without an end"


def _special_faults(header: Header, model: str, count: int) -> Iterator[str]:
    """Tokens that every text gets, whatever they are."""
    adds, defaults = _DEFAULTS.get(model, ((), {}))
    if model in _BPE and header.word("tokenizer.ggml.pre") in _NO_BEGINNING:
        adds, defaults = (), {"eos": 11}
    for name in ("bos", "eos", "seperator"):
        added = name in adds
        if model != "bert" and name != "seperator":
            flags = header.numbers(f"tokenizer.ggml.add_{name}_token", frozenset({BOOL}))
            added = bool(flags[0]) if flags else added
        default = defaults.get(name, -1)
        token = header.number(f"tokenizer.ggml.{name}_token_id", default)
        if added and not 0 <= token < count and not 0 <= default < count:
            yield f"every text gets the token {name}, and there is none"
