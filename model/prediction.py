"""From what a network says of a clip to a category for each of its segments.

The weak network is trained on clip labels only, so where in the clip the event is must be read off something.
`WeakReading` offers several such readings; none of them, nor what chooses its threshold, sees a segment label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SUPERVISED_READING = "background where sigma(event_logits) <= 0.5"
# What `eval.localize` may say, and what it then does, in words for the results.
READINGS = {
    "authors": "authors' reading of the gate: every segment has its clip's category",
    "gate": "background where the gate is not above {threshold:.4g}",
    "activation": "background where the class activation of the clip's category is not above {threshold:.4g}",
    "background": "background where the class activation of the clip's category is not above the background's",
    "relative": "background where the class activation of the clip's category, less the background's, lies "
    "{below:.4g} or more below its highest in the clip",
    "combined": "background where the class activation of the clip's category, less the background's, summed over the "
    "fused features, the image and the sound, lies {below:.4g} or more below its highest in the clip",
}


class Prediction(NamedTuple):
    """Per clip and segment; category indices run from 0 to C-1, C is background."""

    segments: Tensor  # [B, T] int64: predicted index
    category: Tensor  # [B] int64: the clip's category (weak: may be background)
    event_probability: Tensor  # [B, T] in [0, 1]


class Reading:
    """How an output becomes a prediction, by a rule that is the same for every checkpoint.

    Args:
        predict: (output, explanation) -> Prediction.
        description: the rule in words, for the results.
    """

    chooses = False  # whether a threshold is chosen on training clips: `scores` and `choose` are there then
    threshold: float | None = None
    event_threshold = 0.5  # a segment with an event probability above it is an event

    def __init__(self, predict: Callable[[Any, Any], Prediction], description: str) -> None:
        self._predict, self.description = predict, description

    def __call__(self, output: Any, explanation: Any) -> Prediction:
        return self._predict(output, explanation)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to remember."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint remembers; {} is one that remembers nothing."""


