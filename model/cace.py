"""CACENet (He et al., ACM MM 2024): CMBS whose audio is guided by the image as well, events and background contrasted.

Fully supervised. It reads what CMBS reads, and predicts as CMBS does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import self_attention, unscaled_attention
from model.cmbs import SupervisedCMBS
from model.dropout import Dropout
from model.interface import Explanation, Network
from model.losses import SupervisedLoss, at_least_float32, event_targets
from model.settings import CACESettings

EARLY_SHARE = 1 / 8  # of all epochs, at their beginning: events are not contrasted yet
TEMPERATURE = 0.01  # of the contrast


class CACEOutput(NamedTuple):
    """Output of the network for B clips of T segments and C categories, and what its loss contrasts."""

    event_logits: Tensor  # [B, T]: is the segment an event?
    category_logits: Tensor  # [B, C]: of which category is the clip's event?
    gate: Tensor  # [B, T] in (0, 1): audio gate times visual gate (1 without time-level suppression)
    av_category_logits: Tensor  # [B, C]: event-level suppression's own answer (0 without it)
    audio_gate_logits: Tensor | None = None  # [B, T] each, where the quirk `gate_as_logit` is off:
    visual_gate_logits: Tensor | None = None  # gate is sigma of the ones times sigma of the others
    encoding: Tensor | None = None  # [B, T, d]: e, of each segment; none in the early phase
    noisy_encoding: Tensor | None = None  # [B, T, d]: of the same segments with noise; e itself without noise


class AudioGuidance(nn.Module):
    """Cells X [B, T, N, Dv] and audio a [B, T, Da] -> the audio as the image guides it, a + psi sigma(o) a [B, T, Da].

    o is what attention over the clip's segments makes of the audio, asked by the image; no attention in here is
    scaled by 1/sqrt(d).
    """

    def __init__(self, visual_dim: int, audio_dim: int, psi: float, dropout: float = 0.2) -> None:
        super().__init__()
        self.psi = psi
        self.audio_query = nn.Linear(audio_dim, audio_dim)
        self.audio_key = nn.Linear(audio_dim, audio_dim)
        self.audio_value = nn.Linear(audio_dim, audio_dim)
        self.audio_norm = nn.LayerNorm(audio_dim)
        self.cell_query = nn.Linear(visual_dim, visual_dim // 4)
        self.cell_key = nn.Linear(visual_dim, visual_dim // 4)
        self.cell_value = nn.Linear(visual_dim, visual_dim)
        self.query = nn.Linear(visual_dim, audio_dim)
        self.key = nn.Linear(audio_dim, audio_dim)
        self.value = nn.Linear(audio_dim, audio_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, audio: Tensor, cell_norm: nn.LayerNorm) -> Tensor:
        """`cell_norm` normalizes the cells. Quirk: it is the one of the audio-guided attention, used twice."""
        # a1 = LN(a + Dropout(softmax((Q a)(K a)^T) V a)), over the clip's segments
        attended = self_attention(audio, self.audio_query, self.audio_key, self.audio_value)
        a1 = self.audio_norm(audio + self.dropout(attended))

        # u = mean over cells of LN'(X + Dropout(softmax((Q2 X)(K2 X)^T) V2 X)), over a segment's cells
        cells = x.flatten(0, 1)  # [B*T, N, Dv]
        attended = self_attention(cells, self.cell_query, self.cell_key, self.cell_value)
        u = cell_norm(self.dropout.add(cells, attended)).mean(1).view(*x.shape[:2], -1)

        # o = softmax((Qv u)(Kv a1)^T) Vv a1, over the clip's segments
        o = unscaled_attention(self.query(u), self.key(a1), self.value(a1))
        return audio + self.psi * o.sigmoid() * audio


class CACENet(SupervisedCMBS):
    """CMBS with guided audio, and segments encoded so that events and background lie apart.

    In the early phase, the first eighth of the epochs, event logits come from F alone, nothing is contrasted, and the
    encoder gets no gradient. Without a call of `begin_epoch` it computes as after it. Quirk of the authors' code: each
    epoch is evaluated in its own phase, but a loaded checkpoint, which doesn't say which, always as after it.
    """

    def __init__(self, settings: CACESettings) -> None:
        super().__init__(settings, relation_feedforward=512)
        self.guided = settings.audio_guidance > 0
        if self.guided:
            self.guidance = AudioGuidance(settings.video_inputdim, settings.audio_inputdim, settings.audio_guidance)
        self.event_encoder = nn.Linear(settings.d_model, settings.d_model)
        self.event_encoding, self.contrast_noise = settings.event_encoding, settings.contrast_noise
        self.early = False

    def begin_epoch(self, epoch: int, n_epoch: int) -> None:
        """Compute as in this epoch of a run of `n_epoch`; the first one is 1."""
        self.early = epoch - 1 < EARLY_SHARE * n_epoch

    def guided_audio(self, x: Tensor, audio: Tensor) -> Tensor:
        return self.guidance(x, audio, self.attention.norm) if self.guided else audio

    def forward(self, visual: Tensor, audio: Tensor, noise: Tensor | None = None) -> CACEOutput:
        """Features [B, T, H, W, Dv] and [B, T, Da] -> output.

        `noise` [B, T, d] is standard normal, drawn anew in each forward pass of the training unless it is given.
        """
        return self.explain(visual, audio, noise)[0]

    def explain(self, visual: Tensor, audio: Tensor, noise: Tensor | None = None) -> tuple[CACEOutput, Explanation]:
        fused, output, explanation = self.fuse(visual, audio)
        output = CACEOutput(*output)
        if self.early:
            return output, explanation

        # e = relu(E F); event_logits = classifier(F + lambda e)
        encoding = self.event_encoder(fused).relu()
        event_logits = self.event_classifier(fused + self.event_encoding * encoding).squeeze(2)
        if noise is None and self.training and self.contrast_noise:
            noise = torch.randn_like(fused)
        noisy = encoding if noise is None else self.event_encoder(fused + self.contrast_noise * noise).relu()
        return output._replace(event_logits=event_logits, encoding=encoding, noisy_encoding=noisy), explanation


class CACELoss(SupervisedLoss):
    """CMBS's four terms, and "contrast" after the early phase; the same labels and weights."""

    def terms(self, output: CACEOutput, labels: Tensor) -> dict[str, Tensor]:
        terms = super().terms(output, labels)
        if output.encoding is not None and self.weights["contrast"]:
            is_event, _ = event_targets(labels)
            terms["contrast"] = contrast(output.encoding, output.noisy_encoding, is_event.bool())
        return terms


