"""An evaluation read from its folder, each number checked: what is shown or compared is what an evaluation wrote."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict  # pydantic takes no other one before Python 3.12

from utils.base.errors import UserError
from utils.base.text import read_json_lines, reading, require_file
from utils.config.settings import FolderName
from utils.evaluation.clip_scores import ACCURACY, SCORES, clip_scores
from utils.evaluation.results import ATTENTION, METRICS, PREDICTIONS, read_metrics

_AGAIN = "evaluate again with supv_test.sh or weak_test.sh"

Count = Annotated[int, Field(ge=0, lt=2**53)]  # what the page's script can count
Percent = Annotated[float, Field(ge=-1e-6, le=100 + 1e-6)] | None  # None: a share of nothing; sums may be rounded
Share = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)] | None
Name = Annotated[str, Field(max_length=1000)]


def _renamed(name: str, old: str) -> Any:
    """A field that earlier versions wrote under an older name."""
    return Field(validation_alias=AliasChoices(name, old))


def _object(**keys: Any) -> Any:
    """An object in `metrics.json` and the types of its values; what a newer version adds to it is passed over."""
    return TypedDict("object", keys)


_RETRIEVAL = {"precision": Percent, "recall": Percent, "f1": Percent}
_Retrieval = _object(**_RETRIEVAL)
_Chosen = _object(epoch=Count, val_accuracy=NotRequired[Percent], test_accuracy=Percent)
_Protocols = _object(authors=_Chosen, validation=_Chosen | None)
_NamingAndTiming = _object(**{name: Percent for name in SCORES if name != ACCURACY})
_Errors = _object(missed=Percent, false_alarm=Percent, wrong_category=Percent)
_Events = _object(**{"iou_0.5": _Retrieval, "iou_0.1_to_0.9": _Retrieval}, predicted=Count, annotated=Count)
_Separation = _object(ap=Percent, auc=Percent)
_Bin = _object(segments=Count, score=Share, event_share=Share)
_Calibration = _object(bins=Annotated[list[_Bin], Field(min_length=1, max_length=1000)], error=Percent)
_Category = _object(**_RETRIEVAL, category=Name, accuracy=Percent, clips=Count, segments=Count)
_Length = _object(seconds=Count, accuracy=Percent, clips=Count)
_Second = _object(second=Count, accuracy=Percent, event_share=Percent)
_Position = _object(position=Annotated[Name, _renamed("position", "place")], accuracy=Percent, segments=Count)


class _Metrics(BaseModel):
    """What is read of `metrics.json`."""

    # Strict: a text or a list in the place of a number is damage.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    accuracy: Annotated[float, Field(ge=0, le=100 + 1e-6)]
    clips: Annotated[Count, Field(gt=0)]
    segments: Annotated[Count, Field(gt=0)]
    split: Name
    model: Name | None = None
    official_clips: Count | None = None  # of AVE's split; None: another data set, or an early version
    label_regime: Name | None = None  # in an evaluation of an early version, none is named
    localization: Annotated[str, _renamed("localization", "reading")]  # in words
    checkpoint: str
    epoch: Count | None
    data_root: FolderName
    generated: bool = False
    right_category_everywhere: Percent
    best_single_label: Percent
    accuracy_without_leaked: Percent = None
    leaked_clips: Count | None = None
    protocols: _Protocols | None
    categories: Annotated[list[Name], Field(min_length=1)]
    naming_and_timing: _NamingAndTiming | None = None  # earlier versions' files have none
    errors: _Errors
    events: _Events
    separation: dict[Name, _Separation]
    calibration: dict[Name, _Calibration]
    per_category: list[_Category]
    by_event_length: list[_Length]
    by_second: list[_Second]
    by_position: Annotated[list[_Position], _renamed("by_position", "by_place")]
    confusion_matrix: list[list[Count]]


class Stored(NamedTuple):
    """An evaluation as its folder holds it; n clips of T segments, in the order of `predictions.jsonl`."""

    metrics: dict[str, Any]  # of `metrics.json` what `_Metrics` names
    rows: np.ndarray  # [n] int64: row in the feature file
    ids: list[str | None]
    prediction: np.ndarray  # [n, T] int64: category indices, C is background
    target: np.ndarray  # [n, T] int64
    category: np.ndarray  # [n] int64: of the clip as a whole, as predicted
    scores: dict[str, np.ndarray]  # [n, T] each, in [0, 1]: "event_probability" and the network's own
    attention: np.ndarray | None  # [n, T, H, W], read from the file as it is used

    def clip_scores(self) -> dict[str, np.ndarray]:
        """Each clip's scores, in percent: [n] float64 each (see `utils.evaluation.clip_scores`)."""
        return clip_scores(self.prediction, self.target, self.category, len(self.metrics["categories"]))


