"""Audio-guided visual attention (AVGA; Tian et al., ECCV 2018): which cells of the grid belong to what is heard?

AVEL's, which PSP and CPSP have too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from model.blocks import in_blocks
from model.interface import attention_map


class AudioGuidedVisualAttention(nn.Module):
    """Visual features [B, T, H, W, Dv] and audio [B, T, Da] -> attended features [B, T, Dv].

    Per segment, with its N = H*W cells x_n numbered row by row: r_n = relu(P x_n), q = relu(Q a),
    s_nj = (R r_n)_j + (S q)_n for j = 1..N, z_n = h . tanh(s_n), p = softmax_n(z), result sum_n p_n x_n.

    Args:
        grid: H and W. S has an output for each cell, so these weights are for one size of grid.
        segments: T, for which the network around is made; the attention itself treats each segment by itself.
        xavier: whether the five weights start as `xavier_uniform_`; else as torch makes them.
    """

    def __init__(
        self, visual_dim: int, audio_dim: int, grid: Sequence[int], segments: int, xavier: bool = True
    ) -> None:
        super().__init__()
        self.size = (segments, *grid)
        cells = grid[0] * grid[1]
        self.visual_projection = nn.Linear(visual_dim, visual_dim)  # P
        self.audio_projection = nn.Linear(audio_dim, visual_dim)  # Q
        self.of_visual = nn.Linear(visual_dim, cells, bias=False)  # R
        self.of_audio = nn.Linear(visual_dim, cells, bias=False)  # S
        self.score = nn.Linear(cells, 1, bias=False)  # h
        if xavier:
            start_xavier(self.children())

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the attended features [B, T, Dv] and the attention p [B, T, H, W], as `model.interface` has it.

        Raises ValueError for features of another T, H or W.
        """
        if visual.shape[1:4] != self.size:
            segments, *grid = self.size
            raise ValueError(
                f"this network is made for {_words(segments, *grid)}, and the visual features have "
                f"{_words(*visual.shape[1:4])}; set model.segments and model.grid to those of the data"
            )
        attended, p = in_blocks(self.attend, visual, audio)
        return attended, attention_map(p, visual.shape[2:4])

    def attend(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> attended features [B, T, Dv] and the attention [B, T, N]."""
        x = visual.flatten(0, 1).flatten(1, 2)  # [B*T, N, Dv]
        # All cells in one dimension: of [B*T, N, Dv] torch.compile keeps another mask for the backward pass, as bools,
        # which a CPU takes long to write.
        r, q = self.visual_projection(x.flatten(0, 1)).relu(), self.audio_projection(audio.flatten(0, 1)).relu()
        s = self.of_visual(r).view(*x.shape[:2], -1) + self.of_audio(q).unsqueeze(2)
        p = self.score(s.tanh()).squeeze(2).softmax(1)
        attended = torch.bmm(p.unsqueeze(1), x).squeeze(1)
        return attended.unflatten(0, visual.shape[:2]), p.unflatten(0, visual.shape[:2])


def start_xavier(layers: Iterable[nn.Module]) -> None:
    """Draw the weight of each of these linear layers from `xavier_uniform_`; a bias stays as torch made it."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)


def _words(segments: int, height: int, width: int) -> str:
    return f"{segments} segments with a grid of {height}x{width} cells"
