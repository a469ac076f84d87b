"""The table of a study's results, as Markdown and LaTeX."""

from __future__ import annotations

import logging
import statistics
from typing import NamedTuple

import numpy as np

from dataset import files, fingerprint
from utils.base.atomic import make_folder, write_text
from utils.base.tables import latex, markdown
from utils.config.settings import Config
from utils.evaluation.clip_scores import SCORES
from utils.evaluation.intervals import difference_interval
from utils.evaluation.protocols import PROTOCOLS
from utils.evaluation.results import GENERATED
from utils.study import costs
from utils.study.results import Result, clips_of, naming_and_timing_of, on_generated_clips, parameters_of, result_of
from utils.study.runs import TABLES, Published, Run, Study
from utils.study.same_data import check_same_data
from utils.study.states import UNFINISHED, states

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row of the table for one study."""

    runs: list[Run]  # a seed each
    finished: list[Run]
    results: list[Result]  # of these
    published: Published | None

    @property
    def config(self) -> Config:
        """What its runs have in common: all but the seed."""
        return self.runs[0].config


class StudyRows(NamedTuple):
    """A study with what its table is made of, read once."""

    study: Study
    rows: dict[str, Row]  # by name
    costs: costs.Costs | None  # None: not measured


Column = tuple[str, list[str]]  # header, and a cell for each row


def rows_of(study: Study) -> StudyRows:
    """Read what a study's runs have left.

    Raises UserError where a folder holds another run than the study asks for, or the runs of a row were trained on
    different data.
    """
    check_same_data(study.runs)
    rows = {}
    for name, runs in study.rows.items():
        results = [(run, result) for run in runs if (result := result_of(run))]
        finished, its = [run for run, _ in results], [result for _, result in results]
        rows[name] = Row(runs, finished, its, study.settings.published.get(name))
    return StudyRows(study, rows, costs.read(study))


def write_tables(studies: list[Study]) -> None:
    """Write `table.md` and `table.tex` into the first study's output, and log them. Raises UserError as `rows_of`.

    Below the table stand the runs that left something and aren't counted: they go on, were stopped, or failed.
    """
    every = [rows_of(study) for study in studies]
    header, body = table(every)
    tables = [(header, body), naming_and_timing(every)]
    notes = notes_of(every, header)
    notes += [f"not counted: {state}" for state in states(studies) if state.word in UNFINISHED]
    text = "\n".join(markdown(*one) for one in tables if one) + "".join(f"\n{note}\n" for note in notes)
    tex = "\n".join(latex(*one) for one in tables if one) + "".join(f"% {note}\n" for note in notes)
    paths = [make_folder(studies[0].output) / name for name in TABLES]
    for path, content in zip(paths, (text, tex), strict=True):
        write_text(path, content)
    _log.info(f"{text}\n{paths[0]}, {paths[1]}")


def table(every: list[StudyRows]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as text with "±" between mean and standard deviation (over seeds, n - 1).

    A column that says nothing is left out.
    """
    names = list(dict.fromkeys(name for study in every for name in study.rows))
    columns = [("network", names), _labels([_first(every, name) for name in names])]
    for study in every:
        columns += _measured(study, [study.rows.get(name) for name in names])
    columns += _published([_first(every, name) for name in names])
    kept = [(header, cells) for header, cells in columns if any(cells)]
    return [header for header, _ in kept], [list(line) for line in zip(*(cells for _, cells in kept), strict=True)]


def naming_and_timing(every: list[StudyRows]) -> tuple[list[str], list[list[str]]] | None:
    """Header and rows of the scores besides the accuracy, by the validation protocol; None if no run has them."""
    protocol = PROTOCOLS["validation"]
    columns: dict[str, dict[str, str]] = {}  # header -> row -> cell
    for study, rows, _ in every:
        for name, row in rows.items():
            found = [naming_and_timing_of(run, protocol.split) for run in row.finished]
            for score in SCORES if found and all(found) else ():
                values = [of_seed.get(score) for of_seed in found]
                if None not in values:
                    column = columns.setdefault(f"{study.settings.title}, {protocol.name}: {SCORES[score]}", {})
                    column[name] = _spread(values)
    names = dict.fromkeys(name for column in columns.values() for name in column)
    body = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    return (["network", *columns], body) if columns else None


def notes_of(every: list[StudyRows], header: list[str]) -> list[str]:
    """Notes on a table with this header, a line each: what isn't measured, how, and on which clips."""
    notes = []
    for study, rows, measured in every:
        title, first = study.settings.title, next(iter(rows))
        if any(len(row.finished) < len(row.runs) for row in rows.values()):
            notes.append(f"{title}, not measured: `python -m utils.study {study.path}`")
        if any(name.startswith(f"{title}: ") and name.endswith(_less(first)) for name in header):
            notes.append(
                f"{title}: in brackets the 95 % interval of the difference to {first}, by drawing test clips and seeds "
                f"with replacement"
            )
        if any(on_generated_clips(run) for row in rows.values() for run in row.finished):
            notes.append(f"{title}: generated clips; {GENERATED}, nor anything beside published numbers")
        notes += costs.notes(study, measured, f"{title}: {costs.TRAIN_STEP}" in header)
    return notes


def _first(every: list[StudyRows], name: str) -> list[Row]:
    """The row of this name in each of the studies that has one."""
    return [study.rows[name] for study in every if name in study.rows]


def _labels(rows: list[list[Row]]) -> Column:
    """A column of what each network learns from; its cells are empty where that is the same for all."""
    regimes = [of_studies[0].config.label_regime for of_studies in rows]
    words = [files.LABEL_REGIMES[regime].words if regime else "segment labels" for regime in regimes]
    return "learns from", words if len(set(words)) > 1 else [""] * len(rows)


def _published(rows: list[list[Row]]) -> list[Column]:
    of_row = [next((row.published for row in of_studies if row.published), None) for of_studies in rows]
    return [
        ("published", [f"{published.accuracy:.1f}" if published else "" for published in of_row]),
        ("where and how", [_how(published) if published else "" for published in of_row]),
    ]


def _how(published: Published) -> str:
    runs = published.runs and f"{published.runs} run{'s' if published.runs > 1 else ''}"
    return ", ".join(filter(None, (published.source, published.protocol, runs)))


def _measured(study: StudyRows, rows: list[Row | None]) -> list[Column]:
    """The columns of what one study measured."""
    first = next(row for row in rows if row)
    cells = {"parameters": [row and _parameters(row) for row in rows]}
    for key, protocol in PROTOCOLS.items():
        cells[protocol.name] = [row and _accuracy(row, key) for row in rows]
        less = protocol.name + _less(first.runs[0].name)
        cells[less] = [row and _difference(row, first, protocol.split) for row in rows]
    cells["s/epoch"] = [row and _seconds(row) for row in rows]
    if study.costs:
        cells |= study.costs.columns([row and row.config for row in rows])
    title = study.study.settings.title
    return [(f"{title}: {what}", [cell or "" for cell in cells[what]]) for what in cells]


def _less(first: str) -> str:
    return f", less {first}"


def _parameters(row: Row) -> str:
    noted = next(filter(None, map(parameters_of, row.finished)), None)
    return f"{(noted or _parameters_built(row.config)) / 1e6:.2f} M"


def _parameters_built(config: Config) -> int:
    import torch  # here: it takes seconds, and finished runs have noted the number

    from model import build_model

    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config.model).parameters())


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
    every = [[clips_of(run, split) for run in of_row.finished] for of_row in (row, first)]
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
