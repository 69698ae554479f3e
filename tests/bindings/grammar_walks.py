"""Random walks with real grammars: llama.cpp is asked what may follow, told one of it, and so on. Run in a child.

Reads {"library": path or null, "grammars": [text, ...], "steps": n, "seed": n}; prints for each grammar the text (hex)
and why it ended: "end", "steps", "nothing" (no token is allowed), or "refused" (llama.cpp took no such grammar). Before
each grammar its number goes to stderr.
"""

from __future__ import annotations

import json
import math
import random
import sys
from typing import TYPE_CHECKING

from nativeload import NativeLibraryConfig
from nativeload_llama import bundled_model, low_level
from nativeload_llama.library import open_library

if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.low_level.handles import Model


class Walk:
    """The raw C functions and one array of candidates."""

    def __init__(self, model: Model) -> None:
        self.model, self.call = model, model.api.function
        self.data = model.api.ffi.new("llama_token_data[]", model.n_vocab)
        self.array = model.api.ffi.new("llama_token_data_array *")
        self.ends = {token for token in range(model.n_vocab) if low_level.vocab_is_eog(model, token)}
        self.pieces = [low_level.token_to_piece(model, token) for token in range(model.n_vocab)]

    def allowed(self, grammar: Any) -> list[int]:
        for token in range(self.model.n_vocab):
            self.data[token].id, self.data[token].logit, self.data[token].p = token, 0.0, 0.0
        array = self.array
        array.data, array.size, array.selected, array.sorted = self.data, self.model.n_vocab, -1, False
        self.call("llama_sampler_apply")(grammar, array)
        return [array.data[place].id for place in range(array.size) if array.data[place].logit > -math.inf]

    def walk(self, text: str, rng: random.Random, steps: int) -> tuple[str, str]:
        grammar = self.call("llama_sampler_init_grammar")(self.model.vocab, text.encode(), b"root")
        if grammar == self.model.api.ffi.NULL:
            return "", "refused"
        written, why = b"", "steps"
        for _ in range(steps):
            tokens = [token for token in self.allowed(grammar) if token in self.ends or self.pieces[token].isascii()]
            if not tokens:
                why = "nothing"
                break
            token = rng.choice(tokens)
            self.call("llama_sampler_accept")(grammar, token)
            if token in self.ends:
                why = "end"
                break
            written += self.pieces[token]
        self.call("llama_sampler_free")(grammar)
        return written.hex(), why


def main() -> None:
    asked = json.load(sys.stdin)
    config = NativeLibraryConfig()
    api = open_library(config.with_library(asked["library"]) if asked["library"] else config)
    model = low_level.model_load_from_file(api, bundled_model(), vocab_only=True)
    walk, rng, said = Walk(model), random.Random(asked["seed"]), []
    for number, text in enumerate(asked["grammars"]):
        sys.stderr.write(f"{number}\n")
        sys.stderr.flush()
        said.append(walk.walk(text, rng, asked["steps"]))
    low_level.model_free(model)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
