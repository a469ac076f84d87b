"""CPSP (Zhou et al., TPAMI 2023): PSP with two contrasts, of a clip's segments and of a batch's clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.interface import BaseNetwork, Explanation, Network, Prediction, predict_events
from model.losses import Loss, at_least_float32, event_targets
from model.psp import SupervisedPropagation, shares_of_time
from model.settings import CPSPSettings


class CPSPOutput(NamedTuple):
    """Output of the network for B clips of T segments and C categories."""

    event_logits: Tensor  # [B, T]: is the segment an event?
    category_logits: Tensor  # [B, C]: of which category is the clip's event?
    similarity: Tensor  # [B, T] in [-1, 1]: cosine of a segment's picture and audio
    fusion: Tensor  # [B, T, d]: the features behind the logits


class CPSP(BaseNetwork):
    """The supervised network: visual [B, T, H, W, Dv] and audio [B, T, Da] of the T, H and W that its settings name.

    Its explanation has the score `similarity`, of picture and audio where it is above 0, and no activations.
    """

    prediction_rule = "background where sigma(event_logits) <= 0.5"

    def __init__(self, settings: CPSPSettings) -> None:
        super().__init__()
        self.features = SupervisedPropagation(settings)
        self.event_classifier = nn.Linear(settings.d_model, 1)
        self.category_classifier = nn.Linear(settings.d_model, settings.categories)

    def explain(self, visual: Tensor, audio: Tensor) -> tuple[CPSPOutput, Explanation]:
        visual, audio, attention = self.features(visual, audio)
        fusion = (visual + audio) / 2
        output = CPSPOutput(
            event_logits=self.event_classifier(fusion).squeeze(2),
            category_logits=self.category_classifier(fusion.mean(1)),
            similarity=F.cosine_similarity(visual, audio, dim=2),
            fusion=fusion,
        )
        return output, Explanation(attention, {"similarity": output.similarity.clamp(0, 1)}, {})

    @staticmethod
    def predict(output: CPSPOutput, explanation: Explanation | None = None) -> Prediction:
        """A segment is background where sigma(event_logit) <= 0.5, else it has the clip's best category."""
        return predict_events(output.event_logits, output.category_logits, background=output.category_logits.shape[1])


class CPSPLoss(Loss):
    """BCE(event_logits, y) + CE(category_logits, c) + 100 L_pair + 0.01 L_seg + L_clip.

    Labels are [B, T, C+1] one-hot, background last: y[b, t] is 1 in event segments, c the clip's category (over time,
    the largest category index; 0 in a clip without an event). Returns scalars "event", "category", "similarity"
    (L_pair), "segment_contrast" (L_seg), "video_contrast" (L_clip) and "total"; the terms are unweighted.

    Args (as those of Loss, and):
        settings: `segment_contrast` says which L_seg.
    """

    def __init__(self, settings: CPSPSettings, weights: Mapping[str, float]) -> None:
        super().__init__(settings, weights)
        self.segment_contrast = {"as_coded": segment_contrast_as_coded, "rows": segment_contrast_over_rows}[
            settings.segment_contrast
        ]

    def terms(self, output: CPSPOutput, labels: Tensor) -> dict[str, Tensor]:
        event_logits, category_logits, similarity, fusion = map(at_least_float32, output)
        is_event, category = event_targets(labels)
        is_event = is_event.to(event_logits.dtype)
        # Unlike PSP's, the target of L_pair is 0 in a clip without an event.
        event_shares = is_event / (is_event.sum(1, keepdim=True) + 1e-6)
        features = F.normalize(fusion, dim=2)
        return {
            "event": F.binary_cross_entropy_with_logits(event_logits, is_event),
            "category": F.cross_entropy(category_logits, category),
            "similarity": F.mse_loss(shares_of_time(similarity.relu()), event_shares),
            "segment_contrast": self.segment_contrast(features, is_event),
            "video_contrast": video_contrast(features, category),
        }


