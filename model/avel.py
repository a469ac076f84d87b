"""AVEL (Tian et al., ECCV 2018): audio-guided attention, an LSTM for each modality, a class for each segment.

`SupervisedAVEL`, the same with dual multimodal residual fusion (`SupervisedDMRN`), and `WeaklySupervisedAVEL`. They
read visual [B, T, H, W, Dv] and audio [B, T, Da] features of the T, H and W that their settings name, for any B >= 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.avga import AudioGuidedVisualAttention, start_xavier
from model.interface import BaseNetwork, Explanation, Network, Prediction, best_column, require_features
from model.losses import ClipLoss, Loss, at_least_float32
from model.settings import AVELSettings, OneSizeSettings, WeakAVELSettings
from model.temporal import AudioVisualLSTM


class SupervisedAVELOutput(NamedTuple):
    """Output of the supervised networks for B clips of T segments; the last of the C+1 columns is background."""

    segment_probs: Tensor  # [B, T, C+1]: softmax over the columns


class WeakAVELOutput(NamedTuple):
    """Output of the weakly supervised network for B clips; the last of the C+1 columns is background."""

    segment_logits: Tensor  # [B, T, C+1]
    category_probs: Tensor  # [B, C+1]: softmax of each column's strongest segment


class Sequences(nn.Module):
    """Features -> audio h_a and visual h_v, both [B, T, d], and the attention [B, T, H, W] (None: one cell).

    v = AVGA(a, X); h_a = LSTM(a), h_v = LSTM(v), bidirectional, d/2 a direction.
    """

    def __init__(self, settings: OneSizeSettings, xavier: bool = True) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        self.attention = AudioGuidedVisualAttention(visual_dim, audio_dim, settings.grid, settings.segments, xavier)
        self.lstm = AudioVisualLSTM(audio_dim, visual_dim, d, d)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        require_features(visual, audio, self.settings)
        attended, attention = self.attention(visual, audio)
        return *self.lstm(audio, attended), attention


class Concatenation(nn.Module):
    """Audio and visual [B, T, d] -> logits [B, T, columns]: L2 relu(L1 relu([h_a ; h_v]))."""

    def __init__(self, d_model: int, columns: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * d_model, d_model // 4)  # L1
        self.classifier = nn.Linear(d_model // 4, columns)  # L2
        start_xavier(self.children())

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        return self.classifier(self.hidden(torch.cat([audio, visual], dim=2).relu()).relu())


class DualMultimodalResidual(nn.Module):
    """Audio and visual [B, T, d] -> logits [B, T, columns], by the dual multimodal residual fusion (DMRN).

    m = (U_v(h_v) + U_a(h_a)) / 2; v' = tanh(h_a + m), a' = tanh(h_v + m); L2((v' + a') / 2).
    """

    def __init__(self, d_model: int, columns: int) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, d_model))  # U_v
        self.audio = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, d_model))  # U_a
        self.classifier = nn.Linear(d_model, columns)  # L2
        start_xavier([self.classifier])

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        merged = (self.visual(visual) + self.audio(audio)) / 2
        # Quirk: in the authors' code each modality's residual is added to the other; without effect on their mean.
        visual, audio = (audio + merged).tanh(), (visual + merged).tanh()
        return self.classifier((visual + audio) / 2)


class SupervisedAVEL(BaseNetwork):
    """The supervised network, its modalities concatenated.

    Its explanation has no scores, and the activation `fused`, the logits of C+1 columns.
    """

    prediction_rule = "the best of all columns, background among them, in every segment"
    fusion_class: type[nn.Module] = Concatenation
    xavier_attention = True

    def __init__(self, settings: OneSizeSettings) -> None:
        super().__init__()
        self.sequences = Sequences(settings, self.xavier_attention)
        self.fusion = self.fusion_class(settings.d_model, settings.categories + 1)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[SupervisedAVELOutput, Explanation]:
        *sequences, attention = self.sequences(visual, audio)
        logits = self.fusion(*sequences)
        return SupervisedAVELOutput(logits.softmax(2)), Explanation(attention, {}, {"fused": logits})

    @staticmethod
    def predict(output: SupervisedAVELOutput, explanation: Explanation | None = None) -> Prediction:
        """Each segment has the best of its C+1 columns; probabilities as `model.interface.best_column` has them."""
        tiny = torch.finfo(output.segment_probs.dtype).tiny
        return best_column(output.segment_probs.clamp_min(tiny).log())


class SupervisedDMRN(SupervisedAVEL):
    """The supervised network, its modalities fused by `DualMultimodalResidual`; all else is the same.

    The published weights were fine-tuned from `SupervisedAVEL` by a procedure that is not published.
    """

    fusion_class = DualMultimodalResidual
    xavier_attention = False


class WeaklySupervisedAVEL(BaseNetwork):
    """The weakly supervised network: the supervised one, and a clip's probabilities from its strongest segments.

    Its explanation has no scores, and the activation `fused`, the logits of C+1 columns.
    """

    prediction_rule = SupervisedAVEL.prediction_rule

    def __init__(self, settings: OneSizeSettings) -> None:
        super().__init__()
        self.sequences = Sequences(settings)
        self.fusion = Concatenation(settings.d_model, settings.categories + 1)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[WeakAVELOutput, Explanation]:
        *sequences, attention = self.sequences(visual, audio)
        logits = self.fusion(*sequences)
        output = WeakAVELOutput(logits, logits.amax(1).softmax(1))
        return output, Explanation(attention, {}, {"fused": logits})

    @staticmethod
    def predict(output: WeakAVELOutput, explanation: Explanation | None = None) -> Prediction:
        """Each segment has the best of its own C+1 columns, whatever its clip's category; see `best_column`."""
        return best_column(output.segment_logits, category=output.category_probs.argmax(1))


class SupervisedAVELLoss(Loss):
    """MultiLabelSoftMarginLoss(segment_probs, labels). Labels are [B, T, C+1] one-hot, background last.

    Returns scalars "segment" and "total", each a mean over everything.
    """

    def terms(self, output: SupervisedAVELOutput, labels: Tensor) -> dict[str, Tensor]:
        probs = at_least_float32(output.segment_probs).flatten(0, 1)
        # Quirk: the loss expects logits, and the authors hand it probabilities.
        return {"segment": F.multilabel_soft_margin_loss(probs, labels.flatten(0, 1).to(probs.dtype))}


NETWORKS = {
    "avel_supv": Network(AVELSettings, SupervisedAVEL, SupervisedAVELLoss, AVELSettings.supervision),
    "avel_dmrn": Network(AVELSettings, SupervisedDMRN, SupervisedAVELLoss, AVELSettings.supervision),
    "avel_weak": Network(WeakAVELSettings, WeaklySupervisedAVEL, ClipLoss, WeakAVELSettings.supervision),
}
