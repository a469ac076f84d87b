"""The figure of `python -m dataset.stats`: a data folder's categories, event lengths and trivial predictors."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset.stats.counts import FolderStatistics
from dataset.stats.table import TRIVIAL_PREDICTORS
from utils.base.atomic import atomic_path, make_folder
from utils.base.figures import any_script, label

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by their order.
COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}


def save_figure(statistics: FolderStatistics, path: str | os.PathLike) -> None:
    """Draw the figure as a PNG at `path`. Raises UserError where that can't be written."""
    figure = _draw(statistics)
    make_folder(Path(path).parent)
    with atomic_path(path) as part, any_script():
        figure.savefig(part, format="png", dpi=150)


def _draw(statistics: FolderStatistics) -> Figure:
    count = len(statistics.categories)
    figure = Figure(figsize=(15, max(9, 2 + 0.16 * count)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    clips_axes, seconds_axes = left.subplots(1, 2, sharey=True)
    lengths_axes, share_axes, trivial_axes = right.subplots(3, 1, height_ratios=(1, 0.8, 1.2))

    order = np.argsort(sum(statistics.clips_by_category(split) for split in statistics.segment_labels), kind="stable")
    _category_bars(clips_axes, statistics, order, statistics.clips_by_category)
    clips_axes.set_xlabel("clips")
    clips_axes.set_yticks(
        range(count), [label(statistics.categories[i]) for i in order], fontsize=9 if count <= 50 else 6
    )
    clips_axes.legend(loc="lower right", frameon=False)
    _category_bars(seconds_axes, statistics, order, statistics.event_seconds_by_category)
    seconds_axes.set_xlabel("event seconds")
    clips_axes.set_title("Clips of each category", fontsize=12)
    seconds_axes.set_title("Event seconds of each category", fontsize=12)

    _event_lengths(lengths_axes, statistics)
    _event_share(share_axes, statistics)
    _trivial_predictors(trivial_axes, statistics)
    for axes in (clips_axes, seconds_axes, lengths_axes, share_axes, trivial_axes):
        axes.spines[["top", "right"]].set_visible(False)
    clips = sum(map(len, statistics.segment_labels.values()))
    root = label(str(statistics.root), longest=60)
    figure.suptitle(f"{root}: {clips} clips of {statistics.segments} s, {count} categories", fontsize=14)
    return figure


def _category_bars(
    axes: Axes, statistics: FolderStatistics, order: np.ndarray, count_of_split: Callable[[str], np.ndarray]
) -> None:
    start = np.zeros(len(order), dtype=int)
    for split in statistics.segment_labels:
        counts = count_of_split(split)[order]
        axes.barh(range(len(order)), counts, left=start, color=COLOURS[split], label=split, height=0.8)
        start += counts
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def _grouped(splits: list[str]) -> list[tuple[str, float, float]]:
    """(split, offset, width) of the bars that stand side by side."""
    width = 0.8 / len(splits)
    return [(split, (i - (len(splits) - 1) / 2) * width, width) for i, split in enumerate(splits)]


def _event_lengths(axes: Axes, statistics: FolderStatistics) -> None:
    for split, offset, width in _grouped(list(statistics.segment_labels)):
        counts = statistics.event_lengths(split)
        axes.bar(np.arange(len(counts)) + offset, 100 * counts / counts.sum(), width, color=COLOURS[split], label=split)
    if statistics.segments <= 20:
        axes.set_xticks(range(statistics.segments + 1))
    axes.set_xlabel("event seconds in a clip")
    axes.set_ylabel("% of the split's clips")
    axes.set_title("How long events are", fontsize=12)


def _event_share(axes: Axes, statistics: FolderStatistics) -> None:
    for split, marker in zip(statistics.segment_labels, "os^", strict=False):
        share = 100 * statistics.event_share_by_second(split)
        axes.plot(range(len(share)), share, color=COLOURS[split], marker=marker, label=split)
    axes.set_ylim(0, 100)
    axes.set_xlabel("second of the clip")
    axes.set_ylabel("% with an event")
    axes.set_title("Where events are", fontsize=12)
    axes.legend(loc="lower right", frameon=False, ncols=3)


def _trivial_predictors(axes: Axes, statistics: FolderStatistics) -> None:
    shown = [split for split in ("val", "test") if split in statistics.segment_labels] or ["train"]
    for split, offset, width in _grouped(shown):
        values = [getattr(statistics.trivial[split], name) for name in TRIVIAL_PREDICTORS.values()]
        bars = axes.barh(np.arange(len(values)) + offset, values, width, color=COLOURS[split], label=split)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set_yticks(range(len(TRIVIAL_PREDICTORS)), [textwrap.fill(title, 18) for title in TRIVIAL_PREDICTORS])
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("segment accuracy, %")
    axes.set_title("What predictors score that look at no segment", fontsize=12)
    axes.legend(loc="upper right", frameon=False)
