"""The figures of an evaluation, as PNG files and in TensorBoard; `utils.evaluation.metrics` says what each counts."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image

from utils.base.atomic import atomic_path, make_folder, writing
from utils.base.figures import any_script, label

FIGURES = "figures"  # folder beside metrics.json
_DPI = 120
_LABELLED = 60  # categories up to which each one is named

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _RED, _GREY = "#0072B2", "#E69F00", "#D55E00", "#999999"


def save(metrics: dict[str, Any], folder: Path) -> None:
    """Draw the figures of an evaluation's `metrics.json` into `folder`/figures and as TensorBoard events there.

    Files of an earlier evaluation are replaced. Raises UserError where they can't be written.
    """
    with any_script():
        drawn = {name: _rendered(figure) for name, figure in draw(metrics)}
    figures = make_folder(folder / FIGURES)
    for name, pixels in drawn.items():
        with atomic_path(figures / f"{name}.png") as part:
            Image.fromarray(pixels).save(part, "PNG", dpi=(_DPI, _DPI))
    events = figures / f"events.out.tfevents.{time.time():.0f}"
    with atomic_path(events) as part:
        part.write_bytes(_events({f"{metrics['split']}/{name}": drawn[name] for name in drawn}, metrics["epoch"] or 0))
    with writing(figures):
        for old in figures.glob("events.out.tfevents.*"):
            if old != events:
                old.unlink()


def _events(images: dict[str, np.ndarray], step: int) -> bytes:
    """TensorBoard's file of some images [H, W, 3] uint8, by their tags; written without the thread of a SummaryWriter,
    whose errors come late."""
    buffer = io.BytesIO()
    records, now = RecordWriter(buffer), time.time()
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for tag, pixels in images.items():
        summary = image(tag, pixels, dataformats="HWC")
        records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    return buffer.getvalue()


def _rendered(figure: Figure) -> np.ndarray:
    """A figure as [H, W, 3] uint8: drawn once for both uses, and without pyplot's windows and global state."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw(metrics: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    """The figures, one after another, with the names of their files."""
    yield "confusion_matrix", confusion_matrix(metrics["confusion_matrix"], metrics["categories"])
    yield "per_category", per_category(metrics["per_category"], metrics["accuracy"])
    yield "accuracy_by_time", accuracy_by_time(metrics)
    yield "calibration", calibration(metrics["calibration"])


def confusion_matrix(matrix: list[list[int]], categories: list[str]) -> Figure:
    """Shares of each annotated category's segments by predicted category: [C+1, C+1] counts, rows annotated."""
    counts = np.asarray(matrix, dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(counts) <= _LABELLED
    inches = 3 + (0.22 if named else 0.06) * len(counts)
    figure = Figure(figsize=(inches + 0.8, inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="% of the annotated segments", shrink=0.7)
    if named:
        names = [*map(label, categories), "background"]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="annotated", title="Confusion of segments")
    return figure


def per_category(rows: list[dict[str, Any]], accuracy: float) -> Figure:
    """Accuracy of each category's clips, lowest first; categories without a clip are left out."""
    shown = sorted((row for row in rows if row["accuracy"] is not None), key=lambda row: row["accuracy"], reverse=True)
    named = len(shown) <= _LABELLED
    figure = Figure(figsize=(7, 1.4 + (0.22 if named else 0.05) * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shown)), [row["accuracy"] for row in shown], color=_BLUE, height=0.7 if named else 1)
    axes.axvline(accuracy, color=_RED, linewidth=1, linestyle="--", label=f"all clips: {accuracy:.1f} %")
    if named:
        names = [f"{label(row['category'])} ({row['clips']})" for row in shown]
        axes.set_yticks(range(len(names)), names, fontsize=8)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(shown)} categories, the weakest on top")
    axes.set(xlim=(0, 100), xlabel="accuracy, % of segments", title="Accuracy by category (clips)")
    axes.margins(y=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.08 if len(shown) > 12 else -0.2), frameon=False, fontsize=8)
    return figure


def accuracy_by_time(metrics: dict[str, Any]) -> Figure:
    """Accuracy against the event's length, the second of the clip, and the position relative to the event."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    lengths, seconds, positions = metrics["by_event_length"], metrics["by_second"], metrics["by_position"]
    _bars(left, [f"{row['seconds']}\n({row['clips']})" for row in lengths], lengths, "seconds of event (clips)")
    _bars(middle, [str(row["second"]) for row in seconds], seconds, "second of the clip")
    _bars(right, [row["position"].replace(" ", "\n") for row in positions], positions, "position relative to the event")
    left.set(ylabel="accuracy, % of segments")
    for axes in (left, middle, right):
        axes.axhline(metrics["accuracy"], color=_RED, linewidth=1, linestyle="--", label="all segments")
    right.legend(loc="lower right", fontsize=8)
    return figure


def _bars(axes: Axes, names: list[str], rows: list[dict[str, Any]], label: str) -> None:
    heights = [row["accuracy"] or 0 for row in rows]
    axes.bar(range(len(rows)), heights, color=_BLUE, width=0.75)
    axes.set_xticks(range(len(rows)), names, fontsize=8)
    axes.set(ylim=(0, 100), xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)


def calibration(curves: dict[str, dict[str, Any]]) -> Figure:
    """Reliability diagrams: the share of events against the score, over how many segments have that score."""
    figure = Figure(figsize=(3 * len(curves), 4.2), layout="constrained")
    axes = figure.subplots(2, len(curves), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
    for (name, curve), upper, lower in zip(curves.items(), *axes, strict=True):
        bins = [row for row in curve["bins"] if row["segments"]]
        upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
        upper.plot(
            [row["score"] for row in bins], [row["event_share"] for row in bins], color=_BLUE, marker="o", markersize=4
        )
        upper.set(
            xlim=(0, 1), ylim=(-0.02, 1.02), title=f"{label(name.replace('_', ' '))}\nerror {curve['error']:.1f} %"
        )
        upper.title.set_fontsize(10)
        centres = (np.arange(len(curve["bins"])) + 0.5) / len(curve["bins"])
        lower.bar(centres, [row["segments"] for row in curve["bins"]], color=_ORANGE, width=0.09)
        lower.set(xlabel="score")
    axes[0][0].set(ylabel="share of events")
    axes[1][0].set(ylabel="segments")
    return figure