def segment_contrast_as_coded(features: Tensor, is_event: Tensor) -> Tensor:
    """L_seg of the authors' code: unit features [B, T, d], is_event [B, T] of 0 and 1 -> scalar.

    With w_ij = exp(f_i . f_j / 0.6), n the clip's event segments: P_j = y_j sum_i y_i w_ij,
    N_j = (1 - y_j) sum_i y_i w_ij / max(T - n, 1); mean over clips with an event of
    (1/n) sum_j -log(P_j / (P_j + N_j + 1e-12) + 1e-12); 0 where no clip has an event (theirs: not a number).

    Quirk: summed over the wrong index, so that no j has both P_j and N_j: a constant, whose gradient is 0.
    """
    events, others = is_event.sum(1), (1 - is_event).sum(1).clamp_min(1)
    from_events = (is_event.unsqueeze(2) * _affinity(features)).sum(1)  # [B, T]: over i
    positive, negative = is_event * from_events, (1 - is_event) * from_events / others.unsqueeze(1)
    terms = -(positive / (positive + negative + 1e-12) + 1e-12).log()
    return _mean_of_clips(terms.sum(1), events)


def segment_contrast_over_rows(features: Tensor, is_event: Tensor) -> Tensor:
    """L_seg as it seems to be meant, each event segment against its clip's background; as `segment_contrast_as_coded`.

    P_i = sum_j y_j w_ij, N_i = sum_j (1 - y_j) w_ij / max(T - n, 1); mean over clips with an event of the mean over
    their event segments i of -log(P_i / (P_i + N_i)).
    """
    events, others = is_event.sum(1), (1 - is_event).sum(1).clamp_min(1)
    affinity = _affinity(features)
    positive = (affinity * is_event.unsqueeze(1)).sum(2)
    negative = (affinity * (1 - is_event).unsqueeze(1)).sum(2) / others.unsqueeze(1)
    # Rows of background have no part; in a clip without an event, they would be log 0.
    terms = torch.where(is_event.bool(), positive / (positive + negative), 1.0).log()
    return _mean_of_clips(-terms.sum(1), events)


def video_contrast(features: Tensor, category: Tensor) -> Tensor:
    """L_clip: unit features [B, T, d] and the clips' categories [B] -> scalar.

    With m_b the mean over time and d_bc = |m_b - m_c|: p_b the largest d_bc of the same category, b itself among them,
    r_b the mean of the 3 smallest of another category; mean over clips of relu(p_b - r_b + 0.2).

    Quirks: a clip with fewer than 3 of another category in its batch counts 0, and a clip without an event is of
    category 0. Of a batch that several processes share, each contrasts its own clips.
    """
    means = features.mean(1)
    distance = (means.unsqueeze(1) - means).square().sum(2).clamp_min(1e-12).sqrt()  # to itself 1e-6, no gradient
    same = category.unsqueeze(1) == category
    farthest = distance.masked_fill(same.logical_not(), 0).amax(1)
    if len(category) < 3:  # then the authors' code stops
        return distance.sum() * 0
    nearest = distance.masked_fill(same, 1e12).topk(3, dim=1, largest=False).values.mean(1)
    return (farthest - nearest + 0.2).relu().mean()


def _affinity(features: Tensor) -> Tensor:
    """w_ij = exp(f_i . f_j / 0.6): [B, T, d] -> [B, T, T]."""
    return (features @ features.transpose(1, 2) / 0.6).exp()


def _mean_of_clips(sums: Tensor, events: Tensor) -> Tensor:
    """Mean of sums / events, both [B], over the clips that have an event; 0 where none has."""
    has_event = events > 0
    return (has_event * sums / events.clamp_min(1)).sum() / has_event.sum().clamp_min(1)


NETWORKS = {"cpsp_supv": Network(CPSPSettings, CPSP, CPSPLoss, CPSPSettings.supervision)}
