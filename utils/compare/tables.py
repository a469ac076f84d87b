"""The tables of a comparison, as Markdown."""

from __future__ import annotations

import numpy as np

from dataset.files import in_words
from utils.base.tables import markdown
from utils.compare.compared import Compared
from utils.evaluation.clip_scores import ACCURACY, SCORES, clip_categories
from utils.evaluation.intervals import RESAMPLES, difference_interval, mean_interval, number
from utils.evaluation.protocols import Protocol
from utils.evaluation.results import GENERATED
from utils.evaluation.stored import Stored


def comparison(compared: list[Compared], protocol: Protocol | None = None) -> str:
    """The text and tables that compare evaluations of the same clips with the first of them.

    Args:
        protocol: by which a study's weights were chosen; None: no study is among them.
    """
    metrics = compared[0].evaluations[0].metrics
    scores = {one.name: one.clip_scores() for one in compared}
    base, *others = scores
    generated = [f"**Generated clips**: {GENERATED}."] if metrics.get("generated") else []
    parts = [
        f"{metrics['clips']} clips of the {metrics['split']} split, each evaluation compared with {base}.",
        *generated,
        *([f"The weights of each run of a study are of the {protocol.rule} ({protocol.name})."] if protocol else []),
        *_label_regimes(compared),
        markdown(*_accuracies(scores)),
        "Naming and timing apart, %:",
        markdown(*_apart(scores)),
    ]
    for other in others:
        table = _by_category(compared[0].evaluations[0], base, scores[other][ACCURACY], scores[base][ACCURACY])
        parts += [f"{SCORES[ACCURACY].capitalize()} by category, %: {other} less {base}", markdown(*table)]
    several = any(len(one.evaluations) > 1 for one in compared)
    return "\n\n".join([*(part.rstrip("\n") for part in parts), _explained(several)])


def _label_regimes(compared: list[Compared]) -> list[str]:
    """Which of several tasks "weakly supervised" is for each network, where one is."""
    regimes = {one.name: one.evaluations[0].metrics.get("label_regime") for one in compared}
    lines = [f"- {name}: {in_words(regime)}" for name, regime in regimes.items() if regime]
    return ["\n".join(["What the weakly supervised networks learned from:\n", *lines])] if lines else []


Scores = dict[str, np.ndarray]  # by name, [seeds, clips] each


def _accuracies(every: dict[str, Scores]) -> tuple[list[str], list[list[str]]]:
    base, *others = every
    first = every[base][ACCURACY]
    body = [[base, str(len(first)), mean_interval(first).text(), "", "", "", ""]]
    for name in others:
        scores = every[name][ACCURACY]
        line = [name, str(len(scores)), mean_interval(scores).text()]
        line += [difference_interval(scores, first).text("+"), *map(str, won_lost_tied(scores, first))]
        body.append(line)
    return ["evaluation", "seeds", f"{SCORES[ACCURACY]}, %", "difference", "clips won", "lost", "tied"], body


def won_lost_tied(scores: np.ndarray, base: np.ndarray) -> tuple[int, int, int]:
    """Clips of which `scores` has more right, fewer and as many as `base`, in the mean over seeds: [seeds, clips]."""
    difference = (scores.mean(0) - base.mean(0)).round(6)  # means of the same numbers may differ in their last digits
    return int((difference > 0).sum()), int((difference < 0).sum()), int((difference == 0).sum())


def _apart(every: dict[str, Scores]) -> tuple[list[str], list[list[str]]]:
    names = [name for name in SCORES if name != ACCURACY]
    base, *others = every
    body = [[base, *(number(mean_interval(every[base][name]).value) for name in names)]]
    for other in others:
        pairs = [(every[other][name], every[base][name]) for name in names]
        body.append([f"{other}, difference", *(difference_interval(*pair).text("+") for pair in pairs)])
    return ["evaluation", *(SCORES[name] for name in names)], body


def _by_category(
    stored: Stored, base_name: str, scores: np.ndarray, base: np.ndarray
) -> tuple[list[str], list[list[str]]]:
    """A row for each category that a clip's event has, and one of clips without an event where there are any."""
    names = [*stored.metrics["categories"], "background"]
    of_clip = clip_categories(stored.target, len(names) - 1)
    body = []
    for index in np.unique(of_clip):
        ours, theirs = scores[:, of_clip == index], base[:, of_clip == index]
        difference = difference_interval(ours, theirs).text("+")
        body.append([names[index], f"{theirs.mean():.2f}", difference, *map(str, won_lost_tied(ours, theirs))])
    return ["category", base_name, "difference", "clips won", "lost", "tied"], body


def _explained(several: bool) -> str:
    """How to read the tables; `several`: an evaluation has more than one seed."""
    drawn = "the same clips for all, and each one's seeds by themselves" if several else "the same clips for all"
    return (
        f"In brackets: 95 % intervals, by drawing with replacement {RESAMPLES:,} times: {drawn}. Where the interval of "
        f"a difference holds 0, these clips do not tell the two apart; of twenty categories one leaves out 0 by "
        f"chance. A clip is won where more of its segments are right{', in the mean over seeds' if several else ''}."
    )
