"""The list of messages in docs/errors.md, made from the catalogue.

`python tests/messages/page.py` writes it; the test only compares.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, "docs", "errors.md")
BEGIN = "<!-- messages: made by tests/messages/page.py -->\n"
END = "<!-- end of messages -->\n"


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def rendered(mistakes):
    """The tables, a heading for each group. `HOME`, `DIR`, `PORT` and the like stand for what differs."""
    parts, heading = [], ""
    for each in mistakes:
        if each.group != heading:
            heading = each.group
            parts.append(
                f"\n### {heading}\n\n| id | when | message | exit | what to do |\n|---|---|---|---|---|\n"
            )
        message = each.what if each.stdout else f"staddle: {each.what}"
        cells = (f"`{each.id}`", each.situation, message, str(each.exit_code), each.todo)
        parts.append("| " + " | ".join(map(cell, cells)) + " |\n")
    return "".join(parts) + "\n"


def parts_of(text):
    """The page before the list, the list, and what follows."""
    before, _, rest = text.partition(BEGIN)
    listed, _, after = rest.partition(END)
    return before + BEGIN, listed, END + after


def main():
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from messages.catalogue import MISTAKES

    with open(PAGE, encoding="utf-8") as file:
        before, _, after = parts_of(file.read())
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(before + rendered(MISTAKES) + after)


if __name__ == "__main__":
    main()
