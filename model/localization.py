"""From a network's output to a category for each segment: where in the clip is the event?

A network that learned from segment labels predicts that itself. One that learned from clip labels does not, so one of
`RULES` reads it off the network's scores or activations. Neither a rule nor the choice of its threshold sees a segment
label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.interface import Explanation, Prediction, category_of_clips, spread_category
from model.settings import RuleName, check_rule
from model.thresholds import likely_threshold, otsu_threshold


def _own(activations: Sequence[Tensor], category: Tensor) -> Tensor:
    """The activation of the clip's category, summed: [B, T, C+1] each, [B] -> [B, T]."""
    return sum(activations)[torch.arange(len(category), device=category.device), :, category]


def _margin(activations: Sequence[Tensor], category: Tensor) -> Tensor:
    """By how much the activation of the clip's category is above the background's, summed: -> [B, T]."""
    return _own(activations, category) - sum(activations)[..., -1]


def _margin_behind_best(activations: Sequence[Tensor], category: Tensor) -> Tensor:
    """How far a segment's margin stays behind the clip's highest: -> [B, T], at most 0.

    Clips differ in how strongly they show their event; this takes that out.
    """
    margin = _margin(activations, category)
    return margin - margin.amax(1, keepdim=True)


def _unbroken_odds(activations: Sequence[Tensor], category: Tensor) -> Tensor:
    """Odds of a segment's category against background, as a share of the clip's highest: -> [B, T] in (0, 1].

    Each of the n activations by itself is a log-odds of category c against background b, so with its margin
    m_k[t] = a_k[t, c] - a_k[t, b] a segment's odds are exp(m_k[t] - max m_k) of those of the clip's best segment:

        r[t] = 1/n sum over k of exp(m_k[t] - max over s of m_k[s])

    An event has no gaps. So a segment counts as much as the best before it or the best after it, whichever is less:

        score[t] = min(max over s <= t of r[s], max over s >= t of r[s])

    which is at least r[t], and above a threshold exactly from the first to the last segment where r is.
    """
    odds = sum(_margin_behind_best([activation], category).exp() for activation in activations) / len(activations)
    until, after = odds.cummax(1).values, odds.flip(1).cummax(1).values.flip(1)
    return torch.minimum(until, after)


class Rule(NamedTuple):
    """How segments are scored; those with a score above the threshold are events. See RULES."""

    description: str  # in words, for results; {threshold} and {below}, its negative, are filled in
    score: str | None = None  # what scores segments: a score of the network's explanation, a probability, or else
    activations: tuple[str, ...] = ()  # these activations of C+1 columns, background last,
    of_activations: Callable[[Sequence[Tensor], Tensor], Tensor] = _own  # read like this for the clip's category
    threshold: float | None = None  # None: chosen on training clips
    choose: Callable[[Tensor], float] = otsu_threshold  # like this
    chosen_by: str = "Otsu's rule"  # in words


_CATEGORY = "background where the class activation of the clip's category"
# What `eval.localize` may say. "authors" is the network's own `predict`, which has no threshold.
RULES: dict[RuleName, Rule] = {
    "authors": Rule("the network's own"),
    # CMBS trains its gate through the strongest segment alone, so the gate of the other segments may mean nothing.
    "gate": Rule("background where the gate is not above {threshold:.4g}", score="gate"),
    "activation": Rule(f"{_CATEGORY} is not above {{threshold:.4g}}", activations=("fused",)),
    "background": Rule(
        f"{_CATEGORY}, less the background's, is not above {{threshold:.4g}}",
        activations=("fused",),
        of_activations=_margin,
        threshold=0.0,
    ),
    "relative": Rule(
        f"{_CATEGORY}, less the background's, lies {{below:.4g}} or more below its highest in the clip",
        activations=("fused",),
        of_activations=_margin_behind_best,
    ),
    # With each modality's own activations: where the event is seen, and where it is heard.
    "combined": Rule(
        f"{_CATEGORY}, less the background's, summed over the fused features, the image and the audio, lies "
        f"{{below:.4g}} or more below its highest in the clip",
        activations=("fused", "visual", "audio"),
        of_activations=_margin_behind_best,
    ),
    # The same as odds, so that the clearest background weighs no more than clear background, and without gaps.
    "contiguous": Rule(
        "background before the first and after the last segment where the odds of the clip's category against "
        "background are above {threshold:.4g} of its highest in the clip, on average over the fused features, the "
        "image and the audio",
        activations=("fused", "visual", "audio"),
        of_activations=_unbroken_odds,
        choose=likely_threshold,
        chosen_by="the likeliest split into two normal distributions",
    ),
    # For networks whose loss takes logits (`model.quirks.probs_as_logits` off): they grow so far apart that the odds of
    # all three agree in little more than the best segment.
    "contiguous_fused": Rule(
        "background before the first and after the last segment where the odds of the clip's category against "
        "background are above {threshold:.4g} of its highest in the clip",
        activations=("fused",),
        of_activations=_unbroken_odds,
        choose=likely_threshold,
        chosen_by="the likeliest split into two normal distributions",
    ),
}


