"""A table as text, in Markdown and in LaTeX."""

from __future__ import annotations

import re


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; numbers are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(header: list[str], body: list[list[str]]) -> str:
    """The same as a LaTeX tabular; it needs the package booktabs."""

    def line(cells: list[str]) -> str:
        return " & ".join(_escape(cell) for cell in cells) + r" \\" + "\n"

    inner = line(header) + "\\midrule\n" + "".join(map(line, body))
    return f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n{inner}\\bottomrule\n\\end{{tabular}}\n"


def _escape(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text).replace("±", r"$\pm$")