def contrast(encoding: Tensor, noisy_encoding: Tensor, is_event: Tensor) -> Tensor:
    """How much less alike segments are that belong together than all: a mean over the 2T encodings of each clip.

    Within a clip, s_ij is the cosine of two of its 2T encodings, [B, T, d] each kind, over the temperature. An
    encoding's positives are its twin, the same segment's other encoding, and for an event segment, by `is_event`
    [B, T] bool, all other encodings of event segments. The term is the mean over i of
    -log(mean over positives of e^s_ij / sum over j != i of e^s_ij); quirk: other clips don't enter.

    s reaches 100, so sums of e^s are taken as log-sum-exp.
    """
    segments = is_event.shape[1]
    with torch.autocast("cuda" if encoding.is_cuda else "cpu", enabled=False):  # bfloat16: s near 100 in steps of 0.5
        z = torch.cat([F.normalize(at_least_float32(e), dim=2) for e in (encoding, noisy_encoding)], dim=1)
        s = z @ z.transpose(1, 2) / TEMPERATURE  # [B, 2T, 2T]
    itself = torch.eye(2 * segments, dtype=torch.bool, device=s.device)
    event = is_event.repeat(1, 2)
    positive = itself.roll(segments, 0) | (event.unsqueeze(1) & event.unsqueeze(2) & ~itself)
    of_positives = s.masked_fill(~positive, -torch.inf).logsumexp(2) - positive.sum(2, dtype=s.dtype).log()
    return (s.masked_fill(itself, -torch.inf).logsumexp(2) - of_positives).mean()


NETWORKS = {"cace_supv": Network(CACESettings, CACENet, CACELoss, CACESettings.supervision)}
