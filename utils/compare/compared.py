"""The evaluations to compare, from their folders or from a study's rows (over their seeds), all of the same clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataset import fingerprint
from utils.base.errors import UserError
from utils.base.paths import CHOSEN_BY, project_path
from utils.evaluation.protocols import PROTOCOLS
from utils.evaluation.results import evaluations_of, how_to_evaluate, read_metrics
from utils.evaluation.stored import Stored, read
from utils.study.results import evaluation_folder, result_of, trained
from utils.study.runs import Run, Study


class Compared(NamedTuple):
    """One evaluation, or those of a study's row, a seed each."""

    name: str
    folders: list[Path]
    evaluations: list[Stored]

    def clip_scores(self) -> dict[str, np.ndarray]:
        """Each clip's scores in percent by their names, [seeds, clips] each."""
        every = [evaluation.clip_scores() for evaluation in self.evaluations]
        return {name: np.stack([scores[name] for scores in every]) for name in every[0]}


def read_all(paths: list[str], protocol: str) -> list[Compared]:
    """The evaluations that the command line names, in its order.

    Args:
        paths: of evaluations' folders and study files.
        protocol: which weights of a study's runs, a name of PROTOCOLS.

    Raises UserError for what is neither, and for a study without a finished run in one of its rows.
    """
    compared = []
    for path in paths:
        if Path(path).is_file():
            rows = _rows(path, PROTOCOLS[protocol].split)
            compared += rows if len(paths) == 1 else [row._replace(name=f"{path}: {row.name}") for row in rows]
        else:
            compared.append(Compared(path, [Path(path)], [read(Path(path))]))
    names = [one.name for one in compared]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]}: is named twice; name each evaluation once")
    return compared


def _rows(path: str, split: str) -> list[Compared]:
    """The rows of a study, each with the seeds that are finished; `split` chose the epoch."""
    rows = []
    for name, runs in Study(path).rows.items():
        results = [(run, result) for run in runs if (result := result_of(run))]
        if not results:
            raise UserError(
                f"{path}: no run of {name!r} is finished; run the study with `python -m utils.study {path}`"
            )
        for run, result in results:
            if split == "val" and result.validation is None:
                raise UserError(f"{run.folder}: has no validation protocol, since its data have no val split")
        folders = [_evaluation(run, split) for run, _ in results]
        rows.append(Compared(name, folders, [read(folder) for folder in folders]))
    return rows


def _evaluation(run: Run, split: str) -> Path:
    """The evaluation, on the test split, of the weights of the epoch that `split` chose in a finished run."""
    weights = CHOSEN_BY[split]
    if run.source is not None:
        return evaluation_folder(run, split)
    chosen = trained(run.folder).best.get(split)
    for folder in evaluations_of(run.folder, weights, chosen["epoch"]) if chosen else []:
        metrics = read_metrics(folder)
        if metrics.get("split") == "test" and metrics.get("localize", "authors") == run.config.eval.localize:
            return folder
    raise UserError(
        f"{run.folder}: holds no evaluation of its {weights} on the test split; make one with "
        f"`{how_to_evaluate(run.folder, weights, run.config.supervision)}`"
    )


def check_same_clips(compared: list[Compared]) -> None:
    """Raise UserError where two evaluations are of different clips, or of the same clips of different data."""
    every = [pair for one in compared for pair in zip(one.folders, one.evaluations, strict=True)]
    first_folder, first = every[0]
    for folder, other in every[1:]:
        ours, theirs = _identity(other), _identity(first)
        differing = [what for what in ours if ours[what] != theirs[what]] or _differing_data(folder, first_folder)
        if differing:
            raise UserError(
                f"{folder}: is not of the clips that {first_folder} is of: it has other {differing[0]}; only "
                f"evaluations of the same clips can be compared"
            )


def _identity(stored: Stored) -> dict[str, Any]:
    """What must be equal in evaluations of the same clips, by its name in messages."""
    metrics = stored.metrics
    return {
        "split": metrics["split"],
        "categories": metrics["categories"],
        "rows of the feature files": stored.rows.tolist(),
        "ids": stored.ids,
        "annotations": stored.target.tolist(),
        "data (generated clips, or not)": metrics.get("generated", False),
    }


def _differing_data(folder: Path, first: Path) -> list[str]:
    """How the data of two evaluations differ: by their fingerprints, or in earlier versions' files by their folders."""
    ours, theirs = (read_metrics(path) for path in (folder, first))
    prints = [metrics.get("data") for metrics in (ours, theirs)]
    if all(isinstance(data, dict) for data in prints):
        return [f"data ({what} is {here}, not {there})" for what, here, there in fingerprint.differences(*prints)]
    roots = [metrics["data_root"] for metrics in (ours, theirs)]
    same = project_path(roots[0]).resolve() == project_path(roots[1]).resolve()
    return [] if same else [f"data (of {roots[0]}, not of {roots[1]})"]
