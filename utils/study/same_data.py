"""Whether the runs of a row were trained on one data set, the one that is there now."""

from __future__ import annotations

import functools
from typing import Any

from dataset import fingerprint
from utils.base.errors import UserError
from utils.base.text import reading
from utils.study.results import trained
from utils.study.runs import Run


def check_same_data(runs: list[Run]) -> None:
    """Raise UserError where the seeds of a row were trained on different data, or on other data than are there now."""
    of_row: dict[str, tuple[Run, dict[str, Any]]] = {}
    fingerprint_of = functools.cache(fingerprint.fingerprint)
    for run in runs:
        with reading(run.folder):
            made_on = trained(run.folder).data if run.source is None else None
        if made_on is None:
            continue
        root, label_regime = run.config.data.folder, run.config.label_regime
        made_on = fingerprint.of_files_read(made_on, label_regime)
        first, of_first = of_row.setdefault(run.name, (run, made_on))
        now = fingerprint_of(root, label_regime)
        for other, data in ((f"what {root} holds now", now or made_on), (str(first.folder), of_first)):
            if differing := fingerprint.differences(made_on, data):
                what, here, there = differing[0]
                raise UserError(
                    f"{run.folder}: was trained on other data than {other}: {what} was {here}, not {there}; put the "
                    f"data back, or remove the folder so that the study runs it anew"
                )