class Localization:
    """How a network's output becomes a prediction, by one of RULES.

    The clip's category is always the network's own. By any rule but "authors", a segment has this category where its
    score is above a threshold, and is background elsewhere.

    Args:
        network: whose outputs are read; it gives `predict` and the authors' rule in words (see `model.interface`).
        localize: a name of RULES.
        threshold: of the rule; None: the rule's own where it has one, else it is left to `choose`, or to `restore`.

    Raises ValueError for an unknown rule, and for a threshold that the rule can't have.
    """

    def __init__(self, network: nn.Module, localize: str = "authors", threshold: float | None = None) -> None:
        check_rule(localize, threshold)
        self.network, self.localize, self.rule = network, localize, RULES[localize]
        self.threshold = self.rule.threshold if threshold is None else threshold
        self.chosen_by = "fixed" if threshold is None else "given by the config"
        self.chooses = localize != "authors" and self.threshold is None

    @classmethod
    def of_state(cls, network: nn.Module, state: dict[str, Any]) -> Localization:
        """The localization that a checkpoint or an evaluation remembers. Raises ValueError where it is none."""
        localize, threshold = state.get("localize", "authors"), state.get("threshold")
        known = isinstance(localize, str) and localize in RULES
        if not known or not (_is_number(threshold) or localize == "authors" or RULES[localize].threshold is not None):
            raise ValueError(f"holds no localization that is known here ({localize!r}, threshold {threshold!r})")
        localization = cls(network, localize)
        if _is_number(threshold):
            localization.threshold, localization.chooses = threshold, False
        localization.chosen_by = state.get("chosen_by", localization.chosen_by)
        return localization

    def state(self) -> dict[str, Any]:
        """What a checkpoint and an evaluation have to remember."""
        threshold = {} if self.localize == "authors" else {"threshold": self.threshold, "chosen_by": self.chosen_by}
        return {"localize": self.localize, **threshold}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's threshold if it was chosen for this rule; else there is none yet."""
        if self.chooses:
            known = state.get("localize") == self.localize and _is_number(state.get("threshold"))
            self.threshold, self.chosen_by = (state["threshold"], state.get("chosen_by")) if known else (None, "")

    @property
    def event_threshold(self) -> float:
        """A segment with an event probability above it is an event, unless its clip is called background."""
        if self.localize == "authors":
            return self.network.event_threshold
        return self.threshold if self.rule.score else 0.5

    @property
    def description(self) -> str:
        """The rule in words, for results."""
        if self.localize == "authors":
            return self.network.prediction_rule
        what = self.rule.description.format(threshold=self.threshold, below=-self.threshold)
        return f"{what} (threshold {self.chosen_by})"

    def __call__(self, output: Any, explanation: Explanation) -> Prediction:
        """An output and its explanation as a prediction. Raises ValueError as `check`."""
        prediction = self.network.predict(output, explanation)
        if self.localize == "authors":
            return prediction
        background = prediction.category_probability.shape[2]
        score = self._scores(explanation, prediction.category)
        if self.rule.score:
            probability = score
        else:  # activations are logits; a clip called background has no event
            probability = (score - self.threshold).sigmoid() * (prediction.category != background).unsqueeze(1)
        # The shares of the categories stay the network's own.
        share = prediction.category_probability / _positive(prediction.event_probability).unsqueeze(2)
        return Prediction(
            spread_category(prediction.category, score > self.threshold, background),
            prediction.category,
            probability,
            share * probability.unsqueeze(2),
        )

    def scores(self, explanation: Explanation, labels: Tensor) -> Tensor:
        """Scores of the labelled category in training clips with clip labels [B, C+1]: those with an event, [n, T]."""
        category = category_of_clips(labels)
        return self._scores(explanation, category)[category != labels.shape[1] - 1]

    def choose(self, scores: Tensor) -> None:
        """Choose the threshold from what `scores` returned of the training clips, [n, T]."""
        self.threshold = self.rule.choose(scores)
        self.chosen_by = (
            f"chosen by {self.rule.chosen_by} on {len(scores)} training clips with an event, from clip labels only"
        )

    def check(self, explanation: Explanation) -> None:
        """Raise ValueError where an explanation of the network lacks what the rule reads."""
        wanted = {"scores": [self.rule.score] if self.rule.score else [], "activations": self.rule.activations}
        for kind, names in wanted.items():
            there = getattr(explanation, kind)
            missing = [name for name in names if name not in there]
            if missing:
                raise ValueError(
                    f"the localization rule {self.localize!r} reads {', '.join(names)}, and this network has no "
                    f"{' and no '.join(missing)}; its {kind} are {', '.join(there) or 'none'}"
                )

    def _scores(self, explanation: Explanation, category: Tensor) -> Tensor:
        self.check(explanation)
        if self.rule.score:
            return explanation.scores[self.rule.score]
        return self.rule.of_activations([explanation.activations[name] for name in self.rule.activations], category)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)
