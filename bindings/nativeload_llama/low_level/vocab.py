"""How do text and tokens become each other, and what is each token?

One rule: a token that is not in the vocabulary never reaches C, which would abort.
"""

from __future__ import annotations

from nativeload_llama.errors import ModelError
from nativeload_llama.low_level.tokenizing import SHALLOW, deeply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nativeload_llama.low_level.handles import Model

_MAX_INT32 = 2**31 - 1
_WPM = 3  # LLAMA_VOCAB_TYPE_WPM: adds its tokens without being asked
_PIECE = 64  # bytes: longer pieces are rare


def _check_vocab(model: Model) -> None:
    if not model.n_vocab:
        raise ModelError(model.path, "the model has no vocabulary: it takes and gives token ids alone")


def check_tokens(model: Model, tokens: Sequence[int]) -> None:
    """Refuse tokens that are not in the vocabulary.

    Raises:
        ModelError: naming the first one, or the model has no vocabulary.
    """
    n_vocab = model.n_vocab
    if not n_vocab:
        _check_vocab(model)
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise ModelError(model.path, f"token {token} is not between 0 and {n_vocab - 1}")


# -- text and tokens -----------------------------------------------------------------------------------------------


def tokenize(model: Model, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """Turn text into token ids.

    Args:
        model: a loaded model.
        text: any text; surrogates become ``?``.
        add_special: add the beginning-of-sequence token where the model wants one.
        parse_special: read markers such as ``<|eot|>`` as tokens; wrong for text from outside.

    Raises:
        ModelError: the model has no vocabulary, or lacks a token that it wants added; or the text or one of its lines
            is too long.
    """
    _check_vocab(model)
    raw = text.encode("utf-8", "replace")
    if len(raw) > _MAX_INT32 // 2:
        raise ModelError(model.path, f"a text of {len(raw)} bytes is too long to tokenize at once")
    if add_special:
        _check_added(model)
    if model.recurses and len(text) > SHALLOW:
        found: list[int] = deeply(model, text, lambda: _tokenized(model, raw, add_special, parse_special))
        return found
    return _tokenized(model, raw, add_special, parse_special)


def _tokenized(model: Model, raw: bytes, add_special: bool, parse_special: bool) -> list[int]:
    call, ffi = model.api.function("llama_tokenize"), model.api.ffi
    size = len(raw) + 8
    for _ in range(2):
        buffer = ffi.new("llama_token[]", size)
        count = call(model.vocab, raw, len(raw), buffer, size, add_special, parse_special)
        if count >= 0:
            return list(ffi.unpack(buffer, count)) if count else []
        size = -count
    raise ModelError(model.path, "the text cannot be tokenized")


def _check_added(model: Model) -> None:
    """Refuse a model that wants a token added which it does not have: C would abort."""
    always = vocab_type(model) == _WPM
    for name, wanted, token in (
        ("beginning", always or vocab_get_add_bos(model), vocab_bos),
        ("end", not always and vocab_get_add_eos(model), vocab_eos),
        ("separator", always, vocab_sep),
    ):
        if wanted and not 0 <= token(model) < model.n_vocab:
            reason = f"it wants a token added at the {name} of a sequence, and has none"
            raise ModelError(model.path, reason, hint="Tokenize with add_special=False.")


def detokenize(model: Model, tokens: Sequence[int], *, remove_special: bool, unparse_special: bool) -> bytes:
    """Turn token ids into bytes of text.

    Args:
        model: a loaded model.
        tokens: ids, each below the vocabulary's size.
        remove_special: leave out the beginning- and end-of-sequence tokens where the model adds them.
        unparse_special: write special tokens as their markers.

    Raises:
        ModelError: no vocabulary, or no such token.
    """
    check_tokens(model, tokens)
    call, ffi = model.api.function("llama_detokenize"), model.api.ffi
    given = ffi.new("llama_token[]", list(tokens))
    size = 16 * len(tokens) + 64
    for _ in range(2):
        buffer = ffi.new("char[]", size)
        count = call(model.vocab, given, len(tokens), buffer, size, remove_special, unparse_special)
        if count >= 0:
            return bytes(ffi.buffer(buffer, count))
        size = -count
    raise ModelError(model.path, "these tokens have no text")


def token_to_piece(model: Model, token: int, *, special: bool = False) -> bytes:
    """Return a token's bytes; a piece may hold part of a UTF-8 character.

    Raises:
        ModelError: no vocabulary, or no such token (C would abort).
    """
    if not 0 <= token < model.n_vocab:
        check_tokens(model, (token,))
    call, ffi = model.api.function("llama_token_to_piece"), model.api.ffi
    size = _PIECE
    for _ in range(2):
        buffer = ffi.new("char[]", size)
        count = call(model.vocab, token, buffer, size, 0, special)
        if count >= 0:
            return bytes(ffi.unpack(buffer, count)) if count else b""
        size = -count
    raise ModelError(model.path, f"token {token} has no text")


# -- one token -----------------------------------------------------------------------------------------------------


def vocab_is_eog(model: Model, token: int) -> bool:
    """Whether a token ends the generation.

    Raises:
        ModelError: no such token.
    """
    if not 0 <= token < model.n_vocab:
        check_tokens(model, (token,))
    return bool(model.api.function("llama_vocab_is_eog")(model.vocab, token))


def vocab_is_control(model: Model, token: int) -> bool:
    """Whether a token is a marker, and no text.

    Raises:
        ModelError: no such token.
    """
    return bool(_of_token(model, "llama_vocab_is_control", token))


def vocab_get_text(model: Model, token: int) -> str:
    """Return a token's text as the file has it, such as ``\u2581the`` or ``<0x0A>``; its bytes are `token_to_piece`.

    Raises:
        ModelError: no such token.
    """
    return str(model.api.ffi.string(_of_token(model, "llama_vocab_get_text", token)).decode("utf-8", "replace"))


def vocab_get_score(model: Model, token: int) -> float:
    """Return a token's score, as the file has it.

    Raises:
        ModelError: no such token.
    """
    return float(_of_token(model, "llama_vocab_get_score", token))


def vocab_get_attr(model: Model, token: int) -> int:
    """Return a token's attributes, bits of llama_token_attr.

    Raises:
        ModelError: no such token.
    """
    return int(_of_token(model, "llama_vocab_get_attr", token))


def _of_token(model: Model, name: str, token: int) -> Any:
    check_tokens(model, (token,))
    return model.api.function(name)(model.vocab, token)


# -- the vocabulary ------------------------------------------------------------------------------------------------


def vocab_type(model: Model) -> int:
    """Return the kind of tokenizer, a member of llama_vocab_type; 0 is none."""
    return int(model.api.function("llama_vocab_type")(model.vocab))


def vocab_get_add_bos(model: Model) -> bool:
    """Whether the model wants a beginning-of-sequence token before a text."""
    return bool(model.n_vocab and model.api.function("llama_vocab_get_add_bos")(model.vocab))


def vocab_get_add_eos(model: Model) -> bool:
    """Whether the model wants an end-of-sequence token behind a text."""
    return bool(model.n_vocab and model.api.function("llama_vocab_get_add_eos")(model.vocab))


def vocab_get_add_sep(model: Model) -> bool:
    """Whether the model wants a separator token behind a text."""
    return bool(model.n_vocab and model.api.function("llama_vocab_get_add_sep")(model.vocab))


def bos(model: Model) -> int:
    """Return the beginning-of-sequence token that the model adds, or -1 where it adds none."""
    return vocab_bos(model) if vocab_get_add_bos(model) else -1


def _special(model: Model, name: str) -> int:
    return int(model.api.function(f"llama_vocab_{name}")(model.vocab)) if model.n_vocab else -1


def vocab_bos(model: Model) -> int:
    """Return the beginning-of-sequence token; -1 where there is none."""
    return _special(model, "bos")


def vocab_eos(model: Model) -> int:
    """Return the end-of-sequence token; -1 where there is none."""
    return _special(model, "eos")


def vocab_eot(model: Model) -> int:
    """Return the end-of-turn token; -1 where there is none."""
    return _special(model, "eot")


def vocab_sep(model: Model) -> int:
    """Return the separator token; -1 where there is none."""
    return _special(model, "sep")


def vocab_nl(model: Model) -> int:
    """Return the newline token; -1 where there is none."""
    return _special(model, "nl")


def vocab_pad(model: Model) -> int:
    """Return the padding token; -1 where there is none."""
    return _special(model, "pad")


def vocab_mask(model: Model) -> int:
    """Return the mask token; -1 where there is none."""
    return _special(model, "mask")


def vocab_cls(model: Model) -> int:
    """Return the token for the class of a text, which is the beginning one; -1 where there is none."""
    return _special(model, "bos")


def vocab_fim_pre(model: Model) -> int:
    """Return the fill-in-the-middle prefix token; -1 where there is none."""
    return _special(model, "fim_pre")


def vocab_fim_suf(model: Model) -> int:
    """Return the fill-in-the-middle suffix token; -1 where there is none."""
    return _special(model, "fim_suf")


def vocab_fim_mid(model: Model) -> int:
    """Return the fill-in-the-middle middle token; -1 where there is none."""
    return _special(model, "fim_mid")


def vocab_fim_pad(model: Model) -> int:
    """Return the fill-in-the-middle padding token; -1 where there is none."""
    return _special(model, "fim_pad")


def vocab_fim_rep(model: Model) -> int:
    """Return the fill-in-the-middle repository token; -1 where there is none."""
    return _special(model, "fim_rep")


def vocab_fim_sep(model: Model) -> int:
    """Return the fill-in-the-middle file separator token; -1 where there is none."""
    return _special(model, "fim_sep")
