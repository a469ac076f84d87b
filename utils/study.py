"""A matrix of runs, configs x seeds, and the table of their results.

    python -m utils.study configs/study.json                 # on the first GPU, or the CPU
    python -m utils.study configs/study.json --gpu 0,1,2,3   # one run a GPU at a time
    python -m utils.study configs/study.json --table         # only the table, of what is there

A study is a JSON file (`"extends"` works as in a config):

    {
      "title": "AVE",                          what the columns of its results are called
      "output": "Exps/Study/",                 where the runs and the tables go
      "seeds": [43, 44, 45],
      "set": {"train": {"n_epoch": 100}},      changes to every config, as in a config
      "runs": {"CMBS": "main.json"},           name in the table -> config, beside the study file
      "readings": {                            more ways to read the weights of a run, without training again:
        "by the gate": ["CMBS", "gate.json"]   name in the table -> run, and the config to evaluate it with
      },
      "published": {"CMBS": 79.3}              accuracies that others published, for a column of their own
    }

Every run is a process of its own, in `OUTPUT/NAME/seed-N`; what it prints goes to `seed-N.out` beside it. Started
again, a study leaves finished runs as they are and goes on with the others from their last checkpoint.
"""

from __future__ import annotations

import logging
import statistics
import sys
from typing import NamedTuple

import torch

from model import build_model
from utils import recorder
from utils.atomic import make_folder, write_text
from utils.errors import command
from utils.flags import Parser
from utils.matrix import Result, Study, result_of
from utils.pool import run_all
from utils.tables import latex, markdown

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


def table(studies: list[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as text with "±" between mean and standard deviation (over seeds, n - 1)."""
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
            numbers = [rows[line[0]].published for rows in every if line[0] in rows and rows[line[0]].published]
            line.append(f"{numbers[0]:.1f}" if numbers else "")
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
    return [parameters, _spread(authors) + missing, _spread(validation) + missing, time]


def _spread(values: tuple[float, ...]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.study", description="Run a matrix of configs x seeds.")
    parser.add_argument("study", nargs="+", metavar="STUDY.json", help="several stand side by side in the table")
    parser.add_argument(
        "--gpu", help="GPU numbers with commas, or cpu,cpu for two runs at a time on a CPU (default: one, as the mains)"
    )
    parser.add_argument("--table", action="store_true", help="run nothing; make the table of what is there")
    options = parser.parse_args(argv)
    recorder.log_to_terminal()
    studies = [Study(path) for path in options.study]
    try:
        if not options.table:
            run_all(studies, options.gpu.split(",") if options.gpu else [None])
    finally:
        header, body = table(studies)
        text = markdown(header, body)
        folder = make_folder(studies[0].output)
        write_text(folder / "table.md", text)
        write_text(folder / "table.tex", latex(header, body))
        _log.info(f"{text}\n{folder / 'table.md'}, {folder / 'table.tex'}")


if __name__ == "__main__":
    sys.exit(main())
