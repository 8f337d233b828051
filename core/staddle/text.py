"""Text that comes from elsewhere (names, paths, messages of others) made safe for a terminal and a line."""

from __future__ import annotations

import unicodedata

# Controls, formats (some turn the direction of writing), surrogates, line and paragraph separators.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, *, kept: str = "") -> str:
    r"""Text with escapes such as `\n` and `\x1b` for what would break the line or command the terminal.

    Everything that comes from elsewhere goes through it before a person sees it: names, paths, messages.

    Args:
        text: whatever it is.
        kept: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if char not in kept and unicodedata.category(char) in _UNSHOWN
        else char
        for char in text
    )
