"""The table of a study's results, as Markdown and LaTeX."""

from __future__ import annotations

import logging
import re
import statistics
from typing import NamedTuple

import numpy as np
import torch

from dataset import files, fingerprint
from model import build_model
from utils.base.atomic import make_folder, write_text
from utils.config.settings import Config
from utils.evaluation.clip_scores import SCORES
from utils.evaluation.intervals import difference_interval
from utils.evaluation.protocols import CHOOSING_SPLITS
from utils.study import costs
from utils.study.results import (
    Result,
    check_same_data,
    clips_of,
    naming_and_timing_of,
    on_generated_clips,
    result_of,
)
from utils.study.runs import TABLES, Published, Run, Study
from utils.study.states import UNFINISHED, states

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row of the table for one study."""

    runs: list[Run]  # a seed each
    results: list[Result]  # of the seeds that are finished
    published: Published | None

    @property
    def config(self) -> Config:
        """What its runs have in common: all but the seed."""
        return self.runs[0].config


class Column(NamedTuple):
    """A column of the table, a cell for each row."""

    header: str
    cells: list[str]


def rows_of(study: Study) -> dict[str, Row]:
    """The study's rows, by name."""
    runs: dict[str, list[Run]] = {}
    for run in study.runs:
        runs.setdefault(run.name, []).append(run)
    return {
        name: Row(
            its_runs, [result for run in its_runs if (result := result_of(run))], study.settings.published.get(name)
        )
        for name, its_runs in runs.items()
    }


def write_tables(studies: list[Study]) -> None:
    """Write `table.md` and `table.tex` into the first study's output, and log them. Raises UserError as `table`.

    Below the table stand the runs that left something and aren't counted: they go on, were stopped, or failed.
    """
    header, body = table(studies)
    tables = [(header, body), naming_and_timing(studies)]
    notes = notes_of(studies, header)
    notes += [f"not counted: {state}" for state in states(studies) if state.word in UNFINISHED]
    text = "\n".join(markdown(*one) for one in tables if one) + "".join(f"\n{note}\n" for note in notes)
    tex = "\n".join(latex(*one) for one in tables if one) + "".join(f"% {note}\n" for note in notes)
    paths = [make_folder(studies[0].output) / name for name in TABLES]
    for path, content in zip(paths, (text, tex), strict=True):
        write_text(path, content)
    _log.info(f"{text}\n{paths[0]}, {paths[1]}")


