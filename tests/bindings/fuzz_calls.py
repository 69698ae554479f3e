"""Calls of everything that `Llama` offers, with whatever hypothesis makes up: each ends in a result or an error of ours.

Run as ``python fuzz_calls.py SEED CALLS``; says how many calls ended how, as JSON. A call that ends Python says nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nativeload.errors import NativeLoadError
from nativeload_llama import Llama, LlamaGrammar, LlamaPromptLookupDecoding, LlamaState, bundled_model

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = (NativeLoadError, ValueError, TypeError, OverflowError)
"""What a wrong argument may end in; ours carry facts, the others are Python's own for what is no number at all."""

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-2, 3),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 70),
    st.sampled_from([None, True, "", "x", 2**31, -(2**31), 2**32 - 1, 2**63]),
)
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\ud800", "<s>", "</s>", "Once upon a time", "日本語 😀", "x " * 900, "\n\n", "{{", "Ø" * 50]
    ),
)
tokens = st.lists(st.one_of(st.integers(0, 639), st.integers(-5, 2**33)), max_size=40)
prompts = st.one_of(words, words, tokens, st.sampled_from([None, 5, b"Once", ["a"], [5] * 511, [5] * 512, [1.5]]))
grammars = st.one_of(
    st.sampled_from(
        [
            'root ::= "yes" | "no"',
            "root ::= root",
            "root ::= (",
            'root ::= ("")*',
            "root ::= [a-z]{1,5}",
            "root ::= x",
            'root ::= "\\u0000"',
            "root ::= " + "(" * 200 + '"a"' + ")" * 200,
            'root ::= "a"{1000000}',
            "",
            5,
        ]
    ),
    st.text('root:=()[]{}|*+?"\\ab-^\n ', max_size=40).map(lambda text: f"root ::= {text}"),
)
schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string", "maxLength": 4},
            {"type": "integer", "minimum": 0, "maximum": 9},
            {"type": "boolean"},
            {"enum": ["a", 1, None]},
            {"type": "nonsense"},
            {"$ref": "#"},
            {"pattern": "("},
            {},
            5,
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner),
        st.builds(
            lambda one, two: {"type": "object", "properties": {"a": one, "b": two}, "required": ["a"]}, inner, inner
        ),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=4,
)
drawing = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            [
                "temperature",
                "top_k",
                "top_p",
                "min_p",
                "typical_p",
                "top_n_sigma",
                "xtc_probability",
                "xtc_threshold",
                "dynatemp_range",
                "dynatemp_exponent",
                "repeat_penalty",
                "frequency_penalty",
                "presence_penalty",
                "penalty_last_n",
                "dry_multiplier",
                "dry_base",
                "dry_allowed_length",
                "dry_penalty_last_n",
                "mirostat_mode",
                "mirostat_tau",
                "mirostat_eta",
                "adaptive_target",
                "adaptive_decay",
                "seed",
            ],
            numbers,
        ),
        "logit_bias": st.one_of(st.dictionaries(st.integers(-2, 700), numbers, max_size=3), words, numbers),
        "dry_sequence_breakers": st.one_of(st.lists(words, max_size=3), numbers),
        "grammar": grammars,
        "logits_processor": st.sampled_from([None, 5, lambda *_: None, lambda *_: [1.0], lambda _, x: [-v for v in x]]),
        "nonsense": numbers,
    },
)
sparse = drawing.map(lambda given: dict(list(given.items())[:4]))
limits = st.one_of(st.integers(0, 4), st.integers(0, 4), numbers.filter(lambda n: n is not None))
stops = st.one_of(st.none(), words, st.lists(words, max_size=3), numbers)
messages = st.one_of(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system", "tool", "x", 5])},
            optional={"content": st.one_of(words, numbers)},
        ),
        max_size=4,
    ),
    words,
)
tools = st.one_of(
    st.none(),
    st.lists(
        st.one_of(
            st.builds(
                lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
                words,
                schemas,
            ),
            st.just(
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
            ),
            words,
        ),
        max_size=2,
    ),
)


def text_options(given_: dict[str, Any], limit: Any, stop: Any) -> dict[str, Any]:
    """Short texts, so that many calls are made: no limit is a small one."""
    options = dict(given_)
    options["max_tokens"] = (
        3 if limit is None or limit is True or (isinstance(limit, int) and (limit > 8 or limit == -1)) else limit
    )
    if stop is not None:
        options["stop"] = stop
    return options


async def read_async(llama: Llama, prompt: Any, options: dict[str, Any]) -> None:
    async for _ in llama.create_completion(prompt, stream=True, **options):
        pass


