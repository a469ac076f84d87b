"""Between the modalities: cross-modal relation and audio-visual interaction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.dropout import Dropout


class CrossModalRelation(nn.Module):
    """One modality (query [B, T, in]) attends to the other (memory [B, T, d]) and itself -> [B, T, d].

    q' = Linear(q); memory = [k ; q'] along time; h = LN1(q' + drop(MHA(q', memory)));
    out = LN2(h + drop(W2 drop(relu(W1 h)))).
    """

    def __init__(
        self, query_dim: int, d_model: int, heads: int = 4, feedforward: int = 1024, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(query_dim, d_model)
        self.attention = nn.MultiheadAttention(d_model, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, feedforward)
        self.linear2 = nn.Linear(feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        q = self.projection(query)
        memory = torch.cat([memory, q], dim=1)
        attended, _ = self.attention(q, memory, memory, need_weights=False)
        h = self.norm1(q + self.dropout(attended))
        return self.norm2(h + self.dropout(self.linear2(self.dropout.relu(self.linear1(h)))))


class AudioVisualInteraction(nn.Module):
    """inter(u, w), both [B, T, d] -> [B, T, d]: G = u * w; LN(G + drop(MHA(G, [w ; u] along time)))."""

    def __init__(self, d_model: int, heads: int, dropout: float = 0.1, attention_dropout: float = 0.2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(d_model, heads, attention_dropout, batch_first=True)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, u: Tensor, w: Tensor) -> Tensor:
        interaction = u * w
        memory = torch.cat([w, u], dim=1)
        attended, _ = self.attention(interaction, memory, memory, need_weights=False)
        return self.norm(interaction + self.dropout(attended))


class AudioVisualFusion(nn.Module):
    """visual, audio [B, T, d] -> fused F [B, T, d]: V' = inter(V, A), A' = inter(A, V'), F = (V' + A') / 2."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.visual_interaction = AudioVisualInteraction(d_model, heads)
        self.audio_interaction = AudioVisualInteraction(d_model, heads)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        visual = self.visual_interaction(visual, audio)
        audio = self.audio_interaction(audio, visual)  # sees the updated visual features
        return (visual + audio) / 2
