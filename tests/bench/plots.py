"""Plots of a comparison as SVG, one for each step: a bar for each tool, grouped by corpus, with its spread.

Each group has a scale of its own, since corpora differ a hundredfold; the figure stands beside the bar.
"""

from __future__ import annotations

import os
from typing import Any
from xml.sax.saxutils import escape

COLOURS = {
    "staddle": "#0b6e4f",
    "staddle-tls": "#4a9d7f",
    "staddle-4": "#8fcbb3",
    "borg": "#c8553d",
    "restic": "#e0a458",
    "floor": "#b8b8b8",
}
OTHER = "#6c757d"
TITLES = {
    "first": "First backup",
    "unchanged": "Backup without any change",
    "second": "Backup of the second generation",
    "verify": "Check of all data",
    "restore": "Restore",
}
MEASURES = (("wall_s", "wall clock, s"), ("cpu_s", "CPU of all processes, s"), ("stored_mib", "stored, MiB"))
STORING = {"first", "second"}
LABEL, BAR, VALUE, ROW, GAP, TOP = 150, 170, 90, 16, 30, 52


def write(report: dict[str, Any], directory: str) -> list[str]:
    """Write `first.svg` and so on; the paths."""
    os.makedirs(directory, exist_ok=True)
    paths = []
    for step in TITLES:
        rows = [row for row in report["rows"] if row["step"] == step]
        if rows:
            paths.append(os.path.join(directory, f"{step}.svg"))
            with open(paths[-1], "w", encoding="utf-8", newline="\n") as handle:
                handle.write(draw(step, rows, report["machine"]))
    return paths


def draw(step: str, rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """One plot: a column for each measure, the corpora below each other."""
    measures = MEASURES if step in STORING else MEASURES[:2]
    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    parts, top = [], TOP
    for corpus in corpora:
        group = [row for row in rows if row["corpus"] == corpus]
        parts.append(_text(10, top - 5, corpus, bold=True))
        for column, (key, _) in enumerate(measures):
            known = [row for row in group if key != "stored_mib" or row["tool"] != "floor"]
            longest = max((row[key]["max"] for row in known), default=0.0)
            for line, row in enumerate(group):
                if row in known:
                    parts += _bar(row["tool"], row[key], longest, column, top + line * ROW)
        parts += [_text(20, top + line * ROW + 11, row["tool"]) for line, row in enumerate(group)]
        top += len(group) * ROW + GAP
    width = LABEL + len(measures) * (BAR + VALUE)
    head = [
        _text(10, 18, f"{TITLES[step]}: median, least and greatest of {rows[0]['rounds']} rounds", bold=True),
        *(_text(LABEL + n * (BAR + VALUE), 34, title) for n, (_, title) in enumerate(measures)),
    ]
    font = 'font-family="sans-serif" font-size="11"'
    foot = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + 8}" {font}>',
            f"<title>{escape(TITLES[step])}</title>",
            f'<rect width="{width}" height="{top + 8}" fill="#ffffff"/>',
            *head,
            *parts,
            _text(10, top, foot, colour="#666666"),
            "</svg>\n",
        ]
    )


def _bar(tool: str, values: dict[str, float], longest: float, column: int, top: int) -> list[str]:
    """The bar of one tool, a whisker from least to greatest, and the figure."""
    left = LABEL + column * (BAR + VALUE)
    least, median, most = (
        BAR * (max(values[key], 0.0) / longest if longest > 0 else 0.0) for key in ("min", "median", "max")
    )
    middle = top + ROW / 2
    colour = COLOURS.get(tool, OTHER)
    return [
        f'<rect x="{left}" y="{top + 1}" width="{median:.1f}" height="{ROW - 3}" fill="{colour}"/>',
        f'<path d="M{left + least:.1f} {middle}H{left + most:.1f}" stroke="#222222" fill="none"/>',
        _text(left + most + 5, top + 11, f"{values['median']:.4g}"),
    ]


def _text(x: float, y: float, words: str, *, bold: bool = False, colour: str = "#222222") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="{colour}"{weight}>{escape(words)}</text>'
