"""What an evaluation leaves in its folder, in and out: `metrics.json`, `predictions.jsonl` and `attention.npy`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.base.atomic import atomic_path, made_folder, make_folder, private_folder, write_text, writing
from utils.base.errors import UserError
from utils.base.locks import held
from utils.base.text import read_json
from utils.config.settings import MAINS

if TYPE_CHECKING:  # torch takes seconds to import, and reading what an evaluation left needs none
    from torch import Tensor

    from dataset.labels import ClipNames
    from utils.evaluation.evaluate import Evaluation

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"
ATTENTION = "attention.npy"
GENERATED = "the numbers say whether the code learns, and nothing about a real data set"  # where clips are generated
REPORT = "report.html"  # made from the others by `utils.report`, like the figures
# All that an evaluation may leave. METRICS is the first to go and the last to come: without it there is no evaluation.
_FILES = (METRICS, PREDICTIONS, ATTENTION, REPORT, "figures/*.png", "figures/events.out.tfevents.*")


def write(folder: Path, metrics: dict[str, Any], result: Evaluation, rows: np.ndarray, names: ClipNames) -> None:
    """Write an evaluation's files into a folder, each whole or not at all.

    Args:
        metrics: at least "accuracy" in percent, "clips" and "segments".
        rows: [n] row of each clip in the feature file.
        names: of the categories, and the clips' ids where there are any.

    A line of `predictions.jsonl` is a clip: `index` (its row in the feature file), `id` (or null), `prediction`
    and `target` (T category indices, C = background), `event_probability` (T numbers), `category` (its name), and
    each score of the network (T numbers). `attention.npy` holds the attention maps, where the evaluation kept them:
    [n, T, H, W] float16 in the order of the lines.
    """
    make_folder(folder)
    write_text(folder / PREDICTIONS, "".join(json.dumps(line) + "\n" for line in _lines(result, rows, names)))
    if result.attention is not None:
        with atomic_path(folder / ATTENTION) as part, open(part, "wb") as file:
            maps = result.attention.numpy()
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(maps))
            file.write(np.ascontiguousarray(maps))  # np.save doesn't say why a disk refuses
    write_text(folder / METRICS, _readable_json(metrics))


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for an evaluation's files; when the block ends well, they are moved to `folder`.

    There they take the place of all files of an earlier evaluation; until then these are untouched, and when the block
    doesn't end well nothing of the new ones is left. Other files in `folder` stay. Raises UserError where the folder
    can't be written, or another process writes to it.
    """
    busy = f"{folder}: another process is writing an evaluation there; wait for it, or name another --output"
    with (
        made_folder(folder),
        writing(folder),
        held(folder / ".lock", busy),
        private_folder(folder / "evaluation") as temporary,
    ):
        new, old = make_folder(temporary / "new"), temporary / "old"
        yield new
        _exchange(new, folder, old)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Move an earlier evaluation's files from `folder` to `old`, and the new ones there; all of them or none.

    Killed in between it leaves `folder` without METRICS, and so without an evaluation: never with parts of two.
    """
    earlier = [path for pattern in _FILES for path in sorted(folder.glob(pattern))]
    leaving = [path for path in earlier if path.is_symlink() or path.is_file()]  # a folder is somebody's own
    coming = [path for pattern in reversed(_FILES) for path in sorted(new.glob(pattern))]
    moves = [(path, old / path.relative_to(folder)) for path in leaving]
    moves += [(path, folder / path.relative_to(new)) for path in coming]
    undo: list[Callable[[], None]] = []
    try:
        for source, target in moves:
            with writing(target):
                if not target.parent.exists():
                    target.parent.mkdir(parents=True)
                    undo.append(target.parent.rmdir)
                os.rename(source, target)
            undo.append(partial(os.rename, target, source))
    except BaseException:
        with contextlib.suppress(OSError):
            for step in reversed(undo):
                step()
        raise


def _lines(result: Evaluation, rows: np.ndarray, names: ClipNames) -> list[dict[str, Any]]:
    categories = [*names.categories, "background"]
    columns = {
        "index": rows.tolist(),
        "id": [names.ids[row] if names.ids else None for row in rows.tolist()],
        "prediction": result.segments.tolist(),
        "target": result.target.tolist(),
        "event_probability": _rounded(result.event_probability),
        "category": [categories[category] for category in result.category.tolist()],
        **{name: _rounded(values) for name, values in result.scores.items()},
    }
    return [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]


def _rounded(values: Tensor) -> list[list[float]]:
    return values.double().numpy().round(6).tolist()


def _readable_json(values: dict[str, Any]) -> str:
    """JSON with a line for each key, and for each item of a longer list or object: a matrix keeps its rows."""

    def text(value: Any) -> str:
        if isinstance(value, dict | list) and len(json.dumps(value)) > 100:
            if isinstance(value, dict):
                return "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n  }"
            return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in value) + "\n  ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {text(value)}" for key, value in values.items()) + "\n}\n"


def read_metrics(folder: Path) -> dict[str, Any]:
    """`metrics.json` of an evaluation's folder, whatever it holds. Raises UserError where there is no JSON object."""
    path = folder / METRICS
    within = sorted(folder.glob(f"*/{METRICS}"))
    advice = f"{folder} is not an evaluation's folder{f', but {within[0].parent} is' if within else ''}"
    metrics = read_json(path, advice=advice)
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: is damaged (no JSON object); evaluate again with supv_test.sh or weak_test.sh")
    return metrics


def evaluations_of(run: Path, checkpoint: str, epoch: int | None) -> list[Path]:
    """The folders in a run folder that hold an evaluation of one of its checkpoints, by the file's name and its epoch.

    Raises UserError for a `metrics.json` that is none.
    """
    folders = [path.parent for path in sorted(run.glob(f"*/{METRICS}"))]
    read = {folder: read_metrics(folder) for folder in folders}
    return [
        folder
        for folder, metrics in read.items()
        if Path(str(metrics.get("checkpoint"))).name == checkpoint and metrics.get("epoch") == epoch
    ]


def how_to_evaluate(run: Path, checkpoint: str, supervision: str) -> str:
    """The command line that evaluates a run's checkpoint on the test split, in the run folder."""
    script = MAINS[supervision].replace("main.py", "test.sh")
    output = run / f"eval-test-{checkpoint.removesuffix('.pth.tar')}"
    return f"bash {script} --config {run / 'config.json'} --resume {run / checkpoint} --output {output}"