def calls(llama: Llama) -> st.SearchStrategy[tuple[str, Callable[[], object]]]:
    """Return one call of any verb."""
    options = st.builds(text_options, sparse, limits, stops)
    state = llama.save_state()

    def chat(said: Any, given_tools: Any, choice: Any, form: Any, more: dict[str, Any]) -> object:
        return llama.create_chat_completion(said, tools=given_tools, tool_choice=choice, response_format=form, **more)

    forms = st.one_of(
        st.none(),
        st.sampled_from([{"type": "json_object"}, {"type": "x"}, 5]),
        schemas.map(lambda schema: {"type": "json_object", "schema": schema}),
    )
    choices = st.one_of(
        st.none(), st.sampled_from(["auto", "none", "required", "x", {"type": "function", "function": {"name": "f"}}])
    )

    def verb(name: str, strategy: Any) -> Any:
        return strategy.map(lambda call: (name, call))

    build = st.builds
    return st.one_of(
        verb("generate", build(lambda p, o: lambda: list(llama.generate(p, **{k: v for k, v in o.items() if k != "stop"})), tokens, options)),
        verb("complete", build(lambda p, o: lambda: llama.complete(p, **o), prompts, options)),
        verb(
            "create_completion",
            build(
                lambda p, o, n, e, s: lambda: llama.create_completion(p, s, logprobs=n, echo=e, **o),
                prompts,
                options,
                st.one_of(st.none(), st.integers(-1, 200), numbers),
                st.booleans(),
                st.one_of(st.none(), st.none(), words),
            ),
        ),
        verb("stream", build(lambda p, o: lambda: next(llama.create_completion(p, stream=True, **o), None), prompts, options)),
        verb("async", build(lambda p, o: lambda: asyncio.run(read_async(llama, p, o)), prompts, options)),
        verb("chat", build(lambda m, t, c, f, o: lambda: chat(m, t, c, f, o), messages, tools, choices, forms, options)),
        verb("many", build(lambda p, n, o: lambda: llama.generate_many(p, n_parallel=n, **o), st.lists(prompts, max_size=3), st.one_of(st.none(), st.integers(-1, 4)), options)),
        verb("tokenize", build(lambda t, a, p: lambda: llama.tokenize(t, add_special=a, parse_special=p), prompts, st.booleans(), st.booleans())),
        verb("detokenize", build(lambda t, s: lambda: llama.detokenize(t, special=s), st.one_of(tokens, words), st.booleans())),
        verb("embed", build(lambda p, q: lambda: llama.embed(p, pooling=q), st.one_of(prompts, st.lists(prompts, max_size=3)), st.sampled_from([None, "mean", "last", "cls", "none", "rank", "x", 5]))),
        verb("rerank", build(lambda q, d: lambda: llama.rerank(q, d), words, st.lists(words, max_size=2))),
        verb("lora", build(lambda m: lambda: llama.set_lora(m), st.one_of(st.dictionaries(words, numbers, max_size=2), words))),
        verb("control", build(lambda v, s, y: lambda: llama.set_control_vector(v, scale=s, layers=y), st.one_of(st.none(), words, st.dictionaries(st.integers(-1, 9), st.lists(st.floats(), max_size=130), max_size=2)), numbers, st.one_of(st.none(), st.tuples(numbers, numbers)))),
        verb("state", st.sampled_from([lambda: llama.load_state(state), llama.save_state, llama.reset])),
        verb("damaged state", build(lambda at, bit: lambda: llama.load_state(damaged(state, at, bit)), st.integers(0, 10**6), st.integers(0, 7))),
        verb("grammar", build(lambda g: lambda: LlamaGrammar.from_string(g), grammars)),
        verb("schema", build(lambda s: lambda: LlamaGrammar.from_json_schema(s), schemas)),
        verb("lookup", build(lambda a, b: lambda: LlamaPromptLookupDecoding(a, b), numbers, numbers)),
    )  # fmt: skip


def damaged(state: LlamaState, at: int, bit: int) -> LlamaState:
    """Return a state of which one bit is another, as if it had been read from a bad disk."""
    import pickle

    raw = bytearray(pickle.dumps(state))
    raw[at % len(raw)] ^= 1 << bit
    try:
        found = pickle.loads(bytes(raw))  # noqa: S301 - our own bytes
    except NativeLoadError:
        raise
    except Exception as error:  # pickle's own complaint, of any kind
        raise ValueError("no pickle") from error
    if not isinstance(found, LlamaState):
        raise TypeError("no state")
    return found


def main() -> None:
    number, count = int(sys.argv[1]), int(sys.argv[2])
    ended: Counter[str] = Counter()
    made: Counter[str] = Counter()
    strange: dict[str, None] = {}
    with Llama(bundled_model(), n_threads=1) as llama:

        @seed(number)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def one(data: st.DataObject) -> None:
            name, call = data.draw(calls_of)
            made[name] += 1
            try:
                call()
            except ALLOWED as error:
                ended[type(error).__name__] += 1
            except Exception as error:  # what is not ours is told at the end, with where it came from
                last = traceback.extract_tb(error.__traceback__)[-1]
                strange.setdefault(f"{name}: {error!r} in {last.name} of {last.filename}:{last.lineno}", None)
            else:
                ended["result"] += 1

        calls_of = calls(llama)
        one()
        llama.set_lora({})
        llama.set_control_vector(None)
        llama.reset()
        after = llama.complete("The cat", temperature=0, max_tokens=12)
    if strange:
        sys.exit("\n".join(strange))
    print(json.dumps({"calls": sum(made.values()), "verbs": made, "ended": ended, "after": after}))


if __name__ == "__main__":
    main()
