"""One page to look at an evaluation: `report.html`, from the files in the evaluation's folder.

    python -m utils.report Exps/Supv/exp1/eval-test      # make the page and the figures anew

The page is one file that opens from disk and needs nothing else: its data stand in it as JSON, and the scripts
and styles of `report_page/` are written into it. Every evaluation writes it (`utils.report.write_report`);
the files that it is made from are described in `utils.evaluation.results`.
"""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from dataset.files import VIDEOS, in_words
from utils.base.atomic import write_text
from utils.base.errors import UserError
from utils.base.paths import config_path, project_path
from utils.evaluation.results import ATTENTION, REPORT
from utils.evaluation.stored import Stored, read
from utils.report import figures, filmstrip

BEST_AND_WORST = 24  # clips of each kind in the gallery over all categories
GALLERY = 1000  # clips in the gallery of single categories, about; each of them costs about 1 KB
LEAST_A_CATEGORY, MOST_A_CATEGORY = 2, 8  # clips of each kind

BARS = 20  # of a score's histogram

_PAGE = Path(__file__).with_name("report_page")
_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"  # 0 to 63, one character each


def write(folder: Path, data_root: str | None = None) -> None:
    """Write `report.html` and the figures into an evaluation's folder.

    Args:
        data_root: the data folder with the raw videos, if that isn't the one of the evaluation.

    Raises UserError as `stored.read`, and where the folder can't be written.
    """
    stored = read(folder)
    if data_root is not None:
        if not (Path(data_root) / VIDEOS).is_dir():
            raise UserError(f"--data_root {data_root}: has no folder {VIDEOS}; leave it out for a page without frames")
        stored.metrics["data_root"] = config_path(data_root)
    text = page(stored)
    figures.save(stored.metrics, folder)
    write_text(folder / REPORT, text)


def page(stored: Stored) -> str:
    """The report of an evaluation as HTML."""
    template, style, numbers, clips = (
        (_PAGE / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js", "gallery.js")
    )
    parts = {"style": style, "script": numbers + clips, "data": embedded_json(page_data(stored))}
    return string.Template(template).substitute(parts)


def embedded_json(data: Any) -> str:
    """JSON that can stand in an HTML script element whatever its strings hold: none of them can end it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: other characters become \\u escapes
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page_data(stored: Stored) -> dict[str, Any]:
    """What the page shows: the metrics, and the clips of its gallery with what is needed to draw them."""
    background = len(stored.metrics["categories"])
    groups = gallery(quality_order(stored), clip_groups(stored.target, background), background)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*groups.values()))  # a worst, a best, a random one
    chosen = list(dict.fromkeys(index for index in in_turn if index is not None))
    strips, note = filmstrip.strips(
        project_path(stored.metrics["data_root"]), [stored.ids[index] for index in chosen], stored.target.shape[1]
    )
    clips = [_clip(stored, index) | strip for index, strip in zip(chosen, strips, strict=True)]
    position = {index: number for number, index in enumerate(chosen)}
    return {
        "metrics": stored.metrics,
        "learned_from": in_words(regime) if (regime := stored.metrics.get("label_regime")) else None,
        "histograms": histograms(stored),
        "scores": list(stored.scores),  # in the order of each clip's "s"
        "grid": list(stored.attention.shape[2:]) if stored.attention is not None else None,
        "clips": clips,
        "gallery": {kind: [position[index] for index in indices] for kind, indices in groups.items()},
        "frames_note": note,
    }


def histograms(stored: Stored) -> dict[str, dict[str, Any]]:
    """How many event and how many background segments have a score in each of BARS equal parts of its own range.

    A score that tells the two apart has them at different places; one that is dead has them at the same.
    """
    is_event = stored.target != len(stored.metrics["categories"])
    counted = {}
    for name, values in stored.scores.items():
        _, edges = np.histogram(values, BARS)
        event, background = (np.histogram(values[mask], edges)[0].tolist() for mask in (is_event, ~is_event))
        counted[name] = {"range": [float(edges[0]), float(edges[-1])], "event": event, "background": background}
    return counted


def quality_order(stored: Stored) -> np.ndarray:
    """Clips from the best to the worst: by right segments, then by |event probability - truth|, then as they come."""
    is_event = stored.target != len(stored.metrics["categories"])
    right = (stored.prediction == stored.target).sum(1)
    distance = np.abs(stored.scores["event_probability"] - is_event).mean(1)
    return np.lexsort((distance, -right))


def clip_groups(target: np.ndarray, background: int) -> np.ndarray:
    """The category under which the gallery lists a clip: that of its first event, or background; [n]."""
    is_event = target != background
    first = target[np.arange(len(target)), is_event.argmax(1)]
    return np.where(is_event.any(1), first, background)


def gallery(order: np.ndarray, group: np.ndarray, background: int) -> dict[str, list[int]]:
    """Clips to show, worst, best and random ones: of all clips, and of each category so many as fit into the page.

    The page filters by category, so a kind's list is those of all clips followed by more of each category.
    """
    a_category = int(np.clip(GALLERY // (3 * (background + 1)), LEAST_A_CATEGORY, MOST_A_CATEGORY))
    shuffled = np.random.default_rng(0).permutation(np.sort(order))
    kinds = {"worst": order[::-1], "best": order, "random": shuffled}
    return {kind: _leading(indices, group, a_category) for kind, indices in kinds.items()}


def _leading(order: np.ndarray, group: np.ndarray, a_category: int) -> list[int]:
    """The first of all and the first of each group, in their order."""
    seen: dict[int, int] = {}
    chosen = []
    for rank, index in enumerate(order.tolist()):
        of_group = seen.get(group[index], 0)
        if rank < BEST_AND_WORST or of_group < a_category:
            chosen.append(index)
        seen[group[index]] = of_group + 1
    return chosen


def _clip(stored: Stored, index: int) -> dict[str, Any]:
    """A clip in short keys: the page holds a thousand of them. Scores are in percent."""
    short = {
        "row": int(stored.rows[index]),
        "id": stored.ids[index],
        "t": stored.target[index].tolist(),
        "p": stored.prediction[index].tolist(),
        "s": [(100 * values[index]).round(1).tolist() for values in stored.scores.values()],
    }
    if stored.attention is not None:
        short["m"], short["scale"] = _packed(stored.attention[index])
    return short


def _packed(attention: np.ndarray) -> tuple[str, list[float]]:
    """A clip's maps [T, H, W] as a character of 64 a cell, and what the lowest and the highest character stand for,
    as multiples of even attention. Raises UserError where a number isn't finite."""
    relative = attention.astype(np.float32) * attention[0].size
    if not np.isfinite(relative).all():
        raise UserError(f"{ATTENTION}: holds a number that is not finite; evaluate again, or remove the file")
    low, high = float(relative.min()), float(relative.max())
    steps = np.rint((relative - low) / max(high - low, 1e-6) * 63).astype(int)
    return "".join(_DIGITS[step] for step in steps.ravel()), [round(low, 2), round(high, 2)]
