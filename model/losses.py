"""SupervisedLoss and WeakLoss: an output and its labels -> named loss terms and their total."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.cmbs import SupervisedOutput, WeakOutput


class SupervisedLoss(nn.Module):
    """BCE(event_logits, y) + gate_weight BCE(gate, y) + CE(category_logits, c) + av_weight CE(av_category_logits, c).

    Args:
        gate_weight, av_category_weight: of the two auxiliary terms, 1 in the paper; 0 leaves a term out.

    Labels are [B, T, C+1] one-hot, background last: y[b, t] is 1 in event segments, c the clip's category
    (over time, the largest category index). Returns scalars "event", "gate", "category", "av_category"
    and "total", each a mean over the batch; the terms are unweighted, the total is weighted.

    Quirk: the gate is a probability already and still goes through BCE *with logits*.
    """

    def __init__(self, gate_weight: float = 1.0, av_category_weight: float = 1.0) -> None:
        super().__init__()
        self.weights = {"event": 1.0, "gate": gate_weight, "category": 1.0, "av_category": av_category_weight}

    def forward(self, output: SupervisedOutput, labels: Tensor) -> dict[str, Tensor]:
        event_logits, category_logits, gate, av_category_logits = map(_at_least_float32, output)
        is_event, category = labels[..., :-1].max(-1)
        is_event, clip_category = is_event.to(event_logits.dtype), category.max(1).values
        terms = {
            "event": F.binary_cross_entropy_with_logits(event_logits, is_event),
            "gate": F.binary_cross_entropy_with_logits(gate, is_event),
            "category": F.cross_entropy(category_logits, clip_category),
            "av_category": F.cross_entropy(av_category_logits, clip_category),
        }
        terms = {name: term for name, term in terms.items() if self.weights[name]}
        return {**terms, "total": sum(self.weights[name] * term for name, term in terms.items())}


class WeakLoss(nn.Module):
    """MultiLabelSoftMarginLoss(category_probs, clip label). Labels are [B, C+1] one-hot, background last.

    Returns scalars "category" and "total", equal, a mean over the batch.

    Quirk: the loss expects logits, and the authors hand it probabilities.
    """

    def forward(self, output: WeakOutput, labels: Tensor) -> dict[str, Tensor]:
        probs = _at_least_float32(output.category_probs)
        category = F.multilabel_soft_margin_loss(probs, labels.to(probs.dtype))
        return {"category": category, "total": category}


def _at_least_float32(x: Tensor) -> Tensor:
    """Losses of an autocast network are taken in float32: bfloat16 has 3 digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
