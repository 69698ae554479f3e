"""How is any JSON written, so that a model comes to an end of it?

One rule: white space is one blank, or one line and its indentation; a number has 15 digits before its point and behind
it. Strings are characters or escapes of characters, never half a surrogate pair. Nesting has no limit.
"""

from __future__ import annotations

TERMS = {
    "value": ("object | array | string | number | boolean | null", "object array string number boolean null"),
    "object": ('"{" ws (member ("," ws member)* ws)? "}"', "member ws"),
    "member": ('string ":" ws value', "string ws value"),
    "array": ('"[" ws (value ("," ws value)* ws)? "]"', "value ws"),
    "string": ('"\\"" char* "\\""', "char"),
    "char": (r'[ !#-\[\]-~\u0080-\uD7FF\uE000-\U0010FFFF] | "\\" escape', "escape"),
    "escape": (r'["\\/bfnrt] | "u" (plane | [dD] [89abAB] hex hex "\\u" [dD] [c-fC-F] hex hex)', "plane hex"),
    "plane": (r"[0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex", "hex"),
    "hex": ("[0-9a-fA-F]", ""),
    "integer": ('"0" | "-"? [1-9] [0-9]{0,14}', ""),
    "number": ('"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?', ""),
    "boolean": ('"true" | "false"', ""),
    "null": ('"null"', ""),
    "ws": ('" " | "\\n" [ \\t]{0,20} | ""', ""),
}
"""The rules, each with the others it needs."""

JSON_GBNF = "root ::= value\n" + "".join(
    f"{name} ::= {text}\n" for name, (text, _) in TERMS.items() if name != "integer"
)
"""Any JSON value."""