def read(folder: Path) -> Stored:
    """Read what `results.write` wrote. Raises UserError for a folder that isn't a whole evaluation."""
    metrics = _metrics(folder / METRICS, read_metrics(folder))
    try:
        with reading(folder):
            clips = read_json_lines(folder / PREDICTIONS)
            attention = None
            if (folder / ATTENTION).exists():
                require_file(folder / ATTENTION)
                attention = np.lib.format.open_memmap(folder / ATTENTION, "r")
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # the last two are NumPy's, of a header
        raise UserError(f"{folder}: its files are damaged ({error}); {_AGAIN}") from error
    if len(clips) != metrics["clips"]:
        raise UserError(
            f"{folder}: its files are of different evaluations ({metrics['clips']} clips in {METRICS}, {len(clips)} in "
            f"{PREDICTIONS}); {_AGAIN}"
        )
    try:
        stored = _clips(metrics, clips, attention)
    except (ValueError, KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{folder / PREDICTIONS}: is damaged, or of another version ({missing}); {_AGAIN}") from error
    right = 100 * float((stored.prediction == stored.target).mean())
    if stored.target.size != metrics["segments"] or abs(right - metrics["accuracy"]) > 1e-6:
        raise UserError(
            f"{folder}: its files are of different evaluations ({metrics['accuracy']:.4f} % of {metrics['segments']} "
            f"segments in {METRICS}, {right:.4f} % of {stored.target.size} in {PREDICTIONS}); {_AGAIN}"
        )
    return stored


def _metrics(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    try:
        checked = _Metrics.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))[:100]
        if problem["type"] == "missing":
            raise UserError(f"{path}: was written by an older version, without {key!r}; {_AGAIN}") from None
        raise UserError(f"{path}: is damaged, {key!r}: {problem['msg']}; {_AGAIN}") from None
    columns = len(checked.categories) + 1
    sizes = {len(checked.per_category), len(checked.confusion_matrix), *map(len, checked.confusion_matrix)}
    if sizes != {columns}:
        raise UserError(f"{path}: is damaged, its tables are not all of {columns - 1} categories; {_AGAIN}")
    if set(checked.separation) != set(checked.calibration) or "event_probability" not in checked.separation:
        raise UserError(f"{path}: is damaged, 'separation' and 'calibration' are of different scores; {_AGAIN}")
    return checked.model_dump(exclude_unset=True)


def _clips(metrics: dict[str, Any], clips: list[dict[str, Any]], attention: np.ndarray | None) -> Stored:
    """The lines of `predictions.jsonl` as arrays. Raises ValueError, KeyError or TypeError where they are damaged."""
    rows = np.array([clip["index"] for clip in clips])
    ids = [clip["id"] for clip in clips]
    if rows.ndim != 1 or rows.dtype.kind != "i" or rows.min() < 0:
        raise ValueError("'index' is not a row in every line")
    if not all(id is None or isinstance(id, str) for id in ids):
        raise ValueError("'id' is not a text in every line")
    background = len(metrics["categories"])
    prediction, target = (_table(clips, key, "i", background) for key in ("prediction", "target"))
    indices = {name: index for index, name in reversed([*enumerate([*metrics["categories"], "background"])])}
    if unknown := [clip["category"] for clip in clips if clip["category"] not in indices]:
        raise ValueError(f"'category' is {str(unknown[0])[:40]!r} somewhere, which is none of {METRICS}")
    category = np.array([indices[clip["category"]] for clip in clips])
    scores = {name: _table(clips, name, "if", 1) for name in metrics["separation"]}
    if len({table.shape for table in (prediction, target, *scores.values())}) > 1:
        raise ValueError("its lists have different lengths")
    if attention is not None and (
        attention.ndim != 4 or attention.shape[:2] != target.shape or not attention.size or attention.dtype.kind != "f"
    ):
        raise ValueError(f"{ATTENTION} holds {attention.dtype} {list(attention.shape)}, which are no maps of it")
    if attention is not None and attention.shape[2:] == (1, 1):  # an early version kept it, and it shows nothing
        attention = None
    return Stored(metrics, rows, ids, prediction, target, category, scores, attention)


def _table(clips: list[dict[str, Any]], key: str, kinds: str, most: int) -> np.ndarray:
    """The lists of a key, numbers from 0 to `most`, as [n, T]."""
    table = np.array([clip[key] for clip in clips])
    if table.ndim != 2 or not table.size or table.dtype.kind not in kinds:
        raise ValueError(f"{key!r} is not a list of numbers, of one length in every line")
    if not (np.isfinite(table).all() and table.min() >= 0 and table.max() <= most + 1e-6):
        raise ValueError(f"{key!r} is not between 0 and {most} everywhere")
    return table
