"""Glob patterns as regular expressions of RE2, which take time in proportion to the text.

The database's own GLOB tries every way to spread a text over the stars: `*a*a*a*a*a*a*b` against a name of a
hundred letters takes half a minute, and a client chooses both.
"""

from __future__ import annotations

_NEVER = r"[^\x{0}-\x{10FFFF}]"
_ANY = r"[\x{0}-\x{10FFFF}]"


def glob_regex(pattern: str) -> str:
    r"""The expression that matches a whole text where the glob does.

    `*` stands for anything, `?` for one character, `[a-z]` and `[!a-z]` for one of or none of a set; `\`
    takes the next character as it is. A `[` without its `]` matches nothing.
    """
    out, at = ["(?s)"], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append(".*" if out[-1] != ".*" else "")
        elif char == "?":
            out.append(".")
        elif char == "[":
            first = at + 1 if pattern[at : at + 1] == "!" else at
            end = pattern.find("]", first + 1)  # a `]` at once is one of the set
            if end < 0:
                return _NEVER
            out.append(_one_of(pattern[first:end], inverted=first > at))
            at = end + 1
        else:
            if char == "\\" and at < len(pattern):
                char, at = pattern[at], at + 1
            out.append(_exactly(char))
    return "".join(out)


def _one_of(members: str, *, inverted: bool) -> str:
    parts, at = [], 0
    while at < len(members):
        low = high = members[at]
        at += 1
        if members[at : at + 1] == "-" and at + 1 < len(members):
            high, at = members[at + 1], at + 2
        if low <= high:
            parts.append(f"{_exactly(low)}-{_exactly(high)}")
    if not parts:
        return _ANY if inverted else _NEVER
    return f"[{'^' if inverted else ''}{''.join(parts)}]"


def _exactly(char: str) -> str:
    return rf"\x{{{ord(char):x}}}"
