"""How are models spoken to whose format is known by a name, as llama-cpp-python's chat_format has it?

One rule: a format is the few texts around its turns; what a turn looks like is written once, in Jinja, as models bring
it.
"""

from __future__ import annotations

import json

_TURNS = r"""
{%- set waiting = namespace(text='') %}
{{- begin|replace('{bos}', bos_token) }}
{%- for message in messages %}
    {%- if message.role == 'system' and 'system' not in turns %}
        {%- set waiting.text = waiting.text ~ folded[0] ~ message.content ~ folded[1] %}
    {%- elif message.role in turns %}
        {%- set turn = turns[message.role] %}
        {{- turn[0]|replace('{bos}', bos_token) ~ waiting.text ~ message.content }}
        {{- turn[1]|replace('{eos}', eos_token) }}
        {%- set waiting.text = '' %}
    {%- else %}
        {{- raise_exception('there is no role ' ~ message.role ~ ' in this format') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ prompt }}{% endif %}"""


def _turns(
    *,
    user: tuple[str, str],
    assistant: tuple[str, str],
    system: tuple[str, str] | None = None,
    folded: tuple[str, str] = ("", "\n\n"),
    begin: str = "",
    prompt: str = "",
) -> str:
    """Return a template of turns, each with a text before and after its content.

    Args:
        user: a turn; ``{bos}`` before it and ``{eos}`` after it stand for the model's tokens.
        assistant: a turn.
        system: a turn, or None where the system has none.
        folded: around the system's words inside the next user's turn, where it has none of its own.
        begin: before everything.
        prompt: where the assistant's answer begins.
    """
    turns = {"user": user, "assistant": assistant} | ({"system": system} if system else {})
    values = {"turns": turns, "folded": folded, "begin": begin, "prompt": prompt}
    return "".join(f"{{%- set {name} = {json.dumps(value)} %}}" for name, value in values.items()) + _TURNS


def _headed(form: str, end: str, *, begin: str = "") -> tuple[str, ...]:
    """Return a format whose turns have the role's name in a header and one text at the end."""
    system, user, assistant = ((form.format(role), end) for role in ("system", "user", "assistant"))
    source = _turns(system=system, user=user, assistant=assistant, begin=begin, prompt=assistant[0])
    return source, end.strip()


# In the manner of llama-cpp-python's chatml-function-calling: calls are text, with the function's name as a heading.
_FUNCTION_CALLING = r"""
{%- if tools and messages[0].role != 'system' %}
    {%- set messages = [{'role': 'system', 'content': 'You are a helpful assistant.'}] + messages %}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content }}
    {%- if loop.first and tools %}
        {{- '\n\nYou can call these functions; the parameters of each are a JSON schema:\n' }}
        {%- for tool in tools %}
            {{- '\nfunctions.' ~ tool.function.name ~ ': ' ~ tool.function.description ~ '\n' }}
            {{- tool.function.parameters|tojson ~ '\n' }}
        {%- endfor %}
        {{- '\nEither answer in plain words, or write nothing but calls, each in this way:\n' }}
        {{- 'functions.NAME:\n{"ARGUMENT": "VALUE"}' }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- 'functions.' ~ call.function.name ~ ':\n' ~ call.function.arguments|tojson ~ '\n' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

FORMATS: dict[str, tuple[str, ...]] = {
    "alpaca": (
        _turns(
            system=("", "\n\n"),
            user=("### Instruction:\n", "\n\n"),
            assistant=("### Response:\n", "{eos}\n\n"),
            prompt="### Response:\n",
        ),
        "### Instruction:",
    ),
    "chatml": _headed("<|im_start|>{}\n", "<|im_end|>\n"),
    "chatml-function-calling": (_FUNCTION_CALLING, "<|im_end|>"),
    "gemma": (
        _turns(
            begin="{bos}",
            user=("<start_of_turn>user\n", "<end_of_turn>\n"),
            assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
            prompt="<start_of_turn>model\n",
        ),
        "<end_of_turn>",
    ),
    "llama-2": (
        _turns(
            user=("{bos}[INST] ", " [/INST]"),
            assistant=(" ", " {eos}"),
            folded=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        ),
    ),
    "llama-3": _headed("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", begin="{bos}"),
    "mistral-instruct": (_turns(begin="{bos}", user=("[INST] ", " [/INST]"), assistant=(" ", "{eos}")),),
    "openchat": (
        _turns(
            begin="{bos}",
            system=("", "<|end_of_turn|>"),
            user=("GPT4 Correct User: ", "<|end_of_turn|>"),
            assistant=("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
            prompt="GPT4 Correct Assistant:",
        ),
        "<|end_of_turn|>",
    ),
    "phi-3": _headed("<|{}|>\n", "<|end|>\n"),
    "qwen": (*_headed("<|im_start|>{}\n", "<|im_end|>\n"), "<|endoftext|>"),
    "vicuna": (
        _turns(system=("", " "), user=("USER: ", " "), assistant=("ASSISTANT: ", "{eos}"), prompt="ASSISTANT:"),
        "USER:",
    ),
    "zephyr": (_headed("<|{}|>\n", "{eos}\n")[0], "<|user|>"),
}

__all__ = ["FORMATS"]
