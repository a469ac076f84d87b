"""Cross-modal background suppression, at time level and at event level."""

from __future__ import annotations

from torch import Tensor, nn

TOP_SEGMENTS = 4  # an event of AVE lasts at least a second or two; the authors average the best 4 segments


class SegmentGate(nn.Module):
    """How much each segment is an event: features [B, T, d] -> logits [B, T, 1], whose sigmoid is the gate."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.score = nn.Linear(d_model, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.score(features)


class ActivationSequence(nn.Module):
    """Class activation sequence of one modality: features [B, T, d] -> scores [B, T, categories]."""

    def __init__(self, d_model: int, categories: int, bias: bool = True) -> None:
        super().__init__()
        self.classifier = nn.Linear(d_model, categories, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)


def top_segments_mean(activation: Tensor) -> Tensor:
    """Per category the mean of its 4 highest segments: [B, T, C] -> [B, C]. Raises ValueError for T < 4."""
    if activation.shape[1] < TOP_SEGMENTS:
        raise ValueError(
            f"this network averages the best {TOP_SEGMENTS} segments of a clip, and these clips have "
            f"{activation.shape[1]}; it needs clips of at least {TOP_SEGMENTS}"
        )
    return activation.topk(TOP_SEGMENTS, dim=1, sorted=False).values.mean(1)


def strongest_gated_logits(gate: Tensor, category_logits: Tensor) -> Tensor:
    """max over t of gate[b, t] * category_logits[b, k]: gate [B, T], category_logits [B, K] -> [B, K]."""
    return (gate.unsqueeze(2) * category_logits.unsqueeze(1)).amax(1)