class WeakReading(Reading):
    """How the weak network's output becomes a prediction.

    The clip's category is the argmax over all C+1 columns. A segment is an event where its score is above a
    threshold; the score (see READINGS) is, with c the clip's category and A the class activation sequence [T, C+1]:

    - "authors": none; every segment has its clip's category.
    - "gate": the gate. It is trained through its strongest segment alone, and may say nothing of the others.
    - "activation": A[t, c].
    - "background": m[t] = A[t, c] - A[t, C], the margin over the background column; its threshold is 0.
    - "relative": m[t] - max over t of m[t]: how far the segment stays behind the clip's best one. Clips differ in
      how strongly they show their event; this takes that out.
    - "combined": the same with each modality's own activation sequence added to A: where the event is seen, and
      where it is heard.

    All thresholds but that of "background" are chosen on training clips by Otsu's rule: the scores of
    their labelled category fall into two groups, and the threshold parts them with the least variance within. It needs
    the clip labels only.

    Args:
        localize: a key of READINGS.
        threshold: None leaves it to `choose`, or to a checkpoint.
    """

    def __init__(self, localize: str = "authors", threshold: float | None = None) -> None:
        self.localize = localize
        self.threshold = 0.0 if localize == "background" else threshold
        self.chooses = localize != "authors" and self.threshold is None
        self.chosen_by = "fixed" if localize == "background" else "given by the config"

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> WeakReading:
        """The reading that a checkpoint or an evaluation remembers. Raises ValueError where it is none."""
        localize, threshold = state.get("localize", "authors"), state.get("threshold")
        if (
            not isinstance(localize, str)
            or localize not in READINGS
            or not (isinstance(threshold, float) or localize in ("authors", "background"))
        ):
            raise ValueError(
                f"holds no way to read segments off the weak network ({localize!r}, threshold {threshold!r})"
            )
        reading = cls(localize, threshold)
        reading.chosen_by = state.get("chosen_by", reading.chosen_by)
        return reading

    @property
    def event_threshold(self) -> float:
        """A segment with an event probability above it is an event, unless its clip is called background."""
        return {"authors": 0.0, "gate": self.threshold}.get(self.localize, 0.5)

    @property
    def description(self) -> str:
        """The rule in words, for the results."""
        if self.localize in ("authors", "background"):
            return READINGS[self.localize]
        what = READINGS[self.localize].format(threshold=self.threshold, below=-self.threshold)
        return f"{what} (threshold {self.chosen_by})"

    def __call__(self, output: Any, explanation: Any) -> Prediction:
        """A WeakOutput, and its Explanation (not needed by "authors" and "gate"), as a prediction."""
        category = output.category_logits.argmax(1)
        background = output.category_logits.shape[1] - 1
        if self.localize == "authors":
            # Quirk: the gate is a probability already, so this holds in every segment.
            is_event, probability = output.gate.sigmoid() > 0.5, output.gate
        else:
            score = self._scores(output, explanation, category)
            is_event = score > self.threshold
            if self.localize == "gate":
                probability = output.gate
            else:
                # Activations are logits; a clip called background has no event anywhere.
                probability = (score - self.threshold).sigmoid() * (category != background).unsqueeze(1)
        return Prediction(spread_category(category, is_event, background), category, probability)

    def scores(self, output: Any, explanation: Any, labels: Tensor) -> Tensor:
        """Scores of the labelled category in training clips with clip labels [B, C+1]: those with an event, [n, T]."""
        category = labels.argmax(1)
        return self._scores(output, explanation, category)[category != labels.shape[1] - 1]

    def choose(self, scores: Tensor) -> None:
        """Choose the threshold from what `scores` returned of the training clips, [n, T]."""
        self.threshold = otsu_threshold(scores)
        self.chosen_by = f"chosen by Otsu's rule on {len(scores)} training clips with an event, from clip labels only"

    def state(self) -> dict[str, Any]:
        threshold = {} if self.localize == "authors" else {"threshold": self.threshold, "chosen_by": self.chosen_by}
        return {"localize": self.localize, **threshold}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's threshold if it was chosen for this reading; else there is none yet."""
        if self.chooses:
            known = state.get("localize") == self.localize and isinstance(state.get("threshold"), float)
            self.threshold, self.chosen_by = (state["threshold"], state.get("chosen_by")) if known else (None, "")

    def _scores(self, output: Any, explanation: Any, category: Tensor) -> Tensor:
        if self.localize == "gate":
            return output.gate
        activation = explanation.activation
        if self.localize == "combined":
            activation = activation + explanation.visual_activation + explanation.audio_activation
        score = activation[torch.arange(len(category), device=category.device), :, category]
        if self.localize == "activation":
            return score
        margin = score - activation[..., -1]
        return margin if self.localize == "background" else margin - margin.amax(1, keepdim=True)


def otsu_threshold(scores: Tensor) -> float:
    """The threshold that parts scores into two groups of least variance within (Otsu, 1979).

    Among all midpoints of neighbouring scores, the one with the largest variance between the groups. Below all
    scores when they are all equal.
    """
    x = scores.double().flatten().sort().values
    if x[0] == x[-1]:
        return x[0].item() - 1
    below = torch.arange(1, len(x), device=x.device)
    above = len(x) - below
    total = (x - x.mean()).cumsum(0)[:-1]  # of the lower group; the upper one's is its negative
    best = (total.square() / (below * above)).argmax()
    return ((x[best] + x[best + 1]) / 2).item()


def spread_category(category: Tensor, is_event: Tensor, background: int) -> Tensor:
    """The clip's category [B] in its event segments [B, T] bool, background elsewhere -> [B, T] int64."""
    return torch.where(is_event, category.unsqueeze(1), background)


def hits(predicted: Tensor, target: Tensor) -> Tensor:
    """How many of a batch's predictions are right, and of how many: [2] float64."""
    right = (predicted == target).sum()
    # Not torch.tensor(...): that would be a copy from the host, which waits for all that the GPU has still to do.
    return torch.stack([right, right.new_full((), target.numel())]).double()
