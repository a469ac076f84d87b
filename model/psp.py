"""PSP (Zhou et al., CVPR 2021): positive sample propagation between the segments of picture and audio.

`SupervisedPSP` and `WeaklySupervisedPSP`. They read visual [B, T, H, W, Dv] and audio [B, T, Da] features of the T, H
and W that their settings name, for any B >= 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.avga import AudioGuidedVisualAttention, start_xavier
from model.dropout import Dropout
from model.interface import BaseNetwork, Explanation, Network, Prediction, best_column, require_features
from model.losses import Loss, at_least_float32
from model.settings import OneSizeSettings, PSPSettings, WeakPSPSettings
from model.temporal import AudioVisualLSTM


class SupervisedPSPOutput(NamedTuple):
    """Output of the supervised network for B clips of T segments; the last of the C+1 columns is background."""

    segment_logits: Tensor  # [B, T, C+1]
    similarity: Tensor  # [B, T] in [-1, 1]: cosine of a segment's picture and audio
    fusion: Tensor  # [B, T, d]: the features behind the logits


class WeakPSPOutput(NamedTuple):
    """Output of the weakly supervised network for B clips; the last of the C+1 columns is background."""

    segment_logits: Tensor  # [B, T, C+1], times the segment's weight
    category_probs: Tensor  # [B, C+1]: softmax of their mean over the segments


class PositiveSamplePropagation(nn.Module):
    """Visual h_v and audio h_a, both [B, T, d], -> both again, each with what the other's similar segments say.

    S = relu(v2 a1^T / sqrt(d)) [T, T]; of S and S^T only the strong connections stay; v~ = h_v + M_S a2,
    a~ = h_a + M_{S^T} v1; v^ = LN(D relu(W_v v~)), a^ = LN(D relu(W_a a~)) with one LayerNorm for both.

    Args:
        threshold: of connections, as shares of their row.
        supervised: whether the kept connections are normalised again and the results pass W_v and W_a.
    """

    def __init__(self, d_model: int, threshold: float, supervised: bool) -> None:
        super().__init__()
        self.threshold, self.supervised = threshold, supervised
        self.visual_1, self.visual_2, self.audio_1, self.audio_2 = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        if supervised:
            self.visual_output, self.audio_output = (nn.Linear(d_model, d_model, bias=False) for _ in range(2))
        start_xavier(self.children())
        self.norm = nn.LayerNorm(d_model, eps=1e-6)
        self.dropout = Dropout(0.1)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        v1, v2 = (self.dropout.relu(layer(visual)) for layer in (self.visual_1, self.visual_2))
        a1, a2 = (self.dropout.relu(layer(audio)) for layer in (self.audio_1, self.audio_2))
        similar = at_least_float32((v2 @ a1.transpose(1, 2)).relu() / visual.shape[2] ** 0.5)  # rows visual
        visual = visual + self.strong_connections(similar) @ a2
        audio = audio + self.strong_connections(similar.transpose(1, 2)) @ v1
        if self.supervised:
            visual = self.dropout.relu(self.visual_output(visual))
            audio = self.dropout.relu(self.audio_output(audio))
        return self.norm(visual), self.norm(audio)

    def strong_connections(self, similar: Tensor) -> Tensor:
        """Rows as shares of their sums, and of these only those above the threshold: [B, T, T] -> [B, T, T]."""
        shares = shares_of_time(similar)
        kept = shares * (shares > self.threshold)
        return shares_of_time(kept) if self.supervised else kept


class SupervisedPropagation(nn.Module):
    """What PSP and CPSP do before their classifiers: features -> v^ and a^ [B, T, d], and the attention [B, T, H, W].

    a' = Linear(Linear(a)), v' = Linear(Linear(AVGA(a', X))); an LSTM for each; positive sample propagation.
    The attention is None where the grid has one cell.
    """

    def __init__(self, settings: OneSizeSettings) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        self.audio_projection = nn.Sequential(nn.Linear(audio_dim, d, bias=False), nn.Linear(d, d // 2, bias=False))
        self.visual_projection = nn.Sequential(nn.Linear(visual_dim, d, bias=False), nn.Linear(d, d // 2, bias=False))
        self.attention = AudioGuidedVisualAttention(visual_dim, d // 2, settings.grid, settings.segments)
        self.lstm = AudioVisualLSTM(d // 2, d // 2, d, d)
        # A row's shares are 1/T in the mean; the authors' threshold is 0.099, for T = 10.
        self.propagation = PositiveSamplePropagation(d, threshold=0.99 / settings.segments, supervised=True)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        require_features(visual, audio, self.settings)
        audio = self.audio_projection(audio)
        attended, attention = self.attention(visual, audio)
        audio_sequence, visual_sequence = self.lstm(audio, self.visual_projection(attended))
        return *self.propagation(visual_sequence, audio_sequence), attention


class SegmentClassifier(nn.Module):
    """Fused features [B, T, d] -> logits [B, T, columns]: L2 relu(L1 fusion), without biases."""

    def __init__(self, d_model: int, columns: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_model, d_model // 4, bias=False)  # L1
        self.classifier = nn.Linear(d_model // 4, columns, bias=False)  # L2
        start_xavier(self.children())

    def forward(self, fusion: Tensor) -> Tensor:
        return self.classifier(self.hidden(fusion).relu())


class SupervisedPSP(BaseNetwork):
    """The supervised network.

    Its explanation has the score `similarity`, of picture and audio where it is above 0, and the activation `fused`,
    the logits of C+1 columns.
    """

    prediction_rule = "the best of all columns, background among them, in every segment"

    def __init__(self, settings: OneSizeSettings) -> None:
        super().__init__()
        self.features = SupervisedPropagation(settings)
        self.classifier = SegmentClassifier(settings.d_model, settings.categories + 1)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[SupervisedPSPOutput, Explanation]:
        visual, audio, attention = self.features(visual, audio)
        fusion = (visual + audio) / 2
        output = SupervisedPSPOutput(self.classifier(fusion), F.cosine_similarity(visual, audio, dim=2), fusion)
        scores = {"similarity": output.similarity.clamp(0, 1)}
        return output, Explanation(attention, scores, {"fused": output.segment_logits})

    @staticmethod
    def predict(output: SupervisedPSPOutput, explanation: Explanation | None = None) -> Prediction:
        """Each segment has the best of its C+1 columns; probabilities as `model.interface.best_column` has them."""
        return best_column(output.segment_logits)


class WeaklySupervisedPSP(BaseNetwork):
    """The weakly supervised network: fewer projections, and a weight for each segment.

    Its explanation has the score `weight`, which a segment's logits are multiplied by, in [0.5, 1), and the activation
    `fused`, the logits of C+1 columns.
    """

    prediction_rule = SupervisedPSP.prediction_rule

    def __init__(self, settings: OneSizeSettings) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        self.attention = AudioGuidedVisualAttention(visual_dim, audio_dim, settings.grid, settings.segments)
        self.visual_projection = nn.Linear(visual_dim, d // 2)
        self.lstm = AudioVisualLSTM(audio_dim, d // 2, d, d)
        # A row's shares are 1/T in the mean; the authors' threshold is 0.095, for T = 10.
        self.propagation = PositiveSamplePropagation(d, threshold=0.95 / settings.segments, supervised=False)
        self.classifier = SegmentClassifier(d, settings.categories + 1)
        self.weight = nn.Linear(settings.categories + 1, 1, bias=False)  # W3

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[WeakPSPOutput, Explanation]:
        require_features(visual, audio, self.settings)
        attended, attention = self.attention(visual, audio)
        audio_sequence, visual_sequence = self.lstm(audio, self.visual_projection(attended))
        visual, audio = self.propagation(visual_sequence, audio_sequence)
        logits = self.classifier((visual + audio) / 2)
        weight = self.weight(logits).relu().sigmoid()
        logits = logits * weight
        output = WeakPSPOutput(logits, logits.mean(1).softmax(1))
        return output, Explanation(attention, {"weight": weight.squeeze(2)}, {"fused": logits})

    @staticmethod
    def predict(output: WeakPSPOutput, explanation: Explanation | None = None) -> Prediction:
        """Each segment has the best of its own C+1 columns, whatever its clip's category; see `best_column`."""
        return best_column(output.segment_logits, category=output.category_probs.argmax(1))


class SupervisedPSPLoss(Loss):
    """CE(segment_logits, label) + 100 * MSE(shares of time of relu(similarity), the event's shares of time).

    Labels are [B, T, C+1] one-hot, background last. Returns scalars "segment", "similarity" and "total", each a mean
    over all segments; the terms are unweighted, the total is weighted.

    The target is 1 / (number of event segments) in event segments, 0 elsewhere; in a clip without an event the
    background counts as the event. Quirk of the authors' loader, not copied: it keeps targets of batches before.
    """

    def terms(self, output: SupervisedPSPOutput, labels: Tensor) -> dict[str, Tensor]:
        logits, similarity = map(at_least_float32, output[:2])
        is_event = labels[..., :-1].amax(2).to(similarity.dtype)
        is_event = torch.where(is_event.any(1, keepdim=True), is_event, 1.0)
        return {
            "segment": F.cross_entropy(logits.flatten(0, 1), labels.argmax(2).flatten()),
            "similarity": F.mse_loss(shares_of_time(similarity.relu()), is_event / is_event.sum(1, keepdim=True)),
        }


class WeakPSPLoss(Loss):
    """BCELoss(category_probs, labels). Labels are [B, C+1], background last.

    Quirk: the authors' labels are the share of a clip's segments that carry the category, and the background, which
    tells the network how long the event lasts. One-hot labels of the clip, the field's, go in just as well.

    Returns scalars "category" and "total", each a mean over everything.
    """

    def terms(self, output: WeakPSPOutput, labels: Tensor) -> dict[str, Tensor]:
        probs = at_least_float32(output.category_probs)
        with torch.autocast("cuda" if probs.is_cuda else "cpu", enabled=False):  # which refuses this loss
            return {"category": F.binary_cross_entropy(probs, labels.to(probs.dtype))}


def shares_of_time(x: Tensor) -> Tensor:
    """Each number of the last dimension as a share of their sum: [..., T] >= 0 -> [..., T]; all 0 stay 0."""
    return x / (x.sum(-1, keepdim=True) + 1e-8)


NETWORKS = {
    "psp_supv": Network(PSPSettings, SupervisedPSP, SupervisedPSPLoss, PSPSettings.supervision),
    "psp_weak": Network(WeakPSPSettings, WeaklySupervisedPSP, WeakPSPLoss, WeakPSPSettings.supervision),
}