def table(studies: list[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as text with "±" between mean and standard deviation (over seeds, n - 1).

    A column that says nothing is left out. Raises UserError where a folder holds another run than the study asks for,
    or the runs of a row were trained on different data.
    """
    for study in studies:
        check_same_data(study.runs)
    every = [rows_of(study) for study in studies]
    names = list(dict.fromkeys(name for rows in every for name in rows))
    columns = [Column("network", names), _labels([_first(every, name) for name in names])]
    for study, rows in zip(studies, every, strict=True):
        columns += _measured(study, [rows.get(name) for name in names])
    columns += _published([_first(every, name) for name in names])
    kept = [column for column in columns if any(column.cells)]
    return [column.header for column in kept], [list(line) for line in zip(*(c.cells for c in kept), strict=True)]


def naming_and_timing(studies: list[Study]) -> tuple[list[str], list[list[str]]] | None:
    """Header and rows of the scores besides the accuracy, by the validation protocol; None if no run has them."""
    columns: dict[str, dict[str, str]] = {}  # header -> row -> cell
    for study in studies:
        for name, row in rows_of(study).items():
            found = [naming_and_timing_of(run, CHOOSING_SPLITS["validation"]) for run in row.runs if result_of(run)]
            for score in SCORES if found and all(found) else ():
                values = [of_seed.get(score) for of_seed in found]
                if None not in values:
                    column = columns.setdefault(f"{study.settings.title}, validation protocol: {SCORES[score]}", {})
                    column[name] = _spread(values)
    names = dict.fromkeys(name for column in columns.values() for name in column)
    body = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    return (["network", *columns], body) if columns else None


def notes_of(studies: list[Study], header: list[str]) -> list[str]:
    """Notes on a table with this header, a line each: what isn't measured, how, and on which clips."""
    notes = []
    for study in studies:
        rows = rows_of(study)
        title, first = study.settings.title, next(iter(rows))
        finished = [run for row in rows.values() for run in row.runs if result_of(run)]
        if any(len(row.results) < len(row.runs) for row in rows.values()):
            notes.append(f"{title}, not measured: `python -m utils.study {study.path}`")
        if any(name.startswith(f"{title}: ") and name.endswith(_less(first)) for name in header):
            notes.append(
                f"{title}: in brackets the 95 % interval of the difference to {first}, by drawing test clips and seeds "
                f"with replacement"
            )
        if any(map(on_generated_clips, finished)):
            notes.append(
                f"{title}: generated clips; these numbers say nothing about AVE, nor anything beside published ones"
            )
        notes += costs.notes(study, f"{title}: {costs.TRAIN_STEP}" in header)
    return notes


def _first(every: list[dict[str, Row]], name: str) -> list[Row]:
    """The row of this name in each of the studies that has one."""
    return [rows[name] for rows in every if name in rows]


def _labels(rows: list[list[Row]]) -> Column:
    """A column of what each network learns from; its cells are empty where that is the same for all."""
    words = [_learns_from(of_studies[0].config.label_regime) for of_studies in rows]
    return Column("learns from", words if len(set(words)) > 1 else [""] * len(rows))


def _published(rows: list[list[Row]]) -> list[Column]:
    of_row = [next((row.published for row in of_studies if row.published), None) for of_studies in rows]
    return [
        Column("published", [f"{published.accuracy:.1f}" if published else "" for published in of_row]),
        Column("where and how", [_how(published) if published else "" for published in of_row]),
    ]


def _learns_from(label_regime: str | None) -> str:
    return "segment labels" if label_regime is None else files.LABEL_REGIMES[label_regime].words


def _how(published: Published) -> str:
    runs = published.runs and f"{published.runs} run{'s' if published.runs > 1 else ''}"
    return ", ".join(filter(None, (published.source, published.protocol, runs)))


def _measured(study: Study, rows: list[Row | None]) -> list[Column]:
    """The columns of what one study measured."""
    first = next(row for row in rows if row)
    cells = {"parameters": [row and _parameters(row.config) for row in rows]}
    for protocol, split in CHOOSING_SPLITS.items():
        name = {"authors": "authors' protocol", "validation": "validation protocol"}[protocol]
        cells[name] = [row and _accuracy(row, protocol) for row in rows]
        cells[name + _less(first.runs[0].name)] = [row and _difference(row, first, split) for row in rows]
    cells["s/epoch"] = [row and _seconds(row) for row in rows]
    cells |= costs.columns(study, [row and row.config for row in rows])
    return [Column(f"{study.settings.title}: {what}", [cell or "" for cell in cells[what]]) for what in cells]


def _less(first: str) -> str:
    return f", less {first}"


def _parameters(config: Config) -> str:
    with torch.device("meta"):
        return f"{sum(p.numel() for p in build_model(config.model).parameters()) / 1e6:.2f} M"


def _accuracy(row: Row, protocol: str) -> str:
    values = [getattr(result, protocol) for result in row.results]
    if not values:
        return "not measured"
    if None in values:
        return "not available"
    missing = "" if len(values) == len(row.runs) else f" ({len(values)} of {len(row.runs)} seeds)"
    return _spread(values) + missing


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _difference(row: Row, first: Row, split: str) -> str:
    """The difference of a row's mean to the first row's, with its 95 % interval; "" where the clips aren't the same."""
    if row is first or not row.results or not first.results:
        return ""
    every = [[clips_of(run, split) for run in of_row.runs if result_of(run)] for of_row in (row, first)]
    if any(clips is None for seeds in every for clips in seeds):
        return ""
    ours, base = every
    if any(fingerprint.differences(clips.data, base[0].data) for clips in ours):
        return ""
    interval = difference_interval(*(np.array([clips.accuracies for clips in seeds]) for seeds in every))
    return "" if None in interval else interval.text("+")


def _seconds(row: Row) -> str:
    seconds = [result.seconds for result in row.results]
    return f"{statistics.mean(seconds):.1f}" if seconds and None not in seconds else ""


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
