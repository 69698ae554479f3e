"""What reaches llama.cpp of a grammar, and that it lives through whatever does."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import sys
import time
from pathlib import Path

import pytest

from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar import JSON_GBNF, LlamaGrammar, check_gbnf, gbnf, gbnf_cost, gbnf_walk
from tests.bindings.gbnf_texts import Texts, mutated, random_grammar, seeded
from tests.bindings.test_every_build import BUILDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

WALKS = (Path(__file__).parent / "grammar_walks.py").read_text()

ARITHMETIC = r"""
# sums, with a comment
root  ::= (sum "=" ws term "\n")+
sum   ::= term ([-+*/] term)*
term  ::= name | number | "(" ws sum ")" ws
name  ::= [a-z] [a-z0-9_]* ws
number ::= [0-9]+ ws
ws ::= [ \t\n]*
"""
LIST = 'root ::= item+\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"\n'
MOVES = r"""
root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | piece | castle) [+#]?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""
NESTED = r"""
root ::= value
value ::= object | "[" ws (value ("," ws value)*)? "]" ws | string | [0-9]+ ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def reason(text: str, root: str = "root") -> str:
    with pytest.raises(GrammarError) as caught:
        check_gbnf(text, root)
    return str(caught.value)


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "allowed", "others"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "ye", "yesno"]),
        ('root ::= "a"? "b"* "c"+', ["c", "abbc", "acc"], ["", "ab", "ca"]),
        ('root ::= "ab"{2}', ["abab"], ["ab", "ababab"]),
        ('root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
        ('root ::= "a"{1,3}', ["a", "aaa"], ["", "aaaa"]),
        ('root ::= "a"{0,2} "b"', ["b", "aab"], ["aaab"]),
        ('root ::= "a"{ 1 , 2 }', ["a", "aa"], ["aaa"]),
        ('root ::= "a"{0} "b"', ["b"], ["ab"]),
        ("root ::= [a-c0]", ["a", "c", "0"], ["d", "-"]),
        ("root ::= [-a] [a-]", ["--", "aa"], ["ab"]),
        ("root ::= [^a-c]", ["d", "é", "\n"], ["a", "b"]),
        (r"root ::= [\]\[\\\n]", ["]", "[", "\\", "\n"], ["n"]),
        ('root ::= ["(*]', ['"', "(", "*"], ["["]),
        ("root ::= . .", ["ab", "😀\n"], ["a"]),
        (r'root ::= "\x41\u00e9\U0001F600\"\\\t\r\n"', ['Aé😀"\\\t\r\n'], ["A"]),
        ('root ::= ("a" | "b" "c")+ # comment', ["a", "bca"], ["b", "c"]),
        ('root ::= (\n "a" |\n "b"\n)', ["a", "b"], ["ab"]),
        ('root ::=\n\n "a" |\n  "b"\n', ["a", "b"], ["ab"]),
        ('root ::= x-1 B\r\nx-1 ::= "x"\r\nB ::= "b"\r\n', ["xb"], ["x"]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["("]),
        ("root ::= ", [""], ["a"]),
        ('root ::= | "a"', ["", "a"], ["aa"]),
        ('# nothing\n\n  root ::= "a" ("b") # end', ["ab"], ["a"]),
    ],
)
def test_what_a_grammar_allows(text: str, allowed: list[str], others: list[str]) -> None:
    """Every construct of GBNF is read as llama.cpp reads it."""
    check_gbnf(text)
    texts = Texts(text)
    assert [one for one in allowed if not texts.allows(one)] == []
    assert [one for one in others if texts.allows(one)] == []
    assert texts.allows(texts.draw(seeded(1)))


@pytest.mark.parametrize("text", [ARITHMETIC, LIST, MOVES, NESTED, JSON_GBNF])
def test_grammars_of_everyday_are_accepted(text: str) -> None:
    """Arithmetic, lists, chess moves, JSON: what people write is not refused, and is judged quickly."""
    begun = time.perf_counter()
    gbnf_cost.check(gbnf.read(text, "root"))
    assert time.perf_counter() - begun < 2


def test_json_gbnf_makes_json() -> None:
    """JSON_GBNF allows JSON of every kind and nothing else."""
    texts, rng = Texts(JSON_GBNF), seeded(2)
    kinds = {type(json.loads(texts.draw(rng))) for _ in range(300)}
    assert kinds == {dict, list, str, int, float, bool, type(None)}
    for text in ('{"a": [1, -2.5e3, "\\u00e9\\n"], "b": {}}', "[]", '{\n  "a":\n[ ]\n}', '"\\ud83d\\ude00"'):
        assert texts.allows(text), text
    for text in ('{"a": 1,}', "[1 2]", "01", "+1", '"\\ud800"', '"\n"', "{  }", "True", "NaN", ""):
        assert not texts.allows(text), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("# only a comment", "no rule root"),
        ('x ::= "a"', "no rule root"),
        ('root ::= "a" x', "line 1: the rule x is used and not defined"),
        ('root ::= y\ny ::= "a"\n\nroot ::= "b"', "line 4: the rule root is defined twice"),
        ('root "a"', "line 1: '\"a\"' stands where ::= should be"),
        ("root := x", "where ::= should be"),
        ("root ::", "where ::= should be"),
        ("root", "ends where ::= should be"),
        ('::= "a"', "where the name of a rule should be"),
        ('ro_ot ::= "a"', "where ::= should be"),
        ('root ::= "a', "ends where the end of a literal should be"),
        ("root ::= [a", "ends where the end of a character class should be"),
        ("root ::= [a-", "ends where the end of a character range should be"),
        ('root ::= ("a"', "ends where ) should be"),
        ('root ::= "a")', "where the end of the rule should be"),
        ("root ::= a ::= b", "where the end of the rule should be"),
        ("root ::= *", "nothing stands before a repetition"),
        ('root ::= "a" | +', "nothing stands before a repetition"),
        ('root ::= ""?', "nothing stands before a repetition"),
        ('root ::= "a"{0}*', "nothing stands before a repetition"),
        ('root ::= "a"{,3}', "not of the form"),
        ('root ::= "a"{x}', "not of the form"),
        ('root ::= "a"{1', "not of the form"),
        ('root ::= "a"{1 2}', "not of the form"),
        ('root ::= "a"{1\n}', "not of the form"),
        ('root ::= "a"{3,2}', "at least 3 and at most 2"),
        (r'root ::= "\q"', r"no escape of GBNF: \q"),
        (r'root ::= "\x4"', "no escape of GBNF"),
        (r"root ::= [\u12]", "no escape of GBNF"),
        (r"root ::= [a\-z]", r"no escape of GBNF: \-"),
        (r'root ::= "\U00110000"', "no character"),
        (r'root ::= "\UFFFFFFFF"', "no character"),
        (r'root ::= "\x00"', "no text can have"),
        (r'root ::= "\uD800"', "no text can have"),
        (r"root ::= [\x00]", "no text can have"),
        (r"root ::= [^\x00-\U0010FFFF]", "no text can have"),
        ("root ::= []", "an empty character class"),
        ("root ::= [^]", "an empty character class"),
        ("root ::= [z-a]", "runs backwards"),
        ('root ::= "a\0"', "line 1: a NUL"),
        ('root ::= "a"\n# \ud800', "line 2: half a surrogate pair"),
        ("root ::= <[1]>", "token literal"),
        ('root ::= "a" !<s>', "token literal"),
        ("root ::= root", "left recursion"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= x\nx ::= y "a"\ny ::= root | "b"', "left recursion"),
        ('root ::= x root | "d"\nx ::= y\ny ::= "b"?', "left recursion"),
        ('root ::= x "c"\nx ::= "" x "d" | "e"', "line 2"),
        ('root ::= ("a"?)*', "repeats what can be empty"),
        ('root ::= ("a"*)+', "repeats what can be empty"),
        ('root ::= ("" | "a"){2,} "b"', "repeats what can be empty"),
        ("root ::= x*\nx ::= y*\ny ::= z*\nz ::= [a]*", "repeats what can be empty"),
        ('root ::= "b"\nunused ::= unused', "left recursion"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    """What some build cannot read, or dies of, is refused with its line."""
    assert words in reason(text)


def test_other_roots() -> None:
    """The rule to begin with has a name that was written, not one that llama.cpp makes up."""
    check_gbnf('start ::= ("a" | "b")', "start")
    assert "no rule root" in reason('start ::= "a"')
    assert "no rule start_1" in reason('start ::= ("a" | "b")', "start_1")
    with pytest.raises(TypeError):
        check_gbnf(b"root ::= x")  # type: ignore[arg-type]


# -- limits ----------------------------------------------------------------------------------------------------------


def choice(count: int) -> str:
    """So many characters to choose from, each an alternative."""
    return "root ::= " + " | ".join(f'"{chr(0x4E00 + number)}"' for number in range(count))


@pytest.mark.parametrize(
    ("largest", "too_large"),
    [
        (f'root ::= {"(" * 64}"a"{")" * 64}', f'root ::= {"(" * 65}"a"{")" * 65}'),
        ('root ::= "a"{1999}', 'root ::= "a"{2000}'),
        ('root ::= "a"{0,1999}', 'root ::= "a"{0,2000}'),
        ('root ::= "a"{1999,}', 'root ::= "a"{2000,}'),
        ('root ::= "a"{40}{49}', 'root ::= "a"{40}{50}'),
        ('root ::= ("b" "a"{1,30}){0,60}', 'root ::= ("b" "a"{1,99}){0,60}'),
        (f'{"r" * 128} ::= "a"\nroot ::= {"r" * 128}', f'{"r" * 129} ::= "a"\nroot ::= {"r" * 129}'),
        (choice(1024), choice(1025)),
    ],
    ids=["parentheses", "times", "optional", "open", "twice", "nested", "names", "ways"],
)
def test_the_limits(largest: str, too_large: str) -> None:
    """The largest of each kind is accepted, one more is not."""
    check_gbnf(largest)
    assert reason(too_large)


def chain(length: int) -> str:
    """Rules that begin with each other."""
    links = "\n".join(f"r{number} ::= r{number + 1}" for number in range(length))
    return f'root ::= r0\n{links}\nr{length} ::= "a"'


def test_deep_chains_are_refused() -> None:
    """llama.cpp recurses along rules that begin with rules."""
    check_gbnf(chain(500))
    assert "chain of more than 512" in reason(chain(600))


def test_sizes_are_refused() -> None:
    """Neither a long text nor what repetitions make of a short one is taken."""
    check_gbnf("root ::= " + " ".join(['"a"{1999}'] * 50))
    assert "more than 100000 elements" in reason("root ::= " + " ".join(['"a"{1999}'] * 51))
    assert "more than 100000 elements" in reason(f'root ::= "{"a" * 1000}"{{1999}}')
    assert "more than 100000 elements" in reason("root ::= " + " ".join(["x{0,1999}"] * 26) + '\nx ::= "a"')
    assert "1000001 characters" in reason("root ::= #" + "a" * (1_000_001 - 10))
    assert "repetition of 2000" in reason('root ::= "a"{99999999999999999999}')


@pytest.mark.parametrize(
    "text",
    [
        'root ::= ("a" | "a")* "b"',
        'root ::= (" " | "  ")* "b"',
        'root ::= ([a-z]+ | [a-z0-9]+)* "."',
        'root ::= term "+" root | term\nterm ::= "(" root ")" | [0-9]+',
        'root ::= "a" root "b"? | "c"',
        'root ::= x\nx ::= "{k: " x ", r: " x "}" | "{k: " x "}" | "1"',
        f'root ::= x\nx ::= "{"k" * 60}: " x ", r: " x "}}" | "{"k" * 60}: " x "}}" | "1"',
        f"root ::= {' '.join(['[ ]*'] * 6)}",
        "root ::= r0\n" + "\n".join(f'r{n} ::= r{n + 1} "x" | r{n + 1} "y"' for n in range(12)) + '\nr12 ::= "a"',
        "root ::= r0\n" + "\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(30)) + '\nr30 ::= "a"',
        'root ::= ("" | "a" | "" "b"?){30}',
        'root ::= | y y [b] (" " root{300} [-])?\ny ::= [a-c]',
        'root ::= "a" [0-9]?{1500} "b"',
        MOVES.replace("[0-9]?", "[0-9]?{500}"),
        NESTED.replace('"}" ws', '"}" " "?{400}'),
        'root ::= r1? "c(" r1{1000} | "b"\nr1 ::= ([0-9] | "c"?) "("*',
    ],
)
def test_ambiguous_grammars_are_refused_soon(text: str) -> None:
    """Where stacks, or ways through one token, multiply, the grammar is refused within seconds."""
    begun = time.perf_counter()
    assert "ways" in reason(text)
    assert time.perf_counter() - begun < 5


def test_judging_has_an_end() -> None:
    """No grammar within the limits keeps the check busy for long."""
    rng, slowest = seeded(5), 0.0
    for _ in range(300):
        text = random_grammar(rng)
        begun = time.perf_counter()
        with contextlib.suppress(GrammarError):
            check_gbnf(text)
        slowest = max(slowest, time.perf_counter() - begun)
    assert slowest < 5


def test_the_walk_is_llama_cpps() -> None:
    """Stacks are counted as llama.cpp would have them: one for each way on, each once."""
    rules = gbnf.read('root ::= x "d"\nx ::= "a" | "b" y\ny ::= "c"? "e"*', "root")
    walk = gbnf_walk.Walk(rules, gbnf_cost._nullable(rules))
    first = walk._followed([(walk.starts[0][0], -1)], "")
    assert len(first) == 2
    after = {
        char: walk._followed([(place + 1, below) for place, below in tops], "") for char, tops in walk._groups(first)
    }
    assert {chr(char): len(stacks) for char, stacks in after.items()} == {"a": 1, "b": 3}


# -- the real library ------------------------------------------------------------------------------------------------


def accepted(seed: int, count: int) -> list[str]:
    """Grammars that were accepted, of so many random and mutated ones."""
    rng, found = seeded(seed), []
    for _ in range(count):
        made = rng.random()
        text = random_grammar(rng) if made < 0.6 else mutated(rng, rng.choice((ARITHMETIC, LIST, MOVES, NESTED)))
        try:
            check_gbnf(text)
        except GrammarError:
            continue
        found.append(text)
    return found


def walked(
    run_python: RunPython, grammars: list[str], *, library: str | None = None, steps: int = 12
) -> list[list[str]]:
    """Load each grammar in llama.cpp, in a process of its own, and walk with it."""
    asked = {"library": library, "grammars": grammars, "steps": steps, "seed": 1}
    done = run_python(WALKS, stdin=json.dumps(asked))
    last = done.stderr.split()[-1:] or ["none"]
    assert done.returncode == 0, f"{done.stderr[-500:]}\n{grammars[int(last[0])] if last[0].isdecimal() else ''}"
    said: list[list[str]] = json.loads(done.stdout)
    return said


def test_the_installed_library_lives_through_all_that_is_accepted(run_python: RunPython) -> None:
    """Of thousands of random and mutated grammars, those accepted load and can be walked."""
    grammars = accepted(1, 1200)
    assert len(grammars) > 200
    said = walked(run_python, grammars)
    assert [grammars[number] for number, (_, why) in enumerate(said) if why == "refused"] == []
    assert sum(why == "end" for _, why in said) > 100
    for text, (written, why) in zip(grammars, said, strict=True):
        assert why != "end" or Texts(text).allows(bytes.fromhex(written).decode()), text


@pytest.mark.real_bundle
@pytest.mark.parametrize("library", BUILDS, ids=[name.partition("/")[0] for name in BUILDS])
@pytest.mark.skipif(sys.platform != "linux", reason="the real builds are for Linux")
def test_every_build_lives_through_all_that_is_accepted(run_python: RunPython, binaries: Path, library: str) -> None:
    """The same with each real build, with grammars of its own."""
    grammars = accepted(list(BUILDS).index(library) + 2, 400)
    said = walked(run_python, [*grammars, ARITHMETIC, LIST, MOVES, NESTED, JSON_GBNF], library=str(binaries / library))
    assert [why for _, why in said if why == "refused"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [('root ::= "a" !<[1]> "b"', "token literal"), (f'root ::= {"(" * 100_000}"a"{")" * 100_000}', "parentheses")],
    ids=["token", "parentheses"],
)
def test_what_is_refused_would_end_the_process(run_python: RunPython, text: str, words: str) -> None:
    """Two of the reasons, seen: llama.cpp throws through C, and recurses until the stack is full."""
    assert words in reason(text)
    code = WALKS.replace("        said.append(walk.walk(", "        for _ in range(30): said.append(walk.walk(")
    done = run_python(code, stdin=json.dumps({"library": None, "grammars": [text], "steps": 3, "seed": 1}))
    assert done.returncode < 0


# -- LlamaGrammar ----------------------------------------------------------------------------------------------------


def test_from_string() -> None:
    """A LlamaGrammar is its text, checked."""
    grammar = LlamaGrammar.from_string(LIST, verbose=True)
    assert (grammar.gbnf, grammar._root) == (LIST, "root")
    assert grammar == LlamaGrammar(LIST)
    assert hash(grammar) == hash(LlamaGrammar(LIST))
    with pytest.raises(GrammarError, match="left recursion"):
        LlamaGrammar.from_string("root ::= root")


def test_a_grammar_is_a_value() -> None:
    """It cannot be changed, and can be copied and pickled."""
    grammar = LlamaGrammar(LIST)
    with pytest.raises(AttributeError):
        grammar.gbnf = "root ::= root"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(grammar)) == grammar  # noqa: S301 - our own bytes
    assert copy.deepcopy(grammar) == grammar


def test_from_file(tmp_path: Path) -> None:
    """A file in UTF-8, with or without a byte order mark."""
    path = tmp_path / "list.gbnf"
    path.write_text('root ::= "é"', encoding="utf-8-sig")
    assert LlamaGrammar.from_file(path) == LlamaGrammar.from_file(str(path), verbose=False)
    assert LlamaGrammar.from_file(path).gbnf == 'root ::= "é"'


def test_files_that_are_no_grammars(tmp_path: Path) -> None:
    """A file that is not there, a directory, other bytes, too many of them: a GrammarError that names the file."""
    (tmp_path / "latin").write_bytes(b'root ::= "\xe9"')
    (tmp_path / "large").write_bytes(b"#" * 5_000_000)
    for name, words in (("none", "No such file"), ("", "directory"), ("latin", "utf-8"), ("large", "characters")):
        with pytest.raises(GrammarError, match=words):
            LlamaGrammar.from_file(tmp_path / name)
    with pytest.raises(GrammarError, match="null"):
        LlamaGrammar.from_file("a\0b")


def test_from_json_schema() -> None:
    """A schema as text, as a mapping, or from a class that knows its own."""
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}

    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, object]:
            return schema

    made = [LlamaGrammar.from_json_schema(one) for one in (schema, json.dumps(schema), Model)]
    assert made[0] == made[1] == made[2]
    assert Texts(made[0].gbnf).allows('{"a": true}')
    short = LlamaGrammar.from_json_schema({"type": "string"}, max_string=2)
    assert not Texts(short.gbnf).allows('"abc"')
