"""Tables as Markdown and LaTeX, of text that may hold any character."""

from __future__ import annotations

import re


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; numbers are aligned to the right, and no name can end its cell."""
    first, *rest = (f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in (header, *body))
    return "".join([first, f"| --- |{' ---: |' * (len(header) - 1)}\n", *rest])


def _markdown_cell(text: str) -> str:
    return re.sub(r"([\\|`*<>\[\]~])", r"\\\1", text)


def latex(header: list[str], body: list[list[str]]) -> str:
    """The same as a LaTeX tabular; it needs the package booktabs."""

    def line(cells: list[str]) -> str:
        return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\" + "\n"

    inner = line(header) + "\\midrule\n" + "".join(map(line, body))
    return f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n{inner}\\bottomrule\n\\end{{tabular}}\n"


# Characters that LaTeX reads as something else. A line may not begin with [ or *: they would belong to the \\ before.
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
}
