"""SupervisedCMRAN and WeaklySupervisedCMRAN (Xu et al., ACM MM 2020), the network that CMBS grew from.

Fewer of CMBS's parts: no self-attention over cells, no global visual vector, no LSTM, no suppression, one interaction.
Both read visual [B, T, H, W, Dv] and audio [B, T, Da] features for any B, T, H and W >= 1.
"""

from __future__ import annotations

from typing import NamedTuple

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
)
from model.losses import ClipLoss, EventLoss
from model.relation import AudioVisualInteraction, CrossModalRelation
from model.settings import CMRANSettings, WeakCMRANSettings
from model.suppression import strongest_gated_logits
from model.temporal import TemporalEncoder


class SupervisedOutput(NamedTuple):
    """Output of the supervised network for B clips of T segments and C categories."""

    event_logits: Tensor  # [B, T]: is the segment an event?
    category_logits: Tensor  # [B, C]: of which category is the clip's event?


class WeakOutput(NamedTuple):
    """Output of the weakly supervised network for B clips; the last of the C+1 columns is background."""

    event_logits: Tensor  # [B, T]
    category_logits: Tensor  # [B, C+1]
    category_probs: Tensor  # [B, C+1]: softmax of the strongest segment, each weighted by sigma of its event logit


class CMRAN(BaseNetwork):
    """What both networks have in common. Nothing of CMRAN has scores or activations, so its explanation is attention.

    Args:
        heads: of the interaction.
        columns: of `category_logits`.
    """

    prediction_rule = "background where sigma(event_logits) <= 0.5"

    def __init__(self, settings: CMRANSettings, heads: int, columns: int) -> None:
        super().__init__()
        self.settings = settings
        d, visual_dim, audio_dim = settings.d_model, settings.video_inputdim, settings.audio_inputdim
        self.visual_projection = nn.Linear(visual_dim, visual_dim)
        self.dropout = Dropout(0.2)
        self.attention = AudioGuidedAttention(visual_dim, audio_dim, beta=0, self_attention=False)
        self.visual_encoder = TemporalEncoder(visual_dim, d, feedforward=2048)
        self.audio_encoder = TemporalEncoder(audio_dim, d, feedforward=2048)
        self.visual_relation = CrossModalRelation(visual_dim, d, feedforward=2048)
        self.audio_relation = CrossModalRelation(audio_dim, d, feedforward=2048)
        self.interaction = AudioVisualInteraction(d, heads, attention_dropout=0.1)
        self.event_classifier = nn.Linear(d, 1)
        self.category_classifier = nn.Linear(d, columns)

    def attend(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> attended features [B, T, Dv] and the attention [B, T, N]."""
        x = self.dropout.relu(self.visual_projection(visual.flatten(2, 3)))  # [B, T, N, Dv]
        return self.attention(x, audio)

    def classify(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Explanation]:
        """Features -> event_logits [B, T], category_logits [B, columns], and where the network attended."""
        require_features(visual, audio, self.settings)

        # 1. Audio-guided attention, of the cells as they are
        attended, attention = in_blocks(self.attend, visual, audio)

        # 2. Along time, within each modality
        visual_key = self.visual_encoder(attended)
        audio_key = self.audio_encoder(audio)

        # 3. Cross-modal relation: each modality attends to the other
        audio_features = self.audio_relation(audio, visual_key)
        visual_features = self.visual_relation(attended, audio_key)

        # 4. Interaction, once, and classification
        fused = self.interaction(visual_features, audio_features)
        event_logits = self.event_classifier(fused).squeeze(2)
        category_logits = self.category_classifier(fused.amax(1))
        return event_logits, category_logits, Explanation(attention_map(attention, visual.shape[2:4]), {}, {})


class SupervisedCMRAN(CMRAN):
    """The fully supervised network."""

    def __init__(self, settings: CMRANSettings) -> None:
        super().__init__(settings, heads=4, columns=settings.categories)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[SupervisedOutput, Explanation]:
        event_logits, category_logits, explanation = self.classify(visual, audio)
        return SupervisedOutput(event_logits, category_logits), explanation

    @staticmethod
    def predict(output: SupervisedOutput, explanation: Explanation | None = None) -> Prediction:
        return predict_events(output.event_logits, output.category_logits, background=output.category_logits.shape[1])


class WeaklySupervisedCMRAN(CMRAN):
    """The weakly supervised network: a background column."""

    def __init__(self, settings: CMRANSettings) -> None:
        super().__init__(settings, heads=2, columns=settings.categories + 1)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[WeakOutput, Explanation]:
        event_logits, category_logits, explanation = self.classify(visual, audio)
        strongest = strongest_gated_logits(event_logits.sigmoid(), category_logits)
        return WeakOutput(event_logits, category_logits, strongest.softmax(-1)), explanation

    @staticmethod
    def predict(output: WeakOutput, explanation: Explanation | None = None) -> Prediction:
        """As the supervised network; the category may be background too, the last column, in all of the clip."""
        return predict_events(output.event_logits, output.category_logits, output.category_logits.shape[1] - 1)


NETWORKS = {
    "cmran_supv": Network(CMRANSettings, SupervisedCMRAN, EventLoss, CMRANSettings.supervision),
    "cmran_weak": Network(WeakCMRANSettings, WeaklySupervisedCMRAN, ClipLoss, WeakCMRANSettings.supervision),
}
