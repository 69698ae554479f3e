"""How do messages become a prompt, with the templates that llama.cpp knows by heart?

One rule: llama.cpp reads no Jinja: it recognises some forty templates, and what it does not recognise is refused.
"""

from __future__ import annotations

from nativeload_llama.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nativeload_llama.library import Api

_LARGEST = 1 << 30  # bytes: C counts in 32 bits


def chat_apply_template(api: Api, template: str, messages: Sequence[tuple[str, str]], *, add_assistant: bool) -> str:
    """Write messages as a prompt.

    Args:
        api: the library.
        template: a name of `chat_builtin_templates`, or the Jinja text of a template that llama.cpp recognises.
        messages: (role, content) pairs.
        add_assistant: end with the beginning of an answer.

    Raises:
        TemplateError: the template is not recognised, or a text cannot be passed on.
    """
    raw = [_bytes(text) for role, content in messages for text in (role, content)]
    size = 2 * sum(map(len, raw)) + 256
    if size > _LARGEST:
        raise TemplateError(f"messages of {sum(map(len, raw))} bytes are too long")
    new, call = api.ffi.new, api.function("llama_chat_apply_template")
    texts = [new("char[]", text) for text in raw]
    array = new("struct llama_chat_message[]", list(zip(texts[::2], texts[1::2], strict=True)))
    name = _bytes(template)
    for _ in range(2):
        buffer = new("char[]", size + 1)
        length = call(name, array, len(messages), add_assistant, buffer, size)
        if length < 0:
            break
        if length <= size:
            return bytes(api.ffi.buffer(buffer, length)).decode("utf-8", "replace")
        size = length
    hint = "chat_builtin_templates() lists what it knows; other templates need a Jinja renderer."
    raise TemplateError("llama.cpp does not recognise this chat template", hint=hint)


def _bytes(text: str) -> bytes:
    if "\0" in text:
        raise TemplateError("a message or template has a NUL character, at which C would end it")
    return text.encode("utf-8", "replace")


def chat_builtin_templates(api: Api) -> list[str]:
    """Return the names of the templates that llama.cpp knows."""
    call = api.function("llama_chat_builtin_templates")
    count = call(api.ffi.NULL, 0)
    names = api.ffi.new("const char *[]", max(count, 1))
    call(names, count)
    return [api.ffi.string(names[number]).decode("utf-8", "replace") for number in range(count)]
