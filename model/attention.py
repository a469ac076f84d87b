"""Audio-guided attention: where on the grid, and in which channels, is what is heard?

Per segment, the N = H*W cells x_n of the visual features become one vector, in the five steps of `forward`, which
carry their equations. A mean or a weighted sum over cells is taken before a factor that is the same for all cells,
which changes no number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks import recomputed
from model.dropout import Dropout


class AudioGuidedAttention(nn.Module):
    """Visual features [B, T, N, Dv] and audio [B, T, Da] -> attended features [B, T, Dv].

    Args:
        visual_dim: Dv, 512 in the paper.
        audio_dim: Da, 128 in the paper.
        beta: strength of the global visual gate; 0 leaves the global vector and its weights out.
        self_attention: False leaves the self-attention over cells and its weights out.
        scale_input: True scales the channels of the input X, as the authors' code does; False those of the
            self-attention's output Y, as their paper has it.
        dropout: on the output of the self-attention over cells.

    Source: the paper's spatial-channel attention, as in the authors' `New_Audio_Guided_Attention`.
    """

    def __init__(
        self,
        visual_dim: int,
        audio_dim: int,
        beta: float,
        self_attention: bool = True,
        scale_input: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        hidden, bottleneck, key_dim = visual_dim, visual_dim // 2, visual_dim // 4
        self.beta, self.self_attention, self.scale_input = beta, self_attention, scale_input
        # Self-attention over cells
        if self_attention:
            self.query = nn.Linear(visual_dim, key_dim)
            self.key = nn.Linear(visual_dim, key_dim)
            self.value = nn.Linear(visual_dim, visual_dim)
            self.norm = nn.LayerNorm(visual_dim)
            self.dropout = Dropout(dropout)
        # Global visual vector
        if beta:
            self.global_mean = nn.Linear(visual_dim, bottleneck)
            self.global_cell = nn.Linear(visual_dim, bottleneck)
            self.global_score = nn.Linear(bottleneck, 1)
        # Channel attention
        self.channel_audio = nn.Linear(audio_dim, hidden)
        self.channel_visual = nn.Linear(visual_dim, hidden)
        self.channel_squeeze = nn.Linear(hidden, bottleneck)
        self.channel_excite = nn.Linear(bottleneck, visual_dim)
        # Spatial attention
        self.spatial_visual = nn.Linear(visual_dim, bottleneck)
        self.spatial_audio = nn.Linear(audio_dim, bottleneck)
        self.spatial_score = nn.Linear(bottleneck, 1)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the attended features [B, T, Dv] and the spatial attention p [B, T, N] (sums to 1 over N)."""
        batch, segments = visual.shape[:2]
        x, a = visual.flatten(0, 1), audio.flatten(0, 1)  # [B*T, N, Dv], [B*T, Da]

        # 1. Self-attention over cells: Y = LayerNorm(X + Dropout(softmax(Q K^T) V)), not scaled by 1/sqrt(d)
        if self.self_attention:
            attended = self_attention(x, self.query, self.key, self.value)
            y = recomputed(self.norm, self.dropout.add(x, attended))
        else:
            y = x

        # 2. Global visual vector: s_n = w_g . (relu(W3 y_n) * m) + b_g with m = relu(Wm mean_n(y_n))
        if self.beta:
            m = self.global_mean(y.mean(1)).relu()
            g = _weighted_sum(_scores(self.global_cell(y).relu(), m, self.global_score), y)

        # 3. Channel attention: z = sigma(Wc relu(Wb mean_n(relu(Wa1 a) * relu(Wv1 y_n))))
        c = self.channel_audio(a).relu() * _ReLUMean.apply(self.channel_visual(y))
        z = self.channel_excite(self.channel_squeeze(c).relu()).sigmoid()
        scaled = x if self.scale_input else y  # quirk: the paper scales Y, the authors' code X
        xc = recomputed(torch.mul, scaled, (1 + z).unsqueeze(1))

        # 4. Audio-guided spatial attention: s_n = w_s . (relu(Wv2 xc_n) * relu(Wa2 a)) + b_s
        spatial_audio = self.spatial_audio(a).relu()
        p = _scores(self.spatial_visual(xc).relu(), spatial_audio, self.spatial_score)
        f = _weighted_sum(p, xc)

        # 5. The global visual vector gates the result
        if self.beta:
            f = f + self.beta * g.sigmoid() * f
        return f.view(batch, segments, -1), p.view(batch, segments, -1)


def self_attention(x: Tensor, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> Tensor:
    """softmax(Q K^T) V of one head, not scaled by 1/sqrt(d), over N cells or segments: [S, N, in] -> [S, N, out]."""
    return unscaled_attention(query(x), key(x), value(x))


def unscaled_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T) V: [S, N, d], [S, M, d] and [S, M, out] -> [S, N, out]."""
    weights = (query @ key.transpose(1, 2)).softmax(-1)
    return recomputed(torch.matmul, weights, value)


def _scores(cells: Tensor, context: Tensor, score: nn.Linear) -> Tensor:
    """p = softmax_n(tanh(w . (cells_n * context) + b)): cells [S, N, D], context [S, D] -> [S, N]."""
    weighted = (context * score.weight).to(cells.dtype)
    return (_CellsTimesVector.apply(cells, weighted, 2) + score.bias).tanh().softmax(-1)


def _weighted_sum(weights: Tensor, cells: Tensor) -> Tensor:
    """sum_n weights_n cells_n: [S, N], [S, N, D] -> [S, D]."""
    return _CellsTimesVector.apply(cells, weights.to(cells.dtype), 1)


class _CellsTimesVector(torch.autograd.Function):
    """sum_d cells_nd vector_d (`dim` 2) or sum_n vector_n cells_nd (`dim` 1): [S, N, D], [S, D or N] -> [S, N or D].

    As `torch.bmm`, whose backward pass makes the gradient of the cells by a matrix product of inner size 1: on a CPU in
    float32 that takes ten times as long as multiplying element by element, which gives the same numbers.
    """

    @staticmethod
    def forward(ctx, cells: Tensor, vector: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(cells, vector)
        ctx.dim = dim
        return _product(cells, vector, dim)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        cells, vector = ctx.saved_tensors
        gradient = gradient.to(cells.dtype)  # under autocast the product of float32 cells is in a narrower type
        of_cells, of_channels = (gradient, vector) if ctx.dim == 2 else (vector, gradient)
        return of_cells.unsqueeze(2) * of_channels.unsqueeze(1), _product(cells, gradient, 3 - ctx.dim), None


def _product(cells: Tensor, vector: Tensor, dim: int) -> Tensor:
    return torch.bmm(vector.unsqueeze(1), cells.transpose(1, 2) if dim == 2 else cells).squeeze(1)


class _ReLUMean(torch.autograd.Function):
    """mean_n relu(x_n), [S, N, D] -> [S, D]. Of x only the signs are kept for the backward pass, in a byte each."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        # Not through bools, because turning numbers into them and back takes a CPU several times as long.
        ctx.save_for_backward(torch.gt(x, 0, out=torch.empty_like(x)).to(torch.int8))
        return x.relu().mean(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return positive.to(gradient.dtype) * (gradient / positive.shape[1]).unsqueeze(1)
