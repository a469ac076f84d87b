"""The table of a study's results, as Markdown and LaTeX."""

from __future__ import annotations

import logging
import re
import statistics
from typing import NamedTuple

import torch

from model import build_model
from utils.base.atomic import make_folder, write_text
from utils.study.results import Result, check_same_data, result_of
from utils.study.runs import TABLES, Study

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row of the table for one study."""

    parameters: int
    results: list[Result]  # of the seeds that are finished
    seeds: int
    published: float | None


def rows_of(study: Study) -> dict[str, Row]:
    """The study's rows, by name."""
    rows = {}
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = [run for run in study.runs if run.name == name]
        results = [result for run in runs if (result := result_of(run)) is not None]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build_model(runs[0].config.model).parameters())
        rows[name] = Row(parameters, results, len(runs), study.settings.published.get(name))
    return rows


def write_tables(studies: list[Study]) -> None:
    """Write `table.md` and `table.tex` into the first study's output, and log them. Raises UserError as `table`."""
    header, body = table(studies)
    text = markdown(header, body)
    paths = [make_folder(studies[0].output) / name for name in TABLES]
    for path, content in zip(paths, (text, latex(header, body)), strict=True):
        write_text(path, content)
    _log.info(f"{text}\n{paths[0]}, {paths[1]}")


def table(studies: list[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as text with "±" between mean and standard deviation (over seeds, n - 1).

    Raises UserError where a folder holds another run than the study asks for, or the runs of a row were trained on
    different data.
    """
    for study in studies:
        check_same_data(study.runs)
    every = [rows_of(study) for study in studies]
    names = list(dict.fromkeys(name for rows in every for name in rows))
    published = any(row.published is not None for rows in every for row in rows.values())
    header, columns = ["network"], []
    for study, rows in zip(studies, every, strict=True):
        title = study.settings.title
        header += [f"{title}: {what}" for what in ("parameters", "authors' protocol", "validation protocol", "s/epoch")]
        columns.append([_cells(rows.get(name)) for name in names])
    body = [[name, *(cell for column in columns for cell in column[i])] for i, name in enumerate(names)]
    if published:
        header.append("published")
        for line in body:
            numbers = [rows[line[0]].published for rows in every if line[0] in rows]
            there = [number for number in numbers if number is not None]
            line.append(f"{there[0]:.1f}" if there else "")
    return header, body


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return [""] * 4
    parameters = f"{row.parameters / 1e6:.2f} M"
    if not row.results:
        return [parameters, "not run yet", "not run yet", ""]
    missing = "" if len(row.results) == row.seeds else f" ({len(row.results)} of {row.seeds} seeds)"
    authors, validation, seconds = zip(*row.results, strict=True)
    time = "" if None in seconds else f"{statistics.mean(seconds):.1f}"
    by_val = "not available" if None in validation else _spread(validation) + missing
    return [parameters, _spread(authors) + missing, by_val, time]


def _spread(values: tuple[float, ...]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


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
