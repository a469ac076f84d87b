"""SupervisedCMBS and WeaklySupervisedCMBS (Xia & Zhao, CVPR 2022), assembled from the parts beside this file.

Both read visual [B, T, H, W, Dv] and audio [B, T, Da] features for any B >= 1, T >= 4, H and W. In both
`explain` is the whole computation and `forward` its first result. Parts that the settings leave out
(`self_attention`, `time_level`, `event_level`, `beta` 0) are not built: disabled parts have no parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.attention import AudioGuidedAttention
from model.blocks import in_blocks
from model.dropout import Dropout
from model.interface import (
    BaseNetwork,
    Explanation,
    Network,
    Prediction,
    attention_map,
    predict_events,
    require_features,
    spread_category,
)
from model.losses import SupervisedLoss, WeakLoss
from model.relation import AudioVisualFusion, CrossModalRelation
from model.settings import SupervisedCMBSSettings, WeakCMBSSettings
from model.suppression import ActivationSequence, SegmentGate, strongest_gated_logits, top_segments_mean
from model.temporal import AudioVisualLSTM, TemporalEncoder


class SupervisedOutput(NamedTuple):
    """Output of the supervised network for B clips of T segments and C categories."""

    event_logits: Tensor  # [B, T]: is the segment an event?
    category_logits: Tensor  # [B, C]: of which category is the clip's event?
    gate: Tensor  # [B, T] in (0, 1): audio gate times visual gate (1 without time-level suppression)
    av_category_logits: Tensor  # [B, C]: event-level suppression's own answer (0 without it)


class SupervisedOutputAsWritten(NamedTuple):
    """The same, where the quirk `gate_as_logit` is off: its loss needs the logits that the gate is made of."""

    event_logits: Tensor
    category_logits: Tensor
    gate: Tensor
    av_category_logits: Tensor
    audio_gate_logits: Tensor  # [B, T]: gate is sigma of these times sigma of those below
    visual_gate_logits: Tensor  # [B, T]


class WeakOutput(NamedTuple):
    """Output of the weakly supervised network for B clips; the last of the C+1 columns is background."""

    gate: Tensor  # [B, T] in (0, 1): mean of the two gates (1 without time-level suppression)
    category_logits: Tensor  # [B, C+1]
    category_probs: Tensor  # [B, C+1]: softmax of the strongest gated segment


class SupervisedCMBS(BaseNetwork):
    """The fully supervised network (the authors' `supv_main_model`).

    Scores of its explanation: `audio_gate`, from the audio features, `visual_gate`, from the visual features, and
    `gate`, their product (none without time-level suppression). Activations, of C categories: `visual` and `audio`,
    each modality's own (none without event-level suppression).
    """

    prediction_rule = "background where sigma(event_logits) <= 0.5"

    def __init__(self, settings: SupervisedCMBSSettings, relation_feedforward: int = 1024) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        self.alpha, self.gamma = settings.alpha, settings.gamma
        self.time_level, self.event_level = settings.time_level, settings.event_level
        self.modalities, self.quirks = settings.modalities, settings.quirks
        self.visual_projection = nn.Linear(visual_dim, visual_dim)
        self.dropout = Dropout(0.2)
        self.attention = AudioGuidedAttention(
            visual_dim, audio_dim, settings.beta, settings.self_attention, settings.quirks.scale_input
        )
        self.lstm = AudioVisualLSTM(audio_dim, visual_dim, d, 2 * d)
        self.visual_encoder = TemporalEncoder(2 * d, d, feedforward=1024)
        self.audio_encoder = TemporalEncoder(d, d, feedforward=1024)
        self.visual_relation = CrossModalRelation(2 * d, d, feedforward=relation_feedforward)
        self.audio_relation = CrossModalRelation(d, d, feedforward=relation_feedforward)
        if self.time_level:
            self.visual_gate = SegmentGate(d)
            self.audio_gate = SegmentGate(d)
        if self.event_level:
            self.visual_activation = ActivationSequence(d, settings.categories)
            self.audio_activation = ActivationSequence(d, settings.categories)
        self.fusion = AudioVisualFusion(d, heads=4)
        self.categories = settings.categories
        self.event_classifier = nn.Linear(d, 1)
        self.category_classifier = nn.Linear(d, settings.categories)

    def explain(
        self, visual: Tensor, audio: Tensor
    ) -> tuple[SupervisedOutput | SupervisedOutputAsWritten, Explanation]:
        _, output, explanation = self.fuse(visual, audio)
        return output, explanation

    def fuse(
        self, visual: Tensor, audio: Tensor
    ) -> tuple[Tensor, SupervisedOutput | SupervisedOutputAsWritten, Explanation]:
        """The whole computation: the fused features F [B, T, d], the output read off them, and the explanation."""
        require_features(visual, audio, self.settings)
        visual, audio = _only(self.modalities, visual, audio)

        # 1. Audio-guided attention
        attended, attention, guided_audio = in_blocks(self.attend, visual, audio)

        # 2. Along time, within each modality
        audio_sequence, visual_sequence = self.lstm(guided_audio, attended)
        visual_key = self.visual_encoder(visual_sequence)
        audio_key = self.audio_encoder(audio_sequence)

        # 3. Cross-modal relation: each modality attends to the other
        audio_features = self.audio_relation(audio_sequence, visual_key)
        visual_features = self.visual_relation(visual_sequence, audio_key)

        # 4. Time-level suppression: each modality is gated by the other
        if self.time_level:
            audio_gate_logits, visual_gate_logits = self.audio_gate(audio_key), self.visual_gate(visual_key)
            audio_gate, visual_gate = audio_gate_logits.sigmoid(), visual_gate_logits.sigmoid()
            visual_features = visual_features + self.alpha * audio_gate * visual_features
            audio_features = audio_features + self.alpha * visual_gate * audio_features
            gate = (audio_gate * visual_gate).squeeze(2)
            scores = {"gate": gate, "audio_gate": audio_gate.squeeze(2), "visual_gate": visual_gate.squeeze(2)}
        else:
            gate, scores = visual_features.new_ones(visual.shape[:2]), {}

        # 5. Event-level suppression: categories that both modalities find
        if self.event_level:
            visual_activation = self.visual_activation(visual_features)
            audio_activation = self.audio_activation(audio_features)
            av_category_logits = (top_segments_mean(visual_activation) + top_segments_mean(audio_activation)) / 2
            activations = {"visual": visual_activation, "audio": audio_activation}
        else:
            av_category_logits, activations = visual_features.new_zeros(len(visual), self.categories), {}

        # 6. Fusion and classification
        fused = self.fusion(visual_features, audio_features)
        category_logits = self.category_classifier(fused.amax(1)) + self.gamma * av_category_logits
        output = SupervisedOutput(
            event_logits=self.event_classifier(fused).squeeze(2),
            category_logits=category_logits,
            gate=gate,
            av_category_logits=av_category_logits,
        )
        if self.time_level and not self.quirks.gate_as_logit:
            output = SupervisedOutputAsWritten(*output, audio_gate_logits.squeeze(2), visual_gate_logits.squeeze(2))
        return fused, output, Explanation(attention_map(attention, visual.shape[2:4]), scores, activations)

    def attend(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features -> attended features [B, T, Dv], the attention [B, T, N], and the audio that the LSTM reads."""
        x = self.dropout.relu(self.visual_projection(visual.flatten(2, 3)))  # [B, T, N, Dv]
        return *self.attention(x, audio), self.guided_audio(x, audio)

    def guided_audio(self, x: Tensor, audio: Tensor) -> Tensor:
        """The audio features that the LSTM reads: as they are. CACE-Net guides them by the image's cells x."""
        return audio

    @staticmethod
    def predict(
        output: SupervisedOutput | SupervisedOutputAsWritten, explanation: Explanation | None = None
    ) -> Prediction:
        """A segment is background where sigma(event_logit) <= 0.5, else it has the clip's best category."""
        return predict_events(output.event_logits, output.category_logits, background=output.category_logits.shape[1])


class WeaklySupervisedCMBS(BaseNetwork):
    """The weakly supervised network (the authors' `weak_main_model`): no LSTM, a background column.

    Scores of its explanation: `audio_gate`, from the audio features, `visual_gate`, from the visual features, and
    `gate`, their mean (none without time-level suppression). Activations, of C+1 categories: `fused`, which the
    clip's category is read off, and `visual` and `audio`, each modality's own (none without event-level suppression).
    """

    prediction_rule = "authors' rule: every segment has its clip's category"
    event_threshold = 0.0

    def __init__(self, settings: WeakCMBSSettings) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        columns = settings.categories + 1
        self.alpha, self.gamma = settings.alpha, settings.gamma
        self.time_level, self.event_level = settings.time_level, settings.event_level
        self.modalities, self.quirks = settings.modalities, settings.quirks
        self.visual_projection = nn.Linear(visual_dim, visual_dim)
        self.dropout = Dropout(0.1)
        self.attention = AudioGuidedAttention(
            visual_dim, audio_dim, settings.beta, settings.self_attention, settings.quirks.scale_input
        )
        self.visual_encoder = TemporalEncoder(visual_dim, d, feedforward=2048)
        self.audio_encoder = TemporalEncoder(audio_dim, d, feedforward=2048)
        self.visual_relation = CrossModalRelation(visual_dim, d)
        self.audio_relation = CrossModalRelation(audio_dim, d)
        if self.time_level:
            self.visual_gate = SegmentGate(d)
            self.audio_gate = SegmentGate(d)
        if self.event_level:
            self.visual_activation = ActivationSequence(d, columns)
            self.audio_activation = ActivationSequence(d, columns)
        self.fusion = AudioVisualFusion(d, heads=2)
        self.fused_activation = ActivationSequence(d, columns, bias=False)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[WeakOutput, Explanation]:
        require_features(visual, audio, self.settings)
        visual, audio = _only(self.modalities, visual, audio)

        # 1. Audio-guided attention
        attended, attention = in_blocks(self.attend, visual, audio)

        # 2. Along time, within each modality
        visual_key = self.visual_encoder(attended)
        audio_key = self.audio_encoder(audio)

        # 3. Cross-modal relation: each modality attends to the other
        audio_features = self.audio_relation(audio, visual_key)
        visual_features = self.visual_relation(attended, audio_key)

        # 4. Time-level suppression. Quirk: the paper gates each modality by the other, the authors' code by itself.
        if self.time_level:
            visual_gate, audio_gate = self.visual_gate(visual_key).sigmoid(), self.audio_gate(audio_key).sigmoid()
            of_visual, of_audio = (visual_gate, audio_gate) if self.quirks.own_gate else (audio_gate, visual_gate)
            visual_features = (1 - self.alpha) * visual_features + self.alpha * of_visual * visual_features
            audio_features = (1 - self.alpha) * audio_features + self.alpha * of_audio * audio_features
            gate = ((visual_gate + audio_gate) / 2).squeeze(2)
            scores = {"gate": gate, "audio_gate": audio_gate.squeeze(2), "visual_gate": visual_gate.squeeze(2)}
        else:
            gate, scores = visual_features.new_ones(visual.shape[:2]), {}

        # 5. Event-level suppression: the fused activation counts where a modality finds the category too
        activation = self.fused_activation(self.fusion(visual_features, audio_features))
        if self.event_level:
            visual_activation = self.visual_activation(visual_features)
            audio_activation = self.audio_activation(audio_features)
            visual_score, audio_score = visual_activation.sigmoid(), audio_activation.sigmoid()
            activation = self.gamma * visual_score * activation + self.gamma * audio_score * activation
            activations = {"fused": activation, "visual": visual_activation, "audio": audio_activation}
        else:
            activations = {"fused": activation}
        category_logits = top_segments_mean(activation)

        # 6. The clip's probabilities, from its strongest gated segment
        output = WeakOutput(gate, category_logits, strongest_gated_logits(gate, category_logits).softmax(-1))
        return output, Explanation(attention_map(attention, visual.shape[2:4]), scores, activations)

    def attend(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> attended features [B, T, Dv] and the attention [B, T, N]."""
        x = self.dropout.relu(self.visual_projection(visual.flatten(2, 3)))  # [B, T, N, Dv]
        return self.attention(x, audio)

    @staticmethod
    def predict(output: WeakOutput, explanation: Explanation | None = None) -> Prediction:
        """Every segment has the clip's category, the argmax over all C+1 columns. `model.localization` has more rules.

        Quirk: the authors ask whether sigma(gate) > 0.5, which always holds because the gate is a probability already,
        so no segment differs from its clip.

        event_probability is the gate; category_probability[b, t, c] = gate[b, t] * softmax(category_logits[b])[c],
        the softmax over all C+1 columns and c one of the first C.
        """
        category = output.category_logits.argmax(1)
        background = output.category_logits.shape[1] - 1
        return Prediction(
            spread_category(category, output.gate.sigmoid() > 0.5, background),
            category,
            output.gate,
            output.gate.unsqueeze(2) * output.category_logits.softmax(1)[:, None, :-1],
        )


def _only(modalities: str, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Both features, or zeros instead of the modality that is left out: the same network then knows only one."""
    if modalities == "audio":
        return torch.zeros_like(visual), audio
    if modalities == "visual":
        return visual, torch.zeros_like(audio)
    return visual, audio


NETWORKS = {
    "supv_main_model": Network(
        SupervisedCMBSSettings, SupervisedCMBS, SupervisedLoss, SupervisedCMBSSettings.supervision
    ),
    "weak_main_model": Network(WeakCMBSSettings, WeaklySupervisedCMBS, WeakLoss, WeakCMBSSettings.supervision),
}
