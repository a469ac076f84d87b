"""From an output and its labels to named loss terms and their weighted total."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.settings import NetworkSettings, SupervisedCMBSSettings, WeakCMBSSettings
from model.suppression import strongest_gated_logits

if TYPE_CHECKING:
    from model.cmbs import SupervisedOutput, SupervisedOutputAsWritten, WeakOutput


class Loss(nn.Module):
    """Base of all losses, which give their `terms`: weights these, and adds them up.

    Args:
        settings: of the network; they name the terms, and say how much each weighs.
        weights: of terms by name, in place of the settings' own; 0 leaves a term out. Raises ValueError for another
            name, and where no term is left.
    """

    def __init__(self, settings: NetworkSettings, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = settings.loss_weights(weights)

    def forward(self, output: Any, labels: Tensor) -> dict[str, Tensor]:
        """The terms, unweighted, and "total", their weighted sum; a term of weight 0 is left out."""
        terms = {name: term for name, term in self.terms(output, labels).items() if self.weights[name]}
        return {**terms, "total": sum(self.weights[name] * term for name, term in terms.items())}

    def terms(self, output: Any, labels: Tensor) -> dict[str, Tensor]:
        """The terms by their names, unweighted scalars; one of weight 0 may be among them."""
        raise NotImplementedError


def event_targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """What one-hot labels [B, T, C+1] say: y [B, T], 1 in event segments and 0 elsewhere, and the clip's category [B].

    The category is the largest index of any event in the clip, as the authors have it, and 0 in a clip without one.
    """
    is_event, category = labels[..., :-1].max(-1)
    return is_event, category.max(1).values


class EventLoss(Loss):
    """BCE(event_logits, y) + CE(category_logits, c), for any output with these two; y and c are `event_targets`.

    Returns scalars "event", "category" and "total", each a mean over the batch.
    """

    def terms(self, output: Any, labels: Tensor) -> dict[str, Tensor]:
        event_logits, category_logits = map(at_least_float32, (output.event_logits, output.category_logits))
        is_event, clip_category = event_targets(labels)
        return {
            "event": F.binary_cross_entropy_with_logits(event_logits, is_event.to(event_logits.dtype)),
            "category": F.cross_entropy(category_logits, clip_category),
        }


class SupervisedLoss(Loss):
    """BCE(event_logits, y) + BCE(gate, y) + CE(category_logits, c) + CE(av_category_logits, c).

    A part that the settings leave out of the network has no term: "gate" belongs to time-level suppression,
    "av_category" to event-level suppression.

    Labels are [B, T, C+1] one-hot, background last: y[b, t] is 1 in event segments, c the clip's category
    (over time, the largest category index). Returns scalars "event", "gate", "category", "av_category"
    and "total", each a mean over the batch; the terms are unweighted, the total is weighted.
    """

    def __init__(self, settings: SupervisedCMBSSettings, weights: Mapping[str, float]) -> None:
        super().__init__(settings, weights)
        self.gate_as_logit = settings.quirks.gate_as_logit

    def terms(self, output: SupervisedOutput | SupervisedOutputAsWritten, labels: Tensor) -> dict[str, Tensor]:
        is_event, clip_category = event_targets(labels)
        event_logits = at_least_float32(output.event_logits)
        is_event = is_event.to(event_logits.dtype)
        terms = {"event": F.binary_cross_entropy_with_logits(event_logits, is_event)}
        if self.weights["gate"]:
            if self.gate_as_logit:  # quirk: the gate is a probability already and still goes through BCE *with logits*
                terms["gate"] = F.binary_cross_entropy_with_logits(at_least_float32(output.gate), is_event)
            else:
                gate_logits = map(at_least_float32, (output.audio_gate_logits, output.visual_gate_logits))
                terms["gate"] = product_cross_entropy(*gate_logits, is_event)
        terms["category"] = F.cross_entropy(at_least_float32(output.category_logits), clip_category)
        terms["av_category"] = F.cross_entropy(at_least_float32(output.av_category_logits), clip_category)
        return terms


class ClipLoss(Loss):
    """MultiLabelSoftMarginLoss(category_probs, clip label). Labels are [B, C+1] one-hot, background last.

    Returns scalars "category" and "total", each a mean over the batch.

    Quirk: the loss expects logits, and the authors hand it probabilities.
    """

    def terms(self, output: Any, labels: Tensor) -> dict[str, Tensor]:
        logits = self.logits(output)
        return {"category": F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))}

    def logits(self, output: Any) -> Tensor:
        """What the loss takes for logits, [B, C+1]."""
        return at_least_float32(output.category_probs)


class WeakLoss(ClipLoss):
    """The same, unless the quirk is off: then of the logits that the probabilities are the softmax of."""

    def __init__(self, settings: WeakCMBSSettings, weights: Mapping[str, float]) -> None:
        super().__init__(settings, weights)
        self.probs_as_logits = settings.quirks.probs_as_logits

    def logits(self, output: WeakOutput) -> Tensor:
        if self.probs_as_logits:
            return super().logits(output)
        return strongest_gated_logits(*map(at_least_float32, (output.gate, output.category_logits)))


def product_cross_entropy(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the probability g = sigma(x) sigma(y), its mean; x, y and target are of one shape.

    From the logits, so that it and its gradients are finite where g rounds to 0 or 1:
    log g = log sigma(x) + log sigma(y), and log(1 - g) = log(sigma(-x) + sigma(x) sigma(-y)).
    """
    log_x, log_y = F.logsigmoid(x), F.logsigmoid(y)
    log_other = torch.logaddexp(F.logsigmoid(-x), log_x + F.logsigmoid(-y))
    return -(target * (log_x + log_y) + (1 - target) * log_other).mean()


def at_least_float32(x: Tensor) -> Tensor:
    """Losses of an autocast network are taken in float32: bfloat16 has 3 digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
